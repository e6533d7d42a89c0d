/*
 * process.c: signals and sleep of the launcher and the schedulers. The workers of runs have their own (worker.c).
 */
#include "postgres.h"

#include <signal.h>
#ifdef __linux__
#include <sys/timerfd.h>
#endif
#include <time.h>

#include "datatype/timestamp.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/wait_event.h"

#include "scheduler/process.h"

#define LONGEST_SLEEP_MS 60000

static void
handle_terminate(SIGNAL_ARGS)
{
    ShutdownRequestPending = true;
    die(postgres_signal_arg); /* a transaction may wait: for a lock, or at its commit for a standby */
}

/* lock_timeout comes by this signal; for pg_cancel_backend() there is nothing to be cancelled. */
static void
handle_cancel(SIGNAL_ARGS)
{
    if (get_timeout_indicator(LOCK_TIMEOUT, false))
        StatementCancelHandler(postgres_signal_arg);
}

void
process_setup(void)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGINT, handle_cancel);
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

/*
 * Becomes readable when the clock is set from now on; -1: there is no such thing here, and a minute passes before it is
 * noticed.
 */
static int
clock_watch(void)
{
    static int watch = -2;

#ifdef TFD_TIMER_CANCEL_ON_SET
    if (watch == -2)
        watch = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (watch >= 0) {
        struct itimerspec never = {.it_value = {.tv_sec = time(NULL) + INT64CONST(100) * 365 * SECS_PER_DAY}};

        /* Armed anew each time, which also makes it unreadable again. ECANCELED says that the clock was set meanwhile:
         * it is armed then too. */
        if (timerfd_settime(watch, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) != 0 &&
            errno != ECANCELED)
            return -1;
    }
#else
    watch = -1;
#endif
    return watch;
}

void
process_sleep(TimestampTz now, TimestampTz until)
{
    static int watch = -2;
    long timeout = LONGEST_SLEEP_MS;
    int events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

    if (watch == -2) {
        watch = clock_watch();
        return; /* what the caller knows of the time is older than the watch */
    }
    if (until != 0)
        timeout = Min(timeout, TimestampDifferenceMilliseconds(now, until));
    if (watch >= 0)
        (void)WaitLatchOrSocket(MyLatch, events | WL_SOCKET_READABLE, watch, timeout, PG_WAIT_EXTENSION);
    else
        (void)WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    watch = clock_watch(); /* before the caller looks at the clock: a change while he is at work ends the next sleep */
}
