/*
 * Unit tests of what apapacho-jobs prints: rows as JSON and as tables, JSON for people, and that nothing in the data
 * can steer a terminal or break a document.
 *
 * A plain program of one process; results are made with libpq, without a server.
 */
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

#include "cli/json.h"
#include "cli/pretty.h"
#include "cli/table.h"
#include "unit.h"

/* A result of one row: names, types and values; NULL: null. */
static PGresult *
row(int count, const char *const *names, const Oid *types, const char *const *values)
{
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc attributes[16] = {0};

    for (int i = 0; i < count; i++) {
        attributes[i].name = (char *)names[i];
        attributes[i].typid = types[i];
    }
    CHECK(PQsetResultAttrs(result, count, attributes) == 1);
    for (int i = 0; i < count; i++)
        CHECK(PQsetvalue(result, 0, i, (char *)values[i], values[i] != NULL ? (int)strlen(values[i]) : -1) == 1);
    return result;
}

static void
test_json_values(void)
{
    static const struct {
        Oid type;
        const char *value;
        const char *json;
    } cases[] = {
        {16, "t", "true"},
        {16, "f", "false"},
        {20, "9223372036854775807", "9223372036854775807"},
        {23, "-5", "-5"},
        {701, "0.5", "0.5"},
        {701, "1e-07", "1e-07"},
        {701, "NaN", "\"NaN\""},
        {1700, "Infinity", "\"Infinity\""},
        {114, "{\"a\" : 1}", "{\"a\" : 1}"},
        {3802, "[]", "[]"},
        {25, NULL, "null"},
        {25, "", "\"\""},
        {25, "a\"b\\c\nd\x01", "\"a\\\"b\\\\c\\u000ad\\u0001\""},
        {25, "Año €😀", "\"Año €😀\""},
        {25, "\xff\xc0\x80\xed\xa0\x80\xf5", "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\""},
        {25, "\xe2\x82", "\"\\ufffd\\ufffd\""},
        {1184, "2026-11-27 03:39:44.123+00", "\"2026-11-27T03:39:44.123Z\""},
        {1184, "2026-11-27 03:39:44-03", "\"2026-11-27T03:39:44-03:00\""},
        {1184, "2026-11-27 03:39:44+05:45", "\"2026-11-27T03:39:44+05:45\""},
        {1184, "infinity", "\"infinity\""},
        {1184, "0001-01-01 00:00:00+00 BC", "\"0001-01-01 00:00:00+00 BC\""},
        {1114, "2026-11-27 03:39:44.12", "\"2026-11-27T03:39:44.12Z\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = "v";
        PGresult *result = row(1, &name, &cases[i].type, &cases[i].value);
        Text text = {0};

        json_add_value(&text, result, 0, 0);
        CHECK_STR(text.data, cases[i].json);
        text_free(&text);
        PQclear(result);
    }
}

static void
test_rows(void)
{
    const char *const names[] = {"runId", "lastError", "running"};
    const Oid types[] = {20, 25, 16};
    const char *const values[] = {"17", "\033[31mroto\xc2\x9b \xff\nx", "t"};
    PGresult *result = row(3, names, types, values);
    Text text = {0};

    json_add_rows(&text, result);
    CHECK_STR(text.data,
              "[{\"runId\": 17, \"lastError\": \"\\u001b[31mroto\xc2\x9b \\ufffd\\u000ax\", \"running\": true}]");
    text_free(&text);
    table_add(&text, result, stdout);
    CHECK_STR(text.data, "run id  last error      running\n    17  ?[31mroto? ? x  yes\n");
    text_free(&text);
    PQclear(result);
}

/* Widths are those of a terminal's columns: wide characters count two, combining ones none; long cells are cut. */
static void
test_widths(void)
{
    const char *const names[] = {"a", "b"};
    const Oid types[] = {25, 25};
    char longest[101];
    const char *values[] = {"日本", longest};
    PGresult *result;
    Text text = {0};

    memset(longest, 'x', 100);
    longest[100] = '\0';
    result = row(2, names, types, values);
    table_add(&text, result, stdout);
    CHECK(strncmp(text.data, "a     b\n日本  xxx", 18) == 0);
    CHECK(strstr(text.data, "x…\n") != NULL && strstr(text.data, longest) == NULL);
    text_free(&text);
    PQclear(result);
    values[0] = "n\u0303";
    values[1] = NULL;
    result = row(2, names, types, values);
    table_add(&text, result, stdout);
    CHECK_STR(text.data, "a  b\nn\u0303  -\n");
    text_free(&text);
    PQclear(result);
}

static void
test_pretty(void)
{
    static const struct {
        const char *json;
        const char *laid_out;
    } cases[] = {
        {"{}", ">{}\n"},
        {"{ }", ">{}\n"},
        {"[1,2]", ">[\n>  1,\n>  2\n>]\n"},
        {"{\"a\":{\"b\":\"{,}\\\"[\"},\"c\":[]}",
         ">{\n>  \"a\": {\n>    \"b\": \"{,}\\\"[\"\n>  },\n>  \"c\": []\n>}\n"},
        {"null", ">null\n"},
        {"\"a", ">\"a\n"},
        {"}]\"\\", ">}\n>]\"\\\n"},
        {"\x1b[2J", ">?[\n>  2J\n"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Text text = {0};

        pretty_add(&text, cases[i].json, strlen(cases[i].json), ">");
        CHECK_STR(text_of(&text), cases[i].laid_out);
        text_free(&text);
    }
}

static void
test_pretty_bounds(void)
{
    char deep[4000];
    Text text = {0};
    int lines = 0;

    memset(deep, '[', sizeof deep);
    pretty_add(&text, deep, sizeof deep, "");
    for (const char *c = text_of(&text); *c != '\0'; c++)
        lines += *c == '\n';
    CHECK(lines == PRETTY_MAX_LINES + 1);
    CHECK(text.length < 10000);
    text_free(&text);
    /* NUL bytes, in and outside of strings */
    pretty_add(&text, "[\0\"a\0b\"]", 8, "");
    CHECK(text.length > 0);
    text_free(&text);
}

int
main(void)
{
    CHECK(setlocale(LC_CTYPE, "C.UTF-8") != NULL);
    setenv("NO_COLOR", "1", 1);
    test_json_values();
    test_rows();
    test_widths();
    test_pretty();
    test_pretty_bounds();
    return unit_report();
}
