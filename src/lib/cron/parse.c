/*
 * parse.c
 *
 * Reads cron expressions in pg_cron's grammar, strictly: what pg_cron skips without a word (text
 * after a value, a sixth field) is an error here, with its position and what was expected.
 *
 * Runs in: any process, see cron.h. Works on the caller's text and structs, allocates nothing, and
 * judges characters as ASCII whatever the locale.
 */
#include "cron.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Holds a piece of the user's text in a message: quoted, cut to a readable length. */
#define EXCERPT_LENGTH 24
#define EXCERPT_SIZE (EXCERPT_LENGTH + 8)

#define SATURATED_VALUE 1000000

typedef enum FieldIndex { FIELD_MINUTE, FIELD_HOUR, FIELD_DAY, FIELD_MONTH, FIELD_WEEKDAY, FIELD_COUNT } FieldIndex;

typedef struct FieldRule {
    const char *name;
    int low;
    int high;
    const char *value_names; /* three letters each, the first one is value low; NULL: none */
    const char *expected;    /* completes "expected ..." */
} FieldRule;

static const FieldRule field_rules[FIELD_COUNT] = {
    [FIELD_MINUTE] = {"minute", 0, 59, NULL, "\"*\" or a number 0-59"},
    [FIELD_HOUR] = {"hour", 0, 23, NULL, "\"*\" or a number 0-23"},
    [FIELD_DAY] = {"day-of-month", 1, 31, NULL, "\"*\", \"$\" or a number 1-31"},
    [FIELD_MONTH] = {"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec", "\"*\", a number 1-12 or a name jan-dec"},
    [FIELD_WEEKDAY] = {"day-of-week", 0, 7, "sunmontuewedthufrisat", "\"*\", a number 0-7 or a name sun-sat"},
};

typedef struct NamedSchedule {
    const char *name;
    const char *fields; /* the five fields it stands for; NULL: at server start */
} NamedSchedule;

static const NamedSchedule named_schedules[] = {
    {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
    {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
    {"@hourly", "0 * * * *"}, {"@reboot", NULL},          {"@restart", NULL},
};

/* What is being read and where; one per call of cron_parse, on its stack. */
typedef struct Reader {
    const char *text;
    size_t position;
    CronError *error; /* may be NULL */
} Reader;

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char
to_lower(char c)
{
    return (c >= 'A' && c <= 'Z') ? (char)(c - 'A' + 'a') : c;
}

static bool
is_letter(char c)
{
    return to_lower(c) >= 'a' && to_lower(c) <= 'z';
}

static bool
is_word(char c)
{
    return is_letter(c) || is_digit(c);
}

static char
peek(const Reader *reader)
{
    return reader->text[reader->position];
}

static void
skip_blanks(Reader *reader)
{
    while (is_blank(peek(reader))) {
        reader->position++;
    }
}

/* Number of letters and digits from start on. */
static size_t
word_length(const char *start)
{
    size_t length = 0;

    while (is_word(start[length])) {
        length++;
    }
    return length;
}

static bool
word_equals(const char *word, size_t length, const char *expected)
{
    size_t i;

    for (i = 0; i < length; i++) {
        if (expected[i] == '\0' || to_lower(word[i]) != expected[i]) {
            return false;
        }
    }
    return expected[length] == '\0';
}

/* Records the error and returns false, so that callers can write "return fail(...)". */
__attribute__((format(printf, 4, 5))) static bool
fail(const Reader *reader, size_t position, const char *field, const char *format, ...)
{
    va_list arguments;

    if (reader->error != NULL) {
        reader->error->position = (int)position;
        reader->error->field = field;
        va_start(arguments, format);
        (void)vsnprintf(reader->error->message, sizeof(reader->error->message), format, arguments);
        va_end(arguments);
    }
    return false;
}

/* Copies the start of a run of plain ASCII for a message, with "..." where it is cut. */
static const char *
excerpt(const char *start, size_t length, char buffer[EXCERPT_SIZE])
{
    size_t shown = length < EXCERPT_LENGTH ? length : EXCERPT_LENGTH;

    memcpy(buffer, start, shown);
    memcpy(buffer + shown, shown < length ? "..." : "", shown < length ? 4 : 1);
    return buffer;
}

/* Names what stands at a position: a word or a single character, quoted, or why there is none. */
static const char *
found_at(const Reader *reader, size_t position, char buffer[EXCERPT_SIZE])
{
    const char *start = reader->text + position;
    char word[EXCERPT_SIZE];

    if (*start == '\0') {
        return "end of text";
    }
    if (is_blank(*start)) {
        return "a blank";
    }
    if ((unsigned char)*start >= 0x80) {
        (void)snprintf(buffer, EXCERPT_SIZE, "byte 0x%02x", (unsigned)(unsigned char)*start);
    } else {
        size_t length = is_word(*start) ? word_length(start) : 1;

        (void)snprintf(buffer, EXCERPT_SIZE, "\"%.*s\"", EXCERPT_LENGTH + 3, excerpt(start, length, word));
    }
    return buffer;
}

/* Reads the digits at the position; the result saturates, so that any length is safe. */
static int
read_digits(Reader *reader)
{
    int value = 0;

    while (is_digit(peek(reader))) {
        if (value < SATURATED_VALUE) {
            value = value * 10 + (peek(reader) - '0');
        }
        reader->position++;
    }
    return value;
}

/*
 * Reads digits that must give a number low-high with no letter behind them. `what` is "value" or
 * "step" in the message.
 */
static bool
read_number(Reader *reader, const FieldRule *rule, const char *what, int low, int *value)
{
    size_t start = reader->position;
    char buffer[EXCERPT_SIZE];
    int number = read_digits(reader);
    size_t length = reader->position - start;

    if (is_word(peek(reader))) {
        char after[EXCERPT_SIZE];

        return fail(reader, reader->position, rule->name, "%s field: unexpected %s after %s %s", rule->name,
                    found_at(reader, reader->position, after), what, excerpt(reader->text + start, length, buffer));
    }
    if (number < low || number > rule->high) {
        return fail(reader, start, rule->name, "%s field: %s %s is out of range %d-%d", rule->name, what,
                    excerpt(reader->text + start, length, buffer), low, rule->high);
    }
    *value = number;
    return true;
}

/* Reads one value of a field: a number or, where the field has them, a name. */
static bool
read_value(Reader *reader, const FieldRule *rule, int *value)
{
    const char *start = reader->text + reader->position;
    char buffer[EXCERPT_SIZE];
    size_t length;
    size_t i;

    if (is_digit(*start)) {
        return read_number(reader, rule, "value", rule->low, value);
    }
    if (!is_letter(*start) || rule->value_names == NULL) {
        return fail(reader, reader->position, rule->name, "%s field: expected %s, found %s", rule->name, rule->expected,
                    found_at(reader, reader->position, buffer));
    }

    length = word_length(start);
    for (i = 0; rule->value_names[i] != '\0'; i += 3) {
        char name[4] = {rule->value_names[i], rule->value_names[i + 1], rule->value_names[i + 2]};

        if (word_equals(start, length, name)) {
            *value = rule->low + (int)(i / 3);
            reader->position += length;
            return true;
        }
    }
    return fail(reader, reader->position, rule->name, "%s field: unknown name %s, expected %s", rule->name,
                found_at(reader, reader->position, buffer), rule->expected);
}

/* Reads what may follow a range: "/" and a step of 1 up to the field's highest value (pg_cron). */
static bool
read_step(Reader *reader, const FieldRule *rule, int *step)
{
    char buffer[EXCERPT_SIZE];

    *step = 1;
    if (peek(reader) != '/') {
        return true;
    }
    reader->position++;
    if (!is_digit(peek(reader))) {
        return fail(reader, reader->position, rule->name, "%s field: expected a step 1-%d after \"/\", found %s",
                    rule->name, rule->high, found_at(reader, reader->position, buffer));
    }
    return read_number(reader, rule, "step", 1, step);
}

/* Reads one element of a list: "*" or a range, each with an optional step, or a single value. */
static bool
read_element(Reader *reader, const FieldRule *rule, uint64_t *bits)
{
    size_t start = reader->position;
    int first = rule->low;
    int last = rule->high;
    int step = 1;
    int value;

    if (peek(reader) == '*') {
        reader->position++;
    } else {
        if (!read_value(reader, rule, &first)) {
            return false;
        }
        if (peek(reader) == '/') {
            return fail(reader, reader->position, rule->name, "%s field: a step needs a range, such as %d-%d/2 or */2",
                        rule->name, first, rule->high);
        }
        last = first;
        if (peek(reader) == '-') {
            reader->position++;
            if (!read_value(reader, rule, &last)) {
                return false;
            }
        }
    }

    if (first > last) {
        return fail(reader, start, rule->name, "%s field: range %d-%d is reversed%s", rule->name, first, last,
                    rule == &field_rules[FIELD_WEEKDAY] && last == 0 ? "; Sunday at the end of a range is 7" : "");
    }
    if (!read_step(reader, rule, &step)) {
        return false;
    }
    for (value = first; value <= last; value += step) {
        *bits |= UINT64_C(1) << value;
    }
    return true;
}

/* Reads a whole field, up to a blank or the end. */
static bool
read_field(Reader *reader, const FieldRule *rule, uint64_t *bits, bool *star)
{
    char buffer[EXCERPT_SIZE];

    if (peek(reader) == '\0') {
        return fail(reader, reader->position, rule->name,
                    "%s field: missing, expected five fields: minute hour day-of-month month "
                    "day-of-week",
                    rule->name);
    }

    *bits = 0;
    *star = (peek(reader) == '*');
    for (;;) {
        if (!read_element(reader, rule, bits)) {
            return false;
        }
        if (peek(reader) != ',') {
            break;
        }
        reader->position++;
    }
    if (peek(reader) != '\0' && !is_blank(peek(reader))) {
        return fail(reader, reader->position, rule->name, "%s field: expected \",\" or a blank, found %s", rule->name,
                    found_at(reader, reader->position, buffer));
    }
    skip_blanks(reader);
    return true;
}

/* Reads the day-of-month field, which alone may be "$", the last day of the month. */
static bool
read_day_field(Reader *reader, CronSchedule *schedule)
{
    const FieldRule *rule = &field_rules[FIELD_DAY];
    char buffer[EXCERPT_SIZE];
    uint64_t bits;

    if (peek(reader) != '$') {
        if (!read_field(reader, rule, &bits, &schedule->day_star)) {
            return false;
        }
        schedule->days = (uint32_t)bits;
        return true;
    }

    reader->position++;
    if (peek(reader) != '\0' && !is_blank(peek(reader))) {
        return fail(reader, reader->position, rule->name, "%s field: \"$\" stands alone, found %s after it", rule->name,
                    found_at(reader, reader->position, buffer));
    }
    schedule->last_day = true;
    skip_blanks(reader);
    return true;
}

/*
 * True if some date can match: 29 February counts as one. Only a schedule whose days all have to
 * match the day-of-month field can have none.
 */
static bool
can_fire(const CronSchedule *schedule)
{
    static const uint32_t short_months = (1U << 4) | (1U << 6) | (1U << 9) | (1U << 11);
    bool both_must_match = schedule->day_star || schedule->weekday_star;
    uint32_t existing;

    if (schedule->last_day || !both_must_match) {
        return true;
    }
    if ((schedule->months & ~(short_months | (1U << 2))) != 0) {
        existing = UINT32_MAX;
    } else if ((schedule->months & short_months) != 0) {
        existing = ~(1U << 31);
    } else {
        existing = ~((1U << 31) | (1U << 30));
    }
    return (schedule->days & existing) != 0;
}

static bool
read_fields(Reader *reader, CronSchedule *schedule)
{
    uint64_t hours;
    uint64_t months;
    uint64_t weekdays;
    bool month_star;
    size_t day_position;

    schedule->kind = CRON_KIND_FIELDS;
    if (!read_field(reader, &field_rules[FIELD_MINUTE], &schedule->minutes, &schedule->minute_star) ||
        !read_field(reader, &field_rules[FIELD_HOUR], &hours, &schedule->hour_star)) {
        return false;
    }
    day_position = reader->position;
    if (!read_day_field(reader, schedule) || !read_field(reader, &field_rules[FIELD_MONTH], &months, &month_star) ||
        !read_field(reader, &field_rules[FIELD_WEEKDAY], &weekdays, &schedule->weekday_star)) {
        return false;
    }
    schedule->hours = (uint32_t)hours;
    schedule->months = (uint32_t)months;
    schedule->weekdays = (uint32_t)((weekdays | (weekdays >> 7)) & 0x7f);

    if (peek(reader) != '\0') {
        char buffer[EXCERPT_SIZE];

        return fail(reader, reader->position, "expression",
                    "expression: expected end of text after the fifth field, found %s",
                    found_at(reader, reader->position, buffer));
    }
    if (!can_fire(schedule)) {
        return fail(reader, day_position, field_rules[FIELD_DAY].name,
                    "%s field: no such day exists in the months chosen, so this would never fire",
                    field_rules[FIELD_DAY].name);
    }
    return true;
}

/* Reads "@name"; the names are lower case, as in pg_cron. */
static bool
read_named(Reader *reader, CronSchedule *schedule)
{
    const char *start = reader->text + reader->position;
    size_t length = 1 + word_length(start + 1);
    char buffer[EXCERPT_SIZE];
    size_t i;

    for (i = 0; i < sizeof(named_schedules) / sizeof(named_schedules[0]); i++) {
        const NamedSchedule *named = &named_schedules[i];
        Reader fields = {named->fields, 0, NULL};

        if (strlen(named->name) != length || memcmp(start, named->name, length) != 0) {
            continue;
        }
        reader->position += length;
        skip_blanks(reader);
        if (peek(reader) != '\0') {
            return fail(reader, reader->position, "expression", "expression: expected end of text after %s, found %s",
                        named->name, found_at(reader, reader->position, buffer));
        }
        schedule->kind = CRON_KIND_REBOOT;
        return named->fields == NULL || read_fields(&fields, schedule);
    }
    return fail(reader, reader->position, "expression",
                "expression: unknown name \"%s\", expected @yearly, @annually, @monthly, @weekly, "
                "@daily, @midnight, @hourly or @reboot",
                excerpt(start, length, buffer));
}

/*
 * Tells "N seconds", right or misspelt, from five fields: a number and then a word that starts with
 * an s, which no field but the last two can hold, or any word with nothing behind it.
 */
static bool
looks_like_interval(const Reader *reader)
{
    Reader ahead = *reader;
    bool apart;

    if (!is_digit(peek(&ahead))) {
        return false;
    }
    (void)read_digits(&ahead);
    apart = is_blank(peek(&ahead));
    skip_blanks(&ahead);
    if (to_lower(peek(&ahead)) == 's') {
        return true;
    }
    if (!apart || !is_letter(peek(&ahead))) {
        return false;
    }
    ahead.position += word_length(ahead.text + ahead.position);
    skip_blanks(&ahead);
    return peek(&ahead) == '\0';
}

/* Reads "N second" or "N seconds" in any case, N 1-59, with or without a blank between. */
static bool
read_interval(Reader *reader, CronSchedule *schedule)
{
    size_t start = reader->position;
    int seconds = read_digits(reader);
    size_t digits = reader->position - start;
    char buffer[EXCERPT_SIZE];
    const char *unit;
    size_t length;

    skip_blanks(reader);
    unit = reader->text + reader->position;
    length = word_length(unit);
    if (!word_equals(unit, length, "second") && !word_equals(unit, length, "seconds")) {
        return fail(reader, reader->position, "interval", "interval: unknown unit %s, expected \"seconds\"",
                    found_at(reader, reader->position, buffer));
    }
    if (seconds < 1 || seconds > 59) {
        return fail(reader, start, "interval", "interval: value %s is out of range 1-59 seconds",
                    excerpt(reader->text + start, digits, buffer));
    }
    reader->position += length;
    skip_blanks(reader);
    if (peek(reader) != '\0') {
        return fail(reader, reader->position, "interval", "interval: expected end of text after \"seconds\", found %s",
                    found_at(reader, reader->position, buffer));
    }
    schedule->kind = CRON_KIND_INTERVAL;
    schedule->interval_seconds = seconds;
    return true;
}

/* Refuses what no expression may hold anywhere: control characters, and too much of anything. */
static bool
check_characters(const Reader *reader)
{
    size_t i;

    for (i = 0; reader->text[i] != '\0'; i++) {
        unsigned char c = (unsigned char)reader->text[i];

        if (i >= CRON_TEXT_MAX) {
            return fail(reader, i, "expression", "expression: longer than %d bytes", CRON_TEXT_MAX);
        }
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return fail(reader, i, "expression", "expression: control character 0x%02x is not allowed", (unsigned)c);
        }
    }
    return true;
}

bool
cron_parse(const char *text, CronSchedule *schedule, CronError *error)
{
    Reader reader = {text, 0, error};
    CronSchedule parsed;
    bool accepted;

    memset(&parsed, 0, sizeof(parsed));
    if (!check_characters(&reader)) {
        return false;
    }

    skip_blanks(&reader);
    if (peek(&reader) == '\0') {
        return fail(&reader, reader.position, "expression",
                    "expression: empty, expected five fields, an @name or \"N seconds\"");
    }
    if (peek(&reader) == '@') {
        accepted = read_named(&reader, &parsed);
    } else if (looks_like_interval(&reader)) {
        accepted = read_interval(&reader, &parsed);
    } else {
        accepted = read_fields(&reader, &parsed);
    }
    if (accepted) {
        memcpy(schedule, &parsed, sizeof(parsed));
    }
    return accepted;
}
