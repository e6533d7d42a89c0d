/*
 * libFuzzer over what the delivery library does with bytes from outside: message bodies, secrets, URLs and the
 * receiver's verification.
 *
 * One process, in libFuzzer's loop. The input is cut at NUL bytes into texts; everything made is freed per input.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "body.h"
#include "message.h"
#include "signature.h"
#include "url.h"

#define TEXTS 6

static void
require(bool holds)
{
    if (!holds)
        abort();
}

/* A receiver takes any bytes; what it finds lies within them. */
static void
fuzz_body(const char *body, size_t length)
{
    EventBody event;
    const Slice *const slices[] = {&event.id, &event.type, &event.aggregate_type, &event.aggregate_id, &event.payload};

    if (!event_body_parse(body, length, &event))
        return;
    for (int i = 0; i < 5; i++) {
        require(slices[i]->data > body && slices[i]->data < body + length);
        require(slices[i]->length < (size_t)(body + length - slices[i]->data));
    }
}

static void
fuzz_message(char *const texts[TEXTS])
{
    const MessageFields fields = {texts[0], texts[1], texts[2], texts[3], texts[4], texts[5]};
    const char before[] = ",\"payload\":";
    const char after[] = ",\"occurredAt\":\"";
    MessageLayout layout;
    char *body = message_build(&fields, &layout);
    size_t end;

    require(body != NULL);
    end = layout.payload_offset + layout.payload_length;
    require(strlen(body) == layout.body_length);
    require(body[0] == '{' && body[layout.body_length - 1] == '}');
    require(layout.payload_length <= strlen(texts[4]));
    require(end + sizeof after - 1 < layout.body_length);
    require(memcmp(body + layout.payload_offset - (sizeof before - 1), before, sizeof before - 1) == 0);
    require(memcmp(body + end, after, sizeof after - 1) == 0);
    fuzz_body(body, layout.body_length);
    /* Nothing outside of the payload may be a raw control character. */
    for (size_t i = 0; i < layout.body_length; i++)
        require((i >= layout.payload_offset && i < end) || (unsigned char)body[i] >= ' ');
    free(body);
}

/* A secret is accepted by the check and by the keys alike; its signatures verify, and fail for another message. */
static void
fuzz_signature(const char *secret, const char *id, const char *body, const char *header)
{
    char error[128] = "";
    char standard[SIGNATURE_STANDARD_SIZE];
    char legacy[SIGNATURE_LEGACY_SIZE];
    size_t length = strlen(body);
    SigningKeys keys;
    bool usable = signing_secret_check(secret, error, sizeof error);

    require(usable == (*error == '\0'));
    require(signing_keys_init(&keys, secret, error, sizeof error) == usable);
    if (usable) {
        require(signature_standard(&keys, id, 1000, body, length, standard));
        require(strlen(standard) == 47 || strlen(standard) == 92);
        require(signature_standard_verify(&keys, id, "1000", body, length, standard, 1000, 1) == SIGNATURE_VALID);
        require(signature_standard_verify(&keys, id, "1001", body, length, standard, 1000, 1) == SIGNATURE_INVALID);
        signature_standard_verify(&keys, id, header, body, length, header, 1000, 1);
        require(signature_legacy(&keys, body, length, legacy));
        require(signature_legacy_verify(&keys, body, length, legacy) == SIGNATURE_VALID);
        signature_legacy_verify(&keys, body, length, header);
    }
    signing_keys_wipe(&keys);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[128] = "";
    char *texts[TEXTS];
    char *secret;

    for (int i = 0; i < TEXTS; i++) {
        size_t length = i + 1 < TEXTS ? strnlen((const char *)data, size) : size;

        texts[i] = strndup((const char *)data, length);
        require(texts[i] != NULL);
        length += length < size;
        data += length;
        size -= length;
    }
    fuzz_message(texts);
    fuzz_body(texts[4], strlen(texts[4]));
    fuzz_signature(texts[0], texts[1], texts[4], texts[5]);
    require(asprintf(&secret, "whsec_%s", texts[0]) > 0);
    fuzz_signature(secret, texts[1], texts[4], texts[5]);
    require(delivery_url_check(texts[4], error, sizeof error) == (*error == '\0'));
    for (int i = 0; i < TEXTS; i++)
        free(texts[i]);
    free(secret);
    return 0;
}
