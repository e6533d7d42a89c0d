/*
 * delivery_settings.h: settings of how webhooks are delivered: retries, addresses, attempts that are kept, older
 * secrets.
 */
#ifndef APAPACHO_DELIVERY_SETTINGS_H
#define APAPACHO_DELIVERY_SETTINGS_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "lib/delivery/address.h"
#include "lib/delivery/retry.h"

/* apapacho_jobs.outbox_log_attempts */
typedef enum LoggedAttempts { LOG_ATTEMPTS_NONE, LOG_ATTEMPTS_FAILURES, LOG_ATTEMPTS_ALL } LoggedAttempts;

/* apapacho_jobs.outbox_order */
typedef enum OutboxOrder { OUTBOX_ORDER_AGGREGATE, OUTBOX_ORDER_NONE } OutboxOrder;

extern int setting_outbox_log_attempts;          /* a LoggedAttempts */
extern int setting_outbox_order;                 /* an OutboxOrder */
extern int setting_outbox_attempts_days;         /* attempts are kept so long, 0: for ever */
extern int setting_outbox_retry_after_max;       /* the longest wait that a receiver may ask for, s */
extern bool setting_outbox_fail_on_client_error; /* most of 4xx is for good */
extern bool setting_outbox_http2;                /* HTTP/2 is offered to https receivers */
extern char *setting_outbox_ca_file;             /* PEM files; empty: the system's, none */
extern char *setting_outbox_client_cert;
extern char *setting_outbox_client_key;
extern int setting_outbox_rate_limit;                       /* requests a second of each publisher; 0: no limit */
extern char *setting_outbox_cloudevents_source;             /* empty: no CloudEvents */
extern const DeliveryRetrySchedule *setting_retry_schedule; /* apapacho_jobs.outbox_retry_schedule */
extern const AddressList *setting_allowed_addresses;        /* apapacho_jobs.outbox_allowed_addresses */
extern TimestampTz setting_previous_secret_until;           /* when the older secret expires by itself; 0: not */

void delivery_settings_define(void);

#endif
