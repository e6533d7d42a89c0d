-- The outbox: retries' times, and the functions that write, read and look after events (src/outbox).

-- Not dumped: while a dump is being restored the new database's own runs are already written here; in a restored database whatever failed is due
-- at once.

CREATE TABLE apapacho_jobs.outbox_retry (
    event_id text NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    attempts integer NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    endpoint text NOT NULL DEFAULT 'default',
    failed_at timestamptz,
    PRIMARY KEY (event_id, endpoint)
);
CREATE INDEX outbox_retry_aggregate_idx ON apapacho_jobs.outbox_retry (aggregate_type, aggregate_id);
CREATE INDEX outbox_retry_due_idx ON apapacho_jobs.outbox_retry (next_attempt_at) WHERE failed_at IS NULL;
CREATE INDEX outbox_retry_endpoint_idx ON apapacho_jobs.outbox_retry (endpoint) WHERE endpoint <> 'default';
COMMENT ON TABLE apapacho_jobs.outbox_retry IS
    'the endpoints that outbox events are still to be delivered to once one attempt has failed, or not all of them have it, and when; their aggregates wait for them there. An event that is pending and has no row has not been tried';
COMMENT ON COLUMN apapacho_jobs.outbox_retry.attempts IS 'how many have failed there';
COMMENT ON COLUMN apapacho_jobs.outbox_retry.next_attempt_at IS '-infinity: as soon as the endpoint can have it';
COMMENT ON COLUMN apapacho_jobs.outbox_retry.failed_at IS 'it has failed there for good since then';

-- The publisher reads it as the owner of "OutboxEvent": by this view, which is empty for everybody else.
CREATE VIEW apapacho_jobs.outbox_waiting AS
    SELECT event_id, aggregate_type, aggregate_id, next_attempt_at, endpoint, attempts, failed_at
    FROM apapacho_jobs.outbox_retry WHERE apapacho_jobs.in_worker();
GRANT SELECT ON apapacho_jobs.outbox_waiting TO PUBLIC;
COMMENT ON VIEW apapacho_jobs.outbox_waiting IS 'outbox_retry as workers see it; empty in all other sessions';

CREATE FUNCTION @extschema@.apapacho_outbox_emit(aggregate_type text, aggregate_id text, event_type text,
                                     payload jsonb DEFAULT '{}')
    RETURNS text
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_outbox_emit';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_emit(text, text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_emit(text, text, text, jsonb) IS
    'adds an event to the outbox, as the caller and as a part of the caller''s transaction; returns its id';

CREATE FUNCTION @extschema@.apapacho_outbox_process(batch_size integer DEFAULT NULL)
    RETURNS jsonb
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT apapacho_jobs.run_job('outbox', true,
            CASE WHEN batch_size IS NOT NULL THEN pg_catalog.jsonb_build_object('batchSize', batch_size) END)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_process(integer) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_process(integer) IS
    'publishes the outbox events that are due (at most batch_size of them when it is given) in a worker, and waits for it';

CREATE FUNCTION @extschema@.apapacho_outbox_cleanup(days integer DEFAULT 30)
    RETURNS jsonb
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT apapacho_jobs.run_job('cleanup', true,
            CASE WHEN days IS NOT NULL THEN pg_catalog.jsonb_build_object('days', days) END)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_cleanup(integer) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_cleanup(integer) IS
    'deletes the outbox events that were published more than so many days ago in a worker, and waits for it';

CREATE FUNCTION @extschema@.apapacho_outbox_stats()
    RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'apapacho_outbox_stats';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_stats() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_stats() IS
    'how many outbox events there are: total, pending (of these retrying), published, failed; and since when the oldest waits';

CREATE FUNCTION @extschema@.apapacho_outbox_events(status text DEFAULT 'pending', "limit" integer DEFAULT 50,
                                       "offset" integer DEFAULT 0)
    RETURNS TABLE (id text, "aggregateType" text, "aggregateId" text, "eventType" text, "retryCount" integer,
                   "lastError" text, "createdAt" timestamp, "publishedAt" timestamp)
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'apapacho_outbox_events';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_events(text, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_events(text, integer, integer) IS
    'the outbox events of a status (pending, published, failed, all), newest first, without their payloads';

CREATE FUNCTION @extschema@.apapacho_outbox_retry_failed()
    RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_outbox_retry_failed';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_retry_failed() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_retry_failed() IS
    'makes the outbox events that have failed for good pending again, and due at once what waits for a retry; returns the number of the former';


CREATE FUNCTION apapacho_jobs.wake_publisher() RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_wake_publisher';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.wake_publisher() FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.wake_publisher() IS 'has the outbox looked at as soon as this transaction has committed';

-- Where events go. The one named `default` is what apapacho_jobs.outbox_webhook_url says. The others are dumped, with their secrets.
CREATE TABLE apapacho_jobs.outbox_endpoint (
    name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    url text,
    secret text,
    secret_file text,
    previous_secret text,
    previous_secret_until timestamptz,
    event_types text[] CHECK (cardinality(event_types) > 0 AND array_position(event_types, NULL) IS NULL),
    rate_limit integer CHECK (rate_limit BETWEEN 0 AND 1000000),
    concurrency integer CHECK (concurrency BETWEEN 1 AND 1000),
    timeout interval CHECK (timeout BETWEEN '100 milliseconds' AND '1 hour'),
    headers jsonb,
    ca_file text,
    client_cert text,
    client_key text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused_at timestamptz,
    stopped_at timestamptz,
    open_since timestamptz,
    probe_at timestamptz,
    failed_probes integer NOT NULL DEFAULT 0,
    last_error text,
    CHECK ((open_since IS NULL) = (probe_at IS NULL)),
    CHECK ((name = 'default') = (url IS NULL)),
    CONSTRAINT outbox_endpoint_default_is_by_settings CHECK (name <> 'default' OR num_nonnulls(secret, secret_file,
        previous_secret, previous_secret_until, ca_file, client_cert, client_key) = 0)
);
COMMENT ON TABLE apapacho_jobs.outbox_endpoint IS
    'the receivers of outbox events, and whether events are sent to them just now, and if not, why';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.url IS 'http or https; of the endpoint default: null, it is a setting';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.secret IS 'signs the events, as apapacho_jobs.outbox_webhook_secret does for the endpoint default';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.secret_file IS 'a file of the server that holds it';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.previous_secret IS 'the older one, which events are signed with too';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.event_types IS 'the types of events that it gets, * stands for anything: Payout*; null: all';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.rate_limit IS 'requests a second at most, 0: no limit; null: apapacho_jobs.outbox_rate_limit';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.concurrency IS 'requests in flight at most; null: apapacho_jobs.outbox_concurrency';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.timeout IS 'deadline of a request; null: apapacho_jobs.outbox_timeout';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.headers IS 'further headers of its requests, an object of strings';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.ca_file IS 'PEM file of the authorities that its certificate is checked by';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.client_cert IS 'PEM file of the certificate that its requests are sent with';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.client_key IS 'PEM file of that certificate''s key';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.changed_at IS 'when any of the columns before this one changed';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.paused_at IS 'paused by apapacho_outbox_pause() since then';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.stopped_at IS 'stopped since then, when it said 410 Gone; apapacho_outbox_resume() starts it again';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.open_since IS 'its circuit breaker is open since then: it failed again and again';
COMMENT ON COLUMN apapacho_jobs.outbox_endpoint.probe_at IS 'when one event is tried again';
INSERT INTO apapacho_jobs.outbox_endpoint (name) VALUES ('default');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.outbox_endpoint', $$WHERE name <> 'default'$$);

CREATE FUNCTION apapacho_jobs.check_endpoint() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'apapacho_check_endpoint';
COMMENT ON FUNCTION apapacho_jobs.check_endpoint() IS 'refuses endpoints that cannot be used, with the reason; what changes them is seen by publishers at commit';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.check_endpoint() FROM PUBLIC;
CREATE TRIGGER check_endpoint BEFORE INSERT OR DELETE OR UPDATE OF name, url, secret, secret_file, previous_secret, previous_secret_until,
    event_types, rate_limit, concurrency, timeout, headers, ca_file, client_cert, client_key ON apapacho_jobs.outbox_endpoint
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.check_endpoint();

CREATE FUNCTION @extschema@.apapacho_outbox_set_endpoint(name text, url text, secret text DEFAULT NULL, event_types text[] DEFAULT NULL,
    rate_limit integer DEFAULT NULL, concurrency integer DEFAULT NULL, timeout interval DEFAULT NULL, headers jsonb DEFAULT NULL)
    RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO apapacho_jobs.outbox_endpoint AS e (name, url, secret, event_types, rate_limit, concurrency, timeout, headers)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (name) DO UPDATE SET url = excluded.url, secret = excluded.secret, secret_file = NULL, previous_secret = NULL,
            previous_secret_until = NULL, event_types = excluded.event_types, rate_limit = excluded.rate_limit,
            concurrency = excluded.concurrency, timeout = excluded.timeout, headers = excluded.headers
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_set_endpoint(text, text, text, text[], integer, integer, interval, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_set_endpoint(text, text, text, text[], integer, integer, interval, jsonb) IS
    'adds a receiver of outbox events beside the default one, or replaces that of the same name; what waits for it stays. Types: * stands for anything. Headers: an object of strings';

CREATE FUNCTION @extschema@.apapacho_outbox_rotate_secret(endpoint text, secret text, keep interval DEFAULT '1 day') RETURNS boolean
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH changed AS (
            UPDATE apapacho_jobs.outbox_endpoint AS e
            SET previous_secret = e.secret, previous_secret_until = clock_timestamp() + keep, secret = $2, secret_file = NULL
            WHERE e.name = $1 AND $2 IS NOT NULL RETURNING 1
        )
        SELECT EXISTS (SELECT FROM changed)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_rotate_secret(text, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_rotate_secret(text, text, interval) IS
    'gives an endpoint a new secret; events are signed with the older one too for so long. Returns whether there is such an endpoint';

CREATE FUNCTION @extschema@.apapacho_outbox_remove_endpoint(name text) RETURNS boolean
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH gone AS (DELETE FROM apapacho_jobs.outbox_endpoint AS e WHERE e.name = $1 RETURNING 1) SELECT EXISTS (SELECT FROM gone)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_remove_endpoint(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_remove_endpoint(text) IS
    'removes a receiver of outbox events; what waits for it alone counts as published. Returns whether there was one of that name';

CREATE FUNCTION apapacho_jobs.like_pattern(pattern text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT replace(replace(replace(replace(pattern, E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_'), '*', '%') $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.like_pattern(text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.like_pattern(text) IS 'a pattern in which * stands for anything, for LIKE';

CREATE FUNCTION apapacho_jobs.known_endpoint(endpoint text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM FROM apapacho_jobs.outbox_endpoint AS e WHERE e.name = endpoint;
        IF NOT FOUND THEN
            RAISE undefined_object USING MESSAGE = format('endpoint "%s" does not exist', endpoint),
                HINT = format('The endpoints are %s.', (SELECT string_agg(e.name, ', ' ORDER BY e.name) FROM apapacho_jobs.outbox_endpoint AS e));
        END IF;
        RETURN endpoint;
    END $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.known_endpoint(text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.known_endpoint(text) IS 'the name of an endpoint; an error where there is none of that name';

CREATE FUNCTION @extschema@.apapacho_outbox_pause(endpoint text DEFAULT 'default') RETURNS boolean
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH changed AS (
            UPDATE apapacho_jobs.outbox_endpoint SET paused_at = clock_timestamp()
            WHERE name = apapacho_jobs.known_endpoint(endpoint) AND paused_at IS NULL RETURNING 1
        )
        SELECT EXISTS (SELECT FROM changed)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_pause(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_pause(text) IS
    'sends no more events to the endpoint until apapacho_outbox_resume(); what is on its way is not called back. Returns whether it was not paused';

CREATE FUNCTION @extschema@.apapacho_outbox_resume(endpoint text DEFAULT 'default') RETURNS boolean
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH changed AS (
            UPDATE apapacho_jobs.outbox_endpoint
            SET paused_at = NULL, stopped_at = NULL, open_since = NULL, probe_at = NULL, failed_probes = 0, last_error = NULL
            WHERE name = apapacho_jobs.known_endpoint(endpoint) AND (paused_at IS NOT NULL OR stopped_at IS NOT NULL OR open_since IS NOT NULL)
            RETURNING 1
        )
        SELECT count(*) > 0 FROM (SELECT apapacho_jobs.wake_publisher() FROM changed) AS woken
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_resume(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_resume(text) IS
    'sends events to the endpoint again that was paused, was stopped by 410 Gone, or failed again and again. Returns whether it was any of these';

CREATE FUNCTION apapacho_jobs.lock_outbox_slots(part integer, parts integer) RETURNS integer
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_lock_slots';
COMMENT ON FUNCTION apapacho_jobs.lock_outbox_slots(integer, integer) IS
    'takes the slots of aggregates of part `part` of `parts` that no other publisher holds, for this session; returns how many it holds';
CREATE FUNCTION apapacho_jobs.unlock_outbox_slots() RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_unlock_slots';
COMMENT ON FUNCTION apapacho_jobs.unlock_outbox_slots() IS 'lets go of all slots that this session holds';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.lock_outbox_slots(integer, integer), apapacho_jobs.unlock_outbox_slots() FROM PUBLIC;

-- Publishers on other machines. Procedures, as they commit; neither SECURITY DEFINER nor SET, with which they could not.
CREATE PROCEDURE apapacho_jobs.publisher_open(version integer, publisher_type text, own_url boolean, own_secret boolean, batch_size integer,
                                              max_retries integer, OUT answer bytea)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'apapacho_publisher_open';
COMMENT ON PROCEDURE apapacho_jobs.publisher_open(integer, text, boolean, boolean, integer, integer) IS
    'makes this session a publisher, for the program `apapacho-jobs outbox start`; what is not null outweighs the settings';
CREATE PROCEDURE apapacho_jobs.publisher_step(call bytea, OUT answer bytea)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'apapacho_publisher_step';
COMMENT ON PROCEDURE apapacho_jobs.publisher_step(bytea) IS
    'takes what came of a publisher''s requests, and gives it the next ones with the payloads of events and the headers of endpoints';
REVOKE EXECUTE ON PROCEDURE apapacho_jobs.publisher_open(integer, text, boolean, boolean, integer, integer),
    apapacho_jobs.publisher_step(bytea) FROM PUBLIC;

-- Attempts to deliver events, by apapacho_jobs.outbox_log_attempts. In buckets of some days each, which are used in turn: the job cleanup
-- truncates those that are old enough. Not dumped.
CREATE TABLE apapacho_jobs.outbox_attempt (
    at timestamptz NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    endpoint text NOT NULL,
    attempt integer NOT NULL,
    delivered boolean NOT NULL,
    http_status integer,
    error_class text,
    error text,
    lookup_ms double precision,
    connect_ms double precision,
    tls_ms double precision,
    first_byte_ms double precision,
    total_ms double precision,
    peer text,
    response text,
    bucket smallint NOT NULL
) PARTITION BY LIST (bucket);
CREATE TABLE apapacho_jobs.outbox_attempt_0 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (0);
CREATE TABLE apapacho_jobs.outbox_attempt_1 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (1);
CREATE TABLE apapacho_jobs.outbox_attempt_2 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (2);
CREATE TABLE apapacho_jobs.outbox_attempt_3 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (3);
CREATE TABLE apapacho_jobs.outbox_attempt_4 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (4);
CREATE TABLE apapacho_jobs.outbox_attempt_5 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (5);
CREATE TABLE apapacho_jobs.outbox_attempt_6 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (6);
CREATE TABLE apapacho_jobs.outbox_attempt_7 PARTITION OF apapacho_jobs.outbox_attempt FOR VALUES IN (7);
CREATE INDEX outbox_attempt_at_idx ON apapacho_jobs.outbox_attempt (at);
CREATE INDEX outbox_attempt_event_idx ON apapacho_jobs.outbox_attempt (event_id, at);
COMMENT ON TABLE apapacho_jobs.outbox_attempt IS 'attempts to deliver outbox events, by default those that failed';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.bucket IS 'which of the eight parts it is in: by its day, for a fifth of apapacho_jobs.outbox_attempts_days';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_0 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_1 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_2 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_3 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_4 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_5 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_6 IS 'a part of outbox_attempt';
COMMENT ON TABLE apapacho_jobs.outbox_attempt_7 IS 'a part of outbox_attempt';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.at IS 'when the attempt had ended';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.attempt IS 'the event''s first, second ... attempt';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.http_status IS 'null: no answer came';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.error_class IS
    'of a failure: resolve, connect, tls, timeout, protocol, http_status, too_large (endless header lines), blocked (no address of the host is allowed), other';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.lookup_ms IS 'time for the name lookup; like connect_ms and tls_ms null where an open connection was used again';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.first_byte_ms IS 'time from the request''s sending to the answer''s first byte';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.peer IS 'address and port of the receiver';
COMMENT ON COLUMN apapacho_jobs.outbox_attempt.response IS 'the beginning of the answer''s body, as printable ASCII';

CREATE FUNCTION apapacho_jobs.redeliver(event_id text, since timestamptz, pattern text, most integer, rate double precision, endpoint text) RETURNS bigint
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_redeliver';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.redeliver(text, timestamptz, text, integer, double precision, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.redeliver(text, timestamptz, text, integer, double precision, text) IS
    'makes published events pending again, so many a second; what the public functions stand on';

CREATE FUNCTION @extschema@.apapacho_outbox_redeliver(event_id text, endpoint text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT event_id IS NOT NULL AND apapacho_jobs.redeliver(event_id, NULL, NULL, 1, 1, apapacho_jobs.known_endpoint(endpoint)) = 1 $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_redeliver(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_redeliver(text, text) IS
    'sends a published event once more, with the same id, to one endpoint or to all that it is for; returns whether there is such an event';

CREATE FUNCTION @extschema@.apapacho_outbox_redeliver_since(
    since timestamptz, event_type text DEFAULT NULL, most integer DEFAULT 10000, rate double precision DEFAULT 100,
    endpoint text DEFAULT NULL) RETURNS bigint
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN since IS NULL THEN 0 ELSE apapacho_jobs.redeliver(NULL, since, apapacho_jobs.like_pattern(event_type), most, rate,
            apapacho_jobs.known_endpoint(endpoint)) END
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_outbox_redeliver_since(timestamptz, text, integer, double precision, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_outbox_redeliver_since(timestamptz, text, integer, double precision, text) IS
    'sends the events that were published since then once more, those of a type (Payout*: that begins with it), at most so many, so many a second, to one endpoint or to all that they are for; returns how many';

CREATE FUNCTION apapacho_jobs.outbox_counters(endpoint text DEFAULT 'default',
    OUT since timestamptz, OUT attempts bigint, OUT delivered bigint, OUT reused_connections bigint, OUT in_flight integer,
    OUT delivered_last_minute bigint, OUT mean_ms double precision)
    RETURNS record LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apapacho_outbox_counters';
COMMENT ON FUNCTION apapacho_jobs.outbox_counters(text) IS 'what publishers have counted of an endpoint since the server started';
CREATE FUNCTION apapacho_jobs.outbox_outcomes(endpoint text DEFAULT 'default') RETURNS TABLE (outcome text, attempts bigint)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'apapacho_outbox_outcomes';
COMMENT ON FUNCTION apapacho_jobs.outbox_outcomes(text) IS
    'how an endpoint''s attempts have ended since the server started: delivered, or the class of the error';
CREATE FUNCTION apapacho_jobs.outbox_latency(endpoint text DEFAULT 'default') RETURNS TABLE (up_to_ms double precision, attempts bigint)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED ROWS 14 AS 'MODULE_PATHNAME', 'apapacho_outbox_latency';
COMMENT ON FUNCTION apapacho_jobs.outbox_latency(text) IS
    'how long an endpoint''s attempts took since the server started: so many longer than the row before, up to so many milliseconds; the last row (null) has no bound';
CREATE FUNCTION apapacho_jobs.outbox_backlog(
    OUT pending bigint, OUT retrying bigint, OUT failed bigint, OUT oldest_pending timestamptz, OUT delivered_last_minute bigint)
    RETURNS record LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apapacho_outbox_backlog';
COMMENT ON FUNCTION apapacho_jobs.outbox_backlog() IS 'what the table of events has: pending (of these retrying), failed for good, and the last minute';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.outbox_counters(text), apapacho_jobs.outbox_outcomes(text), apapacho_jobs.outbox_latency(text),
    apapacho_jobs.outbox_backlog() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION apapacho_jobs.outbox_counters(text), apapacho_jobs.outbox_outcomes(text), apapacho_jobs.outbox_latency(text),
    apapacho_jobs.outbox_backlog() TO pg_monitor;

CREATE VIEW apapacho_jobs.outbox_status AS
    SELECT p.name AS endpoint,
        CASE WHEN p.paused_at IS NOT NULL THEN 'paused' WHEN p.stopped_at IS NOT NULL THEN 'stopped'
            WHEN p.open_since IS NULL THEN 'ok' WHEN p.probe_at > now() THEN 'failing' ELSE 'probing' END AS state,
        coalesce(p.paused_at, p.stopped_at, p.open_since) AS state_since, p.probe_at, p.failed_probes, p.last_error,
        b.pending, b.retrying, b.failed, b.oldest_pending, now() - b.oldest_pending AS oldest_pending_age,
        w.waiting, w.waiting_failed, w.next_attempt_at,
        coalesce(c.in_flight, 0) AS in_flight, coalesce(c.delivered_last_minute, 0) AS delivered_last_minute,
        coalesce(c.attempts, 0) AS attempts, coalesce(c.delivered, 0) AS delivered, coalesce(c.attempts - c.delivered, 0) AS failures,
        coalesce(c.reused_connections, 0) AS reused_connections, round(c.mean_ms::numeric, 1) AS mean_ms, c.since AS counted_since
    FROM apapacho_jobs.outbox_endpoint AS p CROSS JOIN apapacho_jobs.outbox_backlog() AS b
        CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE r.failed_at IS NULL) AS waiting, count(r.failed_at) AS waiting_failed,
                min(r.next_attempt_at) FILTER (WHERE r.failed_at IS NULL AND r.attempts > 0) AS next_attempt_at
            FROM apapacho_jobs.outbox_retry AS r WHERE r.endpoint = p.name) AS w
        LEFT JOIN LATERAL apapacho_jobs.outbox_counters(p.name) AS c ON true;
COMMENT ON VIEW apapacho_jobs.outbox_status IS
    'the outbox at a glance, a row for each endpoint: its state and the last error; what waits for it alone (waiting, waiting_failed, next_attempt_at); what is in flight, rates and counts. Pending, retrying, failed and oldest_pending are those of the table, the same in all rows';

CREATE VIEW apapacho_jobs.outbox_outcome AS
    SELECT p.name AS endpoint, o.outcome, o.attempts
    FROM apapacho_jobs.outbox_endpoint AS p CROSS JOIN LATERAL apapacho_jobs.outbox_outcomes(p.name) AS o;
COMMENT ON VIEW apapacho_jobs.outbox_outcome IS 'how the attempts of each endpoint have ended since the server started';
CREATE VIEW apapacho_jobs.outbox_latency AS
    SELECT p.name AS endpoint, l.up_to_ms, l.attempts
    FROM apapacho_jobs.outbox_endpoint AS p CROSS JOIN LATERAL apapacho_jobs.outbox_latency(p.name) AS l;
COMMENT ON VIEW apapacho_jobs.outbox_latency IS 'how long the attempts of each endpoint took since the server started: apapacho_jobs.outbox_latency(endpoint) says more';
GRANT SELECT ON apapacho_jobs.outbox_status, apapacho_jobs.outbox_outcome, apapacho_jobs.outbox_latency TO pg_monitor;
GRANT SELECT (name, event_types, rate_limit, concurrency, timeout, changed_at, paused_at, stopped_at, open_since, probe_at, failed_probes,
    last_error) ON apapacho_jobs.outbox_endpoint TO pg_monitor;
