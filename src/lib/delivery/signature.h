/*
 * Signatures of webhook deliveries (spec section 6): those of Standard Webhooks 1.0, symmetric (v1) and asymmetric
 * (v1a), and the backend's older one.
 *
 * Runs in the publisher's worker, in the companion program and in the tests' receiver. Keys are derived from the
 * secret once (signing_keys_init) and may then be used by several threads at a time; whoever initialised a SigningKeys
 * owns it and wipes it. Nothing here is global, and no message ever contains a part of the secret.
 */
#ifndef APAPACHO_DELIVERY_SIGNATURE_H
#define APAPACHO_DELIVERY_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Sizes of the text forms, with the closing NUL: room for "v1," and 44 base64 characters, or for "v1a," and 88; 64 hex
 * digits; "whpk_" and 44 base64 characters.
 */
#define SIGNATURE_STANDARD_SIZE 93
#define SIGNATURE_LEGACY_SIZE 65
#define SIGNATURE_PUBLIC_KEY_SIZE 50

/* The longest secret that is accepted, in bytes. */
#define SIGNATURE_SECRET_MAX 1024

/* What one secret signs with. Treat as opaque, but for asymmetric != NULL. */
typedef struct SigningKeys {
    void *standard;   /* HMAC, keyed with the decoded bytes of a whsec_ secret, else with its raw bytes */
    void *legacy;     /* HMAC, always keyed with the secret's raw bytes; NULL for a public key */
    void *asymmetric; /* the Ed25519 key of a whsk_ secret or of a whpk_ public key; NULL for others */
} SigningKeys;

/* What a verification found. */
typedef enum SignatureVerdict {
    SIGNATURE_VALID,
    SIGNATURE_INVALID,       /* missing, malformed, or made with another key or for other bytes */
    SIGNATURE_BAD_TIMESTAMP, /* not a number of seconds, or outside the tolerance */
} SignatureVerdict;

/*
 * Can this secret be used for signing? Three forms: "whsec_" and padded base64 (RFC 4648 section 4) of the HMAC key;
 * "whsk_" and the same of an Ed25519 key, 32 bytes of seed or 64 of seed and public key; any other text, which is the
 * HMAC key itself. False, with one line in error, when it is empty, too long, malformed or a public key ("whpk_").
 * Keeps no memory and starts nothing: fit for a settings check. Does not see whether the halves of an Ed25519 key
 * belong together; signing_keys_init does.
 */
bool signing_secret_check(const char *secret, char *error, size_t error_size);

/*
 * Derives the keys of a secret. False, with one line in error and *keys empty, for what signing_secret_check refuses,
 * for halves of an Ed25519 key that do not belong together, and when memory runs out.
 */
bool signing_keys_init(SigningKeys *keys, const char *secret, char *error, size_t error_size);

/* The same for a receiver's public key ("whpk_…"), which can only verify v1a signatures. */
bool signing_keys_init_public(SigningKeys *keys, const char *public_key, char *error, size_t error_size);

/* The "whpk_…" text to give to receivers. False: the keys are not asymmetric. */
bool signing_keys_public_key(const SigningKeys *keys, char text[SIGNATURE_PUBLIC_KEY_SIZE]);

/* Overwrites and frees the keys; *keys is empty afterwards. Harmless on empty (zeroed) keys. */
void signing_keys_wipe(SigningKeys *keys);

/*
 * Standard Webhooks 1.0: "v1," + base64(HMAC-SHA256(key, content)), or with an asymmetric key "v1a," +
 * base64(Ed25519(key, content)); content is id "." timestamp "." body. timestamp: seconds since 1970 UTC, as sent in
 * webhook-timestamp. False for empty and public keys, and when OpenSSL fails (no memory).
 */
bool signature_standard(const SigningKeys *keys, const char *id, int64_t timestamp, const void *body,
                        size_t body_length, char signature[SIGNATURE_STANDARD_SIZE]);

/*
 * The value of webhook-signature while secrets are rotated: one signature by each of count (>= 1) keys, in their order,
 * separated by a space; they may be of different kinds. count * SIGNATURE_STANDARD_SIZE bytes are always enough. False
 * when size is too small, and where signature_standard is.
 */
bool signature_header(const SigningKeys *keys, int count, const char *id, int64_t timestamp, const void *body,
                      size_t body_length, char *header, size_t size);

/*
 * The backend's X-Webhook-Signature: lowercase hex HMAC-SHA256 over the payload's JSON bytes, keyed with the secret as
 * text (Node's createHmac('sha256', secret), also for a whsec_ secret). False only when OpenSSL fails. With an
 * asymmetric secret it is of no use to anyone, as nobody else may have the secret: leave the header out.
 */
bool signature_legacy(const SigningKeys *keys, const void *payload, size_t payload_length,
                      char signature[SIGNATURE_LEGACY_SIZE]);

/*
 * The receiver's side. timestamp and header are the texts of webhook-timestamp and webhook-signature; header may list
 * several signatures separated by spaces, of which one must fit (of v1a signatures, only the first eight are tried).
 * now and tolerance in seconds. Constant-time in everything that depends on the key.
 */
SignatureVerdict signature_standard_verify(const SigningKeys *keys, const char *id, const char *timestamp,
                                           const void *body, size_t body_length, const char *header, int64_t now,
                                           int64_t tolerance);

/* The same for X-Webhook-Signature. */
SignatureVerdict signature_legacy_verify(const SigningKeys *keys, const void *payload, size_t payload_length,
                                         const char *header);

#endif
