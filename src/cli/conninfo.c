/*
 * Where the server is. DATABASE_URL is the backend's own variable, in the form that its ORM (Prisma) reads: a
 * PostgreSQL URL with parameters that libpq has never heard of. Runs in the main thread, before connecting.
 */
#include "conninfo.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

/* Parameters that tell Prisma about its own pool, or that a libpq connection has no use for. */
static const char *const ignored_parameters[] = {
    "connection_limit", "pool_timeout",         "socket_timeout", "pgbouncer",
    "schema",           "statement_cache_size", "sslaccept",      "single_use_connections",
};

static bool
is_url(const char *text)
{
    return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

static bool
is_ignored(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof ignored_parameters / sizeof *ignored_parameters; i++) {
        if (strlen(ignored_parameters[i]) == length && strncmp(ignored_parameters[i], name, length) == 0)
            return true;
    }
    return false;
}

static bool
is_libpq_keyword(const char *name, size_t length)
{
    PQconninfoOption *known = PQconndefaults();
    bool found = length == 3 && strncmp(name, "ssl", 3) == 0; /* JDBC's ssl=true, which libpq takes in URLs */

    for (PQconninfoOption *option = known; option != NULL && option->keyword != NULL; option++)
        found = found || (strlen(option->keyword) == length && strncmp(option->keyword, name, length) == 0);
    PQconninfoFree(known);
    return found;
}

/* Percent-decoding, for a schema's name. */
static char *
decode(const char *text, size_t length)
{
    char *decoded = allocate(length + 1);
    size_t out = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%' && i + 2 < length + 0 && isxdigit((unsigned char)text[i + 1]) &&
            isxdigit((unsigned char)text[i + 2])) {
            char digits[3] = {text[i + 1], text[i + 2], '\0'};

            decoded[out++] = (char)strtol(digits, NULL, 16);
            i += 2;
        } else {
            decoded[out++] = text[i];
        }
    }
    decoded[out] = '\0';
    return decoded;
}

/* One name=value of the URL; true: it stays in. */
static bool
keep_parameter(const char *parameter, size_t length, char **schema, bool *strict, Text *reason)
{
    const char *equals = memchr(parameter, '=', length);
    size_t name = equals != NULL ? (size_t)(equals - parameter) : length;

    if (is_libpq_keyword(parameter, name))
        return true;
    if (!is_ignored(parameter, name)) {
        text_format(reason, "the URL has an unknown parameter \"%.*s\"", (int)name, parameter);
        return false;
    }
    if (name == 6 && strncmp(parameter, "schema", 6) == 0 && equals != NULL) {
        free(*schema);
        *schema = decode(equals + 1, length - name - 1);
    }
    /* Prisma's way to ask for a certificate that is checked: dropping it would be a weaker connection than asked for.
     */
    if (length == 16 && strncmp(parameter, "sslaccept=strict", 16) == 0)
        *strict = true;
    return false;
}

char *
conninfo_without_prisma(const char *url, char **schema, Text *reason)
{
    const char *query = strchr(url, '?');
    Text rest = {0};
    bool strict = false;
    bool first = true;

    *schema = NULL;
    if (query == NULL)
        return copy_string(url);
    text_add_bytes(&rest, url, (size_t)(query - url));
    for (const char *parameter = query + 1; *parameter != '\0';) {
        size_t length = strcspn(parameter, "&");

        if (keep_parameter(parameter, length, schema, &strict, reason)) {
            text_add(&rest, first ? "?" : "&");
            text_add_bytes(&rest, parameter, length);
            first = false;
        }
        parameter += length + (parameter[length] == '&');
    }
    if (strict)
        text_format(&rest, "%csslmode=verify-full", first ? '?' : '&');
    if (reason->length == 0)
        return rest.data;
    text_free(&rest);
    return NULL;
}

/* libpq's complaint without what it quotes of the text in the end, which can be a password. */
static void
add_without_quote(Text *reason, const char *complaint)
{
    const char *quote = strstr(complaint, ": \"");

    text_add_bytes(reason, complaint, quote != NULL ? (size_t)(quote - complaint) : strcspn(complaint, "\n"));
}

/* A value that goes may be a password. */
static void
free_value(char *value)
{
    if (value != NULL)
        explicit_bzero(value, strlen(value));
    free(value);
}

void
conninfo_set(ConnInfo *info, const char *keyword, const char *value)
{
    char *copy = copy_string(value);
    int place = 0;

    while (place < info->count && strcmp(info->keywords[place], keyword) != 0)
        place++;
    if (place == CONNINFO_MAX)
        abort();
    if (place == info->count)
        info->keywords[info->count++] = copy_string(keyword);
    else
        free_value(info->values[place]);
    info->values[place] = copy;
}

static bool
read_string(ConnInfo *info, const char *text, const char *name, Text *reason)
{
    char *complaint = NULL;
    char *url = NULL;
    PQconninfoOption *options;

    if (is_url(text)) {
        text = url = conninfo_without_prisma(text, &info->schema, reason);
        if (url == NULL)
            return false;
    }
    options = PQconninfoParse(text, &complaint);
    free(url);
    if (options == NULL) {
        text_format(reason, "invalid connection string in %s: ", name);
        add_without_quote(reason, complaint != NULL ? complaint : "out of memory");
        PQfreemem(complaint);
        return false;
    }
    for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
        if (option->val != NULL)
            conninfo_set(info, option->keyword, option->val);
    }
    PQconninfoFree(options);
    return true;
}

bool
conninfo_read(const ConnOptions *options, ConnInfo *info, Text *reason)
{
    const char *url = getenv("DATABASE_URL");

    *info = (ConnInfo){.never_prompts = options->never_prompts};
    if (options->dbname != NULL) {
        if (!is_url(options->dbname) && strchr(options->dbname, '=') == NULL)
            conninfo_set(info, "dbname", options->dbname);
        else if (!read_string(info, options->dbname, "--dbname", reason))
            return false;
    } else if (url != NULL && *url != '\0') {
        if (!is_url(url)) {
            text_add(reason, "DATABASE_URL must begin with postgresql:// or postgres://");
            return false;
        }
        if (!read_string(info, url, "DATABASE_URL", reason))
            return false;
    }
    if (options->host != NULL)
        conninfo_set(info, "host", options->host);
    if (options->port != NULL)
        conninfo_set(info, "port", options->port);
    if (options->username != NULL)
        conninfo_set(info, "user", options->username);
    return true;
}

void
conninfo_free(ConnInfo *info)
{
    for (int i = 0; i < info->count; i++) {
        free(info->keywords[i]);
        free_value(info->values[i]);
    }
    free(info->schema);
    *info = (ConnInfo){0};
}
