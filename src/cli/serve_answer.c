/*
 * Answers: JSON, errors in Spanish, headers. An answer is made by whoever has the request, and sent by libmicrohttpd's
 * thread.
 */
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "serve.h"

void
answer_with(Request *request, unsigned int status)
{
    text_free(&request->answer.body);
    request->answer = (Answer){.status = status};
}

void
answer_error(Request *request, unsigned int status, const char *format, ...)
{
    Text message = {0};
    va_list arguments;

    va_start(arguments, format);
    text_format_list(&message, format, arguments);
    va_end(arguments);
    answer_with(request, status);
    text_add(&request->answer.body, "{\"error\": ");
    json_add_string(&request->answer.body, text_of(&message));
    text_add(&request->answer.body, "}");
    text_free(&message);
}

static void
count(Serve *serve, const Request *request)
{
    static const unsigned int statuses[] = SERVE_STATUSES;

    for (int i = 0; i < SERVE_STATUS_COUNT; i++) {
        if (statuses[i] == request->answer.status)
            atomic_fetch_add(&serve->answered[request->route][i], 1);
    }
}

static void
add_headers(const Serve *serve, const Answer *answer, struct MHD_Response *response)
{
    char seconds[16];

    MHD_add_response_header(response, "Content-Type",
                            answer->type != NULL ? answer->type : "application/json; charset=utf-8");
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (answer->retry_after > 0) {
        snprintf(seconds, sizeof seconds, "%d", answer->retry_after);
        MHD_add_response_header(response, "Retry-After", seconds);
    }
    if (answer->allow != NULL)
        MHD_add_response_header(response, "Allow", strcmp(answer->allow, "GET") == 0 ? "GET, HEAD" : answer->allow);
    if (answer->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, "WWW-Authenticate", "X-Admin-Key");
    if (answer->close || atomic_load(&serve->stopping))
        MHD_add_response_header(response, "Connection", "close");
}

enum MHD_Result
answer_send(Serve *serve, Request *request)
{
    Answer *answer = &request->answer;
    struct MHD_Response *response;
    enum MHD_Result result;

    if (answer->type == NULL)
        text_add(&answer->body, "\n");
    /* libmicrohttpd frees it. */
    response = MHD_create_response_from_buffer(answer->body.length, answer->body.data, MHD_RESPMEM_MUST_FREE);
    if (response == NULL)
        return MHD_NO;
    answer->body = (Text){0};
    add_headers(serve, answer, response);
    count(serve, request);
    peers_wait(&serve->peers, request->peer, true);
    result = MHD_queue_response(request->connection, answer->status, response);
    MHD_destroy_response(response);
    return result;
}
