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

/*
 * Connects the process to a database as the bootstrap superuser (to none, for the shared catalogs, with InvalidOid) and
 * pins what its SQL depends on: search_path = pg_catalog, pg_temp; read committed, read-write transactions; no
 * statement or idle timeouts. `lock_timeout` is a value of that setting.
 */
void session_start(Oid database, const char *lock_timeout);

#endif
