/*
 * internal.h: what the files of the payout room share: the rules in force, the SQL text that says who is paid what, and
 * how its statements are run.
 */
#ifndef APAPACHO_PAYOUT_INTERNAL_H
#define APAPACHO_PAYOUT_INTERNAL_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

#include "server/xact.h"

/* An SQL expression of type timestamp as the text that JavaScript's toISOString() gives. */
#define ISO_TIME(expression) "pg_catalog.to_char(" expression ", 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"

/* The payout rules, read once and frozen for a run. Times are UTC, whole milliseconds. */
typedef struct PayoutRules {
    Timestamp now;
    Timestamp cutoff; /* a transaction that occurred later is still held */
    int32 hold_days;
    int64 min_payout; /* CLP */
    const char *zone; /* whose calendar days hold_days are */
} PayoutRules;

/*
 * The parameters of {creators} (see payout_sql): $1 and $2 the first and last creator id (null: no limit), $3 cutoff,
 * $4 minimum, $5 days of hold, $6 zone.
 */
#define RULE_PARAMETERS 6

/* Fills in the first RULE_PARAMETERS elements; `first` and `last` may be NULL. The rules' strings are copied. */
void payout_rule_parameters(const PayoutRules *rules, const char *first, const char *last, Oid *types, Datum *values,
                            char *nulls);

/*
 * SQL text with the names in braces replaced; palloc'ed. {Payout} and the other tables and enum types become the
 * qualified names. {creators} is a query with a row for each creator of the range: creator_id, unpaid (transactions
 * SUCCEEDED and in no live payout), eligible, gross, fee, payable, held, held_amount (numbers and sums, numeric),
 * next_release_at, reason (a code; null when the creator would be paid). {unpaid} and {eligible} are conditions on a
 * transaction `t`. It is the one place that decides.
 */
char *payout_sql(const char *text);

/* The clock: the statement's start in UTC, in whole milliseconds. */
Timestamp payout_now(void);

/*
 * Checks all tables that payouts need and becomes the owner of "Payout" (run_as), with the planner told to go by index:
 * the tables may have grown by millions of rows since they were last analyzed. Ends with run_as_end(). SPI must be
 * connected.
 */
void payout_run_as(RunAs *saved);

/* Reads the fee schedule in force now, as run_as'ed. ERROR with a hint when there is none. `zone` points to static
 * memory. */
void payout_read_rules(PayoutRules *rules);

/* A text argument of an SQL function as a C string; ERROR when it is null or empty. */
char *payout_text_argument(FunctionCallInfo fcinfo, int number, const char *name);

/* For SQL functions: connects SPI. */
void payout_connect_spi(void);

/* Appends `"key": value` to a JSON object that has been opened, after a comma where one is due; null for NULL. */
void payout_json_text(StringInfo out, const char *key, const char *value);

/* Whether a creator is paid, and if not why. palloc'ed. */
typedef struct Eligibility {
    char *reason_code; /* NULL: would be paid */
    char *reason;      /* a sentence, as the backend's; NULL with reason_code */
    char *gross;       /* CLP, decimal digits */
    char *fee;
    char *payable;
    int64 eligible; /* transactions */
    int64 held;
    char *next_release_at; /* ISO 8601, or NULL */
} Eligibility;

/* Looks at one creator, as run_as'ed. ERROR P0002 when there is no such creator. */
void payout_eligibility(const PayoutRules *rules, const char *creator_id, Eligibility *result);

/*
 * Work on many rows that are named by ids (divide.c). The step does it for some of them, in a transaction of its own;
 * with a count of 0 it does the same statements for no row, which shows whether an error concerns all.
 */
typedef struct PayoutWork {
    void (*step)(void *state, char **ids, int count);
    void *state;
    MemoryContext memory; /* for errors; emptied by the caller */
    const char *failure;  /* what is logged before the id and the message: "could not ..." */
} PayoutWork;

/*
 * Does the work for all ids but those with which it fails: these are logged as a WARNING each. Returns the number of
 * these. An error that concerns all is raised.
 */
int payout_divide(const PayoutWork *work, char **ids, int count);

#endif
