/*
 * Writing JSON. Runs in any thread; nothing is kept.
 */
#include "json.h"

#include <stdbool.h>
#include <string.h>

#include "utf8.h"

/* Types by their numbers, which never change (pg_type.dat). */
enum {
    BOOL = 16,
    INT8 = 20,
    INT2 = 21,
    INT4 = 23,
    JSON = 114,
    FLOAT4 = 700,
    FLOAT8 = 701,
    TIMESTAMP = 1114,
    TIMESTAMPTZ = 1184,
    NUMERIC = 1700,
    JSONB = 3802
};

void
json_add_string(Text *text, const char *string)
{
    size_t length;

    text_add(text, "\"");
    for (const char *byte = string; *byte != '\0'; byte += length > 0 ? length : 1) {
        length = utf8_sequence_length(byte);
        if (length == 0) {
            text_add(text, "\\ufffd");
        } else if (*byte == '"' || *byte == '\\') {
            char escaped[] = {'\\', *byte};

            text_add_bytes(text, escaped, 2);
        } else if ((unsigned char)*byte < 0x20) {
            text_format(text, "\\u%04x", (unsigned)*byte);
        } else {
            text_add_bytes(text, byte, length);
        }
    }
    text_add(text, "\"");
}

/* "2026-11-27 03:39:44.1+00" as ISO 8601; what has another form (infinity, BC) stays as it is. */
static void
add_time(Text *text, const char *value, bool has_zone)
{
    size_t length = strlen(value);
    Text iso = {0};

    if (length < 19 || value[10] != ' ' || strstr(value, " BC") != NULL) {
        json_add_string(text, value);
        return;
    }
    text_add_bytes(&iso, value, 10);
    text_add(&iso, "T");
    text_add(&iso, value + 11);
    if (!has_zone)
        text_add(&iso, "Z");
    else if (value[length - 3] == '+' || value[length - 3] == '-') {
        if (strcmp(value + length - 3, "+00") == 0)
            iso.data[iso.length -= 3] = '\0';
        text_add(&iso, strcmp(value + length - 3, "+00") == 0 ? "Z" : ":00");
    }
    json_add_string(text, iso.data);
    text_free(&iso);
}

void
json_add_value(Text *text, const PGresult *result, int row, int column)
{
    const char *value = PQgetvalue(result, row, column);

    if (PQgetisnull(result, row, column)) {
        text_add(text, "null");
        return;
    }
    switch (PQftype(result, column)) {
    case BOOL:
        text_add(text, *value == 't' ? "true" : "false");
        break;
    case INT2:
    case INT4:
    case INT8:
    case JSON:
    case JSONB:
        text_add(text, value);
        break;
    case FLOAT4:
    case FLOAT8:
    case NUMERIC:
        if (strspn(value, "0123456789+-.e") == strlen(value))
            text_add(text, value);
        else
            json_add_string(text, value);
        break;
    case TIMESTAMP:
    case TIMESTAMPTZ:
        add_time(text, value, PQftype(result, column) == TIMESTAMPTZ);
        break;
    default:
        json_add_string(text, value);
    }
}

void
json_add_row(Text *text, const PGresult *result, int row)
{
    text_add(text, "{");
    for (int column = 0; column < PQnfields(result); column++) {
        if (column > 0)
            text_add(text, ", ");
        json_add_string(text, PQfname(result, column));
        text_add(text, ": ");
        json_add_value(text, result, row, column);
    }
    text_add(text, "}");
}

void
json_add_rows(Text *text, const PGresult *result)
{
    text_add(text, "[");
    for (int row = 0; row < PQntuples(result); row++) {
        if (row > 0)
            text_add(text, ",\n ");
        json_add_row(text, result, row);
    }
    text_add(text, "]");
}
