/*
 * jobs.c: the SQL functions that make and change jobs: apapacho_schedule_job, apapacho_alter_job. Runs in the backends
 * of those who call them.
 *
 * The row of a job that exists is locked first, then the caller's rights are looked at, then the row is written as the
 * extension's owner. A trigger of the table tells the scheduler.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "scheduler/command.h"
#include "scheduler/due.h"
#include "scheduler/job_table.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/settings.h"

PG_FUNCTION_INFO_V1(apapacho_schedule_job);
PG_FUNCTION_INFO_V1(apapacho_alter_job);

#define MAX_RETRIES 100

/*
 * The arguments of apapacho_schedule_job and apapacho_alter_job, in their order; they are the parameters of the
 * statements below too.
 */
typedef enum Field {
    FIELD_NAME,
    FIELD_SCHEDULE,
    FIELD_COMMAND,
    FIELD_DATABASE,
    FIELD_RUN_AS,
    FIELD_TIME_ZONE,
    FIELD_TIMEOUT,
    FIELD_RETRIES,
    FIELD_RETRY_DELAY,
    FIELD_RETRY_DELAY_MAX,
    FIELD_OVERLAP,
    FIELD_MISFIRE,
    FIELD_MISFIRE_WINDOW,
    FIELD_OWNER,
    FIELD_NEW_NAME,
    FIELD_COUNT
} Field;

#define PARAMETER_ID FIELD_COUNT /* of the UPDATE */

static const char *const field_names[FIELD_COUNT] = {
    "name",        "schedule",        "command", "database", "run_as",         "time_zone", "timeout", "retries",
    "retry_delay", "retry_delay_max", "overlap", "misfire",  "misfire_window", "owner",     "new_name"};

static Oid parameter_types[FIELD_COUNT + 1] = {TEXTOID,     TEXTOID,    TEXTOID,     TEXTOID,     REGROLEOID, TEXTOID,
                                               INTERVALOID, INT4OID,    INTERVALOID, INTERVALOID, TEXTOID,    TEXTOID,
                                               INTERVALOID, REGROLEOID, TEXTOID,     INT8OID};

static const char insert_sql[] =
    "INSERT INTO apapacho_jobs.job (name, schedule, command, database, run_as, time_zone, timeout, retries,"
    " retry_delay, retry_delay_max, overlap, misfire, misfire_window, owner)"
    " VALUES ($1, $2, $3, NULLIF($4, ''), $5, NULLIF($6, ''), NULLIF($7, '0'), $8, $9, $10, $11, $12, $13, $14)"
    " ON CONFLICT (name) DO NOTHING RETURNING id";

/* What is null stays; an empty database or zone and a timeout of 0 become null. */
static const char update_sql[] =
    "UPDATE apapacho_jobs.job SET name = COALESCE($15, name), schedule = COALESCE($2, schedule),"
    " command = COALESCE($3, command), database = NULLIF(COALESCE($4, database), ''), run_as = COALESCE($5, run_as),"
    " time_zone = NULLIF(COALESCE($6, time_zone), ''), timeout = NULLIF(COALESCE($7, timeout), '0'),"
    " retries = COALESCE($8, retries), retry_delay = COALESCE($9, retry_delay),"
    " retry_delay_max = COALESCE($10, retry_delay_max), overlap = COALESCE($11, overlap),"
    " misfire = COALESCE($12, misfire), misfire_window = COALESCE($13, misfire_window), owner = COALESCE($14, owner),"
    " updated_at = now() WHERE id = $16";

/* What a call says about a job. */
typedef struct Change {
    Datum values[FIELD_COUNT + 1]; /* as the statements want them: roles are oids */
    char nulls[FIELD_COUNT + 2];   /* 'n': nothing is said about the field */
    Oid caller;
} Change;

static bool
is_given(const Change *change, Field field)
{
    return change->nulls[field] != 'n';
}

static void
give(Change *change, Field field, Datum value)
{
    change->values[field] = value;
    change->nulls[field] = ' ';
}

static char *
given_text(const Change *change, Field field)
{
    return TextDatumGetCString(change->values[field]);
}

static void
read_arguments(FunctionCallInfo fcinfo, Change *change)
{
    memset(change, 0, sizeof(*change));
    memset(change->nulls, 'n', sizeof(change->nulls) - 1);
    change->caller = GetUserId();
    for (int field = 0; field < PG_NARGS() && field < FIELD_COUNT; field++) {
        if (!PG_ARGISNULL(field))
            give(change, (Field)field, PG_GETARG_DATUM(field));
    }
}

static void
require_given(const Change *change, Field field)
{
    if (!is_given(change, field))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("argument \"%s\" must not be null", field_names[field])));
}

static void
refuse(Field field, const char *detail)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("invalid value for argument \"%s\"", field_names[field]), errdetail("%s", detail)));
}

static void
check_name(Field field, const char *name)
{
    size_t length = strlen(name);
    bool is_printable = true;

    for (const char *byte = name; *byte != '\0'; byte++)
        is_printable = is_printable && (unsigned char)*byte >= ' ' && *byte != 0x7f;
    if (length < 1 || length >= NAMEDATALEN || !is_printable || name[0] == ' ' || name[length - 1] == ' ')
        refuse(field, "A job's name has 1 to 63 bytes, all printable, with no blank at either end.");
}

/* Months are of no certain length; and a superfluous upper bound would overflow timers. */
static int64
check_interval(const Change *change, Field field, int64 least, int64 most, const char *detail)
{
    Interval *interval = DatumGetIntervalP(change->values[field]);
    int64 microseconds;

    if (interval->month != 0 || interval->day < -10000 || interval->day > 10000 ||
        interval->time < -10000 * USECS_PER_DAY || interval->time > 10000 * USECS_PER_DAY)
        refuse(field, detail);
    microseconds = interval->day * USECS_PER_DAY + interval->time;
    if (microseconds < least || microseconds > most)
        refuse(field, detail);
    return microseconds;
}

static void
check_word(const Change *change, Field field, const char *const words[], const char *detail)
{
    char *given = given_text(change, field);

    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(given, words[i]) == 0)
            return;
    }
    refuse(field, detail);
}

static void
check_retry_delays(const Change *change, const Job *job)
{
    static const char detail[] = "A delay is from 0 to 24 days, without months.";
    int64 delay = job != NULL ? job->retry_delay_ms * 1000 : 0;
    int64 longest = job != NULL ? job->retry_delay_max_ms * 1000 : 0;

    if (is_given(change, FIELD_RETRY_DELAY))
        delay = check_interval(change, FIELD_RETRY_DELAY, 0, 24 * USECS_PER_DAY, detail);
    if (is_given(change, FIELD_RETRY_DELAY_MAX))
        longest = check_interval(change, FIELD_RETRY_DELAY_MAX, 0, 24 * USECS_PER_DAY, detail);
    if (longest < delay)
        refuse(FIELD_RETRY_DELAY_MAX, "It must not be shorter than retry_delay.");
}

/* The rules of the job. `job` is the one that is changed; NULL: a new one, for which all of them are given. */
static void
check_policies(const Change *change, const Job *job)
{
    static const char *const overlaps[] = {"skip", "queue", NULL};
    static const char *const misfires[] = {"skip", "once", "all", NULL};

    if (is_given(change, FIELD_TIMEOUT)) {
        static const char detail[] = "A timeout is from 1 millisecond to 24 days, without months; or 0 for none.";
        int64 timeout = check_interval(change, FIELD_TIMEOUT, 0, 24 * USECS_PER_DAY, detail);

        if (timeout != 0 && timeout < 1000)
            refuse(FIELD_TIMEOUT, detail);
    }
    if (is_given(change, FIELD_RETRIES)) {
        int retries = DatumGetInt32(change->values[FIELD_RETRIES]);

        if (retries < 0 || retries > MAX_RETRIES)
            refuse(FIELD_RETRIES, "There are from 0 to 100 retries.");
    }
    check_retry_delays(change, job);
    if (is_given(change, FIELD_OVERLAP))
        check_word(change, FIELD_OVERLAP, overlaps, "It is skip or queue.");
    if (is_given(change, FIELD_MISFIRE))
        check_word(change, FIELD_MISFIRE, misfires, "It is skip, once or all.");
    if (is_given(change, FIELD_MISFIRE_WINDOW))
        check_interval(change, FIELD_MISFIRE_WINDOW, 0, 366 * USECS_PER_DAY,
                       "A window is from 0 to 366 days, without months.");
}

/* When the job is due, by what is given and what stays of `job` (NULL: a new one). */
static void
check_schedule(const Change *change, const Job *job)
{
    char *expression = is_given(change, FIELD_SCHEDULE) ? given_text(change, FIELD_SCHEDULE) : job->schedule;
    const char *zone = job != NULL ? job->time_zone : NULL;
    DueRule rule = {0};

    job_parse_schedule(expression, &rule.schedule);
    if (is_given(change, FIELD_TIME_ZONE))
        zone = given_text(change, FIELD_TIME_ZONE);
    rule.zone = zone != NULL && zone[0] != '\0' ? job_time_zone(zone) : setting_timezone();
    due_require_ever(&rule, expression);
}

/* What the job does, and where its times are. */
static void
check_texts(const Change *change)
{
    if (is_given(change, FIELD_COMMAND))
        command_check(given_text(change, FIELD_COMMAND));
    if (is_given(change, FIELD_TIME_ZONE) && given_text(change, FIELD_TIME_ZONE)[0] != '\0')
        job_check_time_zone(given_text(change, FIELD_TIME_ZONE));
}

static Oid
role_by_name(const Change *change, Field field)
{
    char *name = given_text(change, field);
    Oid role = get_role_oid(name, true);

    if (!OidIsValid(role))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role \"%s\" does not exist", name)));
    return role;
}

static void
require_becoming(const Change *change, Oid role)
{
    if (!compat_can_become(change->caller, role))
        ereport(ERROR,
                (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                 errmsg("permission denied to become role \"%s\"", GetUserNameFromId(role, false)),
                 errdetail("Only who can SET ROLE to a role may have jobs run as that role, or give jobs to it.")));
}

/*
 * Brings the roles and the database of *job, whose owner and run_as are those in force so far, up to what is given, and
 * makes sure that it can be run so, and that the caller could do himself what it will do.
 */
static void
check_roles(Change *change, Job *job)
{
    if (is_given(change, FIELD_DATABASE)) {
        char *database = given_text(change, FIELD_DATABASE);

        /* its own is not meant by name: it may be renamed, or be another one's copy */
        if (strcmp(database, get_database_name(MyDatabaseId)) == 0)
            give(change, FIELD_DATABASE, CStringGetTextDatum(""));
        job->database = given_text(change, FIELD_DATABASE)[0] != '\0' ? database : NULL;
    }
    if (is_given(change, FIELD_RUN_AS)) {
        job->run_as = role_by_name(change, FIELD_RUN_AS);
        give(change, FIELD_RUN_AS, ObjectIdGetDatum(job->run_as));
    }
    if (is_given(change, FIELD_OWNER)) {
        job->owner = role_by_name(change, FIELD_OWNER);
        give(change, FIELD_OWNER, ObjectIdGetDatum(job->owner));
        require_becoming(change, job->owner);
    }
    if (job->builtin)
        return;
    if (is_given(change, FIELD_DATABASE) || is_given(change, FIELD_RUN_AS) || is_given(change, FIELD_COMMAND)) {
        if (GetUserNameFromId(job->run_as, true) != NULL)
            require_becoming(change, job->run_as);
        job_require_runnable(job);
    } else if (is_given(change, FIELD_OWNER))
        job_require_runnable(job);
}

static void
refuse_builtin(const Change *change, const Job *job)
{
    static const Field fixed[] = {FIELD_SCHEDULE, FIELD_COMMAND, FIELD_DATABASE, FIELD_RUN_AS, FIELD_NEW_NAME};

    for (int i = 0; i < lengthof(fixed); i++) {
        if (is_given(change, fixed[i]))
            ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                            errmsg("cannot change the %s of built-in job \"%s\"",
                                   fixed[i] == FIELD_NEW_NAME ? "name" : field_names[fixed[i]], job->name),
                            errhint("Its schedule is a setting: ALTER SYSTEM SET %s = '...'.", job_setting(job))));
    }
}

/* A policy that is null is the default one, and what the job can be without is nothing. */
static void
give_defaults(Change *change)
{
    static const struct {
        Field field;
        const char *value;
    } defaults[] = {{FIELD_DATABASE, ""},    {FIELD_TIME_ZONE, ""},
                    {FIELD_TIMEOUT, "0"},    {FIELD_RETRY_DELAY, "10 seconds"},
                    {FIELD_OVERLAP, "skip"}, {FIELD_RETRY_DELAY_MAX, "1 hour"},
                    {FIELD_MISFIRE, "once"}, {FIELD_MISFIRE_WINDOW, "1 hour"}};

    for (int i = 0; i < lengthof(defaults); i++) {
        Field field = defaults[i].field;

        if (is_given(change, field))
            continue;
        if (parameter_types[field] == INTERVALOID)
            give(change, field,
                 DirectFunctionCall3(interval_in, CStringGetDatum(defaults[i].value), ObjectIdGetDatum(InvalidOid),
                                     Int32GetDatum(-1)));
        else
            give(change, field, CStringGetTextDatum(defaults[i].value));
    }
    if (!is_given(change, FIELD_RETRIES))
        give(change, FIELD_RETRIES, Int32GetDatum(0));
    if (!is_given(change, FIELD_RUN_AS))
        give(change, FIELD_RUN_AS, CStringGetTextDatum(GetUserNameFromId(change->caller, false)));
}

static void
update(Change *change, const Job *job)
{
    give(change, PARAMETER_ID, Int64GetDatum(job->id));
    (void)job_table_execute(update_sql, FIELD_COUNT + 1, parameter_types, change->values, change->nulls);
}

/* The job of that name, which is the caller's to replace, becomes what is given. */
static int64
replace(Change *change, Job *job)
{
    if (job->builtin)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("job \"%s\" is built in", job->name),
                        errhint("Its schedule is a setting: ALTER SYSTEM SET %s = '...'.", job_setting(job))));
    if (!has_privs_of_role(change->caller, job->owner))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("job \"%s\" exists already and is another role's", job->name),
                        errhint("Choose another name.")));
    check_roles(change, job);
    update(change, job);
    return job->id;
}

static int64
insert(Change *change)
{
    Job job = {.name = given_text(change, FIELD_NAME), .owner = change->caller};

    check_roles(change, &job);
    give(change, FIELD_OWNER, ObjectIdGetDatum(change->caller));
    return job_table_execute(insert_sql, FIELD_COUNT, parameter_types, change->values, change->nulls);
}

/* apapacho_schedule_job(name, schedule, command, ...): the job's id. */
Datum
apapacho_schedule_job(PG_FUNCTION_ARGS)
{
    Change given;
    int64 id = 0;

    PreventCommandDuringRecovery("apapacho_schedule_job()");
    extension_require();
    read_arguments(fcinfo, &given);
    require_given(&given, FIELD_NAME);
    require_given(&given, FIELD_SCHEDULE);
    require_given(&given, FIELD_COMMAND);
    check_name(FIELD_NAME, given_text(&given, FIELD_NAME));
    give_defaults(&given);
    check_texts(&given);
    check_schedule(&given, NULL);
    check_policies(&given, NULL);

    /* between the look and the insertion somebody else may insert, or delete */
    while (id == 0) {
        Change change = given;
        Job *job = job_table_lock(given_text(&given, FIELD_NAME), CurrentMemoryContext);

        id = job != NULL ? replace(&change, job) : insert(&change);
        CHECK_FOR_INTERRUPTS();
    }
    PG_RETURN_INT64(id);
}

static void
check_new_name(const Change *change, const Job *job)
{
    char *name = given_text(change, FIELD_NEW_NAME);
    Job *other;

    check_name(FIELD_NEW_NAME, name);
    other = job_table_find(name, CurrentMemoryContext);
    if (other != NULL && other->id != job->id)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("job \"%s\" exists already", name)));
}

/* apapacho_alter_job(name, ..., owner, new_name): void. */
Datum
apapacho_alter_job(PG_FUNCTION_ARGS)
{
    Change change;
    Job *job;

    PreventCommandDuringRecovery("apapacho_alter_job()");
    extension_require();
    read_arguments(fcinfo, &change);
    require_given(&change, FIELD_NAME);
    job = job_table_lock_own(given_text(&change, FIELD_NAME));
    if (job->builtin)
        refuse_builtin(&change, job);
    check_texts(&change);
    if (!job->builtin && (is_given(&change, FIELD_SCHEDULE) || is_given(&change, FIELD_TIME_ZONE)))
        check_schedule(&change, job);
    check_policies(&change, job);
    if (is_given(&change, FIELD_NEW_NAME))
        check_new_name(&change, job);
    check_roles(&change, job);
    update(&change, job);
    PG_RETURN_VOID();
}
