/*
 * Unit tests of the delivery engine against a server of the test's own on loopback (loopback_server.h).
 *
 * One process; the engine runs in the main thread. getaddrinfo is replaced: it answers for names under .test, records
 * the signal mask of libcurl's resolver thread, and hangs for hang.test until it is let go (or 12 s). SIGPIPE keeps its
 * default, so that a write without MSG_NOSIGNAL would end the test.
 */
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "engine.h"
#include "loopback_server.h"
#include "unit.h"

#define TEST_DEADLINE_MS 20000

/* ---- The resolver ---- */

static atomic_int lookups;
static atomic_bool lookup_saw_open_signals;
static atomic_bool let_go;
static atomic_int hanging;

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    struct addrinfo *info;
    struct sockaddr_in *address;
    sigset_t mask;

    (void)hints;
    atomic_fetch_add(&lookups, 1);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (!sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGUSR1) || !sigismember(&mask, SIGALRM))
        atomic_store(&lookup_saw_open_signals, true);
    if (strcmp(node, "hang.test") == 0) {
        atomic_fetch_add(&hanging, 1);
        for (int i = 0; i < 1200 && !atomic_load(&let_go); i++)
            poll(NULL, 0, 10);
        atomic_fetch_sub(&hanging, 1);
    }
    if (strcmp(node, "good.test") != 0)
        return EAI_NONAME;
    info = calloc(1, sizeof *info + sizeof *address);
    address = (struct sockaddr_in *)(info + 1);
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)(service != NULL ? atoi(service) : 0));
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *info = (struct addrinfo){.ai_family = AF_INET,
                              .ai_socktype = SOCK_STREAM,
                              .ai_addrlen = sizeof *address,
                              .ai_addr = (struct sockaddr *)address};
    *result = info;
    return 0;
}

void
freeaddrinfo(struct addrinfo *info)
{
    free(info);
}

/* ---- Helpers ---- */

static Loopback server;

static int64_t
clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static DeliveryOptions
usual_options(void)
{
    return (DeliveryOptions){
        .max_in_flight = 16,
        .connect_timeout_ms = 5000,
        .total_timeout_ms = 10000,
        .max_response_bytes = 4096,
        .user_agent = "unit-test/1",
        .verify_tls = true,
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

static bool
submit_url(DeliveryEngine *engine, const char *url, size_t body_length, void *tag)
{
    const DeliveryHeader headers[] = {{"Content-Type", "application/json"}, {"X-Event-Id", "evt-1"}, {"X-Empty", ""}};
    char error[256] = "";
    DeliveryRequest request = {.url = url, .headers = headers, .header_count = 3, .tag = tag};

    request.body = malloc(body_length + 1);
    memset(request.body, 'b', body_length + 1);
    request.body_length = body_length;
    if (delivery_engine_submit(engine, &request, error, sizeof error)) {
        CHECK(request.body == NULL);
        return true;
    }
    CHECK(*error != '\0' && request.body != NULL);
    free(request.body);
    return false;
}

static bool
submit(DeliveryEngine *engine, const char *path, void *tag)
{
    char url[256];

    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", server.port, path);
    return submit_url(engine, url, 10, tag);
}

/* The way the server's worker drives an engine: wait, run, take a result. False: none came in time. */
static bool
next_result(DeliveryEngine *engine, DeliveryResult *result)
{
    int64_t deadline = clock_ms() + TEST_DEADLINE_MS;

    while (clock_ms() < deadline) {
        struct pollfd ready = {delivery_engine_fd(engine), POLLIN, 0};
        long timeout;

        delivery_engine_run(engine);
        if (delivery_engine_next_result(engine, result))
            return true;
        timeout = delivery_engine_timeout_ms(engine);
        poll(&ready, 1, timeout < 0 || timeout > 1000 ? 1000 : (int)timeout);
    }
    return false;
}

static DeliveryResult
deliver_url(DeliveryEngine *engine, const char *url, size_t body_length)
{
    DeliveryResult result = {0};

    CHECK(submit_url(engine, url, body_length, engine));
    CHECK(delivery_engine_in_flight(engine) == 1);
    if (CHECK(next_result(engine, &result)))
        CHECK(result.tag == engine);
    CHECK(delivery_engine_in_flight(engine) == 0);
    CHECK(!delivery_engine_next_result(engine, &result));
    for (const char *c = result.error; *c != '\0'; c++)
        if (*c < ' ' || *c > '~') {
            CHECK(false);
            break;
        }
    return result;
}

static DeliveryResult
deliver(DeliveryEngine *engine, const char *path)
{
    char url[256];

    snprintf(url, sizeof url, "http://user:hidden@127.0.0.1:%d%s", server.port, path);
    return deliver_url(engine, url, 10);
}

static void
check_failure(DeliveryResult result, DeliveryErrorClass error_class, long status, const char *text)
{
    CHECK(!result.delivered && result.retryable);
    if (!CHECK(result.error_class == error_class) || !CHECK(result.http_status == status) ||
        !CHECK(strstr(result.error, text) != NULL) || !CHECK(strstr(result.error, "hidden") == NULL))
        printf("    class %d, status %ld, \"%s\", expected %d, %ld, \"%s\"\n", (int)result.error_class,
               result.http_status, result.error, (int)error_class, status, text);
}

/* Does the latest request that the server got contain this text? */
static bool
received(const char *text)
{
    bool found;

    pthread_mutex_lock(&server.lock);
    found = strcasestr(server.last_request, text) != NULL;
    pthread_mutex_unlock(&server.lock);
    return found;
}

/* ---- Answers ---- */

static void
test_answers(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    DeliveryResult result = deliver(engine, "/200");

    CHECK(result.delivered && result.http_status == 200 && result.error_class == DELIVERY_ERROR_NONE);
    CHECK_STR(result.error, "");
    CHECK(deliver(engine, "/204").delivered);
    result = deliver(engine, "/500");
    check_failure(result, DELIVERY_ERROR_HTTP_STATUS, 500, "HTTP 500 Internal Server Error");
    CHECK_STR(result.error, "HTTP 500 Internal Server Error: no luck ? [31m !");
    check_failure(deliver(engine, "/status/404"), DELIVERY_ERROR_HTTP_STATUS, 404, "HTTP 404 Whatever");
    check_failure(deliver(engine, "/status/429"), DELIVERY_ERROR_HTTP_STATUS, 429, "HTTP 429 Whatever");
    check_failure(deliver(engine, "/status/304"), DELIVERY_ERROR_HTTP_STATUS, 304, "HTTP 304 Whatever");
    result = deliver(engine, "/status/410");
    CHECK(!result.delivered && !result.retryable && result.http_status == 410);
    check_failure(deliver(engine, "/redirect"), DELIVERY_ERROR_HTTP_STATUS, 302, "HTTP 302 Found");
    CHECK(received("POST /redirect "));
    /* All of these were answered in good order, on one connection. */
    CHECK(atomic_load(&server.connections) == 1);
    delivery_engine_destroy(engine);
}

static void
test_request(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);

    deliver(engine, "/200");
    CHECK(received("POST /200 HTTP/1.1\r\n"));
    CHECK(received("\r\nUser-Agent: unit-test/1\r\n"));
    CHECK(received("\r\nContent-Type: application/json\r\n"));
    CHECK(received("\r\nX-Event-Id: evt-1\r\n"));
    CHECK(received("\r\nX-Empty:\r\n"));
    CHECK(received("\r\nContent-Length: 10\r\n"));
    CHECK(received("\r\nAuthorization: Basic "));
    CHECK(received("\r\n\r\nbbbbbbbbbb"));
    CHECK(!received("Expect:"));
    CHECK(!received("Cookie:"));
    delivery_engine_destroy(engine);
}

static void
test_hostile_answers(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    DeliveryResult result = deliver(engine, "/huge");
    char url[64];

    CHECK(result.delivered && result.http_status == 200);
    check_failure(deliver(engine, "/huge500"), DELIVERY_ERROR_HTTP_STATUS, 500, "HTTP 500 Oh: xxxxxxxx");
    check_failure(deliver(engine, "/headers"), DELIVERY_ERROR_TOO_LARGE, 200, "65536 bytes of header lines");
    check_failure(deliver(engine, "/continue"), DELIVERY_ERROR_TOO_LARGE, 0, "65536 bytes of header lines");
    result = deliver(engine, "/line");
    CHECK(!result.delivered && result.retryable && result.total_ms < 10000);
    check_failure(deliver(engine, "/garbage"), DELIVERY_ERROR_PROTOCOL, 0, "");
    check_failure(deliver(engine, "/silence"), DELIVERY_ERROR_PROTOCOL, 0, "");
    check_failure(deliver(engine, "/reset"), DELIVERY_ERROR_PROTOCOL, 0, "onnection reset");
    check_failure(deliver(engine, "/broken"), DELIVERY_ERROR_PROTOCOL, 200, "");
    snprintf(url, sizeof url, "http://127.0.0.1:%d/early", server.port);
    check_failure(deliver_url(engine, url, 8 << 20), DELIVERY_ERROR_HTTP_STATUS, 413, "HTTP 413 Too Large");
    CHECK(received("POST /early") && !received("Expect:")); /* curl would ask for leave with a body of this size */
    CHECK(deliver(engine, "/200").delivered);
    delivery_engine_destroy(engine);
}

static void
test_deadlines(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine;
    DeliveryResult result;

    options.total_timeout_ms = 300;
    engine = make_engine(&options);
    result = deliver(engine, "/drip");
    check_failure(result, DELIVERY_ERROR_TIMEOUT, 200, "while receiving the answer");
    CHECK(result.total_ms >= 300 && result.total_ms < 5000);
    result = deliver(engine, "/hang");
    check_failure(result, DELIVERY_ERROR_TIMEOUT, 0, "while waiting for the answer");
    CHECK(result.total_ms >= 300 && result.total_ms < 5000);
    CHECK(deliver(engine, "/200").delivered);
    delivery_engine_destroy(engine);
}

/* ---- Connecting ---- */

static void
test_refused(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int bound = socket(AF_INET, SOCK_STREAM, 0); /* bound and not listening: nobody else gets the port */
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    char url[64];

    CHECK(bind(bound, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(bound, (struct sockaddr *)&address, &length) == 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ntohs(address.sin_port));
    check_failure(deliver_url(engine, url, 10), DELIVERY_ERROR_CONNECT, 0, "connection refused");
    close(bound);
    delivery_engine_destroy(engine);
}

/*
 * libcurl 8.14 leaks the copy of a host name that it could not resolve (curl issue 17602; Debian 13 has 8.14.1).
 * LeakSanitizer calls this at exit; with any other version nothing is left out of its report.
 */
const char *__lsan_default_suppressions(void);

const char *
__lsan_default_suppressions(void)
{
    return curl_version_info(CURLVERSION_NOW)->version_num >> 8 == 0x080e ? "leak:libcurl.so" : "";
}

static void
test_names(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    char url[64];
    int64_t start;

    check_failure(deliver_url(engine, "http://bad.test/", 10), DELIVERY_ERROR_RESOLVE, 0, "resolve host: bad.test");
    snprintf(url, sizeof url, "http://good.test:%d/200", server.port);
    CHECK(deliver_url(engine, url, 10).delivered);
    CHECK(atomic_load(&lookups) >= 2);
    CHECK(!atomic_load(&lookup_saw_open_signals));
    delivery_engine_destroy(engine);

    /* A lookup that hangs holds up neither the deadline nor the end of the engine. */
    options.total_timeout_ms = 200;
    engine = make_engine(&options);
    start = clock_ms();
    check_failure(deliver_url(engine, "http://hang.test/", 10), DELIVERY_ERROR_TIMEOUT, 0, "looking up the host name");
    CHECK(submit_url(engine, "http://hang.test/", 10, NULL));
    while (atomic_load(&hanging) < 2 && clock_ms() < start + TEST_DEADLINE_MS)
        delivery_engine_run(engine);
    delivery_engine_destroy(engine);
    CHECK(clock_ms() - start < 10000);
    atomic_store(&let_go, true);
    while (atomic_load(&hanging) > 0 && clock_ms() < start + TEST_DEADLINE_MS)
        poll(NULL, 0, 1);
}

/* An SSL_CTX with a new self-signed certificate for 127.0.0.1, which is written to path with its key as well. */
static SSL_CTX *
make_tls(const char *path)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
    FILE *file = fopen(path, "w");

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               (const unsigned char *)"loopback", -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    X509_set_pubkey(certificate, key);
    X509_add_ext(certificate, names, -1);
    CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
    CHECK(file != NULL && PEM_write_X509(file, certificate) == 1);
    CHECK(file != NULL && PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1);
    if (file != NULL)
        fclose(file);
    CHECK(SSL_CTX_use_certificate(context, certificate) == 1 && SSL_CTX_use_PrivateKey(context, key) == 1);
    X509_EXTENSION_free(names);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return context;
}

static void
test_tls(void)
{
    static Loopback tls_server;
    char path[] = "/tmp/delivery_engine_test.XXXXXX";
    int fd = mkstemp(path);
    SSL_CTX *tls = make_tls(path);
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine;
    DeliveryResult result;
    char good[64];
    char wrong_name[64];

    loopback_start(&tls_server, tls);
    snprintf(good, sizeof good, "https://127.0.0.1:%d/200", tls_server.port);
    snprintf(wrong_name, sizeof wrong_name, "https://good.test:%d/200", tls_server.port);

    engine = make_engine(&options);
    check_failure(deliver_url(engine, good, 10), DELIVERY_ERROR_TLS, 0, "certificate");
    delivery_engine_destroy(engine);

    options.ca_file = path;
    engine = make_engine(&options);
    CHECK(deliver_url(engine, good, 10).delivered);
    check_failure(deliver_url(engine, wrong_name, 10), DELIVERY_ERROR_TLS, 0, "good.test");
    delivery_engine_destroy(engine);

    options.ca_file = NULL;
    options.verify_tls = false;
    engine = make_engine(&options);
    CHECK(deliver_url(engine, wrong_name, 10).delivered);
    delivery_engine_destroy(engine);

    /* A server that does not speak TLS and waits for more. */
    options.connect_timeout_ms = 200;
    engine = make_engine(&options);
    snprintf(good, sizeof good, "https://127.0.0.1:%d/200", server.port);
    result = deliver_url(engine, good, 10);
    check_failure(result, DELIVERY_ERROR_TIMEOUT, 0, "timed out after");
    CHECK(result.total_ms < 5000);
    delivery_engine_destroy(engine);

    loopback_stop(&tls_server);
    SSL_CTX_free(tls);
    unlink(path);
    close(fd);
}

static atomic_int client_certificates; /* that the server has seen */
static atomic_bool saw_http2_offer;

static int
accept_client(int preverified, X509_STORE_CTX *store)
{
    (void)preverified;
    (void)store;
    atomic_fetch_add(&client_certificates, 1);
    return 1;
}

static int
select_protocol(SSL *tls, const unsigned char **chosen, unsigned char *chosen_length, const unsigned char *offered,
                unsigned int length, void *context)
{
    static const unsigned char http1[] = "\x08http/1.1";

    (void)tls;
    (void)context;
    if (memmem(offered, length, "\x02h2", 3) != NULL)
        atomic_store(&saw_http2_offer, true);
    return SSL_select_next_proto((unsigned char **)chosen, chosen_length, http1, sizeof http1 - 1, offered, length) ==
                   OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_NOACK;
}

static DeliveryResult
deliver_tls(DeliveryEngine *engine, const char *url, const DeliveryTls *tls)
{
    DeliveryHeader type = {"Content-Type", "text/plain"};
    DeliveryRequest request = {.url = url, .headers = &type, .header_count = 1, .tls = tls};
    DeliveryResult result = {0};
    char error[256] = "";

    CHECK(delivery_engine_submit(engine, &request, error, sizeof error));
    CHECK(next_result(engine, &result));
    return result;
}

/* Client certificates, TLS files of single requests, and the offer of HTTP/2. */
static void
test_tls_options(void)
{
    static Loopback tls_server;
    char path[] = "/tmp/delivery_engine_test.XXXXXX";
    int fd = mkstemp(path);
    SSL_CTX *tls = make_tls(path);
    DeliveryTls with_certificate = {.ca_file = path, .client_cert = path};
    DeliveryTls without = {.ca_file = path};
    DeliveryTls missing = {.ca_file = path, .client_cert = "/nonexistent", .client_key = path};
    DeliveryTls nothing = {0};
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine;
    char url[64];

    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, accept_client);
    SSL_CTX_set_session_id_context(tls, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(tls, SSL_OP_NO_TICKET);
    SSL_CTX_set_alpn_select_cb(tls, select_protocol, NULL);
    loopback_start(&tls_server, tls);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/200", tls_server.port);

    engine = make_engine(&options);
    check_failure(deliver_tls(engine, url, NULL), DELIVERY_ERROR_TLS, 0, "certificate");
    CHECK(deliver_tls(engine, url, &without).delivered);
    CHECK(atomic_load(&client_certificates) == 0);
    CHECK(deliver_tls(engine, url, &with_certificate).delivered); /* not on the connection that has none */
    CHECK(atomic_load(&client_certificates) > 0);
    CHECK(deliver_tls(engine, url, &without).reused_connection);
    CHECK(deliver_tls(engine, url, &with_certificate).reused_connection);
    CHECK(atomic_load(&tls_server.connections) == 3);
    check_failure(deliver_tls(engine, url, &missing), DELIVERY_ERROR_TLS, 0, "");
    check_failure(deliver_tls(engine, url, &nothing), DELIVERY_ERROR_TLS, 0, "certificate");
    check_failure(deliver_tls(engine, url, NULL), DELIVERY_ERROR_TLS, 0, "certificate");
    CHECK(!atomic_load(&saw_http2_offer));
    delivery_engine_destroy(engine);

    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, accept_client);
    engine = make_engine(&options);
    check_failure(deliver_tls(engine, url, &without), DELIVERY_ERROR_TLS, 0, "certificate");
    CHECK(deliver_tls(engine, url, &with_certificate).delivered);
    delivery_engine_destroy(engine);
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, accept_client);

    atomic_store(&client_certificates, 0);
    options.ca_file = options.client_cert = options.client_key = path;
    engine = make_engine(&options);
    CHECK(deliver_tls(engine, url, NULL).delivered);
    CHECK(atomic_load(&client_certificates) > 0);
    CHECK(!deliver_tls(engine, url, &nothing).delivered); /* nor does it inherit the engine's */
    CHECK(deliver_tls(engine, url, NULL).reused_connection);
    delivery_engine_destroy(engine);

    options.http2 = true;
    engine = make_engine(&options);
    for (int i = 0; i < 4; i++) /* the server wants HTTP/1.1 */
        CHECK(submit_url(engine, url, 10, NULL));
    for (int i = 0; i < 4; i++) {
        DeliveryResult result;

        CHECK(next_result(engine, &result) && result.delivered);
    }
    if (curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTP2)
        CHECK(atomic_load(&saw_http2_offer));
    delivery_engine_destroy(engine);

    loopback_stop(&tls_server);
    SSL_CTX_free(tls);
    unlink(path);
    close(fd);
}

/* ---- Many at once, and the end ---- */

static void
test_many(void)
{
    enum { TOTAL = 1000 };
    static char seen[TOTAL];
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    int connections = atomic_load(&server.connections);
    int requests = atomic_load(&server.requests);
    int submitted = 0;
    DeliveryResult result;

    for (int done = 0; done < TOTAL; done++) {
        while (submitted < TOTAL && delivery_engine_in_flight(engine) < options.max_in_flight) {
            CHECK(submit(engine, submitted % 10 == 0 ? "/500" : "/200", &seen[submitted]));
            submitted++;
        }
        if (delivery_engine_in_flight(engine) == options.max_in_flight)
            CHECK(!submit(engine, "/200", NULL));
        if (!CHECK(next_result(engine, &result)))
            break;
        CHECK(result.delivered == (((char *)result.tag - seen) % 10 != 0));
        (*(char *)result.tag)++;
    }
    for (int i = 0; i < TOTAL; i++)
        if (seen[i] != 1) {
            CHECK(seen[i] == 1);
            break;
        }
    CHECK(atomic_load(&server.requests) - requests == TOTAL);
    CHECK(atomic_load(&server.connections) - connections <= options.max_in_flight);
    CHECK(delivery_engine_in_flight(engine) == 0);
    delivery_engine_destroy(engine);
}

static void
test_refused_requests(void)
{
    static const DeliveryHeader bad[] = {
        {"X-Event-Type", "a\r\nX-Evil: 1"}, {"X Event", "a"}, {"", "a"}, {"X:", "a"}, {"X", "\x7f"}};
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    char error[256];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DeliveryRequest request = {.url = "http://127.0.0.1:1/", .headers = &bad[i], .header_count = 1};

        CHECK(!delivery_engine_submit(engine, &request, error, sizeof error));
    }
    CHECK(!submit_url(engine, "file:///etc/hostname", 10, NULL));
    CHECK(!submit_url(engine, "127.0.0.1", 10, NULL));
    CHECK(delivery_engine_in_flight(engine) == 0);
    CHECK(delivery_engine_timeout_ms(engine) == -1);
    delivery_engine_destroy(engine);
    options.max_in_flight = 0;
    CHECK(delivery_engine_create(&options, error, sizeof error) == NULL);
    options = usual_options();
    options.total_timeout_ms = 0;
    CHECK(delivery_engine_create(&options, error, sizeof error) == NULL);
    options = usual_options();
    options.excerpt_bytes = DELIVERY_EXCERPT_MAX + 1;
    CHECK(delivery_engine_create(&options, error, sizeof error) == NULL);
    delivery_engine_destroy(NULL);
}

static void
test_destroy_in_flight(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    int requests = atomic_load(&server.requests);
    int64_t deadline = clock_ms() + TEST_DEADLINE_MS;

    for (int i = 0; i < 8; i++)
        CHECK(submit(engine, i % 2 == 0 ? "/hang" : "/drip", NULL));
    while (atomic_load(&server.requests) - requests < 8 && clock_ms() < deadline)
        delivery_engine_run(engine);
    CHECK(submit(engine, "/200", NULL)); /* one that has not even begun */
    delivery_engine_destroy(engine);
    engine = make_engine(&options);
    CHECK(submit(engine, "/200", NULL));
    delivery_engine_destroy(engine);
}

/* Without its epoll set libcurl gives up, at once or (8.22) at the deadline; the engine must report every request and
 * not spin or crash. */
static void
test_broken_epoll(void)
{
    DeliveryOptions options = usual_options();
    DeliveryEngine *engine = make_engine(&options);
    DeliveryResult result;
    int fd = delivery_engine_fd(engine);
    int spare = open("/dev/null", O_RDONLY | O_CLOEXEC);

    dup2(spare, fd); /* the number stays taken, epoll_ctl fails on it */
    close(spare);
    for (int i = 0; i < 4; i++)
        CHECK(submit(engine, "/200", &options));
    for (int i = 0; i < 4; i++)
        if (CHECK(next_result(engine, &result)))
            CHECK(!result.delivered && result.retryable && result.tag == &options &&
                  (result.error_class == DELIVERY_ERROR_OTHER || result.error_class == DELIVERY_ERROR_TIMEOUT));
    CHECK(submit(engine, "/200", &options)); /* a new multi handle */
    CHECK(next_result(engine, &result) && !result.delivered);
    delivery_engine_destroy(engine);
}

int
main(void)
{
    loopback_start(&server, NULL);
    test_answers();
    test_request();
    test_hostile_answers();
    test_deadlines();
    test_refused();
    test_names();
    test_tls();
    test_tls_options();
    test_many();
    test_refused_requests();
    test_destroy_in_flight();
    test_broken_epoll();
    loopback_stop(&server);
    return unit_report();
}
