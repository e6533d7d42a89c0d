/*
 * process.c: signals and sleep of the launcher and the schedulers. The workers of runs have their own (worker.c).
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "scheduler/process.h"

#define LONGEST_SLEEP_MS 60000

static void
handle_terminate(SIGNAL_ARGS)
{
    int saved_errno = errno;

    ShutdownRequestPending = true;
    SetLatch(MyLatch);
    if (IsTransactionState())
        die(postgres_signal_arg);       /* it may wait for a lock */
    errno = saved_errno;
}

void
process_setup(void)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, handle_terminate);
    BackgroundWorkerUnblockSignals();
}

bool
process_should_exit(void)
{
    CHECK_FOR_INTERRUPTS();
    return ShutdownRequestPending;
}

bool
process_reload(void)
{
    if (!ConfigReloadPending)
        return false;
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    return true;
}

void
process_sleep(TimestampTz now, TimestampTz until)
{
    long timeout = LONGEST_SLEEP_MS;

    if (until != 0)
        timeout = Min(timeout, TimestampDifferenceMilliseconds(now, until));
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
}
