/*
 * extension.c: looks the extension up in the catalog of the connected database.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"

#include "server/extension.h"

static Oid last_seen = InvalidOid;

Oid
extension_oid(void)
{
    /* While its script runs the extension is in the catalog, but its tables are not there yet. */
    last_seen = creating_extension ? InvalidOid : get_extension_oid("apapacho_jobs", true);
    return last_seen;
}

Oid
extension_last_seen(void)
{
    return last_seen;
}

void
extension_lock(void)
{
    Oid oid = get_extension_oid("apapacho_jobs", true);

    while (OidIsValid(oid)) {
        Oid now;

        LockDatabaseObject(ExtensionRelationId, oid, 0, AccessShareLock);
        now = get_extension_oid("apapacho_jobs", true);
        if (now == oid)
            return;
        /* it was dropped while we waited, and perhaps created again */
        UnlockDatabaseObject(ExtensionRelationId, oid, 0, AccessShareLock);
        oid = now;
    }
}

bool
extension_installed(void)
{
    return OidIsValid(extension_oid());
}

void
extension_require(void)
{
    if (!extension_installed())
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("extension \"apapacho_jobs\" is not installed in database \"%s\"",
                               get_database_name(MyDatabaseId)),
                        errhint("Run CREATE EXTENSION apapacho_jobs in that database.")));
}

Oid
extension_owner(void)
{
    Relation catalog = table_open(ExtensionRelationId, AccessShareLock);
    ScanKeyData key;
    SysScanDesc scan;
    HeapTuple tuple;
    Oid owner = BOOTSTRAP_SUPERUSERID;

    ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("apapacho_jobs"));
    scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
    tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple))
        owner = ((Form_pg_extension)GETSTRUCT(tuple))->extowner;
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    return owner;
}
