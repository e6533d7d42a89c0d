/*
 * libFuzzer over what `apapacho-jobs serve` reads of a request by itself: the target, the query, the body's JSON.
 *
 * One process, in libFuzzer's loop. The input is a method (its first byte), a target up to a NUL, and a body.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/serve_parameters.h"
#include "cli/serve_route.h"
#include "cli/serve_uri.h"
#include "cli/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool holds)
{
    if (!holds)
        abort();
}

/* A piece of a target can go into SQL as a text and into a log as a line. */
static void
require_piece(const char *piece)
{
    require(utf8_is_valid(piece));
    for (; *piece != '\0'; piece++)
        require((unsigned char)*piece >= ' ' && *piece != 0x7f);
}

static void
require_uri(const Uri *uri, const char *target)
{
    size_t total = 0;

    require(*target == '/' && uri->segment_count <= URI_MAX_SEGMENTS && uri->query_count <= URI_MAX_QUERY);
    for (int i = 0; i < uri->segment_count; i++) {
        require_piece(uri->segments[i]);
        total += strlen(uri->segments[i]) + 1;
    }
    for (int i = 0; i < uri->query_count; i++) {
        require_piece(uri->query[i].name);
        require_piece(uri->query[i].value);
        total += strlen(uri->query[i].name) + strlen(uri->query[i].value) + 1;
    }
    require(total <= strlen(target) + 1);
}

/* Every value is what its parameter may be, and so needs no quoting anywhere. */
static void
require_values(const Parameter *parameters, const ParameterValue *values)
{
    for (int i = 0; parameters != NULL && parameters[i].name != NULL; i++) {
        const char *text = values[i].text;
        char *end;
        long number;

        require(memchr(text, '\0', PARAMETER_VALUE_SIZE) != NULL);
        if (*text == '\0')
            continue;
        errno = 0;
        number = strtol(text, &end, 10);
        if (parameters[i].kind == PARAMETER_INTEGER)
            require(errno == 0 && *end == '\0' && number >= parameters[i].lowest && number <= parameters[i].highest);
        else if (parameters[i].kind == PARAMETER_BOOLEAN)
            require(strcmp(text, "true") == 0 || strcmp(text, "false") == 0);
        else
            require(strchr(text, ' ') == NULL && strstr(parameters[i].words, text) != NULL);
    }
}

/* What was read from a body is read again from a body and a query that say the same. */
static void
require_same_again(const Parameter *parameters, const ParameterValue *values)
{
    ParameterValue again[ROUTE_MAX_PARAMETERS] = {0};
    ParameterValue asked[ROUTE_MAX_PARAMETERS] = {0};
    Text json = {0};
    Text target = {0};
    Text error = {0};
    Uri uri;

    text_add(&json, "{");
    text_add(&target, "/?");
    for (int i = 0; parameters != NULL && parameters[i].name != NULL; i++) {
        const char *quote = parameters[i].kind == PARAMETER_WORD ? "\"" : "";

        if (values[i].text[0] == '\0')
            continue;
        text_format(&json, "%s\"%s\":%s%s%s", json.length > 1 ? "," : "", parameters[i].name, quote, values[i].text,
                    quote);
        text_format(&target, "%s=%s&", parameters[i].name, values[i].text);
    }
    text_add(&json, "}");
    require(parameters_from_json(text_of(&json), json.length, parameters, again, &error) && error.length == 0);
    require(uri_parse(text_of(&target), &uri) && parameters_from_query(&uri, parameters, asked, &error));
    require(memcmp(again, values, sizeof again) == 0 && memcmp(asked, values, sizeof asked) == 0);
    uri_free(&uri);
    text_free(&json);
    text_free(&target);
    text_free(&error);
}

static void
fuzz_body(Route route, const char *body, size_t length)
{
    const Parameter *parameters = route_describe(route)->parameters;
    ParameterValue values[ROUTE_MAX_PARAMETERS] = {0};
    Text error = {0};
    bool good = parameters_from_json(body, length, parameters, values, &error);

    require(good == (error.length == 0));
    require(utf8_is_valid(text_of(&error)));
    require_values(parameters, values);
    if (good)
        require_same_again(parameters, values);
    text_free(&error);
}

static void
fuzz_target(const char *method, const char *target, const char *body, size_t length)
{
    ParameterValue values[ROUTE_MAX_PARAMETERS] = {0};
    Text error = {0};
    RouteMatch match;
    Route route;
    Uri uri;

    if (!uri_parse(target, &uri))
        return;
    require_uri(&uri, target);
    match = route_find(method, &uri, &route);
    require((match == MATCH_NO_PATH) == (route == ROUTE_NONE));
    require(!route_describe(route)->admin || route_is_admin(&uri));
    require(parameters_from_query(&uri, route_describe(route)->parameters, values, &error) == (error.length == 0));
    require(utf8_is_valid(text_of(&error)));
    require_values(route_describe(route)->parameters, values);
    fuzz_body(route, body, length);
    text_free(&error);
    uri_free(&uri);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const methods[] = {"GET", "POST", "HEAD", "PUT", ""};
    size_t length;
    char *target;
    char *body;

    if (size == 0)
        return 0;
    target = strndup((const char *)data + 1, size - 1);
    require(target != NULL);
    length = strlen(target) + 2 < size ? size - strlen(target) - 2 : 0;
    /* Of its own size, so that reading past its end is seen. */
    body = malloc(length > 0 ? length : 1);
    require(body != NULL);
    memcpy(body, data + size - length, length);
    fuzz_target(methods[data[0] % 5], target, body, length);
    for (int route = 0; route < ROUTE_COUNT; route++)
        fuzz_body((Route)route, body, length);
    free(body);
    free(target);
    return 0;
}
