/*
 * compat.h: what differs between the PostgreSQL versions that we build on (15, 16, 17, 18).
 * The only place in the tree that tests PG_VERSION_NUM.
 */
#ifndef APAPACHO_COMPAT_H
#define APAPACHO_COMPAT_H

#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#if PG_VERSION_NUM < 150000
#error "apapacho_jobs needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "utils/guc_hooks.h"
#else
/* 16 builds modules with hidden visibility and exports what is marked; before it the mark is empty. */
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))

/* 16 exports the function too, not only the record about it. */
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(function)                                                                                  \
    extern PGDLLEXPORT Datum function(PG_FUNCTION_ARGS);                                                               \
    extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, function)(void);                                    \
    const Pg_finfo_record *CppConcat(pg_finfo_, function)(void)                                                        \
    {                                                                                                                  \
        static const Pg_finfo_record record = {1};                                                                     \
        return &record;                                                                                                \
    }                                                                                                                  \
    extern int no_such_variable

/* 16 moved GUC values to a memory context of their own; before it they are plain malloc'ed. */
static inline void *
guc_malloc_compat(size_t size)
{
    return malloc(size);
}
#define guc_malloc(level, size) guc_malloc_compat(size)
#define guc_free(pointer) free(pointer)
#endif

#if PG_VERSION_NUM >= 170000
#define MY_PROC_NUMBER ((int)MyProcNumber)
#else
#define MY_PROC_NUMBER (MyProc->pgprocno)
#endif

/* The oldest transaction whose status can be looked up. To be read with XactTruncationLock held. */
static inline TransactionId
compat_oldest_kept_xid(void)
{
#if PG_VERSION_NUM >= 170000
    return TransamVariables->oldestClogXid;
#else
    return ShmemVariableCache->oldestClogXid;
#endif
}

/* The latch of the process in slot `number` of the process array. */
static inline Latch *
compat_proc_latch(int number)
{
    return &ProcGlobal->allProcs[number].procLatch;
}

static inline bool
compat_database_ownercheck(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(DatabaseRelationId, database, role);
#else
    return pg_database_ownercheck(database, role);
#endif
}

static inline bool
compat_extension_ownercheck(Oid extension, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(ExtensionRelationId, extension, role);
#else
    return pg_extension_ownercheck(extension, role);
#endif
}

/* Whether the role may do what SET ROLE does: take on the other. A superuser may; a role that has been dropped may not.
 */
static inline bool
compat_can_become(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return member_can_set_role(member, role);
#else
    return is_member_of_role(member, role);
#endif
}

static inline bool
compat_can_connect(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(DatabaseRelationId, database, role, ACL_CONNECT) == ACLCHECK_OK;
#else
    return pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

/* Enters a row that has been inserted into all indexes of its table. */
static inline void
compat_insert_index_tuples(ResultRelInfo *target, TupleTableSlot *row, EState *state)
{
#if PG_VERSION_NUM >= 160000
    (void)ExecInsertIndexTuples(target, row, state, false, false, NULL, NIL, false);
#else
    (void)ExecInsertIndexTuples(target, row, state, false, false, NULL, NIL);
#endif
}

/* Runs a portal to its end, as a statement of the top level. */
static inline void
compat_portal_run(Portal portal, DestReceiver *receiver, QueryCompletion *completion)
{
#if PG_VERSION_NUM >= 180000
    (void)PortalRun(portal, FETCH_ALL, true, receiver, receiver, completion);
#else
    (void)PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, completion);
#endif
}

/* Starts a transaction to which no transaction_timeout of the session's (17 and later) applies. */
static inline void
compat_start_transaction(void)
{
#if PG_VERSION_NUM >= 170000
    int timeout = TransactionTimeout;

    TransactionTimeout = 0;
    StartTransactionCommand();
    TransactionTimeout = timeout;
#else
    StartTransactionCommand();
#endif
}

/* Whether this process holds that very lock. */
static inline bool
compat_holds_lock_tag(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
    return LockHeldByMe(tag, mode, false);
#else
    return LockHeldByMe(tag, mode);
#endif
}

/* The same of a relation of its database. */
static inline bool
compat_holds_lock(Oid relation, LOCKMODE mode)
{
    LOCKTAG tag;

    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    return compat_holds_lock_tag(&tag, mode);
}

/* Reads the fields of a time; 0: it is one. */
static inline int
compat_decode_date_time(char **fields, int *types, int count, int *kind, struct pg_tm *tm, fsec_t *fraction, int *zone)
{
#if PG_VERSION_NUM >= 160000
    DateTimeErrorExtra extra;

    return DecodeDateTime(fields, types, count, kind, tm, fraction, zone, &extra);
#else
    return DecodeDateTime(fields, types, count, kind, tm, fraction, zone);
#endif
}

/* libpq/libpq.h has it too, but cannot be included without the headers of GSSAPI, which the server's do not bring. */
extern bool pq_check_connection(void);

/* A wait event set that belongs to the process: the caller frees it. */
static inline WaitEventSet *
compat_create_wait_event_set(int size)
{
#if PG_VERSION_NUM >= 170000
    return CreateWaitEventSet(NULL, size);
#else
    return CreateWaitEventSet(TopMemoryContext, size);
#endif
}

#endif
