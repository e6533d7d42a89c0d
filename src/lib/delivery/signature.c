/*
 * Standard Webhooks v1 signatures and the backend's older hex form, on OpenSSL 3's EVP_MAC.
 *
 * Runs wherever deliveries are signed or verified. A SigningKeys holds two keyed HMAC contexts that are never fed
 * themselves: every signature works on a duplicate, so that const keys can serve several threads. The contexts belong
 * to the SigningKeys and are overwritten by OpenSSL when they are freed.
 */
#include "signature.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#define SECRET_PREFIX "whsec_"
#define DIGEST_SIZE 32

typedef struct Bytes {
    const void *data;
    size_t length;
} Bytes;

/* The 6 bits of a base64 digit (RFC 4648 section 4), or -1. */
static int
base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

/* Decodes padded base64 into out (room for 3 bytes per 4 characters). The number of bytes, or -1 when malformed. */
static int
base64_decode(const char *text, size_t length, unsigned char *out)
{
    int count = 0;
    size_t padding = 0;

    if (length == 0 || length % 4 != 0)
        return -1;
    while (padding < 2 && text[length - 1 - padding] == '=')
        padding++;
    for (size_t i = 0; i < length; i += 4) {
        size_t digits = i + 4 == length ? 4 - padding : 4;
        uint32_t bits = 0;

        for (size_t k = 0; k < 4; k++) {
            int value = k < digits ? base64_value(text[i + k]) : 0;

            if (value < 0)
                return -1;
            bits = bits << 6 | (uint32_t)value;
        }
        for (size_t k = 0; k + 1 < digits; k++)
            out[count++] = (unsigned char)(bits >> (16 - 8 * k));
    }
    return count;
}

/* The standard key's bytes of a secret, in key (SIGNATURE_SECRET_MAX bytes). Their number, or -1 with error set. */
static int
decode_secret(const char *secret, unsigned char *key, char *error, size_t error_size)
{
    size_t length = strlen(secret);
    size_t prefix = strlen(SECRET_PREFIX);
    int count;

    if (length == 0) {
        snprintf(error, error_size, "the secret is empty");
        return -1;
    }
    if (length > SIGNATURE_SECRET_MAX) {
        snprintf(error, error_size, "the secret is longer than %d bytes", SIGNATURE_SECRET_MAX);
        return -1;
    }
    if (strncmp(secret, SECRET_PREFIX, prefix) != 0) {
        memcpy(key, secret, length);
        return (int)length;
    }
    count = base64_decode(secret + prefix, length - prefix, key);
    if (count < 0)
        snprintf(error, error_size, "what follows \"" SECRET_PREFIX "\" in the secret is not padded base64");
    return count;
}

bool
signing_secret_check(const char *secret, char *error, size_t error_size)
{
    unsigned char key[SIGNATURE_SECRET_MAX];
    int length = decode_secret(secret, key, error, error_size);

    OPENSSL_cleanse(key, sizeof key);
    return length >= 0;
}

/* A new HMAC-SHA256 context with this key; NULL when OpenSSL fails. */
static EVP_MAC_CTX *
keyed_context(EVP_MAC *mac, const void *key, size_t length)
{
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(mac);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end(),
    };

    if (context != NULL && EVP_MAC_init(context, key, length, parameters) != 1) {
        EVP_MAC_CTX_free(context);
        context = NULL;
    }
    return context;
}

bool
signing_keys_init(SigningKeys *keys, const char *secret, char *error, size_t error_size)
{
    unsigned char key[SIGNATURE_SECRET_MAX];
    int length = decode_secret(secret, key, error, error_size);
    EVP_MAC *mac;

    *keys = (SigningKeys){NULL, NULL};
    if (length >= 0) {
        mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        if (mac != NULL) {
            keys->standard = keyed_context(mac, key, (size_t)length);
            keys->legacy = keyed_context(mac, secret, strlen(secret));
            EVP_MAC_free(mac); /* the contexts hold references of their own */
        }
        if (keys->standard == NULL || keys->legacy == NULL) {
            snprintf(error, error_size, "OpenSSL could not set up HMAC-SHA256");
            signing_keys_wipe(keys);
            length = -1;
        }
    }
    OPENSSL_cleanse(key, sizeof key);
    return length >= 0;
}

void
signing_keys_wipe(SigningKeys *keys)
{
    EVP_MAC_CTX_free(keys->standard);
    EVP_MAC_CTX_free(keys->legacy);
    OPENSSL_cleanse(keys, sizeof *keys);
}

/* HMAC-SHA256 over the parts, one after the other. */
static bool
digest_parts(const void *keyed, const Bytes *parts, int count, unsigned char digest[DIGEST_SIZE])
{
    EVP_MAC_CTX *context = keyed == NULL ? NULL : EVP_MAC_CTX_dup(keyed);
    size_t size = 0;
    bool ok = context != NULL;

    for (int i = 0; ok && i < count; i++)
        ok = EVP_MAC_update(context, parts[i].data, parts[i].length) == 1;
    ok = ok && EVP_MAC_final(context, digest, &size, DIGEST_SIZE) == 1 && size == DIGEST_SIZE;
    EVP_MAC_CTX_free(context);
    return ok;
}

/* signature_standard with the timestamp as the text that was sent. */
static bool
standard_of_text(const SigningKeys *keys, const char *id, const char *timestamp, const void *body, size_t body_length,
                 char signature[SIGNATURE_STANDARD_SIZE])
{
    const Bytes parts[] = {
        {id, strlen(id)}, {".", 1}, {timestamp, strlen(timestamp)}, {".", 1}, {body, body_length},
    };
    unsigned char digest[DIGEST_SIZE];

    if (!digest_parts(keys->standard, parts, 5, digest))
        return false;
    memcpy(signature, "v1,", 3);
    EVP_EncodeBlock((unsigned char *)signature + 3, digest, DIGEST_SIZE);
    return true;
}

bool
signature_standard(const SigningKeys *keys, const char *id, int64_t timestamp, const void *body, size_t body_length,
                   char signature[SIGNATURE_STANDARD_SIZE])
{
    char text[24];

    snprintf(text, sizeof text, "%" PRId64, timestamp);
    return standard_of_text(keys, id, text, body, body_length, signature);
}

bool
signature_legacy(const SigningKeys *keys, const void *payload, size_t payload_length,
                 char signature[SIGNATURE_LEGACY_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    const Bytes part = {payload, payload_length};
    unsigned char digest[DIGEST_SIZE];

    if (!digest_parts(keys->legacy, &part, 1, digest))
        return false;
    for (int i = 0; i < DIGEST_SIZE; i++) {
        signature[2 * i] = hex[digest[i] >> 4];
        signature[2 * i + 1] = hex[digest[i] & 15];
    }
    signature[2 * DIGEST_SIZE] = '\0';
    return true;
}

/* Seconds since 1970 from plain digits; false for anything else. */
static bool
parse_timestamp(const char *text, int64_t *seconds)
{
    size_t length = strspn(text, "0123456789");

    if (length == 0 || length > 15 || text[length] != '\0')
        return false;
    *seconds = 0;
    for (size_t i = 0; i < length; i++)
        *seconds = *seconds * 10 + (text[i] - '0');
    return true;
}

SignatureVerdict
signature_standard_verify(const SigningKeys *keys, const char *id, const char *timestamp, const void *body,
                          size_t body_length, const char *header, int64_t now, int64_t tolerance)
{
    const size_t length = SIGNATURE_STANDARD_SIZE - 1;
    char expected[SIGNATURE_STANDARD_SIZE];
    int64_t sent;
    bool found = false;

    if (!parse_timestamp(timestamp, &sent) || sent < now - tolerance || sent > now + tolerance)
        return SIGNATURE_BAD_TIMESTAMP;
    if (!standard_of_text(keys, id, timestamp, body, body_length, expected))
        return SIGNATURE_INVALID;
    while (*header != '\0') {
        size_t word = strcspn(header, " ");

        if (word == length && CRYPTO_memcmp(header, expected, length) == 0)
            found = true;
        header += word + (header[word] == ' ');
    }
    return found ? SIGNATURE_VALID : SIGNATURE_INVALID;
}

SignatureVerdict
signature_legacy_verify(const SigningKeys *keys, const void *payload, size_t payload_length, const char *header)
{
    char expected[SIGNATURE_LEGACY_SIZE];

    if (strlen(header) != SIGNATURE_LEGACY_SIZE - 1 || !signature_legacy(keys, payload, payload_length, expected))
        return SIGNATURE_INVALID;
    return CRYPTO_memcmp(header, expected, SIGNATURE_LEGACY_SIZE - 1) == 0 ? SIGNATURE_VALID : SIGNATURE_INVALID;
}
