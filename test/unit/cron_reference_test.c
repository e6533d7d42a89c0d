/*
 * cron_reference_test.c
 *
 * Random cron expressions, read by src/lib/cron and by the evaluator of cron_reference.h: both must
 * accept or refuse the same texts, and fire at the same instants, in zones that change their clocks.
 *
 * Each text that is judged, and each accepted expression in a zone, is one check. The run is the same each time.
 * CRON_REFERENCE_SEED (a number) makes it another one, CRON_REFERENCE_COUNT (expressions) longer.
 *
 * Runs in: a program of its own. Memory: static.
 */
#include "cron_reference.h"
#include "lib/cron/cron.h"
#include "unit/unit.h"

#define DEFAULT_SEED 1
#define DEFAULT_COUNT 1800
#define FIRES 1000       /* compared one by one */
#define ZONES_EACH 2     /* zones for each expression */
#define MUTANTS_EACH 4   /* spoiled copies of each expression */
#define PROBES 12        /* starts between fires and beside clock changes, for each expression and zone */
#define REPORTED_MOST 40 /* failures after which the run is given up */
#define WALK 100000      /* seconds that are walked one by one, around a clock change */
#define WALK_EVERY 16    /* expressions of which one is also walked second by second */

#define START_2011 INT64_C(1293840000)
#define START_2020 INT64_C(1577836800)
#define END_2040 INT64_C(2240611200) /* 2041-01-01, not part of it */
#define START_2096 INT64_C(3976214400)
#define END_2105 INT64_C(4291747200)
#define MARGIN (40 * 86400) /* the zones' periods begin so long before the first start */

/* The zones, and their offsets at the start of January and of July 2020: whether libc has the zone at all. */
static const struct {
    const char *name;
    int64_t start, end;
    int january, july;
} zone_list[] = {
    {"America/Santiago", START_2020, END_2040, -3 * 3600, -4 * 3600},
    {"Europe/Berlin", START_2020, END_2040, 3600, 2 * 3600},
    {"Australia/Lord_Howe", START_2020, END_2040, 11 * 3600, 10 * 3600 + 1800}, /* changes by half an hour */
    {"UTC", START_2020, END_2040, 0, 0},
    {"Africa/Casablanca", START_2020, END_2040, 3600, 3600}, /* an hour back in Ramadan */
    {"Asia/Kathmandu", START_2020, END_2040, 5 * 3600 + 2700, 5 * 3600 + 2700},
    {"America/Scoresbysund", START_2020, END_2040, -3600, 0},     /* changed its offset in 2024 */
    {"Pacific/Apia", START_2011, END_2040, 14 * 3600, 13 * 3600}, /* had no 30 December 2011 */
    {"Antarctica/Troll", START_2020, END_2040, 0, 2 * 3600},      /* changes by two hours */
    {"UTC", START_2096, END_2105, 0, 0},                          /* 2100 is not a leap year */
};
#define ZONES ((int)(sizeof(zone_list) / sizeof(zone_list[0])))
static ReferenceZone zones[ZONES];

/* ---- random numbers (splitmix64) ---- */

static uint64_t random_state;

static uint64_t
random_bits(void)
{
    uint64_t bits = (random_state += UINT64_C(0x9e3779b97f4a7c15));

    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    return bits ^ (bits >> 31);
}

static int64_t
between(int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

static bool
percent(int chance)
{
    return between(1, 100) <= chance;
}

/* ---- random expressions ---- */

typedef struct Text {
    char bytes[REFERENCE_TEXT_MAX + 1];
    size_t length;
} Text;

static void
append(Text *text, const char *bytes)
{
    size_t length = strlen(bytes);

    if (text->length + length > REFERENCE_TEXT_MAX)
        abort();
    memcpy(text->bytes + text->length, bytes, length + 1);
    text->length += length;
}

static void
append_number(Text *text, int64_t number)
{
    char digits[32];

    snprintf(digits, sizeof(digits), percent(4) ? "%03lld" : "%lld", (long long)number);
    append(text, digits);
}

static void
append_in_any_case(Text *text, const char *word)
{
    size_t start = text->length;
    int how = (int)between(0, 2);

    append(text, word);
    for (size_t i = start; i < text->length; i++)
        if (how == 1 || (how == 2 && percent(50)))
            text->bytes[i] = (char)toupper((unsigned char)text->bytes[i]);
}

/* A value of the field: often one around which clocks change and months end. */
static int
random_value(const ReferenceField *field)
{
    static const int minutes[] = {0, 1, 15, 29, 30, 31, 45, 59};
    static const int hours[] = {0, 1, 2, 3, 4, 23};
    static const int days[] = {1, 2, 3, 27, 28, 29, 30, 31};
    static const int months[] = {2, 3, 4, 9, 10, 11};

    if (percent(50)) {
        if (field == &reference_second || field == &reference_minute)
            return minutes[between(0, 7)];
        if (field == &reference_hour)
            return hours[between(0, 5)];
        if (field == &reference_day_of_month)
            return days[between(0, 7)];
        if (field == &reference_month)
            return months[between(0, 5)];
    }
    return (int)between(field->lowest, field->highest);
}

static void
append_value(Text *text, const ReferenceField *field)
{
    int value = random_value(field);
    char short_name[4] = "";
    const char *name;

    if (field->names == NULL || percent(50)) {
        append_number(text, value);
        return;
    }
    name = field->names[field == &reference_month ? value - 1 : value % 7];
    memcpy(short_name, name, 3);
    append_in_any_case(text, percent(60) ? short_name : name);
}

static void
append_step(Text *text, const ReferenceField *field)
{
    append(text, "/");
    append_number(text, between(1, percent(70) && field->highest > 7 ? 8 : field->highest));
}

/* An element that only this field of days has. */
static void
append_day_element(Text *text, const ReferenceField *field)
{
    if (field == &reference_day_of_week) {
        append_value(text, field);
        if (percent(50)) {
            append_in_any_case(text, "l");
        } else {
            append(text, "#");
            append_number(text, between(1, 5));
        }
        return;
    }
    switch (between(0, 6)) {
    case 0:
        append(text, "$");
        return;
    case 1:
        append_in_any_case(text, "l");
        return;
    case 2:
        append_in_any_case(text, "lw");
        return;
    case 3:
    case 4:
        append_in_any_case(text, "l-");
        append_number(text, between(1, percent(40) ? 30 : 4));
        return;
    default:
        append_value(text, field);
        append_in_any_case(text, "w");
    }
}

static void
append_element(Text *text, const ReferenceField *field)
{
    bool days = field == &reference_day_of_month || field == &reference_day_of_week;
    int kind = (int)between(days ? 0 : 40, 99);

    if (kind < 40) {
        append_day_element(text, field);
    } else if (kind < 70) {
        append_value(text, field);
    } else if (kind < 76) {
        append_value(text, field);
        append_step(text, field);
    } else if (kind < 95) {
        append_value(text, field);
        append(text, "-");
        append_value(text, field);
        if (kind >= 85)
            append_step(text, field);
    } else {
        append(text, "*");
        if (percent(70))
            append_step(text, field);
    }
}

static void
append_field(Text *text, const ReferenceField *field, int star_chance)
{
    bool days = field == &reference_day_of_month || field == &reference_day_of_week;

    if (days && percent(7)) {
        append(text, "?");
    } else if (percent(star_chance)) {
        append(text, "*");
    } else {
        append_element(text, field);
        while (percent(30) && text->length < 200) {
            append(text, ",");
            append_element(text, field);
        }
    }
}

static void
append_blanks(Text *text)
{
    static const char *const blanks[] = {"\t", "  ", " \t "};

    append(text, percent(95) ? " " : blanks[between(0, 2)]);
}

static void
append_duration(Text *text)
{
    static const char *const units[] = {"d", "h", "m", "s"};
    static const int most[] = {30, 48, 600, 5000};
    int last = (int)between(0, 3);

    for (int i = 0; i <= last; i++) {
        if (i == last || percent(40)) {
            append_number(text, between(i == last ? 1 : 0, most[i]));
            append(text, units[i]);
        }
    }
}

static void
append_words(Text *text)
{
    static const char *const names[] = {"@yearly",   "@annually", "@monthly", "@weekly", "@daily",
                                        "@midnight", "@hourly",   "@reboot",  "@restart"};

    switch (between(0, 2)) {
    case 0:
        append(text, names[between(0, 8)]);
        break;
    case 1:
        append_number(text, between(1, 59));
        if (percent(90))
            append_blanks(text);
        append_in_any_case(text, percent(50) ? "second" : "seconds");
        break;
    default:
        append(text, "@every");
        append_blanks(text);
        append_duration(text);
    }
}

/* The three fields of days where few or no dates match. */
static void
append_rare_days(Text *text)
{
    static const char *const days[] = {"29",   "30",   "31",   "29W",     "31w", "L-27",
                                       "L-28", "l-29", "L-30", "30,L-28", "?",   "1"};
    static const char *const months[] = {"2", "feb", "1", "4", "2,4", "apr-jun/2", "2,6,9", "9", "Dec-Feb", "*"};
    static const char *const weekdays[] = {"*", "?", "*/7", "*/3", "*,1", "5#5", "monL", "0#5,2#5", "*/2", "*"};

    append(text, days[between(0, 11)]);
    append_blanks(text);
    append(text, months[between(0, 9)]);
    append_blanks(text);
    append(text, weekdays[between(0, 9)]);
}

/* An expression that the grammar has; it may fire too seldom. */
static void
random_expression(Text *text)
{
    text->length = 0;
    if (percent(3))
        append_blanks(text);
    if (percent(6)) {
        append_words(text);
    } else {
        if (percent(35)) {
            append_field(text, &reference_second, 12);
            append_blanks(text);
        }
        append_field(text, &reference_minute, 15);
        append_blanks(text);
        append_field(text, &reference_hour, 30);
        append_blanks(text);
        if (percent(8)) {
            append_rare_days(text);
        } else {
            append_field(text, &reference_day_of_month, 40);
            append_blanks(text);
            append_field(text, &reference_month, 60);
            append_blanks(text);
            append_field(text, &reference_day_of_week, 40);
        }
    }
    if (percent(3))
        append_blanks(text);
}

/* Replaces `removed` bytes at a position. */
static void
splice(Text *text, size_t position, size_t removed, const char *bytes)
{
    Text tail = {.length = 0};

    append(&tail, text->bytes + position + removed);
    text->length = position;
    text->bytes[position] = '\0';
    append(text, bytes);
    append(text, tail.bytes);
}

/* One change, which may or may not spoil the expression. */
static void
mutate(Text *text)
{
    static const char *const pieces[] = {
        "0",     "1",   "5",      "7",       "8",          "12",   "13",       "23",   "24", "31",  "32", "59",
        "60",    "99",  "366",    "-",       "/",          ",",    "*",        "#",    "?",  "$",   "L",  "l",
        "W",     "LW",  "L-",     " ",       "\t",         "\n",   "@",        "+",    ".",  "jan", "JU", "sun",
        "SatUr", "mon", "friday", "@every ", "4294967297", "\x01", "d",        "h",    "m",  "s",   "#5", "*/",
        "/0",    "-0",  "0-",     "second",  " *",         "* ",   "\xc3\xa9", "\x7f", "/1", "0W",  "w",  "01",
    };
    const char *piece = pieces[between(0, (int64_t)(sizeof(pieces) / sizeof(pieces[0])) - 1)];
    size_t position = text->length == 0 ? 0 : (size_t)between(0, (int64_t)text->length - 1);
    size_t digits = strspn(text->bytes + position, "0123456789");

    switch (between(0, 4)) {
    case 0:
        splice(text, position, 0, piece);
        break;
    case 1:
        splice(text, position, text->length > 0 ? 1 : 0, "");
        break;
    case 2:
        splice(text, position, digits, piece);
        break;
    case 3:
        splice(text, position, text->length > 0 ? 1 : 0, piece);
        break;
    default:
        splice(text, position, (size_t)between(0, (int64_t)(text->length - position)), "");
    }
}

/* ---- both, side by side ---- */

static uint64_t seed;
static int64_t current_case;

/* Makes a zone libc's own. */
static void
enter_zone(int index)
{
    static int entered = -1;

    if (index != entered) {
        setenv("TZ", zone_list[index].name, 1);
        tzset();
        entered = index;
    }
}

static int32_t
libc_offset(void *context, int64_t utc)
{
    (void)context;
    return (int32_t)reference_offset(utc);
}

static void
print_instant(const char *what, int64_t utc)
{
    time_t instant = (time_t)utc;
    struct tm clock;
    char local[64];

    localtime_r(&instant, &clock);
    strftime(local, sizeof(local), "%a %Y-%m-%d %H:%M:%S %z", &clock);
    printf("    %-10s %lld (%s)\n", what, (long long)utc, local);
}

static void
print_text(const char *text)
{
    printf("    expression \"");
    for (; *text != '\0'; text++)
        printf(*text < ' ' || *text > '~' ? "\\x%02x" : "%c", (unsigned char)*text);
    printf("\" (seed %llu, expression %lld)\n", (unsigned long long)seed, (long long)current_case);
}

/* Asks the library for one fire and compares it; `expected` of the zone's end or later is none before it. */
static bool
same_fire(const char *text, const CronSchedule *schedule, const ReferenceZone *zone, int64_t start, int64_t after,
          int64_t expected)
{
    CronZone clock = {libc_offset, NULL};
    bool zone_left_out = strcmp(zone->name, "UTC") == 0 && after % 2 == 0; /* means UTC */
    int64_t fire = INT64_MAX;
    bool found = cron_next(schedule, zone_left_out ? NULL : &clock, after, &fire);

    if (expected < zone->end ? found && fire == expected : !found || fire >= zone->end)
        return true;
    print_text(text);
    printf("    zone       %s\n", zone->name);
    print_instant("start", start);
    print_instant("after", after);
    if (expected < zone->end)
        print_instant("expected", expected);
    else
        print_instant("none until", zone->end);
    if (found)
        print_instant("got", fire);
    else
        printf("    got        none\n");
    return false;
}

/* A start: anywhere, or near a clock change. */
static int64_t
random_start(int zone_index)
{
    const ReferenceZone *zone = &zones[zone_index];
    int64_t first = zone_list[zone_index].start;
    int64_t start = between(first, zone->end - 1);

    if (zone->count > 1 && percent(60)) {
        static const int reach[] = {2, 3700, 10000, 86400, 40 * 86400};
        int64_t most = reach[between(0, 4)];

        start = zone->periods[between(1, zone->count - 1)].start;
        start += between(-most, percent(50) ? most : 2);
    }
    return start < first ? first : start;
}

/* The fires in a row, then single ones from starts between them and beside clock changes. */
static bool
same_fires(const char *text, const ReferenceSchedule *reference, const CronSchedule *schedule, int zone_index,
           int limit)
{
    static int64_t fires[FIRES];
    const ReferenceZone *zone = &zones[zone_index];
    int64_t start = random_start(zone_index);
    int64_t after = start;
    int count = reference_fires(reference, zone, start, fires, limit);

    for (int i = 0; i < count; i++) {
        if (!same_fire(text, schedule, zone, start, after, fires[i]))
            return false;
        after = fires[i];
    }
    if (count < limit && !same_fire(text, schedule, zone, start, after, zone->end))
        return false;
    for (int i = 0; i < PROBES; i++) {
        int64_t expected = zone->end;

        if (i % 2 == 0 && count > 1 && reference->kind == REFERENCE_CLOCK) {
            int next = (int)between(1, count - 1);

            after = between(fires[next - 1], fires[next] - 1);
            expected = fires[next];
        } else {
            after = random_start(zone_index);
            reference_fires(reference, zone, after, &expected, 1);
        }
        if (!same_fire(text, schedule, zone, after, after, expected))
            return false;
    }
    return true;
}

/* Whether the two evaluators of cron_reference.h agree about the day before and after a clock change. */
static bool
same_walk(const char *text, const ReferenceSchedule *reference, int zone_index)
{
    static int64_t walked[WALK], fires[WALK + 1];
    const ReferenceZone *zone = &zones[zone_index];
    int64_t change = zone->periods[between(0, zone->count - 1)].start;
    int64_t start = between(change - WALK, change);
    int count, expected;

    if (start < zone_list[zone_index].start)
        start = zone_list[zone_index].start;
    count = reference_walk(reference, start, start + WALK, walked, WALK);
    expected = reference_fires(reference, zone, start - 1, fires, count + 1);
    if (expected >= count && memcmp(walked, fires, (size_t)count * sizeof(fires[0])) == 0 &&
        (expected == count || fires[count] >= start + WALK))
        return true;
    print_text(text);
    printf("    zone       %s, the reference's two evaluators differ\n", zone->name);
    print_instant("start", start);
    return false;
}

/* Whether both accept the text or both refuse it, the library as its contract says. */
static bool
same_verdict(const char *text, ReferenceVerdict verdict, CronSchedule *schedule)
{
    char *copy = strdup(text); /* of its exact size: AddressSanitizer guards its end */
    CronError error = {-1, NULL, ""};
    CronSchedule untouched;
    bool accepted, kept;

    memset(schedule, 0xa5, sizeof(*schedule));
    memcpy(&untouched, schedule, sizeof(untouched));
    accepted = cron_parse(copy, schedule, &error);
    free(copy);
    kept = accepted || (memcmp(schedule, &untouched, sizeof(untouched)) == 0 && error.field != NULL &&
                        error.message[0] != '\0' && error.position >= 0 && error.position <= (int)strlen(text));
    if (kept && accepted == (verdict == REFERENCE_ACCEPTED))
        return true;
    print_text(text);
    printf("    expected   %s\n", verdict == REFERENCE_ACCEPTED     ? "accepted"
                                  : verdict == REFERENCE_TOO_SELDOM ? "refused: fires too seldom"
                                                                    : "refused: not in the grammar");
    if (accepted)
        printf("    got        accepted\n");
    else
        printf("    got        refused at %d, %s: %s%s\n", error.position,
               error.field == NULL ? "no field" : error.field, error.message,
               kept ? "" : " (schedule touched, or error not filled in)");
    return false;
}

/* ---- the checks ---- */

static const struct {
    const char *text;
    ReferenceVerdict verdict;
} verdicts[] = {
    {"0 0 29 2 *", REFERENCE_ACCEPTED},
    {"0 0 29W 2 *", REFERENCE_ACCEPTED},
    {"0 0 L-28 2 *", REFERENCE_ACCEPTED},
    {"0 0 * * 5#5", REFERENCE_ACCEPTED},
    {"0 0 1 1 */2", REFERENCE_ACCEPTED},
    {"0 0 1,15,L * ?", REFERENCE_ACCEPTED},
    {"59 59 23 31 12 7", REFERENCE_ACCEPTED},
    {"*/59 */59 */23 */31 * */7", REFERENCE_ACCEPTED},
    {"0 0 */31 */12 */7", REFERENCE_TOO_SELDOM},
    {"0 0 7W,lw,l-30 DECEMBER-Jan/2 sundayL,monL,3#2", REFERENCE_ACCEPTED},
    {" \t@reboot\t", REFERENCE_ACCEPTED},
    {"@every 366d", REFERENCE_ACCEPTED},
    {"@every 1d1h1m1s", REFERENCE_ACCEPTED},
    {"0 0 31 2 *", REFERENCE_TOO_SELDOM},
    {"0 0 29 2 */7", REFERENCE_TOO_SELDOM},
    {"0 0 29 9 */7", REFERENCE_TOO_SELDOM},
    {"0 0 L-29 2 *", REFERENCE_TOO_SELDOM},
    {"0 0 31W 2,4,6,9,11 *", REFERENCE_TOO_SELDOM},
    {"0 0 ? 2 5#5", REFERENCE_TOO_SELDOM},
    {"", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 0 * * * *", REFERENCE_NOT_UNDERSTOOD},
    {"60 0 * * *", REFERENCE_NOT_UNDERSTOOD},
    {"*/60 0 * * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0-5/24 * * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 L-31 * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 0W * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 * * 5#6", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 * * L", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 ?,1 * *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 * ? *", REFERENCE_NOT_UNDERSTOOD},
    {"0 0 * sept *", REFERENCE_NOT_UNDERSTOOD},
    {"60 seconds", REFERENCE_NOT_UNDERSTOOD},
    {"@every 367d", REFERENCE_NOT_UNDERSTOOD},
    {"@every 0s", REFERENCE_NOT_UNDERSTOOD},
    {"@every 1m1h", REFERENCE_NOT_UNDERSTOOD},
    {"@Daily", REFERENCE_NOT_UNDERSTOOD},
};

/* Fires found by hand from calendars and the zones' rules. All times are UTC. */
static const struct {
    const char *text, *zone, *after, *fires;
} known[] = {
    {"0 22-2/2 * * *", "UTC", "24-01-01 00:00:00", "24-01-01 02:00:00, 24-01-01 22:00:00, 24-01-02 00:00:00"},
    {"50/4 * * * *", "UTC", "24-01-01 00:00:00", "24-01-01 00:50:00, 24-01-01 00:54:00, 24-01-01 00:58:00"},
    {"0 0 * * fri-sun", "UTC", "24-06-05 00:00:00", "24-06-07 00:00:00, 24-06-08 00:00:00, 24-06-09 00:00:00"},
    {"0 0 * * 7-2", "UTC", "24-06-05 00:00:00", "24-06-09 00:00:00, 24-06-10 00:00:00, 24-06-11 00:00:00"},
    {"0 0 * * */7", "UTC", "24-06-05 00:00:00", "24-06-09 00:00:00, 24-06-16 00:00:00, 24-06-23 00:00:00"},
    {"0 0 * * 7/2", "UTC", "24-06-05 00:00:00", "24-06-09 00:00:00, 24-06-16 00:00:00, 24-06-23 00:00:00"},
    {"0 0 30-2/2 * *", "UTC", "24-02-01 00:00:00", "24-03-01 00:00:00, 24-03-30 00:00:00, 24-04-01 00:00:00"},
    {"0 0 L-1 2 *", "UTC", "23-01-01 00:00:00", "23-02-27 00:00:00, 24-02-28 00:00:00, 25-02-27 00:00:00"},
    {"0 0 $ 1-3 ?", "UTC", "24-01-01 00:00:00", "24-01-31 00:00:00, 24-02-29 00:00:00, 24-03-31 00:00:00"},
    {"0 0 15W 6,9 *", "UTC", "24-01-01 00:00:00", "24-06-14 00:00:00, 24-09-16 00:00:00, 25-06-16 00:00:00"},
    {"0 0 1W 6,9 *", "UTC", "24-01-01 00:00:00", "24-06-03 00:00:00, 24-09-02 00:00:00, 25-06-02 00:00:00"},
    {"0 0 31W 3,4,8 *", "UTC", "24-01-01 00:00:00", "24-03-29 00:00:00, 24-08-30 00:00:00, 25-03-31 00:00:00"},
    {"0 0 29W 2 *", "UTC", "24-03-01 00:00:00", "28-02-29 00:00:00, 32-02-27 00:00:00, 36-02-29 00:00:00"},
    {"0 0 LW 6,8,9 *", "UTC", "24-01-01 00:00:00", "24-06-28 00:00:00, 24-08-30 00:00:00, 24-09-30 00:00:00"},
    {"0 0 * * 5#5", "UTC", "24-01-01 00:00:00", "24-03-29 00:00:00, 24-05-31 00:00:00, 24-08-30 00:00:00"},
    {"0 0 * * FridayL", "UTC", "24-01-01 00:00:00", "24-01-26 00:00:00, 24-02-23 00:00:00, 24-03-29 00:00:00"},
    {"0 0 13 * 5", "UTC", "24-09-01 00:00:00", "24-09-06 00:00:00, 24-09-13 00:00:00, 24-09-20 00:00:00"},
    {"0 0 13 * ?", "UTC", "24-09-01 00:00:00", "24-09-13 00:00:00, 24-10-13 00:00:00, 24-11-13 00:00:00"},
    {"0 0 */13 * 5", "UTC", "24-09-01 00:00:00", "24-09-27 00:00:00, 24-11-01 00:00:00, 24-12-27 00:00:00"},
    {"@every 1h30m", "UTC", "24-01-01 00:00:01", "24-01-01 01:30:01, 24-01-01 03:00:01, 24-01-01 04:30:01"},
    {"30 2 * * *", "Europe/Berlin", "24-03-30 12:00:00", "24-03-31 01:00:00, 24-04-01 00:30:00, 24-04-02 00:30:00"},
    {"15,45 2 * * *", "Europe/Berlin", "24-03-30 12:00:00", "24-03-31 01:00:00, 24-04-01 00:15:00, 24-04-01 00:45:00"},
    {"*/20 30 2 * * *", "Europe/Berlin", "24-03-30 12:00:00",
     "24-03-31 01:00:00, 24-04-01 00:30:00, 24-04-01 00:30:20"},
    {"*/30 2 * * *", "Europe/Berlin", "24-03-30 12:00:00", "24-04-01 00:00:00, 24-04-01 00:30:00, 24-04-02 00:00:00"},
    {"30 2 * * *", "Europe/Berlin", "24-10-26 12:00:00", "24-10-27 00:30:00, 24-10-28 01:30:00, 24-10-29 01:30:00"},
    {"*/30 2 * * *", "Europe/Berlin", "24-10-26 12:00:00", "24-10-27 00:00:00, 24-10-27 00:30:00, 24-10-27 01:00:00"},
    {"@daily", "America/Santiago", "24-09-07 12:00:00", "24-09-08 04:00:00, 24-09-09 03:00:00, 24-09-10 03:00:00"},
    {"15 2 * * *", "Australia/Lord_Howe", "24-10-05 00:00:00",
     "24-10-05 15:30:00, 24-10-06 15:15:00, 24-10-07 15:15:00"},
    {"45 1 * * *", "Australia/Lord_Howe", "24-04-06 00:00:00",
     "24-04-06 14:45:00, 24-04-07 15:15:00, 24-04-08 15:15:00"},
    {"*/30 2 * 3 7L", "Europe/Berlin", "24-01-01 00:00:00", ""}, /* always in the gap */
    {"0 12 * * *", "Pacific/Apia", "11-12-29 00:00:00", "11-12-29 22:00:00, 11-12-30 10:00:00, 11-12-30 22:00:00"},
};

/* The reference and the library where nothing random can hide a mistake that both make. */
static void
check_known(void)
{
    ReferenceSchedule reference;
    CronSchedule schedule;
    char text[CRON_TEXT_MAX + 2];

    for (size_t i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
        if (!CHECK(reference_parse(verdicts[i].text, &reference) == verdicts[i].verdict))
            print_text(verdicts[i].text);
        CHECK(same_verdict(verdicts[i].text, verdicts[i].verdict, &schedule));
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        struct tm clock = {0};
        int64_t fires[3] = {0};
        char found[3 * 32] = "";
        int64_t after;
        int count;
        int zone = 0;

        while (strcmp(zone_list[zone].name, known[i].zone) != 0)
            zone++;
        enter_zone(zone);
        strptime(known[i].after, "%y-%m-%d %H:%M:%S", &clock);
        after = timegm(&clock);
        CHECK(reference_parse(known[i].text, &reference) == REFERENCE_ACCEPTED);
        count = reference_fires(&reference, &zones[zone], after, fires, 3);
        for (int fire = 0; fire < count; fire++) {
            time_t instant = (time_t)fires[fire];

            gmtime_r(&instant, &clock);
            strftime(found + strlen(found), 32, fire == 0 ? "%y-%m-%d %H:%M:%S" : ", %y-%m-%d %H:%M:%S", &clock);
        }
        if (!CHECK_STR(found, known[i].fires))
            print_text(known[i].text);
        if (!CHECK(same_verdict(known[i].text, REFERENCE_ACCEPTED, &schedule)))
            continue;
        if (count == 0)
            CHECK(!cron_next(&schedule, &(CronZone){libc_offset, NULL}, after, fires));
        for (int fire = 0; fire < count; fire++) {
            CHECK(same_fire(known[i].text, &schedule, &zones[zone], after, after, fires[fire]));
            after = fires[fire];
        }
    }
    snprintf(text, sizeof(text), "%*s", CRON_TEXT_MAX, "0 0 1 1 *");
    CHECK(same_verdict(text, REFERENCE_ACCEPTED, &schedule));
    snprintf(text, sizeof(text), "%*s", CRON_TEXT_MAX + 1, "0 0 1 1 *");
    CHECK(same_verdict(text, REFERENCE_NOT_UNDERSTOOD, &schedule));
}

/* The table of days and the zones' periods against libc. */
static void
check_clocks(void)
{
    const ReferenceDay *days = reference_days();
    bool same = true;

    for (int i = 0; i < REFERENCE_CYCLE_DAYS && same; i++) {
        time_t midnight = (time_t)(REFERENCE_DAY_OF_2000 + i) * 86400;
        struct tm date;

        gmtime_r(&midnight, &date);
        same = days[i].year == date.tm_year + 1900 && days[i].month == date.tm_mon + 1 && days[i].day == date.tm_mday &&
               days[i].weekday == date.tm_wday;
    }
    CHECK(same);
    for (int zone = 0; zone < ZONES; zone++) {
        enter_zone(zone);
        reference_learn_zone(&zones[zone], zone_list[zone].name, zone_list[zone].start - MARGIN, zone_list[zone].end);
        if (!CHECK(reference_offset(START_2020) == zone_list[zone].january &&
                   reference_offset(START_2020 + 182 * 86400) == zone_list[zone].july))
            printf("    zone %s is not what it should be; is tzdata installed?\n", zone_list[zone].name);
    }
}

/* Both read the text; if they accept it, its fires are compared in this many zones. */
static void
check_text(const char *text, int zone_count, int limit)
{
    ReferenceSchedule reference;
    CronSchedule schedule;
    ReferenceVerdict verdict = reference_parse(text, &reference);
    int zone = (int)between(0, ZONES - 1);

    if (!CHECK(same_verdict(text, verdict, &schedule)) || verdict != REFERENCE_ACCEPTED)
        return;
    if (!CHECK(cron_is_fixed(&schedule) == reference.fixed))
        print_text(text);
    for (int i = 0; i < zone_count; i++) {
        enter_zone(zone);
        CHECK(same_fires(text, &reference, &schedule, zone, limit));
        if (current_case % WALK_EVERY == 0 && reference.kind == REFERENCE_CLOCK)
            CHECK(same_walk(text, &reference, zone));
        zone = (zone + (int)between(1, ZONES - 1)) % ZONES;
    }
}

static void
check_random(int64_t expressions)
{
    for (current_case = 0; current_case < expressions && unit_failed < REPORTED_MOST; current_case++) {
        ReferenceSchedule reference;
        Text text;

        random_state = seed * UINT64_C(1000003) + (uint64_t)current_case;
        random_expression(&text);
        if (!CHECK(reference_parse(text.bytes, &reference) != REFERENCE_NOT_UNDERSTOOD))
            print_text(text.bytes);
        check_text(text.bytes, ZONES_EACH, FIRES);
        for (int i = 0; i < MUTANTS_EACH; i++) {
            Text mutant = text;

            do {
                mutate(&mutant);
            } while (percent(25));
            check_text(mutant.bytes, 1, 20);
        }
    }
    if (unit_failed >= REPORTED_MOST)
        printf("given up after %d failures\n", unit_failed);
}

static int64_t
number_from(const char *variable, int64_t otherwise)
{
    const char *text = getenv(variable);

    return text == NULL || *text == '\0' ? otherwise : strtoll(text, NULL, 10);
}

int
main(void)
{
    int64_t expressions = number_from("CRON_REFERENCE_COUNT", DEFAULT_COUNT);

    seed = (uint64_t)number_from("CRON_REFERENCE_SEED", DEFAULT_SEED);
    setvbuf(stdout, NULL, _IOLBF, 0);
    check_clocks();
    check_known();
    check_random(expressions);
    return unit_report();
}
