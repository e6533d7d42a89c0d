/*
 * process.c: signals and sleep of the launcher and the schedulers. The workers of runs have their own (worker.c).
 */
#include "postgres.h"

#include <signal.h>

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
    ShutdownRequestPending = true;
    die(postgres_signal_arg); /* a transaction may wait: for a lock, or at its commit for a standby */
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
    if (ShutdownRequestPending) /* first: an idle process ends without a FATAL message */
        return true;
    CHECK_FOR_INTERRUPTS();
    return false;
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
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
}
