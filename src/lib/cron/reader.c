/*
 * reader.c
 *
 * The parser's view of the text: characters, words, numbers, and the errors that say where and what.
 *
 * Runs in: any process, see cron.h. Works on the caller's text and structs, allocates nothing.
 */
#include "reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool
cron_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

bool
cron_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

char
cron_lower(char c)
{
    return (c >= 'A' && c <= 'Z') ? (char)(c - 'A' + 'a') : c;
}

bool
cron_is_letter(char c)
{
    return cron_lower(c) >= 'a' && cron_lower(c) <= 'z';
}

bool
cron_is_word(char c)
{
    return cron_is_letter(c) || cron_is_digit(c);
}

char
cron_peek(const CronReader *reader)
{
    return reader->text[reader->position];
}

void
cron_skip_blanks(CronReader *reader)
{
    while (cron_is_blank(cron_peek(reader))) {
        reader->position++;
    }
}

size_t
cron_word_length(const char *start)
{
    size_t length = 0;

    while (cron_is_word(start[length])) {
        length++;
    }
    return length;
}

bool
cron_word_equals(const char *word, size_t length, const char *expected)
{
    size_t i;

    for (i = 0; i < length; i++) {
        if (cron_lower(word[i]) != expected[i]) {
            return false;
        }
    }
    return expected[length] == '\0';
}

int
cron_read_digits(CronReader *reader)
{
    int value = 0;

    while (cron_is_digit(cron_peek(reader))) {
        if (value < CRON_SATURATED) {
            value = value * 10 + (cron_peek(reader) - '0');
        }
        reader->position++;
    }
    return value;
}

const char *
cron_excerpt(const char *start, size_t length, char buffer[CRON_EXCERPT_SIZE])
{
    size_t shown = length < CRON_EXCERPT_LENGTH ? length : CRON_EXCERPT_LENGTH;

    memcpy(buffer, start, shown);
    memcpy(buffer + shown, shown < length ? "..." : "", shown < length ? 4 : 1);
    return buffer;
}

const char *
cron_found_at(const CronReader *reader, size_t position, char buffer[CRON_EXCERPT_SIZE])
{
    const char *start = reader->text + position;
    char word[CRON_EXCERPT_SIZE];

    if (*start == '\0') {
        return "end of text";
    }
    if (cron_is_blank(*start)) {
        return "a blank";
    }
    if ((unsigned char)*start >= 0x80) {
        (void)snprintf(buffer, CRON_EXCERPT_SIZE, "byte 0x%02x", (unsigned)(unsigned char)*start);
    } else {
        size_t length = cron_is_word(*start) ? cron_word_length(start) : 1;

        (void)snprintf(buffer, CRON_EXCERPT_SIZE, "\"%.*s\"", CRON_EXCERPT_LENGTH + 3,
                       cron_excerpt(start, length, word));
    }
    return buffer;
}

bool
cron_fail(const CronReader *reader, size_t position, const char *field, const char *format, ...)
{
    va_list arguments;
    CronError *error = reader->error;

    if (error != NULL) {
        size_t length;

        error->position = (int)position;
        error->field = field;
        va_start(arguments, format);
        (void)vsnprintf(error->message, sizeof(error->message), format, arguments);
        va_end(arguments);
        length = strlen(error->message);
        (void)snprintf(error->message + length, sizeof(error->message) - length, "%s", reader->note);
    }
    return false;
}
