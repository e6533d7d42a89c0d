/*
 * shared.c: requests and initialises the extension's shared memory, in the postmaster.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "server/compat.h"
#include "server/shared.h"

SharedState *shared = NULL;
RunSlot *shared_my_run = NULL;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request(void)
{
    if (previous_request_hook)
        previous_request_hook();
    RequestAddinShmemSpace(sizeof(SharedState));
    RequestNamedLWLockTranche("apapacho_jobs", 1);
}

static void
startup(void)
{
    bool found;

    if (previous_startup_hook)
        previous_startup_hook();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    shared = ShmemInitStruct("apapacho_jobs", sizeof(SharedState), &found);
    if (!found) {
        memset(shared, 0, sizeof(SharedState));
        shared->lock = &GetNamedLWLockTranche("apapacho_jobs")->lock;
        shared->launcher = NO_PROCESS;
        for (int i = 0; i < MAX_SCHEDULERS; i++) {
            shared->schedulers[i].process = shared->schedulers[i].publisher = NO_PROCESS;
            pg_atomic_init_u32(&shared->schedulers[i].new_events, 0);
        }
        for (int i = 0; i < MAX_RUNS; i++) {
            shared->runs[i].process = NO_PROCESS;
            ConditionVariableInit(&shared->runs[i].changed);
            pg_atomic_init_u64(&shared->runs[i].helped_delivered, 0);
            pg_atomic_init_u64(&shared->runs[i].helped_failed, 0);
        }
        for (int i = 0; i < MAX_SEATS; i++) {
            shared->seats[i].process = NO_PROCESS;
            pg_atomic_init_u64(&shared->seats[i].slots, 0);
            pg_atomic_init_u32(&shared->seats[i].new_events, 0);
        }
    }
    LWLockRelease(AddinShmemInitLock);
}

void
shared_init(void)
{
    previous_request_hook = shmem_request_hook;
    shmem_request_hook = request;
    previous_startup_hook = shmem_startup_hook;
    shmem_startup_hook = startup;
}

void
shared_copy_text(char *to, size_t size, const char *from)
{
    int length = from != NULL ? (int)strlen(from) : 0;

    if (length >= (int)size)
        length = pg_mbcliplen(from, length, (int)size - 1);
    memcpy(to, from != NULL ? from : "", (size_t)length);
    to[length] = '\0';
}

void
shared_make_ascii(char *text)
{
    for (; *text != '\0'; text++) {
        if (IS_HIGHBIT_SET(*text))
            *text = '?';
    }
}

void
shared_wake(int process)
{
    if (process != NO_PROCESS)
        SetLatch(compat_proc_latch(process));
}

void
shared_wake_launcher(void)
{
    LWLockAcquire(shared->lock, LW_SHARED);
    shared_wake(shared->launcher);
    LWLockRelease(shared->lock);
}

void
shared_poke(Oid database)
{
    bool known = false;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < shared->poke_count; i++)
        known = known || shared->pokes[i] == database;
    if (!known) {
        if (shared->poke_count < MAX_POKES)
            shared->pokes[shared->poke_count++] = database;
        else
            shared->poke_all = true;
    }
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];

        if (slot->state != SCHEDULER_FREE && slot->database == database) {
            slot->poked = true;
            shared_wake(slot->process);
        }
    }
    shared_wake(shared->launcher);
    LWLockRelease(shared->lock);
}

bool
shared_is_released(Oid database)
{
    for (int i = 0; i < MAX_RELEASED; i++) {
        if (shared->released[i] == database)
            return true;
    }
    return false;
}

bool
shared_release(Oid database)
{
    bool done = false;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_RELEASED && !done && !shared_is_released(database); i++) {
        if (!OidIsValid(shared->released[i])) {
            shared->released[i] = database;
            done = true;
        }
    }
    LWLockRelease(shared->lock);
    return done;
}

void
shared_unrelease(Oid database)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_RELEASED; i++) {
        if (shared->released[i] == database)
            shared->released[i] = InvalidOid;
    }
    LWLockRelease(shared->lock);
}
