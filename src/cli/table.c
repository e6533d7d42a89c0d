/*
 * Tables for people. Runs in the main thread.
 */
#include "table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

#define CELL_MAX_WIDTH 60

/* Adds as much of a text as has room in so many columns; returns the columns it takes. text may be NULL. */
static int
add_cell(Text *text, const char *string, int room)
{
    int used = 0;

    while (*string != '\0') {
        size_t bytes;
        int width;
        bool shown = printable_next(string, &bytes, &width);

        if (used + width > room - (string[bytes] != '\0' ? 1 : 0)) {
            if (text != NULL)
                text_add(text, "…");
            return used + 1;
        }
        if (text != NULL)
            text_add_bytes(text, shown ? string : (*string == '\n' ? " " : "?"), shown ? bytes : 1);
        used += width;
        string += bytes;
    }
    return used;
}

static void
add_blanks(Text *text, int count)
{
    for (int i = 0; i < count; i++)
        text_add(text, " ");
}

static bool
is_number(Oid type)
{
    return type == 20 || type == 21 || type == 23 || type == 26 || type == 700 || type == 701 || type == 1700;
}

void
table_add_heading(Text *heading, const char *name)
{
    for (; *name != '\0'; name++) {
        if (*name >= 'A' && *name <= 'Z') {
            text_add(heading, " ");
            text_format(heading, "%c", *name - 'A' + 'a');
        } else {
            text_add_bytes(heading, name, 1);
        }
    }
}

static const char *
cell_of(const PGresult *result, int row, int column)
{
    const char *value = PQgetvalue(result, row, column);

    if (PQgetisnull(result, row, column))
        return "-";
    if (PQftype(result, column) == 16)
        return *value == 't' ? "yes" : "no";
    return value;
}

static Colour
colour_of(const char *cell)
{
    static const char *const good[] = {"succeeded", "ok", "published", "payable"};
    static const char *const bad[] = {"failed", "timed_out", "crashed", "no_worker", "stopped", "failing"};
    static const char *const middling[] = {"interrupted", "cancelled", "skipped", "missed", "paused", "probing"};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (strcmp(cell, good[i]) == 0)
            return COLOUR_GREEN;
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (strcmp(cell, bad[i]) == 0)
            return COLOUR_RED;
    }
    for (size_t i = 0; i < sizeof middling / sizeof *middling; i++) {
        if (strcmp(cell, middling[i]) == 0)
            return COLOUR_YELLOW;
    }
    return COLOUR_PLAIN;
}

static int
column_width(const PGresult *result, int column, const char *heading)
{
    int widest = add_cell(NULL, heading, CELL_MAX_WIDTH);

    for (int row = 0; row < PQntuples(result); row++) {
        int width = add_cell(NULL, cell_of(result, row, column), CELL_MAX_WIDTH);

        widest = width > widest ? width : widest;
    }
    return widest;
}

/* A cell with blanks up to the column's width, on its left for numbers; none after the last column. */
static void
add_padded(Text *text, const char *cell, int width, bool right, bool last, const char *tint, const char *plain)
{
    int used = add_cell(NULL, cell, CELL_MAX_WIDTH);

    if (right)
        add_blanks(text, width - used);
    text_add(text, tint);
    add_cell(text, cell, CELL_MAX_WIDTH);
    text_add(text, *tint != '\0' ? plain : "");
    if (!right && !last)
        add_blanks(text, width - used);
    text_add(text, last ? "\n" : "  ");
}

void
table_add(Text *text, const PGresult *result, FILE *stream)
{
    int columns = PQnfields(result);
    int *widths = allocate(sizeof *widths * (size_t)columns);
    const char *plain = colour(stream, COLOUR_PLAIN);

    for (int column = 0; column < columns; column++) {
        Text heading = {0};

        table_add_heading(&heading, PQfname(result, column));
        widths[column] = column_width(result, column, text_of(&heading));
        add_padded(text, text_of(&heading), widths[column], is_number(PQftype(result, column)), column == columns - 1,
                   colour(stream, COLOUR_BOLD), plain);
        text_free(&heading);
    }
    for (int row = 0; row < PQntuples(result); row++) {
        for (int column = 0; column < columns; column++) {
            const char *cell = cell_of(result, row, column);
            Colour tint = colour_of(cell);

            add_padded(text, cell, widths[column], is_number(PQftype(result, column)), column == columns - 1,
                       tint != COLOUR_PLAIN ? colour(stream, tint) : "", plain);
        }
    }
    free(widths);
}
