/*
 * Standard Webhooks signatures, symmetric (v1) and asymmetric (v1a), and the backend's older hex form, on OpenSSL 3.
 *
 * Runs wherever deliveries are signed or verified. A SigningKeys holds keyed HMAC contexts that are never fed
 * themselves: every signature works on a duplicate, so that const keys can serve several threads. The contexts and the
 * Ed25519 key belong to the SigningKeys and are overwritten by OpenSSL when they are freed.
 */
#include "signature.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "ed25519.h"
#include "secret.h"

#define DIGEST_SIZE 32

/* Base64 characters of an Ed25519 signature. */
#define ED25519_SIGNATURE_TEXT 88

/* The most Ed25519 signatures of one header that are tried. */
#define VERIFICATIONS_MAX 8

typedef struct Bytes {
    const void *data;
    size_t length;
} Bytes;

bool
signing_secret_check(const char *secret, char *error, size_t error_size)
{
    unsigned char key[SIGNATURE_SECRET_MAX];
    SecretKind kind;
    bool ok = secret_decode(secret, &kind, key, error, error_size) >= 0;

    if (ok && kind == SECRET_PUBLIC) {
        snprintf(error, error_size, "the secret is a public key (whpk_), which cannot sign");
        ok = false;
    }
    OPENSSL_cleanse(key, sizeof key);
    return ok;
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

/* Makes the HMAC contexts of a secret whose decoded bytes are key. */
static bool
init_symmetric(SigningKeys *keys, const char *secret, const unsigned char *key, int length)
{
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (mac == NULL)
        return false;
    if (length > 0)
        keys->standard = keyed_context(mac, key, (size_t)length);
    keys->legacy = keyed_context(mac, secret, strlen(secret));
    EVP_MAC_free(mac); /* the contexts hold references of their own */
    return (length == 0 || keys->standard != NULL) && keys->legacy != NULL;
}

/* Makes the Ed25519 key of a whsk_ secret. False with error set. */
static bool
init_private(SigningKeys *keys, const unsigned char *key, int length, char *error, size_t error_size)
{
    unsigned char public_bytes[ED25519_KEY_BYTES];

    keys->asymmetric = ed25519_private_key(key);
    if (keys->asymmetric == NULL || !ed25519_public_bytes(keys->asymmetric, public_bytes)) {
        snprintf(error, error_size, "OpenSSL could not set up Ed25519");
        return false;
    }
    if (length == 2 * ED25519_KEY_BYTES && memcmp(key + ED25519_KEY_BYTES, public_bytes, ED25519_KEY_BYTES) != 0) {
        snprintf(error, error_size, "the two halves of the secret's Ed25519 key do not belong together");
        return false;
    }
    return true;
}

bool
signing_keys_init(SigningKeys *keys, const char *secret, char *error, size_t error_size)
{
    unsigned char key[SIGNATURE_SECRET_MAX];
    SecretKind kind;
    int length = secret_decode(secret, &kind, key, error, error_size);
    bool ok = length >= 0;

    *keys = (SigningKeys){0};
    if (ok && kind == SECRET_PUBLIC) {
        snprintf(error, error_size, "the secret is a public key (whpk_), which cannot sign");
        ok = false;
    }
    if (ok && kind == SECRET_PRIVATE)
        ok = init_private(keys, key, length, error, error_size);
    if (ok && !init_symmetric(keys, secret, key, kind == SECRET_PRIVATE ? 0 : length)) {
        snprintf(error, error_size, "OpenSSL could not set up HMAC-SHA256");
        ok = false;
    }
    OPENSSL_cleanse(key, sizeof key);
    if (!ok)
        signing_keys_wipe(keys);
    return ok;
}

bool
signing_keys_init_public(SigningKeys *keys, const char *public_key, char *error, size_t error_size)
{
    unsigned char key[SIGNATURE_SECRET_MAX];
    SecretKind kind;
    int length = secret_decode(public_key, &kind, key, error, error_size);

    *keys = (SigningKeys){0};
    if (length >= 0 && kind != SECRET_PUBLIC)
        snprintf(error, error_size, "a public key begins with \"whpk_\"");
    else if (length >= 0 && (keys->asymmetric = ed25519_public_key(key)) == NULL)
        snprintf(error, error_size, "OpenSSL could not set up Ed25519");
    OPENSSL_cleanse(key, sizeof key); /* it may have been a secret by mistake */
    return keys->asymmetric != NULL;
}

bool
signing_keys_public_key(const SigningKeys *keys, char text[SIGNATURE_PUBLIC_KEY_SIZE])
{
    unsigned char bytes[ED25519_KEY_BYTES];

    if (keys->asymmetric == NULL || !ed25519_public_bytes(keys->asymmetric, bytes))
        return false;
    memcpy(text, "whpk_", 5);
    EVP_EncodeBlock((unsigned char *)text + 5, bytes, ED25519_KEY_BYTES);
    return true;
}

void
signing_keys_wipe(SigningKeys *keys)
{
    EVP_MAC_CTX_free(keys->standard);
    EVP_MAC_CTX_free(keys->legacy);
    EVP_PKEY_free(keys->asymmetric);
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

/* The parts as one piece of memory, to be freed; NULL when memory runs out. */
static unsigned char *
join_parts(const Bytes *parts, int count, size_t *length)
{
    unsigned char *joined;
    size_t filled = 0;

    *length = 0;
    for (int i = 0; i < count; i++)
        *length += parts[i].length;
    joined = malloc(*length);
    for (int i = 0; joined != NULL && i < count; i++) {
        if (parts[i].length > 0)
            memcpy(joined + filled, parts[i].data, parts[i].length);
        filled += parts[i].length;
    }
    return joined;
}

/* What the signature covers: id "." timestamp "." body. */
#define SIGNED_PARTS 5
#define SIGNED_CONTENT(id, timestamp, body, body_length)                                                               \
    {                                                                                                                  \
        {id, strlen(id)}, {".", 1}, {timestamp, strlen(timestamp)}, {".", 1}, {body, body_length},                     \
    }

static bool
sign_asymmetric(const SigningKeys *keys, const Bytes parts[SIGNED_PARTS], char *signature)
{
    unsigned char raw[ED25519_SIGNATURE_BYTES];
    size_t length;
    unsigned char *content = join_parts(parts, SIGNED_PARTS, &length);
    bool ok = content != NULL && ed25519_sign(keys->asymmetric, content, length, raw);

    free(content);
    if (ok) {
        memcpy(signature, "v1a,", 4);
        EVP_EncodeBlock((unsigned char *)signature + 4, raw, ED25519_SIGNATURE_BYTES);
    }
    return ok;
}

/* signature_standard with the timestamp as the text that was sent. */
static bool
standard_of_text(const SigningKeys *keys, const char *id, const char *timestamp, const void *body, size_t body_length,
                 char signature[SIGNATURE_STANDARD_SIZE])
{
    const Bytes parts[SIGNED_PARTS] = SIGNED_CONTENT(id, timestamp, body, body_length);
    unsigned char digest[DIGEST_SIZE];

    if (keys->asymmetric != NULL)
        return sign_asymmetric(keys, parts, signature);
    if (!digest_parts(keys->standard, parts, SIGNED_PARTS, digest))
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
signature_header(const SigningKeys *keys, int count, const char *id, int64_t timestamp, const void *body,
                 size_t body_length, char *header, size_t size)
{
    size_t length = 0;

    for (int i = 0; i < count; i++) {
        char signature[SIGNATURE_STANDARD_SIZE];
        size_t added;

        if (!signature_standard(&keys[i], id, timestamp, body, body_length, signature))
            return false;
        added = strlen(signature);
        if (length + (i > 0) + added + 1 > size)
            return false;
        if (i > 0)
            header[length++] = ' ';
        memcpy(header + length, signature, added + 1);
        length += added;
    }
    return count > 0;
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

/* Is one word of the header the signature that the HMAC key makes? */
static bool
verify_symmetric(const SigningKeys *keys, const Bytes parts[SIGNED_PARTS], const char *header)
{
    char expected[3 + 44 + 1] = "v1,";
    const size_t length = sizeof expected - 1;
    unsigned char digest[DIGEST_SIZE];
    bool found = false;

    if (!digest_parts(keys->standard, parts, SIGNED_PARTS, digest))
        return false;
    EVP_EncodeBlock((unsigned char *)expected + 3, digest, DIGEST_SIZE);
    while (*header != '\0') {
        size_t word = strcspn(header, " ");

        if (word == length && CRYPTO_memcmp(header, expected, length) == 0)
            found = true;
        header += word + (header[word] == ' ');
    }
    return found;
}

/* Does one word of the header verify with the public key? No more than VERIFICATIONS_MAX are tried: each is dear. */
static bool
verify_asymmetric(const SigningKeys *keys, const Bytes parts[SIGNED_PARTS], const char *header)
{
    unsigned char raw[ED25519_SIGNATURE_TEXT / 4 * 3];
    size_t length;
    unsigned char *content = join_parts(parts, SIGNED_PARTS, &length);
    bool found = false;
    int tried = 0;

    while (content != NULL && *header != '\0' && !found && tried < VERIFICATIONS_MAX) {
        size_t word = strcspn(header, " ");

        if (word == 4 + ED25519_SIGNATURE_TEXT && memcmp(header, "v1a,", 4) == 0 &&
            base64_decode(header + 4, ED25519_SIGNATURE_TEXT, raw) == ED25519_SIGNATURE_BYTES) {
            found = ed25519_verify(keys->asymmetric, content, length, raw);
            tried++;
        }
        header += word + (header[word] == ' ');
    }
    free(content);
    return found;
}

SignatureVerdict
signature_standard_verify(const SigningKeys *keys, const char *id, const char *timestamp, const void *body,
                          size_t body_length, const char *header, int64_t now, int64_t tolerance)
{
    const Bytes parts[SIGNED_PARTS] = SIGNED_CONTENT(id, timestamp, body, body_length);
    int64_t sent;
    bool found;

    if (!parse_timestamp(timestamp, &sent) || sent < now - tolerance || sent > now + tolerance)
        return SIGNATURE_BAD_TIMESTAMP;
    found = keys->asymmetric != NULL ? verify_asymmetric(keys, parts, header) : verify_symmetric(keys, parts, header);
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
