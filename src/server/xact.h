/*
 * xact.h: the transactions of a worker, and whom its statements run as.
 *
 * A worker of a built-in job is connected as the bootstrap superuser; that of a user's job as the job's role, and
 * becomes the superuser between xact_begin() and xact_commit(). It reads and writes the extension's own tables as that,
 * but every statement that names a user's table, a SELECT too, can run code of the user's (triggers, defaults,
 * constraints; expressions of indexes while it is being planned), so that happens as the owner of the table, between
 * run_as() and run_as_end(), with SET ROLE and SET SESSION AUTHORIZATION forbidden.
 */
#ifndef APAPACHO_XACT_H
#define APAPACHO_XACT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/timestamp.h"

/*
 * Whether commits wait for a synchronous standby no longer than so many milliseconds (0: as long as it takes). For the
 * bookkeeping of processes that must not stand still; what the jobs themselves do is not concerned.
 */
void xact_limit_sync_wait(int milliseconds);

/*
 * Starts a transaction with SPI connected and a snapshot pushed. `activity` is shown in pg_stat_activity: constant
 * text, never data. In a worker only, outside of any transaction. An ERROR inside is dealt with by the worker's main
 * loop.
 */
void xact_begin(const char *activity);

/*
 * The transaction at hand need not be on disk when it has been committed: for what may be lost in a crash. Not between
 * run_as() and run_as_end(), which would undo it.
 */
void xact_flush_later(void);

/*
 * Up to where the WAL has to be on disk for a transaction that was seen to be committed to survive a crash, if that is
 * not known to be so: it committed with synchronous_commit off, not long ago. InvalidXLogRecPtr: it will survive.
 * XLogFlush() to there before others are told what it did.
 */
XLogRecPtr xact_unflushed_commit(TransactionId xid);

/* Ends it: deferred triggers have fired as the owner by then (run_as_end), SPI is closed, statistics are reported. */
void xact_commit(void);

/* Aborts whatever transaction there is and closes SPI; from a PG_CATCH. */
void xact_abort(void);

/*
 * A procedure in C that a client calls can be as a worker is, with transactions of its own and waits in between that
 * hold no snapshot: xact_require_call() makes sure that its CALL is the client's own statement, outside of a
 * transaction block; xact_leave_call() ends that statement's transaction, xact_return_to_call() starts one in which it
 * returns. In between the transactions are the superuser's, as in a worker. After an ERROR in between:
 * xact_abandon_call(), and the ERROR goes on. What the procedure allocates for its return is to be in the memory
 * context that it was called in.
 */
void xact_require_call(FunctionCallInfo fcinfo);
void xact_leave_call(void);
void xact_return_to_call(void);
void xact_abandon_call(void);

/* The same for what such a session still does when its process ends: outside of any transaction, for good. */
void xact_enter_exit(void);

typedef struct RunAs {
    Oid user;
    int security_context;
    int guc_level;
    bool is_outermost; /* of a worker's transaction: what the role leaves behind is dealt with at its end */
} RunAs;

/* From here to run_as_end(), SQL runs as `role` with search_path = pg_catalog, pg_temp. For workers and for SQL
 * functions alike. */
void run_as(RunAs *saved, Oid role);

/*
 * Becomes who it was. In a worker's transaction it first fires the deferred triggers that the statements in between
 * have queued, still as the role; in a caller's transaction they stay for the caller's commit, as with any function.
 */
void run_as_end(const RunAs *saved);

/*
 * SPI_execute_with_args with the status checked: a wrong status is an internal error. Returns the number of rows.
 * `types`, `values` and `nulls` (' ' or 'n' for each) as for SPI; nulls may be NULL.
 */
uint64 spi_run(const char *sql, int count, Oid *types, Datum *values, const char *nulls, bool read_only, long limit);

/*
 * The same for a statement that is run often: planned once in this process, kept in *plan (NULL at first; static, as
 * `types`). Never read-only, no limit.
 */
uint64 spi_run_kept(SPIPlanPtr *plan, const char *sql, int count, Oid *types, Datum *values, const char *nulls);

/* The value of a column of a row of the last result (SPI_tuptable), as text, palloc'ed in the current context; NULL
 * when null. */
char *spi_text(uint64 row, int column);
int64 spi_int64(uint64 row, int column);      /* 0 when null; the column's type is bigint or integer */
Oid spi_oid(uint64 row, int column);          /* InvalidOid when null */
TimestampTz spi_time(uint64 row, int column); /* 0 when null; the column's type is timestamptz */
bool spi_is_null(uint64 row, int column);

#endif
