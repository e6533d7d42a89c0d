/*
 * The environment of `outbox start`: the seed's variables, by which a machine differs from the server's settings. Read
 * once, at the start.
 */
#include "start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/delivery/url.h"
#include "message.h"

/* The variable's value; NULL: it is not set, or empty. */
static const char *
variable(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && *value != '\0' ? value : NULL;
}

static bool
read_number(const char *name, long lowest, long highest, const char **text)
{
    char *end;
    long number;

    *text = variable(name);
    if (*text == NULL)
        return true;
    errno = 0;
    number = strtol(*text, &end, 10);
    if (errno == 0 && *end == '\0' && number >= lowest && number <= highest)
        return true;
    message_error("environment variable %s must be a whole number from %ld to %ld, not \"%s\"", name, lowest, highest,
                  *text);
    return false;
}

static bool
read_type(const char **type)
{
    *type = variable("OUTBOX_PUBLISHER_TYPE");
    if (*type == NULL || strcasecmp(*type, "console") == 0 || strcasecmp(*type, "webhook") == 0)
        return true;
    message_error("environment variable OUTBOX_PUBLISHER_TYPE has the value \"%s\"", *type);
    message_hint("The types are console and webhook.");
    return false;
}

static bool
read_url(const char **url)
{
    char error[160];

    *url = variable("OUTBOX_WEBHOOK_URL");
    if (*url == NULL || delivery_url_check(*url, error, sizeof error))
        return true;
    message_error("environment variable OUTBOX_WEBHOOK_URL is not a usable URL: %s", error);
    return false;
}

/* The first line of the file. */
static bool
read_secret_file(const char *path, char *secret, int size)
{
    FILE *file = fopen(path, "r");

    if (file == NULL || (fgets(secret, size, file) == NULL && ferror(file))) {
        message_error("could not read the secret's file \"%s\": %s", path, strerror(errno));
        if (file != NULL)
            fclose(file);
        return false;
    }
    fclose(file);
    secret[strcspn(secret, "\r\n")] = '\0';
    return true;
}

static bool
read_secret(Overrides *overrides)
{
    const char *secret = variable("OUTBOX_WEBHOOK_SECRET");
    const char *file = variable("OUTBOX_WEBHOOK_SECRET_FILE");
    char line[SIGNATURE_SECRET_MAX + 3] = "";
    char error[160];
    bool usable;

    if (secret == NULL && file == NULL)
        return true;
    if (secret == NULL && !read_secret_file(file, line, sizeof line))
        return false;
    usable = signing_keys_init(&overrides->keys, secret != NULL ? secret : line, error, sizeof error);
    explicit_bzero(line, sizeof line);
    overrides->has_secret = usable;
    if (!usable)
        message_error("environment variable %s is not a usable secret: %s",
                      secret != NULL ? "OUTBOX_WEBHOOK_SECRET" : "OUTBOX_WEBHOOK_SECRET_FILE", error);
    return usable;
}

bool
overrides_read(Overrides *overrides)
{
    *overrides = (Overrides){0};
    return read_type(&overrides->publisher_type) && read_url(&overrides->url) &&
           read_number("OUTBOX_BATCH_SIZE", 1, 10000, &overrides->batch_size) &&
           read_number("OUTBOX_MAX_RETRIES", 1, 1000, &overrides->max_retries) && read_secret(overrides);
}

void
overrides_free(Overrides *overrides)
{
    signing_keys_wipe(&overrides->keys);
    overrides->has_secret = false;
}
