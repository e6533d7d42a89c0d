/*
 * words.c
 *
 * The words of descriptions, a table for each language, and the writing of lists and times.
 *
 * Runs in: any process, see cron.h. Writes into the caller's buffer only, in UTF-8.
 */
#include "words.h"

#include "calendar.h"

#include <stdio.h>
#include <string.h>

#define SHORTEST_RANGE 3
#define SHORTEST_PROGRESSION 4

static const CronWords english = {
    .and_word = " and ",
    .or_word = " or ",
    .or_before_o = " or ",
    .to = " to ",
    .range_in_or = "",

    .every = "every ",
    .unit = {"second", "minute", "hour", "day"},
    .units = {"seconds", "minutes", "hours", "days"},
    .from_value = {" from second ", " from minute ", " from hour ", " from day "},
    .to_value = " to ",

    .from_previous = ", counted from the previous run",
    .reboot = "once, when the server starts",

    .at = "at ",
    .at_one = "at ",
    .from_time = " from ",
    .to_time = " to ",
    .and_from_time = " and from ",
    .at_value = {"at second ", "at minute ", NULL, NULL},
    .at_values = {"at seconds ", "at minutes ", NULL, NULL},
    .of_every = {NULL, " of every minute", " of every hour", NULL},
    .of_the_minute = " of the minute",
    .of_hour = " of hour ",
    .of_hours = " of hours ",
    .during_hours = " during hours ",
    .whenever_minute = "whenever the minute is ",
    .and_the_hour = " and the hour is ",

    .every_day = "every day",
    .on = "on ",
    .day = "day ",
    .days = "days ",
    .last_day = "the last day",
    .before_last = "the day that is ",
    .before_last_several = "the days that are ",
    .day_before_last = " day before the last day",
    .days_before_last = " days before the last day",
    .nearest = "the weekday nearest day ",
    .nearest_several = "the weekdays nearest days ",
    .last_working_day = "the last weekday",
    .the = "the ",
    .week = {"first", "second", "third", "fourth", "fifth", "last"},
    .on_weekdays = "on ",
    .weekday_range = "",
    .if_weekday_range = "",
    .weekday = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"},
    .weekday_several = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"},
    .only_if = ", only if it is ",
    .and_also = " and also ",
    .of_the_month = " of the month",

    .on_date = "on ",
    .date_month = " ",
    .of_months = " of ",
    .in_months = "in ",
    .from_month = "from ",
    .to_month = " to ",
    .month = {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December"},
};

static const CronWords spanish = {
    .and_word = " y ",
    .or_word = " o ",
    .or_before_o = " u ",
    .to = " a ",
    .range_in_or = "de ",

    .every = "cada ",
    .unit = {"segundo", "minuto", "hora", "día"},
    .units = {"segundos", "minutos", "horas", "días"},
    .from_value = {" del segundo ", " del minuto ", " de la hora ", " del día "},
    .to_value = " al ",

    .from_previous = ", a contar desde la ejecución anterior",
    .reboot = "una vez, al iniciarse el servidor",

    .at = "a las ",
    .at_one = "a la ",
    .from_time = " de ",
    .to_time = " a ",
    .and_from_time = " y de ",
    .at_value = {"en el segundo ", "en el minuto ", NULL, NULL},
    .at_values = {"en los segundos ", "en los minutos ", NULL, NULL},
    .of_every = {NULL, " de cada minuto", " de cada hora", NULL},
    .of_the_minute = " del minuto",
    .of_hour = " de la hora ",
    .of_hours = " de las horas ",
    .during_hours = " durante las horas ",
    .whenever_minute = "siempre que el minuto sea ",
    .and_the_hour = " y la hora sea ",

    .every_day = "todos los días",
    .on = "",
    .day = "el día ",
    .days = "los días ",
    .last_day = "el último día",
    .before_last = "el día que está ",
    .before_last_several = "los días que están ",
    .day_before_last = " día antes del último día",
    .days_before_last = " días antes del último día",
    .nearest = "el día de lunes a viernes más cercano al día ",
    .nearest_several = "los días de lunes a viernes más cercanos a los días ",
    .last_working_day = "el último día de lunes a viernes",
    .the = "el ",
    .week = {"primer", "segundo", "tercer", "cuarto", "quinto", "último"},
    .on_weekdays = "los ",
    .weekday_range = "de ",
    .if_weekday_range = "un día de ",
    .weekday = {"domingo", "lunes", "martes", "miércoles", "jueves", "viernes", "sábado"},
    .weekday_several = {"domingos", "lunes", "martes", "miércoles", "jueves", "viernes", "sábados"},
    .only_if = ", solo si es ",
    .and_also = " y también ",
    .of_the_month = " del mes",

    .on_date = "el ",
    .date_month = " de ",
    .of_months = " de ",
    .in_months = "en ",
    .from_month = "de ",
    .to_month = " a ",
    .month = {"enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre",
              "noviembre", "diciembre"},
};

const CronWords *
cron_words(CronLanguage language)
{
    return language == CRON_SPANISH ? &spanish : &english;
}

void
cron_write(CronWriter *writer, const char *text)
{
    size_t length = strlen(text);

    if (writer->full) {
        return;
    }
    if (length >= writer->size - writer->length) {
        writer->full = true;
        length = writer->size - writer->length - 1;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
            length--;
        }
    }
    memcpy(writer->buffer + writer->length, text, length);
    writer->length += length;
    writer->buffer[writer->length] = '\0';
}

void
cron_write_number(CronWriter *writer, int number)
{
    char text[16];

    (void)snprintf(text, sizeof(text), "%d", number);
    cron_write(writer, text);
}

void
cron_write_time(CronWriter *writer, int hour, int minute, int second)
{
    char text[40];

    if (second < 0) {
        (void)snprintf(text, sizeof(text), "%02d:%02d", hour, minute);
    } else {
        (void)snprintf(text, sizeof(text), "%02d:%02d:%02d", hour, minute, second);
    }
    cron_write(writer, text);
}

void
cron_write_separator(CronWriter *writer, int index, int count, const char *last)
{
    if (index > 0) {
        cron_write(writer, index < count - 1 ? ", " : last);
    }
}

/* The number of values from `first` on that follow each other in a set; first is one of them. */
static int
run_length(uint64_t bits, int first)
{
    uint64_t gaps = ~(bits >> first);

    return gaps == 0 ? 64 : cron_lowest(gaps);
}

/* Takes the next element of a list of numbers out of a set; its first value, and in *length how many it has. */
static int
take_element(uint64_t *bits, int *length)
{
    int first = cron_lowest(*bits);

    *length = run_length(*bits, first);
    if (*length < SHORTEST_RANGE) {
        *length = 1;
    }
    *bits &= ~(((UINT64_C(1) << *length) - 1) << first);
    return first;
}

static void
write_numbers(CronWriter *writer, uint64_t bits, bool or_list)
{
    const CronWords *words = writer->words;
    uint64_t rest = bits;
    int count = 0;
    int length;
    int i;

    while (rest != 0) {
        (void)take_element(&rest, &length);
        count++;
    }
    for (i = 0; i < count; i++) {
        int first = take_element(&bits, &length);
        bool sounds_like_o = length == 1 && (first == 8 || first == 11);
        const char *or_word = sounds_like_o ? words->or_before_o : words->or_word;

        cron_write_separator(writer, i, count, or_list ? or_word : words->and_word);
        if (or_list && length > 1) {
            cron_write(writer, words->range_in_or);
        }
        cron_write_number(writer, first);
        if (length > 1) {
            cron_write(writer, words->to);
            cron_write_number(writer, first + length - 1);
        }
    }
}

void
cron_write_numbers(CronWriter *writer, uint64_t bits)
{
    write_numbers(writer, bits, false);
}

void
cron_write_numbers_or(CronWriter *writer, uint64_t bits)
{
    write_numbers(writer, bits, true);
}

int
cron_count(uint64_t bits)
{
    return __builtin_popcountll(bits);
}

bool
cron_is_run(uint64_t bits, int size, int *first, int *length)
{
    uint64_t all = (UINT64_C(1) << size) - 1;
    uint64_t before = ((bits << 1) | (bits >> (size - 1))) & all; /* the values whose predecessor is in the set */
    uint64_t starts = bits & ~before;

    *length = cron_count(bits);
    if (bits == all) {
        *first = 0;
        return true;
    }
    if (cron_count(starts) != 1) {
        return false;
    }
    *first = cron_lowest(starts);
    return true;
}

bool
cron_is_progression(uint64_t bits, int *first, int *step, int *last)
{
    uint64_t rest = bits & (bits - 1);

    if (rest == 0) {
        return false;
    }
    *first = cron_lowest(bits);
    *step = cron_lowest(rest) - *first;
    *last = cron_lowest(rest);
    for (rest &= rest - 1; rest != 0; rest &= rest - 1) {
        if (cron_lowest(rest) - *last != *step) {
            return false;
        }
        *last = cron_lowest(rest);
    }
    return true;
}

void
cron_write_flow(CronWriter *writer, CronFlow flow)
{
    cron_write(writer, flow == CRON_FLOW_COMMA ? ", " : " ");
}

void
cron_write_every(CronWriter *writer, int count, CronUnit unit)
{
    cron_write(writer, writer->words->every);
    if (count == 1) {
        cron_write(writer, writer->words->unit[unit]);
    } else {
        cron_write_number(writer, count);
        cron_write(writer, " ");
        cron_write(writer, writer->words->units[unit]);
    }
}

bool
cron_write_progression(CronWriter *writer, uint64_t values, CronUnit unit)
{
    int first;
    int step;
    int last;

    if (cron_count(values) < SHORTEST_PROGRESSION || !cron_is_progression(values, &first, &step, &last) || step == 1) {
        return false;
    }
    cron_write_every(writer, step, unit);
    cron_write(writer, writer->words->from_value[unit]);
    cron_write_number(writer, first);
    cron_write(writer, writer->words->to_value);
    cron_write_number(writer, last);
    return true;
}
