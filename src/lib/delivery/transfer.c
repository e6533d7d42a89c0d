/*
 * One POST of the delivery engine: sets up the curl handle, reads the answer within bounds, and turns curl's outcome
 * into a DeliveryResult.
 *
 * Runs in the process that owns the engine. The callbacks are called from within libcurl: they only copy into the
 * Transfer. A Transfer owns its handle, header list and body; the engine owns the Transfer.
 */
#include "transfer.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sets an option of the handle, or leaves the function with the reason. */
#define SET_OPTION(option, value)                                                                                      \
    do {                                                                                                               \
        CURLcode code_ = curl_easy_setopt(easy, option, value);                                                        \
        if (code_ != CURLE_OK) {                                                                                       \
            snprintf(error, error_size, "libcurl refuses " #option ": %s", curl_easy_strerror(code_));                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

/* ---- Reading the answer ---- */

/* Appends bytes of a stranger as printable ASCII: blanks and controls become one space, other bytes one '?'. */
static void
append_printable(char *text, size_t size, size_t *length, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count && *length + 1 < size; i++) {
        unsigned char c = (unsigned char)bytes[i];
        char last = *length > 0 ? text[*length - 1] : ' ';

        if (c >= 0x80)
            c = '?';
        else if (c <= ' ' || c == 0x7f)
            c = ' ';
        if ((c == ' ' && last == ' ') || (c == '?' && (unsigned char)bytes[i] >= 0x80 && last == '?'))
            continue;
        text[(*length)++] = (char)c;
    }
    text[*length] = '\0';
}

/* CURLOPT_HEADERFUNCTION: counts, and keeps the reason phrase of the latest status line (RFC 9112 section 4). */
static size_t
read_header(char *line, size_t size, size_t count, void *context)
{
    Transfer *transfer = context;
    size_t length = size * count;
    const char *end = line + length;
    const char *space;

    transfer->header_bytes += length;
    if (transfer->header_bytes > DELIVERY_MAX_HEADER_BYTES) {
        transfer->headers_too_large = true;
        return 0;
    }
    if (length > 5 && memcmp(line, "HTTP/", 5) == 0) {
        transfer->reason_length = 0;
        transfer->reason[0] = '\0';
        space = memchr(line, ' ', length);
        space = space == NULL ? NULL : memchr(space + 1, ' ', (size_t)(end - space - 1));
        if (space != NULL)
            append_printable(transfer->reason, sizeof transfer->reason, &transfer->reason_length, space + 1,
                             (size_t)(end - space - 1));
    }
    return length;
}

/* CURLOPT_WRITEFUNCTION: keeps an excerpt, and refuses what goes beyond the limit. */
static size_t
read_body(char *bytes, size_t size, size_t count, void *context)
{
    Transfer *transfer = context;
    size_t length = size * count;

    append_printable(transfer->excerpt, sizeof transfer->excerpt, &transfer->excerpt_length, bytes, length);
    transfer->body_bytes += length;
    if (transfer->body_bytes > transfer->max_response_bytes) {
        transfer->body_cut = true;
        return length == 0 ? 1 : 0; /* anything but length stops the transfer */
    }
    return length;
}

/* ---- Setting up ---- */

/* What makes the client a safe one: nowhere but where it was told, nothing from the environment. */
static bool
set_restrictions(CURL *easy, const DeliveryOptions *options, char *error, size_t error_size)
{
#if LIBCURL_VERSION_NUM >= 0x075500
    SET_OPTION(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET_OPTION(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    SET_OPTION(CURLOPT_FOLLOWLOCATION, 0L);
    SET_OPTION(CURLOPT_PROXY, "");
    SET_OPTION(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET_OPTION(CURLOPT_HTTP09_ALLOWED, 0L);
    SET_OPTION(CURLOPT_SSL_VERIFYPEER, options->verify_tls ? 1L : 0L);
    SET_OPTION(CURLOPT_SSL_VERIFYHOST, options->verify_tls ? 2L : 0L);
    SET_OPTION(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (options->ca_file != NULL)
        SET_OPTION(CURLOPT_CAINFO, options->ca_file);
    return true;
}

static bool
set_behaviour(CURL *easy, Transfer *transfer, const DeliveryOptions *options, char *error, size_t error_size)
{
    SET_OPTION(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* A lookup that hangs must not hold up the removal of its transfer; its thread frees itself in the end. */
    SET_OPTION(CURLOPT_QUICK_EXIT, 1L);
#endif
    SET_OPTION(CURLOPT_PRIVATE, transfer);
    SET_OPTION(CURLOPT_POST, 1L);
    /* Not HTTP/2: libcurl 7.88 fails, or stalls, when a server answers a POST before it has read the body. */
    SET_OPTION(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET_OPTION(CURLOPT_TCP_NODELAY, 1L);
    /* Below the usual keep-alive times of servers, so that few connections die just when they are used again. */
    SET_OPTION(CURLOPT_MAXAGE_CONN, 50L);
    SET_OPTION(CURLOPT_CONNECTTIMEOUT_MS, options->connect_timeout_ms);
    SET_OPTION(CURLOPT_USERAGENT, options->user_agent);
    SET_OPTION(CURLOPT_ERRORBUFFER, transfer->curl_error);
    SET_OPTION(CURLOPT_HEADERFUNCTION, read_header);
    SET_OPTION(CURLOPT_HEADERDATA, transfer);
    SET_OPTION(CURLOPT_WRITEFUNCTION, read_body);
    SET_OPTION(CURLOPT_WRITEDATA, transfer);
    return true;
}

bool
transfer_open(Transfer *transfer, const DeliveryOptions *options, char *error, size_t error_size)
{
    CURL *easy = curl_easy_init();

    if (easy == NULL) {
        snprintf(error, error_size, "libcurl could not make a handle");
        return false;
    }
    if (!set_restrictions(easy, options, error, error_size) ||
        !set_behaviour(easy, transfer, options, error, error_size)) {
        curl_easy_cleanup(easy);
        return false;
    }
    transfer->easy = easy;
    transfer->max_response_bytes = options->max_response_bytes;
    return true;
}

/* Is this header one that cannot break the request apart? (RFC 9110 section 5) */
static bool
header_is_sound(const DeliveryHeader *header)
{
    if (*header->name == '\0')
        return false;
    for (const char *c = header->name; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && strchr("!#$%&'*+-.^_`|~", *c) == NULL)
            return false;
    for (const char *c = header->value; *c != '\0'; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
            return false;
    return true;
}

/* Appends one line to the list; false when memory runs out. */
static bool
append_line(struct curl_slist **list, const char *name, const char *separator, const char *value)
{
    size_t size = strlen(name) + strlen(separator) + strlen(value) + 1;
    char *line = malloc(size);
    struct curl_slist *longer = NULL;

    if (line != NULL) {
        snprintf(line, size, "%s%s%s", name, separator, value);
        longer = curl_slist_append(*list, line);
        free(line);
    }
    if (longer == NULL)
        return false;
    *list = longer;
    return true;
}

/* The request's header lines as curl's list; NULL with the reason. */
static struct curl_slist *
make_headers(const DeliveryRequest *request, char *error, size_t error_size)
{
    struct curl_slist *list = NULL;
    bool ok = append_line(&list, "Expect", ":", ""); /* never wait for 100 Continue */

    for (int i = 0; ok && i < request->header_count; i++) {
        const DeliveryHeader *header = &request->headers[i];

        if (!header_is_sound(header)) {
            snprintf(error, error_size, "header %d has a name or value that HTTP does not allow", i + 1);
            curl_slist_free_all(list);
            return NULL;
        }
        /* "Name;" is curl's way to say: this header with an empty value. */
        ok = append_line(&list, header->name, *header->value != '\0' ? ": " : ";", header->value);
    }
    if (!ok) {
        snprintf(error, error_size, "out of memory");
        curl_slist_free_all(list);
        return NULL;
    }
    return list;
}

static bool
set_request(CURL *easy, const DeliveryRequest *request, struct curl_slist *headers, char *error, size_t error_size)
{
    SET_OPTION(CURLOPT_URL, request->url);
    SET_OPTION(CURLOPT_HTTPHEADER, headers);
    SET_OPTION(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
    SET_OPTION(CURLOPT_POSTFIELDS, request->body != NULL ? request->body : "");
    return true;
}

bool
transfer_prepare(Transfer *transfer, DeliveryRequest *request, char *error, size_t error_size)
{
    struct curl_slist *headers;

    if (!delivery_url_check(request->url, error, error_size))
        return false;
    headers = make_headers(request, error, error_size);
    if (headers == NULL)
        return false;
    if (!set_request(transfer->easy, request, headers, error, error_size)) {
        curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
        curl_slist_free_all(headers);
        return false;
    }
    transfer->headers = headers;
    transfer->body = request->body;
    request->body = NULL;
    transfer->header_bytes = transfer->body_bytes = 0;
    transfer->headers_too_large = transfer->body_cut = false;
    transfer->reason_length = transfer->excerpt_length = 0;
    transfer->reason[0] = transfer->excerpt[0] = transfer->curl_error[0] = '\0';
    transfer->result = (DeliveryResult){.tag = request->tag};
    return true;
}

/* ---- The verdict ---- */

static DeliveryErrorClass
classify(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        return DELIVERY_ERROR_RESOLVE;
    case CURLE_COULDNT_CONNECT:
        return DELIVERY_ERROR_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_SHUTDOWN_FAILED:
        return DELIVERY_ERROR_TLS;
    case CURLE_OPERATION_TIMEDOUT:
        return DELIVERY_ERROR_TIMEOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_CHUNK_FAILED:
    case CURLE_UNSUPPORTED_PROTOCOL: /* the URL is checked: it is the answer that is not HTTP */
        return DELIVERY_ERROR_PROTOCOL;
    default:
        return DELIVERY_ERROR_OTHER;
    }
}

/* What a transfer that ran out of time was doing. */
static const char *
phase_of(CURL *easy)
{
    curl_off_t sent = 0;
    curl_off_t connected = 0;
    curl_off_t resolved = 0;
    curl_off_t answered = 0;

    curl_easy_getinfo(easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
    curl_easy_getinfo(easy, CURLINFO_CONNECT_TIME_T, &connected);
    curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &sent);
    curl_easy_getinfo(easy, CURLINFO_STARTTRANSFER_TIME_T, &answered);
    if (answered > 0)
        return "receiving the answer";
    if (sent > 0)
        return "waiting for the answer";
    if (connected > 0)
        return "negotiating TLS";
    return resolved > 0 ? "connecting" : "looking up the host name";
}

/* One line on a transport error, in the style of "connection refused". */
static void
describe_transport_error(Transfer *transfer, CURLcode code)
{
    DeliveryResult *result = &transfer->result;
    const char *detail = *transfer->curl_error != '\0' ? transfer->curl_error : curl_easy_strerror(code);
    long os_error = 0;
    size_t length = 0;

    if (code == CURLE_OPERATION_TIMEDOUT) {
        snprintf(result->error, sizeof result->error, "timed out after %ld ms while %s", result->total_ms,
                 phase_of(transfer->easy));
        return;
    }
    if (code == CURLE_COULDNT_CONNECT && curl_easy_getinfo(transfer->easy, CURLINFO_OS_ERRNO, &os_error) == CURLE_OK &&
        os_error != 0)
        detail = strerror((int)os_error);
    append_printable(result->error, sizeof result->error, &length, detail, strlen(detail));
    if (isupper((unsigned char)result->error[0]) && islower((unsigned char)result->error[1]))
        result->error[0] = (char)tolower((unsigned char)result->error[0]);
}

/* A complete answer, or one that we stopped reading. */
static void
judge_status(Transfer *transfer)
{
    DeliveryResult *result = &transfer->result;
    long status = result->http_status;

    result->delivered = status >= 200 && status < 300;
    if (result->delivered)
        return;
    result->retryable = status != 410;
    result->error_class = status >= 200 ? DELIVERY_ERROR_HTTP_STATUS : DELIVERY_ERROR_PROTOCOL;
    snprintf(result->error, sizeof result->error, "HTTP %ld%s%s%s%s", status, transfer->reason_length > 0 ? " " : "",
             transfer->reason, transfer->excerpt_length > 0 ? ": " : "", transfer->excerpt);
}

/* Removes one trailing space (append_printable never leaves more). */
static void
trim(char *text, size_t *length)
{
    if (*length > 0 && text[*length - 1] == ' ')
        text[--*length] = '\0';
}

static void
release_request(Transfer *transfer)
{
    curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, "");
    curl_slist_free_all(transfer->headers);
    free(transfer->body);
    transfer->headers = NULL;
    transfer->body = NULL;
}

void
transfer_finish(Transfer *transfer, CURLcode code, int64_t now_ms)
{
    DeliveryResult *result = &transfer->result;

    result->total_ms = (long)(now_ms - transfer->started_ms);
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &result->http_status);
    trim(transfer->reason, &transfer->reason_length);
    trim(transfer->excerpt, &transfer->excerpt_length);
    if (code == CURLE_OK || transfer->body_cut) {
        judge_status(transfer);
    } else {
        result->retryable = true;
        result->error_class = transfer->headers_too_large ? DELIVERY_ERROR_TOO_LARGE : classify(code);
        if (transfer->headers_too_large)
            snprintf(result->error, sizeof result->error, "the answer has more than %d bytes of header lines",
                     DELIVERY_MAX_HEADER_BYTES);
        else
            describe_transport_error(transfer, code);
        if (result->http_status < 200)
            result->http_status = 0;
    }
    release_request(transfer);
}

void
transfer_give_up(Transfer *transfer, const char *reason, int64_t now_ms)
{
    DeliveryResult *result = &transfer->result;

    result->total_ms = (long)(now_ms - transfer->started_ms);
    result->retryable = true;
    result->error_class = DELIVERY_ERROR_OTHER;
    snprintf(result->error, sizeof result->error, "%s", reason);
    release_request(transfer);
}

void
transfer_close(Transfer *transfer)
{
    curl_easy_cleanup(transfer->easy);
    curl_slist_free_all(transfer->headers);
    free(transfer->body);
    *transfer = (Transfer){0};
}
