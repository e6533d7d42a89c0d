/*
 * entry.c: the library's entry point, and the one place that knows all features: it lists the jobs for the scheduler.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "outbox/outbox.h"
#include "payout/payout.h"
#include "scheduler/database_events.h"
#include "scheduler/due.h"
#include "scheduler/launcher.h"
#include "server/compat.h"
#include "server/job.h"
#include "server/settings.h"
#include "server/shared.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "apapacho_jobs", .version = APAPACHO_VERSION);
#else
PG_MODULE_MAGIC;
#endif

PGDLLEXPORT void _PG_init(void);

const JobDefinition job_definitions[JOB_COUNT] = {
    [JOB_OUTBOX] = {"outbox", "outboxPublisher", outbox_publish_run},
    [JOB_PAYOUT] = {"payout", "payoutCalculation", payout_calculate_run},
    [JOB_CLEANUP] = {"cleanup", "outboxCleanup", outbox_cleanup_run},
    [JOB_RETRY] = {"retry", "payoutRetry", payout_retry_run},
};

static void
require_preload(void)
{
    const char *preloaded = GetConfigOption("shared_preload_libraries", true, false);
    bool alone = preloaded == NULL || preloaded[0] == '\0';

    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("apapacho_jobs must be loaded via shared_preload_libraries"),
             errhint("Add this line to postgresql.conf and restart the server: shared_preload_libraries = '%s%s%s'",
                     alone ? "" : preloaded, alone ? "" : ", ", "apapacho_jobs")));
}

void
_PG_init(void)
{
    if (!process_shared_preload_libraries_in_progress)
        require_preload();
    clock_define_setting();
    settings_define();
    shared_init();
    database_events_init();
    outbox_watch_commits();
    if (!IsBinaryUpgrade)
        launcher_register();
}
