/*
 * history.c: reads and writes apapacho_jobs.run, as the extension's owner. Runs in schedulers and workers.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "server/xact.h"

static const char *const trigger_names[] = {
    [JOB_TRIGGER_SCHEDULE] = "schedule",
    [JOB_TRIGGER_MANUAL] = "manual",
    [JOB_TRIGGER_RECOVERY] = "recovery",
};

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

/* The name of a role that may have been dropped meanwhile; NULL for none. */
static Datum
role_name(Oid role, char *null)
{
    const char *name = OidIsValid(role) ? GetUserNameFromId(role, true) : NULL;

    *null = name == NULL ? 'n' : ' ';
    return name == NULL ? (Datum)0 : CStringGetTextDatum(name);
}

void
history_start(const RunSlot *run)
{
    Oid types[7] = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, INT4OID};
    Datum values[7];
    char nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};

    xact_begin("recording the start of a run");
    values[0] = Int64GetDatum(run->id);
    values[1] = CStringGetTextDatum(job_definitions[run->job].name);
    values[2] = CStringGetTextDatum(trigger_names[run->trigger]);
    values[3] = role_name(run->requested_by, &nulls[3]);
    values[4] = TimestampTzGetDatum(run->scheduled_for);
    values[5] = CStringGetTextDatum(run->arguments);
    nulls[5] = run->arguments[0] == '\0' ? 'n' : ' ';
    values[6] = Int32GetDatum(MyProcPid);
    spi_run("INSERT INTO apapacho_jobs.run (id, job, trigger, requested_by, scheduled_for, started_at, status, "
            "arguments, pid) "
            "VALUES ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp(), 'running', $6::pg_catalog.jsonb, $7)",
            7, types, values, nulls, false, 0);
    xact_commit();
}

void
history_finish(int64 id, const char *status, const char *result, int sqlstate, const char *message)
{
    Oid types[5] = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
    Datum values[5] = {0};
    char nulls[5] = {' ', ' ', 'n', 'n', 'n'};

    xact_begin("recording the end of a run");
    values[0] = Int64GetDatum(id);
    values[1] = CStringGetTextDatum(status);
    if (result != NULL) {
        values[2] = CStringGetTextDatum(result);
        nulls[2] = ' ';
    }
    if (message != NULL) {
        values[3] = CStringGetTextDatum(message);
        values[4] = CStringGetTextDatum(unpack_sql_state(sqlstate));
        nulls[3] = nulls[4] = ' ';
    }
    spi_run("UPDATE apapacho_jobs.run SET status = $2, result = $3::pg_catalog.jsonb, error = $4, sqlstate = $5, "
            "finished_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) $1",
            5, types, values, nulls, false, 0);
    xact_commit();
}

void
history_not_run(JobId job, TimestampTz scheduled_for, const char *status, const char *message)
{
    Oid types[4] = {TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
    Datum values[4];

    xact_begin("recording a run that did not take place");
    values[0] = CStringGetTextDatum(job_definitions[job].name);
    values[1] = TimestampTzGetDatum(scheduled_for);
    values[2] = CStringGetTextDatum(status);
    values[3] = CStringGetTextDatum(message);
    spi_run("INSERT INTO apapacho_jobs.run (id, job, trigger, scheduled_for, finished_at, status, error) "
            "VALUES (pg_catalog.nextval('apapacho_jobs.run_id_seq'), $1, 'schedule', $2, "
            "pg_catalog.clock_timestamp(), $3, $4)",
            4, types, values, NULL, false, 0);
    xact_commit();
}

bool
history_mark_lost(void)
{
    static const char message[] =
        "the run's process ended without reporting: the server crashed, or the process was killed";
    Oid types[3] = {INT8OID, INT8ARRAYOID, TEXTOID};
    Datum values[3];
    Datum active[MAX_RUNS];
    int64 ids[MAX_RUNS];
    int count;
    bool complete;

    xact_begin("looking for lost runs");
    /* Runs with a higher id may start while we look; those with a lower one are either in shared memory now or over. */
    values[0] = Int64GetDatum(history_next_id());
    complete = dispatch_active_ids(MyDatabaseId, ids, &count);
    if (complete) {
        for (int i = 0; i < count; i++)
            active[i] = Int64GetDatum(ids[i]);
        values[1] = PointerGetDatum(construct_array(active, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
        values[2] = CStringGetTextDatum(message);
        spi_run(
            "UPDATE apapacho_jobs.run SET status = 'crashed', finished_at = pg_catalog.clock_timestamp(), error = $3, "
            "sqlstate = 'XX000' WHERE status OPERATOR(pg_catalog.=) 'running' AND id OPERATOR(pg_catalog.<) $1 "
            "AND id OPERATOR(pg_catalog.<>) ALL ($2)",
            3, types, values, NULL, false, 0);
    }
    xact_commit();
    return complete;
}

int
history_cut_off_runs(CutOffRun runs[JOB_COUNT])
{
    int count = 0;

    xact_begin("looking for runs that were cut off");
    for (int job = 0; job < JOB_COUNT; job++) {
        Oid types[1] = {TEXTOID};
        Datum values[1] = {CStringGetTextDatum(job_definitions[job].name)};
        CutOffRun *cut_off = &runs[count];
        char *status;
        char *trigger;
        char *arguments;
        bool is_null;

        if (spi_run("SELECT status, trigger, arguments::pg_catalog.text, scheduled_for FROM apapacho_jobs.run "
                    "WHERE job OPERATOR(pg_catalog.=) $1 AND started_at IS NOT NULL ORDER BY id DESC LIMIT 1",
                    1, types, values, NULL, true, 1) == 0)
            continue;
        status = spi_text(0, 1);
        trigger = spi_text(0, 2);
        arguments = spi_text(0, 3);
        if (strcmp(status, STATUS_INTERRUPTED) != 0 &&
            (strcmp(status, STATUS_CRASHED) != 0 || strcmp(trigger, "recovery") == 0))
            continue;
        cut_off->job = (JobId)job;
        cut_off->scheduled_for =
            DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &is_null));
        strlcpy(cut_off->arguments, arguments != NULL ? arguments : "", sizeof(cut_off->arguments));
        count++;
    }
    xact_commit();
    return count;
}
