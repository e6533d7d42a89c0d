/*
 * delivery_settings.c: defines the settings of how webhooks are delivered. In every process.
 */
#include "postgres.h"

#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"

#include "server/compat.h"
#include "server/delivery_settings.h"

#define MAX_SOURCE_BYTES 1000

int setting_outbox_log_attempts;
int setting_outbox_order;
int setting_outbox_attempts_days;
int setting_outbox_retry_after_max;
bool setting_outbox_fail_on_client_error;
bool setting_outbox_http2;
char *setting_outbox_ca_file;
char *setting_outbox_client_cert;
char *setting_outbox_client_key;
int setting_outbox_rate_limit;
char *setting_outbox_cloudevents_source;
const DeliveryRetrySchedule *setting_retry_schedule;
const AddressList *setting_allowed_addresses;
TimestampTz setting_previous_secret_until;

static char *retry_schedule_text;
static char *allowed_addresses_text;
static char *previous_until_text;

static const struct config_enum_entry logged_attempts[] = {{"none", LOG_ATTEMPTS_NONE, false},
                                                           {"failures", LOG_ATTEMPTS_FAILURES, false},
                                                           {"all", LOG_ATTEMPTS_ALL, false},
                                                           {NULL, 0, false}};

static const struct config_enum_entry orders[] = {
    {"aggregate", OUTBOX_ORDER_AGGREGATE, false}, {"none", OUTBOX_ORDER_NONE, false}, {NULL, 0, false}};

static bool
check_retry_schedule(char **newval, void **extra, GucSource source)
{
    DeliveryRetrySchedule *schedule = guc_malloc(LOG, sizeof(DeliveryRetrySchedule));
    char error[256];

    if (schedule == NULL)
        return false;
    if (!delivery_retry_schedule_parse(*newval, schedule, error, sizeof(error))) {
        GUC_check_errdetail("%s", error);
        GUC_check_errhint("A list of delays such as %s is expected.", DELIVERY_RETRY_DEFAULT_SCHEDULE);
        guc_free(schedule);
        return false;
    }
    *extra = schedule;
    return true;
}

static void
assign_retry_schedule(const char *newval, void *extra)
{
    setting_retry_schedule = extra;
}

static bool
check_addresses(char **newval, void **extra, GucSource source)
{
    AddressList *list = guc_malloc(LOG, sizeof(AddressList));
    char error[256];

    if (list == NULL)
        return false;
    if (!address_list_parse(*newval, list, error, sizeof(error))) {
        GUC_check_errdetail("%s", error);
        GUC_check_errhint("A list of addresses and networks such as 10.1.2.3, 192.168.0.0/16, fd00::/8 is expected.");
        guc_free(list);
        return false;
    }
    *extra = list;
    return true;
}

static void
assign_addresses(const char *newval, void *extra)
{
    setting_allowed_addresses = extra;
}

/* As the server does with recovery_target_time: without the transaction that timestamptz_in() would need. */
static bool
read_time(const char *text, TimestampTz *time)
{
    char buffer[MAXDATELEN + MAXDATEFIELDS];
    char *fields[MAXDATEFIELDS];
    int types[MAXDATEFIELDS];
    struct pg_tm tm;
    fsec_t fraction;
    int count;
    int kind;
    int zone;

    if (ParseDateTime(text, buffer, sizeof(buffer), fields, types, MAXDATEFIELDS, &count) != 0 ||
        compat_decode_date_time(fields, types, count, &kind, &tm, &fraction, &zone) != 0 || kind != DTK_DATE)
        return false;
    return tm2timestamp(&tm, fraction, &zone, time) == 0;
}

static bool
check_until(char **newval, void **extra, GucSource source)
{
    TimestampTz *until;

    *extra = NULL;
    if ((*newval)[0] == '\0')
        return true;
    until = guc_malloc(LOG, sizeof(TimestampTz));
    if (until == NULL)
        return false;
    if (!read_time(*newval, until)) {
        GUC_check_errhint("A time such as 2026-12-31 18:00:00+00 is expected.");
        guc_free(until);
        return false;
    }
    *extra = until;
    return true;
}

static void
assign_until(const char *newval, void *extra)
{
    setting_previous_secret_until = extra != NULL ? *(TimestampTz *)extra : 0;
}

static bool
check_source(char **newval, void **extra, GucSource source)
{
    for (const char *c = *newval; *c != '\0'; c++) {
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f) {
            GUC_check_errdetail("A URI is expected: without blanks, and what is not ASCII percent-encoded.");
            return false;
        }
    }
    if (strlen(*newval) > MAX_SOURCE_BYTES) {
        GUC_check_errdetail("A URI of at most %d bytes is expected.", MAX_SOURCE_BYTES);
        return false;
    }
    return true;
}

void
delivery_settings_define(void)
{
    DefineCustomStringVariable("apapacho_jobs.outbox_retry_schedule",
                               "Delays between the attempts to deliver an event; the last one is repeated.",
                               "Up to as much again, or half an hour, is added at random.", &retry_schedule_text,
                               DELIVERY_RETRY_DEFAULT_SCHEDULE, PGC_SUSET, 0, check_retry_schedule,
                               assign_retry_schedule, NULL);
    DefineCustomIntVariable(
        "apapacho_jobs.outbox_retry_after_max", "The longest wait that a receiver may ask for by Retry-After.", NULL,
        &setting_outbox_retry_after_max, 86400, 0, 30 * 86400, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
    DefineCustomBoolVariable("apapacho_jobs.outbox_fail_on_client_error",
                             "An answer 4xx other than 408, 410, 425 and 429 makes an event fail for good.",
                             "Otherwise it is tried again like any other failure.",
                             &setting_outbox_fail_on_client_error, false, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_allowed_addresses",
                               "Addresses and networks that webhooks may go to although they are not public.",
                               "What the webhook URL names literally, and localhost, is allowed in any case.",
                               &allowed_addresses_text, "", PGC_SUSET, 0, check_addresses, assign_addresses, NULL);
    DefineCustomEnumVariable("apapacho_jobs.outbox_order", "Which events are published in their order.",
                             "aggregate: those of each aggregate; none: an event waits for no other.",
                             &setting_outbox_order, OUTBOX_ORDER_AGGREGATE, orders, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomEnumVariable("apapacho_jobs.outbox_log_attempts",
                             "Which attempts to deliver events are kept in apapacho_jobs.outbox_attempt.", NULL,
                             &setting_outbox_log_attempts, LOG_ATTEMPTS_FAILURES, logged_attempts, PGC_SUSET, 0, NULL,
                             NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_attempts_days", "Days for which these are kept; 0: for ever.", NULL,
                            &setting_outbox_attempts_days, 30, 0, 36500, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_webhook_ca_file",
                               "PEM file of the authorities that a receiver's certificate is checked by.",
                               "Empty: the system's.", &setting_outbox_ca_file, "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL,
                               NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_webhook_client_cert",
                               "PEM file of the certificate that webhooks are sent with.", NULL,
                               &setting_outbox_client_cert, "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_webhook_client_key", "PEM file of that certificate's key.",
                               "Empty: the certificate's file has it.", &setting_outbox_client_key, "", PGC_SUSET,
                               GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
    DefineCustomBoolVariable("apapacho_jobs.outbox_http2", "Offers HTTP/2 to https receivers.",
                             "Requests then share connections; otherwise HTTP/1.1 is spoken.", &setting_outbox_http2,
                             false, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("apapacho_jobs.outbox_rate_limit", "The most webhook requests a second; 0: no limit.",
                            "Several publishers (apapacho_jobs.outbox_workers) divide it.", &setting_outbox_rate_limit,
                            0, 0, 1000000, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_cloudevents_source",
                               "Source (a URI) of CloudEvents: events are sent as such, in binary mode.",
                               "Empty: they are sent in a JSON envelope.", &setting_outbox_cloudevents_source, "",
                               PGC_SUSET, 0, check_source, NULL, NULL);
    DefineCustomStringVariable("apapacho_jobs.outbox_webhook_secret_previous_until",
                               "When apapacho_jobs.outbox_webhook_secret_previous is not used any more.",
                               "Empty: it is used for as long as it is set.", &previous_until_text, "", PGC_SIGHUP, 0,
                               check_until, assign_until, NULL);
}
