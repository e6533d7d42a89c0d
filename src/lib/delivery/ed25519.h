/*
 * Ed25519 signatures (RFC 8032) by OpenSSL's EVP interface. Internal to src/lib/delivery; signature.c is what uses it.
 * A key is an EVP_PKEY, to be freed by EVP_PKEY_free, which overwrites it; several threads may use it at a time.
 */
#ifndef APAPACHO_DELIVERY_ED25519_H
#define APAPACHO_DELIVERY_ED25519_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/evp.h>

#define ED25519_SIGNATURE_BYTES 64
#define ED25519_KEY_BYTES 32

/* The key of a seed; NULL: OpenSSL fails. */
EVP_PKEY *ed25519_private_key(const unsigned char seed[ED25519_KEY_BYTES]);

/* NULL: OpenSSL fails. */
EVP_PKEY *ed25519_public_key(const unsigned char bytes[ED25519_KEY_BYTES]);

/* The public part of either kind of key; false only when OpenSSL fails. */
bool ed25519_public_bytes(EVP_PKEY *key, unsigned char bytes[ED25519_KEY_BYTES]);

/* False when the key is a public one, or when OpenSSL fails. */
bool ed25519_sign(EVP_PKEY *key, const void *message, size_t length, unsigned char signature[ED25519_SIGNATURE_BYTES]);

bool ed25519_verify(EVP_PKEY *key, const void *message, size_t length,
                    const unsigned char signature[ED25519_SIGNATURE_BYTES]);

#endif
