/*
 * job.c: what a running job asks of the platform.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/wait_event.h"

#include "server/job.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/shared.h"

static bool reloaded = false; /* the settings have changed since the run of this process began */
static bool stopped = false;  /* the run of this process has been told to end early */

bool
job_should_stop(const JobRun *run)
{
    CHECK_FOR_INTERRUPTS();
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
        reloaded = true;
    }
    if (run->trigger != JOB_TRIGGER_MANUAL && !setting_enabled)
        stopped = true;
    return stopped;
}

bool
job_was_stopped(void)
{
    return stopped;
}

void
job_begin(void)
{
    stopped = reloaded = false;
}

/* A run that only waits has nothing to be cancelled: it ends, and has succeeded. */
static bool
is_told_to_go(void)
{
    bool told = session_terminating || QueryCancelPending;

    QueryCancelPending = false;
    return told || ProcDiePending;
}

/* Others wait for the end of this process's run, or somebody has cancelled it. */
static bool
is_waited_for(void)
{
    bool waited_for;

    LWLockAcquire(shared->lock, LW_SHARED);
    waited_for = shared_my_run->leave_idleness || shared_my_run->cancel_requested;
    LWLockRelease(shared->lock);
    return waited_for;
}

bool
job_is_to_end_soon(void)
{
    return reloaded || (shared_my_run != NULL && is_waited_for());
}

static void
set_idle(bool idle)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared_my_run->idle = idle;
    LWLockRelease(shared->lock);
}

bool
job_wait_idle(long timeout_ms)
{
    bool told = is_told_to_go();

    if (shared_my_run == NULL || told || !setting_enabled || ConfigReloadPending)
        return false;
    set_idle(true); /* first: whoever wants the run to end from here on wakes it */
    if (!job_is_to_end_soon()) {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        /* DROP DATABASE, of any, waits for this; what else is pending ends the wait, and is the caller's matter */
        if (ProcSignalBarrierPending)
            ProcessProcSignalBarrier();
    }
    set_idle(false);
    told = is_told_to_go();
    return !(told || ConfigReloadPending || job_is_to_end_soon());
}

void
job_progress(int64 done, int64 total, const char *message)
{
    RunProgress *progress;

    if (shared_my_run == NULL)
        return;
    progress = &shared_my_run->progress;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    progress->known = true;
    progress->done = done;
    progress->total = total;
    shared_copy_text(progress->message, sizeof(progress->message), message);
    if (shared_my_run->spec.encoding != GetDatabaseEncoding())
        shared_make_ascii(progress->message);
    LWLockRelease(shared->lock);
}

int64
job_argument_int(const JobRun *run, const char *key, int64 otherwise)
{
    Jsonb *arguments;
    JsonbValue *value;
    JsonbValue buffer;

    if (run->arguments[0] == '\0')
        return otherwise;
    arguments = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(run->arguments)));
    value = getKeyJsonValueFromContainer(&arguments->root, key, strlen(key), &buffer);
    if (value == NULL || value->type == jbvNull)
        return otherwise;
    if (value->type != jbvNumeric)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"%s\" must be a number", key)));
    return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}
