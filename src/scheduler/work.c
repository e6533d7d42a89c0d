/*
 * work.c: runs of the outbox that no schedule asks for: commits have brought events, or some have come due for another
 * attempt (server/wake.h). Runs in a scheduler, as a part of its step.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "scheduler/claims.h"
#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "scheduler/work.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/wake.h"
#include "server/xact.h"

#define RETRY_MS 1000 /* until what could not be started is tried again */

/* By the time of the steps, which is not that of day in tests. */
static TimestampTz
by_clock(TimestampTz at, TimestampTz now)
{
    return at + (now - GetCurrentTimestamp());
}

/* Whether there are outbox events that nobody has looked at, or some have come due for another attempt. */
static bool
is_publisher_wanted(TimestampTz now, TimestampTz *next)
{
    TimestampTz due_at = wake_due_at();
    TimestampTz held_until = wake_held_until();

    if (due_at != 0 && due_at <= GetCurrentTimestamp()) {
        wake_forget_due();
        wake_publisher();
    } else if (due_at != 0)
        *next = by_clock(due_at, now);
    if (!wake_is_pending())
        return false;
    if (held_until > GetCurrentTimestamp()) {
        *next = held_until == DT_NOEND ? 0 : by_clock(held_until, now);
        return false;
    }
    return true;
}

TimestampTz
work_step(const Job *job, TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    RunSpec spec = {.trigger = JOB_TRIGGER_WORK, .attempt = 1, .scheduled_for = now};
    TimestampTz next = 0;
    RequestResult result;
    RunTicket ticket;
    JobRuns runs;
    bool there;

    if (!setting_outbox_wake_on_commit || job == NULL || job->paused || !is_publisher_wanted(now, &next))
        return next;
    dispatch_look(MyDatabaseId, job->id, false, &runs);
    if (runs.active)
        dispatch_wake_worker(MyDatabaseId, job->id);
    if (runs.active || runs.queued > 0)
        return 0;
    xact_begin("taking a run for events that are due");
    there = OidIsValid(user_table_oid(TABLE_OUTBOX_EVENT));
    spec.id = there ? history_next_id() : 0;
    xact_commit();
    MemoryContextSwitchTo(step);
    if (!there) { /* a scheduler that has just started looks too */
        (void)wake_take();
        return 0;
    }
    claims_fill_spec(&spec, job);
    result = dispatch_request(&spec, false, &ticket);
    return result == REQUEST_STARTED || result == REQUEST_QUEUED ? 0 : TimestampTzPlusMilliseconds(now, RETRY_MS);
}
