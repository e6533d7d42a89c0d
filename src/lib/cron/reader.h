/*
 * reader.h
 *
 * What the parts of the parser share: the text that is being read with the place in it, and errors.
 * Of this room only. Characters are judged as ASCII whatever the locale.
 */
#ifndef APAPACHO_CRON_READER_H
#define APAPACHO_CRON_READER_H

#include "cron.h"

/* Holds a piece of the user's text in a message: quoted, cut to a readable length. */
#define CRON_EXCERPT_LENGTH 24
#define CRON_EXCERPT_SIZE (CRON_EXCERPT_LENGTH + 8)

/* Numbers of any length are read; from this on it is only known that they are as large. */
#define CRON_SATURATED 100000000

/* One per call of cron_parse, on its stack. */
typedef struct CronReader {
    const char *text;
    size_t position;
    CronError *error; /* may be NULL */
    const char *note; /* ends every message about a field; "" for none */
} CronReader;

bool cron_is_blank(char c);
bool cron_is_digit(char c);
bool cron_is_letter(char c);
bool cron_is_word(char c); /* a letter or a digit */
char cron_lower(char c);

/* The character at the position; '\0' at the end. */
char cron_peek(const CronReader *reader);
void cron_skip_blanks(CronReader *reader);

/* Number of letters and digits from start on. */
size_t cron_word_length(const char *start);

/* Whether a word of this length is `expected`, which is lower case, in any case. */
bool cron_word_equals(const char *word, size_t length, const char *expected);

/* Reads the digits at the position; the result never exceeds ten times CRON_SATURATED. */
int cron_read_digits(CronReader *reader);

/* Copies the start of a run of plain ASCII for a message, with "..." where it is cut. */
const char *cron_excerpt(const char *start, size_t length, char buffer[CRON_EXCERPT_SIZE]);

/* Names what stands at a position: a word or a single character, quoted, or why there is none. */
const char *cron_found_at(const CronReader *reader, size_t position, char buffer[CRON_EXCERPT_SIZE]);

/* Records the error and returns false, so that callers can write "return cron_fail(...)". */
bool cron_fail(const CronReader *reader, size_t position, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * Reads five fields, or six where there are as many words, up to the text's end, into a schedule that is all
 * zeroes (fields.c). False with the error recorded.
 */
bool cron_read_fields(CronReader *reader, CronSchedule *schedule);

#endif
