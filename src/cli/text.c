/*
 * A text that grows, for output, statements and messages. Any process or thread of the program.
 */
#include "text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void
out_of_memory(void)
{
    fputs(PROGRAM_NAME ": error: out of memory\n", stderr);
    _Exit(EXIT_FAILED);
}

void *
allocate(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);

    if (memory == NULL)
        out_of_memory();
    return memory;
}

char *
copy_string(const char *string)
{
    char *copy = strdup(string);

    if (copy == NULL)
        out_of_memory();
    return copy;
}

/* Makes room for so many bytes more and the NUL. */
static void
reserve(Text *text, size_t more)
{
    size_t capacity = text->capacity > 0 ? text->capacity : 256;
    char *grown;

    if (more > SIZE_MAX / 4 || text->length > SIZE_MAX / 4)
        out_of_memory();
    while (capacity < text->length + more + 1)
        capacity *= 2;
    if (capacity == text->capacity)
        return;
    grown = realloc(text->data, capacity);
    if (grown == NULL)
        out_of_memory();
    text->data = grown;
    text->capacity = capacity;
}

void
text_add_bytes(Text *text, const char *data, size_t length)
{
    reserve(text, length);
    memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void
text_add(Text *text, const char *string)
{
    text_add_bytes(text, string, strlen(string));
}

void
text_format_list(Text *text, const char *format, va_list arguments)
{
    va_list again;
    int length;

    va_copy(again, arguments);
    length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0)
        out_of_memory();
    reserve(text, (size_t)length);
    vsnprintf(text->data + text->length, (size_t)length + 1, format, arguments);
    text->length += (size_t)length;
}

void
text_format(Text *text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    text_format_list(text, format, arguments);
    va_end(arguments);
}

const char *
text_of(const Text *text)
{
    return text->data != NULL ? text->data : "";
}

void
text_free(Text *text)
{
    free(text->data);
    *text = (Text){0};
}
