/*
 * libFuzzer over the delivery library's small parsers: Retry-After (a receiver's text), lists of addresses, schedules
 * of retries, keys, CloudEvents headers.
 *
 * One process, in libFuzzer's loop. The input's first byte chooses the parser, the rest is its text.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "cloudevents.h"
#include "retry.h"
#include "signature.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool holds)
{
    if (!holds)
        abort();
}

/* A whole line of printable ASCII, shorter than its buffer. */
static void
require_error(const char *error, size_t size)
{
    require(*error != '\0' && strlen(error) + 1 < size);
    for (; *error != '\0'; error++)
        require(*error >= ' ' && *error <= '~');
}

static void
fuzz_retry_after(const char *text)
{
    static const int64_t times[] = {0, 1795488000, INT64_C(253402300799), -62135596800};

    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        int64_t seconds = -7;

        if (delivery_retry_after_parse(text, times[i], &seconds))
            require(seconds >= 0 && seconds <= DELIVERY_RETRY_AFTER_MAX);
        else
            require(seconds == -7);
    }
}

static void
fuzz_schedule(const char *text)
{
    DeliveryRetrySchedule schedule;
    char error[128] = "";

    if (!delivery_retry_schedule_parse(text, &schedule, error, sizeof error)) {
        require_error(error, sizeof error);
        require(schedule.count == 0);
        return;
    }
    require(schedule.count >= 1 && schedule.count <= DELIVERY_RETRY_MAX_DELAYS);
    for (int failed = 1; failed <= schedule.count + 1; failed++) {
        int64_t least = delivery_retry_schedule_delay_ms(&schedule, failed, 0);
        int64_t most = delivery_retry_schedule_delay_ms(&schedule, failed, UINT32_MAX);

        require(least >= 1 && least <= DELIVERY_RETRY_MAX_DELAY_MS);
        require(most >= least && most < 2 * least + 1 && most - least <= DELIVERY_RETRY_MAX_JITTER_MS);
    }
}

/* What was parsed is allowed; without a list the same address is judged without trouble. */
static void
fuzz_addresses(const char *text)
{
    AddressPolicy policy;
    char error[128] = "";

    if (!address_list_parse(text, &policy.allowed, error, sizeof error)) {
        require_error(error, sizeof error);
        require(policy.allowed.count == 0);
        return;
    }
    require(policy.allowed.count >= 0 && policy.allowed.count <= ADDRESS_LIST_MAX);
    for (int i = 0; i < policy.allowed.count; i++) {
        const AddressRange *range = &policy.allowed.ranges[i];
        const AddressPolicy none = {0};
        struct sockaddr_in ipv4 = {.sin_family = AF_INET};
        struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};
        const struct sockaddr *address = range->is_ipv4 ? (struct sockaddr *)&ipv4 : (struct sockaddr *)&ipv6;
        char name[ADDRESS_TEXT_SIZE];

        memcpy(&ipv4.sin_addr, range->bytes, 4);
        memcpy(&ipv6.sin6_addr, range->bytes, 16);
        require(range->prefix >= 0 && range->prefix <= (range->is_ipv4 ? 32 : 128));
        require(address_blocked(&policy, address) == NULL);
        address_blocked(&none, address);
        address_format(address, name);
        require(strlen(name) > 2);
    }
}

static void
fuzz_keys(const char *text)
{
    SigningKeys keys;
    char error[128] = "";
    char standard[SIGNATURE_STANDARD_SIZE];

    if (signing_keys_init_public(&keys, text, error, sizeof error))
        require(!signature_standard(&keys, "id", 1, text, strlen(text), standard));
    else
        require_error(error, sizeof error);
    signature_standard_verify(&keys, "id", "1", text, strlen(text), text, 1, 1);
    signing_keys_wipe(&keys);
    if (signing_keys_init(&keys, text, error, sizeof error)) {
        require(signature_standard(&keys, "id", 1, text, strlen(text), standard));
        require(signature_standard_verify(&keys, "id", "1", text, strlen(text), standard, 1, 1) == SIGNATURE_VALID);
        signature_standard_verify(&keys, "id", "1", text, strlen(text), text, 1, 1);
    }
    signing_keys_wipe(&keys);
}

static void
fuzz_cloudevents(const char *text)
{
    const MessageFields fields = {text, text, text, text, NULL, text};
    size_t size = CLOUDEVENTS_BUFFER_SIZE(strlen(text) * 6);
    DeliveryHeader headers[CLOUDEVENTS_MAX_HEADERS];
    char *buffer = malloc(size);
    int count;

    require(buffer != NULL);
    count = cloudevents_headers(&fields, text, headers, buffer, size);
    require(count == (*text == '\0' ? -1 : CLOUDEVENTS_MAX_HEADERS));
    for (int i = 0; i < count; i++)
        for (const char *c = headers[i].value; *c != '\0'; c++)
            require(*c > ' ' && *c <= '~' && *c != '"');
    cloudevents_headers(&fields, text, headers, buffer, size / 3);
    free(buffer);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(const char *) = {fuzz_retry_after, fuzz_schedule, fuzz_addresses, fuzz_keys,
                                                    fuzz_cloudevents};
    char *text;

    if (size == 0)
        return 0;
    text = strndup((const char *)data + 1, size - 1);
    require(text != NULL);
    parsers[data[0] % (sizeof parsers / sizeof *parsers)](text);
    free(text);
    return 0;
}
