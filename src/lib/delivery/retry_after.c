/*
 * Retry-After: what a receiver asks for (RFC 9110 section 10.2.3), in seconds or as a date. A parser of its own, since
 * the C library's depends on the locale and curl's takes almost any text for a date. Pure computation, in whatever
 * process delivers; owns no memory.
 */
#include "retry.h"

#include <string.h>

#define SECONDS_PER_DAY INT64_C(86400)

typedef struct Date {
    int year;
    int month; /* 1 … 12 */
    int day;
    int hour;
    int minute;
    int second; /* 60: a leap second */
} Date;

/* ---- Pieces of a date; each moves *c behind what it took, and returns false for anything else ---- */

static bool
take_text(const char **c, const char *text)
{
    size_t length = strlen(text);

    if (strncmp(*c, text, length) != 0)
        return false;
    *c += length;
    return true;
}

/* Exactly this many digits. */
static bool
take_number(const char **c, int digits, int *number)
{
    *number = 0;
    for (int i = 0; i < digits; i++) {
        if (**c < '0' || **c > '9')
            return false;
        *number = *number * 10 + (*(*c)++ - '0');
    }
    return true;
}

/* One of the names; *index: which one. */
static bool
take_name(const char **c, const char *const *names, int count, int *index)
{
    for (*index = 0; *index < count; (*index)++)
        if (take_text(c, names[*index]))
            return true;
    return false;
}

static bool
take_month(const char **c, int *month)
{
    static const char *const names[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int index;

    if (!take_name(c, names, 12, &index))
        return false;
    *month = index + 1;
    return true;
}

static bool
take_time(const char **c, Date *date)
{
    return take_number(c, 2, &date->hour) && take_text(c, ":") && take_number(c, 2, &date->minute) &&
           take_text(c, ":") && take_number(c, 2, &date->second);
}

/* ---- Dates ---- */

/* The days from 1970-01-01 to a day of the Gregorian calendar; years are counted from March. */
static int64_t
days_since_1970(const Date *date)
{
    int64_t year = date->year - (date->month <= 2);
    int64_t month = (date->month + 9) % 12; /* March is 0 */
    int64_t day_of_year = (153 * month + 2) / 5 + date->day - 1;

    return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468;
}

static int64_t
seconds_since_1970(const Date *date)
{
    return ((days_since_1970(date) * 24 + date->hour) * 60 + date->minute) * 60 + date->second;
}

static bool
date_exists(const Date *date)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = date->year % 4 == 0 && (date->year % 100 != 0 || date->year % 400 == 0);

    return date->year >= 1 && date->day >= 1 && date->day <= days[date->month - 1] + (leap && date->month == 2) &&
           date->hour <= 23 && date->minute <= 59 && date->second <= 60;
}

/* The year of two digits that is no more than 50 years after now (RFC 9110 section 5.6.7). */
static void
complete_year(Date *date, int64_t now_s)
{
    int two_digits = date->year;

    /* Downwards from the last century that there can be: the first one that fits. A day that does not exist in that
     * year is refused later. */
    for (int century = 9900; century >= 0; century -= 100) {
        date->year = century + two_digits;
        if (seconds_since_1970(date) <= now_s + 50 * 365 * SECONDS_PER_DAY + 13 * SECONDS_PER_DAY)
            return;
    }
}

/* Sun, 06 Nov 1994 08:49:37 GMT */
static bool
parse_fixdate(const char *c, Date *date)
{
    static const char *const days[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
    int day;

    return take_name(&c, days, 7, &day) && take_text(&c, ", ") && take_number(&c, 2, &date->day) &&
           take_text(&c, " ") && take_month(&c, &date->month) && take_text(&c, " ") &&
           take_number(&c, 4, &date->year) && take_text(&c, " ") && take_time(&c, date) && take_text(&c, " GMT") &&
           *c == '\0';
}

/* Sunday, 06-Nov-94 08:49:37 GMT */
static bool
parse_rfc850(const char *c, int64_t now_s, Date *date)
{
    static const char *const days[] = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
    int day;

    if (!take_name(&c, days, 7, &day) || !take_text(&c, ", ") || !take_number(&c, 2, &date->day) ||
        !take_text(&c, "-") || !take_month(&c, &date->month) || !take_text(&c, "-") ||
        !take_number(&c, 2, &date->year) || !take_text(&c, " ") || !take_time(&c, date) || !take_text(&c, " GMT") ||
        *c != '\0')
        return false;
    complete_year(date, now_s);
    return true;
}

/* Sun Nov  6 08:49:37 1994 */
static bool
parse_asctime(const char *c, Date *date)
{
    static const char *const days[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
    int day;

    return take_name(&c, days, 7, &day) && take_text(&c, " ") && take_month(&c, &date->month) && take_text(&c, " ") &&
           (take_text(&c, " ") ? take_number(&c, 1, &date->day) : take_number(&c, 2, &date->day)) &&
           take_text(&c, " ") && take_time(&c, date) && take_text(&c, " ") && take_number(&c, 4, &date->year) &&
           *c == '\0';
}

bool
delivery_retry_after_parse(const char *value, int64_t now_s, int64_t *seconds)
{
    char text[40]; /* longer than any date */
    const char *start = value + strspn(value, " \t");
    size_t length = strlen(start);
    size_t digits = strspn(start, "0123456789");
    int64_t count = 0;
    Date date = {0};

    while (length > 0 && (start[length - 1] == ' ' || start[length - 1] == '\t'))
        length--;
    if (length > 0 && digits == length) {
        for (size_t i = 0; i < digits && count < DELIVERY_RETRY_AFTER_MAX; i++)
            count = count * 10 + (start[i] - '0');
    } else {
        if (length >= sizeof text)
            return false;
        memcpy(text, start, length);
        text[length] = '\0';
        if (!parse_fixdate(text, &date) && !parse_rfc850(text, now_s, &date) && !parse_asctime(text, &date))
            return false;
        if (!date_exists(&date))
            return false;
        count = seconds_since_1970(&date) - now_s;
    }
    *seconds = count < 0 ? 0 : count > DELIVERY_RETRY_AFTER_MAX ? DELIVERY_RETRY_AFTER_MAX : count;
    return true;
}
