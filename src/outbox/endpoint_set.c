/*
 * endpoint_set.c: reads which endpoints there are, and how they are. In a publisher, as ourselves; a set belongs to the
 * run that has loaded it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "outbox/endpoint.h"
#include "server/delivery_settings.h"
#include "server/settings.h"
#include "server/xact.h"

/* The columns of both queries begin alike. */
enum {
    COL_NAME = 1,
    COL_CHANGED_AT,
    COL_PAUSED_AT,
    COL_STOPPED_AT,
    COL_PROBE_AT,
    COL_URL,
    COL_SECRET,
    COL_SECRET_FILE,
    COL_PREVIOUS_SECRET,
    COL_PREVIOUS_SECRET_UNTIL,
    COL_EVENT_TYPES,
    COL_RATE_LIMIT,
    COL_CONCURRENCY,
    COL_TIMEOUT_MS,
    COL_HEADER_NAMES,
    COL_HEADER_VALUES,
    COL_CA_FILE,
    COL_CLIENT_CERT,
    COL_CLIENT_KEY
};

#define STATE_COLUMNS "SELECT e.name, e.changed_at, e.paused_at, e.stopped_at, e.probe_at"
#define IN_ORDER " FROM apapacho_jobs.outbox_endpoint AS e ORDER BY e.name OPERATOR(pg_catalog.<>) 'default', e.name"

static const char state_sql[] = STATE_COLUMNS IN_ORDER;

static const char load_sql[] = STATE_COLUMNS
    ", e.url, e.secret, e.secret_file, e.previous_secret, e.previous_secret_until, e.event_types, e.rate_limit,"
    " e.concurrency, (EXTRACT(epoch FROM e.timeout) OPERATOR(pg_catalog.*) 1000)::bigint,"
    " (SELECT pg_catalog.array_agg(h.key ORDER BY h.key) FROM pg_catalog.jsonb_each_text(e.headers) AS h),"
    " (SELECT pg_catalog.array_agg(h.value ORDER BY h.key) FROM pg_catalog.jsonb_each_text(e.headers) AS h),"
    " e.ca_file, e.client_cert, e.client_key" IN_ORDER;

static const char others_sql[] = "SELECT EXISTS (SELECT FROM apapacho_jobs.outbox_retry AS r"
                                 " WHERE r.endpoint OPERATOR(pg_catalog.<>) 'default')::integer";

bool
endpoint_is_usable(const Endpoint *endpoint)
{
    return endpoint->problem == NULL && (endpoint->state == ENDPOINT_CLOSED || endpoint->state == ENDPOINT_PROBING);
}

bool
endpoints_usable(const EndpointSet *set)
{
    for (int i = 0; i < set->count; i++) {
        if (endpoint_is_usable(set->all[i]))
            return true;
    }
    return false;
}

TimestampTz
endpoints_next_probe(const EndpointSet *set)
{
    TimestampTz next = 0;

    for (int i = 0; i < set->count; i++) {
        const Endpoint *endpoint = set->all[i];

        if (endpoint->state == ENDPOINT_OPEN && (next == 0 || endpoint->probe_at < next))
            next = endpoint->probe_at;
    }
    return next;
}

/* The state that a row of the last result says. */
static EndpointState
row_state(uint64 row, bool probe_now)
{
    TimestampTz probe_at = spi_time(row, COL_PROBE_AT);

    if (!spi_is_null(row, COL_PAUSED_AT))
        return ENDPOINT_PAUSED;
    if (!spi_is_null(row, COL_STOPPED_AT))
        return ENDPOINT_STOPPED;
    if (probe_at == 0)
        return ENDPOINT_CLOSED;
    return probe_now || probe_at <= GetCurrentTimestamp() ? ENDPOINT_PROBING : ENDPOINT_OPEN;
}

/* What the rows of the last result say of the definitions: each name with the time of its latest change. */
static char *
rows_version(uint64 count)
{
    StringInfoData version;

    initStringInfo(&version);
    for (uint64 i = 0; i < count; i++)
        appendStringInfo(&version, "%s " INT64_FORMAT "\n", spi_text(i, COL_NAME), spi_time(i, COL_CHANGED_AT));
    return version.data;
}

/* The elements of a text[] of the last result; their number is 0 where it is null. */
static int
row_texts(uint64 row, int column, char ***texts)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);
    Datum *elements;
    bool *nulls;
    int count;

    if (is_null)
        return 0;
    deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
    *texts = palloc(sizeof(char *) * (count + 1));
    for (int i = 0; i < count; i++)
        (*texts)[i] = nulls[i] ? pstrdup("") : TextDatumGetCString(elements[i]);
    return count;
}

/* Patterns (at least one) in which * stands for anything, as one regular expression; NULL: they match everything. */
static char *
types_expression(char **patterns, int count)
{
    StringInfoData expression;

    initStringInfo(&expression);
    appendStringInfoString(&expression, "^(?:");
    for (int i = 0; i < count; i++) {
        if (strcmp(patterns[i], "*") == 0)
            return NULL;
        if (i > 0)
            appendStringInfoChar(&expression, '|');
        for (const char *c = patterns[i]; *c != '\0'; c++) {
            if (*c == '*')
                appendStringInfoString(&expression, ".*");
            else {
                if (strchr("\\^$.|?+()[]{}", *c) != NULL)
                    appendStringInfoChar(&expression, '\\');
                appendStringInfoChar(&expression, *c);
            }
        }
    }
    appendStringInfoString(&expression, ")$");
    return expression.data;
}

static char *
text_or_null(const char *text)
{
    return text == NULL || text[0] == '\0' ? NULL : pstrdup(text);
}

/* What the settings say of the default one. */
static void
fill_from_settings(Endpoint *endpoint)
{
    endpoint->is_trusted = true;
    endpoint->url = text_or_null(setting_outbox_webhook_url);
    endpoint->secret = setting_webhook_secret();
    endpoint->previous_secret = endpoint->secret != NULL ? setting_previous_webhook_secret() : NULL;
    endpoint->previous_secret_until = setting_previous_secret_until;
    endpoint->ca_file = text_or_null(setting_outbox_ca_file);
    endpoint->client_cert = text_or_null(setting_outbox_client_cert);
    endpoint->client_key = text_or_null(setting_outbox_client_key);
}

/* The secret of another one. What is wrong with its file is that endpoint's trouble only. */
static void
fill_secret(Endpoint *endpoint, const char *file)
{
    MemoryContext context = CurrentMemoryContext;

    if (endpoint->secret != NULL || file == NULL)
        return;
    PG_TRY();
    {
        endpoint->secret = settings_read_secret_file(file);
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        endpoint->problem = pstrdup(error->message);
        FreeErrorData(error);
    }
    PG_END_TRY();
}

static void
fill_from_row(Endpoint *endpoint, uint64 row)
{
    endpoint->url = spi_text(row, COL_URL);
    endpoint->secret = spi_text(row, COL_SECRET);
    endpoint->previous_secret = spi_text(row, COL_PREVIOUS_SECRET);
    endpoint->previous_secret_until = spi_time(row, COL_PREVIOUS_SECRET_UNTIL);
    endpoint->ca_file = spi_text(row, COL_CA_FILE);
    endpoint->client_cert = spi_text(row, COL_CLIENT_CERT);
    endpoint->client_key = spi_text(row, COL_CLIENT_KEY);
}

static void
fill_headers(Endpoint *endpoint, uint64 row)
{
    char **names = NULL;
    char **values = NULL;
    int count = row_texts(row, COL_HEADER_NAMES, &names);

    (void)row_texts(row, COL_HEADER_VALUES, &values);
    for (int i = 0; i < count && i < ENDPOINT_MOST_HEADERS; i++)
        endpoint->headers[endpoint->header_count++] = (DeliveryHeader){names[i], values[i]};
}

/* An endpoint of a row of the last result, in the current context. */
static Endpoint *
read_endpoint(uint64 row, bool probe_now)
{
    Endpoint *endpoint = palloc0(sizeof(Endpoint));
    char **patterns = NULL;
    int pattern_count;

    endpoint->name = spi_text(row, COL_NAME);
    if (strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0)
        fill_from_settings(endpoint);
    else {
        fill_from_row(endpoint, row);
        fill_secret(endpoint, spi_text(row, COL_SECRET_FILE));
    }
    if (!spi_is_null(row, COL_EVENT_TYPES)) {
        pattern_count = row_texts(row, COL_EVENT_TYPES, &patterns);
        endpoint->types = types_expression(patterns, pattern_count);
    }
    endpoint->rate_limit =
        spi_is_null(row, COL_RATE_LIMIT) ? setting_outbox_rate_limit : (int)spi_int64(row, COL_RATE_LIMIT);
    endpoint->concurrency =
        spi_is_null(row, COL_CONCURRENCY) ? setting_outbox_concurrency : (int)spi_int64(row, COL_CONCURRENCY);
    endpoint->timeout_ms =
        spi_is_null(row, COL_TIMEOUT_MS) ? setting_outbox_timeout : (int)spi_int64(row, COL_TIMEOUT_MS);
    fill_headers(endpoint, row);
    endpoint->state = row_state(row, probe_now);
    endpoint->probe_at = spi_time(row, COL_PROBE_AT);
    return endpoint;
}

/* Where events go when they go to the server log. */
static Endpoint *
console_endpoint(void)
{
    Endpoint *endpoint = palloc0(sizeof(Endpoint));

    endpoint->name = pstrdup(OUTBOX_DEFAULT_ENDPOINT);
    endpoint->state = ENDPOINT_CLOSED;
    return endpoint;
}

EndpointSet *
endpoints_load(MemoryContext parent, bool console, bool probe_now)
{
    MemoryContext caller = CurrentMemoryContext;
    MemoryContext context = AllocSetContextCreate(parent, "outbox endpoints", ALLOCSET_DEFAULT_SIZES);
    EndpointSet *set = MemoryContextAllocZero(context, sizeof(EndpointSet));
    uint64 count;

    set->context = context;
    xact_begin("apapacho_jobs: looking where events are sent");
    count = spi_run(load_sql, 0, NULL, NULL, NULL, true, 0);
    MemoryContextSwitchTo(context);
    set->version = rows_version(count);
    for (uint64 i = 0; i < count && !console; i++) {
        Endpoint *endpoint = read_endpoint(i, probe_now);

        if (endpoint->url != NULL && set->count < OUTBOX_MOST_ENDPOINTS)
            set->all[set->count++] = endpoint;
    }
    if (console)
        set->all[set->count++] = console_endpoint();
    (void)spi_run(others_sql, 0, NULL, NULL, NULL, true, 1);
    set->is_simple = set->count == 1 && strcmp(set->all[0]->name, OUTBOX_DEFAULT_ENDPOINT) == 0 &&
                     set->all[0]->types == NULL && spi_int64(0, 1) == 0;
    xact_commit();
    MemoryContextSwitchTo(caller);
    if (set->count == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the outbox publisher is \"webhook\", but there is no webhook URL"),
                        errhint("Set apapacho_jobs.outbox_webhook_url, or apapacho_jobs.outbox_publisher_type to "
                                "\"console\".")));
    return set;
}

static Endpoint *
find(const EndpointSet *set, const char *name)
{
    for (int i = 0; i < set->count; i++) {
        if (strcmp(set->all[i]->name, name) == 0)
            return set->all[i];
    }
    return NULL;
}

bool
endpoints_refresh(EndpointSet *set, bool *usable)
{
    static SPIPlanPtr plan = NULL;
    uint64 count = spi_run_kept(&plan, state_sql, 0, NULL, NULL, NULL);

    if (strcmp(rows_version(count), set->version) != 0)
        return false;
    for (uint64 i = 0; i < count; i++) {
        Endpoint *endpoint = find(set, spi_text(i, COL_NAME));
        EndpointState state = row_state(i, false);
        bool was_usable;

        if (endpoint == NULL || endpoint->url == NULL)
            continue; /* the console has no state */
        if (endpoint->problem != NULL && state == ENDPOINT_PROBING)
            return false; /* it may have been mended */
        was_usable = endpoint_is_usable(endpoint);
        if (state == ENDPOINT_PROBING && endpoint->state != ENDPOINT_PROBING)
            endpoint->answers = endpoint->failures = 0;
        if (!(state == ENDPOINT_OPEN && endpoint->state == ENDPOINT_PROBING)) /* probed by hand: that goes on */
            endpoint->state = state;
        endpoint->probe_at = spi_time(i, COL_PROBE_AT);
        *usable = *usable || (!was_usable && endpoint_is_usable(endpoint));
    }
    return true;
}
