/*
 * endpoint_check.c: the trigger on the table of endpoints. In the backend that changes it.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "lib/delivery/signature.h"
#include "lib/delivery/url.h"
#include "outbox/endpoint.h"
#include "outbox/outbox.h"
#include "server/compat.h"
#include "server/counters.h"

PG_FUNCTION_INFO_V1(apapacho_check_endpoint);

#define MAX_HEADER_VALUE 4096

/* What only those may change who may read the server's files. */
static const char *const file_columns[] = {"secret_file", "ca_file", "client_cert", "client_key"};

/* Headers that are ours or the protocol's. */
static const char *const reserved_headers[] = {"webhook-id",          "webhook-timestamp",
                                               "webhook-signature",   "x-event-type",
                                               "x-aggregate-type",    "x-event-id",
                                               "content-type",        "content-length",
                                               "x-webhook-signature", "traceparent",
                                               "transfer-encoding",   "host",
                                               "connection",          "expect",
                                               "user-agent"};

static Datum
column(const TriggerData *trigger, HeapTuple row, const char *name, bool *is_null)
{
    TupleDesc columns = RelationGetDescr(trigger->tg_relation);

    return SPI_getbinval(row, columns, SPI_fnumber(columns, name), is_null);
}

/* The column's text; NULL when it is null. */
static char *
column_text(const TriggerData *trigger, HeapTuple row, const char *name)
{
    bool is_null;
    Datum value = column(trigger, row, name, &is_null);

    return is_null ? NULL : TextDatumGetCString(value);
}

static void
check_url(const char *name, const char *url)
{
    char error[256];

    if (strcmp(name, OUTBOX_DEFAULT_ENDPOINT) == 0) {
        if (url != NULL)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("the URL of the endpoint \"%s\" is a setting", name),
                            errhint("Set apapacho_jobs.outbox_webhook_url, or choose another name.")));
        return;
    }
    if (url == NULL)
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the endpoint \"%s\" must have a URL", name)));
    if (!delivery_url_check(url, error, sizeof(error)))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the URL of the endpoint \"%s\" cannot be used", name), errdetail("%s", error)));
}

static void
check_secret(const char *name, const char *kind, const char *secret)
{
    char error[256];

    if (secret != NULL && !signing_secret_check(secret, error, sizeof(error)))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the %s of the endpoint \"%s\" cannot be used", kind, name), errdetail("%s", error)));
}

static void
check_secrets(const TriggerData *trigger, HeapTuple row, const char *name)
{
    char *secret = column_text(trigger, row, "secret");
    char *file = column_text(trigger, row, "secret_file");

    check_secret(name, "secret", secret);
    check_secret(name, "previous secret", column_text(trigger, row, "previous_secret"));
    if (secret != NULL && file != NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the endpoint \"%s\" has both a secret and a file that holds it", name)));
}

/* A name of RFC 9110's tokens that is not ours. */
static void
check_header_name(const char *name, const char *header)
{
    static const char allowed[] = "!#$%&'*+-.^_`|~0123456789"
                                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

    if (header[0] == '\0' || header[strspn(header, allowed)] != '\0')
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is not the name of an HTTP header", header),
                 errdetail("Endpoint \"%s\".", name)));
    for (int i = 0; i < lengthof(reserved_headers); i++) {
        if (pg_strcasecmp(header, reserved_headers[i]) == 0 || pg_strncasecmp(header, "ce-", 3) == 0)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("the header \"%s\" is not an endpoint's own", header),
                            errdetail("Endpoint \"%s\".", name)));
    }
}

/* The value itself may be a secret, and is not told. */
static void
check_header_value(const char *name, const char *header, const JsonbValue *value)
{
    bool fits = value->type == jbvString && value->val.string.len <= MAX_HEADER_VALUE;

    for (int i = 0; fits && i < value->val.string.len; i++)
        fits = value->val.string.val[i] >= ' ' && value->val.string.val[i] < 0x7f;
    if (!fits)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the value of the header \"%s\" cannot be used", header),
                        errdetail("Endpoint \"%s\". A string of at most %d printable ASCII characters is expected.",
                                  name, MAX_HEADER_VALUE)));
}

static void
check_headers(const TriggerData *trigger, HeapTuple row, const char *name)
{
    bool is_null;
    Datum value = column(trigger, row, "headers", &is_null);
    JsonbIterator *iterator;
    JsonbIteratorToken token;
    JsonbValue item;
    Jsonb *headers;
    char *header = NULL;

    if (is_null)
        return;
    headers = DatumGetJsonbP(value);
    if (!JB_ROOT_IS_OBJECT(headers) || JB_ROOT_COUNT(headers) > ENDPOINT_MOST_HEADERS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the headers of the endpoint \"%s\" must be a JSON object with at most %d strings", name,
                               ENDPOINT_MOST_HEADERS)));
    iterator = JsonbIteratorInit(&headers->root);
    while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE) {
        if (token == WJB_KEY) {
            header = pnstrdup(item.val.string.val, item.val.string.len);
            check_header_name(name, header);
        } else if (token == WJB_VALUE)
            check_header_value(name, header, &item);
    }
}

/* Files are the server's: whoever may not read them may not have them used either. */
static void
check_files(const TriggerData *trigger, HeapTuple before, HeapTuple after)
{
    for (int i = 0; i < lengthof(file_columns); i++) {
        char *old = before == NULL ? NULL : column_text(trigger, before, file_columns[i]);
        char *new = column_text(trigger, after, file_columns[i]);

        if (new == NULL || (old != NULL && strcmp(old, new) == 0))
            continue;
        if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
            ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                            errmsg("permission denied to set column \"%s\" of an endpoint", file_columns[i]),
                            errhint("The role must be a superuser or a member of pg_read_server_files.")));
    }
}

/* There is a limit to how many a publisher takes. */
static void
check_number(const char *name)
{
    bool is_null;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    if (SPI_execute("SELECT pg_catalog.count(*) FROM apapacho_jobs.outbox_endpoint", true, 1) != SPI_OK_SELECT)
        elog(ERROR, "could not count the endpoints");
    if (DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)) >=
        OUTBOX_MOST_ENDPOINTS)
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                        errmsg("the endpoint \"%s\" would be one too many", name),
                        errdetail("There can be %d endpoints.", OUTBOX_MOST_ENDPOINTS)));
    SPI_finish();
}

/* The row with the time of this change. */
static HeapTuple
stamped(const TriggerData *trigger, HeapTuple row)
{
    TupleDesc columns = RelationGetDescr(trigger->tg_relation);
    int number = SPI_fnumber(columns, "changed_at");
    Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
    bool is_null = false;

    return heap_modify_tuple_by_cols(row, columns, 1, &number, &now, &is_null);
}

static HeapTuple
removed(const TriggerData *trigger)
{
    char *name = column_text(trigger, trigger->tg_trigtuple, "name");

    if (strcmp(name, OUTBOX_DEFAULT_ENDPOINT) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the endpoint \"%s\" cannot be removed", name),
                        errhint("It is not used where apapacho_jobs.outbox_webhook_url is empty.")));
    counters_forget(name);
    return trigger->tg_trigtuple;
}

static HeapTuple
checked(const TriggerData *trigger, bool is_insert)
{
    HeapTuple before = is_insert ? NULL : trigger->tg_trigtuple;
    HeapTuple after = is_insert ? trigger->tg_trigtuple : trigger->tg_newtuple;
    char *name = column_text(trigger, after, "name");

    if (name == NULL)
        return after; /* the constraint says so */
    if (before != NULL && strcmp(name, column_text(trigger, before, "name")) != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("an endpoint cannot be renamed"),
                        errhint("Add one of the new name, and remove this one once it has all its events.")));
    check_url(name, column_text(trigger, after, "url"));
    check_secrets(trigger, after, name);
    check_headers(trigger, after, name);
    check_files(trigger, before, after);
    if (is_insert)
        check_number(name);
    return stamped(trigger, after);
}

/* apapacho_jobs.check_endpoint(): BEFORE INSERT, DELETE, or UPDATE of what an endpoint is, for each row. */
Datum
apapacho_check_endpoint(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    HeapTuple row;

    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED), errmsg("must be called as a trigger")));
    if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
        row = removed(trigger);
    else
        row = checked(trigger, TRIGGER_FIRED_BY_INSERT(trigger->tg_event));
    outbox_wake_at_commit();
    return PointerGetDatum(row);
}
