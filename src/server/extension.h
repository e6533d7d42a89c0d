/*
 * extension.h: whether the extension is installed in this database, and where its functions are.
 */
#ifndef APAPACHO_EXTENSION_H
#define APAPACHO_EXTENSION_H

#include "postgres.h"

/* The extension as it is in the connected database; InvalidOid: it is not installed. Made anew it is another one. */
Oid extension_oid(void);

/* What extension_oid() said last in this process; needs no transaction. */
Oid extension_last_seen(void);

/*
 * Keeps the extension as it is until the end of the transaction, if it is installed. DROP EXTENSION takes this lock
 * before all others, so that it and a transaction that begins with this one wait for each other as wholes: neither has
 * one of the extension's tables while it waits for another.
 */
void extension_lock(void);

/* Whether CREATE EXTENSION apapacho_jobs has been done in this database; within a transaction. */
bool extension_installed(void);

/* ERROR with the statement to run when it is not. */
void extension_require(void);

/* The role that owns the extension; its own tables are read and written as that. Within a transaction. */
Oid extension_owner(void);

#endif
