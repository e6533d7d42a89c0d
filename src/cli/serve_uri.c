/*
 * Taking request targets apart. Strict rather than helpful: what is unclear is refused, so that no proxy before us and
 * we can read a path in two ways. Any thread.
 */
#include "serve_uri.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"
#include "utf8.h"

static int
digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes `length` bytes to *out, which moves behind the NUL; the piece, or NULL: it is not allowed. */
static const char *
decode_piece(const char *text, size_t length, char **out)
{
    const char *piece = *out;
    char *end = *out;

    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];

        if (byte <= ' ' || byte >= 0x7f || strchr("\"<>\\^`{|}#", byte) != NULL)
            return NULL;
        if (byte == '%') {
            if (length - i < 3 || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0)
                return NULL;
            byte = (unsigned char)(digit(text[i + 1]) * 16 + digit(text[i + 2]));
            if (byte < ' ' || byte == 0x7f)
                return NULL;
            i += 2;
        }
        *end++ = (char)byte;
    }
    *end++ = '\0';
    *out = end;
    return utf8_is_valid(piece) ? piece : NULL;
}

static bool
split_path(const char *path, size_t length, Uri *uri, char **out)
{
    const char *end = path + length;

    if (length == 1) /* "/" has no segment */
        return true;
    while (path < end) {
        const char *next = memchr(path + 1, '/', (size_t)(end - path - 1));
        size_t piece = (size_t)((next != NULL ? next : end) - path) - 1;

        if (uri->segment_count == URI_MAX_SEGMENTS)
            return false;
        uri->segments[uri->segment_count] = decode_piece(path + 1, piece, out);
        if (uri->segments[uri->segment_count++] == NULL)
            return false;
        path += piece + 1;
    }
    return true;
}

static bool
split_query(const char *query, Uri *uri, char **out)
{
    while (*query != '\0') {
        size_t length = strcspn(query, "&");
        const char *equals = memchr(query, '=', length);
        size_t name = equals != NULL ? (size_t)(equals - query) : length;
        UriParameter *parameter = &uri->query[uri->query_count];

        if (length > 0) {
            if (uri->query_count++ == URI_MAX_QUERY)
                return false;
            parameter->name = decode_piece(query, name, out);
            parameter->value = decode_piece(query + length - (equals != NULL ? length - name - 1 : 0),
                                            equals != NULL ? length - name - 1 : 0, out);
            if (parameter->name == NULL || parameter->value == NULL)
                return false;
        }
        query += length + (query[length] == '&');
    }
    return true;
}

bool
uri_parse(const char *target, Uri *uri)
{
    size_t path = strcspn(target, "?");
    char *out;

    *uri = (Uri){0};
    if (*target != '/')
        return false;
    /* Each piece is followed by a NUL, of which there is one more than "/", "?", "&" and "=" together, or two. */
    out = uri->storage = allocate(2 * strlen(target) + 2);
    if (split_path(target, path, uri, &out) && (target[path] == '\0' || split_query(target + path + 1, uri, &out)))
        return true;
    uri_free(uri);
    return false;
}

void
uri_free(Uri *uri)
{
    free(uri->storage);
    *uri = (Uri){0};
}
