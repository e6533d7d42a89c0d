/*
 * status.c: the scheduler's SQL functions: run a job, and tell how the jobs stand. Runs in the backends that call them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "scheduler/claims.h"
#include "scheduler/dispatch.h"
#include "scheduler/due.h"
#include "scheduler/history.h"
#include "scheduler/job_table.h"
#include "server/compat.h"
#include "server/extension.h"

PG_FUNCTION_INFO_V1(apapacho_run_job);
PG_FUNCTION_INFO_V1(apapacho_job_activity);
PG_FUNCTION_INFO_V1(apapacho_next_slots);
PG_FUNCTION_INFO_V1(apapacho_report_progress);

#define MOST_SLOTS 10000

/* Raises what a run ended with as an ERROR of the caller's. */
static void
raise_failure(const Job *job, const RunTicket *ticket, const RunOutcome *outcome)
{
    ereport(ERROR, (errcode(outcome->sqlstate), errmsg("%s", outcome->message),
                    outcome->detail[0] != '\0' ? errdetail_internal("%s", outcome->detail) : 0,
                    outcome->hint[0] != '\0' ? errhint("%s", outcome->hint) : 0,
                    errcontext("run %lld of job \"%s\" (%s)", (long long)ticket->id, job->name, outcome->status)));
}

/* {"runId": .., "job": .., "status": .., and the job's figures}. */
static Datum
answer(const Job *job, int64 id, const char *status, const char *result)
{
    StringInfoData text;

    initStringInfo(&text);
    appendStringInfo(&text, "{\"runId\": %lld, \"job\": ", (long long)id);
    escape_json(&text, job->name);
    appendStringInfo(&text, ", \"status\": \"%s\"", status);
    if (result[0] == '{' && result[1] != '}')
        appendStringInfo(&text, ", %s", result + 1);
    else
        appendStringInfoChar(&text, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

static void
raise_not_started(const char *name, RequestResult result)
{
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
    case REQUEST_NO_SLOT:
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                        errmsg("job \"%s\" cannot be run: too many runs are on their way", name),
                        errdetail("All databases together have at most %d, of jobs of one owner %d.", MAX_RUNS,
                                  MAX_RUNS_OF_ONE)));
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

/* The job that the caller wants to run: a built-in one, or one of his own. */
static Job *
find_job(const char *name)
{
    Job *job;
    char *why;

    PushActiveSnapshot(GetLatestSnapshot()); /* rights are judged by what is, not by what the transaction sees */
    job = job_table_find(name, CurrentMemoryContext);
    PopActiveSnapshot();
    if (job == NULL || (!job->builtin && !has_privs_of_role(GetUserId(), job->owner)))
        job_unknown(name);
    if (!job->builtin && !job_table_valid_run_as(job, &why))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("job \"%s\" cannot be run", job->name),
                        errdetail_internal("%s", why)));
    return job;
}

/* For a run in another database only the scheduler can write the history. */
static void
require_scheduler(const Job *job)
{
    bool found = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_SCHEDULERS; i++)
        found = found ||
                (shared->schedulers[i].state == SCHEDULER_RUNNING && shared->schedulers[i].database == MyDatabaseId);
    LWLockRelease(shared->lock);
    if (!found)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("job \"%s\" cannot be run: it works in another database, and no scheduler serves this one",
                        job->name),
                 errhint("Check apapacho_jobs.enabled and apapacho_jobs.databases.")));
}

/*
 * apapacho_run_job(job text, wait boolean) and apapacho_jobs.run_job(job text, wait boolean, arguments jsonb): jsonb.
 * Spec section 3.
 */
Datum
apapacho_run_job(PG_FUNCTION_ARGS)
{
    bool wait = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);
    RunSpec spec = {.trigger = JOB_TRIGGER_MANUAL, .attempt = 1, .scheduled_for = GetCurrentTimestamp()};
    RunTicket ticket;
    RunOutcome outcome;
    RequestResult result;
    Job *job;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the job's name must not be null")));
    PreventCommandDuringRecovery("apapacho_run_job()");
    extension_require();
    job = find_job(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    claims_fill_spec(&spec, job);
    spec.requested_by = GetOuterUserId();
    strlcpy(spec.arguments, request_arguments(fcinfo), sizeof(spec.arguments));
    spec.id = history_next_id();
    if (job->database != NULL && (spec.run_database = get_database_oid(job->database, false)) != MyDatabaseId) {
        require_scheduler(job);
        spec.command = claims_command(job);
        if (spec.command == DSM_HANDLE_INVALID)
            raise_not_started(job->name, REQUEST_NO_SLOT);
    }

    result = dispatch_request(&spec, wait, &ticket);
    if (spec.command != DSM_HANDLE_INVALID &&
        ((result != REQUEST_STARTED && result != REQUEST_QUEUED) || ticket.id != spec.id))
        dsm_unpin_segment(spec.command);
    if (result != REQUEST_STARTED && result != REQUEST_QUEUED)
        raise_not_started(job->name, result);
    if (!wait)
        PG_RETURN_DATUM(answer(job, ticket.id, result == REQUEST_STARTED ? "started" : "queued", ""));
    dispatch_wait(&ticket, &outcome);
    if (strcmp(outcome.status, STATUS_SUCCEEDED) != 0)
        raise_failure(job, &ticket, &outcome);
    PG_RETURN_DATUM(answer(job, ticket.id, outcome.status, outcome.result));
}

/* {"done": .., "total": .., "message": ..} */
static Datum
progress_document(const RunProgress *progress)
{
    StringInfoData text;

    initStringInfo(&text);
    appendStringInfo(&text, "{\"done\": %lld", (long long)progress->done);
    if (progress->total >= 0)
        appendStringInfo(&text, ", \"total\": %lld", (long long)progress->total);
    if (progress->message[0] != '\0') {
        appendStringInfoString(&text, ", \"message\": ");
        escape_json(&text, progress->message);
    }
    appendStringInfoChar(&text, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

/*
 * apapacho_jobs.job_activity(job_id bigint): ready (the scheduler of this database is at work), executing, run_id (the
 * run that is at work), queued (runs waiting), progress.
 */
Datum
apapacho_job_activity(PG_FUNCTION_ARGS)
{
    TupleDesc description;
    Datum values[5];
    bool nulls[5] = {false};
    bool ready = false;
    JobRuns runs;

    if (get_call_result_type(fcinfo, NULL, &description) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];

        ready = ready || (slot->state == SCHEDULER_RUNNING && slot->database == MyDatabaseId && slot->ready);
    }
    LWLockRelease(shared->lock);
    dispatch_look(MyDatabaseId, PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0), false, &runs);
    values[0] = BoolGetDatum(ready);
    /* a run whose worker only waits, for its time or for more to do, is not at work */
    if (runs.active && (runs.idle || (runs.started_at == 0 && runs.scheduled_for > clock_now())))
        runs.active = false;
    values[1] = BoolGetDatum(runs.active);
    values[2] = Int64GetDatum(runs.active_id);
    nulls[2] = !runs.active;
    values[3] = Int32GetDatum(runs.queued);
    nulls[4] = !runs.progress.known;
    values[4] = runs.progress.known ? progress_document(&runs.progress) : (Datum)0;
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(description), values, nulls)));
}

/*
 * apapacho_jobs.next_slots(schedule text, time_zone text, settled_until timestamptz, count integer): the next times
 * from now on that are not settled.
 */
Datum
apapacho_next_slots(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    DueRule rule = {.server_start = PgStartTime};
    TimestampTz settled = PG_GETARG_TIMESTAMPTZ(2);
    int count = PG_GETARG_INT32(3);
    TimestampTz now = clock_now();
    TimestampTz slot;

    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    rule.zone = pg_tzset(text_to_cstring(PG_GETARG_TEXT_PP(1)));
    if (rule.zone == NULL || !cron_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &rule.schedule, NULL) ||
        rule.schedule.kind == CRON_KIND_REBOOT)
        return (Datum)0;
    slot = due_upcoming(&rule, settled, now);
    for (int i = 0; i < Min(count, MOST_SLOTS) && slot != 0; i++) {
        Datum value = TimestampTzGetDatum(slot);
        bool null = false;

        tuplestore_putvalues(set->setResult, set->setDesc, &value, &null);
        slot = due_next(&rule, slot);
    }
    return (Datum)0;
}

/* apapacho_report_progress(done bigint, total bigint, message text) */
Datum
apapacho_report_progress(PG_FUNCTION_ARGS)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the progress made must not be null")));
    job_progress(PG_GETARG_INT64(0), PG_ARGISNULL(1) ? -1 : PG_GETARG_INT64(1),
                 PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)));
    PG_RETURN_VOID();
}
