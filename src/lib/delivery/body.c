/*
 * A scanner for one JSON object, deep enough to find its members' exact bytes. It trusts nothing but needs no more:
 * what is inside the values is only skipped. Runs in a receiver's threads; owns no memory.
 */
#include "body.h"

#include <string.h>

typedef struct Scanner {
    const char *at;
    const char *end;
} Scanner;

static void
skip_blanks(Scanner *scanner)
{
    while (scanner->at < scanner->end && strchr(" \t\r\n", *scanner->at) != NULL && *scanner->at != '\0')
        scanner->at++;
}

static bool
take(Scanner *scanner, char c)
{
    skip_blanks(scanner);
    if (scanner->at == scanner->end || *scanner->at != c)
        return false;
    scanner->at++;
    return true;
}

/* A string at the scanner's place; the slice is without the quotes. */
static bool
take_string(Scanner *scanner, Slice *slice)
{
    if (!take(scanner, '"'))
        return false;
    slice->data = scanner->at;
    for (; scanner->at < scanner->end; scanner->at++) {
        if (*scanner->at == '"') {
            slice->length = (size_t)(scanner->at++ - slice->data);
            return true;
        }
        if (*scanner->at == '\\' && scanner->at + 1 < scanner->end)
            scanner->at++;
    }
    scanner->at = scanner->end;
    return false;
}

/* Any value; the slice is all of it, quotes and brackets included. */
static bool
take_value(Scanner *scanner, Slice *slice)
{
    Slice string;
    int depth = 0;

    skip_blanks(scanner);
    slice->data = scanner->at;
    while (scanner->at < scanner->end) {
        char c = *scanner->at;

        if (depth == 0 && strchr(",} \t\r\n", c) != NULL)
            break;
        if (c == '"') {
            if (!take_string(scanner, &string))
                return false;
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        scanner->at++;
    }
    slice->length = (size_t)(scanner->at - slice->data);
    return depth == 0 && slice->length > 0;
}

static bool
named(Slice key, const char *name)
{
    return key.length == strlen(name) && memcmp(key.data, name, key.length) == 0;
}

/* One member's value, kept if it is one of ours. */
static bool
take_member(Scanner *scanner, EventBody *event)
{
    const struct {
        const char *name;
        Slice *slice;
    } strings[] = {
        {"id", &event->id},
        {"type", &event->type},
        {"aggregateType", &event->aggregate_type},
        {"aggregateId", &event->aggregate_id},
    };
    Slice key;
    Slice value;

    if (!take_string(scanner, &key) || !take(scanner, ':'))
        return false;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (named(key, strings[i].name)) {
            skip_blanks(scanner);
            return take_string(scanner, strings[i].slice);
        }
    return take_value(scanner, named(key, "payload") ? &event->payload : &value);
}

bool
event_body_parse(const char *body, size_t length, EventBody *event)
{
    Scanner scanner = {body, body + length};

    memset(event, 0, sizeof *event);
    if (!take(&scanner, '{'))
        return false;
    do {
        if (!take_member(&scanner, event))
            return false;
    } while (take(&scanner, ','));
    return take(&scanner, '}') && event->id.data != NULL && event->type.data != NULL &&
           event->aggregate_type.data != NULL && event->aggregate_id.data != NULL && event->payload.data != NULL;
}
