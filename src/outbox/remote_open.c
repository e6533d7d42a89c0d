/*
 * remote_open.c: the life of a publisher on another machine: how its session becomes one, and what is left when it
 * ends. Runs in the session's backend.
 *
 * What is in hand lives in TopMemoryContext from call to call. The slots (share.h) are the session's: when the program
 * dies, or its machine does and the server notices, they are free.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/remote.h"
#include "outbox/share.h"
#include "outbox/watch.h"
#include "server/compat.h"
#include "server/delivery_settings.h"
#include "server/seats.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_publisher_open);

/* When the session ends in between: no lock is waited for longer than this until what is known is recorded. */
#define LAST_LOCK_TIMEOUT "1s"

/* In place of a URL that only the program knows. */
#define UNKNOWN_URL "http://publisher.invalid/"

/* The arguments of publisher_open(). */
enum { ARG_VERSION, ARG_TYPE, ARG_OWN_URL, ARG_OWN_SECRET, ARG_BATCH_SIZE, ARG_MAX_RETRIES };

/* Lets go of everything. Outside of a transaction or not. */
static void
close_remote(void)
{
    for (int i = 0; i < remote.receiver_count; i++)
        receiver_close(&remote.receivers[i]);
    share_release();
    seat_leave();
    if (remote.context != NULL)
        MemoryContextDelete(remote.context);
    memset(&remote, 0, sizeof(remote));
}

/* For this session only, whatever its role may set. */
static void
override(const char *name, const char *value)
{
    (void)set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

/* What the program has told is not to be sent again. As temporary tables are dropped at this point; an ERROR ends it.
 */
static void
record_at_exit(void)
{
    AbortOutOfAnyTransaction();
    override("lock_timeout", LAST_LOCK_TIMEOUT);
    xact_enter_exit();
    outbox_record(remote.publisher.hand);
}

static void
close_at_exit(int code, Datum argument)
{
    int receivers = remote.receiver_count;
    bool noted = remote.context != NULL && !remote.broken && remote.publisher.hand != NULL &&
                 remote.publisher.hand->finished_count > 0;

    remote.receiver_count = 0;
    remote.broken = true; /* first: it is done once */
    for (int i = 0; i < receivers; i++)
        receiver_close(&remote.receivers[i]); /* the locks and the seat are let go of by themselves, in that order */
    if (noted)
        record_at_exit();
}

void
remote_break(void)
{
    for (int i = 0; i < remote.receiver_count; i++)
        receiver_close(&remote.receivers[i]);
    remote.receiver_count = 0;
    remote.broken = true;
}

/* What the program's environment says otherwise. */
static void
apply_overrides(FunctionCallInfo fcinfo)
{
    if (!PG_ARGISNULL(ARG_TYPE))
        override("apapacho_jobs.outbox_publisher_type", text_to_cstring(PG_GETARG_TEXT_PP(ARG_TYPE)));
    if (!PG_ARGISNULL(ARG_OWN_URL) && PG_GETARG_BOOL(ARG_OWN_URL))
        override("apapacho_jobs.outbox_webhook_url", UNKNOWN_URL);
    if (!PG_ARGISNULL(ARG_BATCH_SIZE))
        override("apapacho_jobs.outbox_batch_size", psprintf("%d", PG_GETARG_INT32(ARG_BATCH_SIZE)));
    if (!PG_ARGISNULL(ARG_MAX_RETRIES))
        override("apapacho_jobs.outbox_max_retries", psprintf("%d", PG_GETARG_INT32(ARG_MAX_RETRIES)));
}

static void
forget_secret(char **secret)
{
    if (*secret == NULL)
        return;
    explicit_bzero(*secret, strlen(*secret));
    pfree(*secret);
    *secret = NULL;
}

static void
open_receivers(EndpointSet *endpoints)
{
    MemoryContext before = MemoryContextSwitchTo(endpoints->context);

    for (int i = 0; i < endpoints->count; i++) {
        Endpoint *endpoint = endpoints->all[i];

        if (remote.own_secret && strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0) {
            forget_secret(&endpoint->secret);
            forget_secret(&endpoint->previous_secret);
        }
        remote.receiver_count++; /* first: whatever happens, it is closed */
        receiver_open(&remote.receivers[i], endpoint, (ReceiverShare){.seat = remote.publisher.seat, .parts = 1});
    }
    MemoryContextSwitchTo(before);
}

static void
take_seat(void)
{
    remote.publisher.seat = seat_take(1);
    if (remote.publisher.seat == NO_SEAT)
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("there are too many publishers")));
}

/* So that the program hears of it at once. */
static void
check_table(void)
{
    xact_begin("apapacho_jobs: looking whether there are events");
    (void)user_table_check(TABLE_OUTBOX_EVENT);
    xact_commit();
}

static void
open_remote(void)
{
    HASHCTL tickets = {.keysize = sizeof(int64), .entrysize = sizeof(int64) + sizeof(OutboxTarget *)};
    bool console = setting_outbox_publisher_type == PUBLISHER_CONSOLE;
    EndpointSet *endpoints;

    tickets.hcxt = remote.context;
    remote.settings_at = PgReloadTime;
    remote.source = MemoryContextStrdup(remote.context, setting_outbox_cloudevents_source);
    remote.tickets = hash_create("outbox tickets", 256, &tickets, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    remote.run = (JobRun){.trigger = JOB_TRIGGER_WORK, .arguments = "", .context = remote.scratch};
    remote.publisher = (Publisher){.run = &remote.run,
                                   .type = setting_outbox_publisher_type,
                                   .left = PG_INT64_MAX,
                                   .seat = NO_SEAT,
                                   .is_remote = true,
                                   .parts = 1,
                                   .has_room = remote_has_room,
                                   .position = DT_NOBEGIN};
    check_table();
    endpoints = endpoints_load(remote.context, console, false);
    remote.publisher.hand = hand_create(remote.context, endpoints);
    remote.publisher.endpoints_at = remote.publisher.recorded_at = publisher_clock_ms();
    take_seat();
    if (!console) {
        open_receivers(endpoints);
        watch_problems(&remote.publisher);
    }
}

static void
put_endpoint(const Endpoint *endpoint)
{
    exchange_put_text(&remote_answer, endpoint->name);
    exchange_put_text(&remote_answer, endpoint->url);
    exchange_put_number(&remote_answer, endpoint->timeout_ms);
    exchange_put_number(&remote_answer, endpoint->concurrency);
    exchange_put_text(&remote_answer, endpoint->ca_file);
    exchange_put_text(&remote_answer, endpoint->client_cert);
    exchange_put_text(&remote_answer, endpoint->client_key);
    exchange_put_number(&remote_answer, endpoint->is_trusted);
}

static void
describe_publisher(void)
{
    const EndpointSet *endpoints = remote.publisher.hand->endpoints;

    exchange_reset(&remote_answer);
    exchange_put_number(&remote_answer, remote.publisher.type == PUBLISHER_CONSOLE);
    exchange_put_number(&remote_answer, setting_outbox_fail_on_client_error);
    exchange_put_number(&remote_answer, setting_outbox_http2);
    exchange_put_text(&remote_answer, GetConfigOption("apapacho_jobs.outbox_allowed_addresses", false, false));
    exchange_put_number(&remote_answer, endpoints->count);
    for (int i = 0; i < endpoints->count; i++)
        put_endpoint(endpoints->all[i]);
}

static void
check_version(FunctionCallInfo fcinfo)
{
    if (!PG_ARGISNULL(ARG_VERSION) && PG_GETARG_INT32(ARG_VERSION) == EXCHANGE_VERSION)
        return;
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("the publisher and the extension do not speak the same version of their protocol"),
                    errdetail("The extension speaks version %d.", EXCHANGE_VERSION),
                    errhint("Install the program of the same release as the extension.")));
}

/* apapacho_jobs.publisher_open(version, publisher_type, own_url, own_secret, batch_size, max_retries, OUT answer) */
Datum
apapacho_publisher_open(PG_FUNCTION_ARGS)
{
    static bool registered = false;
    MemoryContext caller = CurrentMemoryContext;

    xact_require_call(fcinfo);
    check_version(fcinfo);
    if (RecoveryInProgress())
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                        errmsg("a standby cannot publish: what becomes of the events could not be recorded")));
    if (!registered)
        before_shmem_exit(close_at_exit, (Datum)0);
    registered = true;
    close_remote();
    apply_overrides(fcinfo);
    remote.context = AllocSetContextCreate(TopMemoryContext, "outbox publisher", ALLOCSET_DEFAULT_SIZES);
    remote.scratch = AllocSetContextCreate(remote.context, "outbox call", ALLOCSET_DEFAULT_SIZES);
    remote.own_secret = !PG_ARGISNULL(ARG_OWN_SECRET) && PG_GETARG_BOOL(ARG_OWN_SECRET);
    xact_leave_call();
    PG_TRY();
    {
        MemoryContextSwitchTo(remote.scratch);
        open_remote();
        describe_publisher();
    }
    PG_CATCH();
    {
        xact_abandon_call();
        close_remote();
        PG_RE_THROW();
    }
    PG_END_TRY();
    xact_return_to_call();
    MemoryContextSwitchTo(caller);
    return remote_answer_value(fcinfo);
}
