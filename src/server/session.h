/*
 * session.h: the session of a background worker of ours: what the administrator has set for people must not change what
 * jobs mean.
 */
#ifndef APAPACHO_SESSION_H
#define APAPACHO_SESSION_H

#include "postgres.h"

#include <signal.h>

/* Set by a worker's SIGTERM handler: what is still done is to wait for nobody. */
extern volatile sig_atomic_t session_terminating;

/* Whom the process is connected as, for a user's job; InvalidOid: as ourselves, the bootstrap superuser. */
extern Oid session_role;

/*
 * Connects the process to a database (to none, for the shared catalogs, with InvalidOid) as `role`. As ourselves, which
 * is InvalidOid, it pins what our SQL depends on: search_path = pg_catalog, pg_temp; read committed, read-write
 * transactions; no statement or idle timeouts. `lock_timeout` is a value of that setting. A user's role has its own
 * settings, and xact.h sees to our transactions in between. Errors are FATAL.
 */
void session_start(Oid database, Oid role, const char *lock_timeout);

#endif
