/*
 * history.c: reads and writes apapacho_jobs.run and apapacho_jobs.job_state, as the extension's owner. Runs in
 * schedulers and workers, within their transactions.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "server/settings.h"
#include "server/xact.h"

static const char *const trigger_names[] = {
    [JOB_TRIGGER_SCHEDULE] = "schedule", [JOB_TRIGGER_MANUAL] = "manual", [JOB_TRIGGER_RECOVERY] = "recovery",
    [JOB_TRIGGER_RETRY] = "retry",       [JOB_TRIGGER_WORK] = "work",
};

#define RECORD_COLUMNS                                                                                                 \
    "id, job_id, job, owner, trigger, requested_by, scheduled_for, scheduled_until, slots, attempt, pass, arguments, " \
    "status, started_at, finished_at, result, error, sqlstate, pid, retry_at"
#define RECORD_VALUES                                                                                                  \
    "$1, $2, $3, $4::pg_catalog.regrole, $5, $6, $7, $8, $9, $10, $11, $12::pg_catalog.jsonb, $13, $14, $15, "         \
    "$16::pg_catalog.jsonb, $17, $18, $19, $20"
#define RECORD_COUNT 20

static const char insert_sql[] =
    "INSERT INTO apapacho_jobs.run (" RECORD_COLUMNS ") VALUES (" RECORD_VALUES ") ON CONFLICT DO NOTHING";

static const char update_sql[] =
    "UPDATE apapacho_jobs.run SET status = $13, started_at = $14, finished_at = $15, result = $16::pg_catalog.jsonb, "
    "error = $17, sqlstate = $18, pid = $19, retry_at = $20 WHERE id OPERATOR(pg_catalog.=) $1";

/* The columns of a RunSpec, as read_spec() takes them. */
#define SPEC_COLUMNS                                                                                                   \
    "r.id, r.job_id, r.job, r.owner::pg_catalog.oid, r.scheduled_for, r.pass, r.attempt, r.arguments::pg_catalog.text"
#define SPEC_COUNT 8

int64
history_next_id(void)
{
    Oid namespace_id = get_namespace_oid("apapacho_jobs", false);
    Oid sequence = get_relname_relid("run_id_seq", namespace_id);

    if (!OidIsValid(sequence))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                        errmsg("the extension's table apapacho_jobs.run is damaged: its sequence is missing"),
                        errhint("Create the extension anew.")));
    return nextval_internal(sequence, false);
}

static Datum
text_or_null(const char *text, char *null)
{
    *null = text == NULL || text[0] == '\0' ? 'n' : ' ';
    return *null == 'n' ? (Datum)0 : CStringGetTextDatum(text);
}

static Datum
time_or_null(TimestampTz time, char *null)
{
    *null = time == 0 ? 'n' : ' ';
    return TimestampTzGetDatum(time);
}

/* The name of a role that may have been dropped meanwhile; NULL for none. */
static const char *
role_name(Oid role)
{
    return OidIsValid(role) ? GetUserNameFromId(role, true) : NULL;
}

/* Runs a statement over a whole row; planned once in a process. Returns the number of rows. */
static uint64
write_record(const char *sql, SPIPlanPtr *plan, const RunRecord *record)
{
    static Oid types[RECORD_COUNT] = {INT8OID,        INT8OID, TEXTOID, OIDOID,  TEXTOID, TEXTOID,       TIMESTAMPTZOID,
                                      TIMESTAMPTZOID, INT8OID, INT4OID, INT4OID, TEXTOID, TEXTOID,       TIMESTAMPTZOID,
                                      TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID};
    const RunSpec *spec = &record->spec;
    Datum values[RECORD_COUNT];
    char nulls[RECORD_COUNT];

    memset(nulls, ' ', sizeof(nulls));
    values[0] = Int64GetDatum(spec->id);
    values[1] = Int64GetDatum(spec->job);
    values[2] = CStringGetTextDatum(spec->name);
    values[3] = ObjectIdGetDatum(spec->owner);
    values[4] = CStringGetTextDatum(trigger_names[spec->trigger]);
    values[5] = text_or_null(role_name(spec->requested_by), &nulls[5]);
    values[6] = TimestampTzGetDatum(spec->scheduled_for);
    values[7] = TimestampTzGetDatum(record->scheduled_until != 0 ? record->scheduled_until : spec->scheduled_for);
    values[8] = Int64GetDatum(Max(record->slots, 1));
    values[9] = Int32GetDatum(spec->attempt);
    values[10] = Int32GetDatum(spec->pass);
    values[11] = text_or_null(spec->arguments, &nulls[11]);
    values[12] = CStringGetTextDatum(record->status);
    values[13] = time_or_null(record->started_at, &nulls[13]);
    values[14] = time_or_null(record->finished_at, &nulls[14]);
    values[15] = text_or_null(record->result, &nulls[15]);
    values[16] = text_or_null(record->error, &nulls[16]);
    values[17] = text_or_null(record->error != NULL ? unpack_sql_state(record->sqlstate) : NULL, &nulls[17]);
    values[18] = Int32GetDatum(record->pid);
    nulls[18] = record->pid == 0 ? 'n' : ' ';
    values[19] = time_or_null(record->retry_at, &nulls[19]);

    return spi_run_kept(plan, sql, RECORD_COUNT, types, values, nulls);
}

bool
history_insert(const RunRecord *record)
{
    static SPIPlanPtr plan = NULL;

    return write_record(insert_sql, &plan, record) > 0;
}

void
history_upsert(const RunRecord *record)
{
    static SPIPlanPtr plan = NULL;

    if (write_record(update_sql, &plan, record) == 0)
        (void)history_insert(record);
}

void
history_start(const RunSpec *spec, TimestampTz started_at)
{
    RunRecord record = {.spec = *spec, .status = STATUS_RUNNING, .started_at = started_at, .pid = MyProcPid};

    history_upsert(&record);
}

/* {"job": .., "runId": .., ...}: no text of the error, since any role may listen. */
static void
notify_failure(const RunRecord *record)
{
    StringInfoData payload;

    initStringInfo(&payload);
    appendStringInfoString(&payload, "{\"job\": ");
    escape_json(&payload, record->spec.name);
    appendStringInfo(&payload,
                     ", \"runId\": %lld, \"status\": \"%s\", \"sqlstate\": \"%s\", \"attempt\": %d, \"final\": %s}",
                     (long long)record->spec.id, record->status, unpack_sql_state(record->sqlstate),
                     record->spec.attempt, record->retry_at == 0 ? "true" : "false");
    Async_Notify(setting_notify_channel, payload.data);
}

static bool
is_failure(const char *status)
{
    return strcmp(status, STATUS_FAILED) == 0 || strcmp(status, STATUS_TIMED_OUT) == 0 ||
           strcmp(status, STATUS_CRASHED) == 0;
}

void
history_notify(const RunRecord *record)
{
    bool told = is_failure(record->status) || strcmp(record->status, STATUS_NO_WORKER) == 0;

    if (!told || setting_notify_channel[0] == '\0')
        return;
    xact_begin("notifying of a failed run");
    (void)set_config_option("lock_timeout", "500ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
    notify_failure(record);
    xact_commit();
}

TimestampTz
history_retry_at(const RunSpec *spec, const char *status, TimestampTz now)
{
    int64 delay = spec->retry_delay_ms;

    if (spec->attempt > spec->retries || !job_trigger_has_slot(spec->trigger))
        return 0;
    if (!is_failure(status) && strcmp(status, STATUS_INTERRUPTED) != 0)
        return 0;
    for (int i = 1; i < spec->attempt && delay < spec->retry_delay_max_ms; i++)
        delay *= 2;
    delay = Min(delay, spec->retry_delay_max_ms);
    if (delay > 1)
        delay -= (int64)pg_prng_uint64_range(&pg_global_prng_state, 0, (uint64)delay / 2);
    return TimestampTzPlusMilliseconds(now, delay);
}

/* The ids of a database's runs in shared memory, as an array for SQL. */
static Datum
active_ids(void)
{
    Datum active[MAX_RUNS];
    int64 ids[MAX_RUNS];
    int count = dispatch_active_ids(MyDatabaseId, ids);

    for (int i = 0; i < count; i++)
        active[i] = Int64GetDatum(ids[i]);
    return PointerGetDatum(construct_array(active, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* The row's spec, as SPEC_COLUMNS has it; roles, policies and limits are the job's, to be filled in by the caller. */
static RunSpec *
read_spec(uint64 row, JobTrigger trigger, MemoryContext context)
{
    RunSpec *spec = MemoryContextAllocZero(context, sizeof(RunSpec));
    char *arguments = spi_text(row, 8);

    spec->id = spi_int64(row, 1);
    spec->job = spi_int64(row, 2);
    strlcpy(spec->name, spi_text(row, 3), sizeof(spec->name));
    spec->database = spec->run_database = MyDatabaseId;
    spec->owner = spi_oid(row, 4);
    spec->trigger = trigger;
    spec->scheduled_for = spi_time(row, 5);
    spec->pass = (int)spi_int64(row, 6);
    spec->attempt = (int)spi_int64(row, 7);
    spec->encoding = GetDatabaseEncoding();
    spec->command = DSM_HANDLE_INVALID;
    strlcpy(spec->arguments, arguments != NULL ? arguments : "", sizeof(spec->arguments));
    return spec;
}

List *
history_mark_lost(MemoryContext context)
{
    static const char message[] =
        "the run's process ended without reporting: the server crashed, or the process was killed";
    static const char sql[] =
        "UPDATE apapacho_jobs.run AS r SET status = 'crashed', "
        "finished_at = GREATEST(pg_catalog.clock_timestamp(), r.started_at), error = $3, "
        "sqlstate = 'XX000', retry_at = (SELECT pg_catalog.clock_timestamp() FROM apapacho_jobs.job AS j "
        "WHERE j.id OPERATOR(pg_catalog.=) r.job_id AND r.trigger OPERATOR(pg_catalog.<>) 'manual' AND r.trigger "
        "OPERATOR(pg_catalog.<>) 'work' "
        "AND j.retries OPERATOR(pg_catalog.>=) r.attempt AND NOT j.builtin) "
        "WHERE r.status OPERATOR(pg_catalog.=) 'running' AND r.id OPERATOR(pg_catalog.<) $1 "
        "AND r.id OPERATOR(pg_catalog.<>) ALL ($2) RETURNING " SPEC_COLUMNS ", r.retry_at";
    Oid types[3] = {INT8OID, INT8ARRAYOID, TEXTOID};
    Datum values[3];
    List *lost = NIL;
    uint64 count;

    /* Runs with a higher id may start while we look; those with a lower one are either in shared memory now or over. */
    values[0] = Int64GetDatum(history_next_id());
    values[1] = active_ids();
    values[2] = CStringGetTextDatum(message);
    count = spi_run(sql, 3, types, values, NULL, false, 0);
    for (uint64 i = 0; i < count; i++) {
        MemoryContext caller = MemoryContextSwitchTo(context);
        RunRecord *record = palloc0(sizeof(RunRecord));

        record->spec = *read_spec(i, JOB_TRIGGER_SCHEDULE, context);
        record->status = STATUS_CRASHED;
        record->sqlstate = ERRCODE_INTERNAL_ERROR;
        record->retry_at = spi_time(i, SPEC_COUNT + 1);
        lost = lappend(lost, record);
        MemoryContextSwitchTo(caller);
    }
    return lost;
}

List *
history_queued_runs(MemoryContext context)
{
    static const char sql[] = "SELECT " SPEC_COLUMNS ", r.trigger FROM apapacho_jobs.run AS r "
                              "WHERE r.status OPERATOR(pg_catalog.=) 'queued' AND r.id OPERATOR(pg_catalog.<) $1 "
                              "AND r.id OPERATOR(pg_catalog.<>) ALL ($2) ORDER BY r.id";
    Oid types[2] = {INT8OID, INT8ARRAYOID};
    Datum values[2] = {Int64GetDatum(history_next_id()), active_ids()};
    List *runs = NIL;
    /* not read-only: with a snapshot from after active_ids(), or a run that has just ended would look as if it had not
     * begun */
    uint64 count = spi_run(sql, 2, types, values, NULL, false, 0);

    for (uint64 i = 0; i < count; i++) {
        char *name = spi_text(i, SPEC_COUNT + 1);
        JobTrigger trigger = JOB_TRIGGER_SCHEDULE;
        MemoryContext caller;

        for (int t = 0; t < (int)lengthof(trigger_names); t++) {
            if (strcmp(name, trigger_names[t]) == 0)
                trigger = (JobTrigger)t;
        }
        caller = MemoryContextSwitchTo(context);
        runs = lappend(runs, read_spec(i, trigger, context));
        MemoryContextSwitchTo(caller);
    }
    return runs;
}

List *
history_cut_off_runs(MemoryContext context)
{
    static const char sql[] =
        "SELECT " SPEC_COLUMNS ", r.status, r.trigger FROM apapacho_jobs.run AS r "
        "WHERE r.job_id OPERATOR(pg_catalog.=) $1 AND r.started_at IS NOT NULL ORDER BY r.id DESC LIMIT 1";
    List *runs = NIL;

    for (int64 job = 1; job <= JOB_COUNT; job++) {
        Oid types[1] = {INT8OID};
        Datum values[1] = {Int64GetDatum(job)};
        RunSpec *spec;
        MemoryContext caller;
        char *status;
        char *trigger;

        if (spi_run(sql, 1, types, values, NULL, true, 1) == 0)
            continue;
        status = spi_text(0, SPEC_COUNT + 1);
        trigger = spi_text(0, SPEC_COUNT + 2);
        if (strcmp(trigger, trigger_names[JOB_TRIGGER_WORK]) == 0)
            continue; /* a scheduler that starts has events looked for in any case */
        if (strcmp(status, STATUS_INTERRUPTED) != 0 &&
            (strcmp(status, STATUS_CRASHED) != 0 || strcmp(trigger, "recovery") == 0))
            continue;
        caller = MemoryContextSwitchTo(context);
        spec = read_spec(0, JOB_TRIGGER_RECOVERY, context);
        spec->attempt++;
        runs = lappend(runs, spec);
        MemoryContextSwitchTo(caller);
    }
    return runs;
}

List *
history_pending_retries(MemoryContext context)
{
    static const char sql[] = "SELECT " SPEC_COLUMNS ", r.retry_at FROM apapacho_jobs.run AS r "
                              "WHERE r.retry_at IS NOT NULL ORDER BY r.retry_at";
    uint64 count = spi_run(sql, 0, NULL, NULL, NULL, true, 0);
    List *retries = NIL;

    for (uint64 i = 0; i < count; i++) {
        MemoryContext caller = MemoryContextSwitchTo(context);
        PendingRetry *retry = palloc0(sizeof(PendingRetry));

        retry->spec = *read_spec(i, JOB_TRIGGER_RETRY, context);
        retry->at = spi_time(i, SPEC_COUNT + 1);
        retries = lappend(retries, retry);
        MemoryContextSwitchTo(caller);
    }
    return retries;
}

void
history_clear_retry(int64 id)
{
    Oid types[1] = {INT8OID};
    Datum values[1] = {Int64GetDatum(id)};

    (void)spi_run("UPDATE apapacho_jobs.run SET retry_at = NULL WHERE id OPERATOR(pg_catalog.=) $1", 1, types, values,
                  NULL, false, 0);
}

void
history_clear_job_retries(int64 job)
{
    Oid types[1] = {INT8OID};
    Datum values[1] = {Int64GetDatum(job)};

    (void)spi_run("UPDATE apapacho_jobs.run SET retry_at = NULL "
                  "WHERE retry_at IS NOT NULL AND job_id OPERATOR(pg_catalog.=) $1",
                  1, types, values, NULL, false, 0);
}

int64
history_prune(int batch)
{
    Oid types[1] = {INT4OID};
    Datum values[1] = {Int32GetDatum(batch)};

    (void)spi_run("SELECT apapacho_jobs.prune_history($1)", 1, types, values, NULL, false, 1);
    return spi_int64(0, 1);
}

bool
history_read_state(int64 job, JobState *state, MemoryContext context)
{
    Oid types[1] = {INT8OID};
    Datum values[1] = {Int64GetDatum(job)};

    if (spi_run("SELECT schedule, time_zone, settled_until, pass, off_since FROM apapacho_jobs.job_state "
                "WHERE job_id OPERATOR(pg_catalog.=) $1",
                1, types, values, NULL, true, 1) == 0)
        return false;
    state->schedule = MemoryContextStrdup(context, spi_text(0, 1));
    state->zone = MemoryContextStrdup(context, spi_text(0, 2));
    state->due.settled = spi_time(0, 3);
    state->due.pass = (int)spi_int64(0, 4);
    state->off_since = spi_time(0, 5);
    return true;
}

void
history_write_state(int64 job, const JobState *state)
{
    static SPIPlanPtr plan = NULL;
    static Oid types[6] = {INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID};
    Datum values[6];
    char nulls[6];

    memset(nulls, ' ', sizeof(nulls));
    values[0] = Int64GetDatum(job);
    values[1] = CStringGetTextDatum(state->schedule);
    values[2] = CStringGetTextDatum(state->zone);
    values[3] = TimestampTzGetDatum(state->due.settled);
    values[4] = Int32GetDatum(state->due.pass);
    values[5] = time_or_null(state->off_since, &nulls[5]);
    (void)spi_run_kept(&plan,
                       "INSERT INTO apapacho_jobs.job_state (job_id, schedule, time_zone, settled_until, pass, "
                       "off_since) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (job_id) DO UPDATE SET "
                       "schedule = EXCLUDED.schedule, time_zone = EXCLUDED.time_zone, "
                       "settled_until = EXCLUDED.settled_until, pass = EXCLUDED.pass, off_since = EXCLUDED.off_since",
                       6, types, values, nulls);
}

void
history_delete_state(int64 job)
{
    Oid types[1] = {INT8OID};
    Datum values[1] = {Int64GetDatum(job)};

    (void)spi_run("DELETE FROM apapacho_jobs.job_state WHERE job_id OPERATOR(pg_catalog.=) $1", 1, types, values, NULL,
                  false, 0);
}

void
history_delete_other_states(const int64 *jobs, int count)
{
    Oid types[1] = {INT8ARRAYOID};
    Datum *ids = palloc(sizeof(Datum) * (count + 1));
    Datum values[1];

    for (int i = 0; i < count; i++)
        ids[i] = Int64GetDatum(jobs[i]);
    values[0] = PointerGetDatum(construct_array(ids, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
    (void)spi_run("DELETE FROM apapacho_jobs.job_state WHERE job_id OPERATOR(pg_catalog.<>) ALL ($1)", 1, types, values,
                  NULL, false, 0);
}

void
history_switch_off(TimestampTz now)
{
    Oid types[1] = {TIMESTAMPTZOID};
    Datum values[1] = {TimestampTzGetDatum(now)};

    xact_begin("noting that the schedules are off");
    (void)spi_run("UPDATE apapacho_jobs.job_state SET off_since = $1 WHERE off_since IS NULL", 1, types, values, NULL,
                  false, 0);
    xact_commit();
}
