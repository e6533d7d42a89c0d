/*
 * The text forms of signing secrets. Internal to src/lib/delivery; signature.c is what uses it.
 */
#ifndef APAPACHO_DELIVERY_SECRET_H
#define APAPACHO_DELIVERY_SECRET_H

#include <stddef.h>

#include "signature.h"

typedef enum SecretKind {
    SECRET_SYMMETRIC, /* "whsec_" and base64, or any other text, whose bytes are the key */
    SECRET_PRIVATE,   /* "whsk_" and base64 of an Ed25519 seed (32 bytes), or of seed and public key (64) */
    SECRET_PUBLIC,    /* "whpk_" and base64 of an Ed25519 public key (32 bytes) */
} SecretKind;

/* Decodes padded base64 (RFC 4648 section 4) into out, 3 bytes per 4 characters. Their number; -1: malformed, empty. */
int base64_decode(const char *text, size_t length, unsigned char *out);

/* The key's bytes, in key, and its kind. Their number, or -1 with one line in error that repeats nothing of them. */
int secret_decode(const char *secret, SecretKind *kind, unsigned char key[SIGNATURE_SECRET_MAX], char *error,
                  size_t error_size);

#endif
