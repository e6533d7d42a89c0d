/*
 * Lays JSON out, without caring whether it is any: brackets and commas outside of strings break lines. Any thread.
 */
#include "pretty.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"

#define DEEPEST 20 /* indented no further */

typedef struct Layout {
    Text line;
    int depth;
    int lines;
} Layout;

static void
end_line(Layout *layout, Text *text, const char *margin)
{
    if (layout->line.length > 0 && layout->lines++ < PRETTY_MAX_LINES) {
        text_add(text, margin);
        text_add_printable(text, layout->line.data);
        text_add(text, "\n");
    }
    text_free(&layout->line);
}

static void
indent(Layout *layout)
{
    for (int i = 0; i < layout->depth && i < DEEPEST; i++)
        text_add(&layout->line, "  ");
}

/* The end of the string that begins at json[at], past its closing quote. */
static size_t
end_of_string(const char *json, size_t at, size_t length)
{
    for (at++; at < length && json[at] != '"'; at++)
        at += json[at] == '\\';
    return at < length ? at + 1 : length;
}

/* A bracket that closes what nothing is in stays on its line. */
static bool
is_empty(const char *json, size_t at, size_t length)
{
    for (at++; at < length && strchr(" \t\r\n", json[at]) != NULL && json[at] != '\0'; at++)
        continue;
    return at < length && (json[at] == '}' || json[at] == ']');
}

void
pretty_add(Text *text, const char *json, size_t length, const char *margin)
{
    Layout layout = {0};
    bool empty = false;

    for (size_t at = 0; at < length;) {
        size_t next = at + 1;

        if (json[at] == '"')
            next = end_of_string(json, at, length);
        if (strchr("}]", json[at]) != NULL && json[at] != '\0' && !empty) {
            end_line(&layout, text, margin);
            layout.depth -= layout.depth > 0;
            indent(&layout);
        }
        if (strchr(" \t\r\n", json[at]) == NULL || json[at] == '\0')
            text_add_bytes(&layout.line, json + at, next - at);
        if (json[at] == ':')
            text_add(&layout.line, " ");
        if (strchr("{[", json[at]) != NULL && json[at] != '\0') {
            empty = is_empty(json, at, length);
            if (!empty) {
                end_line(&layout, text, margin);
                layout.depth++;
                indent(&layout);
            }
        } else if (json[at] == ',') {
            end_line(&layout, text, margin);
            indent(&layout);
        } else if (strchr("}]", json[at]) != NULL && json[at] != '\0') {
            empty = false;
        }
        at = next;
    }
    end_line(&layout, text, margin);
    if (layout.lines > PRETTY_MAX_LINES)
        text_format(text, "%s... %d lines more\n", margin, layout.lines - PRETTY_MAX_LINES);
}
