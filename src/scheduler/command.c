/*
 * command.c: executes the command of a user's job in a worker that is connected as the job's role; and, in the backend
 * of whoever schedules a job, looks whether a text can be a command.
 *
 * Nothing in here changes the user: the session's user is the job's role from the start, and whatever the text does it
 * does by that role's rights. Parse trees and plans live in a memory context of their own, since a procedure may commit
 * in the middle of its CALL; each statement of several has one below it. It stands in for MessageContext, which code of
 * the server and of other extensions may count on.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/discard.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "storage/proc.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "scheduler/command.h"
#include "server/compat.h"
#include "server/session.h"

static bool started; /* StartTransactionCommand() has been called and CommitTransactionCommand() has not */

/* The position of a syntax error is one in the command, not in the statement that schedules it. */
static void
command_error_context(void *sql)
{
    int position = geterrposition();

    if (position > 0) {
        errposition(0);
        internalerrposition(position);
        internalerrquery(sql);
    }
    errcontext("command of the job");
}

/* There is no client: the server would read its own standard input, or write the data into its own log. */
static void
check_statement(const RawStmt *statement)
{
    if (IsA(statement->stmt, CopyStmt) && ((CopyStmt *)statement->stmt)->filename == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a job's command cannot copy from or to a client"),
                 errhint("COPY from or to a file or a program of the server.")));
}

static void
check_not_empty(const List *statements)
{
    if (statements == NIL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a job's command must not be empty"),
                        errhint("One or more SQL statements are expected.")));
}

void
command_check(const char *sql)
{
    ErrorContextCallback callback = {.callback = command_error_context, .arg = (void *)sql};
    List *statements;
    ListCell *cell;

    if (strlen(sql) > COMMAND_MAX_BYTES)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("a job's command has at most %d bytes", COMMAND_MAX_BYTES),
                        errhint("Create a procedure and CALL it.")));
    callback.previous = error_context_stack;
    error_context_stack = &callback;
    statements = raw_parser(sql, RAW_PARSE_DEFAULT);
    error_context_stack = callback.previous;
    check_not_empty(statements);
    foreach (cell, statements)
        check_statement(lfirst_node(RawStmt, cell));
}

/* Unless there is one that goes on. */
static void
start_transaction(void)
{
    if (!started)
        StartTransactionCommand();
    started = true;
    if (StatementTimeout > 0) {
        if (!get_timeout_active(STATEMENT_TIMEOUT))
            enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
    } else if (get_timeout_active(STATEMENT_TIMEOUT))
        disable_timeout(STATEMENT_TIMEOUT, false);
}

/* A timeout of what has ended must not hit what comes next. */
static void
stop_statement_timeout(void)
{
    bool too_late;

    if (get_timeout_active(STATEMENT_TIMEOUT))
        disable_timeout(STATEMENT_TIMEOUT, true);
    too_late = get_timeout_indicator(STATEMENT_TIMEOUT, true);
    if (too_late && !session_terminating)
        QueryCancelPending = false;
}

/* Ends the transaction, unless it is within BEGIN and COMMIT. */
static void
finish_transaction(void)
{
    stop_statement_timeout();
    CommitTransactionCommand();
    started = false;
}

/* Returns whether the text is in the log. */
static bool
log_statements(const char *sql, const List *statements)
{
    bool wanted = log_statement == LOGSTMT_ALL;
    ListCell *cell;

    if (log_statement == LOGSTMT_NONE)
        return false;
    foreach (cell, statements)
        wanted = wanted || GetCommandLogLevel((Node *)lfirst(cell)) <= log_statement;
    if (wanted)
        ereport(LOG, (errmsg("statement: %s", sql), errhidestmt(true)));
    return wanted;
}

/* As log_duration and log_min_duration_statement want it. */
static void
log_duration_of(const char *sql, bool was_logged)
{
    char milliseconds[32];

    switch (check_log_duration(milliseconds, was_logged)) {
    case 1:
        ereport(LOG, (errmsg("duration: %s ms", milliseconds), errhidestmt(true)));
        break;
    case 2:
        ereport(LOG, (errmsg("duration: %s ms  statement: %s", milliseconds, sql), errhidestmt(true)));
        break;
    }
}

/* Parses, plans and runs one statement in the transaction that there is. */
static void
run_statement(const char *sql, RawStmt *statement, QueryCompletion *completion)
{
    bool needs_snapshot = analyze_requires_snapshot(statement);
    DestReceiver *receiver = CreateDestReceiver(DestNone);
    Portal portal;
    List *plans;

    if (needs_snapshot)
        PushActiveSnapshot(GetTransactionSnapshot());
    plans = pg_analyze_and_rewrite_fixedparams(statement, sql, NULL, 0, NULL);
    plans = pg_plan_queries(plans, sql, CURSOR_OPT_PARALLEL_OK, NULL);
    if (needs_snapshot)
        PopActiveSnapshot();
    CHECK_FOR_INTERRUPTS();

    portal = CreatePortal("", true, true);
    portal->visible = false;
    PortalDefineQuery(portal, NULL, sql, CreateCommandTag(statement->stmt), plans, NULL);
    PortalStart(portal, NULL, 0, InvalidSnapshot);
    compat_portal_run(portal, receiver, completion);
    receiver->rDestroy(receiver);
    PortalDrop(portal, false);
}

/* One of the text's statements, with the transaction around it. */
static void
do_statement(const char *sql, RawStmt *statement, bool is_single, bool is_last, CommandResult *result)
{
    QueryCompletion completion;

    check_statement(statement);
    pgstat_report_query_id(0, true);
    InitializeQueryCompletion(&completion);
    start_transaction();
    if (!is_single)
        BeginImplicitTransactionBlock();
    CHECK_FOR_INTERRUPTS();
    run_statement(sql, statement, &completion);

    if (is_last) {
        if (!is_single)
            EndImplicitTransactionBlock();
        finish_transaction();
    } else if (IsA(statement->stmt, TransactionStmt))
        finish_transaction();
    else {
        CommandCounterIncrement();
        stop_statement_timeout();
    }

    result->statements++;
    if (command_tag_display_rowcount(completion.commandTag)) {
        result->rows += completion.nprocessed;
        snprintf(result->tag, sizeof(result->tag),
                 completion.commandTag == CMDTAG_INSERT ? "%s 0 " UINT64_FORMAT : "%s " UINT64_FORMAT,
                 GetCommandTagName(completion.commandTag), completion.nprocessed);
    } else
        strlcpy(result->tag, GetCommandTagName(completion.commandTag), sizeof(result->tag));
}

static void
do_statements(const char *sql, MemoryContext context, CommandResult *result)
{
    List *statements;
    ListCell *cell;
    bool is_logged;

    /* parsing needs a transaction too: the text's encoding and settings are looked at, and errors belong to one */
    start_transaction();
    MemoryContextSwitchTo(context);
    statements = pg_parse_query(sql);
    check_not_empty(statements);
    is_logged = log_statements(sql, statements);

    foreach (cell, statements) {
        MemoryContext own = AllocSetContextCreate(context, "apapacho_jobs statement", ALLOCSET_DEFAULT_SIZES);

        MemoryContextSwitchTo(own);
        do_statement(sql, lfirst_node(RawStmt, cell), list_length(statements) == 1, lnext(statements, cell) == NULL,
                     result);
        MemoryContextSwitchTo(context);
        MemoryContextDelete(own);
    }
    if (IsTransactionOrTransactionBlock())
        ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
                        errmsg("the command left a transaction open, which has been rolled back"),
                        errhint("End with COMMIT what begins with BEGIN; without either, the whole command is one "
                                "transaction.")));
    log_duration_of(sql, is_logged);
}

/* After an error: nothing of the command may be left but what it has committed. */
static void
abort_command(void)
{
    HOLD_INTERRUPTS();
    stop_statement_timeout();
    AbortOutOfAnyTransaction();
    PortalErrorCleanup();
    if (MyReplicationSlot != NULL)
        ReplicationSlotRelease();
    jit_reset_after_error();
    RESUME_INTERRUPTS();
}

static void
report_end(void)
{
    debug_query_string = NULL;
    pgstat_report_stat(true);
    pgstat_report_activity(STATE_IDLE, NULL);
}

void
command_execute(const char *sql, CommandResult *result)
{
    MemoryContext caller = CurrentMemoryContext;
    MemoryContext outer = MessageContext;
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs command", ALLOCSET_DEFAULT_SIZES);
    ErrorData *volatile error = NULL;

    Assert(!IsTransactionState());
    started = false;
    memset(result, 0, sizeof(*result));
    SetCurrentStatementStartTimestamp();
    debug_query_string = sql;
    pgstat_report_activity(STATE_RUNNING, sql);
    MessageContext = context;
    PG_TRY();
    {
        do_statements(sql, context, result);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        abort_command();
    }
    PG_END_TRY();

    MemoryContextSwitchTo(caller);
    MessageContext = outer;
    MemoryContextDelete(context);
    report_end();
    if (error != NULL)
        ReThrowError(error);
}

void
command_reset_session(void)
{
    MemoryContext caller = CurrentMemoryContext;
    DiscardStmt discard_all = {.type = T_DiscardStmt, .target = DISCARD_ALL};
    ErrorData *volatile error = NULL;

    Assert(!IsTransactionState());
    SetCurrentStatementStartTimestamp();
    PG_TRY();
    {
        StartTransactionCommand();
        PushActiveSnapshot(GetTransactionSnapshot());
        DiscardCommand(&discard_all, true);
        PopActiveSnapshot();
        CommitTransactionCommand();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        abort_command();
    }
    PG_END_TRY();

    MemoryContextSwitchTo(caller);
    report_end();
    if (error != NULL)
        ReThrowError(error);
}
