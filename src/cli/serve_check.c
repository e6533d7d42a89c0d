/*
 * What a request must be like before anything is done for it: a path that is one, the key, a known route, a body that
 * is small enough and says what it should. Runs in libmicrohttpd's thread.
 *
 * The key comes before the route, so that without it nothing is learnt of what there is below /api/admin.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "json.h"
#include "serve.h"

/* What is looked for among the headers. */
typedef struct Heads {
    const AdminKey *key;
    int keys;       /* headers with a key */
    bool key_right; /* of the last one */
    bool has_origin;
    const char *host;
    const char *length;
    int lengths; /* headers that say where the body ends */
    const char *type;
} Heads;

static enum MHD_Result
look_at_header(void *context, enum MHD_ValueKind kind, const char *name, size_t name_size, const char *value,
               size_t value_size)
{
    Heads *heads = context;

    (void)kind;
    (void)name_size;
    if (value == NULL)
        return MHD_YES;
    if (strcasecmp(name, "X-Admin-Key") == 0) {
        heads->keys++;
        heads->key_right = heads->key->required && admin_key_matches(heads->key, value, value_size);
    } else if (strcasecmp(name, "Origin") == 0) {
        heads->has_origin = true;
    } else if (strcasecmp(name, "Host") == 0) {
        heads->host = value;
    } else if (strcasecmp(name, "Content-Length") == 0) {
        heads->length = value;
        heads->lengths++;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        heads->lengths += strcasecmp(value, "chunked") == 0 ? 1 : 2;
    } else if (strcasecmp(name, "Content-Type") == 0) {
        heads->type = value;
    }
    return MHD_YES;
}

/* Whether a Host header names this machine by a name that no other machine's name server can give away. */
static bool
is_local_host(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

    for (size_t i = 0; host != NULL && i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(names[i]);

        if (strncasecmp(host, names[i], length) == 0 && (host[length] == '\0' || host[length] == ':'))
            return true;
    }
    return false;
}

/* Without a key everything on this machine may call the admin routes, but not the pages that its browser shows. */
static bool
is_admitted(const Heads *heads)
{
    if (heads->key->required)
        return heads->keys == 1 && heads->key_right;
    return !heads->has_origin && is_local_host(heads->host);
}

static void
refuse_key(Request *request, const Heads *heads)
{
    if (heads->key->required)
        answer_error(request, MHD_HTTP_UNAUTHORIZED, "No autorizado: falta la cabecera X-Admin-Key o no es válida");
    else
        answer_error(request, MHD_HTTP_UNAUTHORIZED,
                     "No autorizado: sin clave, las rutas de administración solo se pueden llamar desde este equipo");
}

static void
refuse_method(Request *request, Route route)
{
    answer_error(request, MHD_HTTP_METHOD_NOT_ALLOWED, "Método no permitido: esta ruta es %s %s",
                 route_describe(route)->method, route_describe(route)->path);
    request->answer.allow = route_describe(route)->method;
}

static bool
is_json(const char *type)
{
    static const char json[] = "application/json";

    return strncasecmp(type, json, sizeof json - 1) == 0 && strchr("; \t", type[sizeof json - 1]) != NULL;
}

bool
serve_check_head(Serve *serve, Request *request, const char *method)
{
    Heads heads = {.key = &serve->key};
    Route route = ROUTE_NONE;
    RouteMatch match;
    Text error = {0};

    MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, look_at_header, &heads);
    if (!request->uri_valid) {
        answer_error(request, MHD_HTTP_BAD_REQUEST, "La URL no es válida");
        request->answer.close = true;
        return true;
    }
    /* A proxy before us may see the end of the body elsewhere, and so another request (RFC 9112, section 6.3). */
    if (heads.lengths > 1) {
        answer_error(request, MHD_HTTP_BAD_REQUEST, "No está claro dónde termina el cuerpo");
        request->answer.close = true;
        return true;
    }
    match = route_find(method, &request->uri, &route);
    if (route_is_admin(&request->uri) && !is_admitted(&heads)) {
        refuse_key(request, &heads);
        return true;
    }
    if (match == MATCH_NO_PATH) {
        answer_error(request, MHD_HTTP_NOT_FOUND, "Ruta no encontrada");
        return true;
    }
    if (match == MATCH_NO_METHOD) {
        refuse_method(request, route);
        return true;
    }
    request->route = route;
    request->wrong_type = heads.type != NULL && !is_json(heads.type);
    if (heads.length != NULL && strtoull(heads.length, NULL, 10) > SERVE_MAX_BODY_BYTES) {
        answer_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "El cuerpo es demasiado grande: como máximo %d bytes",
                     SERVE_MAX_BODY_BYTES);
        return true;
    }
    if (parameters_from_query(&request->uri, route_describe(route)->parameters, request->parameters, &error))
        return false;
    answer_error(request, MHD_HTTP_BAD_REQUEST, "%s", text_of(&error));
    text_free(&error);
    return true;
}

bool
serve_check_body(Request *request)
{
    const RouteDescription *route = route_describe(request->route);
    Text error = {0};

    if (request->too_large) {
        answer_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "El cuerpo es demasiado grande: como máximo %d bytes",
                     SERVE_MAX_BODY_BYTES);
        return true;
    }
    if (request->body.length == 0)
        return false;
    if (request->wrong_type) {
        answer_error(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                     "El cuerpo debe ser JSON, con la cabecera Content-Type: application/json");
        return true;
    }
    if (parameters_from_json(text_of(&request->body), request->body.length, route->parameters, request->parameters,
                             &error))
        return false;
    answer_error(request, MHD_HTTP_BAD_REQUEST, "%s", text_of(&error));
    text_free(&error);
    return true;
}
