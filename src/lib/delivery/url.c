/*
 * The check of a webhook's URL, with the same parser that will use it later. Runs in the processes that check settings
 * and before every submission; keeps no memory.
 */
#include "url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

/* Why a URL that curl parsed is still not ours; NULL: it is fine. */
static const char *
refuse_parts(CURLU *parts)
{
    const char *reason = NULL;
    char *scheme = NULL;
    char *host = NULL;

    if (curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        (strcasecmp(scheme, "http") != 0 && strcasecmp(scheme, "https") != 0))
        reason = "the URL must begin with http:// or https://";
    else if (curl_url_get(parts, CURLUPART_HOST, &host, 0) != CURLUE_OK || *host == '\0')
        reason = "the URL has no host";
    curl_free(scheme);
    curl_free(host);
    return reason;
}

bool
delivery_url_check(const char *url, char *error, size_t error_size)
{
    const char *reason = NULL;
    CURLU *parts;
    CURLUcode code;

    if (*url == '\0')
        reason = "the URL is empty";
    else if (strlen(url) > DELIVERY_URL_MAX)
        reason = "the URL is too long";
    for (const char *c = url; *c != '\0' && reason == NULL; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            reason = "the URL contains a blank or a control character";
    if (reason == NULL) {
        parts = curl_url();
        code = parts == NULL ? CURLUE_OUT_OF_MEMORY : curl_url_set(parts, CURLUPART_URL, url, 0);
        if (code == CURLUE_UNSUPPORTED_SCHEME || code == CURLUE_BAD_SCHEME)
            reason = "the URL must begin with http:// or https://";
        else
            reason = code != CURLUE_OK ? curl_url_strerror(code) : refuse_parts(parts);
        curl_url_cleanup(parts);
    }
    if (reason != NULL)
        snprintf(error, error_size, "%s", reason);
    return reason == NULL;
}

bool
delivery_url_host(const char *url, char *host, size_t size)
{
    CURLU *parts = curl_url();
    char *found = NULL;
    bool fits = false;

    if (parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &found, 0) == CURLUE_OK)
        fits = (size_t)snprintf(host, size, "%s", found) < size;
    curl_free(found);
    curl_url_cleanup(parts);
    return fits;
}
