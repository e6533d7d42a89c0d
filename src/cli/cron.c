/*
 * The command `cron next`: what an expression means and when it fires, by the same library as the server's, without a
 * server. Runs in the main thread.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "commands.h"
#include "json.h"
#include "lib/cron/cron.h"
#include "message.h"
#include "options.h"
#include "zone.h"

const Option cron_next_options[] = {
    {"count", 'n', OPTION_NUMBER, "COUNT", "so many times (5)", 1, 1000},
    {"zone", 'z', OPTION_TEXT, "ZONE", "time zone, e.g. America/Santiago (the local one)", 0, 0},
    {"from", 'f', OPTION_TEXT, "TIME", "after this time of the zone, e.g. \"2026-12-24 18:00\" (now)", 0, 0},
    {"language", 'l', OPTION_TEXT, "LANGUAGE", "of the description: en or es (en)", 0, 0},
    {0},
};

typedef struct Question {
    const char *expression;
    const char *zone_name; /* as the option says; may be NULL */
    CronSchedule schedule;
    CronZone zone;
    CronLanguage language;
    int64_t from;
} Question;

/* "2026-12-24 18:00:30", without the seconds, or the date alone; a T may stand for the blank. */
static bool
read_time(const char *text, int64_t *instant)
{
    static const char *const formats[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M",
                                          "%Y-%m-%d"};

    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct tm local = {.tm_isdst = -1};
        const char *end = strptime(text, formats[i], &local);
        int day = local.tm_mday;

        if (end == NULL || *end != '\0' || local.tm_year + 1900 < 1 || local.tm_year + 1900 > 9999)
            continue;
        *instant = mktime(&local);
        return local.tm_mday == day; /* not the 30th of February */
    }
    return false;
}

static bool
read_expression(Question *question)
{
    CronError error;

    if (cron_parse(question->expression, &question->schedule, &error))
        return true;
    message_error("invalid cron expression: %s\n%s\n%*s", error.message, question->expression, error.position + 1, "^");
    return false;
}

static bool
read_question(const CommandLine *line, Question *question)
{
    const char *from = option_text(line, "from");
    const char *language = option_text(line, "language");

    question->expression = line->arguments[0];
    question->zone_name = option_text(line, "zone");
    if (!zone_use(question->zone_name, &question->zone)) {
        message_error("unknown time zone \"%s\"", question->zone_name);
        return false;
    }
    if (language != NULL && strcmp(language, "en") != 0 && strcmp(language, "es") != 0) {
        message_error("--language must be en or es, not \"%s\"", language);
        return false;
    }
    question->language = language != NULL && strcmp(language, "es") == 0 ? CRON_SPANISH : CRON_ENGLISH;
    question->from = time(NULL);
    if (from != NULL && !read_time(from, &question->from)) {
        message_error("--from must be a time such as \"2026-12-24 18:00\", not \"%s\"", from);
        return false;
    }
    return true;
}

static void
print_for_people(const Question *question, const char *description, long count)
{
    int64_t instant = question->from;
    Text text = {0};

    text_format(&text, "%s%s%s: %s (%s)\n", colour(stdout, COLOUR_BOLD), question->expression,
                colour(stdout, COLOUR_PLAIN), description, zone_name(question->zone_name));
    while (count-- > 0 && cron_next(&question->schedule, &question->zone, instant, &instant)) {
        text_add(&text, "  ");
        zone_add_time(&text, instant, false);
        text_add(&text, "\n");
    }
    fputs(text.data, stdout);
    text_free(&text);
}

static void
print_json(const Question *question, const char *description, long count)
{
    int64_t instant = question->from;
    const char *separator = "";
    Text text = {0};

    text_add(&text, "{\"expression\": ");
    json_add_string(&text, question->expression);
    text_add(&text, ", \"description\": ");
    json_add_string(&text, description);
    text_add(&text, ", \"timeZone\": ");
    json_add_string(&text, zone_name(question->zone_name));
    text_add(&text, ", \"next\": [");
    while (count-- > 0 && cron_next(&question->schedule, &question->zone, instant, &instant)) {
        Text time = {0};

        zone_add_time(&time, instant, true);
        text_format(&text, "%s\"%s\"", separator, time.data);
        separator = ", ";
        text_free(&time);
    }
    text_add(&text, "]}\n");
    fputs(text.data, stdout);
    text_free(&text);
}

ExitCode
command_cron_next(const CommandLine *line)
{
    char description[CRON_DESCRIPTION_SIZE];
    long count = option_number(line, "count", 5);
    Question question;

    if (!read_question(line, &question))
        return usage_hint(line->command);
    if (!read_expression(&question))
        return EXIT_FAILED;
    cron_describe(question.expression, question.language, description, sizeof description, NULL);
    if (option_flag(line, "json"))
        print_json(&question, description, count);
    else
        print_for_people(&question, description, count);
    return EXIT_DONE;
}
