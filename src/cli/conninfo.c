/*
 * Where the server is. DATABASE_URL is the backend's own variable, in the form that its ORM (Prisma) reads: a
 * PostgreSQL URL with parameters that libpq has never heard of. Runs in the main thread, before connecting.
 */
#include "conninfo.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

/* Parameters that tell Prisma about its own pool, or that a libpq connection has no use for. */
static const char *const ignored_parameters[] = {
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    "pgbouncer",
    "schema",
    "statement_cache_size",
    "sslaccept",
    "single_use_connections",
    "max_connection_lifetime",
    "max_idle_connection_lifetime",
    "uselibpqcompat",
};

#define LONGEST_SHOWN 40 /* bytes of a wrong name that a complaint repeats */

static bool
is_url(const char *text)
{
    return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

static bool
is_ignored(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof ignored_parameters / sizeof *ignored_parameters; i++) {
        if (strlen(ignored_parameters[i]) == length && strncmp(ignored_parameters[i], name, length) == 0)
            return true;
    }
    return false;
}

static bool
is_libpq_keyword(const char *name, size_t length)
{
    PQconninfoOption *known = PQconndefaults();
    bool found = length == 3 && strncmp(name, "ssl", 3) == 0; /* JDBC's ssl=true, which libpq takes in URLs */

    for (PQconninfoOption *option = known; option != NULL && option->keyword != NULL; option++)
        found = found || (strlen(option->keyword) == length && strncmp(option->keyword, name, length) == 0);
    PQconninfoFree(known);
    return found;
}

/* A value that goes may be a password. */
static void
free_value(char *value)
{
    if (value != NULL)
        explicit_bzero(value, strlen(value));
    free(value);
}

/* Percent-decoding, for a schema's name. */
static char *
decode(const char *text, size_t length)
{
    char *decoded = allocate(length + 1);
    size_t out = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%' && i + 2 < length + 0 && isxdigit((unsigned char)text[i + 1]) &&
            isxdigit((unsigned char)text[i + 2])) {
            char digits[3] = {text[i + 1], text[i + 2], '\0'};

            decoded[out++] = (char)strtol(digits, NULL, 16);
            i += 2;
        } else {
            decoded[out++] = text[i];
        }
    }
    decoded[out] = '\0';
    return decoded;
}

/* The query of a URL as we read it, and what follows from it. */
typedef struct Query {
    Text kept; /* for libpq: "?a=b&c=d", or empty */
    char *schema;
    bool sslaccept; /* Prisma's, so that its sslcert is the server's authority */
    bool strict;    /* its way to ask for a certificate that is checked */
    bool has_sslkey;
    const char *sslcert; /* not kept yet; NULL: none */
    size_t sslcert_length;
} Query;

static void
keep(Query *query, const char *name, const char *parameter, size_t length)
{
    text_add(&query->kept, query->kept.length == 0 ? "?" : "&");
    text_add(&query->kept, name);
    text_add_bytes(&query->kept, parameter, length);
}

static bool
is_called(const char *parameter, size_t name, const char *called)
{
    return strlen(called) == name && strncmp(parameter, called, name) == 0;
}

/* A name that is not known, unless it may be a piece of a password: that had a "?" in it where a "@" follows. */
static void
refuse(const char *parameter, size_t name, Text *reason)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

    if (strchr(parameter, '@') != NULL)
        text_add(reason, "the URL has an unknown parameter; a ? in a password is written %3F");
    else if (name <= LONGEST_SHOWN && strspn(parameter, letters) >= name)
        text_format(reason, "the URL has an unknown parameter \"%.*s\"", (int)name, parameter);
    else
        text_add(reason, "the URL has an unknown parameter");
}

/* One name=value of the URL; false: it cannot be followed. */
static bool
read_parameter(Query *query, const char *parameter, size_t length, Text *reason)
{
    const char *equals = memchr(parameter, '=', length);
    size_t name = equals != NULL ? (size_t)(equals - parameter) : length;

    if (length == 0)
        return true;
    if (is_called(parameter, name, "sslcert") && equals != NULL) {
        query->sslcert = equals;
        query->sslcert_length = length - name;
        return true;
    }
    if (is_libpq_keyword(parameter, name)) {
        query->has_sslkey = query->has_sslkey || is_called(parameter, name, "sslkey");
        keep(query, "", parameter, length);
        return true;
    }
    if (!is_ignored(parameter, name)) {
        refuse(parameter, name, reason);
        return false;
    }
    if (is_called(parameter, name, "schema") && equals != NULL) {
        free(query->schema);
        query->schema = length > name + 1 ? decode(equals + 1, length - name - 1) : NULL;
    }
    query->sslaccept = query->sslaccept || is_called(parameter, name, "sslaccept");
    query->strict = query->strict || is_called(parameter, length, "sslaccept=strict");
    return true;
}

/*
 * Prisma's sslcert is the authority that the server's certificate is checked by, libpq's is the client's certificate,
 * which needs a key. Not to check what Prisma checks would be a weaker connection than asked for.
 */
static void
keep_certificate(Query *query)
{
    bool is_authority = query->sslaccept && !query->has_sslkey;

    if (query->sslcert != NULL && (!is_authority || query->strict))
        keep(query, is_authority ? "sslrootcert" : "sslcert", query->sslcert, query->sslcert_length);
    if (query->strict)
        keep(query, "sslmode=verify-full", "", 0);
}

/*
 * The URL up to its query. As browsers and Prisma do, the last "@" is the one that ends the password: libpq would take
 * the first. One behind the host is none: the password had a "/".
 */
static bool
add_address(Text *rest, const char *url, size_t length, Text *reason)
{
    const char *authority = strstr(url, "://") + 3;
    size_t size = strcspn(authority, "/?");
    const char *path = authority + size;
    const char *last = NULL;

    if (memchr(path, '@', (size_t)(url + length - path)) != NULL) {
        text_add(reason, "the URL has a @ behind the host; a / in a password is written %2F");
        return false;
    }
    for (const char *at = authority; at < path; at++)
        last = *at == '@' ? at : last;
    for (const char *at = url; at < url + length; at++) {
        if (*at == '@' && at < last)
            text_add(rest, "%40");
        else
            text_add_bytes(rest, at, 1);
    }
    return true;
}

char *
conninfo_without_prisma(const char *url, char **schema, Text *reason)
{
    size_t length = strcspn(url, "?");
    Query query = {0};
    Text rest = {0};
    bool good = add_address(&rest, url, length, reason);

    for (const char *parameter = url + length + (url[length] == '?'); good && *parameter != '\0';) {
        size_t size = strcspn(parameter, "&");

        good = read_parameter(&query, parameter, size, reason);
        parameter += size + (parameter[size] == '&');
    }
    keep_certificate(&query);
    text_add(&rest, text_of(&query.kept));
    text_free(&query.kept);
    *schema = query.schema;
    if (good)
        return rest.data;
    free_value(rest.data);
    return NULL;
}

/* libpq's complaint without what it quotes of the text in the end, which can be a password. */
static void
add_without_quote(Text *reason, const char *complaint)
{
    const char *quote = strstr(complaint, ": \"");

    if (quote == NULL)
        quote = strstr(complaint, " after \"");
    text_add_bytes(reason, complaint, quote != NULL ? (size_t)(quote - complaint) : strcspn(complaint, "\n"));
}

void
conninfo_set(ConnInfo *info, const char *keyword, const char *value)
{
    char *copy = copy_string(value);
    int place = 0;

    while (place < info->count && strcmp(info->keywords[place], keyword) != 0)
        place++;
    if (place == CONNINFO_MAX)
        abort();
    if (place == info->count)
        info->keywords[info->count++] = copy_string(keyword);
    else
        free_value(info->values[place]);
    info->values[place] = copy;
}

static bool
read_string(ConnInfo *info, const char *text, const char *name, Text *reason)
{
    char *complaint = NULL;
    char *url = NULL;
    PQconninfoOption *options;

    if (is_url(text)) {
        text = url = conninfo_without_prisma(text, &info->schema, reason);
        if (url == NULL)
            return false;
    }
    options = PQconninfoParse(text, &complaint);
    free_value(url);
    if (options == NULL) {
        text_format(reason, "invalid connection string in %s: ", name);
        add_without_quote(reason, complaint != NULL ? complaint : "out of memory");
        PQfreemem(complaint);
        return false;
    }
    for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
        if (option->val == NULL)
            continue;
        /* It is repeated by libpq, and is the password where somebody has forgotten the host. */
        if (strcmp(option->keyword, "port") == 0 && strspn(option->val, "0123456789,") != strlen(option->val))
            text_format(reason, "invalid connection string in %s: the port is no number", name);
        conninfo_set(info, option->keyword, option->val);
    }
    PQconninfoFree(options);
    return reason->length == 0;
}

bool
conninfo_read(const ConnOptions *options, ConnInfo *info, Text *reason)
{
    const char *url = getenv("DATABASE_URL");

    *info = (ConnInfo){.never_prompts = options->never_prompts};
    if (options->dbname != NULL) {
        if (!is_url(options->dbname) && strchr(options->dbname, '=') == NULL)
            conninfo_set(info, "dbname", options->dbname);
        else if (!read_string(info, options->dbname, "--dbname", reason))
            return false;
    } else if (url != NULL && *url != '\0') {
        if (!is_url(url)) {
            text_add(reason, "DATABASE_URL must begin with postgresql:// or postgres://");
            return false;
        }
        if (!read_string(info, url, "DATABASE_URL", reason))
            return false;
    }
    if (options->host != NULL)
        conninfo_set(info, "host", options->host);
    if (options->port != NULL)
        conninfo_set(info, "port", options->port);
    if (options->username != NULL)
        conninfo_set(info, "user", options->username);
    return true;
}

void
conninfo_free(ConnInfo *info)
{
    for (int i = 0; i < info->count; i++) {
        free(info->keywords[i]);
        free_value(info->values[i]);
    }
    free(info->schema);
    *info = (ConnInfo){0};
}
