/*
 * Answers of queries, printed. Runs in the main thread.
 */
#include "show.h"

#include <stdio.h>
#include <string.h>

#include "json.h"
#include "message.h"
#include "table.h"

ExitCode
show_rows(Session *session, const CommandLine *line, const char *sql, int count, const char *const *values,
          const char *otherwise, int *rows)
{
    PGresult *result;
    Text text = {0};
    ExitCode code = client_query(session, sql, count, values, &result);

    if (code != EXIT_DONE)
        return code;
    if (option_flag(line, "json"))
        json_add_rows(&text, result);
    else if (PQntuples(result) > 0)
        table_add(&text, result, stdout);
    else
        text_add(&text, otherwise);
    fputs(text_of(&text), stdout);
    if (text.length > 0 && text.data[text.length - 1] != '\n')
        putchar('\n');
    if (rows != NULL)
        *rows = PQntuples(result);
    text_free(&text);
    PQclear(result);
    return code;
}

static ExitCode
print_members(Session *session, const char *document)
{
    const char *values[] = {document};
    PGresult *result;
    int width = 0;
    ExitCode code = client_query(session, "SELECT key, value FROM json_each_text($1::json)", 1, values, &result);

    for (int row = 0; code == EXIT_DONE && row < PQntuples(result); row++) {
        Text key = {0};

        table_add_heading(&key, PQgetvalue(result, row, 0));
        width = (int)key.length > width ? (int)key.length : width;
        text_free(&key);
    }
    for (int row = 0; code == EXIT_DONE && row < PQntuples(result); row++) {
        Text key = {0};
        Text value = {0};

        table_add_heading(&key, PQgetvalue(result, row, 0));
        text_add_printable(&value, PQgetisnull(result, row, 1) ? "-" : PQgetvalue(result, row, 1));
        printf("%s%-*s%s  %s\n", colour(stdout, COLOUR_BOLD), width, text_of(&key), colour(stdout, COLOUR_PLAIN),
               text_of(&value));
        text_free(&key);
        text_free(&value);
    }
    PQclear(result);
    return code;
}

ExitCode
show_document(Session *session, const CommandLine *line, const char *sql, int count, const char *const *values)
{
    PGresult *result;
    ExitCode code = client_query(session, sql, count, values, &result);

    if (code != EXIT_DONE)
        return code;
    if (option_flag(line, "json"))
        puts(PQgetvalue(result, 0, 0));
    else
        code = print_members(session, PQgetvalue(result, 0, 0));
    PQclear(result);
    return code;
}
