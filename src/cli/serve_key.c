/*
 * The admin key: read by the main thread before anything else, compared by libmicrohttpd's.
 */
#include "serve_key.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "message.h"

#define KEY_SHORT 16 /* bytes: fewer can be guessed */

static bool
digest_of(const unsigned char *salt, const char *text, size_t length, unsigned char *digest)
{
    unsigned int size = 32;

    return HMAC(EVP_sha256(), salt, 32, (const unsigned char *)text, length, digest, &size) != NULL && size == 32;
}

static bool
read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "r");
    bool ok = file != NULL && (fgets(line, (int)size, file) != NULL || !ferror(file));

    if (!ok)
        message_error("could not read the admin key's file \"%s\": %s", path, strerror(errno));
    if (file != NULL)
        fclose(file);
    line[strcspn(line, "\r\n")] = '\0';
    return ok;
}

/* What a header's value can carry as it is. */
static bool
can_be_sent(const char *text)
{
    size_t length = strlen(text);

    for (size_t i = 0; i < length; i++) {
        if (text[i] < ' ' || text[i] > '~')
            return false;
    }
    return length > 0 && length < ADMIN_KEY_MAX && text[0] != ' ' && text[length - 1] != ' ';
}

static bool
keep(AdminKey *key, const char *text)
{
    if (!can_be_sent(text)) {
        message_error("the admin key must be printable ASCII without blanks at its ends, at most %d bytes",
                      ADMIN_KEY_MAX - 1);
        return false;
    }
    if (strlen(text) < KEY_SHORT)
        message_warning("the admin key is shorter than %d bytes and can be guessed", KEY_SHORT);
    key->required = true;
    if (RAND_bytes(key->salt, sizeof key->salt) == 1 && digest_of(key->salt, text, strlen(text), key->digest))
        return true;
    message_error("could not set up the admin key");
    return false;
}

bool
admin_key_read(AdminKey *key, const char *file, bool *found)
{
    char line[ADMIN_KEY_MAX + 2] = "";
    char *variable = getenv("ADMIN_KEY");
    bool ok = true;

    if (file == NULL && (variable == NULL || *variable == '\0'))
        file = getenv("ADMIN_KEY_FILE");
    *found = true;
    if (file != NULL && *file != '\0')
        ok = read_line(file, line, sizeof line) && keep(key, line);
    else if (variable != NULL && *variable != '\0')
        ok = keep(key, variable);
    else
        *found = false;
    explicit_bzero(line, sizeof line);
    if (variable != NULL)
        explicit_bzero(variable, strlen(variable));
    return ok;
}

bool
admin_key_matches(const AdminKey *key, const char *given, size_t length)
{
    unsigned char digest[32];

    return length < ADMIN_KEY_MAX && digest_of(key->salt, given, length, digest) &&
           CRYPTO_memcmp(digest, key->digest, sizeof digest) == 0;
}
