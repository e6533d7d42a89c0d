/*
 * job_control.c: the SQL functions that pause, resume and delete jobs and cancel runs, and the trigger that tells the
 * scheduler of all changes to the table. Runs in the backends of those who call them.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "scheduler/database_events.h"
#include "scheduler/dispatch.h"
#include "scheduler/job_table.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/shared.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_pause_job);
PG_FUNCTION_INFO_V1(apapacho_resume_job);
PG_FUNCTION_INFO_V1(apapacho_unschedule_job);
PG_FUNCTION_INFO_V1(apapacho_cancel_run);
PG_FUNCTION_INFO_V1(apapacho_job_changed);

static const char pause_sql[] = "UPDATE apapacho_jobs.job SET paused = $2, updated_at = now() WHERE id = $1";

static const char delete_sql[] = "DELETE FROM apapacho_jobs.job WHERE id = $1";

static const char run_owner_sql[] =
    "SELECT owner::pg_catalog.oid::pg_catalog.int8 FROM apapacho_jobs.run WHERE id = $1";

static char *
name_argument(FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"name\" must not be null")));
    return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

static bool
set_paused(const char *name, bool paused)
{
    Oid types[] = {INT8OID, BOOLOID};
    Datum values[2];
    Job *job = job_table_lock_own(name);

    if (job->paused == paused)
        return false;
    values[0] = Int64GetDatum(job->id);
    values[1] = BoolGetDatum(paused);
    (void)job_table_execute(pause_sql, 2, types, values, NULL);
    return true;
}

/* apapacho_pause_job(name): whether it was in force. */
Datum
apapacho_pause_job(PG_FUNCTION_ARGS)
{
    PreventCommandDuringRecovery("apapacho_pause_job()");
    extension_require();
    PG_RETURN_BOOL(set_paused(name_argument(fcinfo), true));
}

/* apapacho_resume_job(name): whether it was paused. */
Datum
apapacho_resume_job(PG_FUNCTION_ARGS)
{
    PreventCommandDuringRecovery("apapacho_resume_job()");
    extension_require();
    PG_RETURN_BOOL(set_paused(name_argument(fcinfo), false));
}

/* apapacho_unschedule_job(name): whether there was such a job. */
Datum
apapacho_unschedule_job(PG_FUNCTION_ARGS)
{
    Oid types[] = {INT8OID};
    Datum values[1];
    Job *job;

    PreventCommandDuringRecovery("apapacho_unschedule_job()");
    extension_require();
    job = job_table_lock(name_argument(fcinfo), CurrentMemoryContext);
    if (job == NULL)
        PG_RETURN_BOOL(false);
    job_require_rights(job, GetUserId());
    if (job->builtin)
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("cannot delete built-in job \"%s\"", job->name),
                        errhint("Pause it with apapacho_pause_job(), or disable it by its setting: ALTER SYSTEM SET %s"
                                " = ''.",
                                job_setting(job))));
    values[0] = Int64GetDatum(job->id);
    (void)job_table_execute(delete_sql, 1, types, values, NULL);
    PG_RETURN_BOOL(true);
}

/* The owner of a run's job: of one that is on its way, else of one in the history; InvalidOid: there is none. */
static Oid
owner_of_run(int64 id)
{
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(id)};
    Oid owner = InvalidOid;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state != RUN_FREE && run->spec.id == id && run->spec.database == MyDatabaseId)
            owner = run->spec.owner;
    }
    LWLockRelease(shared->lock);
    if (OidIsValid(owner))
        return owner;

    return (Oid)job_table_execute(run_owner_sql, 1, types, values, NULL);
}

/* apapacho_cancel_run(run_id): whether the run was queued or at work. One error for all runs that are not the caller's.
 */
Datum
apapacho_cancel_run(PG_FUNCTION_ARGS)
{
    Oid owner;
    int64 id;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"run_id\" must not be null")));
    PreventCommandDuringRecovery("apapacho_cancel_run()");
    extension_require();
    id = PG_GETARG_INT64(0);
    owner = owner_of_run(id);
    if (!OidIsValid(owner) || !has_privs_of_role(GetUserId(), owner))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown run %lld", (long long)id),
                        errhint("The runs of your jobs are in apapacho_jobs.history.")));
    PG_RETURN_BOOL(dispatch_cancel(MyDatabaseId, id));
}

/* apapacho_jobs.job_changed(): the trigger of apapacho_jobs.job. */
Datum
apapacho_job_changed(PG_FUNCTION_ARGS)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("function apapacho_jobs.job_changed() is a trigger's")));
    database_events_jobs_changed();
    PG_RETURN_POINTER(NULL);
}
