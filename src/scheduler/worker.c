/*
 * worker.c: the process of a run: records the start, waits for its time, does the job, records the end, tells those who
 * wait; goes on with the run that is queued next, if it can do that one too, and exits.
 *
 * Runs in a dynamic background worker connected to the run's database: for a built-in job as the bootstrap superuser,
 * for a user's as the role that the job runs as. What a worker cannot write into the history (it is locked, or in
 * another database) it leaves to the scheduler. Everything of a run is allocated in a memory context of its own.
 *
 * SIGTERM (shutdown, pg_terminate_backend, DROP DATABASE) cancels the job and is recorded as an interruption. When that
 * takes too long, since the job catches the cancellation or a lock is in the way, the process ends at once.
 */
#include "postgres.h"

#include <signal.h>
#include <time.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/wait_event.h"

#include "scheduler/command.h"
#include "scheduler/dispatch.h"
#include "scheduler/due.h"
#include "scheduler/history.h"
#include "scheduler/job_table.h"
#include "scheduler/ledger.h"
#include "scheduler/worker.h"
#include "server/extension.h"
#include "server/session.h"
#include "server/xact.h"

#define RECORDING_SECONDS 2          /* time to write down the interruption, in which further SIGTERMs change nothing */
#define HISTORY_LOCK_TIMEOUT "500ms" /* for the history */
#define SYNC_WAIT_MS 500
#define ERROR_MAX_BYTES 65536
#define LONGEST_WAIT_MS 5000     /* for the run's time; longer only where the clock has been set back */
#define TIMEOUT_REPEAT_SECONDS 1 /* a job that catches the cancellation is cancelled again, */
#define TIMEOUT_REPEATS 5        /* so often, and then its process is ended */

/* The run's timeout, by a clock that is never set; the server's own timeouts go by the time of day. */
static timer_t timeout_timer;
static volatile sig_atomic_t timeout_active = false;
static volatile sig_atomic_t cancelled = false; /* somebody wants the run to end */
static volatile sig_atomic_t timed_out = 0;     /* how often the run has been cancelled for taking too long */
static timer_t termination_timer;
static emit_log_hook_type previous_log_hook = NULL;

static volatile time_t terminating_since;

static void
handle_terminate(SIGNAL_ARGS)
{
    int saved_errno = errno;

    if (session_terminating) {
        if (time(NULL) - terminating_since >= RECORDING_SECONDS)
            die(postgres_signal_arg);
    } else {
        struct itimerspec again = {.it_value = {.tv_sec = RECORDING_SECONDS, .tv_nsec = 100000000}};

        session_terminating = true;
        terminating_since = time(NULL);
        (void)timer_settime(termination_timer, 0, &again, NULL);
        InterruptPending = true;
        QueryCancelPending = true;
        SetLatch(MyLatch);
    }
    errno = saved_errno;
}

/* SIGINT: apapacho_cancel_run(), pg_cancel_backend(). */
static void
handle_cancel(SIGNAL_ARGS)
{
    /* a statement_timeout or lock_timeout comes by the same signal */
    if (!get_timeout_indicator(STATEMENT_TIMEOUT, false) && !get_timeout_indicator(LOCK_TIMEOUT, false))
        cancelled = true;
    StatementCancelHandler(postgres_signal_arg);
}

/* Keeps what a FATAL error says for those who wait for the run. */
static void
on_log(ErrorData *error)
{
    if (error->elevel == FATAL && timed_out > 0)
        dispatch_note_fatal(ERRCODE_QUERY_CANCELED, "the run took longer than the job's timeout");
    else if (error->elevel == FATAL && error->message != NULL)
        dispatch_note_fatal(error->sqlerrcode, error->message);
    if (previous_log_hook)
        previous_log_hook(error);
}

/* SIGUSR2, which nobody else sends: the run takes too long. */
static void
handle_timeout(SIGNAL_ARGS)
{
    int saved_errno = errno;

    if (timeout_active) {
        if (timed_out++ < TIMEOUT_REPEATS)
            QueryCancelPending = true;
        else
            ProcDiePending = true;
        InterruptPending = true;
        SetLatch(MyLatch);
    }
    errno = saved_errno;
}

/* From now on the run has so long; 0: it has no timeout (any more). */
static void
set_timeout(int64 milliseconds)
{
    struct itimerspec spec = {.it_value = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000}};

    if (milliseconds > 0)
        spec.it_interval.tv_sec = TIMEOUT_REPEAT_SECONDS;
    timeout_active = milliseconds > 0;
    if (timer_settime(timeout_timer, 0, &spec, NULL) != 0 && milliseconds > 0)
        elog(ERROR, "could not set a timer: %m");
}

/* A transaction over the history: it waits neither for a lock nor for a standby for long. */
static void
history_begin(const char *activity)
{
    xact_limit_sync_wait(SYNC_WAIT_MS);
    xact_begin(activity);
    (void)set_config_option("lock_timeout", HISTORY_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                            false);
}

static void
history_commit(void)
{
    xact_commit();
    xact_limit_sync_wait(0);
}

/* After an error in such a transaction. Reports it, in the context of the caller. */
static void
history_abort(MemoryContext caller)
{
    MemoryContextSwitchTo(caller);
    EmitErrorReport();
    FlushErrorState();
    xact_abort();
    xact_limit_sync_wait(0);
}

/* Much may have changed since the run was taken: within a transaction, it is checked that the owner may be the role. */
static void
require_valid_role(const RunSpec *spec)
{
    Job job = {.name = (char *)spec->name, .owner = spec->owner, .run_as = spec->role};

    job_require_runnable(&job);
}

/* The command that came along, in this database's encoding; an ERROR if it cannot be had in that. */
static char *
attached_command(const RunSpec *spec, MemoryContext context)
{
    dsm_segment *segment = dsm_attach(spec->command);
    char *text;
    char *command;

    if (segment == NULL)
        elog(ERROR, "the command's segment is gone");
    text = MemoryContextStrdup(context, dsm_segment_address(segment));
    dsm_detach(segment);
    StartTransactionCommand();
    require_valid_role(spec);
    command = MemoryContextStrdup(context, pg_any_to_server(text, (int)strlen(text), spec->encoding));
    CommitTransactionCommand();
    MemoryContextSwitchTo(context);
    return command;
}

/* The command of a user's job: as the table has it now, provided that it is still its owner's and runs as this
 * process's role. */
static char *
read_command(const RunSpec *spec, MemoryContext context)
{
    Oid types[3] = {INT8OID, OIDOID, OIDOID};
    Datum values[3] = {Int64GetDatum(spec->job), ObjectIdGetDatum(spec->role), ObjectIdGetDatum(spec->owner)};
    MemoryContext caller = CurrentMemoryContext;
    char *command = NULL;

    if (spec->command != DSM_HANDLE_INVALID)
        return attached_command(spec, context);
    history_begin("reading the command of a job");
    if (spi_run(
            "SELECT command FROM apapacho_jobs.job WHERE id OPERATOR(pg_catalog.=) $1 "
            "AND run_as::pg_catalog.oid OPERATOR(pg_catalog.=) $2 AND owner::pg_catalog.oid OPERATOR(pg_catalog.=) $3 "
            "AND database IS NULL",
            3, types, values, NULL, true, 1) == 1)
        command = MemoryContextStrdup(context, spi_text(0, 1));
    require_valid_role(spec);
    history_commit();
    MemoryContextSwitchTo(caller);
    cancelled = cancelled || command == NULL;
    if (command == NULL)
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the job was changed before the run began")));
    return command;
}

/* When the job will begin: a run that has come early waits for its time. */
static TimestampTz
expected_start(const RunSpec *spec)
{
    int64 left = spec->trigger == JOB_TRIGGER_SCHEDULE ? spec->scheduled_for - clock_now() : 0;
    TimestampTz now = GetCurrentTimestamp();

    return left > 0 && left <= LONGEST_WAIT_MS * INT64CONST(1000) ? now + left : now;
}

/* Records the start of the run. If the history is locked it learns of the run when it has ended. */
static void
record_start(const RunSpec *spec)
{
    MemoryContext caller = CurrentMemoryContext;

    if (dispatch_history_is_blocked(spec->database))
        return;
    PG_TRY();
    {
        history_begin("recording the start of a run");
        extension_require();
        if (extension_oid() != spec->extension)
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("the extension has been dropped since the run was asked for")));
        history_start(spec, expected_start(spec));
        history_commit();
    }
    PG_CATCH();
    {
        if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
            PG_RE_THROW();
        history_abort(caller);
        dispatch_note_history_blocked(spec->database);
    }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
}

/* Waits until the run is due, to the millisecond and less. */
static void
wait_until_due(const RunSpec *spec)
{
    if (spec->trigger != JOB_TRIGGER_SCHEDULE)
        return;
    for (;;) {
        int64 left = spec->scheduled_for - clock_now(); /* microseconds */

        CHECK_FOR_INTERRUPTS();
        if (left <= 0 || left > LONGEST_WAIT_MS * INT64CONST(1000))
            return;
        if (left <= 1500) {
            pg_usleep((long)left);
            continue;
        }
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long)(left / 1000 - 1),
                        PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
    }
}

/* Does a built-in job. Returns its figures. */
static char *
do_builtin(RunSlot *run, MemoryContext context)
{
    JobRun job_run = {
        .id = run->spec.id, .trigger = run->spec.trigger, .arguments = run->spec.arguments, .context = context};

    MemoryContextSwitchTo(context);
    return job_definitions[run->spec.job - 1].function(&job_run);
}

/* Does a user's job: executes its command. Returns the figures of that. */
static char *
do_command(const char *command, MemoryContext context)
{
    CommandResult result;
    StringInfoData text;

    MemoryContextSwitchTo(context);
    command_execute(command, &result);
    MemoryContextSwitchTo(context);
    initStringInfo(&text);
    appendStringInfo(&text, "{\"statements\": %d, \"rows\": " UINT64_FORMAT ", \"command\": ", result.statements,
                     result.rows);
    escape_json(&text, result.tag);
    appendStringInfoChar(&text, '}');
    return text.data;
}

static uint64
jobs_generation(void)
{
    uint64 generation;

    LWLockAcquire(shared->lock, LW_SHARED);
    generation = shared->jobs_generation;
    LWLockRelease(shared->lock);
    return generation;
}

/* Does the job, when its time has come and within its limit. */
static char *
do_job(int slot, MemoryContext context)
{
    RunSlot *run = &shared->runs[slot];
    bool builtin = job_is_builtin(run->spec.job);
    uint64 generation = jobs_generation();
    char *command = builtin ? NULL : read_command(&run->spec, context);
    char *result;

    wait_until_due(&run->spec);
    if (!builtin && jobs_generation() != generation)
        command = read_command(&run->spec, context); /* it may have been changed meanwhile */
    dispatch_begin(slot, GetCurrentTimestamp());
    if (run->cancel_requested)
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the run was cancelled before it began")));
    set_timeout(run->spec.timeout_ms);
    result = builtin ? do_builtin(run, context) : do_command(command, context);
    set_timeout(0);
    return result;
}

static const char *
failure_status(const RunSlot *run, const ErrorData *error)
{
    if (session_terminating)
        return STATUS_INTERRUPTED;
    if (timed_out > 0 && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
        return STATUS_TIMED_OUT;
    /* without that it was a statement_timeout, or an error of the job's own by that code */
    return error->sqlerrcode == ERRCODE_QUERY_CANCELED && (cancelled || run->cancel_requested) ? STATUS_CANCELLED
                                                                                               : STATUS_FAILED;
}

/* As much of a text as the history keeps. */
static const char *
limited(const char *text)
{
    int length = text != NULL ? (int)strlen(text) : 0;

    return length > ERROR_MAX_BYTES ? pnstrdup(text, pg_mbcliplen(text, length, ERROR_MAX_BYTES)) : text;
}

/* Fills in the outcome of a run that ended in an error, and logs it. Returns the text for the history, palloc'ed. */
static char *
report_failure(RunSlot *run, const ErrorData *error, RunOutcome *outcome)
{
    const char *status = failure_status(run, error);
    const char *message = limited(error->message);
    const char *detail = limited(error->detail);
    const char *hint = limited(error->hint);
    bool own_words = false;
    StringInfoData text;

    if (session_terminating) {
        message = "the run was cut off by a shutdown of the server or an administrator's command";
        own_words = true;
    } else if (strcmp(status, STATUS_TIMED_OUT) == 0) {
        message = psprintf("the run took longer than the job's timeout of %lld ms", (long long)run->spec.timeout_ms);
        own_words = true;
    }
    shared_copy_text(outcome->status, sizeof(outcome->status), status);
    shared_copy_text(outcome->message, sizeof(outcome->message), message);
    if (!own_words) {
        shared_copy_text(outcome->detail, sizeof(outcome->detail), detail);
        shared_copy_text(outcome->hint, sizeof(outcome->hint), hint);
    }
    outcome->sqlstate = error->sqlerrcode;
    ereport(LOG,
            (errcode(error->sqlerrcode), errmsg("job \"%s\" %s: %s", run->spec.name, outcome->status, outcome->message),
             outcome->detail[0] != '\0' ? errdetail_internal("%s", outcome->detail) : 0,
             outcome->hint[0] != '\0' ? errhint("%s", outcome->hint) : 0,
             errcontext("run %lld of the job", (long long)run->spec.id)));

    initStringInfo(&text);
    appendStringInfoString(&text, message);
    if (!own_words && detail != NULL)
        appendStringInfo(&text, "\nDETAIL:  %s", detail);
    if (!own_words && hint != NULL)
        appendStringInfo(&text, "\nHINT:  %s", hint);
    return text.data;
}

/* Records the end of a run. Failing to is no reason to lose the process: the scheduler does it then. */
static bool
record_end(const RunSlot *run, const RunOutcome *outcome, const char *result, const char *message, TimestampTz retry_at)
{
    MemoryContext caller = CurrentMemoryContext;
    RunRecord record = {.spec = run->spec,
                        .status = outcome->status,
                        .started_at = run->started_at != 0 ? run->started_at : GetCurrentTimestamp(),
                        .finished_at = GetCurrentTimestamp(),
                        .result = result,
                        .sqlstate = outcome->sqlstate,
                        .error = message,
                        .pid = MyProcPid,
                        .retry_at = retry_at};
    volatile bool recorded = true;

    if (run->spec.run_database != run->spec.database || dispatch_history_is_blocked(run->spec.database))
        return false;
    PG_TRY();
    {
        history_begin("recording the end of a run");
        if (extension_oid() == run->spec.extension) /* another one has a history of its own */
            history_upsert(&record);
        history_commit();
    }
    PG_CATCH();
    {
        /* without the extension there is nothing to be recorded */
        recorded = geterrcode() == ERRCODE_UNDEFINED_TABLE || geterrcode() == ERRCODE_UNDEFINED_SCHEMA;
        if (geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
            dispatch_note_history_blocked(run->spec.database);
        history_abort(caller);
        return recorded;
    }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
    if (!session_terminating)
        ledger_notify(&record);
    return true;
}

/* The end of a run: of a failure, whether it is tried again. Returns whether the history is right about it. */
static bool
end_run(const RunSlot *run, const RunOutcome *outcome, const char *result, const char *message, bool *retry)
{
    TimestampTz retry_at = message != NULL ? history_retry_at(&run->spec, outcome->status, GetCurrentTimestamp()) : 0;

    *retry = retry_at != 0;
    return record_end(run, outcome, result, message, retry_at);
}

/* Nothing of a user's run may be left for the next one. Failing that, there is none. */
static bool
reset_session(void)
{
    MemoryContext caller = CurrentMemoryContext;
    volatile bool done = true;

    if (!OidIsValid(session_role))
        return true;
    PG_TRY();
    {
        command_reset_session();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
        done = false;
    }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
    return done;
}

/*
 * The process is told to go, or the job's row is locked, before the run has begun: it is queued again, in the history
 * too, and the process ends.
 */
static void
give_back(const RunSlot *run)
{
    MemoryContext caller = CurrentMemoryContext;
    RunRecord record = {.spec = run->spec, .status = STATUS_QUEUED};

    if (run->spec.run_database == run->spec.database) {
        PG_TRY();
        {
            history_begin("giving a run back");
            history_upsert(&record);
            history_commit();
        }
        PG_CATCH();
        {
            history_abort(caller);
        }
        PG_END_TRY();
    }
    proc_exit(0);
}

/*
 * Returns whether the history is right about the run. Tells besides whether it is to be tried again, and whether the
 * session may be used for another one.
 */
static bool
do_run(int slot, RunOutcome *outcome, bool *retry, bool *reusable)
{
    RunSlot *run = &shared->runs[slot];
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs run", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = CurrentMemoryContext;
    char *volatile result = NULL;
    char *volatile message = NULL;
    volatile bool installed = true;
    bool recorded;

    memset(outcome, 0, sizeof(*outcome));
    MemoryContextSwitchTo(context);
    if (!session_terminating)
        QueryCancelPending = false; /* a cancellation that came too late for the run before */
    cancelled = false;
    timed_out = 0;
    job_begin();
    PG_TRY();
    {
        if (run->spec.run_database == run->spec.database)
            record_start(&run->spec);
        result = do_job(slot, context);
        shared_copy_text(outcome->status, sizeof(outcome->status),
                         job_was_stopped() ? STATUS_INTERRUPTED : STATUS_SUCCEEDED);
        if (job_was_stopped())
            message = "the jobs were switched off during the run";
        if (strlen(result) < sizeof(outcome->result))
            shared_copy_text(outcome->result, sizeof(outcome->result), result);
    }
    PG_CATCH();
    {
        ErrorData *error;

        set_timeout(0);
        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        xact_abort();
        xact_limit_sync_wait(0);
        installed = error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE || run->started_at != 0;
        result = NULL;
        if ((session_terminating || error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE) && run->started_at == 0 &&
            job_trigger_has_slot(run->spec.trigger)) {
            ereport(LOG, (errcode(error->sqlerrcode),
                          errmsg("job \"%s\" did not begin and is queued again: %s", run->spec.name, error->message)));
            give_back(run);
        }
        message = report_failure(run, error, outcome);
    }
    PG_END_TRY();

    /* before anything is recorded: what the command has SET must not be in force then */
    MemoryContextSwitchTo(context);
    *reusable = reset_session();
    *retry = false;
    recorded = !installed || end_run(run, outcome, result, message, retry);
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
    pqsignal(SIGINT, handle_cancel);
    pqsignal(SIGTERM, handle_terminate);
    pqsignal(SIGUSR2, handle_timeout);
    if (timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTERM},
                     &termination_timer) != 0 ||
        timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2},
                     &timeout_timer) != 0)
        elog(FATAL, "could not create a timer: %m");
    BackgroundWorkerUnblockSignals();

    if (!dispatch_attach(slot, sequence))
        proc_exit(0);
    previous_log_hook = emit_log_hook;
    emit_log_hook = on_log;
    session_start(shared->runs[slot].spec.run_database, shared->runs[slot].spec.role, "0");
    MemoryContextSwitchTo(TopMemoryContext);

    while (slot >= 0) {
        bool retry;
        bool reusable;
        bool recorded = do_run(slot, &outcome, &retry, &reusable);

        slot = dispatch_finish(slot, &outcome, recorded, retry, reusable && !session_terminating);
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
        }
    }
    proc_exit(0);
}
