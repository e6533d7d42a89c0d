/*
 * worker.c: the process of a run: records the start, does the job, records the end, tells those who wait; goes on with
 * the run that is queued behind it, if any, and exits.
 *
 * Runs in a dynamic background worker connected to the run's database as the bootstrap superuser. Everything of a run
 * is allocated in a memory context of its own. SIGTERM (shutdown, pg_terminate_backend, DROP DATABASE) cancels the job
 * and is recorded as an interruption; one that comes when that takes too long ends the process at once. A shutdown may
 * send several.
 */
#include "postgres.h"

#include <signal.h>
#include <time.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "scheduler/worker.h"
#include "server/extension.h"
#include "server/session.h"
#include "server/xact.h"

#define RECORDING_SECONDS 2 /* time to write down the interruption, in which further SIGTERMs change nothing */

static volatile time_t terminating_since;

static void
handle_terminate(SIGNAL_ARGS)
{
    int saved_errno = errno;

    if (session_terminating) {
        if (time(NULL) - terminating_since >= RECORDING_SECONDS)
            die(postgres_signal_arg);
    } else {
        session_terminating = true;
        terminating_since = time(NULL);
        InterruptPending = true;
        QueryCancelPending = true;
        SetLatch(MyLatch);
    }
    errno = saved_errno;
}

/* Cuts what does not fit, between two characters. */
static void
copy_text(char *to, size_t size, const char *from)
{
    int length = from != NULL ? (int)strlen(from) : 0;

    if (length >= (int)size)
        length = pg_mbcliplen(from, length, (int)size - 1);
    memcpy(to, from != NULL ? from : "", (size_t)length);
    to[length] = '\0';
}

/* Takes an id for the run, if its requester has not, and records its start. */
static void
start_run(int slot)
{
    RunSlot *run = &shared->runs[slot];

    xact_begin("starting a run");
    extension_require();
    if (run->id == 0)
        dispatch_set_id(slot, history_next_id());
    xact_commit();
    history_start(run);
}

/* Fills in the outcome of a run that ended in an error, and logs it. Returns the text for the history, palloc'ed. */
static char *
report_failure(RunSlot *run, const ErrorData *error, RunOutcome *outcome)
{
    StringInfoData text;

    if (session_terminating) {
        copy_text(outcome->status, sizeof(outcome->status), STATUS_INTERRUPTED);
        copy_text(outcome->message, sizeof(outcome->message),
                  "the run was cut off by a shutdown of the server or an administrator's command");
    } else {
        copy_text(outcome->status, sizeof(outcome->status),
                  error->sqlerrcode == ERRCODE_QUERY_CANCELED ? STATUS_CANCELLED : STATUS_FAILED);
        copy_text(outcome->message, sizeof(outcome->message), error->message);
        copy_text(outcome->detail, sizeof(outcome->detail), error->detail);
        copy_text(outcome->hint, sizeof(outcome->hint), error->hint);
    }
    outcome->sqlstate = error->sqlerrcode;
    ereport(LOG, (errcode(error->sqlerrcode),
                  errmsg("job \"%s\" %s: %s", job_definitions[run->job].name, outcome->status, outcome->message),
                  outcome->detail[0] != '\0' ? errdetail_internal("%s", outcome->detail) : 0,
                  outcome->hint[0] != '\0' ? errhint("%s", outcome->hint) : 0,
                  errcontext("run %lld of the job", (long long)run->id)));

    initStringInfo(&text);
    appendStringInfoString(&text, session_terminating ? outcome->message : error->message);
    if (!session_terminating && error->detail != NULL)
        appendStringInfo(&text, "\nDETAIL:  %s", error->detail);
    if (!session_terminating && error->hint != NULL)
        appendStringInfo(&text, "\nHINT:  %s", error->hint);
    return text.data;
}

/* Records the end of a run. Failing to is no reason to lose the process: the row will be found as lost. */
static bool
record_outcome(RunSlot *run, const RunOutcome *outcome, const char *result, const char *message)
{
    volatile bool recorded = true;

    PG_TRY();
    {
        if (session_terminating) {
            /* nothing may hold up a shutdown: neither a lock on the history nor a standby that does not answer */
            SetConfigOption("lock_timeout", "500", PGC_SUSET, PGC_S_OVERRIDE);
            SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
        }
        history_finish(run->id, outcome->status, result, outcome->sqlstate, message);
    }
    PG_CATCH();
    {
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
        recorded = false;
    }
    PG_END_TRY();
    return recorded;
}

/* Returns whether the history is right about the run. */
static bool
do_run(int slot, RunOutcome *outcome)
{
    RunSlot *run = &shared->runs[slot];
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs run", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = CurrentMemoryContext;
    char *volatile result = NULL;
    char *volatile message = NULL;
    volatile bool started = false;
    bool recorded = true;

    memset(outcome, 0, sizeof(*outcome));
    PG_TRY();
    {
        JobRun job_run = {.trigger = run->trigger, .arguments = run->arguments, .context = context};

        start_run(slot);
        started = true;
        job_run.id = run->id;
        MemoryContextSwitchTo(context);
        job_begin();
        result = job_definitions[run->job].function(&job_run);
        copy_text(outcome->status, sizeof(outcome->status), job_was_stopped() ? STATUS_INTERRUPTED : STATUS_SUCCEEDED);
        if (job_was_stopped())
            message = "the jobs were switched off during the run";
        if (strlen(result) < sizeof(outcome->result))
            copy_text(outcome->result, sizeof(outcome->result), result);
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        xact_abort();
        result = NULL;
        message = report_failure(run, error, outcome);
    }
    PG_END_TRY();

    MemoryContextSwitchTo(context);
    if (started)
        recorded = record_outcome(run, outcome, result, message);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return recorded;
}

void
apapacho_worker_main(Datum argument)
{
    int slot = DatumGetInt32(argument);
    RunOutcome outcome;
    uint64 sequence;

    memcpy(&sequence, MyBgworkerEntry->bgw_extra, sizeof(sequence));
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, handle_terminate);
    BackgroundWorkerUnblockSignals();

    if (!dispatch_attach(slot, sequence))
        proc_exit(0);
    session_start(shared->runs[slot].database, "0");

    while (slot >= 0) {
        bool recorded = do_run(slot, &outcome);

        slot = dispatch_finish(slot, &outcome, !session_terminating);
        if (!recorded)
            dispatch_report_lost(MyDatabaseId);
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
        }
    }
    proc_exit(0);
}
