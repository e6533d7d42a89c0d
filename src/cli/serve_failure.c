/*
 * What a caller is told when a statement has failed. Runs in the workers.
 *
 * The server's primary message goes to admin routes only, and never its detail or hint, which can repeat rows of the
 * user's.
 */
#include <string.h>

#include "json.h"
#include "message.h"
#include "serve.h"

#define UNDEFINED_OBJECT "42704"
#define UNDEFINED_FUNCTION "42883"
#define OBJECT_IN_USE "55006"
#define INSUFFICIENT_PRIVILEGE "42501"
#define UNKNOWN_JOB "unknown job \""

static bool
is(const Failure *failure, const char *sqlstate)
{
    return strcmp(failure->sqlstate, sqlstate) == 0;
}

/* {"error", "detail", "code"}: what the server says is in its own language. */
static void
add_detail(Request *request, const Failure *failure)
{
    Text *body = &request->answer.body;

    if (!route_describe(request->route)->admin)
        return;
    body->length--; /* the closing brace */
    text_add(body, ", \"detail\": ");
    json_add_string(body, text_of(&failure->message));
    text_add(body, ", \"code\": ");
    json_add_string(body, failure->sqlstate);
    text_add(body, "}");
}

static void
answer_refusal(Request *request, const Failure *failure)
{
    bool job = request->route == ROUTE_RUN || request->route == ROUTE_PROCESS || request->route == ROUTE_CLEANUP;

    if (request->route == ROUTE_RUN && is(failure, UNDEFINED_OBJECT) &&
        strncmp(text_of(&failure->message), UNKNOWN_JOB, sizeof UNKNOWN_JOB - 1) == 0)
        answer_error(request, MHD_HTTP_NOT_FOUND, "Job desconocido. Jobs disponibles: outbox, payout, cleanup, retry");
    else if (job && is(failure, OBJECT_IN_USE))
        answer_error(request, MHD_HTTP_CONFLICT, "El job está en curso y ya hay otra ejecución en espera");
    else if (is(failure, INSUFFICIENT_PRIVILEGE))
        answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR,
                     "El rol de PostgreSQL de este servicio no tiene los permisos necesarios");
    else if (is(failure, UNDEFINED_FUNCTION))
        answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR,
                     "La extensión apapacho_jobs de la base de datos no corresponde a este programa");
    else if (strncmp(failure->sqlstate, "53", 2) == 0)
        answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "El servidor de PostgreSQL no tiene recursos libres");
    else
        answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, job ? "El job falló" : "Error interno");
    add_detail(request, failure);
}

void
answer_failure(Request *request, LinkOutcome outcome, Database *database, Failure *failure)
{
    switch (outcome) {
    case LINK_ABSENT:
        answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "Sin conexión con la base de datos");
        request->answer.retry_after = database_retry_after(database);
        break;
    case LINK_LOST:
        answer_error(request, MHD_HTTP_BAD_GATEWAY,
                     "Se perdió la conexión con la base de datos: no se sabe si la operación terminó");
        break;
    case LINK_TOO_LONG:
        answer_error(request, MHD_HTTP_GATEWAY_TIMEOUT, "La base de datos no respondió a tiempo");
        break;
    case LINK_STOPPED:
        answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE,
                     "El servicio se está deteniendo; un job que ya empezó sigue en la base de datos");
        break;
    case LINK_LEFT: /* nobody reads it */
        answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "Petición abandonada");
        break;
    default:
        /* Public routes do not say why; whoever runs this program can read it here. */
        if (!route_describe(request->route)->admin)
            message_warning("%s: %s (%s)", route_describe(request->route)->path, text_of(&failure->message),
                            failure->sqlstate);
        answer_refusal(request, failure);
    }
    failure_free(failure);
}
