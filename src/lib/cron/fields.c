/*
 * fields.c
 *
 * Reads the fields of a cron expression: minute to day-of-week, with the second before them where there are
 * six. Strictly: what pg_cron skips without a word (text after a value, a field too many) is an error here.
 *
 * Runs in: any process, see cron.h. Works on the caller's text and structs, allocates nothing.
 */
#include "calendar.h"
#include "reader.h"

#include <string.h>

typedef enum FieldIndex {
    FIELD_SECOND,
    FIELD_MINUTE,
    FIELD_HOUR,
    FIELD_DAY,
    FIELD_MONTH,
    FIELD_WEEKDAY,
    FIELD_COUNT
} FieldIndex;

/* The longest name of a value: "september", "wednesday" */
#define LONGEST_NAME 9
#define ABBREVIATION 3

typedef struct FieldRule {
    const char *name;
    int low;
    int high;
    const char (*value_names)[LONGEST_NAME + 1]; /* the first one is value low, "" ends them; NULL: none */
    const char *expected;                        /* completes "expected ..." */
    const char *after_value;                     /* the same, of what may follow a value */
} FieldRule;

static const char month_names[][LONGEST_NAME + 1] = {
    "january", "february",  "march",   "april",    "may",      "june", "july",
    "august",  "september", "october", "november", "december", "",
};

static const char weekday_names[][LONGEST_NAME + 1] = {
    "sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "",
};

static const FieldRule field_rules[FIELD_COUNT] = {
    [FIELD_SECOND] = {"second", 0, 59, NULL, "\"*\" or a number 0-59", "\",\", \"-\", \"/\" or a blank"},
    [FIELD_MINUTE] = {"minute", 0, 59, NULL, "\"*\" or a number 0-59", "\",\", \"-\", \"/\" or a blank"},
    [FIELD_HOUR] = {"hour", 0, 23, NULL, "\"*\" or a number 0-23", "\",\", \"-\", \"/\" or a blank"},
    [FIELD_DAY] = {"day-of-month", 1, 31, NULL, "\"*\", \"L\" or a number 1-31",
                   "\",\", \"-\", \"/\", \"W\" or a blank"},
    [FIELD_MONTH] = {"month", 1, 12, month_names, "\"*\", a number 1-12 or a name jan-dec",
                     "\",\", \"-\", \"/\" or a blank"},
    [FIELD_WEEKDAY] = {"day-of-week", 0, 7, weekday_names, "\"*\", a number 0-7 or a name sun-sat",
                       "\",\", \"-\", \"/\", \"#\", \"L\" or a blank"},
};

/* Completes "expected ..." where nothing but the next element or field can follow. */
static const char element_end[] = "\",\" or a blank";

/* What a field chooses, in the bits of CronSchedule. */
typedef struct FieldValues {
    uint64_t values;
    uint64_t nth_weekdays;
    uint32_t last_weekdays;
    uint32_t days_to_last;
    uint32_t nearest;
    bool star;
} FieldValues;

static bool
is_rule(const FieldRule *rule, FieldIndex field)
{
    return rule == &field_rules[field];
}

/*
 * Fails unless the word that has just been read ends here. `what` and the text from start on name it, `expected` is
 * what could follow.
 */
static bool
end_word(const CronReader *reader, const FieldRule *rule, const char *what, size_t start, const char *expected)
{
    char read[CRON_EXCERPT_SIZE];
    char found[CRON_EXCERPT_SIZE];

    if (!cron_is_word(cron_peek(reader))) {
        return true;
    }
    return cron_fail(reader, reader->position, rule->name, "%s field: expected %s after %s %s, found %s", rule->name,
                     expected, what, cron_excerpt(reader->text + start, reader->position - start, read),
                     cron_found_at(reader, reader->position, found));
}

/* Reads digits that must give a number low-high. `what` is "value" or "step" or the like in the message. */
static bool
read_number(CronReader *reader, const FieldRule *rule, const char *what, int low, int high, int *number)
{
    size_t start = reader->position;
    char buffer[CRON_EXCERPT_SIZE];

    if (!cron_is_digit(cron_peek(reader))) {
        return cron_fail(reader, start, rule->name, "%s field: expected a %s %d-%d after \"%c\", found %s", rule->name,
                         what, low, high, reader->text[start - 1], cron_found_at(reader, start, buffer));
    }
    *number = cron_read_digits(reader);
    if (*number < low || *number > high) {
        return cron_fail(reader, start, rule->name, "%s field: %s %s is out of range %d-%d", rule->name, what,
                         cron_excerpt(reader->text + start, reader->position - start, buffer), low, high);
    }
    return true;
}

/* Whether a letter is the next and, being no digit's or name's part, means what `letter` means in any case. */
static bool
take_letter(CronReader *reader, char letter)
{
    if (cron_lower(cron_peek(reader)) != letter || cron_is_word(reader->text[reader->position + 1])) {
        return false;
    }
    reader->position++;
    return true;
}

/* Reads a name of the field's values, leaving an "L" behind a weekday's for the caller. */
static bool
read_name(CronReader *reader, const FieldRule *rule, int *value)
{
    const char *start = reader->text + reader->position;
    size_t length = cron_word_length(start);
    size_t without_last = is_rule(rule, FIELD_WEEKDAY) && cron_lower(start[length - 1]) == 'l' ? length - 1 : length;
    char buffer[CRON_EXCERPT_SIZE];
    int i;

    for (i = 0; rule->value_names[i][0] != '\0'; i++) {
        const char *name = rule->value_names[i];

        if (without_last == ABBREVIATION
                ? cron_lower(start[0]) == name[0] && cron_lower(start[1]) == name[1] && cron_lower(start[2]) == name[2]
                : cron_word_equals(start, without_last, name)) {
            *value = rule->low + i;
            reader->position += without_last;
            return true;
        }
    }
    if (is_rule(rule, FIELD_WEEKDAY) && without_last == 0) {
        return cron_fail(reader, reader->position, rule->name,
                         "%s field: expected a day before \"L\", such as 5L or friL", rule->name);
    }
    return cron_fail(reader, reader->position, rule->name, "%s field: unknown name %s, expected %s", rule->name,
                     cron_found_at(reader, reader->position, buffer), rule->expected);
}

/* Reads one value of a field: a number or, where the field has them, a name. What follows is not looked at. */
static bool
read_value(CronReader *reader, const FieldRule *rule, int *value)
{
    char buffer[CRON_EXCERPT_SIZE];
    char first = cron_peek(reader);

    if (cron_is_digit(first)) {
        return read_number(reader, rule, "value", rule->low, rule->high, value);
    }
    if (cron_is_letter(first) && rule->value_names != NULL) {
        return read_name(reader, rule, value);
    }
    if (first == '?' && (is_rule(rule, FIELD_DAY) || is_rule(rule, FIELD_WEEKDAY))) {
        return cron_fail(reader, reader->position, rule->name, "%s field: \"?\" stands alone in its field", rule->name);
    }
    return cron_fail(reader, reader->position, rule->name, "%s field: expected %s, found %s", rule->name,
                     rule->expected, cron_found_at(reader, reader->position, buffer));
}

/* Reads what may follow a range: "/" and a step of 1 up to the field's highest value (pg_cron). */
static bool
read_step(CronReader *reader, const FieldRule *rule, int *step)
{
    size_t start;

    *step = 1;
    if (cron_peek(reader) != '/') {
        return true;
    }
    start = ++reader->position;
    return read_number(reader, rule, "step", 1, rule->high, step) && end_word(reader, rule, "step", start, element_end);
}

/*
 * Adds first to last in steps. Where first is the larger, the values go on from the field's highest to its
 * lowest. Weekdays go round in sevens, and a 7 is 0 wherever it comes up.
 */
static void
add_range(const FieldRule *rule, int first, int last, int step, uint64_t *values)
{
    bool weekdays = is_rule(rule, FIELD_WEEKDAY);
    int size = weekdays ? 7 : rule->high - rule->low + 1;
    int highest = weekdays ? 6 : rule->high;
    int value;

    if (first > last) {
        last += size;
    }
    for (value = first; value <= last; value += step) {
        *values |= UINT64_C(1) << (value > highest ? value - size : value);
    }
}

/* Reads what may follow "L" in day-of-month: "W", "-" and a number of days, or nothing. */
static bool
read_last_day(CronReader *reader, const FieldRule *rule, FieldValues *field)
{
    size_t start;
    int before = 0;

    reader->position++;
    if (take_letter(reader, 'w')) {
        field->nearest |= 1;
        return true;
    }
    if (cron_peek(reader) == '-') {
        start = ++reader->position;
        if (!read_number(reader, rule, "number of days", 1, 30, &before) ||
            !end_word(reader, rule, "number of days", start, element_end)) {
            return false;
        }
    }
    field->days_to_last |= UINT32_C(1) << before;
    return true;
}

/* Reads what makes a value in a day field one of "nW", "dL" and "d#n"; *special says whether it is. */
static bool
read_special_day(CronReader *reader, const FieldRule *rule, int value, FieldValues *field, bool *special)
{
    size_t start;
    int week;

    *special = true;
    if (is_rule(rule, FIELD_DAY) && take_letter(reader, 'w')) {
        field->nearest |= UINT32_C(1) << value;
        return true;
    }
    if (is_rule(rule, FIELD_WEEKDAY) && take_letter(reader, 'l')) {
        field->last_weekdays |= UINT32_C(1) << (value % 7);
        return true;
    }
    if (is_rule(rule, FIELD_WEEKDAY) && cron_peek(reader) == '#') {
        start = ++reader->position;
        if (!read_number(reader, rule, "week", 1, 5, &week) || !end_word(reader, rule, "week", start, element_end)) {
            return false;
        }
        field->nth_weekdays |= UINT64_C(1) << (7 * (week - 1) + value % 7);
        return true;
    }
    *special = false;
    return true;
}

/* Reads a value or a range, each with an optional step, or one of the days that a value begins. */
static bool
read_values(CronReader *reader, const FieldRule *rule, FieldValues *field)
{
    size_t start = reader->position;
    bool special;
    int first;
    int last;
    int step;

    if (!read_value(reader, rule, &first) || !read_special_day(reader, rule, first, field, &special)) {
        return false;
    }
    if (special) {
        return true;
    }
    if (!end_word(reader, rule, "value", start, rule->after_value)) {
        return false;
    }
    last = first;
    if (cron_peek(reader) == '-') {
        start = ++reader->position;
        if (!read_value(reader, rule, &last) || !end_word(reader, rule, "value", start, "\",\", \"/\" or a blank")) {
            return false;
        }
    } else if (cron_peek(reader) == '/') {
        last = is_rule(rule, FIELD_WEEKDAY) && first < 7 ? 6 : rule->high;
    }
    if (!read_step(reader, rule, &step)) {
        return false;
    }
    add_range(rule, first, last, step, &field->values);
    return true;
}

/* Reads one element of a list. */
static bool
read_element(CronReader *reader, const FieldRule *rule, FieldValues *field)
{
    size_t start = reader->position;
    size_t length = cron_word_length(reader->text + start);
    int step;

    if (cron_peek(reader) == '*') {
        reader->position++;
        if (!read_step(reader, rule, &step)) {
            return false;
        }
        add_range(rule, rule->low, rule->high, step, &field->values);
        return true;
    }
    if (is_rule(rule, FIELD_DAY) && cron_peek(reader) == '$') {
        reader->position++;
        field->days_to_last |= 1;
        return end_word(reader, rule, "day", start, element_end);
    }
    if (is_rule(rule, FIELD_DAY) &&
        (cron_word_equals(reader->text + start, length, "l") || cron_word_equals(reader->text + start, length, "lw"))) {
        return read_last_day(reader, rule, field);
    }
    return read_values(reader, rule, field);
}

static bool
read_list(CronReader *reader, const FieldRule *rule, FieldValues *field)
{
    char buffer[CRON_EXCERPT_SIZE];

    field->star = cron_peek(reader) == '*';
    for (;;) {
        if (!read_element(reader, rule, field)) {
            return false;
        }
        if (cron_peek(reader) != ',') {
            break;
        }
        reader->position++;
    }
    if (cron_peek(reader) != '\0' && !cron_is_blank(cron_peek(reader))) {
        return cron_fail(reader, reader->position, rule->name, "%s field: expected \",\" or a blank, found %s",
                         rule->name, cron_found_at(reader, reader->position, buffer));
    }
    return true;
}

/* Reads "?", which stands alone. */
static bool
read_any_day(CronReader *reader, const FieldRule *rule, FieldValues *field)
{
    char buffer[CRON_EXCERPT_SIZE];

    reader->position++;
    if (cron_peek(reader) != '\0' && !cron_is_blank(cron_peek(reader))) {
        return cron_fail(reader, reader->position, rule->name, "%s field: \"?\" stands alone, found %s after it",
                         rule->name, cron_found_at(reader, reader->position, buffer));
    }
    field->star = true;
    add_range(rule, rule->low, rule->high, 1, &field->values);
    return true;
}

/* Reads a whole field and the blanks behind it. */
static bool
read_field(CronReader *reader, FieldIndex index, FieldValues *field)
{
    const FieldRule *rule = &field_rules[index];
    bool any_day = cron_peek(reader) == '?' && (index == FIELD_DAY || index == FIELD_WEEKDAY);

    memset(field, 0, sizeof(*field));
    if (cron_peek(reader) == '\0') {
        return cron_fail(reader, reader->position, rule->name,
                         "%s field: missing, expected five fields: minute hour day-of-month month day-of-week, "
                         "or six with the second first",
                         rule->name);
    }
    if (!(any_day ? read_any_day(reader, rule, field) : read_list(reader, rule, field))) {
        return false;
    }
    cron_skip_blanks(reader);
    return true;
}

/* Whether the text goes on with six words or more, apart by blanks. */
static bool
has_six_words(CronReader ahead)
{
    int words = 0;

    while (cron_peek(&ahead) != '\0' && words < 6) {
        words++;
        while (cron_peek(&ahead) != '\0' && !cron_is_blank(cron_peek(&ahead))) {
            ahead.position++;
        }
        cron_skip_blanks(&ahead);
    }
    return words == 6;
}

/*
 * Refuses dates that never come or too seldom. That depends on three fields: the day-of-month is named as the
 * reason, or the day-of-week where the day-of-month is any.
 */
static bool
check_dates(const CronReader *reader, const CronSchedule *schedule, const size_t positions[FIELD_COUNT])
{
    FieldIndex index = schedule->days == CRON_ALL_DAYS ? FIELD_WEEKDAY : FIELD_DAY;
    const char *name = field_rules[index].name;
    int gap = cron_widest_gap(schedule);

    if (gap == 0) {
        return cron_fail(
            reader, positions[index], name,
            "%s field: this would never fire, expected a day that exists in the months and weekdays chosen", name);
    }
    if (gap > CRON_WIDEST_GAP) {
        return cron_fail(reader, positions[index], name,
                         "%s field: such days are up to %d years apart in the months and weekdays chosen, "
                         "expected at most 8 years",
                         name, (gap * 4 + 730) / 1461);
    }
    return true;
}

bool
cron_read_fields(CronReader *reader, CronSchedule *schedule)
{
    bool six = has_six_words(*reader);
    FieldValues fields[FIELD_COUNT] = {[FIELD_SECOND] = {.values = 1}};
    size_t positions[FIELD_COUNT] = {0};
    char buffer[CRON_EXCERPT_SIZE];
    int i;

    reader->note = six ? " (six fields: second first)" : "";
    for (i = six ? FIELD_SECOND : FIELD_MINUTE; i < FIELD_COUNT; i++) {
        positions[i] = reader->position;
        if (!read_field(reader, (FieldIndex)i, &fields[i])) {
            return false;
        }
    }
    reader->note = "";
    if (cron_peek(reader) != '\0') {
        return cron_fail(reader, reader->position, "expression",
                         "expression: expected end of text after the sixth field, found %s",
                         cron_found_at(reader, reader->position, buffer));
    }

    schedule->kind = CRON_KIND_FIELDS;
    schedule->seconds = fields[FIELD_SECOND].values;
    schedule->minutes = fields[FIELD_MINUTE].values;
    schedule->hours = (uint32_t)fields[FIELD_HOUR].values;
    schedule->days = (uint32_t)fields[FIELD_DAY].values;
    schedule->months = (uint32_t)fields[FIELD_MONTH].values;
    schedule->weekdays = (uint32_t)fields[FIELD_WEEKDAY].values;
    schedule->nth_weekdays = fields[FIELD_WEEKDAY].nth_weekdays;
    schedule->last_weekdays = fields[FIELD_WEEKDAY].last_weekdays;
    schedule->days_to_last = fields[FIELD_DAY].days_to_last;
    schedule->nearest = fields[FIELD_DAY].nearest;
    schedule->minute_star = fields[FIELD_MINUTE].star;
    schedule->hour_star = fields[FIELD_HOUR].star;
    schedule->day_star = fields[FIELD_DAY].star;
    schedule->weekday_star = fields[FIELD_WEEKDAY].star;
    return check_dates(reader, schedule, positions);
}
