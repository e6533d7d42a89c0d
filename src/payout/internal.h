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
#include "storage/lock.h"

#include "server/job.h"
#include "server/xact.h"

/* An SQL expression of type timestamp as the text that JavaScript's toISOString() gives. */
#define ISO_TIME(expression) "pg_catalog.to_char(" expression ", 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"

/* The payout rules, read once and frozen for a run. Times are UTC, whole milliseconds. */
typedef struct PayoutRules {
    Timestamp now;
    Timestamp cutoff; /* a transaction that occurred later is still held */
    char *fee_schedule;
    int32 hold_days;
    int64 min_payout; /* CLP */
    char *frequency;
    Timestamp period_start; /* who has been paid since then is not due */
    Timestamp period_end;
    bool forced; /* everybody is due */
    char *zone;  /* whose calendar days hold_days are */
} PayoutRules;

/*
 * The parameters of {creators} (see payout_sql): $1 the creators' ids (null: all creators), $2 for each of them the
 * time before which none of its transactions is unpaid, $3 cutoff, $4 minimum, $5 days of hold, $6 zone, $7 and $8 the
 * period, $9 whether everybody is due.
 */
#define RULE_PARAMETERS 9

/* Fills in the first RULE_PARAMETERS elements. `sinces` may be NULL: from the beginning. */
void payout_rule_parameters(const PayoutRules *rules, char **ids, const Timestamp *sinces, int count, Oid *types,
                            Datum *values, char *nulls);

/*
 * SQL text with the names in braces replaced; palloc'ed. {Payout} and the other tables and enum types become the
 * qualified names in the schema (apapacho_jobs.schema). {creators} is a query with a row for each of the creators: see
 * eligibility.c. It is the one place that decides. {eligible} and {held} are conditions on a transaction `t`, {holds}
 * and {recallable} on a payout `p` (src/payout/README.md, Words).
 */
char *payout_sql(const char *text);
char *payout_sql_in(const char *schema, const char *text);

extern const char payout_creators_sql[];
extern const char payout_eligible_sql[];
extern const char payout_held_sql[];

/* The clock: the statement's start in UTC, in whole milliseconds. */
Timestamp payout_now(void);

/* Checks all tables that payouts need; returns the owner of "Payout". */
Oid payout_check_tables(void);

/*
 * The same, and becomes that owner (run_as), with the planner told to go by index: the tables may have grown by
 * millions of rows since they were last analyzed. Ends with run_as_end(). SPI must be connected.
 */
void payout_run_as(RunAs *saved);

/* Tells the planner so, to the end of the GUC level (run_as). */
void payout_plan_by_index(void);

/*
 * A statement of the guards: planned once in this process for each schema; `text` is a constant, as for payout_sql_in.
 * Sees what is committed by now, whatever the isolation level.
 */
uint64 payout_run_kept(const char *schema, const char *text, int count, const Oid *types, Datum *values,
                       const char *nulls);

/* Arrays for parameters; NULL elements are null. */
Datum payout_text_array(char **elements, int count);
Datum payout_bigint_array(const int64 *elements, int count);

/* Reads the fee schedule in force now, as run_as'ed. Strings live as long as SPI is connected. ERROR with a hint when
 * there is none. */
void payout_read_rules(PayoutRules *rules, bool forced);

/* A text argument of an SQL function as a C string; ERROR when it is null or empty. */
char *payout_text_argument(FunctionCallInfo fcinfo, int number, const char *name);

/* For SQL functions: connects SPI. */
void payout_connect_spi(void);

/* Appends `"key": value` to a JSON object that has been opened, after a comma where one is due; null for NULL. */
void payout_json_text(StringInfo out, const char *key, const char *value);

/* States (transitions.c) */

#define MAX_FAILURES 3 /* the last of them is final, spec section 5 */
#define MAX_FAILURES_TEXT "3"

typedef enum PayoutLevel {
    LEVEL_NONE,    /* cancelled, or failed for good: holds nothing */
    LEVEL_HOLDING, /* not sent yet */
    LEVEL_SENT
} PayoutLevel;

PayoutLevel payout_level(const char *status, int64 retry_count, bool has_next_retry);

/* The type of the event that goes with changes of payouts which this process is making; NULL: none. */
extern const char *payout_announcing;

/* Guards (guard.c, install.c) */

/*
 * ERROR when a guard is missing, with the call that repairs it. Where none has ever been installed they are, if
 * may_install; and conflicts are told by a WARNING. Within a transaction, SPI connected, not run_as'ed.
 */
void payout_require_guards(bool may_install);

/* Whether the triggers that tell runs what has changed are there. */
bool payout_discovery_guarded(void);

#define PAYOUT_DIRTY_BLOCKS                                                                                            \
    65536 /* so many are kept of payout_dirty; when there are more, a run looks at everybody                           \
           */

/* Has a creator looked at by the next run: at what occurred since then. Not while payout_paying. */
void payout_mark_dirty(const char *creator_id, Timestamp since);

/* This process is paying creators (or cancelling to pay anew): those need not be looked at because of that. */
extern bool payout_paying;

typedef struct PayoutGuard {
    Relation relation;
    char *schema;
    RunAs saved;
} PayoutGuard;

/* A trigger function becomes the owner of "Payout", with SPI connected. */
void payout_guard_begin(struct TriggerData *trigger, PayoutGuard *guard);
void payout_guard_end(const PayoutGuard *guard);

/* Claims these transactions for these payouts; ERROR 23505 when one is claimed already (claims.c). As run_as'ed. */
void payout_insert_claims(char **transactions, char **payouts, int count);

/* After a statement that has deleted claims and returned their transactions. */
void payout_inherit_claims(const PayoutGuard *guard);

/* A column of type text, varchar or enum as a C string; NULL when null. */
char *payout_column_text(HeapTuple tuple, TupleDesc shape, const char *column);

/* Calls `visit` for each row of a transition table. */
void payout_each_row(struct Tuplestorestate *rows, TupleDesc shape,
                     void (*visit)(void *state, HeapTuple tuple, TupleDesc shape), void *state);

/* The ledger (ledger.c) */

typedef enum LedgerAccount {
    LEDGER_CREATOR_PAYABLE,
    LEDGER_PAYOUT_PENDING,
    LEDGER_CASH,
    LEDGER_REFUND_EXPENSE,
    LEDGER_CHARGEBACK_LOSS,
    LEDGER_ACCOUNTS
} LedgerAccount;

/* A pair of entries; ids may be NULL. Those of an amount <= 0 are left out. */
typedef struct LedgerLine {
    const char *payout_id;
    const char *transaction_id;
    const char *creator_id;
    const char *currency;
    const char *description;
    LedgerAccount debit;
    LedgerAccount credit;
    int64 amount;
} LedgerLine;

/* Posts them if there is a ledger in use; as run_as'ed. ERROR when an account is missing. */
void payout_ledger_post(const char *schema, const LedgerLine *lines, int count);

/* The entries of an adjustment of a creator; strings are not copied. */
LedgerLine payout_adjustment_line(const char *id, const char *creator_id, const char *transaction_id, int64 amount,
                                  bool is_chargeback);

/* Paying (pay.c, sweep.c) */

#define PAYOUT_MOST_ITEMS 5000 /* of a transaction, or one creator's: what is locked keeps refunds waiting */

typedef struct PayFigures {
    int64 created;
    int64 items;     /* of these payouts */
    char *payout_id; /* the first payout, palloc'ed; NULL */
    char *reason;    /* of the first creator that was not paid; NULL */
    char **later;    /* who has not been dealt with, for the others have items enough; palloc'ed */
    Timestamp *later_since;
    int later_count;
} PayFigures;

/*
 * Pays those creators who are due something and keeps the reasons of the others, in the transaction at hand, as
 * run_as'ed. What is reversed is dealt with first. Of several creators with more items than a transaction is to have,
 * some are left for later. run_id: of apapacho_jobs.payout_run.
 */
void payout_pay(const PayoutRules *rules, const char *run_id, char **ids, const Timestamp *sinces, int count,
                PayFigures *figures);

/* Keeps the reason ERROR for a creator who could not be paid. */
void payout_keep_error(const PayoutRules *rules, const char *run_id, char *id, const ErrorData *error);

/* The rules that a run has frozen, from its row; as run_as'ed. Strings as those of payout_read_rules. */
void payout_read_run(const char *run_id, PayoutRules *rules);

/* Writes the row of a run, as run_as'ed; its id, palloc'ed. job_run: 0 when it is not a job's. */
char *payout_begin_run(const PayoutRules *rules, int64 job_run, bool complete);

/* Whom to look at (discovery.c): worker only, each a transaction of its own. */

/*
 * Decides whether the run looks at everybody, and prepares for that. Returns the number of creators there are to be
 * looked at, about.
 */
int64 payout_discover(const PayoutRules *rules, bool *everybody);

/* A range of ids, and how far it has been dealt with (range.c). */
typedef struct PayRange {
    JobRun *run;
    PayoutRules rules;
    char *run_id;    /* of apapacho_jobs.payout_run */
    bool everybody;  /* whether it is of all creators, or of payout_todo */
    char *after;     /* from the first id after that; NULL: from the first. It moves on with the work */
    char *until;     /* to that id; NULL: to the last */
    bool takes_lock; /* of calculations; a helper does not */
    bool locked;     /* whether we hold it; the end of a failed transaction takes it away */
    LOCKTAG lock;
    int64 looked_at; /* creators */
    int64 created;   /* payouts */
    int64 errors;
} PayRange;

/* The lock of calculations. It stands for the table "Payout" as it is now. */
void payout_lock_tag(LOCKTAG *tag);

/* Waits for it, outside of a transaction, if the range takes it and does not hold it. */
void payout_range_lock(PayRange *range);

/* Begins a transaction of the run as the tables' owner. */
void payout_range_begin(const PayRange *range, const char *activity, RunAs *saved);

/* Pays the creators of the range, unless the run is told to stop; `report` is called after each batch. */
void payout_pay_range(PayRange *range, void (*report)(const PayRange *range, void *state), void *state);

/*
 * Pays them with the help of other processes, if there are many (shares.c): the range's figures become those of all.
 * The range is everything at first.
 */
void payout_share_out(PayRange *range, int64 to_look_at);

/*
 * Of what is to be looked at in the range, the next creators in the order of their ids. Arrays in `memory`; their
 * number is returned. In a transaction that is run_as'ed for everybody, else not.
 */
int payout_next_creators(const PayRange *range, int most, MemoryContext memory, char ***ids, Timestamp **sinces);

/* The id that so many come before, palloc'ed; NULL when there are not so many. In such a transaction too. */
char *payout_nth_creator(bool everybody, int64 number);

/* These have been looked at, in the transaction at hand, as run_as'ed. */
void payout_looked_at(char **ids, int count);

/* The run has come to its end: what the next one can go by. In a transaction, not run_as'ed. */
void payout_discovered(const PayoutRules *rules, bool everybody, const char *run_id);

/* Cancels what can be recalled and adjusts what cannot, for these creators; as run_as'ed. */
void payout_sweep(char **ids, int count);

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
    char *adjustments;     /* CLP, signed */
    char *payout_amount;
    char *next_at; /* ISO 8601: when that may be another; or NULL */
} Eligibility;

/* Looks at one creator, as run_as'ed; `anew`: at what is there by now. ERROR P0002 when there is no such creator. */
void payout_eligibility(const PayoutRules *rules, const char *creator_id, bool anew, Eligibility *result);

/*
 * Work on many rows that are named by ids (divide.c). The step does it for some of them, in a transaction of its own;
 * with a count of 0 it does the same statements for no row, which shows whether an error concerns all.
 */
typedef struct PayoutWork {
    void (*step)(void *state, char **ids, int count);
    void *state;
    MemoryContext memory; /* for errors; emptied by the caller */
    const char *failure;  /* what is logged before the id and the message: "could not ..." */
    void (*failed)(void *state, char *id, const ErrorData *error); /* for each with which it fails; may be NULL */
} PayoutWork;

/*
 * Does the work for all ids but those with which it fails: these are logged as a WARNING each. Returns the number of
 * these. An error that concerns all is raised.
 */
int payout_divide(const PayoutWork *work, char **ids, int count);

#endif
