/*
 * settings.c: defines the settings, checks their values and keeps what was parsed from them.
 *
 * Defined once, in the postmaster at preload; every process then has its copy. Check hooks run in any process, at
 * start, SET and reload: they must not raise errors and leave what they parsed in the variable's "extra", which the
 * assign hooks pick up.
 */
#include "postgres.h"

#include <limits.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "lib/delivery/engine.h"
#include "lib/delivery/signature.h"
#include "server/compat.h"
#include "server/delivery_settings.h"
#include "server/environment.h"
#include "server/settings.h"
#include "server/shared.h"

int setting_clock_offset; /* defined in scheduler/due.c */
bool setting_enabled;
char *setting_databases;
char *setting_schema;
int setting_outbox_publisher_type;
const char *setting_outbox_webhook_url = ""; /* its variable's extra */
int setting_outbox_batch_size;
int setting_outbox_max_retries;
int setting_outbox_concurrency;
int setting_outbox_timeout;
bool setting_outbox_wake_on_commit;
int setting_outbox_workers;
int setting_payout_batch_size;
int setting_payout_workers;
int setting_max_workers;
char *setting_notify_channel;

static int history_days;
static int history_failed_days;
static int history_rows;
static char *cron_text[JOB_COUNT];
static CronSchedule *cron_schedule[JOB_COUNT]; /* each is its variable's extra; NULL when disabled */
static char *timezone_name;
static pg_tz *timezone_setting; /* NULL: the server's TimeZone */
static char *url_variable;      /* always empty, see keep_hidden */
static char *secret_variable;   /* so is this */
static char *previous_secret_variable;
static char *previous_secret_value;
static char *secret_value; /* the variable's extra; NULL when there is none */
static char *secret_file;

static const struct config_enum_entry publisher_types[] = {
    {"console", PUBLISHER_CONSOLE, false}, {"webhook", PUBLISHER_WEBHOOK, false}, {NULL, 0, false}};

#define MAX_CRON_LENGTH 255
#define MAX_SECRET_FILE 4096

const CronSchedule *
setting_cron(JobId job)
{
    return cron_schedule[job];
}

const char *
setting_cron_text(JobId job)
{
    return cron_text[job];
}

pg_tz *
setting_timezone(void)
{
    const char *name;
    pg_tz *zone = timezone_setting;

    if (zone == NULL) {
        /* not what the session has SET: days of hold must not depend on who looks */
        name = GetConfigOptionResetString("TimeZone");
        zone = name != NULL ? pg_tzset(name) : NULL;
    }
    return zone != NULL ? zone : session_timezone;
}

bool
setting_serves_database(const char *name)
{
    List *names = NIL;
    ListCell *cell;

    if (strcmp(setting_databases, "*") == 0)
        return true;
    (void)SplitIdentifierString(pstrdup(setting_databases), ',', &names);
    foreach (cell, names) {
        if (strcmp(lfirst(cell), name) == 0)
            return true;
    }
    return false;
}

/* Cron expressions: the parsed schedule is the extra. */
static bool
check_cron(char **newval, void **extra, GucSource source)
{
    CronSchedule schedule;
    CronError error;
    CronSchedule *kept;

    if ((*newval)[0] == '\0') {
        *extra = NULL;
        return true;
    }
    if (strlen(*newval) > MAX_CRON_LENGTH) {
        GUC_check_errdetail("A cron expression has at most %d characters.", MAX_CRON_LENGTH);
        return false;
    }
    if (!cron_parse(*newval, &schedule, &error)) {
        GUC_check_errdetail("At position %d: %s.", error.position + 1, error.message);
        GUC_check_errhint("Expected are five fields (minute, hour, day of month, month, day of week), six with the "
                          "second first, an @name such as @daily, \"@every 5m\" or \"30 seconds\"; for example "
                          "\"0 2 * * 0\". An empty value disables the job.");
        return false;
    }
    kept = guc_malloc(LOG, sizeof(CronSchedule));
    if (kept == NULL)
        return false;
    memcpy(kept, &schedule, sizeof(CronSchedule));
    *extra = kept;
    return true;
}

#define CRON_ASSIGN_HOOK(name, job)                                                                                    \
    static void name(const char *newval, void *extra)                                                                  \
    {                                                                                                                  \
        cron_schedule[job] = extra;                                                                                    \
    }

CRON_ASSIGN_HOOK(assign_outbox_cron, JOB_OUTBOX)
CRON_ASSIGN_HOOK(assign_payout_cron, JOB_PAYOUT)
CRON_ASSIGN_HOOK(assign_cleanup_cron, JOB_CLEANUP)
CRON_ASSIGN_HOOK(assign_retry_cron, JOB_RETRY)

/* The zone: the extra holds a pointer to the zone, which the server caches for ever. */
static bool
check_zone(char **newval, void **extra, GucSource source)
{
    pg_tz *zone;
    pg_tz **kept;

    if ((*newval)[0] == '\0') {
        *extra = NULL;
        return true;
    }
    zone = pg_tzset(*newval);
    if (zone == NULL) {
        GUC_check_errdetail("The time zone is not known; names are like America/Santiago.");
        return false;
    }
    if (!pg_tz_acceptable(zone)) {
        GUC_check_errdetail("The time zone appears to use leap seconds, which are not supported.");
        return false;
    }
    kept = guc_malloc(LOG, sizeof(pg_tz *));
    if (kept == NULL)
        return false;
    *kept = zone;
    *extra = kept;
    return true;
}

static void
assign_zone(const char *newval, void *extra)
{
    timezone_setting = extra != NULL ? *(pg_tz **)extra : NULL;
}

/*
 * Moves a value that must not be seen into the variable's extra. The variable itself is always empty, so that no view,
 * no log line about a changed parameter and no parallel worker's state ever holds the value.
 */
static bool
keep_hidden(char **newval, void **extra)
{
    size_t size = strlen(*newval) + 1;
    char *kept = guc_malloc(LOG, size);
    char *empty = guc_malloc(LOG, 1);

    if (kept == NULL || empty == NULL)
        return false;
    memcpy(kept, *newval, size);
    explicit_bzero(*newval, size);
    guc_free(*newval);
    empty[0] = '\0';
    *newval = empty;
    *extra = kept;
    return true;
}

/* It may hold credentials: superusers can see it, but the log says nothing of it when it changes. */
static bool
check_webhook_url(char **newval, void **extra, GucSource source)
{
    char error[160];

    *extra = NULL;
    if ((*newval)[0] == '\0')
        return true;
    if (!delivery_url_check(*newval, error, sizeof(error))) {
        /* the server's own message would repeat the value, which may hold credentials */
        GUC_check_errmsg("invalid value for parameter \"apapacho_jobs.outbox_webhook_url\": %s", error);
        GUC_check_errhint("A URL such as https://example.com/webhooks/payments is expected.");
        return false;
    }
    return keep_hidden(newval, extra);
}

static void
assign_webhook_url(const char *newval, void *extra)
{
    setting_outbox_webhook_url = extra != NULL ? extra : "";
}

static const char *
show_webhook_url(void)
{
    return setting_outbox_webhook_url;
}

static bool
check_secret_named(const char *name, char **newval, void **extra)
{
    char error[160];

    *extra = NULL;
    if ((*newval)[0] == '\0')
        return true;
    if (!signing_secret_check(*newval, error, sizeof(error))) {
        /* the server's own message would repeat the value */
        GUC_check_errmsg("invalid value for parameter \"%s\": %s", name, error);
        return false;
    }
    return keep_hidden(newval, extra);
}

static bool
check_secret(char **newval, void **extra, GucSource source)
{
    return check_secret_named("apapacho_jobs.outbox_webhook_secret", newval, extra);
}

static bool
check_previous_secret(char **newval, void **extra, GucSource source)
{
    return check_secret_named("apapacho_jobs.outbox_webhook_secret_previous", newval, extra);
}

static void
assign_previous_secret(const char *newval, void *extra)
{
    previous_secret_value = extra;
}

static const char *
show_previous_secret(void)
{
    return previous_secret_value != NULL ? "********" : "";
}

static void
assign_secret(const char *newval, void *extra)
{
    secret_value = extra;
}

static const char *
show_secret(void)
{
    return secret_value != NULL ? "********" : "";
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
    char *copy = pstrdup(*newval);
    List *names;
    bool valid = strcmp(copy, "*") == 0 || SplitIdentifierString(copy, ',', &names);

    pfree(copy);
    if (!valid)
        GUC_check_errdetail("A list of database names separated by commas is expected, or * for every database.");
    return valid;
}

static bool
check_schema(char **newval, void **extra, GucSource source)
{
    if ((*newval)[0] == '\0' || strlen(*newval) >= NAMEDATALEN) {
        GUC_check_errdetail("The name of one schema is expected.");
        return false;
    }
    return true;
}

static bool
check_channel(char **newval, void **extra, GucSource source)
{
    if (strlen(*newval) >= NAMEDATALEN) {
        GUC_check_errdetail("The name of a channel has at most %d bytes.", NAMEDATALEN - 1);
        return false;
    }
    return true;
}

char *
settings_read_secret_file(const char *name)
{
    char buffer[MAX_SECRET_FILE + 1];
    int file = OpenTransientFile(name, O_RDONLY | PG_BINARY);
    ssize_t length;
    char *secret;

    if (file < 0)
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not open the webhook secret's file \"%s\": %m", name),
                 errhint("Check apapacho_jobs.outbox_webhook_secret_file (or the endpoint's secret_file); the server's "
                         "user must be able to read the file.")));
    length = read(file, buffer, sizeof(buffer));
    if (length < 0)
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not read the webhook secret's file \"%s\": %m", name)));
    CloseTransientFile(file);
    if (length > MAX_SECRET_FILE)
        ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
                        errmsg("the webhook secret's file \"%s\" has more than %d bytes", name, MAX_SECRET_FILE)));
    while (length > 0 && (buffer[length - 1] == '\n' || buffer[length - 1] == '\r'))
        length--;
    if (length == 0 || memchr(buffer, '\0', (size_t)length) != NULL)
        ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
                        errmsg("the webhook secret's file \"%s\" is empty or not text", name)));
    secret = pnstrdup(buffer, (Size)length);
    explicit_bzero(buffer, sizeof(buffer));
    return secret;
}

char *
setting_previous_webhook_secret(void)
{
    if (previous_secret_value == NULL ||
        (setting_previous_secret_until != 0 && setting_previous_secret_until <= GetCurrentTimestamp()))
        return NULL;
    return pstrdup(previous_secret_value);
}

char *
setting_webhook_secret(void)
{
    if (secret_value != NULL)
        return pstrdup(secret_value);
    if (secret_file[0] != '\0')
        return settings_read_secret_file(secret_file);
    return NULL;
}

static void
define_string(const char *name, const char *description, const char *detail, char **variable, const char *boot,
              GucContext context, int flags, GucStringCheckHook check, GucStringAssignHook assign, GucShowHook show)
{
    DefineCustomStringVariable(name, description, detail, variable, boot, context, flags, check, assign, show);
}

static void
define_cron(JobId job, const char *name, const char *environment, const char *boot, GucStringAssignHook assign)
{
    const char *value = environment_string(environment, boot, false);
    CronSchedule schedule;
    CronError error;

    if (value[0] != '\0' && !cron_parse(value, &schedule, &error))
        ereport(FATAL, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("environment variable %s holds an invalid cron expression: \"%s\"", environment, value),
                        errdetail("At position %d: %s.", error.position + 1, error.message)));
    define_string(name, "Schedule of the job as a cron expression.",
                  "Minute, hour, day of month, month, day of week. Empty disables the job.", &cron_text[job], value,
                  PGC_SUSET, 0, check_cron, assign, NULL);
}

static void
define_scheduler_settings(void)
{
    DefineCustomBoolVariable("apapacho_jobs.enabled", "Whether scheduled jobs run.",
                             "Jobs can be run by hand even when this is off.", &setting_enabled,
                             environment_bool("ENABLE_JOBS", true), PGC_SIGHUP, 0, NULL, NULL, NULL);
    define_string("apapacho_jobs.databases", "Databases that are served, where the extension is installed in them.",
                  "Names separated by commas, or * for every database.", &setting_databases, "*", PGC_SIGHUP, 0,
                  check_databases, NULL, NULL);
    define_string("apapacho_jobs.timezone", "Time zone of the schedules and of calendar days.",
                  "Empty means the server's TimeZone.", &timezone_name, "", PGC_SUSET, 0, check_zone, assign_zone,
                  NULL);
    define_cron(JOB_OUTBOX, "apapacho_jobs.outbox_cron", "OUTBOX_CRON", "* * * * *", assign_outbox_cron);
    define_cron(JOB_PAYOUT, "apapacho_jobs.payout_cron", "PAYOUT_CRON", "0 2 * * 0", assign_payout_cron);
    define_cron(JOB_CLEANUP, "apapacho_jobs.cleanup_cron", "CLEANUP_CRON", "0 3 * * *", assign_cleanup_cron);
    define_cron(JOB_RETRY, "apapacho_jobs.retry_cron", "RETRY_CRON", "0 * * * *", assign_retry_cron);
    DefineCustomIntVariable(
        "apapacho_jobs.max_workers", "Runs of users' jobs at work at once, in all databases.",
        "The built-in jobs are not counted, and five of max_worker_processes are left to them and others.",
        &setting_max_workers, 8, 1, MAX_RUNS / 2, PGC_SIGHUP, 0, NULL, NULL, NULL);
    define_string("apapacho_jobs.notify_channel", "Channel of the notification that is sent when a run fails.",
                  "Empty: none is sent.", &setting_notify_channel, "apapacho_jobs", PGC_SUSET, 0, check_channel, NULL,
                  NULL);
    /* these three are read by apapacho_jobs.prune_history() */
    DefineCustomIntVariable("apapacho_jobs.history_days", "Days that the history of finished runs is kept.",
                            "0 keeps them for ever, as far as apapacho_jobs.history_rows allows.", &history_days, 90, 0,
                            36500, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.history_failed_days", "Days that the history of failed runs is kept.",
                            "0 keeps them for ever, as far as apapacho_jobs.history_rows allows.", &history_failed_days,
                            365, 0, 36500, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable(
        "apapacho_jobs.history_rows", "Rows of the history that are kept.",
        "Of each owner of jobs the latest so many, and besides them as many failed runs. 0: no limit.", &history_rows,
        100000, 0, INT_MAX, PGC_SUSET, 0, NULL, NULL, NULL);
}

static int
publisher_type_from_environment(void)
{
    const char *text = environment_string("OUTBOX_PUBLISHER_TYPE", "console", false);

    for (const struct config_enum_entry *entry = publisher_types; entry->name != NULL; entry++) {
        if (pg_strcasecmp(text, entry->name) == 0)
            return entry->val;
    }
    if (text[0] == '\0')
        return PUBLISHER_CONSOLE;
    ereport(FATAL, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("environment variable OUTBOX_PUBLISHER_TYPE has the value \"%s\"", text),
                    errhint("The types are console and webhook.")));
}

/* A bad default from the environment must not be repeated in a message either. */
static void
check_webhook_environment(void)
{
    const char *url = environment_string("OUTBOX_WEBHOOK_URL", "", false);
    const char *secret = environment_string("OUTBOX_WEBHOOK_SECRET", "", true);
    char error[160];

    if (url[0] != '\0' && !delivery_url_check(url, error, sizeof(error)))
        ereport(FATAL, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("environment variable OUTBOX_WEBHOOK_URL is not a usable URL: %s", error)));
    if (secret[0] != '\0' && !signing_secret_check(secret, error, sizeof(error)))
        ereport(FATAL, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("environment variable OUTBOX_WEBHOOK_SECRET is not a usable secret: %s", error)));
}

static void
define_outbox_settings(void)
{
    check_webhook_environment();
    DefineCustomEnumVariable("apapacho_jobs.outbox_publisher_type", "Where outbox events are published.",
                             "console writes a log line for each event, webhook posts it to "
                             "apapacho_jobs.outbox_webhook_url.",
                             &setting_outbox_publisher_type, publisher_type_from_environment(), publisher_types,
                             PGC_SUSET, 0, NULL, NULL, NULL);
    define_string("apapacho_jobs.outbox_webhook_url", "URL that events are posted to.", NULL, &url_variable,
                  environment_string("OUTBOX_WEBHOOK_URL", "", false), PGC_SUSET, GUC_SUPERUSER_ONLY, check_webhook_url,
                  assign_webhook_url, show_webhook_url);
    /* Not for ALTER DATABASE or ALTER ROLE (hence not SUSET): everybody can read what these store. */
    define_string("apapacho_jobs.outbox_webhook_secret", "Secret that webhooks are signed with.", NULL,
                  &secret_variable, environment_string("OUTBOX_WEBHOOK_SECRET", "", true), PGC_SIGHUP,
                  GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GUC_NOT_IN_SAMPLE, check_secret,
                  assign_secret, show_secret);
    define_string("apapacho_jobs.outbox_webhook_secret_previous",
                  "Secret that webhooks are signed with besides, while receivers change over to the new one.", NULL,
                  &previous_secret_variable, "", PGC_SIGHUP,
                  GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GUC_NOT_IN_SAMPLE, check_previous_secret,
                  assign_previous_secret, show_previous_secret);
    define_string(
        "apapacho_jobs.outbox_webhook_secret_file", "File that holds the secret that webhooks are signed with.",
        "Used when apapacho_jobs.outbox_webhook_secret is empty; read at the start of each run.", &secret_file,
        environment_string("OUTBOX_WEBHOOK_SECRET_FILE", "", false), PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_batch_size", "Events that a publisher claims at once.", NULL,
                            &setting_outbox_batch_size, environment_int("OUTBOX_BATCH_SIZE", 1000, 1, 10000), 1, 10000,
                            PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_max_retries", "Attempts after which an event counts as failed.", NULL,
                            &setting_outbox_max_retries, environment_int("OUTBOX_MAX_RETRIES", 10, 1, 1000), 1, 1000,
                            PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_concurrency", "Webhook requests in flight at once.", NULL,
                            &setting_outbox_concurrency, 64, 1, 1024, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_workers", "Publishers that share the work when there is a lot of it.",
                            "Each beyond the first is a background worker of its own.", &setting_outbox_workers, 1, 1,
                            16, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomBoolVariable("apapacho_jobs.outbox_wake_on_commit",
                             "Publishes events as soon as the transaction that added them has committed.",
                             "Otherwise they wait for the next time of apapacho_jobs.outbox_cron.",
                             &setting_outbox_wake_on_commit, true, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_timeout", "Time that a webhook request may take, answer included.",
                            NULL, &setting_outbox_timeout, 15000, 1, INT_MAX / 2, PGC_SUSET, GUC_UNIT_MS, NULL, NULL,
                            NULL);
}

void
settings_define(void)
{
    define_scheduler_settings();
    define_outbox_settings();
    delivery_settings_define();
    define_string("apapacho_jobs.schema", "Schema of the tables that the jobs work on.", NULL, &setting_schema,
                  "public", PGC_SUSET, 0, check_schema, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.payout_workers",
                            "Processes that share a payout calculation when there are many creators.",
                            "Each beyond the first is a background worker of its own.", &setting_payout_workers, 2, 1,
                            16, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.payout_batch_size", "Creators that are paid in one transaction.", NULL,
                            &setting_payout_batch_size, 500, 1, 100000, PGC_SUSET, 0, NULL, NULL, NULL);
    MarkGUCPrefixReserved("apapacho_jobs");
}
