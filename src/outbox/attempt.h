/*
 * attempt.h: the log of attempts to deliver events (the table outbox_attempt): by default those that failed.
 */
#ifndef APAPACHO_OUTBOX_ATTEMPT_H
#define APAPACHO_OUTBOX_ATTEMPT_H

#include "postgres.h"

#include "lib/delivery/engine.h"
#include "outbox/hand.h"

/* Keeps what is to be known of an attempt with the target, until the outcome is recorded; or nothing, by the settings.
 */
void attempt_note(OutboxHand *hand, OutboxTarget *target, const DeliveryResult *result);

/* Writes the attempts of the events whose outcomes are being recorded, within that transaction, as ourselves. */
void attempt_record(const OutboxHand *hand);

/*
 * The log is in buckets that are used in turn, each for so many days. As there are more of them than
 * apapacho_jobs.outbox_attempts_days needs, one that is old enough as a whole can be emptied before its next turn.
 */
#define ATTEMPT_BUCKETS 8
int attempt_bucket_days(void);
int attempt_bucket(TimestampTz at);

/* How a DeliveryErrorClass other than none is called. */
const char *attempt_class_name(int error_class);

/* Frees what attempt_note() has kept; NULL is fine. */
void attempt_free(OutboxAttempt *attempt);

#endif
