/*
 * database_events.c: notices what concerns the schedulers, in the backend where it happens.
 *
 * CREATE and DROP EXTENSION, whatever statement they come from, are seen by the object access hook and told to the
 * launcher when the transaction commits. DROP EXTENSION and ALTER EXTENSION ... UPDATE need the extension's tables,
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE DATABASE ... TEMPLATE a database that nobody
 * is connected to: our processes leave it before the statement and come back after the transaction, if there is still
 * something to do.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/wait_event.h"

#include "scheduler/database_events.h"
#include "scheduler/dispatch.h"
#include "server/compat.h"
#include "server/shared.h"

#define RELEASE_TIMEOUT_MS 10000
#define RELEASE_TICK_MS 10

static object_access_hook_type previous_object_access_hook = NULL;
static ProcessUtility_hook_type previous_utility_hook = NULL;
static bool extension_changed = false; /* in this transaction */
static bool extension_dropped = false; /* ours */
static bool jobs_changed = false;      /* rows of apapacho_jobs.job, in this transaction */
static bool settings_changed = false;  /* ALTER DATABASE or ROLE ... SET, in this transaction */
static Oid released[MAX_RELEASED];     /* the databases that this transaction needs for itself */
static int released_count = 0;
static bool dropping = false;         /* it drops the one */
static bool database_created = false; /* by it; may have the extension from its template */

static void
on_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
    if (previous_object_access_hook)
        previous_object_access_hook(access, class_id, object_id, sub_id, arg);
    if (class_id != ExtensionRelationId || (access != OAT_POST_CREATE && access != OAT_DROP))
        return;
    extension_changed = true;
    if (access == OAT_DROP) {
        char *name = get_extension_name(object_id);

        extension_dropped = extension_dropped || (name != NULL && strcmp(name, "apapacho_jobs") == 0);
    }
}

void
database_events_jobs_changed(void)
{
    jobs_changed = true;
}

/* Tells schedulers what this transaction has changed; those of other databases learn of settings only. */
static void
tell_schedulers(void)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    if (jobs_changed)
        shared->jobs_generation++;
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];

        if (slot->state == SCHEDULER_FREE)
            continue;
        if (jobs_changed && slot->database == MyDatabaseId)
            slot->jobs_changed = true;
        if (settings_changed)
            slot->settings_changed = slot->poked = true;
        if (settings_changed || (jobs_changed && slot->database == MyDatabaseId))
            shared_wake(slot->process);
    }
    LWLockRelease(shared->lock);
}

static void
on_xact(XactEvent event, void *arg)
{
    if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    if (extension_changed && event == XACT_EVENT_COMMIT)
        shared_poke(MyDatabaseId);
    if (database_created && event == XACT_EVENT_COMMIT)
        shared_wake_launcher();
    if ((jobs_changed || settings_changed) && event == XACT_EVENT_COMMIT)
        tell_schedulers();
    jobs_changed = false;
    settings_changed = false;
    if (extension_dropped && event == XACT_EVENT_COMMIT) {
        dispatch_forget(MyDatabaseId);
        dispatch_terminate(MyDatabaseId);
    }
    extension_dropped = false;
    extension_changed = false;
    database_created = false;
    for (int i = 0; i < released_count; i++) {
        if (dropping && event == XACT_EVENT_COMMIT)
            dispatch_forget(released[i]);
        shared_unrelease(released[i]);
        shared_poke(released[i]);
    }
    released_count = 0;
    dropping = false;
}

/* The value of a string option of a statement; NULL when it is not given. */
static char *
string_option(List *options, const char *name)
{
    ListCell *cell;

    foreach (cell, options) {
        DefElem *option = lfirst_node(DefElem, cell);

        if (strcmp(option->defname, name) == 0 && option->arg != NULL)
            return defGetString(option);
    }
    return NULL;
}

/* Whether the statement changes a setting that schedulers go by, for a database or a role. */
static bool
changes_setting(Node *statement)
{
    VariableSetStmt *set = NULL;
    RoleSpec *role;

    if (IsA(statement, AlterDatabaseSetStmt))
        set = ((AlterDatabaseSetStmt *)statement)->setstmt;
    else if (IsA(statement, AlterRoleSetStmt)) {
        /* schedulers go by those of all roles, and of their own */
        role = ((AlterRoleSetStmt *)statement)->role;
        if (role == NULL || get_rolespec_oid(role, true) == BOOTSTRAP_SUPERUSERID)
            set = ((AlterRoleSetStmt *)statement)->setstmt;
    }
    return set != NULL && (set->name == NULL || pg_strncasecmp(set->name, "apapacho_jobs.", 14) == 0 ||
                           pg_strcasecmp(set->name, "timezone") == 0);
}

/* Whether the statement drops or alters our extension, and the user may do that. */
static bool
needs_extension(Node *statement)
{
    bool names = false;
    ListCell *cell;
    Oid extension;

    if (IsA(statement, AlterExtensionStmt))
        names = strcmp(((AlterExtensionStmt *)statement)->extname, "apapacho_jobs") == 0;
    else if (IsA(statement, DropStmt) && ((DropStmt *)statement)->removeType == OBJECT_EXTENSION) {
        foreach (cell, ((DropStmt *)statement)->objects)
            names = names || strcmp(strVal(lfirst(cell)), "apapacho_jobs") == 0;
    }
    if (!names || !IsTransactionState())
        return false;
    extension = get_extension_oid("apapacho_jobs", true);
    return OidIsValid(extension) && compat_extension_ownercheck(extension, GetUserId());
}

/* The database that the statement needs for itself, if the user may do that to it; else InvalidOid. */
static Oid
database_needed(Node *statement)
{
    const char *name = NULL;
    Oid database;

    /* a run that does this cannot wait for its own end */
    if (MyBackendType != B_BG_WORKER && needs_extension(statement))
        return MyDatabaseId;
    if (IsA(statement, DropdbStmt))
        name = ((DropdbStmt *)statement)->dbname;
    else if (IsA(statement, CreatedbStmt))
        name = string_option(((CreatedbStmt *)statement)->options, "template");
    else if (IsA(statement, RenameStmt) && ((RenameStmt *)statement)->renameType == OBJECT_DATABASE)
        name = ((RenameStmt *)statement)->subname;
    else if (IsA(statement, AlterDatabaseStmt) &&
             string_option(((AlterDatabaseStmt *)statement)->options, "tablespace") != NULL)
        name = ((AlterDatabaseStmt *)statement)->dbname;
    if (name == NULL || !IsTransactionState())
        return InvalidOid;
    database = get_database_oid(name, true);
    if (!OidIsValid(database) || !compat_database_ownercheck(database, GetUserId()))
        return InvalidOid;
    return database;
}

/* Whether a scheduler is in the database or on its way to it; it is told to look around, and leaves. */
static bool
has_scheduler(Oid database)
{
    bool any = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *slot = &shared->schedulers[i];

        if (slot->database == database && (slot->state == SCHEDULER_STARTING || slot->state == SCHEDULER_RUNNING)) {
            any = true;
            shared_wake(slot->process);
        }
    }
    LWLockRelease(shared->lock);
    return any;
}

/*
 * Sees our processes out of the database, until the transaction ends. If they do not go in time, or too many databases
 * are being released at once, the statement will say that the database is in use.
 */
static void
release(Oid database)
{
    for (int i = 0; i < released_count; i++) {
        if (released[i] == database)
            return;
    }
    if (!shared_release(database))
        return;
    released[released_count++] = database; /* there is room: shared memory has no more */
    dispatch_terminate(database);
    for (int waited = 0; waited < RELEASE_TIMEOUT_MS; waited += RELEASE_TICK_MS) {
        bool scheduler = has_scheduler(database);

        if (!scheduler && !dispatch_any(database))
            return;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RELEASE_TICK_MS, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
}

static void
on_utility(PlannedStmt *statement, const char *query, bool read_only_tree, ProcessUtilityContext context,
           ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
    ProcessUtility_hook_type next = previous_utility_hook ? previous_utility_hook : standard_ProcessUtility;
    Oid database = database_needed(statement->utilityStmt);

    if (OidIsValid(database)) {
        dropping = IsA(statement->utilityStmt, DropdbStmt);
        release(database);
    }
    next(statement, query, read_only_tree, context, parameters, environment, receiver, completion);
    if (IsA(statement->utilityStmt, CreatedbStmt))
        database_created = true;
    if (IsA(statement->utilityStmt, TransactionStmt) &&
        ((TransactionStmt *)statement->utilityStmt)->kind == TRANS_STMT_COMMIT_PREPARED)
        jobs_changed = extension_changed = true; /* whatever that transaction did: it may have been one or the other */
    if (changes_setting(statement->utilityStmt))
        settings_changed = true;
}

void
database_events_init(void)
{
    previous_object_access_hook = object_access_hook;
    object_access_hook = on_object_access;
    previous_utility_hook = ProcessUtility_hook;
    ProcessUtility_hook = on_utility;
    RegisterXactCallback(on_xact, NULL);
}
