/*
 * load.c: the reference of the publishing bench: what a bare libcurl program posts to the same receiver.
 *
 *   load URL COUNT IN_FLIGHT BODY_BYTES
 *
 * Posts COUNT bodies with an HMAC-SHA256 over each, IN_FLIGHT at once over reused connections, and prints the requests
 * per second. Shares no code with the extension. One process; exits 1 when a request was not answered with 2xx.
 */
#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char *body;
static size_t body_length;

static double
seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static size_t
discard(char *data, size_t size, size_t count, void *context)
{
    (void)data;
    (void)context;
    return size * count;
}

/* The headers of one request, the signature among them; freed when its transfer has ended. */
static struct curl_slist *
sign(long number)
{
    struct curl_slist *headers = NULL;
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned char text[2 * EVP_MAX_MD_SIZE];
    unsigned int length;
    char line[256];

    HMAC(EVP_sha256(), "bench secret", 12, (unsigned char *)body, body_length, mac, &length);
    EVP_EncodeBlock(text, mac, (int)length);
    snprintf(line, sizeof(line), "webhook-signature: v1,%s", text);
    headers = curl_slist_append(headers, line);
    snprintf(line, sizeof(line), "webhook-id: %ld", number);
    headers = curl_slist_append(headers, line);
    headers = curl_slist_append(headers, "Content-Type: application/json");
    return curl_slist_append(headers, "Expect:");
}

static void
start(CURLM *multi, CURL *easy, long number)
{
    struct curl_slist *headers = sign(number);

    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, headers);
    curl_multi_add_handle(multi, easy);
}

/* Takes what has ended; starts as many again. Returns how many ended badly. */
static long
collect(CURLM *multi, long count, long *started, long *ended)
{
    CURLMsg *message;
    long bad = 0;
    int left;

    while ((message = curl_multi_info_read(multi, &left)) != NULL) {
        CURL *easy = message->easy_handle;
        struct curl_slist *headers;
        long status = 0;

        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&headers);
        bad += message->data.result != CURLE_OK || status / 100 != 2;
        curl_multi_remove_handle(multi, easy);
        curl_slist_free_all(headers);
        (*ended)++;
        if (*started < count)
            start(multi, easy, (*started)++);
        else
            curl_easy_cleanup(easy);
    }
    return bad;
}

int
main(int argc, char **argv)
{
    long count, in_flight, started = 0, ended = 0, bad = 0;
    double begin;
    CURLM *multi;

    if (argc != 5) {
        fprintf(stderr, "usage: load URL COUNT IN_FLIGHT BODY_BYTES\n");
        return 2;
    }
    count = atol(argv[2]);
    in_flight = atol(argv[3]);
    body_length = (size_t)atol(argv[4]);
    body = malloc(body_length + 1);
    if (count < 1 || in_flight < 1 || body_length < 1 || body == NULL)
        return 2;
    memset(body, 'x', body_length);
    curl_global_init(CURL_GLOBAL_ALL);
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, in_flight);

    begin = seconds_now();
    for (; started < in_flight && started < count; started++) {
        CURL *easy = curl_easy_init();

        curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)body_length);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
        start(multi, easy, started);
    }
    while (ended < count) {
        int running;

        curl_multi_perform(multi, &running);
        bad += collect(multi, count, &started, &ended);
        if (ended < count)
            curl_multi_poll(multi, NULL, 0, 1000, NULL);
    }
    printf("%.0f\n", (double)count / (seconds_now() - begin));
    curl_multi_cleanup(multi);
    curl_global_cleanup();
    free(body);
    return bad > 0;
}
