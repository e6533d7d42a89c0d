/*
 * claims.c: takes runs: first into the tables, then into shared memory. Runs in a scheduler; what it fills in for a run
 * is used by backends too, for runs by hand.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/memutils.h"

#include "scheduler/claims.h"
#include "scheduler/dispatch.h"
#include "scheduler/ledger.h"
#include "scheduler/run_slots.h"
#include "server/extension.h"
#include "server/xact.h"

typedef struct Claim {
    RunRecord record;
    const Job *job;
    bool dispatch; /* it is a run */
} Claim;

void
claims_fill_spec(RunSpec *spec, const Job *job)
{
    spec->job = job->id;
    strlcpy(spec->name, job->name, sizeof(spec->name));
    spec->database = spec->run_database = MyDatabaseId;
    spec->role = job->builtin ? InvalidOid : job->run_as;
    spec->owner = job->owner;
    spec->retries = job->retries;
    spec->retry_delay_ms = job->retry_delay_ms;
    spec->retry_delay_max_ms = job->retry_delay_max_ms;
    spec->timeout_ms = job->timeout_ms;
    spec->extension = extension_last_seen();
    spec->encoding = GetDatabaseEncoding();
    spec->command = DSM_HANDLE_INVALID;
}

dsm_handle
claims_command(const Job *job)
{
    dsm_segment *segment;
    dsm_handle handle;

    if (job->database == NULL || job->command == NULL)
        return DSM_HANDLE_INVALID;
    segment = dsm_create(strlen(job->command) + 1, DSM_CREATE_NULL_IF_MAXSEGMENTS);
    if (segment == NULL)
        return DSM_HANDLE_INVALID;
    strcpy(dsm_segment_address(segment), job->command);
    handle = dsm_segment_handle(segment);
    dsm_pin_segment(segment);
    dsm_detach(segment);
    return handle;
}

void
claims_add_run(Claims *claims, const Job *job, JobTrigger trigger, TimestampTz scheduled_for, int pass, int attempt,
               const char *arguments)
{
    Claim *claim = palloc0(sizeof(Claim));
    RunSpec *spec = &claim->record.spec;

    claims_fill_spec(spec, job);
    spec->trigger = trigger;
    spec->scheduled_for = scheduled_for;
    spec->pass = pass;
    spec->attempt = attempt;
    strlcpy(spec->arguments, arguments, sizeof(spec->arguments));
    claim->record.status = STATUS_QUEUED;
    claim->job = job;
    claim->dispatch = true;
    claims->rows = lappend(claims->rows, claim);
}

void
claims_add_slots(Claims *claims, const Job *job, const Due *due, int pass, const char *status, const char *message)
{
    Claim *claim = palloc0(sizeof(Claim));

    claims_fill_spec(&claim->record.spec, job);
    claim->record.spec.trigger = JOB_TRIGGER_SCHEDULE;
    claim->record.spec.scheduled_for = due->first;
    claim->record.spec.pass = pass;
    claim->record.spec.attempt = 1;
    claim->record.scheduled_until = due->last;
    claim->record.slots = due->count;
    claim->record.status = status;
    claim->record.error = message;
    claim->record.sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    claim->job = job;
    claims->rows = lappend(claims->rows, claim);
}

bool
claims_any(const Claims *claims)
{
    return claims->rows != NIL || claims->states != NIL || claims->settled_states != NIL || claims->cleared != NIL ||
           claims->cleared_jobs != NIL;
}

/* The role may have been dropped, the database too: then the run has failed before it begins. */
static void
check_job(Claim *claim, MemoryContext context)
{
    char *why;

    if (claim->job->builtin || job_table_valid_run_as(claim->job, &why)) {
        if (claim->job->database != NULL)
            claim->record.spec.run_database = get_database_oid(claim->job->database, false);
        return;
    }
    claim->dispatch = false;
    claim->record.status = STATUS_FAILED;
    claim->record.error = MemoryContextStrdup(context, why);
    claim->record.sqlstate = ERRCODE_INSUFFICIENT_PRIVILEGE;
}

static void
write_states(const Claims *claims)
{
    ListCell *cell;

    foreach (cell, claims->states) {
        const StateChange *change = lfirst(cell);

        history_write_state(change->job, change->state);
    }
    foreach (cell, claims->settled_states)
        history_delete_state(*(int64 *)lfirst(cell));
}

/* The row of a claim. A run in another database cannot say itself that it has begun. */
static void
write_row(Claim *claim, TimestampTz now, bool to_ledger)
{
    RunRecord record = claim->record;

    if (!claim->dispatch)
        record.finished_at = GetCurrentTimestamp();
    else if (record.spec.run_database != MyDatabaseId) {
        record.status = STATUS_RUNNING;
        /* by the time of day, as the workers write it, which is not the scheduler's clock in tests */
        record.started_at = GetCurrentTimestamp() + Max(record.spec.scheduled_for - now, 0);
    }
    if (to_ledger)
        ledger_add(&record);
    else if (!history_insert(&record))
        claim->dispatch = false;
}

static void
write_all(Claims *claims, TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    ListCell *cell;

    xact_begin("taking runs that are due");
    foreach (cell, claims->cleared)
        history_clear_retry(*(int64 *)lfirst(cell));
    foreach (cell, claims->cleared_jobs)
        history_clear_job_retries(*(int64 *)lfirst(cell));
    foreach (cell, claims->rows) {
        Claim *claim = lfirst(cell);

        claim->record.spec.id = history_next_id();
        if (claim->dispatch)
            check_job(claim, step);
        write_row(claim, now, false);
    }
    write_states(claims);
    xact_commit();
    ledger_count_written(list_length(claims->rows)); /* those of runs are counted again when they end: no harm */
}

/* The history is locked: job_state alone says what is taken, the rows follow. */
static void
write_states_only(Claims *claims, TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    ListCell *cell;

    xact_begin("taking runs that are due while the history is locked");
    foreach (cell, claims->rows) {
        Claim *claim = lfirst(cell);

        claim->record.spec.id = history_next_id();
        if (claim->dispatch)
            check_job(claim, step);
    }
    write_states(claims);
    xact_commit();
    MemoryContextSwitchTo(step);
    foreach (cell, claims->rows)
        write_row(lfirst(cell), now, true);
}

void
claims_write(Claims *claims, TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    ListCell *cell;
    volatile bool blocked = ledger_is_blocked(now);

    if (!blocked) {
        PG_TRY();
        {
            write_all(claims, now);
        }
        PG_CATCH();
        {
            if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE && geterrcode() != ERRCODE_QUERY_CANCELED)
                PG_RE_THROW();
            MemoryContextSwitchTo(step);
            EmitErrorReport();
            FlushErrorState();
            xact_abort();
            ledger_note_blocked(now);
            blocked = true;
        }
        PG_END_TRY();
        MemoryContextSwitchTo(step);
    }
    if (blocked)
        write_states_only(claims, now); /* the ledger notifies when it has written the rows */
    MemoryContextSwitchTo(step);
    foreach (cell, claims->rows) {
        const Claim *claim = lfirst(cell);

        if (!blocked && strcmp(claim->record.status, STATUS_FAILED) == 0)
            ledger_notify(&claim->record);
    }
}

/* A run that cannot be dispatched, nor later: one in another database, since its command is not in the history. */
static void
note_not_started(const Claim *claim, const char *status, const char *error)
{
    RunRecord record = claim->record;

    record.status = status;
    record.error = error;
    record.finished_at = GetCurrentTimestamp();
    record.sqlstate = ERRCODE_OBJECT_IN_USE;
    ledger_add(&record);
}

bool
claims_dispatch(const Claims *claims)
{
    static const char not_started[] =
        "the run could not be started: its database is being dropped or moved, or too many runs are on their way";
    bool all = true;
    ListCell *cell;

    foreach (cell, claims->rows) {
        const Claim *claim = lfirst(cell);
        RunSpec spec = claim->record.spec;
        RunTicket ticket;

        if (!claim->dispatch)
            continue;
        if (spec.run_database != MyDatabaseId) {
            spec.command = claims_command(claim->job);
            if (spec.command == DSM_HANDLE_INVALID) {
                note_not_started(claim, STATUS_NO_WORKER, not_started);
                continue;
            }
        }
        switch (dispatch_request(&spec, false, &ticket)) {
        case REQUEST_STARTED:
        case REQUEST_QUEUED:
            break;
        case REQUEST_OVERLAP:
            run_release_command(spec.command);
            note_not_started(claim, STATUS_SKIPPED, "a run by hand was waiting to begin");
            break;
        default:
            if (spec.command == DSM_HANDLE_INVALID)
                all = false;
            else {
                run_release_command(spec.command);
                note_not_started(claim, STATUS_NO_WORKER, not_started);
            }
        }
    }
    return all;
}
