/*
 * Ed25519 on OpenSSL's one-shot interface: the algorithm reads the message twice, so it cannot be fed in parts. Runs
 * wherever deliveries are signed or verified; owns nothing.
 */
#include "ed25519.h"

#include <openssl/err.h>

EVP_PKEY *
ed25519_private_key(const unsigned char seed[ED25519_KEY_BYTES])
{
    return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, ED25519_KEY_BYTES);
}

EVP_PKEY *
ed25519_public_key(const unsigned char bytes[ED25519_KEY_BYTES])
{
    return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, bytes, ED25519_KEY_BYTES);
}

bool
ed25519_public_bytes(EVP_PKEY *key, unsigned char bytes[ED25519_KEY_BYTES])
{
    size_t size = ED25519_KEY_BYTES;

    return EVP_PKEY_get_raw_public_key(key, bytes, &size) == 1 && size == ED25519_KEY_BYTES;
}

bool
ed25519_sign(EVP_PKEY *key, const void *message, size_t length, unsigned char signature[ED25519_SIGNATURE_BYTES])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t size = ED25519_SIGNATURE_BYTES;
    bool ok = context != NULL && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestSign(context, signature, &size, message, length) == 1 && size == ED25519_SIGNATURE_BYTES;

    EVP_MD_CTX_free(context);
    if (!ok)
        ERR_clear_error(); /* the queue is the process's, and others read it */
    return ok;
}

bool
ed25519_verify(EVP_PKEY *key, const void *message, size_t length,
               const unsigned char signature[ED25519_SIGNATURE_BYTES])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool ok = context != NULL && EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestVerify(context, signature, ED25519_SIGNATURE_BYTES, message, length) == 1;

    EVP_MD_CTX_free(context);
    if (!ok)
        ERR_clear_error();
    return ok;
}
