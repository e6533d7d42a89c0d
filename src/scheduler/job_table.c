/*
 * job_table.c: reads apapacho_jobs.job, and tells who may do what with a job. Runs in schedulers (job_table_read,
 * job_table_valid_run_as) and in backends; what is returned is allocated in the caller's context.
 */
#include "postgres.h"

#include <limits.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "common/int.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "scheduler/job_table.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/job.h"
#include "server/xact.h"

#define KNOWN_NAMES 20 /* own jobs that an error lists */

#define SELECT_JOB                                                                                                     \
    "SELECT id, name, long_name, builtin, paused, owner, run_as, schedule, command, database, time_zone, timeout,"     \
    " retries, retry_delay, retry_delay_max, overlap, misfire, misfire_window FROM apapacho_jobs.job"

enum {
    COLUMN_ID = 1,
    COLUMN_NAME,
    COLUMN_LONG_NAME,
    COLUMN_BUILTIN,
    COLUMN_PAUSED,
    COLUMN_OWNER,
    COLUMN_RUN_AS,
    COLUMN_SCHEDULE,
    COLUMN_COMMAND,
    COLUMN_DATABASE,
    COLUMN_TIME_ZONE,
    COLUMN_TIMEOUT,
    COLUMN_RETRIES,
    COLUMN_RETRY_DELAY,
    COLUMN_RETRY_DELAY_MAX,
    COLUMN_OVERLAP,
    COLUMN_MISFIRE,
    COLUMN_MISFIRE_WINDOW
};

/* Of the last result; 0 when null. */
static Datum
column(uint64 row, int number)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &is_null);

    return is_null ? (Datum)0 : value;
}

static char *
text_column(uint64 row, int number, MemoryContext context)
{
    char *text = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number);

    return text != NULL ? MemoryContextStrdup(context, text) : NULL;
}

/* In microseconds; 0 when null. The table holds neither months nor what overflows; a superuser may have seen to that.
 */
static int64
interval_column(uint64 row, int number)
{
    Datum value = column(row, number);
    Interval *interval = DatumGetIntervalP(value);
    int64 days;

    if (interval == NULL)
        return 0;
    if (pg_mul_s64_overflow((int64)interval->month * DAYS_PER_MONTH + interval->day, USECS_PER_DAY, &days) ||
        pg_add_s64_overflow(days, interval->time, &days))
        return PG_INT64_MAX;
    return Max(days, 0);
}

/* Rounded up, so that a little is not nothing. */
static int64
milliseconds_column(uint64 row, int number)
{
    int64 microseconds = interval_column(row, number);

    return microseconds / 1000 + (microseconds % 1000 != 0 ? 1 : 0);
}

static Job *
read_row(uint64 row, MemoryContext context)
{
    Job *job = MemoryContextAllocZero(context, sizeof(Job));
    char *overlap = spi_text(row, COLUMN_OVERLAP);
    char *misfire = spi_text(row, COLUMN_MISFIRE);

    job->id = spi_int64(row, COLUMN_ID);
    job->name = text_column(row, COLUMN_NAME, context);
    job->long_name = text_column(row, COLUMN_LONG_NAME, context);
    job->builtin = DatumGetBool(column(row, COLUMN_BUILTIN));
    job->paused = DatumGetBool(column(row, COLUMN_PAUSED));
    job->owner = DatumGetObjectId(column(row, COLUMN_OWNER));
    job->run_as = DatumGetObjectId(column(row, COLUMN_RUN_AS));
    job->schedule = text_column(row, COLUMN_SCHEDULE, context);
    job->command = text_column(row, COLUMN_COMMAND, context);
    job->database = text_column(row, COLUMN_DATABASE, context);
    job->time_zone = text_column(row, COLUMN_TIME_ZONE, context);
    job->timeout_ms = Min(milliseconds_column(row, COLUMN_TIMEOUT), INT_MAX);
    job->retries = (int)spi_int64(row, COLUMN_RETRIES);
    job->retry_delay_ms = milliseconds_column(row, COLUMN_RETRY_DELAY);
    job->retry_delay_max_ms = milliseconds_column(row, COLUMN_RETRY_DELAY_MAX);
    job->overlap = strcmp(overlap, "queue") == 0 ? OVERLAP_QUEUE : OVERLAP_SKIP;
    job->misfire = strcmp(misfire, "all") == 0    ? MISFIRE_ALL
                   : strcmp(misfire, "skip") == 0 ? MISFIRE_SKIP
                                                  : MISFIRE_ONCE;
    job->misfire_window = interval_column(row, COLUMN_MISFIRE_WINDOW);
    return job;
}

List *
job_table_read(MemoryContext context)
{
    uint64 count = spi_run(SELECT_JOB " ORDER BY id", 0, NULL, NULL, NULL, true, 0);
    List *jobs = NIL;

    for (uint64 row = 0; row < count; row++) {
        Job *job = read_row(row, context);
        MemoryContext before;

        /* what a superuser may have written by hand, and nobody could run */
        if (job->builtin != job_is_builtin(job->id))
            continue;
        before = MemoryContextSwitchTo(context);
        jobs = lappend(jobs, job);
        MemoryContextSwitchTo(before);
        CHECK_FOR_INTERRUPTS();
    }
    return jobs;
}

static Job *
find(const char *name, const char *sql, bool read_only, MemoryContext context)
{
    Oid types[] = {TEXTOID};
    Datum values[1];
    Job *job = NULL;
    RunAs saved;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    values[0] = CStringGetTextDatum(name);
    run_as(&saved, extension_owner());
    if (spi_run(sql, 1, types, values, NULL, read_only, 1) > 0)
        job = read_row(0, context);
    run_as_end(&saved);
    SPI_finish();
    return job;
}

Job *
job_table_find(const char *name, MemoryContext context)
{
    return find(name, SELECT_JOB " WHERE name = $1 OR long_name = $1", false, context);
}

Job *
job_table_lock(const char *name, MemoryContext context)
{
    return find(name, SELECT_JOB " WHERE name = $1 OR long_name = $1 FOR UPDATE", false, context);
}

Job *
job_table_lock_own(const char *name)
{
    Job *job = job_table_lock(name, CurrentMemoryContext);

    if (job == NULL)
        job_unknown(name);
    job_require_rights(job, GetUserId());
    return job;
}

int64
job_table_execute(const char *sql, int count, Oid *types, Datum *values, const char *nulls)
{
    int64 result = 0;
    RunAs saved;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run_as(&saved, extension_owner());
    if (spi_run(sql, count, types, values, nulls, false, 0) > 0 && SPI_tuptable != NULL)
        result = spi_int64(0, 1);
    run_as_end(&saved);
    SPI_finish();
    return result;
}

char *
job_setting(const Job *job)
{
    return psprintf("apapacho_jobs.%s_cron", job->name);
}

/* "outbox (outboxPublisher), ..., mine", in the caller's context. */
static char *
known_names(Oid role)
{
    MemoryContext caller = CurrentMemoryContext;
    StringInfoData names;
    RunAs saved;
    uint64 count;
    int own = 0;

    initStringInfo(&names);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run_as(&saved, extension_owner());
    count = spi_run(SELECT_JOB " ORDER BY builtin DESC, CASE WHEN builtin THEN id END, name", 0, NULL, NULL, NULL,
                    false, 0);
    for (uint64 row = 0; row < count; row++) {
        Job *job = read_row(row, CurrentMemoryContext);
        MemoryContext before;

        if (!job->builtin && (!has_privs_of_role(role, job->owner) || ++own > KNOWN_NAMES))
            continue;
        before = MemoryContextSwitchTo(caller);
        appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", job->name);
        if (job->long_name != NULL)
            appendStringInfo(&names, " (%s)", job->long_name);
        MemoryContextSwitchTo(before);
    }
    if (own > KNOWN_NAMES)
        appendStringInfoString(&names, ", ...");
    run_as_end(&saved);
    SPI_finish();
    return names.data;
}

void
job_unknown(const char *name)
{
    char *known = known_names(GetUserId());

    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown job \"%s\"", name),
                    known[0] != '\0' ? errhint("The jobs are %s.", known) : 0));
}

void
job_require_rights(const Job *job, Oid role)
{
    if (!has_privs_of_role(role, job->owner))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for job \"%s\"", job->name),
                        errdetail("Only its owner, and roles that are members of it, can do that.")));
}

static bool
role_can_login(Oid role)
{
    HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
    bool can_login = HeapTupleIsValid(tuple) && ((Form_pg_authid)GETSTRUCT(tuple))->rolcanlogin;

    if (HeapTupleIsValid(tuple))
        ReleaseSysCache(tuple);
    return can_login;
}

/* Why a job cannot be run. */
typedef struct Problem {
    int sqlstate;
    char *message;
    char *hint; /* NULL: none */
} Problem;

static bool
problem(Problem *found, int sqlstate, char *message, char *hint)
{
    *found = (Problem){.sqlstate = sqlstate, .message = message, .hint = hint};
    return true;
}

static bool
find_problem_of_database(const Job *job, const char *role, Problem *found)
{
    Oid database = job->database != NULL ? get_database_oid(job->database, true) : MyDatabaseId;
    const char *name = job->database != NULL ? job->database : get_database_name(MyDatabaseId);
    HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
    bool allows_connections;

    if (!HeapTupleIsValid(tuple))
        return problem(found, ERRCODE_UNDEFINED_DATABASE, psprintf("database \"%s\" does not exist", name), NULL);
    allows_connections = ((Form_pg_database)GETSTRUCT(tuple))->datallowconn;
    ReleaseSysCache(tuple);
    if (!allows_connections)
        return problem(found, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                       psprintf("database \"%s\" is not accepting connections", name), NULL);
    if (!compat_can_connect(database, job->run_as))
        return problem(found, ERRCODE_INSUFFICIENT_PRIVILEGE,
                       psprintf("role \"%s\" has no CONNECT privilege on database \"%s\"", role, name), NULL);
    return false;
}

static bool
find_problem(const Job *job, Problem *found)
{
    char *owner = GetUserNameFromId(job->owner, true);
    char *role = GetUserNameFromId(job->run_as, true);

    if (job->builtin)
        return false;
    if (owner == NULL)
        return problem(found, ERRCODE_UNDEFINED_OBJECT, psprintf("the owner of job \"%s\" has been dropped", job->name),
                       psprintf("A superuser can give the job to another role with apapacho_alter_job()."));
    if (role == NULL)
        return problem(found, ERRCODE_UNDEFINED_OBJECT,
                       psprintf("the role that job \"%s\" runs as has been dropped", job->name),
                       psprintf("Give it another one with apapacho_alter_job()."));
    if (!compat_can_become(job->owner, job->run_as))
        return problem(
            found, ERRCODE_INSUFFICIENT_PRIVILEGE,
            psprintf("the owner \"%s\" of job \"%s\" is not permitted to become role \"%s\"", owner, job->name, role),
            psprintf("Give another role as run_as, or grant role \"%s\" to \"%s\".", role, owner));
    if (!role_can_login(job->run_as))
        return problem(
            found, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            psprintf("role \"%s\" is not permitted to log in", role),
            psprintf("Give a role that can log in as run_as, or run ALTER ROLE %s LOGIN.", quote_identifier(role)));
    return find_problem_of_database(job, role, found);
}

bool
job_table_valid_run_as(const Job *job, char **why)
{
    Problem found;
    bool valid = !find_problem(job, &found);

    *why = valid ? NULL : found.message;
    return valid;
}

void
job_require_runnable(const Job *job)
{
    Problem found;

    if (find_problem(job, &found))
        ereport(ERROR, (errcode(found.sqlstate), errmsg("%s", found.message),
                        found.hint != NULL ? errhint("%s", found.hint) : 0));
}

void
job_parse_schedule(const char *text, CronSchedule *schedule)
{
    CronError error;

    if (strlen(text) > JOB_SCHEDULE_MAX_BYTES)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid cron expression"),
                        errdetail("A cron expression has at most %d bytes.", JOB_SCHEDULE_MAX_BYTES)));
    if (!cron_parse(text, schedule, &error))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid cron expression: \"%s\"", text),
                        errdetail("At position %d: %s.", error.position + 1, error.message)));
}

pg_tz *
job_time_zone(const char *name)
{
    pg_tz *zone = name[0] != '\0' ? pg_tzset(name) : NULL;

    if (zone == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("time zone \"%s\" not recognized", name),
                        errhint("Names are like America/Santiago; see pg_timezone_names.")));
    if (!pg_tz_acceptable(zone))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("time zone \"%s\" appears to use leap seconds", name),
                 errdetail("PostgreSQL does not support leap seconds.")));
    return zone;
}

void
job_check_time_zone(const char *name)
{
    pg_tzenum *names = pg_tzenumerate_start();
    pg_tz *zone;

    while ((zone = pg_tzenumerate_next(names)) != NULL && pg_strcasecmp(pg_get_timezone_name(zone), name) != 0)
        ;
    pg_tzenumerate_end(names);
    if (zone == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("time zone \"%s\" not recognized", name),
                        errhint("The names are those of the view pg_timezone_names, such as America/Santiago.")));
}
