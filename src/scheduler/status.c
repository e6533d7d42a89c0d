/*
 * status.c: the scheduler's SQL functions: run a job, and tell how the jobs stand. Runs in the backends that call them.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "scheduler/dispatch.h"
#include "scheduler/due.h"
#include "scheduler/history.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/settings.h"

PG_FUNCTION_INFO_V1(apapacho_run_job);
PG_FUNCTION_INFO_V1(apapacho_schedules);

/* Raises what a run ended with as an ERROR of the caller's. */
static void
raise_failure(JobId job, const RunTicket *ticket, const RunOutcome *outcome)
{
    ereport(ERROR, (errcode(outcome->sqlstate), errmsg("%s", outcome->message),
                    outcome->detail[0] != '\0' ? errdetail_internal("%s", outcome->detail) : 0,
                    outcome->hint[0] != '\0' ? errhint("%s", outcome->hint) : 0,
                    errcontext("run %lld of job \"%s\" (%s)", (long long)ticket->id, job_definitions[job].name,
                               outcome->status)));
}

/* {"runId": .., "job": .., "status": .., and the job's figures}. */
static Datum
answer(JobId job, int64 id, const char *status, const char *result)
{
    StringInfoData text;

    initStringInfo(&text);
    appendStringInfo(&text, "{\"runId\": %lld, \"job\": \"%s\", \"status\": \"%s\"", (long long)id,
                     job_definitions[job].name, status);
    if (result[0] == '{' && result[1] != '}')
        appendStringInfo(&text, ", %s", result + 1);
    else
        appendStringInfoChar(&text, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

static void
raise_not_started(JobId job, RequestResult result)
{
    const char *name = job_definitions[job].name;

    switch (result) {
    case REQUEST_OVERLAP:
        ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                        errmsg("job \"%s\" is at work, and another run with other arguments is queued behind it", name),
                        errhint("Try again when these have ended; see apapacho_job_status().")));
        break;
    case REQUEST_RELEASED:
        ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                        errmsg("job \"%s\" cannot be run: the database is being dropped or moved", name)));
        break;
    default:
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                        errmsg("job \"%s\" cannot be run: no background worker is free", name),
                        errhint("Increase max_worker_processes.")));
    }
}

/* The arguments as text; "" when there are none. */
static char *
request_arguments(FunctionCallInfo fcinfo)
{
    char *text;

    if (PG_NARGS() < 3 || PG_ARGISNULL(2))
        return "";
    text = JsonbToCString(NULL, &PG_GETARG_JSONB_P(2)->root, 0);
    if (strlen(text) >= RUN_ARGUMENTS_SIZE)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the arguments of a run have at most %d bytes", RUN_ARGUMENTS_SIZE - 1)));
    return text;
}

/*
 * apapacho_run_job(job text, wait boolean) and apapacho_jobs.run_job(job text, wait boolean, arguments jsonb): jsonb.
 * Spec section 3.
 */
Datum
apapacho_run_job(PG_FUNCTION_ARGS)
{
    RunRequest request;
    RunTicket ticket;
    RunOutcome outcome;
    RequestResult result;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the job's name must not be null")));
    PreventCommandDuringRecovery("apapacho_run_job()");
    extension_require();
    memset(&request, 0, sizeof(request));
    request.database = MyDatabaseId;
    request.job = job_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    request.trigger = JOB_TRIGGER_MANUAL;
    request.wait = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);
    request.requested_by = GetOuterUserId();
    request.scheduled_for = GetCurrentTimestamp();
    request.arguments = request_arguments(fcinfo);
    request.id = history_next_id();

    result = dispatch_request(&request, &ticket);
    if (result != REQUEST_STARTED && result != REQUEST_QUEUED)
        raise_not_started(request.job, result);
    if (!request.wait)
        PG_RETURN_DATUM(answer(request.job, ticket.id, result == REQUEST_STARTED ? "started" : "queued", ""));
    dispatch_wait(&ticket, &outcome);
    if (strcmp(outcome.status, STATUS_SUCCEEDED) != 0)
        raise_failure(request.job, &ticket, &outcome);
    PG_RETURN_DATUM(answer(request.job, ticket.id, outcome.status, outcome.result));
}

/* What the scheduler of this database has in force for a job; without one, what the settings say. */
static bool
find_schedule(JobId job, ScheduledJob *schedule)
{
    bool found = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];

        if (slot->state == SCHEDULER_RUNNING && slot->database == MyDatabaseId && slot->ready) {
            *schedule = slot->jobs[job];
            found = true;
        }
    }
    LWLockRelease(shared->lock);
    if (!found) {
        strlcpy(schedule->cron, setting_cron_text(job), sizeof(schedule->cron));
        schedule->next_run = 0;
    }
    return found;
}

/*
 * apapacho_jobs.schedules(): a row per job: name, long_name, cron, running (it is scheduled), executing, next_run,
 * run_id (the run that is at work).
 */
Datum
apapacho_schedules(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;

    InitMaterializedSRF(fcinfo, 0);
    for (int job = 0; job < JOB_COUNT; job++) {
        ScheduledJob schedule;
        bool scheduled = find_schedule((JobId)job, &schedule) && schedule.cron[0] != '\0';
        Datum values[7];
        bool nulls[7] = {false};
        int64 id;

        values[0] = CStringGetTextDatum(job_definitions[job].name);
        values[1] = CStringGetTextDatum(job_definitions[job].long_name);
        values[2] = CStringGetTextDatum(schedule.cron);
        values[3] = BoolGetDatum(scheduled);
        values[4] = BoolGetDatum(dispatch_executing(MyDatabaseId, (JobId)job, &id));
        values[5] = TimestampTzGetDatum(schedule.next_run);
        nulls[5] = schedule.next_run == 0;
        values[6] = Int64GetDatum(id);
        nulls[6] = id == 0;
        tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
    }
    return (Datum)0;
}
