/*
 * launcher.c: keeps a scheduler running for each served database.
 *
 * One process, registered at preload and connected to no database; started when recovery is over, hence not on a
 * standby before its promotion. It sleeps until something changes: a scheduler attached or ended, an extension or a
 * database came or went (shared_poke), the configuration was reloaded; and looks for new databases once a minute. What
 * it knows of a database (not served, try again later) is its own and is learned anew after a restart; which schedulers
 * there are is in shared memory. It goes by the schedulers' clock, which may be set.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "scheduler/due.h"
#include "scheduler/launcher.h"
#include "scheduler/process.h"
#include "scheduler/scheduler.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/shared.h"

#define MAX_STARTING 2 /* schedulers that are being started at once: worker slots are scarce */
#define STARTING_TIMEOUT_MS 15000
#define RETRY_MS 1000
#define LONGEST_RETRY_MS 60000
#define ABSENT_RETRY_MS                                                                                                \
    600000              /* a look in spite of no poke: CREATE EXTENSION may have been part of a prepared transaction */
#define STEADY_MS 30000 /* a scheduler that lived this long did not fail at once */

typedef struct KnownDatabase {
    Oid database;         /* the hash key */
    bool present;         /* in the latest list */
    bool absent;          /* the extension is not installed; a poke says when that may have changed */
    TimestampTz retry_at; /* 0: at once */
    int retry_ms;
    bool was_off; /* the schedules were switched off until now, of which no scheduler knows yet */
} KnownDatabase;

static HTAB *known;
static MemoryContext cycle_context;

void
launcher_register(void)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof(worker));
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = 1;
    strlcpy(worker.bgw_name, "apapacho_jobs launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "apapacho_jobs launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_launcher_main", BGW_MAXLEN);
    RegisterBackgroundWorker(&worker);
}

static void
detach(int code, Datum arg)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->launcher = NO_PROCESS;
    LWLockRelease(shared->lock);
}

static void
attach(void)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->launcher = MY_PROC_NUMBER;
    LWLockRelease(shared->lock);
    before_shmem_exit(detach, (Datum)0);
}

static KnownDatabase *
know(Oid database)
{
    bool found;
    KnownDatabase *entry = hash_search(known, &database, HASH_ENTER, &found);

    if (!found) {
        entry->present = false;
        entry->absent = false;
        entry->retry_at = 0;
        entry->retry_ms = 0;
        entry->was_off = false;
    }
    return entry;
}

/* Forgets what is known of the databases that changed, so that they are looked at again. */
static void
take_pokes(void)
{
    Oid pokes[MAX_POKES];
    int count;
    bool all;
    HASH_SEQ_STATUS scan;
    KnownDatabase *entry;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    count = shared->poke_count;
    memcpy(pokes, shared->pokes, sizeof(Oid) * count);
    all = shared->poke_all;
    shared->poke_count = 0;
    shared->poke_all = false;
    LWLockRelease(shared->lock);

    for (int i = 0; i < count; i++) {
        entry = know(pokes[i]);
        entry->absent = false;
        entry->retry_at = 0;
    }
    if (!all)
        return;
    hash_seq_init(&scan, known);
    while ((entry = hash_seq_search(&scan)) != NULL) {
        entry->absent = false;
        entry->retry_at = 0;
    }
}

/* Brings `known` up to date with pg_database and apapacho_jobs.databases. */
static void
list_databases(void)
{
    Relation catalog;
    TableScanDesc scan;
    HeapTuple tuple;
    HASH_SEQ_STATUS sequence;
    KnownDatabase *entry;

    hash_seq_init(&sequence, known);
    while ((entry = hash_seq_search(&sequence)) != NULL)
        entry->present = false;

    if (setting_enabled) {
        SetCurrentStatementStartTimestamp();
        StartTransactionCommand();
        (void)GetTransactionSnapshot();
        pgstat_report_activity(STATE_RUNNING, "listing databases");
        catalog = table_open(DatabaseRelationId, AccessShareLock);
        scan = table_beginscan_catalog(catalog, 0, NULL);
        while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
            Form_pg_database database = (Form_pg_database)GETSTRUCT(tuple);

            /* a connection limit of -2: what an interrupted DROP DATABASE left behind */
            if (database->datallowconn && !database->datistemplate && database->datconnlimit != -2 &&
                setting_serves_database(NameStr(database->datname)))
                know(database->oid)->present = true;
        }
        table_endscan(scan);
        table_close(catalog, AccessShareLock);
        CommitTransactionCommand();
        pgstat_report_stat(true);
        pgstat_report_activity(STATE_IDLE, NULL);
        MemoryContextSwitchTo(cycle_context);
    }

    hash_seq_init(&sequence, known);
    while ((entry = hash_seq_search(&sequence)) != NULL) {
        if (!entry->present)
            (void)hash_search(known, &entry->database, HASH_REMOVE, NULL);
        else if (shared->was_off)
            entry->was_off = true;
    }
    shared->was_off = !setting_enabled;
}

/* A scheduler has ended: when may its database have another? */
static void
note_end(const SchedulerSlot *slot, TimestampTz now)
{
    KnownDatabase *entry = know(slot->database);
    bool steady = TimestampDifferenceExceeds(slot->launched_at, now, STEADY_MS);

    entry->was_off = slot->was_off;
    if (slot->poked) { /* it was told to go, or what it saw may be out of date: no failure of its own */
        entry->absent = false;
        entry->retry_ms = 0;
        entry->retry_at = 0;
        return;
    }
    entry->absent = slot->state == SCHEDULER_ABSENT;
    entry->retry_ms = steady || entry->retry_ms == 0 ? RETRY_MS : Min(entry->retry_ms * 2, LONGEST_RETRY_MS);
    entry->retry_at = TimestampTzPlusMilliseconds(now, entry->absent ? ABSENT_RETRY_MS : entry->retry_ms);
}

/* When the clock has been set back, nothing waits for longer than it was to wait at all. */
static void
note_clock(TimestampTz now)
{
    static TimestampTz last = 0;
    HASH_SEQ_STATUS scan;
    KnownDatabase *entry;

    if (now < last) {
        hash_seq_init(&scan, known);
        while ((entry = hash_seq_search(&scan)) != NULL) {
            if (entry->retry_at != 0)
                entry->retry_at =
                    Min(entry->retry_at, TimestampTzPlusMilliseconds(now, entry->absent ? ABSENT_RETRY_MS : RETRY_MS));
        }
        LWLockAcquire(shared->lock, LW_EXCLUSIVE);
        for (int i = 0; i < MAX_SCHEDULERS; i++)
            shared->schedulers[i].launched_at = Min(shared->schedulers[i].launched_at, now);
        LWLockRelease(shared->lock);
    }
    last = now;
}

/* Frees the slots of schedulers that have ended or never came. Returns how many are being started. */
static int
collect_ended(TimestampTz now)
{
    int starting = 0;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];
        bool overdue = slot->state == SCHEDULER_STARTING &&
                       TimestampDifferenceExceeds(slot->launched_at, now, STARTING_TIMEOUT_MS);

        if (slot->state == SCHEDULER_ABSENT || slot->state == SCHEDULER_ENDED || overdue) {
            note_end(slot, now);
            slot->state = SCHEDULER_FREE;
            slot->database = InvalidOid;
        } else if (slot->state == SCHEDULER_STARTING)
            starting++;
    }
    LWLockRelease(shared->lock);
    return starting;
}

/* A slot for the database's scheduler; -1: it has one, may not have one now, or none is free (*full). */
static int
allocate(const KnownDatabase *entry, TimestampTz now, bool *full)
{
    Oid database = entry->database;
    int found = -1;
    bool has = false;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        if (shared->schedulers[i].state == SCHEDULER_FREE)
            found = found < 0 ? i : found;
        else if (shared->schedulers[i].database == database)
            has = true;
    }
    *full = found < 0 && !has;
    if (has || shared_is_released(database))
        found = -1;
    if (found >= 0) {
        SchedulerSlot *slot = &shared->schedulers[found];

        memset(slot, 0, sizeof(*slot));
        slot->state = SCHEDULER_STARTING;
        slot->database = database;
        slot->launched_at = now;
        slot->process = NO_PROCESS;
        slot->publisher = NO_PROCESS;
        pg_atomic_init_u32(&slot->new_events, 1); /* nobody has looked yet */
        slot->was_off = entry->was_off;
    }
    LWLockRelease(shared->lock);
    return found;
}

static bool
launch(int slot, Oid database)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof(worker));
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_main_arg = Int32GetDatum(slot);
    strlcpy(worker.bgw_name, "apapacho_jobs scheduler", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "apapacho_jobs scheduler", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_scheduler_main", BGW_MAXLEN);
    memcpy(worker.bgw_extra, &database, sizeof(database));
    worker.bgw_notify_pid = MyProcPid; /* a scheduler that could not even be forked wakes us too */
    return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Asks for one database's scheduler; on failure the database waits for its next try. */
static void
try_launch(KnownDatabase *entry, TimestampTz now, int *starting)
{
    static bool warned = false;
    bool full;
    int slot = allocate(entry, now, &full);

    if (full) {
        if (!warned)
            ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                              errmsg("apapacho_jobs serves %d databases at most", MAX_SCHEDULERS),
                              errhint("Name the databases to serve in apapacho_jobs.databases.")));
        warned = true;
        entry->retry_at = TimestampTzPlusMilliseconds(now, LONGEST_RETRY_MS);
    }
    if (slot < 0)
        return;
    if (launch(slot, entry->database)) {
        (*starting)++;
        warned = false;
        return;
    }
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->schedulers[slot].state = SCHEDULER_FREE;
    shared->schedulers[slot].database = InvalidOid;
    LWLockRelease(shared->lock);
    /* nothing is wrong with the database, and nobody tells when a worker becomes free: no longer wait each time */
    entry->retry_at = TimestampTzPlusMilliseconds(now, RETRY_MS);
    if (!warned)
        ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                          errmsg("no background worker is free for the scheduler of a database"),
                          errhint("Increase max_worker_processes.")));
    warned = true;
}

/* Asks for the schedulers that are missing. Returns when to look again, 0: not before something changes. */
static TimestampTz
launch_missing(TimestampTz now, int starting)
{
    TimestampTz next = 0;
    HASH_SEQ_STATUS scan;
    KnownDatabase *entry;

    hash_seq_init(&scan, known);
    while ((entry = hash_seq_search(&scan)) != NULL) {
        if (!entry->present)
            continue;
        if ((entry->retry_at == 0 || entry->retry_at <= now) && starting < MAX_STARTING)
            try_launch(entry, now, &starting);
        if (entry->retry_at != 0 && entry->retry_at > now && (next == 0 || entry->retry_at < next))
            next = entry->retry_at;
    }
    if (starting > 0 && next == 0)
        next = TimestampTzPlusMilliseconds(now, STARTING_TIMEOUT_MS);
    return next;
}

void
apapacho_launcher_main(Datum argument)
{
    HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(KnownDatabase)};

    process_setup();
    session_start(InvalidOid, InvalidOid, "0");
    attach();
    known = hash_create("apapacho_jobs databases", 64, &control, HASH_ELEM | HASH_BLOBS);
    cycle_context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs cycle", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(cycle_context);

    while (!process_should_exit()) {
        TimestampTz now;
        int starting;

        (void)process_reload();
        now = clock_now();
        note_clock(now);
        list_databases();
        take_pokes();
        starting = collect_ended(now);
        process_sleep(now, setting_enabled ? launch_missing(now, starting) : 0);
        MemoryContextReset(cycle_context);
    }
    proc_exit(1); /* 0 would mean: never start it again */
}
