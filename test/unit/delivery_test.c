/*
 * Unit tests of the delivery library's pure parts: signatures, message bodies, CloudEvents headers, the default retry
 * schedule, URL check.
 *
 * A plain program of one process. The expected signatures were computed with the openssl command, the first one is the
 * example of the Standard Webhooks reference implementations. The Ed25519 key is that of RFC 8032 section 7.1, test 1.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cloudevents.h"
#include "message.h"
#include "retry.h"
#include "signature.h"
#include "unit.h"
#include "url.h"

#define EXAMPLE_SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define PADDED_SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw=="
#define EXAMPLE_ID "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define EXAMPLE_BODY "{\"test\": 2432232314}"
#define EXAMPLE_SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

#define ED25519_SEED "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
#define ED25519_PAIR "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg=="
#define ED25519_PUBLIC "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
#define ED25519_SIGNATURE "v1a,fldxM4gAKugP6nnt1hdz3sgGfZ6d99nzrMFnZOELIxbzEHoVmAb2ADpkJK7zgPePmPsle0zV9jSeGlHFG2NVAw=="

/* ---- Signatures ---- */

static void
check_standard(const char *secret, const char *id, int64_t timestamp, const char *body, const char *expected)
{
    SigningKeys keys;
    char error[256];
    char signature[SIGNATURE_STANDARD_SIZE] = "";

    if (!CHECK(signing_keys_init(&keys, secret, error, sizeof error)))
        return;
    CHECK(signature_standard(&keys, id, timestamp, body, strlen(body), signature));
    CHECK_STR(signature, expected);
    signing_keys_wipe(&keys);
    CHECK(keys.standard == NULL && keys.legacy == NULL);
    CHECK(!signature_standard(&keys, id, timestamp, body, strlen(body), signature));
    signing_keys_wipe(&keys);
}

static void
check_legacy(const char *secret, const char *payload, const char *expected)
{
    SigningKeys keys;
    char error[256];
    char signature[SIGNATURE_LEGACY_SIZE] = "";

    if (!CHECK(signing_keys_init(&keys, secret, error, sizeof error)))
        return;
    CHECK(signature_legacy(&keys, payload, strlen(payload), signature));
    CHECK_STR(signature, expected);
    CHECK(signature_legacy_verify(&keys, payload, strlen(payload), expected) == SIGNATURE_VALID);
    signature[10] ^= 1;
    CHECK(signature_legacy_verify(&keys, payload, strlen(payload), signature) == SIGNATURE_INVALID);
    CHECK(signature_legacy_verify(&keys, payload, strlen(payload), "") == SIGNATURE_INVALID);
    CHECK(signature_legacy_verify(&keys, payload, strlen(payload) - 1, expected) == SIGNATURE_INVALID);
    signing_keys_wipe(&keys);
}

static void
test_known_signatures(void)
{
    char long_secret[101];

    check_standard(EXAMPLE_SECRET, EXAMPLE_ID, 1614265330, EXAMPLE_BODY, EXAMPLE_SIGNATURE);
    check_standard(PADDED_SECRET, EXAMPLE_ID, 1614265330, EXAMPLE_BODY,
                   "v1,/Xy7FLfFISa1TZH7WLT+0x/orG5MlcutAFOpVan3/00=");
    check_standard("plain secret", "msg_1", 1700000000, "{\"a\":1}", "v1,y9TGvDGoR7W6ntS0RmkAASk2giF5oj97nAvbIClPuC8=");
    memset(long_secret, 'k', 100);
    long_secret[100] = '\0';
    check_standard(long_secret, "i", 0, "", "v1,tsE3TP7Y2qljdN1ayBrABPG69EEvMzbbouuyKDBkViM=");
    check_legacy("plain secret", "{\"a\":1}", "1f17ceafb20202e46ab04c01a862e5abcf2bfb61d04d33f97acb105794bba236");
    check_legacy(PADDED_SECRET, "{\"a\":1}", "1f3db67d4129ea60b304aae3e430512768c5e6afac01ac21d409de83165fdf59");
    check_legacy("contraseña", "{\"ñ\":\"✔\"}", "41374659734a50d53324be1290d32406f583903c7079b15c928ccfba10d6800c");
}

static void
test_verification(void)
{
    const int64_t sent = 1614265330;
    const char *body = EXAMPLE_BODY;
    const size_t length = strlen(EXAMPLE_BODY);
    SigningKeys keys;
    char error[256];

    CHECK(signing_keys_init(&keys, EXAMPLE_SECRET, error, sizeof error));
#define VERIFY(id, timestamp, header, now)                                                                             \
    signature_standard_verify(&keys, id, timestamp, body, length, header, now, 300)
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", EXAMPLE_SIGNATURE, sent) == SIGNATURE_VALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", "v1,AAAA v1a,xyz " EXAMPLE_SIGNATURE, sent + 300) == SIGNATURE_VALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", EXAMPLE_SIGNATURE " ", sent - 300) == SIGNATURE_VALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", EXAMPLE_SIGNATURE, sent + 301) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", EXAMPLE_SIGNATURE, sent - 301) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "", EXAMPLE_SIGNATURE, sent) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "-1", EXAMPLE_SIGNATURE, 0) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "99999999999999999999", EXAMPLE_SIGNATURE, sent) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "1614265331", EXAMPLE_SIGNATURE, sent) == SIGNATURE_INVALID);
    CHECK(VERIFY("msg_other", "1614265330", EXAMPLE_SIGNATURE, sent) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", "", sent) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", "  v1, ", sent) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330",
                 "v2"
                 ","
                 "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
                 sent) == SIGNATURE_INVALID);
#undef VERIFY
    signing_keys_wipe(&keys);
}

static void
test_asymmetric(void)
{
    static const char *const secrets[] = {ED25519_SEED, ED25519_PAIR};
    const int64_t sent = 1614265330;
    const size_t length = strlen(EXAMPLE_BODY);
    char signature[SIGNATURE_STANDARD_SIZE];
    char public_key[SIGNATURE_PUBLIC_KEY_SIZE];
    char header[2000] = "";
    char error[256];
    SigningKeys keys;

    for (size_t i = 0; i < 2; i++) {
        CHECK(signing_secret_check(secrets[i], error, sizeof error));
        if (!CHECK(signing_keys_init(&keys, secrets[i], error, sizeof error)))
            continue;
        CHECK(keys.asymmetric != NULL);
        CHECK(signature_standard(&keys, EXAMPLE_ID, sent, EXAMPLE_BODY, length, signature));
        CHECK_STR(signature, ED25519_SIGNATURE);
        CHECK(signing_keys_public_key(&keys, public_key));
        CHECK_STR(public_key, ED25519_PUBLIC);
        CHECK(signature_standard_verify(&keys, EXAMPLE_ID, "1614265330", EXAMPLE_BODY, length, signature, sent, 1) ==
              SIGNATURE_VALID);
        signing_keys_wipe(&keys);
        CHECK(keys.asymmetric == NULL);
    }
    CHECK(signing_keys_init_public(&keys, ED25519_PUBLIC, error, sizeof error));
    CHECK(!signature_standard(&keys, EXAMPLE_ID, sent, EXAMPLE_BODY, length, signature));
    CHECK(!signature_legacy(&keys, EXAMPLE_BODY, length, signature));
    CHECK(signing_keys_public_key(&keys, public_key));
    CHECK_STR(public_key, ED25519_PUBLIC);
#define VERIFY(id, timestamp, header)                                                                                  \
    signature_standard_verify(&keys, id, timestamp, EXAMPLE_BODY, length, header, sent, 300)
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", ED25519_SIGNATURE) == SIGNATURE_VALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", "v1a,AAAA " EXAMPLE_SIGNATURE " " ED25519_SIGNATURE) == SIGNATURE_VALID);
    CHECK(VERIFY("msg_other", "1614265330", ED25519_SIGNATURE) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265331", ED25519_SIGNATURE) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265631", ED25519_SIGNATURE) == SIGNATURE_BAD_TIMESTAMP);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", EXAMPLE_SIGNATURE) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", "") == SIGNATURE_INVALID);
    for (int i = 0; i < 8; i++) { /* no end of work with a stranger's header */
        strcat(header, ED25519_SIGNATURE " ");
        header[(i + 1) * 93 - 30] ^= 2;
    }
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", header) == SIGNATURE_INVALID);
    strcat(header, ED25519_SIGNATURE);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", header) == SIGNATURE_INVALID);
    CHECK(VERIFY(EXAMPLE_ID, "1614265330", header + 93) == SIGNATURE_VALID);
#undef VERIFY
    signing_keys_wipe(&keys);
}

static void
test_bad_asymmetric(void)
{
    static const char *const refused[] = {
        ED25519_PUBLIC, "whsk_", "whsk_MfKQ", "whsk_%", "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyu",
    };
    char other[] = ED25519_PAIR;
    char error[256];
    SigningKeys keys;

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        *error = '\0';
        CHECK(!signing_secret_check(refused[i], error, sizeof error) && *error != '\0');
        CHECK(!signing_keys_init(&keys, refused[i], error, sizeof error));
        CHECK(keys.asymmetric == NULL && keys.legacy == NULL);
    }
    other[70] ^= 1; /* in the public half */
    CHECK(!signing_keys_init(&keys, other, error, sizeof error) && keys.asymmetric == NULL);
    CHECK(strstr(error, "do not belong together") != NULL);
    CHECK(!signing_keys_init_public(&keys, ED25519_SEED, error, sizeof error) && keys.asymmetric == NULL);
    CHECK(!signing_keys_init_public(&keys, "whpk_MfKQ", error, sizeof error) && keys.asymmetric == NULL);
    CHECK(signing_keys_init(&keys, "plain", error, sizeof error));
    CHECK(!signing_keys_public_key(&keys, other));
    signing_keys_wipe(&keys);
}

static void
test_rotation(void)
{
    static const char *const secrets[] = {EXAMPLE_SECRET, ED25519_SEED, PADDED_SECRET};
    static const char expected[] =
        EXAMPLE_SIGNATURE " " ED25519_SIGNATURE " v1,/Xy7FLfFISa1TZH7WLT+0x/orG5MlcutAFOpVan3/00=";
    const int64_t sent = 1614265330;
    const size_t length = strlen(EXAMPLE_BODY);
    char header[3 * SIGNATURE_STANDARD_SIZE];
    char error[256];
    SigningKeys keys[3];

    for (int i = 0; i < 3; i++)
        CHECK(signing_keys_init(&keys[i], secrets[i], error, sizeof error));
    CHECK(signature_header(keys, 3, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof header));
    CHECK_STR(header, expected);
    for (int i = 0; i < 3; i++)
        CHECK(signature_standard_verify(&keys[i], EXAMPLE_ID, "1614265330", EXAMPLE_BODY, length, header, sent, 1) ==
              SIGNATURE_VALID);
    CHECK(signature_header(keys, 1, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof header));
    CHECK_STR(header, EXAMPLE_SIGNATURE);
    CHECK(signature_header(keys, 3, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof expected));
    CHECK(!signature_header(keys, 3, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof expected - 1));
    CHECK(!signature_header(keys, 0, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof header));
    signing_keys_wipe(&keys[1]);
    CHECK(!signature_header(keys, 2, EXAMPLE_ID, sent, EXAMPLE_BODY, length, header, sizeof header));
    signing_keys_wipe(&keys[0]);
    signing_keys_wipe(&keys[2]);
}

static void
test_secrets(void)
{
    static const char *const refused[] = {
        "",
        "whsec_",
        "whsec_M",
        "whsec_MfK",
        "whsec_M===",
        "whsec_====",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw",
        "whsec_MfK=Qr8G",
        "whsec_Mf Q",
        "whsec_Mf-_",
        "whsec_Mf\n=",
        "whsec_MfKQ=fKQ",
    };
    static const char *const accepted[] = {"x", "whsec", "WHSEC_!", "whsec_MQ==", "whsec_MTE=", "whsec_MTEx", " "};
    char long_secret[SIGNATURE_SECRET_MAX + 2];
    char error[256];
    SigningKeys keys;

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        *error = '\0';
        if (!CHECK(!signing_secret_check(refused[i], error, sizeof error)))
            printf("    secret: %s\n", refused[i]);
        CHECK(*error != '\0');
        CHECK(!signing_keys_init(&keys, refused[i], error, sizeof error));
        CHECK(keys.standard == NULL && keys.legacy == NULL);
    }
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++)
        CHECK(signing_secret_check(accepted[i], error, sizeof error));
    memset(long_secret, 'x', sizeof long_secret);
    long_secret[SIGNATURE_SECRET_MAX + 1] = '\0';
    CHECK(!signing_secret_check(long_secret, error, sizeof error));
    long_secret[SIGNATURE_SECRET_MAX] = '\0';
    CHECK(signing_secret_check(long_secret, error, sizeof error));
}

/* ---- Message bodies ---- */

static void
check_message(const MessageFields *fields, const char *expected, const char *expected_payload)
{
    MessageLayout layout;
    char *body = message_build(fields, &layout);
    char *payload;

    if (!CHECK(body != NULL))
        return;
    CHECK_STR(body, expected);
    CHECK(layout.body_length == strlen(expected));
    payload = strndup(body + layout.payload_offset, layout.payload_length);
    CHECK_STR(payload, expected_payload);
    free(payload);
    free(body);
}

static void
test_messages(void)
{
    check_message(&(MessageFields){"evt-1", "PayoutCalculated", "Payout", "p-1",
                                   "{\"a\": 1, \"b\": [1, 2, {\"c\": null}], \"d\": \"x: y, z\"}",
                                   "2025-01-02T03:04:05.678Z"},
                  "{\"id\":\"evt-1\",\"type\":\"PayoutCalculated\",\"aggregateType\":\"Payout\","
                  "\"aggregateId\":\"p-1\",\"payload\":{\"a\":1,\"b\":[1,2,{\"c\":null}],\"d\":\"x: y, z\"},"
                  "\"occurredAt\":\"2025-01-02T03:04:05.678Z\"}",
                  "{\"a\":1,\"b\":[1,2,{\"c\":null}],\"d\":\"x: y, z\"}");
    check_message(&(MessageFields){"\"\\/\b\f\n\r\t\x01\x1f\x7f", "ñandú ✔ 💸", "", "<&>'", "null", NULL},
                  "{\"id\":\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\",\"type\":\"ñandú ✔ 💸\","
                  "\"aggregateType\":\"\",\"aggregateId\":\"<&>'\",\"payload\":null,\"occurredAt\":null}",
                  "null");
    check_message(
        &(MessageFields){"i", "t", "a", "b",
                         " {\n\t\"n\" : 12345678901234567890.12300 , \"e\": 1e400,\r \"s\": \" \\\" , \\\\\" } ", "o"},
        "{\"id\":\"i\",\"type\":\"t\",\"aggregateType\":\"a\",\"aggregateId\":\"b\",\"payload\":"
        "{\"n\":12345678901234567890.12300,\"e\":1e400,\"s\":\" \\\" , \\\\\"},\"occurredAt\":\"o\"}",
        "{\"n\":12345678901234567890.12300,\"e\":1e400,\"s\":\" \\\" , \\\\\"}");
    /* Not JSON, and harmless: a string that never ends, a lone backslash at the end. */
    check_message(&(MessageFields){"i", "t", "a", "b", "\" \\", "o"},
                  "{\"id\":\"i\",\"type\":\"t\",\"aggregateType\":\"a\",\"aggregateId\":\"b\",\"payload\":\" \\,"
                  "\"occurredAt\":\"o\"}",
                  "\" \\");
    check_message(&(MessageFields){NULL, NULL, NULL, NULL, NULL, NULL},
                  "{\"id\":null,\"type\":null,\"aggregateType\":null,\"aggregateId\":null,\"payload\":null,"
                  "\"occurredAt\":null}",
                  "null");
}

/* ---- CloudEvents ---- */

static void
test_cloudevents(void)
{
    MessageFields event = {"evt-1", "PayoutCalculated", "Payout", "p-1", "{}", "2025-01-02T03:04:05.678Z"};
    static const char *const names[] = {"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time"};
    DeliveryHeader headers[CLOUDEVENTS_MAX_HEADERS];
    char buffer[CLOUDEVENTS_BUFFER_SIZE(200)];
    size_t size;

    CHECK(cloudevents_headers(&event, "//db.example/shop", headers, buffer, sizeof buffer) == 6);
    for (int i = 0; i < 6; i++)
        CHECK_STR(headers[i].name, names[i]);
    CHECK_STR(headers[0].value, "1.0");
    CHECK_STR(headers[1].value, "evt-1");
    CHECK_STR(headers[2].value, "//db.example/shop");
    CHECK_STR(headers[3].value, "PayoutCalculated");
    CHECK_STR(headers[4].value, "Payout/p-1");
    CHECK_STR(headers[5].value, "2025-01-02T03:04:05.678Z");
    size = (size_t)(headers[5].value - buffer) + strlen(headers[5].value) + 1;
    CHECK(cloudevents_headers(&event, "//db.example/shop", headers, buffer, size) == 6);
    for (size_t less = 0; less < size; less++)
        if (!CHECK(cloudevents_headers(&event, "//db.example/shop", headers, buffer, less) == -1))
            break;

    /* The binding's own example, and the ends of what is left as it is. */
    event = (MessageFields){"Euro € 😀", "!#&'~\"%\x7f\r\nñ", "a b", "", NULL, NULL};
    CHECK(cloudevents_headers(&event, "/s", headers, buffer, sizeof buffer) == 4);
    CHECK_STR(headers[1].value, "Euro%20%E2%82%AC%20%F0%9F%98%80");
    CHECK_STR(headers[3].value, "!#&'~%22%25%7F%0D%0A%C3%B1");
    event.aggregate_id = "c/d";
    CHECK(cloudevents_headers(&event, "/s", headers, buffer, sizeof buffer) == 5);
    CHECK_STR(headers[4].value, "a%20b/c/d");
    CHECK(cloudevents_headers(&event, "", headers, buffer, sizeof buffer) == -1);
    CHECK(cloudevents_headers(&event, NULL, headers, buffer, sizeof buffer) == -1);
    event.id = NULL;
    CHECK(cloudevents_headers(&event, "/s", headers, buffer, sizeof buffer) == -1);
    event.id = "1";
    event.type = "";
    CHECK(cloudevents_headers(&event, "/s", headers, buffer, sizeof buffer) == -1);
}

/* ---- Retry schedule ---- */

static void
test_retry(void)
{
    static const int64_t seconds[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};
    int64_t total = 0;

    for (int failed = 1; failed < DELIVERY_RETRY_ATTEMPTS; failed++) {
        int64_t delay = seconds[failed - 1] * 1000;

        CHECK(delivery_retry_delay_ms(failed, 0) == delay);
        CHECK(delivery_retry_delay_ms(failed, UINT32_MAX) > delay);
        CHECK(delivery_retry_delay_ms(failed, UINT32_MAX) <= delay + (delay < 1800000 ? delay : 1800000));
        CHECK(delivery_retry_delay_ms(failed, UINT32_MAX / 2 + 1) == delay + (delay < 1800000 ? delay : 1800000) / 2);
        total += delivery_retry_delay_ms(failed, 0);
    }
    CHECK(total >= INT64_C(75) * 3600 * 1000);
    CHECK(total <= INT64_C(76) * 3600 * 1000);
    CHECK(delivery_retry_delay_ms(10, 0) == 86400000);
    CHECK(delivery_retry_delay_ms(INT32_MAX, 0) == 86400000);
    CHECK(delivery_retry_delay_ms(0, UINT32_MAX) == 0);
    CHECK(delivery_retry_delay_ms(INT32_MIN, 1) == 0);
}

/* ---- URLs ---- */

static void
test_urls(void)
{
    static const char *const accepted[] = {
        "http://example.com", "https://example.com:8443/a/b?c=d#e", "HTTPS://EXAMPLE.COM/",     "http://127.0.0.1:1/",
        "http://[::1]:80/x",  "http://user:secret@host/x",          "https://ñandú.cl/webhook",
    };
    static const char *const refused[] = {
        "",
        "example.com",
        "/path",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://x/",
        "http://",
        "https:///",
        "http://a b/",
        "http://host/\n",
        "http://host/\x7f",
        " http://host/",
        "http://host:99999/",
        "http://host:x/",
        "http:",
        "javascript:alert(1)",
        "http://user:secret@/x",
    };
    char error[256];
    char long_url[DELIVERY_URL_MAX + 2];

    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++)
        if (!CHECK(delivery_url_check(accepted[i], error, sizeof error)))
            printf("    %s: %s\n", accepted[i], error);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        *error = '\0';
        if (!CHECK(!delivery_url_check(refused[i], error, sizeof error)))
            printf("    %s\n", refused[i]);
        CHECK(*error != '\0' && strstr(error, "secret") == NULL && strchr(error, '\n') == NULL);
    }
    memset(long_url, 'a', sizeof long_url);
    memcpy(long_url, "http://h/", 9);
    long_url[sizeof long_url - 1] = '\0';
    CHECK(!delivery_url_check(long_url, error, sizeof error));
}

int
main(void)
{
    test_known_signatures();
    test_verification();
    test_asymmetric();
    test_bad_asymmetric();
    test_rotation();
    test_secrets();
    test_messages();
    test_cloudevents();
    test_retry();
    test_urls();
    return unit_report();
}
