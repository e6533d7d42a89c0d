/*
 * environment.c: reads the postmaster's environment, once, at preload.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "server/environment.h"

static void
trim_end(char *text)
{
    size_t length = strlen(text);

    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
}

/* Cuts the text at a comment: a # at the start or behind a blank. */
static void
cut_comment(char *text)
{
    for (char *at = text; *at != '\0'; at++) {
        if (*at == '#' && (at == text || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

/* If the text is quoted as a whole (but for a comment behind it), leaves what is between the quotes. */
static bool
unquote(char *text)
{
    char quote = text[0];
    char *end;
    char *rest;

    if (quote != '"' && quote != '\'')
        return false;
    end = strchr(text + 1, quote);
    if (end == NULL)
        return false;
    for (rest = end + 1; isspace((unsigned char)*rest); rest++)
        ;
    if (*rest != '\0' && *rest != '#')
        return false;
    *end = '\0';
    memmove(text, text + 1, (size_t)(end - text));
    return true;
}

const char *
environment_string(const char *name, const char *otherwise, bool secret)
{
    const char *raw = getenv(name);
    char *text;

    if (raw == NULL)
        return otherwise;
    while (isspace((unsigned char)*raw))
        raw++;
    text = MemoryContextStrdup(TopMemoryContext, raw);
    if (!unquote(text)) {
        if (!secret || text[0] == '#')
            cut_comment(text);
        trim_end(text);
    }
    return text;
}

bool
environment_bool(const char *name, bool otherwise)
{
    const char *text = environment_string(name, NULL, false);
    bool value;

    if (text == NULL || text[0] == '\0')
        return otherwise;
    if (!parse_bool(text, &value))
        ereport(FATAL, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("environment variable %s has the value \"%s\", which is not a boolean", name, text)));
    return value;
}

int
environment_int(const char *name, int otherwise, int minimum, int maximum)
{
    const char *text = environment_string(name, NULL, false);
    int value;

    if (text == NULL || text[0] == '\0')
        return otherwise;
    if (!parse_int(text, &value, 0, NULL) || value < minimum || value > maximum)
        ereport(FATAL,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("environment variable %s has the value \"%s\", which is not a whole number from %d to %d", name,
                        text, minimum, maximum)));
    return value;
}
