/*
 * xact.c: the transactions of a worker, and whom its statements run as. See xact.h for the rules.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "server/compat.h"
#include "server/extension.h"
#include "server/session.h"
#include "server/shared.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_in_worker);

/* Whether the transaction is one of ours (a worker's), in which nobody else has queued a deferred trigger. */
static bool own_transaction = false;

/* In a session of a user's: from whom xact_begin() became the superuser. */
static RunAs ours;

/* Between xact_leave_call() and xact_return_to_call(). */
static bool in_call = false;

/* Whether it is between the run_as() and run_as_end() of the job itself: those of functions that users' triggers call
 * are inside. */
static bool in_role = false;

static int sync_wait_ms = 0;
static TimeoutId sync_wait_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t sync_wait_over = false;

#define NO_SYNC_WAIT_MS 60000 /* after a wait in vain: for how long there is none */

static void
on_sync_wait_timeout(void)
{
    /* the wait for the standby ends as by a cancellation: with a warning, the transaction is committed */
    sync_wait_over = true;
    QueryCancelPending = true;
    InterruptPending = true;
    SetLatch(MyLatch);
}

void
xact_limit_sync_wait(int milliseconds)
{
    sync_wait_ms = milliseconds;
    if (sync_wait_timeout == MAX_TIMEOUTS)
        sync_wait_timeout = RegisterTimeout(USER_TIMEOUT, on_sync_wait_timeout);
}

/* Commits, waiting for a standby as the settings say, but not longer than is allowed. */
static void
commit(void)
{
    /* only where it may come to a wait: the timer's signal wakes us even when it has been disabled by then */
    bool limited = sync_wait_ms > 0 && !session_terminating && SyncRepStandbyNames != NULL &&
                   SyncRepStandbyNames[0] != '\0' && TransactionIdIsValid(GetTopTransactionIdIfAny());

    if (limited) {
        sync_wait_over = false;
        enable_timeout_after(sync_wait_timeout, sync_wait_ms);
    }
    CommitTransactionCommand();
    if (limited) {
        disable_timeout(sync_wait_timeout, false);
        if (sync_wait_over) {
            QueryCancelPending = false;
            shared->no_sync_wait_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), NO_SYNC_WAIT_MS);
        }
    }
}

/* Whether commits are not to wait for a standby at all: it did not answer a while ago, or nothing may hold us up. */
static bool
skips_sync_wait(void)
{
    int64 left; /* not for longer, should the clock have been set back */

    if (session_terminating || sync_wait_ms == 0)
        return session_terminating;
    left = shared->no_sync_wait_until - GetCurrentTimestamp();
    return left > 0 && left <= NO_SYNC_WAIT_MS * INT64CONST(1000);
}

/* After a transaction. In a CALL others keep pointers to the statistics that a report would free, and it is not idle.
 */
static void
report_end(void)
{
    if (in_call)
        return;
    pgstat_report_stat(true);
    pgstat_report_activity(STATE_IDLE, NULL);
}

void
xact_begin(const char *activity)
{
    SetCurrentStatementStartTimestamp();
    compat_start_transaction();
    XactIsoLevel = XACT_READ_COMMITTED;
    XactReadOnly = false;
    XactDeferrable = false;
    if (skips_sync_wait())
        (void)set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                                false);
    extension_lock();
    if (OidIsValid(session_role) || in_call)
        run_as(&ours, BOOTSTRAP_SUPERUSERID);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    PushActiveSnapshot(GetTransactionSnapshot());
    own_transaction = in_call || !OidIsValid(session_role);
    in_role = false;
    pgstat_report_activity(STATE_RUNNING, activity);
}

void
xact_flush_later(void)
{
    (void)set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

XLogRecPtr
xact_unflushed_commit(TransactionId xid)
{
    XLogRecPtr commit = InvalidXLogRecPtr;
    TransactionId next = ReadNextTransactionId();

    if (!TransactionIdIsNormal(xid) || !TransactionIdPrecedes(xid, next))
        return commit;
    /* of a row that was frozen long ago the status is no longer kept */
    LWLockAcquire(XactTruncationLock, LW_SHARED);
    if (TransactionIdFollowsOrEquals(xid, compat_oldest_kept_xid()))
        commit = TransactionIdGetCommitLSN(xid);
    LWLockRelease(XactTruncationLock);
    return commit;
}

void
xact_commit(void)
{
    SPI_finish();
    PopActiveSnapshot();
    if (OidIsValid(session_role) || in_call) {
        own_transaction = false;
        run_as_end(&ours);
    }
    commit();
    own_transaction = in_role = false;
    if (session_terminating) {
        /* the wait for a synchronous standby, or a trigger's exception handler, may have swallowed the cancellation */
        QueryCancelPending = true;
        InterruptPending = true;
    }
    report_end();
}

void
xact_abort(void)
{
    HOLD_INTERRUPTS();
    if (sync_wait_timeout != MAX_TIMEOUTS) {
        disable_timeout(sync_wait_timeout, false);
        if (sync_wait_over && !session_terminating)
            QueryCancelPending = false;
        sync_wait_over = false;
    }
    AbortCurrentTransaction(); /* closes SPI and drops the snapshots too */
    own_transaction = in_role = false;
    report_end();
    RESUME_INTERRUPTS();
}

/* Whether the statement that the client has sent is a CALL of that very procedure. */
static bool
is_call_of(Oid procedure)
{
    const PlannedStmt *statement;

    if (ActivePortal == NULL || list_length(ActivePortal->stmts) != 1)
        return false;
    statement = linitial_node(PlannedStmt, ActivePortal->stmts);
    return statement->utilityStmt != NULL && IsA(statement->utilityStmt, CallStmt) &&
           castNode(CallStmt, statement->utilityStmt)->funcexpr->funcid == procedure;
}

void
xact_require_call(FunctionCallInfo fcinfo)
{
    if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
        !castNode(CallContext, fcinfo->context)->atomic && is_call_of(fcinfo->flinfo->fn_oid))
        return;
    ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                    errmsg("a publisher's procedures cannot run inside a transaction block, a function or a procedure"),
                    errhint("They are for the program: apapacho-jobs outbox start.")));
}

void
xact_leave_call(void)
{
    Assert(!in_call);
    if (ActiveSnapshotSet())
        PopActiveSnapshot(); /* the portal's, which forgets it at the commit */
    CommitTransactionCommand();
    in_call = true;
}

void
xact_return_to_call(void)
{
    in_call = false;
    StartTransactionCommand();
}

void
xact_enter_exit(void)
{
    in_call = true;
    own_transaction = in_role = false;
}

void
xact_abandon_call(void)
{
    in_call = own_transaction = in_role = false;
}

void
run_as(RunAs *saved, Oid role)
{
    GetUserIdAndSecContext(&saved->user, &saved->security_context);
    SetUserIdAndSecContext(role, saved->security_context | SECURITY_LOCAL_USERID_CHANGE);
    saved->is_outermost = own_transaction && !in_role;
    if (saved->is_outermost)
        in_role = true;
    saved->guc_level = NewGUCNestLevel();
    (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                            false);
    /* An error, never an answer in which rows are missing: a policy may apply to the owner too. */
    (void)set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
run_as_end(const RunAs *saved)
{
    if (saved->is_outermost) {
        Oid role;
        int security_context;

        /*
         * The commit is the superuser's: nothing of the role's may be left for it, neither a cursor WITH HOLD, whose
         * query it would run, nor a deferred trigger. What the triggers fired here would leave behind in their turn is
         * refused.
         */
        if (SPI_execute("CLOSE ALL", false, 0) < 0)
            elog(ERROR, "could not close the cursors");
        GetUserIdAndSecContext(&role, &security_context);
        SetUserIdAndSecContext(role, security_context | SECURITY_RESTRICTED_OPERATION);
        if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
            elog(ERROR, "could not fire the deferred triggers");
        in_role = false;
    }
    AtEOXact_GUC(false, saved->guc_level);
    SetUserIdAndSecContext(saved->user, saved->security_context);
}

/* apapacho_jobs.in_worker(): whether the caller's statement is one of a worker's transaction. */
Datum
apapacho_in_worker(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(own_transaction);
}

uint64
spi_run(const char *sql, int count, Oid *types, Datum *values, const char *nulls, bool read_only, long limit)
{
    int status = SPI_execute_with_args(sql, count, types, values, nulls, read_only, limit);

    if (status < 0)
        elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(status));
    return SPI_processed;
}

uint64
spi_run_kept(SPIPlanPtr *plan, const char *sql, int count, Oid *types, Datum *values, const char *nulls)
{
    int status;

    if (*plan == NULL) {
        SPIPlanPtr made = SPI_prepare(sql, count, types);

        if (made == NULL || SPI_keepplan(made) != 0)
            elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
        *plan = made;
    }
    status = SPI_execute_plan(*plan, values, nulls, false, 0);
    if (status < 0)
        elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(status));
    return SPI_processed;
}

char *
spi_text(uint64 row, int column)
{
    return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

int64
spi_int64(uint64 row, int column)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

    if (is_null)
        return 0;
    switch (SPI_gettypeid(SPI_tuptable->tupdesc, column)) {
    case INT4OID:
        return DatumGetInt32(value);
    case INT8OID:
        return DatumGetInt64(value);
    default:
        elog(ERROR, "column %d is no integer", column);
    }
}

Oid
spi_oid(uint64 row, int column)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

    return is_null ? InvalidOid : DatumGetObjectId(value);
}

TimestampTz
spi_time(uint64 row, int column)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

    return is_null ? 0 : DatumGetTimestampTz(value);
}

bool
spi_is_null(uint64 row, int column)
{
    bool is_null;

    (void)SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);
    return is_null;
}
