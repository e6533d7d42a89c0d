/*
 * What came back for one POST: reads the answer within bounds, and turns curl's outcome into a DeliveryResult.
 *
 * Runs in the process that owns the engine. The callbacks are called from within libcurl: they only copy into the
 * Transfer, which the engine owns.
 */
#include "transfer.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "retry.h"
#include "verdict.h"

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

/* Keeps the value of a Retry-After header; the first one counts. */
static void
read_retry_after(Transfer *transfer, const char *line, size_t length)
{
    static const char name[] = "Retry-After:";
    size_t name_length = sizeof name - 1;

    if (transfer->retry_after_length > 0 || length <= name_length || strncasecmp(line, name, name_length) != 0)
        return;
    line += name_length;
    length -= name_length;
    while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == '\n'))
        length--;
    if (length > TRANSFER_RETRY_AFTER_BYTES || memchr(line, '\0', length) != NULL) {
        line = "?"; /* too long for a good one */
        length = 1;
    }
    memcpy(transfer->retry_after, line, length);
    transfer->retry_after[length] = '\0';
    transfer->retry_after_length = length;
}

/* Counts, and keeps the reason phrase of the latest status line (RFC 9112 section 4), and its Retry-After. */
size_t
transfer_read_header(char *line, size_t size, size_t count, void *context)
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
        transfer->reason_length = transfer->retry_after_length = 0;
        transfer->reason[0] = transfer->retry_after[0] = '\0';
        space = memchr(line, ' ', length);
        space = space == NULL ? NULL : memchr(space + 1, ' ', (size_t)(end - space - 1));
        if (space != NULL)
            append_printable(transfer->reason, sizeof transfer->reason, &transfer->reason_length, space + 1,
                             (size_t)(end - space - 1));
    } else {
        read_retry_after(transfer, line, length);
    }
    return length;
}

/* How much of the body is read into the excerpt: what a result may carry, and enough for an error's line. */
static size_t
excerpt_limit(const Transfer *transfer)
{
    size_t bytes = transfer->options->excerpt_bytes;

    return bytes > TRANSFER_EXCERPT_BYTES ? bytes : TRANSFER_EXCERPT_BYTES;
}

/* Keeps an excerpt, and refuses what goes beyond the limit. */
size_t
transfer_read_body(char *bytes, size_t size, size_t count, void *context)
{
    Transfer *transfer = context;
    size_t length = size * count;

    append_printable(transfer->result.excerpt, excerpt_limit(transfer) + 1, &transfer->excerpt_length, bytes, length);
    transfer->body_bytes += length;
    if (transfer->body_bytes > transfer->options->max_response_bytes) {
        transfer->body_cut = true;
        return length == 0 ? 1 : 0; /* anything but length stops the transfer */
    }
    return length;
}

void
transfer_expect_answer(Transfer *transfer, void *tag)
{
    transfer->opened = 0;
    transfer->header_bytes = transfer->body_bytes = 0;
    transfer->headers_too_large = transfer->body_cut = false;
    transfer->reason_length = transfer->retry_after_length = transfer->excerpt_length = 0;
    transfer->blocked[0] = transfer->reason[0] = transfer->retry_after[0] = transfer->curl_error[0] = '\0';
    transfer->result = (DeliveryResult){.tag = tag, .retry_after_s = -1};
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
#if LIBCURL_VERSION_NUM >= 0x074d00
    case CURLE_SSL_CLIENTCERT: /* the server wants a client certificate */
#endif
        return DELIVERY_ERROR_TLS;
    case CURLE_OPERATION_TIMEDOUT:
        return DELIVERY_ERROR_TIMEOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_CHUNK_FAILED:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
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
    DeliveryVerdict verdict = delivery_verdict(result->http_status, transfer->options->fail_on_client_error);

    result->delivered = verdict.delivered;
    result->retryable = verdict.retryable;
    result->gone = verdict.gone;
    result->error_class = verdict.error_class;
    if (!result->delivered)
        snprintf(result->error, sizeof result->error, "HTTP %ld%s%s%s%.*s", result->http_status,
                 transfer->reason_length > 0 ? " " : "", transfer->reason, transfer->excerpt_length > 0 ? ": " : "",
                 TRANSFER_EXCERPT_BYTES, result->excerpt);
}

/*
 * Did the server end the TLS handshake after our side was through with it? In TLS 1.3 that is how it refuses a client
 * certificate, and to libcurl (7.88) it is an error in reading.
 */
static bool
is_late_refusal(const Transfer *transfer, CURLcode code)
{
    return (code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR) && transfer->header_bytes == 0 &&
           strstr(transfer->curl_error, "SSL routines:") != NULL && strstr(transfer->curl_error, " alert ") != NULL;
}

/* No complete answer. */
static void
judge_failure(Transfer *transfer, CURLcode code)
{
    DeliveryResult *result = &transfer->result;

    result->retryable = true;
    if (result->http_status < 200)
        result->http_status = 0;
    if (transfer->headers_too_large) {
        result->error_class = DELIVERY_ERROR_TOO_LARGE;
        snprintf(result->error, sizeof result->error, "the answer has more than %d bytes of header lines",
                 DELIVERY_MAX_HEADER_BYTES);
    } else if (transfer->blocked[0] != '\0' && transfer->opened == 0) {
        result->error_class = DELIVERY_ERROR_BLOCKED;
        snprintf(result->error, sizeof result->error, "%s", transfer->blocked);
    } else {
        result->error_class = is_late_refusal(transfer, code) ? DELIVERY_ERROR_TLS : classify(code);
        describe_transport_error(transfer, code);
    }
}

/* ---- The result ---- */

static int64_t
time_info(CURL *easy, CURLINFO info)
{
    curl_off_t microseconds = 0;

    curl_easy_getinfo(easy, info, &microseconds);
    return microseconds;
}

/* The time from one point to a later one, of which either may not have been reached (0). */
static int64_t
phase(int64_t from, int64_t to)
{
    return to > from ? to - from : 0;
}

/* What curl knows of the connection: how long it took, who is at its end. */
static void
describe_connection(Transfer *transfer)
{
    DeliveryResult *result = &transfer->result;
    DeliveryTimings *timings = &result->timings;
    CURL *easy = transfer->easy;
    int64_t ready = time_info(easy, CURLINFO_PRETRANSFER_TIME_T);
    char *address = NULL;
    long sent = 0;
    long port = 0;

    /* later versions of libcurl tell a time of readiness for what never came to be connected too */
    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &sent);
    result->reused_connection = transfer->opened == 0 && ready > 0 && sent > 0;
    if (!result->reused_connection) {
        int64_t resolved = time_info(easy, CURLINFO_NAMELOOKUP_TIME_T);
        int64_t connected = time_info(easy, CURLINFO_CONNECT_TIME_T);

        timings->lookup_us = resolved;
        timings->connect_us = phase(resolved, connected);
        if (connected > 0)
            timings->tls_us = phase(connected, time_info(easy, CURLINFO_APPCONNECT_TIME_T));
    }
    if (ready > 0 && transfer->header_bytes > 0) /* curl takes the end of a connection for a byte */
        timings->first_byte_us = phase(ready, time_info(easy, CURLINFO_STARTTRANSFER_TIME_T));
    /* Otherwise the last address that was tried is there. */
    if (curl_easy_getinfo(easy, CURLINFO_PRIMARY_IP, &address) == CURLE_OK && address != NULL && *address != '\0' &&
        curl_easy_getinfo(easy, CURLINFO_PRIMARY_PORT, &port) == CURLE_OK)
        snprintf(result->peer, sizeof result->peer, strchr(address, ':') != NULL ? "[%s]:%ld" : "%s:%ld", address,
                 port);
}

static void
note_retry_after(Transfer *transfer)
{
    int64_t seconds;

    if (transfer->retry_after_length > 0 &&
        delivery_retry_after_parse(transfer->retry_after, (int64_t)time(NULL), &seconds))
        transfer->result.retry_after_s = (long)seconds;
}

/* Leaves as much of the body's excerpt as was asked for. */
static void
cut_excerpt(Transfer *transfer)
{
    if (transfer->excerpt_length > transfer->options->excerpt_bytes)
        transfer->excerpt_length = transfer->options->excerpt_bytes;
    transfer->result.excerpt[transfer->excerpt_length] = '\0';
}

/* Removes one trailing space (append_printable never leaves more). */
static void
trim(char *text, size_t *length)
{
    if (*length > 0 && text[*length - 1] == ' ')
        text[--*length] = '\0';
}

static void
note_time(DeliveryResult *result, int64_t elapsed_us)
{
    result->timings.total_us = elapsed_us;
    result->total_ms = (long)(elapsed_us / 1000);
}

void
transfer_finish(Transfer *transfer, CURLcode code, int64_t now_us)
{
    DeliveryResult *result = &transfer->result;

    note_time(result, now_us - transfer->started_us);
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &result->http_status);
    describe_connection(transfer);
    note_retry_after(transfer);
    trim(transfer->reason, &transfer->reason_length);
    trim(result->excerpt, &transfer->excerpt_length);
    if (code == CURLE_OK || transfer->body_cut)
        judge_status(transfer);
    else
        judge_failure(transfer, code);
    cut_excerpt(transfer);
    transfer_release(transfer);
}

void
transfer_give_up(Transfer *transfer, const char *reason, int64_t now_us)
{
    DeliveryResult *result = &transfer->result;

    note_time(result, now_us - transfer->started_us);
    result->retryable = true;
    result->error_class = DELIVERY_ERROR_OTHER;
    snprintf(result->error, sizeof result->error, "%s", reason);
    cut_excerpt(transfer);
    transfer_release(transfer);
}
