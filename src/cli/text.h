/*
 * A text that grows. Whoever has initialised one ({0}) frees it; no thread shares one. When memory runs out the program
 * ends: it is never in the middle of anything that a server does not clean up.
 */
#ifndef APAPACHO_CLI_TEXT_H
#define APAPACHO_CLI_TEXT_H

#include <stdarg.h>
#include <stddef.h>

typedef struct Text {
    char *data; /* NUL-terminated; NULL while nothing was added */
    size_t length;
    size_t capacity;
} Text;

void text_add(Text *text, const char *string);
void text_add_bytes(Text *text, const char *data, size_t length);
void text_format(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_format_list(Text *text, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
void text_free(Text *text);

/* What has been added so far; "" rather than NULL. */
const char *text_of(const Text *text);

/* malloc'ed copies that cannot fail. */
char *copy_string(const char *string);
void *allocate(size_t size);

#endif
