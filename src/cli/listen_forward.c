/*
 * Hands a delivery on to an application, and its answer back to the sender. Runs in the daemon's threads, one for each
 * connection; a curl handle belongs to one delivery.
 */
#include "listen.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "message.h"

#define FORWARD_TIMEOUT_MS 30000L
#define FORWARD_MAX_ANSWER (1024 * 1024)

/* Of the connection, not of the message (RFC 9110 section 7.6.1), or made anew. */
static bool
stays_behind(const char *name)
{
    static const char *const names[] = {"Host",       "Content-Length", "Connection", "Transfer-Encoding",  "Expect",
                                        "Keep-Alive", "Upgrade",        "TE",         "Proxy-Authorization"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(names[i], name) == 0)
            return true;
    }
    return false;
}

static enum MHD_Result
add_header(void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct curl_slist **headers = context;
    struct curl_slist *grown;
    Text line = {0};

    (void)kind;
    if (stays_behind(name))
        return MHD_YES;
    /* curl's way to send a header without a value */
    if (value == NULL || *value == '\0')
        text_format(&line, "%s;", name);
    else
        text_format(&line, "%s: %s", name, value);
    grown = curl_slist_append(*headers, line.data);
    text_free(&line);
    if (grown == NULL)
        return MHD_NO;
    *headers = grown;
    return MHD_YES;
}

static size_t
take_body(char *data, size_t size, size_t count, void *context)
{
    Text *body = context;

    if (body->length + size * count > FORWARD_MAX_ANSWER)
        return 0;
    text_add_bytes(body, data, size * count);
    return size * count;
}

static int
look_for_stop(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const Listen *listen = context;

    (void)a, (void)b, (void)c, (void)d;
    return atomic_load(&listen->stopping) ? 1 : 0;
}

static bool
only_http(CURL *curl)
{
#if LIBCURL_VERSION_NUM >= 0x075500
    return curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
#else
    return curl_easy_setopt(curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS)) == CURLE_OK;
#endif
}

/* Every option of the request; false: curl refuses one. */
static bool
set_up(CURL *curl, const Listen *listen, const Delivery *delivery, struct curl_slist *headers, ForwardAnswer *answer)
{
    return curl_easy_setopt(curl, CURLOPT_URL, listen->forward) == CURLE_OK && only_http(curl) &&
           curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, FORWARD_TIMEOUT_MS) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)delivery->length) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_POSTFIELDS, delivery->body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer->body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, look_for_stop) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_XFERINFODATA, (void *)listen) == CURLE_OK;
}

void
listen_forward(const Listen *listen, const Delivery *delivery, ForwardAnswer *answer)
{
    char error[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    CURL *curl = curl_easy_init();
    CURLcode result = CURLE_FAILED_INIT;
    const char *type = NULL;
    long status = 0;

    *answer = (ForwardAnswer){.status = MHD_HTTP_BAD_GATEWAY};
    MHD_get_connection_values(delivery->connection, MHD_HEADER_KIND, add_header, &headers);
    if (curl != NULL && curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error) == CURLE_OK &&
        set_up(curl, listen, delivery, headers, answer))
        result = curl_easy_perform(curl);
    if (result == CURLE_OK)
        result = curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (result == CURLE_OK && status >= 200 && status <= 599) {
        answer->status = (unsigned int)status;
        if (curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type) == CURLE_OK && type != NULL)
            text_add(&answer->content_type, type);
    } else if (!atomic_load(&listen->stopping)) {
        message_warning("could not forward to %s: %s", listen->forward,
                        *error != '\0' ? error : curl_easy_strerror(result));
        text_free(&answer->body);
    }
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
}
