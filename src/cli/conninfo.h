/*
 * Where the server is: the command line's options, else DATABASE_URL, else the usual PG* variables.
 *
 * Used once by whatever connects; nothing here is global. Texts of a failure never contain a password.
 */
#ifndef APAPACHO_CLI_CONNINFO_H
#define APAPACHO_CLI_CONNINFO_H

#include <stdbool.h>

#include "text.h"

/* The most keywords that libpq is given. */
#define CONNINFO_MAX 64

typedef struct ConnInfo {
    char *keywords[CONNINFO_MAX]; /* for PQconnectdbParams; each once */
    char *values[CONNINFO_MAX];
    int count;
    char *schema;       /* Prisma's ?schema= in DATABASE_URL; NULL: not given */
    bool never_prompts; /* --no-password */
} ConnInfo;

/* What the command line says; NULL: nothing. dbname may be a connection string or a URL. */
typedef struct ConnOptions {
    const char *dbname;
    const char *host;
    const char *port;
    const char *username;
    bool never_prompts;
} ConnOptions;

/*
 * Puts together what to connect with, reading the environment variable DATABASE_URL where options->dbname is NULL.
 * False: it is no URL, or has a parameter that is not known; the reason, which repeats nothing secret, is in *reason,
 * to be freed by text_free. *info is to be freed by conninfo_free in any case.
 */
bool conninfo_read(const ConnOptions *options, ConnInfo *info, Text *reason);

/* Sets or replaces one keyword; the value is copied. */
void conninfo_set(ConnInfo *info, const char *keyword, const char *value);

void conninfo_free(ConnInfo *info);

/*
 * Takes out of a connection URL what Prisma understands and libpq does not: returns the rest, malloc'ed, with the value
 * of schema= in *schema (malloc'ed, or NULL). NULL: a parameter that cannot be followed; *reason says which.
 */
char *conninfo_without_prisma(const char *url, char **schema, Text *reason);

#endif
