/*
 * Unit tests of where apapacho-jobs connects to: DATABASE_URL as Prisma writes it, what outweighs what, and that no
 * complaint repeats a secret.
 *
 * A plain program of one process, which sets its own environment.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/conninfo.h"
#include "unit.h"

/* The value of a keyword; NULL: not set. */
static const char *
value_of(const ConnInfo *info, const char *keyword)
{
    for (int i = 0; i < info->count; i++) {
        if (strcmp(info->keywords[i], keyword) == 0)
            return info->values[i];
    }
    return NULL;
}

static void
test_prisma_parameters(void)
{
    static const struct {
        const char *url;
        const char *rest; /* NULL: refused */
        const char *schema;
    } cases[] = {
        {"postgresql://h/d", "postgresql://h/d", NULL},
        {"postgresql://h/d?", "postgresql://h/d", NULL},
        {"postgresql://h/d?schema=public", "postgresql://h/d", "public"},
        {"postgresql://h/d?schema=Tienda%20Sur&sslmode=require", "postgresql://h/d?sslmode=require", "Tienda Sur"},
        {"postgresql://h/d?connect_timeout=3&schema=a&schema=b&application_name=x",
         "postgresql://h/d?connect_timeout=3&application_name=x", "b"},
        {"postgresql://h/"
         "d?connection_limit=1&pool_timeout=2&socket_timeout=3&pgbouncer=true&statement_cache_size=0&single_use_"
         "connections=1",
         "postgresql://h/d", NULL},
        {"postgresql://h/d?sslaccept=strict", "postgresql://h/d?sslmode=verify-full", NULL},
        {"postgresql://h/d?sslmode=require&sslaccept=strict", "postgresql://h/d?sslmode=require&sslmode=verify-full",
         NULL},
        {"postgresql://h/d?sslaccept=accept_invalid_certs", "postgresql://h/d", NULL},
        /* Prisma's sslcert is libpq's sslrootcert; libpq's has a key */
        {"postgresql://h/d?sslcert=ca.pem&sslaccept=strict", "postgresql://h/d?sslrootcert=ca.pem&sslmode=verify-full",
         NULL},
        {"postgresql://h/d?sslcert=ca.pem&sslaccept=accept_invalid_certs&sslmode=require",
         "postgresql://h/d?sslmode=require", NULL},
        {"postgresql://h/d?sslcert=me.pem&sslkey=me.key", "postgresql://h/d?sslkey=me.key&sslcert=me.pem", NULL},
        {"postgresql://h/d?sslcert=me.pem&sslaccept=strict&sslkey=me.key",
         "postgresql://h/d?sslkey=me.key&sslcert=me.pem&sslmode=verify-full", NULL},
        {"postgresql://h/d?max_connection_lifetime=0&max_idle_connection_lifetime=300&uselibpqcompat=true",
         "postgresql://h/d", NULL},
        {"postgresql://h/d?&&sslmode=require&", "postgresql://h/d?sslmode=require", NULL},
        {"postgresql://h/d?schema=", "postgresql://h/d", NULL},
        /* The last @ ends the password, as Prisma has it */
        {"postgresql://u:a@b@c@h/d?application_name=x@y", "postgresql://u:a%40b%40c@h/d?application_name=x@y", NULL},
        {"postgresql://u:a@h", "postgresql://u:a@h", NULL},
        {"postgresql://u:a/b@h/d", NULL, NULL},
        {"postgresql://h/d?a=1&b=2", NULL, NULL},
        {"postgresql://h/d?schema=100%", "postgresql://h/d", "100%"},
        {"postgresql://h/d?schema=%zz%4", "postgresql://h/d", "%zz%4"},
        {"postgresql://h/d?schema=%C3%91", "postgresql://h/d", "\xc3\x91"},
        {"postgresql://h/d?schema", "postgresql://h/d", NULL},
        {"postgresql://h/d?paint=red", NULL, NULL},
        {"postgresql://h/d?sslidentity=a", NULL, NULL},
        {"postgresql://h/d?schemata=a", NULL, NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Text reason = {0};
        char *schema = NULL;
        char *rest = conninfo_without_prisma(cases[i].url, &schema, &reason);

        if (!CHECK_STR(rest, cases[i].rest) | !CHECK_STR(schema, cases[i].schema))
            printf("    url: %s\n", cases[i].url);
        CHECK((rest == NULL) == (reason.length > 0));
        free(rest);
        free(schema);
        text_free(&reason);
    }
}

static void
test_precedence(void)
{
    ConnOptions options = {0};
    Text reason = {0};
    ConnInfo info;

    unsetenv("DATABASE_URL");
    CHECK(conninfo_read(&options, &info, &reason) && info.count == 0); /* libpq looks at PG* itself */
    conninfo_free(&info);
    setenv("DATABASE_URL",
           "postgresql://ana:p%40ss@db.example:5433/apapacho?schema=public&sslmode=require&sslaccept=strict", 1);
    CHECK(conninfo_read(&options, &info, &reason));
    CHECK_STR(value_of(&info, "host"), "db.example");
    CHECK_STR(value_of(&info, "port"), "5433");
    CHECK_STR(value_of(&info, "user"), "ana");
    CHECK_STR(value_of(&info, "password"), "p@ss");
    CHECK_STR(value_of(&info, "dbname"), "apapacho");
    CHECK_STR(value_of(&info, "sslmode"), "verify-full"); /* never weaker than asked for */
    CHECK_STR(info.schema, "public");
    conninfo_free(&info);
    options = (ConnOptions){.host = "other", .port = "1", .username = "ben"};
    CHECK(conninfo_read(&options, &info, &reason));
    CHECK_STR(value_of(&info, "host"), "other");
    CHECK_STR(value_of(&info, "port"), "1");
    CHECK_STR(value_of(&info, "user"), "ben");
    CHECK_STR(value_of(&info, "dbname"), "apapacho");
    conninfo_free(&info);
    options = (ConnOptions){.dbname = "plain"};
    CHECK(conninfo_read(&options, &info, &reason));
    CHECK_STR(value_of(&info, "dbname"), "plain");
    CHECK(value_of(&info, "host") == NULL); /* DATABASE_URL is not looked at */
    conninfo_free(&info);
    CHECK(reason.length == 0);
}

static void
test_complaints(void)
{
    static const char *const wrong[] = {
        "mysql://u:s3cret@h/d",         "s3cret",
        "postgresql://u:s3cret@[::1/d", "postgresql://u:s3cret%zz@h/d",
        "postgresql://u:s3cret@[]/d",   "postgresql://u:s3cret@h/d?sslmode=a=s3cret",
        "postgresql://u@h/d?x=s3cret",  "postgresql://u:s3cret@[::1]x/d",
        "postgres://u:s3cret%00@h/d",   "postgresql://u:s3cret/b@h/d",
        "postgresql://u:a?s3cret@h/d",  "postgresql://u:12/s3cret@h/d",
        "postgresql://u:a?s3cret&b@h",  "postgresql://u:a?b=c&s3cret@h/d?schema=public",
        "postgresql://h/d?%s3cret=1",   "postgresql://u:s3cret/d",
        "host=h port=s3cret",
    };
    ConnOptions options = {0};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Text reason = {0};
        ConnInfo info;

        setenv("DATABASE_URL", wrong[i], 1);
        if (!CHECK(!conninfo_read(&options, &info, &reason)))
            printf("    url: %s\n", wrong[i]);
        CHECK(reason.length > 0);
        if (!CHECK(strstr(text_of(&reason), "s3cret") == NULL))
            printf("    reason: %s\n", text_of(&reason));
        conninfo_free(&info);
        text_free(&reason);
    }
}

int
main(void)
{
    test_prisma_parameters();
    test_precedence();
    test_complaints();
    return unit_report();
}
