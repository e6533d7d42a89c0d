/*
 * scheduler.c: starts the jobs of one database when they are due.
 *
 * One process for each served database, started by the launcher, connected as the bootstrap superuser. It sleeps until
 * a job is due or something changes, and never does a job itself. Its transactions are short and give up rather than
 * wait for a lock.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "scheduler/due.h"
#include "scheduler/history.h"
#include "scheduler/ledger.h"
#include "scheduler/plans.h"
#include "scheduler/process.h"
#include "scheduler/scheduler.h"
#include "server/extension.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/shared.h"
#include "server/xact.h"

#define RETRY_MS 1000
#define LOCK_TIMEOUT "500ms"
#define SYNC_WAIT_MS 500

static SchedulerSlot *slot;
static SchedulerState end_state = SCHEDULER_ENDED;
static bool switched_off = false; /* it ends because the schedules are not in force any more */

static void
detach(int code, Datum arg)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot->state = end_state;
    slot->process = NO_PROCESS;
    slot->ready = false;
    if (ShutdownRequestPending)
        slot->poked = true; /* it was told to go, and has not failed: the next one comes at once */
    shared_wake(shared->launcher);
    LWLockRelease(shared->lock);
}

/* Takes the slot that the launcher made for this process; false: it has given up waiting. */
static bool
attach(int number, Oid database)
{
    bool wanted;

    slot = &shared->schedulers[number];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    wanted = slot->state == SCHEDULER_STARTING && slot->database == database;
    if (wanted) {
        slot->state = SCHEDULER_RUNNING;
        slot->process = MY_PROC_NUMBER;
        shared_wake(shared->launcher); /* it starts few at a time */
    }
    LWLockRelease(shared->lock);
    if (wanted)
        before_shmem_exit(detach, (Datum)0);
    return wanted;
}

/* Whether there is still something to do for this process: it ends when not. */
static bool
is_needed(void)
{
    bool released;
    bool settings_changed;
    static Oid extension = InvalidOid; /* the one that this process works for */
    Oid installed;
    bool served;

    LWLockAcquire(shared->lock, LW_SHARED);
    released = shared_is_released(MyDatabaseId);
    settings_changed = slot->settings_changed;
    LWLockRelease(shared->lock);
    switched_off = !setting_enabled;
    if (released || switched_off || settings_changed)
        return false; /* a process takes up the settings of its database when it starts */

    xact_begin("looking for the extension");
    installed = extension_oid();
    served = setting_serves_database(get_database_name(MyDatabaseId));
    xact_commit();
    if (!OidIsValid(installed))
        end_state = SCHEDULER_ABSENT;
    if (!OidIsValid(extension))
        extension = installed;
    switched_off = installed == extension && !served;
    return OidIsValid(installed) && installed == extension && served;
}

/* The same, surviving errors: a locked catalog says nothing about it. */
static bool
is_needed_guarded(MemoryContext context)
{
    volatile bool needed = true;

    PG_TRY();
    {
        needed = is_needed();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    return needed;
}

/* One step, surviving errors: a locked or damaged table delays what is recorded, never the other jobs. */
static TimestampTz
guarded_step(TimestampTz now, MemoryContext context)
{
    volatile TimestampTz next = TimestampTzPlusMilliseconds(now, RETRY_MS);

    MemoryContextSwitchTo(context); /* the end of a transaction leaves another one */
    PG_TRY();
    {
        next = plans_step(now);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    return next;
}

/* Notes that what comes due from now on is not missed. */
static void
note_switched_off(void)
{
    PG_TRY();
    {
        history_switch_off(clock_now());
    }
    PG_CATCH();
    {
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
}

void
apapacho_scheduler_main(Datum argument)
{
    MemoryContext context;
    Oid database;

    memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
    process_setup();
    if (!attach(DatumGetInt32(argument), database))
        proc_exit(0);
    session_start(database, InvalidOid, LOCK_TIMEOUT);
    xact_limit_sync_wait(SYNC_WAIT_MS);
    plans_init(slot);
    context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs cycle", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);

    while (!process_should_exit() && is_needed_guarded(context)) {
        TimestampTz now = clock_now();
        TimestampTz next = guarded_step(now, context);

        process_sleep(clock_now(), next);
        if (process_reload())
            plans_note_reload();
        MemoryContextSwitchTo(context);
        MemoryContextReset(context);
    }
    if (!process_should_exit())
        (void)ledger_flush(clock_now());
    if (switched_off)
        note_switched_off();
    proc_exit(0);
}
