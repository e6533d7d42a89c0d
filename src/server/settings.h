/*
 * settings.h: the extension's settings (GUCs), spec section 2.
 *
 * Every variable is defined at preload with the value of the seed's environment variable as its default. Strings are
 * never NULL. Read them directly; they change at ProcessConfigFile() only, never in between.
 */
#ifndef APAPACHO_SETTINGS_H
#define APAPACHO_SETTINGS_H

#include "postgres.h"

#include "pgtime.h"

#include "lib/cron/cron.h"
#include "server/job.h"

/* Kinds of publisher, apapacho_jobs.outbox_publisher_type. */
typedef enum PublisherType { PUBLISHER_CONSOLE, PUBLISHER_WEBHOOK } PublisherType;

extern bool setting_enabled;                   /* apapacho_jobs.enabled */
extern char *setting_databases;                /* apapacho_jobs.databases: names separated by commas, or * */
extern char *setting_schema;                   /* apapacho_jobs.schema: where the user's tables are */
extern int setting_outbox_publisher_type;      /* a PublisherType */
extern const char *setting_outbox_webhook_url; /* empty: none; a secret in so far as it may hold credentials */
extern int setting_outbox_batch_size;          /* events claimed at once, 1..10000 */
extern int setting_outbox_max_retries;         /* attempts after which an event is failed, 1..1000 */
extern int setting_outbox_concurrency;         /* transfers in flight at once, 1..1024 */
extern int setting_outbox_workers;             /* publishers at most, 1..16 */
extern bool setting_outbox_wake_on_commit;     /* commits that add events have them published at once */
extern int setting_outbox_timeout;             /* a transfer's total deadline, ms */
extern int setting_payout_workers;             /* processes of a calculation, 1..16 */
extern int setting_payout_batch_size;          /* creators in one transaction, 1..100000 */
extern int setting_max_workers;                /* runs of users' jobs at work at once */
extern int setting_clock_offset; /* apapacho_jobs.debug_clock_offset: seconds, a test's means to be at another time */
extern char *setting_notify_channel; /* for failed runs; empty: none */

/* The schedule of a job and its text; NULL schedule and "" text when the job's setting is empty (disabled). */
const CronSchedule *setting_cron(JobId job);
const char *setting_cron_text(JobId job);

/* The zone in which schedules and calendar days are meant (apapacho_jobs.timezone, else TimeZone). Never NULL. */
pg_tz *setting_timezone(void);

/* Whether apapacho_jobs.databases names the database. Allocates in the current context. */
bool setting_serves_database(const char *name);

/*
 * The webhook secret, palloc'ed, or NULL when there is none: apapacho_jobs.outbox_webhook_secret, else the contents
 * (less the trailing line end) of apapacho_jobs.outbox_webhook_secret_file. Raises an ERROR that names the file when it
 * cannot be read. The caller wipes it with explicit_bzero when done.
 */
char *setting_webhook_secret(void);

/* The same of any such file; what it says of its errors never includes the contents. */
char *settings_read_secret_file(const char *name);

/* The older one, apapacho_jobs.outbox_webhook_secret_previous, until it expires; NULL: none. To be wiped too. */
char *setting_previous_webhook_secret(void);

/* Defines all settings; from _PG_init at preload. */
void settings_define(void);

#endif
