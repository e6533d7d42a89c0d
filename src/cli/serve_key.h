/*
 * The key of the admin routes.
 */
#ifndef APAPACHO_CLI_SERVE_KEY_H
#define APAPACHO_CLI_SERVE_KEY_H

#include <stdbool.h>
#include <stddef.h>

#define ADMIN_KEY_MAX 1024 /* bytes */

/* Not the key, but its HMAC by a random key: what is compared has one length and tells nothing of it. */
typedef struct AdminKey {
    bool required; /* false: the admin routes are open, on loopback only */
    unsigned char salt[32];
    unsigned char digest[32];
} AdminKey;

/*
 * Reads the key from a file's first line, or where that is NULL from ADMIN_KEY or the file that ADMIN_KEY_FILE names,
 * and wipes the variable. *found: there is one. False: it cannot be read or sent in a header, and said so.
 */
bool admin_key_read(AdminKey *key, const char *file, bool *found);

/* Whether this is the key; takes the same time for every wrong one of its length. */
bool admin_key_matches(const AdminKey *key, const char *given, size_t length);

#endif
