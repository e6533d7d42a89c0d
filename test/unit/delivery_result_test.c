/*
 * Unit tests of what a delivery's result tells beyond its verdict, and of the address policy at connect time, against a
 * server of the test's own on loopback (loopback_server.h).
 *
 * One process; the engine runs in the main thread. getaddrinfo is replaced: two.test has 127.0.0.2 and then 127.0.0.1,
 * inner.test has 127.0.0.1 only.
 */
#include <netdb.h>
#include <stdint.h>
#include <time.h>

#include <curl/curl.h>

#include "engine.h"
#include "loopback_server.h"
#include "retry.h"
#include "unit.h"

#define TEST_DEADLINE_MS 20000

static Loopback server;

/* ---- The resolver ---- */

static struct addrinfo *
address_info(const char *text, const char *service, struct addrinfo *next)
{
    struct addrinfo *info = calloc(1, sizeof *info + sizeof(struct sockaddr_in));
    struct sockaddr_in *address = (struct sockaddr_in *)(info + 1);

    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)(service != NULL ? atoi(service) : 0));
    inet_pton(AF_INET, text, &address->sin_addr);
    *info = (struct addrinfo){.ai_family = AF_INET,
                              .ai_socktype = SOCK_STREAM,
                              .ai_addrlen = sizeof *address,
                              .ai_addr = (struct sockaddr *)address,
                              .ai_next = next};
    return info;
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    (void)hints;
    if (strcmp(node, "two.test") == 0)
        *result = address_info("127.0.0.2", service, address_info("127.0.0.1", service, NULL));
    else if (strcmp(node, "inner.test") == 0)
        *result = address_info("127.0.0.1", service, NULL);
    else
        return EAI_NONAME;
    return 0;
}

void
freeaddrinfo(struct addrinfo *info)
{
    while (info != NULL) {
        struct addrinfo *next = info->ai_next;

        free(info);
        info = next;
    }
}

/* ---- Helpers ---- */

static DeliveryOptions
usual_options(void)
{
    return (DeliveryOptions){
        .max_in_flight = 4,
        .connect_timeout_ms = 5000,
        .total_timeout_ms = 10000,
        .max_response_bytes = 4096,
        .excerpt_bytes = DELIVERY_EXCERPT_MAX,
    };
}

static DeliveryEngine *
make_engine(const DeliveryOptions *options)
{
    char error[256] = "";
    DeliveryEngine *engine = delivery_engine_create(options, error, sizeof error);

    if (engine == NULL) {
        printf("no engine: %s\n", error);
        exit(1);
    }
    return engine;
}

/* Delivers to a host, which is followed by the server's port and the path. */
static DeliveryResult
deliver_to(DeliveryEngine *engine, const char *host, const char *path)
{
    const DeliveryHeader type = {"Content-Type", "application/json"};
    DeliveryResult result = {0};
    char url[512];
    char error[256] = "";
    DeliveryRequest request = {.url = url, .headers = &type, .header_count = 1};
    time_t deadline = time(NULL) + TEST_DEADLINE_MS / 1000;

    snprintf(url, sizeof url, "http://%s:%d%s", host, server.port, path);
    if (!CHECK(delivery_engine_submit(engine, &request, error, sizeof error)))
        return result;
    while (!delivery_engine_next_result(engine, &result) && time(NULL) < deadline) {
        struct pollfd ready = {delivery_engine_fd(engine), POLLIN, 0};
        long timeout = delivery_engine_timeout_ms(engine);

        poll(&ready, 1, timeout < 0 || timeout > 1000 ? 1000 : (int)timeout);
        delivery_engine_run(engine);
    }
    CHECK(delivery_engine_in_flight(engine) == 0);
    return result;
}

static DeliveryResult
deliver(DeliveryEngine *engine, const char *path)
{
    return deliver_to(engine, "127.0.0.1", path);
}

static const char *
server_address(const char *host)
{
    static char text[64];

    snprintf(text, sizeof text, "%s:%d", host, server.port);
    return text;
}

/* ---- Results ---- */

static void
test_connection(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    DeliveryResult result = deliver_to(engine, "inner.test", "/200");

    CHECK(result.delivered && !result.reused_connection && result.retry_after_s == -1);
    CHECK_STR(result.peer, server_address("127.0.0.1"));
    CHECK(result.timings.lookup_us > 0 && result.timings.connect_us > 0 && result.timings.tls_us == 0);
    CHECK(result.timings.first_byte_us > 0);
    CHECK(result.timings.total_us >= result.timings.first_byte_us + result.timings.connect_us);
    CHECK(result.total_ms == (long)(result.timings.total_us / 1000));

    result = deliver_to(engine, "inner.test", "/500");
    CHECK(!result.delivered && result.reused_connection);
    CHECK_STR(result.peer, server_address("127.0.0.1"));
    CHECK(result.timings.lookup_us == 0 && result.timings.connect_us == 0 && result.timings.first_byte_us > 0);

    result = deliver(engine, "/silence");
    CHECK(!result.delivered && result.timings.first_byte_us == 0 && result.timings.total_us > 0);
    CHECK_STR(result.peer, server_address("127.0.0.1"));

    result = deliver_to(engine, "nowhere.test", "/200");
    CHECK(result.error_class == DELIVERY_ERROR_RESOLVE && !result.reused_connection && result.http_status == 0);
    CHECK_STR(result.peer, "");
    CHECK(result.timings.connect_us == 0 && result.timings.first_byte_us == 0 && result.timings.total_us > 0);

    result = deliver_to(engine, "127.0.0.3", "/200"); /* the server listens at 127.0.0.1 only */
    CHECK(result.error_class == DELIVERY_ERROR_CONNECT && result.retryable && !result.reused_connection);
    CHECK_STR(result.peer, server_address("127.0.0.3"));
    delivery_engine_destroy(engine);
}

/* A server that closes a connection which is not in use wakes the engine once, and does no harm to what follows. */
static void
test_closed_in_between(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    struct pollfd ready = {delivery_engine_fd(engine), POLLIN, 0};

    for (int i = 0; i < 20; i++) {
        DeliveryResult result = deliver(engine, "/leave");

        CHECK(result.delivered && !result.reused_connection);
        CHECK(poll(&ready, 1, TEST_DEADLINE_MS) == 1);
        delivery_engine_run(engine);
        CHECK(poll(&ready, 1, 0) == 0);
        result = deliver(engine, "/200");
        CHECK(result.delivered && !result.reused_connection);
        result = deliver(engine, "/200"); /* which another one in the set follows */
        CHECK(result.delivered && result.reused_connection);
        result = deliver(engine, "/silence");
        CHECK(!result.delivered && result.error_class == DELIVERY_ERROR_PROTOCOL);
    }
    delivery_engine_destroy(engine);
}

static void
test_retry_after(void)
{
    static const struct {
        const char *path;
        long seconds;
    } cases[] = {
        {"/retry/120", 120},
        {"/retry/0", 0},
        {"/retry/99999999999999999999", DELIVERY_RETRY_AFTER_MAX},
        {"/retry/Sun,_06_Nov_1994_08:49:37_GMT", 0},
        {"/retry/Fri,_31_Dec_9999_23:59:59_GMT", DELIVERY_RETRY_AFTER_MAX},
        {"/retry/soon", -1},
        {"/retry/-5", -1},
        {"/retry/1.5", -1},
        {"/retry/111111111111111111111111111111111111111111111111111111111111111111111111111111", -1},
        {"/hints", 4},
        {"/500", -1},
    };
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DeliveryResult result = deliver(engine, cases[i].path);

        CHECK(!result.delivered && result.retryable && result.http_status >= 500);
        if (!CHECK(result.retry_after_s == cases[i].seconds))
            printf("    %s: %ld\n", cases[i].path, result.retry_after_s);
    }
    delivery_engine_destroy(engine);
}

static void
test_excerpt(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    DeliveryResult result = deliver(engine, "/page");

    CHECK(result.delivered && strlen(result.excerpt) == DELIVERY_EXCERPT_MAX);
    CHECK(strncmp(result.excerpt, "abcdefghijklmnopqrstuvwxyzabc", 29) == 0 && result.excerpt[1000] == 'a');
    CHECK_STR(result.error, "");
    result = deliver(engine, "/page500");
    CHECK(strlen(result.excerpt) == DELIVERY_EXCERPT_MAX);
    CHECK(strlen(result.error) == strlen("HTTP 500 Oh: ") + 100);
    result = deliver(engine, "/500");
    CHECK_STR(result.excerpt, "no luck ? [31m !");
    CHECK_STR(deliver(engine, "/204").excerpt, "");
    delivery_engine_destroy(engine);

    options.excerpt_bytes = 7;
    engine = make_engine(&options);
    result = deliver(engine, "/500");
    CHECK_STR(result.excerpt, "no luck");
    CHECK_STR(result.error, "HTTP 500 Internal Server Error: no luck ? [31m !");
    delivery_engine_destroy(engine);

    options.excerpt_bytes = 0;
    engine = make_engine(&options);
    result = deliver(engine, "/500");
    CHECK_STR(result.excerpt, "");
    CHECK_STR(result.error, "HTTP 500 Internal Server Error: no luck ? [31m !");
    delivery_engine_destroy(engine);
}

static void
test_policy(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);

    CHECK(deliver(engine, "/status/404").retryable && deliver(engine, "/status/429").retryable);
    CHECK(!deliver(engine, "/status/404").gone && deliver(engine, "/status/410").gone);
    CHECK(!deliver(engine, "/status/410").retryable);
    delivery_engine_destroy(engine);
    options.fail_on_client_error = true;
    engine = make_engine(&options);
    CHECK(!deliver(engine, "/status/404").retryable && deliver(engine, "/status/429").retryable);
    CHECK(deliver(engine, "/redirect").retryable && deliver(engine, "/500").retryable);
    CHECK(deliver(engine, "/garbage").retryable);
    delivery_engine_destroy(engine);
}

/* ---- Addresses ---- */

static void
check_blocked(DeliveryEngine *engine, const char *host, const char *address)
{
    DeliveryResult result = deliver_to(engine, host, "/200");
    char expected[128];

    snprintf(expected, sizeof expected, "%s is not allowed: it is a loopback address", server_address(address));
    CHECK(!result.delivered && result.retryable && !result.reused_connection && result.http_status == 0);
    CHECK(result.error_class == DELIVERY_ERROR_BLOCKED);
    CHECK_STR(result.error, expected);
    CHECK(result.timings.connect_us == 0 && result.timings.first_byte_us == 0);
}

static void
test_addresses(void)
{
    int connections = atomic_load(&server.connections);
    AddressPolicy policy = {0};
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine;
    DeliveryResult result;
    char error[128];

    options.addresses = &policy;
    engine = make_engine(&options);
    CHECK(address_list_parse("127.0.0.0/8", &policy.allowed, error, sizeof error)); /* the engine has its own copy */
    check_blocked(engine, "127.0.0.1", "127.0.0.1");
    check_blocked(engine, "2130706433", "127.0.0.1");
    check_blocked(engine, "0x7f.1", "127.0.0.1");
    check_blocked(engine, "inner.test", "127.0.0.1");
    check_blocked(engine, "two.test", "127.0.0.2");
    check_blocked(engine, "127.0.0.1", "127.0.0.1");
    result = deliver_to(engine, "[::ffff:127.0.0.1]", "/200");
    CHECK(!result.delivered && result.error_class == DELIVERY_ERROR_BLOCKED);
    CHECK(atomic_load(&server.connections) == connections); /* the server did not even see a connection */
    delivery_engine_destroy(engine);

    engine = make_engine(&options);
    CHECK(deliver(engine, "/200").delivered);
    CHECK(atomic_load(&server.connections) == connections + 1);
    CHECK(deliver(engine, "/200").reused_connection);
    delivery_engine_destroy(engine);

    /* One of two addresses is allowed: it is tried. */
    CHECK(address_list_parse("127.0.0.1", &policy.allowed, error, sizeof error));
    engine = make_engine(&options);
    result = deliver_to(engine, "two.test", "/200");
    CHECK(result.delivered);
    CHECK_STR(result.peer, server_address("127.0.0.1"));
    delivery_engine_destroy(engine);

    /* The allowed one refuses: that is the error, and not the policy. */
    CHECK(address_list_parse("127.0.0.2", &policy.allowed, error, sizeof error));
    engine = make_engine(&options);
    result = deliver_to(engine, "two.test", "/200");
    CHECK(result.error_class == DELIVERY_ERROR_CONNECT);
    delivery_engine_destroy(engine);
}

/* As in delivery_engine_test.c: libcurl 8.14 leaks names that it could not resolve (curl issue 17602). */
const char *__lsan_default_suppressions(void);

const char *
__lsan_default_suppressions(void)
{
    return curl_version_info(CURLVERSION_NOW)->version_num >> 8 == 0x080e ? "leak:libcurl.so" : "";
}

int
main(void)
{
    loopback_start(&server, NULL);
    test_connection();
    test_closed_in_between();
    test_retry_after();
    test_excerpt();
    test_policy();
    test_addresses();
    loopback_stop(&server);
    return unit_report();
}
