/*
 * Decodes the text forms of secrets. Runs wherever secrets are checked or deliveries are signed; what it decodes is in
 * the caller's buffer, and the caller's to overwrite.
 */
#include "secret.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ed25519.h"

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

int
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

/* The kind that the prefix of a secret announces, with what follows it in *encoded; NULL there: no prefix. */
static SecretKind
kind_of(const char *secret, const char **encoded)
{
    static const struct {
        const char *prefix;
        SecretKind kind;
    } kinds[] = {{"whsec_", SECRET_SYMMETRIC}, {"whsk_", SECRET_PRIVATE}, {"whpk_", SECRET_PUBLIC}};

    *encoded = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(secret, kinds[i].prefix, strlen(kinds[i].prefix)) == 0) {
            *encoded = secret + strlen(kinds[i].prefix);
            return kinds[i].kind;
        }
    return SECRET_SYMMETRIC;
}

int
secret_decode(const char *secret, SecretKind *kind, unsigned char key[SIGNATURE_SECRET_MAX], char *error,
              size_t error_size)
{
    size_t length = strlen(secret);
    const char *encoded;
    int count;

    *kind = kind_of(secret, &encoded);
    if (length == 0) {
        snprintf(error, error_size, "the secret is empty");
        return -1;
    }
    if (length > SIGNATURE_SECRET_MAX) {
        snprintf(error, error_size, "the secret is longer than %d bytes", SIGNATURE_SECRET_MAX);
        return -1;
    }
    if (encoded == NULL) {
        memcpy(key, secret, length);
        return (int)length;
    }
    count = base64_decode(encoded, strlen(encoded), key);
    if (count < 0) {
        snprintf(error, error_size, "what follows \"%.*s\" in the secret is not padded base64", (int)(encoded - secret),
                 secret);
    } else if (*kind == SECRET_PRIVATE && count != ED25519_KEY_BYTES && count != 2 * ED25519_KEY_BYTES) {
        snprintf(error, error_size, "what follows \"whsk_\" in the secret is not an Ed25519 key of 32 or 64 bytes");
        count = -1;
    } else if (*kind == SECRET_PUBLIC && count != ED25519_KEY_BYTES) {
        snprintf(error, error_size, "what follows \"whpk_\" is not an Ed25519 public key of 32 bytes");
        count = -1;
    }
    return count;
}
