/*
 * Signatures of webhook deliveries (spec section 6): the Standard Webhooks v1 signature and the backend's older one.
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

/* Sizes of the text forms, with the closing NUL: "v1," and 44 base64 characters; 64 hex digits. */
#define SIGNATURE_STANDARD_SIZE 48
#define SIGNATURE_LEGACY_SIZE 65

/* The longest secret that is accepted, in bytes. */
#define SIGNATURE_SECRET_MAX 1024

/* The keyed HMAC states of one secret. Treat as opaque. */
typedef struct SigningKeys {
    void *standard; /* keyed with the decoded bytes of a whsec_ secret, else with its raw bytes */
    void *legacy;   /* always keyed with the secret's raw bytes */
} SigningKeys;

/* What a verification found. */
typedef enum SignatureVerdict {
    SIGNATURE_VALID,
    SIGNATURE_INVALID,       /* missing, malformed, or made with another key or for other bytes */
    SIGNATURE_BAD_TIMESTAMP, /* not a number of seconds, or outside the tolerance */
} SignatureVerdict;

/*
 * Can this secret be used? False, with one line in error, when it is empty, too long, or begins with "whsec_" and is
 * not followed by padded base64 (RFC 4648 section 4) of at least one byte. Keeps no memory and starts nothing: fit for
 * a settings check.
 */
bool signing_secret_check(const char *secret, char *error, size_t error_size);

/*
 * Derives the keys of a secret. False, with one line in error and *keys empty, for what signing_secret_check refuses
 * and when memory runs out.
 */
bool signing_keys_init(SigningKeys *keys, const char *secret, char *error, size_t error_size);

/* Overwrites and frees the keys; *keys is empty afterwards. Harmless on empty (zeroed) keys. */
void signing_keys_wipe(SigningKeys *keys);

/*
 * Standard Webhooks 1.0, symmetric signature: "v1," + base64(HMAC-SHA256(key, id "." timestamp "." body)).
 * timestamp: seconds since 1970 UTC, as sent in webhook-timestamp. False only when OpenSSL fails (no memory).
 */
bool signature_standard(const SigningKeys *keys, const char *id, int64_t timestamp, const void *body,
                        size_t body_length, char signature[SIGNATURE_STANDARD_SIZE]);

/*
 * The backend's X-Webhook-Signature: lowercase hex HMAC-SHA256 over the payload's JSON bytes, keyed with the secret as
 * text (Node's createHmac('sha256', secret), also for a whsec_ secret). False only when OpenSSL fails.
 */
bool signature_legacy(const SigningKeys *keys, const void *payload, size_t payload_length,
                      char signature[SIGNATURE_LEGACY_SIZE]);

/*
 * The receiver's side. timestamp and header are the texts of webhook-timestamp and webhook-signature; header may list
 * several signatures separated by spaces, of which one must fit. now and tolerance in seconds. Constant-time in
 * everything that depends on the key.
 */
SignatureVerdict signature_standard_verify(const SigningKeys *keys, const char *id, const char *timestamp,
                                           const void *body, size_t body_length, const char *header, int64_t now,
                                           int64_t tolerance);

/* The same for X-Webhook-Signature. */
SignatureVerdict signature_legacy_verify(const SigningKeys *keys, const void *payload, size_t payload_length,
                                         const char *header);

#endif
