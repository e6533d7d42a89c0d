/*
 * The target of a request as it stands in the request line, taken apart.
 *
 * Pure; the texts belong to the Uri.
 */
#ifndef APAPACHO_CLI_SERVE_URI_H
#define APAPACHO_CLI_SERVE_URI_H

#include <stdbool.h>

#define URI_MAX_SEGMENTS 8
#define URI_MAX_QUERY 8

typedef struct UriParameter {
    const char *name;
    const char *value; /* "" where there is no "=" */
} UriParameter;

typedef struct Uri {
    char *storage; /* malloc'ed */
    const char *segments[URI_MAX_SEGMENTS];
    int segment_count;
    UriParameter query[URI_MAX_QUERY];
    int query_count;
} Uri;

/*
 * Splits an absolute path and its query (RFC 3986) at "/", "&" and "=", and decodes each piece: "/a%2Fb/c?d=e" has the
 * segments "a/b" and "c". Nothing is normalised: "//" has an empty segment, ".." is one like any other. False, with
 * nothing to free: it is none, a byte or an escape is not allowed, a piece is not UTF-8 or has a control character, or
 * there are too many.
 */
bool uri_parse(const char *target, Uri *uri);

void uri_free(Uri *uri);

#endif
