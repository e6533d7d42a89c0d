/*
 * cron_functions.c: the SQL functions on cron expressions: preview them, describe them, check them. Runs in backends;
 * they look at no table.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "lib/cron/cron.h"
#include "scheduler/due.h"
#include "scheduler/job_table.h"
#include "server/compat.h"
#include "server/settings.h"

PG_FUNCTION_INFO_V1(apapacho_cron_next);
PG_FUNCTION_INFO_V1(apapacho_cron_describe);
PG_FUNCTION_INFO_V1(apapacho_cron_is_valid);

#define DEFAULT_COUNT 5
#define MAX_COUNT 10000

/* Between the calls for one row each. */
typedef struct Preview {
    DueRule rule;
    TimestampTz after;
    int left;
} Preview;

static int
count_argument(FunctionCallInfo fcinfo, int number)
{
    int count = PG_ARGISNULL(number) ? DEFAULT_COUNT : PG_GETARG_INT32(number);

    if (count < 1 || count > MAX_COUNT)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("argument \"count\" must be between 1 and %d", MAX_COUNT)));
    return count;
}

static TimestampTz
from_argument(FunctionCallInfo fcinfo, int number)
{
    TimestampTz from = PG_ARGISNULL(number) ? GetCurrentTransactionStartTimestamp() : PG_GETARG_TIMESTAMPTZ(number);

    if (TIMESTAMP_NOT_FINITE(from))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"from\" must be a finite time")));
    return from;
}

static Preview *
begin_preview(FunctionCallInfo fcinfo)
{
    Preview *preview = palloc0(sizeof(Preview));

    preview->after = from_argument(fcinfo, 1);
    preview->left = count_argument(fcinfo, 2);
    preview->rule.zone = PG_ARGISNULL(3) ? setting_timezone() : job_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(3)));
    if (PG_ARGISNULL(0))
        preview->left = 0;
    else {
        char *expression = text_to_cstring(PG_GETARG_TEXT_PP(0));

        job_parse_schedule(expression, &preview->rule.schedule);
        due_require_ever(&preview->rule, expression);
    }
    return preview;
}

/*
 * apapacho_cron_next(expression, "from", count, time_zone): the next so many times after `from`. None for a null
 * expression and for @reboot.
 */
Datum
apapacho_cron_next(PG_FUNCTION_ARGS)
{
    FuncCallContext *call;
    Preview *preview;

    if (SRF_IS_FIRSTCALL()) {
        MemoryContext before;

        call = SRF_FIRSTCALL_INIT();
        before = MemoryContextSwitchTo(call->multi_call_memory_ctx);
        call->user_fctx = begin_preview(fcinfo);
        MemoryContextSwitchTo(before);
    }
    call = SRF_PERCALL_SETUP();
    preview = call->user_fctx;
    CHECK_FOR_INTERRUPTS();
    if (preview->left > 0 && preview->rule.schedule.kind != CRON_KIND_REBOOT) {
        TimestampTz next = due_next(&preview->rule, preview->after);

        if (next != 0) {
            preview->left--;
            preview->after = next;
            SRF_RETURN_NEXT(call, TimestampTzGetDatum(next));
        }
    }
    SRF_RETURN_DONE(call);
}

static CronLanguage
language_argument(FunctionCallInfo fcinfo, int number)
{
    const char *name = PG_ARGISNULL(number) ? "en" : text_to_cstring(PG_GETARG_TEXT_PP(number));

    if (strcmp(name, "en") == 0)
        return CRON_ENGLISH;
    if (strcmp(name, "es") == 0)
        return CRON_SPANISH;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown language \"%s\"", name),
                    errhint("The languages are en and es.")));
}

/* apapacho_cron_describe(expression, language): the expression in words; null for null. */
Datum
apapacho_cron_describe(PG_FUNCTION_ARGS)
{
    char words[CRON_DESCRIPTION_SIZE];
    CronLanguage language = language_argument(fcinfo, 1);
    CronSchedule schedule;
    CronError error;
    char *expression;

    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    expression = text_to_cstring(PG_GETARG_TEXT_PP(0));
    job_parse_schedule(expression, &schedule);
    if (!cron_describe(expression, language, words, sizeof(words), &error))
        elog(ERROR, "could not describe cron expression \"%s\": %s", expression, error.message);
    PG_RETURN_TEXT_P(cstring_to_text(pg_any_to_server(words, (int)strlen(words), PG_UTF8)));
}

/* apapacho_jobs.cron_is_valid(expression): true, or the error that says what is wrong. */
Datum
apapacho_cron_is_valid(PG_FUNCTION_ARGS)
{
    CronSchedule schedule;

    job_parse_schedule(text_to_cstring(PG_GETARG_TEXT_PP(0)), &schedule);
    PG_RETURN_BOOL(true);
}
