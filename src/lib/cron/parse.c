/*
 * parse.c
 *
 * Reads cron expressions: tells the kinds apart, and reads those that are not fields (fields.c has these).
 *
 * Runs in: any process, see cron.h. Works on the caller's text and structs, allocates nothing.
 */
#include "reader.h"

#include <string.h>

typedef struct NamedSchedule {
    const char *name;
    const char *fields; /* the five fields it stands for; NULL: at server start */
} NamedSchedule;

static const NamedSchedule named_schedules[] = {
    {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
    {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
    {"@hourly", "0 * * * *"}, {"@reboot", NULL},          {"@restart", NULL},
};

static const char every_name[] = "@every";

static const struct {
    char letter;
    int seconds;
} units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};

#define UNIT_COUNT ((int)(sizeof(units) / sizeof(units[0])))

/* Skips blanks and fails unless the text ends there. `what` is what it has to end after. */
static bool
end_text(CronReader *reader, const char *field, const char *what)
{
    char buffer[CRON_EXCERPT_SIZE];

    cron_skip_blanks(reader);
    if (cron_peek(reader) == '\0') {
        return true;
    }
    return cron_fail(reader, reader->position, field, "%s: expected end of text after %s, found %s", field, what,
                     cron_found_at(reader, reader->position, buffer));
}

/* Reads a number and its unit, which is one of those from *unit on, and moves *unit behind it. */
static bool
read_duration_part(CronReader *reader, int *unit, int64_t *seconds)
{
    size_t start = reader->position;
    char number[CRON_EXCERPT_SIZE];
    char found[CRON_EXCERPT_SIZE];
    int count;
    int i;

    if (!cron_is_digit(cron_peek(reader))) {
        return cron_fail(reader, start, "interval", "interval: expected a duration such as 90s, 5m or 1d12h, found %s",
                         cron_found_at(reader, start, found));
    }
    count = cron_read_digits(reader);
    (void)cron_excerpt(reader->text + start, reader->position - start, number);
    for (i = 0; i < UNIT_COUNT && units[i].letter != cron_peek(reader); i++) {
    }
    if (i == UNIT_COUNT) {
        return cron_fail(reader, reader->position, "interval",
                         "interval: expected a unit d, h, m or s after %s, found %s", number,
                         cron_found_at(reader, reader->position, found));
    }
    if (i < *unit) {
        return cron_fail(
            reader, reader->position, "interval",
            "interval: unexpected unit \"%c\", expected each of d, h, m and s at most once and in this order",
            units[i].letter);
    }
    reader->position++;
    *unit = i + 1;
    *seconds += (int64_t)count * units[i].seconds;
    return true;
}

/* Reads the duration of "@every DURATION": numbers with units, the largest first. */
static bool
read_every(CronReader *reader, CronSchedule *schedule)
{
    int64_t seconds = 0;
    int unit = 0;
    size_t start;

    cron_skip_blanks(reader);
    start = reader->position;
    do {
        if (!read_duration_part(reader, &unit, &seconds)) {
            return false;
        }
    } while (cron_peek(reader) != '\0' && !cron_is_blank(cron_peek(reader)));
    if (seconds < 1 || seconds > CRON_INTERVAL_MAX) {
        return cron_fail(reader, start, "interval", "interval: the duration is out of range 1 second to 366 days");
    }
    schedule->kind = CRON_KIND_INTERVAL;
    schedule->interval_seconds = (int32_t)seconds;
    return end_text(reader, "interval", "the duration");
}

/* Reads "@name"; the names are lower case, as in pg_cron. */
static bool
read_named(CronReader *reader, CronSchedule *schedule)
{
    const char *start = reader->text + reader->position;
    size_t length = 1 + cron_word_length(start + 1);
    char buffer[CRON_EXCERPT_SIZE];
    size_t i;

    if (strlen(every_name) == length && memcmp(start, every_name, length) == 0) {
        reader->position += length;
        return read_every(reader, schedule);
    }
    for (i = 0; i < sizeof(named_schedules) / sizeof(named_schedules[0]); i++) {
        const NamedSchedule *named = &named_schedules[i];
        CronReader fields = {named->fields, 0, NULL, ""};

        if (strlen(named->name) != length || memcmp(start, named->name, length) != 0) {
            continue;
        }
        reader->position += length;
        if (!end_text(reader, "expression", named->name)) {
            return false;
        }
        schedule->kind = CRON_KIND_REBOOT;
        return named->fields == NULL || cron_read_fields(&fields, schedule);
    }
    return cron_fail(reader, reader->position, "expression",
                     "expression: unknown name \"%s\", expected @yearly, @annually, @monthly, @weekly, @daily, "
                     "@midnight, @hourly, @every or @reboot",
                     cron_excerpt(start, length, buffer));
}

/*
 * Tells "N seconds", right or misspelt, from fields: a number and then a word that starts with an s,
 * which no field but the last two can hold, or any word with nothing behind it.
 */
static bool
looks_like_interval(const CronReader *reader)
{
    CronReader ahead = *reader;
    bool apart;

    if (!cron_is_digit(cron_peek(&ahead))) {
        return false;
    }
    (void)cron_read_digits(&ahead);
    apart = cron_is_blank(cron_peek(&ahead));
    cron_skip_blanks(&ahead);
    if (cron_lower(cron_peek(&ahead)) == 's') {
        return true;
    }
    if (!apart || !cron_is_letter(cron_peek(&ahead))) {
        return false;
    }
    ahead.position += cron_word_length(ahead.text + ahead.position);
    cron_skip_blanks(&ahead);
    return cron_peek(&ahead) == '\0';
}

/* Reads "N second" or "N seconds" in any case, N 1-59, with or without a blank between. */
static bool
read_seconds(CronReader *reader, CronSchedule *schedule)
{
    size_t start = reader->position;
    int seconds = cron_read_digits(reader);
    size_t digits = reader->position - start;
    char buffer[CRON_EXCERPT_SIZE];
    const char *unit;
    size_t length;

    cron_skip_blanks(reader);
    unit = reader->text + reader->position;
    length = cron_word_length(unit);
    if (!cron_word_equals(unit, length, "second") && !cron_word_equals(unit, length, "seconds")) {
        return cron_fail(reader, reader->position, "interval", "interval: unknown unit %s, expected \"seconds\"",
                         cron_found_at(reader, reader->position, buffer));
    }
    if (seconds < 1 || seconds > 59) {
        return cron_fail(reader, start, "interval",
                         "interval: value %s is out of range 1-59 seconds; \"@every 90s\" or the like can be longer",
                         cron_excerpt(reader->text + start, digits, buffer));
    }
    reader->position += length;
    schedule->kind = CRON_KIND_INTERVAL;
    schedule->interval_seconds = seconds;
    return end_text(reader, "interval", "\"seconds\"");
}

/* Refuses what no expression may hold anywhere: control characters, and too much of anything. */
static bool
check_characters(const CronReader *reader)
{
    size_t i;

    for (i = 0; reader->text[i] != '\0'; i++) {
        unsigned char c = (unsigned char)reader->text[i];

        if (i >= CRON_TEXT_MAX) {
            return cron_fail(reader, i, "expression", "expression: longer than %d bytes", CRON_TEXT_MAX);
        }
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return cron_fail(reader, i, "expression", "expression: control character 0x%02x is not allowed",
                             (unsigned)c);
        }
    }
    return true;
}

bool
cron_parse(const char *text, CronSchedule *schedule, CronError *error)
{
    CronReader reader = {text, 0, error, ""};
    CronSchedule parsed;
    bool accepted;

    memset(&parsed, 0, sizeof(parsed));
    if (!check_characters(&reader)) {
        return false;
    }

    cron_skip_blanks(&reader);
    if (cron_peek(&reader) == '\0') {
        return cron_fail(&reader, reader.position, "expression",
                         "expression: empty, expected five or six fields, an @name or \"N seconds\"");
    }
    if (cron_peek(&reader) == '@') {
        accepted = read_named(&reader, &parsed);
    } else if (looks_like_interval(&reader)) {
        accepted = read_seconds(&reader, &parsed);
    } else {
        accepted = cron_read_fields(&reader, &parsed);
    }
    if (accepted) {
        memcpy(schedule, &parsed, sizeof(parsed));
    }
    return accepted;
}
