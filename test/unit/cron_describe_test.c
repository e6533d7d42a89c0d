/*
 * cron_describe_test.c
 *
 * Tests of cron_describe: the words in both languages as a table, the buffer's limits, and that expressions of
 * different meaning have different words.
 *
 * A stand-alone program.
 */
#define _DEFAULT_SOURCE
#include "../../src/lib/cron/cron.h"
#include "cron_walk.h"
#include "unit.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static void
test_descriptions(void)
{
    static const char *const cases[][3] = {
        {"* * * * *", "every minute", "cada minuto"},
        {"0-59 * * * *", "every minute", "cada minuto"},
        {"*/5 * * * *", "every 5 minutes", "cada 5 minutos"},
        {"0/5 * * * *", "every 5 minutes", "cada 5 minutos"},
        {"*/7 * * * *", "every 7 minutes from minute 0 to 56 of every hour",
         "cada 7 minutos del minuto 0 al 56 de cada hora"},
        {"15,45 * * * *", "at minutes 15 and 45 of every hour", "en los minutos 15 y 45 de cada hora"},
        {"5,10,20-25 * * * *", "at minutes 5, 10 and 20 to 25 of every hour",
         "en los minutos 5, 10 y 20 a 25 de cada hora"},
        {"@hourly", "every hour", "cada hora"},
        {"30 * * * *", "every hour at minute 30", "cada hora en el minuto 30"},
        {"*/5 9-17 * * 1-5", "every 5 minutes from 09:00 to 17:59, Monday to Friday",
         "cada 5 minutos de 09:00 a 17:59, de lunes a viernes"},
        {"* 22-2 * * *", "every minute from 22:00 to 02:59", "cada minuto de 22:00 a 02:59"},
        {"*/30 9-12,15 * * *", "every 30 minutes from 09:00 to 12:59 and from 15:00 to 15:59",
         "cada 30 minutos de 09:00 a 12:59 y de 15:00 a 15:59"},
        {"* 8,10,12-14 * * *", "every minute during hours 8, 10 and 12 to 14",
         "cada minuto durante las horas 8, 10 y 12 a 14"},
        {"*/7 9-17 * * *", "every 7 minutes from minute 0 to 56 of every hour from 09:00 to 17:59",
         "cada 7 minutos del minuto 0 al 56 de cada hora de 09:00 a 17:59"},
        {"*/30,7 7,8 * * *", "whenever the minute is 0, 7 or 30 and the hour is 7 or 8",
         "siempre que el minuto sea 0, 7 o 30 y la hora sea 7 u 8"},
        {"*/30,7 7-11,11 * * *", "whenever the minute is 0, 7 or 30 and the hour is 7 to 11",
         "siempre que el minuto sea 0, 7 o 30 y la hora sea de 7 a 11"},
        {"0 */2 * * *", "every 2 hours", "cada 2 horas"},
        {"0 */5 * * *", "every 5 hours from 00:00 to 20:00", "cada 5 horas de 00:00 a 20:00"},
        {"30 */2 * * *", "every 2 hours from 00:30 to 22:30", "cada 2 horas de 00:30 a 22:30"},
        {"30 */12 * * *", "whenever the minute is 30 and the hour is 0 or 12",
         "siempre que el minuto sea 30 y la hora sea 0 o 12"},

        {"0 2 * * *", "at 02:00 every day", "a las 02:00 todos los días"},
        {"30 1 * * *", "at 01:30 every day", "a la 01:30 todos los días"},
        {"0,30 1 * * *", "at 01:00 and 01:30 every day", "a la 01:00 y 01:30 todos los días"},
        {"0 1,13 * * *", "at 01:00 and 13:00 every day", "a las 01:00 y 13:00 todos los días"},
        {"0,30 8,12,17 * * *", "at 08:00, 08:30, 12:00, 12:30, 17:00 and 17:30 every day",
         "a las 08:00, 08:30, 12:00, 12:30, 17:00 y 17:30 todos los días"},
        {"0,30 9-17 * * *", "at minutes 0 and 30 of hours 9 to 17, every day",
         "en los minutos 0 y 30 de las horas 9 a 17, todos los días"},
        {"0-59 9 * * *", "at minutes 0 to 59 of hour 9, every day",
         "en los minutos 0 a 59 de la hora 9, todos los días"},
        {"30 9-17 * * *", "every hour from 09:30 to 17:30, every day", "cada hora de 09:30 a 17:30, todos los días"},
        {"0 22-2 * * *", "every hour from 22:00 to 02:00, every day", "cada hora de 22:00 a 02:00, todos los días"},
        {"0 0-23 * * *", "every hour from 00:00 to 23:00, every day", "cada hora de 00:00 a 23:00, todos los días"},

        {"* * * * * *", "every second", "cada segundo"},
        {"*/10 * * * * *", "every 10 seconds", "cada 10 segundos"},
        {"*/10 * 9-17 * * *", "every 10 seconds from 09:00:00 to 17:59:59", "cada 10 segundos de 09:00:00 a 17:59:59"},
        {"*/7 * * * * *", "every 7 seconds from second 0 to 56 of every minute",
         "cada 7 segundos del segundo 0 al 56 de cada minuto"},
        {"0,5 * * * * *", "every minute, at seconds 0 and 5", "cada minuto, en los segundos 0 y 5"},
        {"15 */5 * * * *", "every 5 minutes, at second 15", "cada 5 minutos, en el segundo 15"},
        {"15 30 9,12 * * *", "at 09:30:15 and 12:30:15 every day", "a las 09:30:15 y 12:30:15 todos los días"},
        {"15 0 9-17 * * *", "every hour from 09:00:15 to 17:00:15, every day",
         "cada hora de 09:00:15 a 17:00:15, todos los días"},
        {"*/10 0 9 * * *", "at 09:00, every 10 seconds of the minute, every day",
         "a las 09:00, cada 10 segundos del minuto, todos los días"},
        {"15 0,20,40 9-17 * * 1-5", "at minutes 0, 20 and 40 of hours 9 to 17, at second 15, Monday to Friday",
         "en los minutos 0, 20 y 40 de las horas 9 a 17, en el segundo 15, de lunes a viernes"},
        {"*/7 0 0 * * *", "at 00:00, every 7 seconds from second 0 to 56, every day",
         "a las 00:00, cada 7 segundos del segundo 0 al 56, todos los días"},

        {"0 2 * * 0", "at 02:00 on Sunday", "a las 02:00 los domingos"},
        {"0 9 * * mon,wed,fri", "at 09:00 on Monday, Wednesday and Friday",
         "a las 09:00 los lunes, miércoles y viernes"},
        {"0 9 ? * sat,7", "at 09:00 on Saturday and Sunday", "a las 09:00 los sábados y domingos"},
        {"0 9 * * 6-1", "at 09:00, Saturday to Monday", "a las 09:00, de sábado a lunes"},
        {"0 0 * * 5#2", "at 00:00 on the second Friday of the month", "a las 00:00 el segundo viernes del mes"},
        {"0 0 * * friL", "at 00:00 on the last Friday of the month", "a las 00:00 el último viernes del mes"},
        {"0 0 * * 1#1,1#3,1L", "at 00:00 on the first, third and last Monday of the month",
         "a las 00:00 el primer, tercer y último lunes del mes"},
        {"0 0 * * 1,5#4,0#5", "at 00:00 on Monday, on the fourth Friday and on the fifth Sunday of the month",
         "a las 00:00 los lunes, el cuarto viernes y el quinto domingo del mes"},
        {"0 0 * * 5,5#2", "at 00:00 on Friday", "a las 00:00 los viernes"},
        {"0 0 * 5 0#2", "at 00:00 on the second Sunday of May", "a las 00:00 el segundo domingo de mayo"},

        {"@monthly", "at 00:00 on day 1 of the month", "a las 00:00 el día 1 del mes"},
        {"0 0 1,15 * *", "at 00:00 on days 1 and 15 of the month", "a las 00:00 los días 1 y 15 del mes"},
        {"0 0 */2 * *", "at 00:00 every 2 days from day 1 to 31 of the month",
         "a las 00:00 cada 2 días del día 1 al 31 del mes"},
        {"0 0 L * *", "at 00:00 on the last day of the month", "a las 00:00 el último día del mes"},
        {"0 0 $,L * *", "at 00:00 on the last day of the month", "a las 00:00 el último día del mes"},
        {"0 0 L-1 * *", "at 00:00 on the day that is 1 day before the last day of the month",
         "a las 00:00 el día que está 1 día antes del último día del mes"},
        {"0 0 L-3,L-5 * *", "at 00:00 on the days that are 3 and 5 days before the last day of the month",
         "a las 00:00 los días que están 3 y 5 días antes del último día del mes"},
        {"0 0 15W * *", "at 00:00 on the weekday nearest day 15 of the month",
         "a las 00:00 el día de lunes a viernes más cercano al día 15 del mes"},
        {"0 0 1W,15W * *", "at 00:00 on the weekdays nearest days 1 and 15 of the month",
         "a las 00:00 los días de lunes a viernes más cercanos a los días 1 y 15 del mes"},
        {"0 0 LW * *", "at 00:00 on the last weekday of the month",
         "a las 00:00 el último día de lunes a viernes del mes"},
        {"0 0 1,15,L,LW * *", "at 00:00 on days 1 and 15, on the last day and on the last weekday of the month",
         "a las 00:00 los días 1 y 15, el último día y el último día de lunes a viernes del mes"},

        {"0 0 13 * 5", "at 00:00 on day 13 of the month and also on Friday",
         "a las 00:00 el día 13 del mes y también los viernes"},
        {"0 0 13 * */5", "at 00:00 on day 13 of the month, only if it is Friday or Sunday",
         "a las 00:00 el día 13 del mes, solo si es viernes o domingo"},
        {"0 0 1-7 * */7", "at 00:00 on days 1 to 7 of the month, only if it is Sunday",
         "a las 00:00 los días 1 a 7 del mes, solo si es domingo"},
        {"0 0 */2 * 1-5", "at 00:00 every 2 days from day 1 to 31 of the month, only if it is Monday to Friday",
         "a las 00:00 cada 2 días del día 1 al 31 del mes, solo si es un día de lunes a viernes"},
        {"0 0 */9 * 1#1,1#2,5L",
         "at 00:00 every 9 days from day 1 to 28 of the month, "
         "only if it is the first or second Monday or the last Friday of the month",
         "a las 00:00 cada 9 días del día 1 al 28 del mes, "
         "solo si es el primer o segundo lunes o el último viernes del mes"},
        {"0 0 5 6 5L", "at 00:00 on day 5 of the month and also on the last Friday of the month, in June",
         "a las 00:00 el día 5 del mes y también el último viernes del mes, en junio"},
        {"0 0 1-31 * 1", "at 00:00 every day", "a las 00:00 todos los días"},
        {"0 0 L * 0-6", "at 00:00 every day", "a las 00:00 todos los días"},
        {"0 0 */1 * 0-6", "at 00:00 every day", "a las 00:00 todos los días"},

        {"@yearly", "at 00:00 on 1 January", "a las 00:00 el 1 de enero"},
        {"0 0 1 */3 *", "at 00:00 on day 1 of January, April, July and October",
         "a las 00:00 el día 1 de enero, abril, julio y octubre"},
        {"0 0 1 1-6 *", "at 00:00 on day 1 of the month, from January to June",
         "a las 00:00 el día 1 del mes, de enero a junio"},
        {"* * * 1 *", "every minute in January", "cada minuto en enero"},
        {"0 2 * nov-feb *", "at 02:00 every day from November to February",
         "a las 02:00 todos los días de noviembre a febrero"},
        {"0 2 * 9,10 0", "at 02:00 on Sunday in September and October",
         "a las 02:00 los domingos en septiembre y octubre"},

        {"30 seconds", "every 30 seconds, counted from the previous run",
         "cada 30 segundos, a contar desde la ejecución anterior"},
        {"1 second", "every second, counted from the previous run",
         "cada segundo, a contar desde la ejecución anterior"},
        {"@every 5m", "every 5 minutes, counted from the previous run",
         "cada 5 minutos, a contar desde la ejecución anterior"},
        {"@every 90m", "every 1 hour and 30 minutes, counted from the previous run",
         "cada 1 hora y 30 minutos, a contar desde la ejecución anterior"},
        {"@every 2d1h1m1s", "every 2 days, 1 hour, 1 minute and 1 second, counted from the previous run",
         "cada 2 días, 1 hora, 1 minuto y 1 segundo, a contar desde la ejecución anterior"},
        {"@reboot", "once, when the server starts", "una vez, al iniciarse el servidor"},
    };
    char buffer[CRON_DESCRIPTION_SIZE];
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        int language;

        for (language = CRON_ENGLISH; language <= CRON_SPANISH; language++) {
            CHECK(cron_describe(cases[i][0], (CronLanguage)language, buffer, sizeof(buffer), NULL));
            if (!CHECK_STR(buffer, cases[i][1 + language])) {
                printf("    %s\n", cases[i][0]);
            }
        }
    }
}

static void
test_description_limits(void)
{
    /* every field as long in words as it can be */
    static const char longest[] =
        "0,1,3,4,6,7,9,10,12,13,15,16,18,19,21,22,24,25,27,28,30,31,33,34,36,37,39,40,42,43,45,46,48,49,51,52,54,55,57,"
        "58 "
        "*/"
        "59,1,3,4,6,7,9,10,12,13,15,16,18,19,21,22,24,25,27,28,30,31,33,34,36,37,39,40,42,43,45,46,48,49,51,52,54,55,"
        "57 "
        "0,1,3,4,6,7,9,10,12,13,15,16,18,19,21,22 "
        "10,11,13,14,16,17,19,20,22,23,25,26,28,29,L,L-10,L-11,L-13,L-14,L-16,L-17,L-19,L-20,L-22,L-23,L-25,L-26,L-28,"
        "L-29,"
        "LW,10W,11W,13W,14W,16W,17W,19W,20W,22W,23W,25W,26W,28W,29W,1,2,4,5,7,8,L-2,L-3,L-5,L-6,L-8,1W,2W,4W,5W,7W,8W "
        "1,2,4,5,6,8,9,11,12 "
        "0#1,0#2,0#3,0#4,0#5,0L,1#1,1#2,1#3,1#4,1#5,1L,2#1,2#2,2#3,2#4,2#5,2L,3#1,3#2,3#3,3#4,3#5,3L,"
        "4#1,4#2,4#3,4#4,4#5,4L,5#1,5#2,5#3,5#4,5#5,5L,6#1,6#2,6#3,6#4,6#5,6L";
    char whole[CRON_DESCRIPTION_SIZE];
    char buffer[CRON_DESCRIPTION_SIZE + 1];
    CronError error;
    size_t size;

    if (!CHECK(cron_describe(longest, CRON_SPANISH, whole, sizeof(whole), &error))) {
        printf("    at %d: %s\n", error.position, error.message);
    }
    CHECK(strlen(whole) > CRON_DESCRIPTION_SIZE / 2 && strlen(whole) < CRON_DESCRIPTION_SIZE - 100);
    CHECK(strstr(whole, "noviembre y diciembre") != NULL);

    /* a short buffer is filled up to it, and with whole characters: "sábado" is cut before its second */
    CHECK(cron_describe("0 9 * * 6", CRON_SPANISH, whole, sizeof(whole), NULL));
    CHECK_STR(whole, "a las 09:00 los sábados");
    for (size = 0; size <= strlen(whole) + 2; size++) {
        size_t length;

        memset(buffer, 'x', sizeof(buffer));
        CHECK(cron_describe("0 9 * * 6", CRON_SPANISH, buffer, size, NULL));
        CHECK(buffer[size] == 'x');
        if (size == 0) {
            continue;
        }
        length = strlen(buffer);
        CHECK(length == (size > strlen(whole) ? strlen(whole) : size == 19 ? 17 : size - 1));
        CHECK(memcmp(buffer, whole, length) == 0);
    }

    memset(buffer, 'x', sizeof(buffer));
    CHECK(!cron_describe("0 0 31 2 *", CRON_ENGLISH, buffer, sizeof(buffer), &error));
    CHECK(error.position == 4 && buffer[0] == '\0');
    CHECK(!cron_describe("", CRON_ENGLISH, buffer, sizeof(buffer), NULL));
    CHECK(!cron_describe("", CRON_ENGLISH, buffer, 0, NULL));
}

typedef struct Described {
    uint64_t hash;
    CronSchedule schedule;
    char text[48];
} Described;

/* By words, and the same schedules side by side */
static int
compare_described(const void *a, const void *b)
{
    const Described *first = a;
    const Described *second = b;

    if (first->hash != second->hash) {
        return first->hash > second->hash ? 1 : -1;
    }
    return memcmp(&first->schedule, &second->schedule, sizeof(first->schedule));
}

static uint64_t
hash_text(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
    }
    return hash;
}

/* The days of a schedule as cron_walk.h has them. */
static WalkExpression
walked_days(const CronSchedule *schedule)
{
    WalkExpression expression;
    int i;

    memset(&expression, 0, sizeof(expression));
    for (i = 0; i < 32; i++) {
        expression.allowed[WALK_DAY][i] = (schedule->days >> i) & 1;
        expression.nearest[i] = (schedule->nearest >> i) & 1;
        if (i <= 30) {
            expression.before_last[i] = (schedule->days_to_last >> i) & 1;
        }
    }
    for (i = 0; i < 7; i++) {
        int week;

        expression.allowed[WALK_WEEKDAY][i] = (schedule->weekdays >> i) & 1;
        expression.nth[i][6] = (schedule->last_weekdays >> i) & 1;
        for (week = 1; week <= 5; week++) {
            expression.nth[i][week] = (schedule->nth_weekdays >> (7 * (week - 1) + i)) & 1;
        }
    }
    expression.star[WALK_DAY] = schedule->day_star;
    expression.star[WALK_WEEKDAY] = schedule->weekday_star;
    return expression;
}

/* Whether two schedules always fire at the same times; their days are compared in every kind of month. */
static bool
same_meaning(const CronSchedule *a, const CronSchedule *b)
{
    WalkExpression a_days;
    WalkExpression b_days;
    WalkMinute date = {0};
    int first;
    int day;

    if (memcmp(a, b, sizeof(*a)) == 0) {
        return true;
    }
    if (a->kind != b->kind || a->interval_seconds != b->interval_seconds || a->seconds != b->seconds ||
        a->minutes != b->minutes || a->hours != b->hours || a->months != b->months ||
        cron_is_fixed(a) != cron_is_fixed(b)) {
        return false;
    }
    a_days = walked_days(a);
    b_days = walked_days(b);
    for (date.month_length = 28; date.month_length <= 31; date.month_length++) {
        for (first = 0; first < 7; first++) {
            for (day = 1; day <= date.month_length; day++) {
                date.field[WALK_DAY] = day;
                date.field[WALK_WEEKDAY] = (first + day) % 7;
                if (walk_matches_day(&a_days, &date) != walk_matches_day(&b_days, &date)) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* Expressions put together from a few values for each field, so that many are alike. */
static void
test_words_tell_apart(void)
{
    static const char *const seconds[] = {"", "15 ", "*/10 ", "0-59/30 ", "*/7 "};
    static const char *const minutes[] = {"0", "30", "*", "0-59", "*/30", "0,30", "*/5", "0-55/5", "*/7", "7,*/30"};
    static const char *const hours[] = {"*",    "0-23", "9",    "9-17", "*/2",   "0-22/2",
                                        "0,12", "*/12", "22-2", "*/5",  "0-20/5"};
    static const char *const days[] = {"*", "1", "13", "1-31", "*/2", "1-31/2", "L", "L-1", "15W", "LW", "1,L", "?"};
    static const char *const months[] = {"*", "1", "1-6", "1,7"};
    static const char *const weekdays[] = {"*", "1", "1-5", "0-6", "5#2", "5L", "*/2", "0,2,4,6", "1-5,6L", "1,1#3"};
    static const char *const others[] = {"30 seconds", "@every 30s", "@every 5m", "@every 1h", "@every 2h",
                                         "1 second",   "@reboot",    "@every 1d", "@every 1m"};
    const size_t most = 30000;
    Described *described = calloc(most, sizeof(*described));
    char words[CRON_DESCRIPTION_SIZE];
    int language;

    if (!CHECK(described != NULL)) {
        return;
    }
    for (language = CRON_ENGLISH; language <= CRON_SPANISH; language++) {
        size_t count = 0;
        size_t alike = 0;
        size_t i;

        while (count < most) {
            Described *one = &described[count];

            if (count < LENGTH(others)) {
                snprintf(one->text, sizeof(one->text), "%s", others[count]);
            } else {
                snprintf(one->text, sizeof(one->text), "%s%s %s %s %s %s", seconds[walk_random(LENGTH(seconds))],
                         minutes[walk_random(LENGTH(minutes))], hours[walk_random(LENGTH(hours))],
                         days[walk_random(LENGTH(days))], months[walk_random(LENGTH(months))],
                         weekdays[walk_random(LENGTH(weekdays))]);
            }
            if (!cron_parse(one->text, &one->schedule, NULL)) {
                continue;
            }
            CHECK(cron_describe(one->text, (CronLanguage)language, words, sizeof(words), NULL) && words[0] != '\0');
            one->hash = hash_text(words);
            count++;
        }
        qsort(described, count, sizeof(*described), compare_described);
        for (i = 1; i < count; i++) {
            if (described[i].hash != described[i - 1].hash) {
                continue;
            }
            alike++;
            if (!CHECK(same_meaning(&described[i].schedule, &described[i - 1].schedule))) {
                cron_describe(described[i].text, (CronLanguage)language, words, sizeof(words), NULL);
                printf("    %s and %s are both: %s\n", described[i].text, described[i - 1].text, words);
            }
        }
        CHECK(alike > most / 10);
    }
    free(described);
}

int
main(void)
{
    test_descriptions();
    test_description_limits();
    test_words_tell_apart();
    return unit_report();
}
