/*
 * One POST of the delivery engine: sets up the curl handle and the request. What comes back is in answer.c.
 *
 * Runs in the process that owns the engine. open_socket is called from within libcurl. A Transfer owns its handle,
 * header list and body; the engine owns the Transfer.
 */
#include "transfer.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Sets an option of the handle, or leaves the function with the reason. */
#define SET_OPTION(option, value)                                                                                      \
    do {                                                                                                               \
        CURLcode code_ = curl_easy_setopt(easy, option, value);                                                        \
        if (code_ != CURLE_OK) {                                                                                       \
            snprintf(error, error_size, "libcurl refuses " #option ": %s", curl_easy_strerror(code_));                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

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
    return true;
}

/* NULL leaves libcurl's own choice. A handle once set to files cannot be set back; it has to be made anew. */
static bool
set_tls_files(CURL *easy, const DeliveryTls *tls, char *error, size_t error_size)
{
    if (tls->ca_file != NULL)
        SET_OPTION(CURLOPT_CAINFO, tls->ca_file);
    if (tls->client_cert != NULL)
        SET_OPTION(CURLOPT_SSLCERT, tls->client_cert);
    if (tls->client_key != NULL)
        SET_OPTION(CURLOPT_SSLKEY, tls->client_key);
    return true;
}

/*
 * CURLOPT_OPENSOCKETFUNCTION: the one place that sees an address before anything is sent to it, however it was found.
 * Refused, curl tries the host's next address.
 */
static curl_socket_t
open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
    Transfer *transfer = context;
    const AddressPolicy *policy = transfer->options->addresses;
    const char *what = policy != NULL ? address_blocked(policy, &address->addr) : NULL;
    int fd;

    (void)purpose;
    address_format(&address->addr, transfer->result.peer);
    if (what != NULL) {
        if (transfer->blocked[0] == '\0')
            snprintf(transfer->blocked, sizeof transfer->blocked, "%s is not allowed: it is %s", transfer->result.peer,
                     what);
        errno = EACCES;
        return CURL_SOCKET_BAD;
    }
    transfer->opened++;
    fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    sockets_own(transfer->sockets, fd);
    return fd;
}

/* CURLOPT_CLOSESOCKETFUNCTION: of what open_socket() has opened, perhaps long after the transfer that it was for. */
static int
close_socket(void *context, curl_socket_t fd)
{
    sockets_forget(context, fd);
    return close(fd);
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
    /* HTTP/2 only when asked for: libcurl 7.88 fails, or stalls, when a server answers a POST before it has read the
     * body. */
    SET_OPTION(CURLOPT_HTTP_VERSION, options->http2 ? (long)CURL_HTTP_VERSION_2TLS : (long)CURL_HTTP_VERSION_1_1);
    SET_OPTION(CURLOPT_PIPEWAIT, options->http2 ? 1L : 0L); /* rather share a connection than open another */
    SET_OPTION(CURLOPT_TCP_NODELAY, 1L);
    /* Below the usual keep-alive times of servers, so that few connections die just when they are used again. */
    SET_OPTION(CURLOPT_MAXAGE_CONN, 50L);
    SET_OPTION(CURLOPT_CONNECTTIMEOUT_MS, options->connect_timeout_ms);
    SET_OPTION(CURLOPT_USERAGENT, options->user_agent);
    SET_OPTION(CURLOPT_ERRORBUFFER, transfer->curl_error);
    SET_OPTION(CURLOPT_HEADERFUNCTION, transfer_read_header);
    SET_OPTION(CURLOPT_HEADERDATA, transfer);
    SET_OPTION(CURLOPT_WRITEFUNCTION, transfer_read_body);
    SET_OPTION(CURLOPT_WRITEDATA, transfer);
    SET_OPTION(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET_OPTION(CURLOPT_OPENSOCKETDATA, transfer);
    SET_OPTION(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    SET_OPTION(CURLOPT_CLOSESOCKETDATA, transfer->sockets);
    return true;
}

/* The files' names in one text, to be freed; NULL when memory runs out. */
static char *
join_names(const DeliveryTls *tls)
{
    const char *const parts[] = {tls->ca_file, tls->client_cert, tls->client_key};
    size_t size = 1;
    char *names;

    for (int i = 0; i < 3; i++)
        size += 2 + (parts[i] != NULL ? strlen(parts[i]) : 0);
    names = malloc(size);
    if (names != NULL)
        snprintf(names, size, "%s%s\n%s%s\n%s%s", parts[0] != NULL ? "=" : "", parts[0] != NULL ? parts[0] : "",
                 parts[1] != NULL ? "=" : "", parts[1] != NULL ? parts[1] : "", parts[2] != NULL ? "=" : "",
                 parts[2] != NULL ? parts[2] : "");
    return names;
}

/* transfer_open with these TLS files. */
static bool
open_handle(Transfer *transfer, const DeliveryOptions *options, SocketSet *sockets, const DeliveryTls *tls, char *error,
            size_t error_size)
{
    CURL *easy = curl_easy_init();

    transfer->sockets = sockets;
    if (easy == NULL) {
        snprintf(error, error_size, "libcurl could not make a handle");
        return false;
    }
    if (!set_restrictions(easy, options, error, error_size) || !set_tls_files(easy, tls, error, error_size) ||
        !set_behaviour(easy, transfer, options, error, error_size)) {
        curl_easy_cleanup(easy);
        return false;
    }
    transfer->easy = easy;
    transfer->options = options;
    return true;
}

bool
transfer_open(Transfer *transfer, const DeliveryOptions *options, SocketSet *sockets, char *error, size_t error_size)
{
    const DeliveryTls tls = {options->ca_file, options->client_cert, options->client_key};

    return open_handle(transfer, options, sockets, &tls, error, error_size);
}

/* Makes the handle one with the request's TLS files, if it is not one. */
static bool
switch_tls(Transfer *transfer, const DeliveryTls *tls, char *error, size_t error_size)
{
    const DeliveryOptions *options = transfer->options;
    SocketSet *sockets = transfer->sockets;
    char *names = NULL;
    bool ok = true;

    if (tls == NULL && transfer->tls == NULL)
        return true;
    if (tls != NULL) {
        names = join_names(tls);
        ok = names != NULL;
    }
    if (ok && names != NULL && transfer->tls != NULL && strcmp(names, transfer->tls) == 0) {
        free(names);
        return true;
    }
    transfer_close(transfer);
    if (!ok)
        snprintf(error, error_size, "out of memory");
    else if (tls == NULL)
        ok = transfer_open(transfer, options, sockets, error, error_size);
    else
        ok = open_handle(transfer, options, sockets, tls, error, error_size);
    if (ok)
        transfer->tls = names;
    else
        free(names);
    return ok;
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

/*
 * The request's header lines as curl's list, in one block of memory that begins with the list's first element; NULL
 * with the reason. curl only reads the list.
 */
static struct curl_slist *
make_headers(const DeliveryRequest *request, char *error, size_t error_size)
{
    static const char no_expect[] = "Expect:"; /* never wait for 100 Continue */
    size_t count = (size_t)request->header_count + 1;
    size_t size = count * sizeof(struct curl_slist) + sizeof no_expect;
    struct curl_slist *list;
    char *text;

    for (int i = 0; i < request->header_count; i++) {
        const DeliveryHeader *header = &request->headers[i];

        if (!header_is_sound(header)) {
            snprintf(error, error_size, "header %d has a name or value that HTTP does not allow", i + 1);
            return NULL;
        }
        size += strlen(header->name) + 2 + strlen(header->value) + 1;
    }
    list = malloc(size);
    if (list == NULL) {
        snprintf(error, error_size, "out of memory");
        return NULL;
    }
    text = (char *)(list + count);
    list[0].data = memcpy(text, no_expect, sizeof no_expect);
    text += sizeof no_expect;
    for (size_t i = 1; i < count; i++) {
        const DeliveryHeader *header = &request->headers[i - 1];

        list[i].data = text;
        text = stpcpy(text, header->name);
        /* "Name;" is curl's way to say: this header with an empty value. */
        text = stpcpy(text, *header->value != '\0' ? ": " : ";");
        text = stpcpy(text, header->value) + 1;
        list[i - 1].next = &list[i];
    }
    list[count - 1].next = NULL;
    return list;
}

/* Checks the URL and gives it to curl, unless it is the one of the request before. */
static bool
set_url(Transfer *transfer, const char *url, char *error, size_t error_size)
{
    CURL *easy = transfer->easy;

    if (transfer->url != NULL && strcmp(transfer->url, url) == 0)
        return true;
    if (!delivery_url_check(url, error, error_size))
        return false;
    free(transfer->url);
    transfer->url = NULL;
    SET_OPTION(CURLOPT_URL, url);
    transfer->url = strdup(url); /* NULL only means a check too many next time */
    return true;
}

static bool
set_request(CURL *easy, const DeliveryRequest *request, struct curl_slist *headers, char *error, size_t error_size)
{
    SET_OPTION(CURLOPT_HTTPHEADER, headers);
    SET_OPTION(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
    SET_OPTION(CURLOPT_POSTFIELDS, request->body != NULL ? request->body : "");
    return true;
}

bool
transfer_prepare(Transfer *transfer, DeliveryRequest *request, char *error, size_t error_size)
{
    struct curl_slist *headers;

    if (!switch_tls(transfer, request->tls, error, error_size) || !set_url(transfer, request->url, error, error_size))
        return false;
    headers = make_headers(request, error, error_size);
    if (headers == NULL)
        return false;
    if (!set_request(transfer->easy, request, headers, error, error_size)) {
        curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
        free(headers);
        return false;
    }
    transfer->headers = headers;
    transfer->body = request->body;
    request->body = NULL;
    transfer_expect_answer(transfer, request->tag);
    return true;
}

void
transfer_release(Transfer *transfer)
{
    curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, "");
    free(transfer->headers);
    free(transfer->body);
    transfer->headers = NULL;
    transfer->body = NULL;
}

void
transfer_close(Transfer *transfer)
{
    Transfer *previous = transfer->previous;
    Transfer *next = transfer->next;

    curl_easy_cleanup(transfer->easy);
    free(transfer->headers);
    free(transfer->body);
    free(transfer->url);
    free(transfer->tls);
    *transfer = (Transfer){.previous = previous, .next = next};
}
