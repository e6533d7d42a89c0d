/*
 * Reading parameters. Strict: a misspelt name or a wrong type is refused, for what is ignored silently does something
 * else than was asked for. Any thread.
 */
#include "serve_parameters.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_SHOWN 40 /* bytes of a wrong name that an answer repeats */

/* ---- One value ---- */

static bool
is_integer(const char *text, const Parameter *parameter)
{
    size_t digits = strspn(text + (*text == '-'), "0123456789");
    const char *first = text + (*text == '-');
    long number;

    if (digits == 0 || first[digits] != '\0' || (digits > 1 && *first == '0'))
        return false;
    errno = 0;
    number = strtol(text, NULL, 10);
    return errno == 0 && number >= parameter->lowest && number <= parameter->highest;
}

static bool
is_word(const char *text, const char *words)
{
    size_t length = strlen(text);

    while (*words != '\0') {
        size_t word = strcspn(words, " ");

        if (word == length && memcmp(words, text, length) == 0)
            return true;
        words += word + (words[word] == ' ');
    }
    return false;
}

static bool
is_value(const char *text, const Parameter *parameter)
{
    if (*text == '\0' || strlen(text) >= PARAMETER_VALUE_SIZE)
        return false;
    if (parameter->kind == PARAMETER_INTEGER)
        return is_integer(text, parameter);
    return is_word(text, parameter->kind == PARAMETER_BOOLEAN ? "true false" : parameter->words);
}

static void
say_what_it_must_be(const Parameter *parameter, Text *error)
{
    if (parameter->kind == PARAMETER_INTEGER)
        text_format(error, "El parámetro \"%s\" debe ser un número entero entre %ld y %ld", parameter->name,
                    parameter->lowest, parameter->highest);
    else if (parameter->kind == PARAMETER_BOOLEAN)
        text_format(error, "El parámetro \"%s\" debe ser true o false", parameter->name);
    else
        text_format(error, "El parámetro \"%s\" debe ser uno de: %s", parameter->name, parameter->words);
}

/* The place of a name of `length` bytes in the list; -1: it is not known, and said so. */
static int
find(const Parameter *parameters, const char *name, size_t length, Text *error)
{
    size_t shown = 0;

    for (int i = 0; parameters != NULL && parameters[i].name != NULL; i++) {
        if (strlen(parameters[i].name) == length && memcmp(parameters[i].name, name, length) == 0)
            return i;
    }
    /* Only what cannot break the answer, whatever it is. */
    while (shown < length && shown < LONGEST_SHOWN && (isalnum((unsigned char)name[shown]) || name[shown] == '_'))
        shown++;
    text_format(error, "Parámetro desconocido: \"%.*s%s\"", (int)shown, name, shown < length ? "..." : "");
    return -1;
}

static bool
take(const Parameter *parameter, ParameterValue *value, const char *text, Text *error)
{
    if (value->text[0] != '\0') {
        text_format(error, "El parámetro \"%s\" está repetido", parameter->name);
        return false;
    }
    if (!is_value(text, parameter)) {
        say_what_it_must_be(parameter, error);
        return false;
    }
    strcpy(value->text, text);
    return true;
}

bool
parameters_from_query(const Uri *uri, const Parameter *parameters, ParameterValue *values, Text *error)
{
    for (int i = 0; i < uri->query_count; i++) {
        int place = find(parameters, uri->query[i].name, strlen(uri->query[i].name), error);

        if (place < 0 || !take(&parameters[place], &values[place], uri->query[i].value, error))
            return false;
    }
    return true;
}

/* ---- JSON: one object of plain members ---- */

typedef struct Reader {
    const char *at;
    const char *end;
} Reader;

static void
skip_blanks(Reader *reader)
{
    while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) != NULL && *reader->at != '\0')
        reader->at++;
}

/* Whether this character comes next, after blanks; it is passed over. */
static bool
accept(Reader *reader, char expected)
{
    skip_blanks(reader);
    if (reader->at == reader->end || *reader->at != expected)
        return false;
    reader->at++;
    return true;
}

/* A string's bytes between its quotes, as they stand: none of our names and words has an escape. */
static bool
read_string(Reader *reader, const char **string, size_t *length)
{
    if (!accept(reader, '"'))
        return false;
    *string = reader->at;
    for (; reader->at < reader->end && *reader->at != '"'; reader->at++) {
        if ((unsigned char)*reader->at < ' ')
            return false;
        if (*reader->at == '\\' && ++reader->at == reader->end)
            return false;
    }
    *length = (size_t)(reader->at - *string);
    return accept(reader, '"');
}

/* A member's value as a text: what stands between the quotes of a string, or a literal's letters and digits. False:
 * neither, or too long. */
static bool
read_value(Reader *reader, const Parameter *parameter, char *text, bool *null)
{
    const char *start;
    size_t length;
    bool quoted;

    skip_blanks(reader);
    start = reader->at;
    quoted = start < reader->end && *start == '"';
    if (quoted) {
        if (!read_string(reader, &start, &length))
            return false;
    } else {
        while (reader->at < reader->end &&
               (isalnum((unsigned char)*reader->at) || strchr("+-.", *reader->at) != NULL) && *reader->at != '\0')
            reader->at++;
        length = (size_t)(reader->at - start);
    }
    *null = !quoted && length == 4 && memcmp(start, "null", 4) == 0;
    /* "30" is no number and true is no word. */
    if (*null || quoted != (parameter->kind == PARAMETER_WORD) || length >= PARAMETER_VALUE_SIZE ||
        memchr(start, '\0', length) != NULL)
        return *null;
    memcpy(text, start, length);
    text[length] = '\0';
    return true;
}

static bool
read_member(Reader *reader, const Parameter *parameters, ParameterValue *values, Text *error)
{
    char text[PARAMETER_VALUE_SIZE];
    const char *name;
    size_t length;
    bool null;
    int place;

    if (!read_string(reader, &name, &length) || !accept(reader, ':')) {
        text_add(error, "El cuerpo no es JSON válido");
        return false;
    }
    place = find(parameters, name, length, error);
    if (place < 0)
        return false;
    if (!read_value(reader, &parameters[place], text, &null)) {
        say_what_it_must_be(&parameters[place], error);
        return false;
    }
    return null || take(&parameters[place], &values[place], text, error);
}

bool
parameters_from_json(const char *text, size_t length, const Parameter *parameters, ParameterValue *values, Text *error)
{
    Reader reader = {text, text + length};
    bool more;

    skip_blanks(&reader);
    if (reader.at == reader.end)
        return true;
    if (!accept(&reader, '{')) {
        text_add(error, "El cuerpo debe ser un objeto JSON");
        return false;
    }
    more = !accept(&reader, '}');
    while (more) {
        if (!read_member(&reader, parameters, values, error))
            return false;
        more = accept(&reader, ',');
        if (!more && !accept(&reader, '}')) {
            text_add(error, "El cuerpo no es JSON válido");
            return false;
        }
    }
    skip_blanks(&reader);
    if (reader.at == reader.end)
        return true;
    text_add(error, "El cuerpo no es JSON válido");
    return false;
}
