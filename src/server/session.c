/*
 * session.c: connects our background workers. Called once in each, before anything else touches a database.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "utils/backend_status.h"
#include "utils/guc.h"

#include "server/session.h"

volatile sig_atomic_t session_terminating = false;
Oid session_role = InvalidOid;

static void
pin(const char *name, const char *value)
{
    SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

void
session_start(Oid database, Oid role, const char *lock_timeout)
{
    session_role = role;
    if (OidIsValid(database))
        BackgroundWorkerInitializeConnectionByOid(database, role, 0);
    else
        BackgroundWorkerInitializeConnection(NULL, NULL, 0);
    pgstat_report_appname(MyBgworkerEntry->bgw_name);

    if (OidIsValid(role))
        return; /* the session is the user's, with the settings that the administrator has given to his role */

    /* a database's owner can set these for it */
    pin("role", "none");
    if (GetConfigOption("transaction_timeout", true, false) !=
        NULL) /* 17 and later; ends the process, workers included */
        pin("transaction_timeout", "0");
    pin("search_path", "pg_catalog, pg_temp");
    pin("default_transaction_isolation", "read committed");
    pin("default_transaction_read_only", "off");
    pin("default_transaction_deferrable", "off");
    pin("session_replication_role", "origin");
    pin("row_security", "off");
    pin("lock_timeout", lock_timeout);
    pin("idle_in_transaction_session_timeout", "0");
}
