/*
 * The access log, a line on stdout for each request that has ended. Runs in libmicrohttpd's thread.
 *
 * Nothing of it comes from the query, the headers or the body, where secrets may be; the path cannot steer a terminal.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "serve.h"
#include "printable.h"

#define LONGEST_PATH 200

void
log_request(const Request *request, bool complete)
{
    struct timespec now;
    struct tm broken_down;
    char time[32];
    Text line = {0};

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &broken_down);
    strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &broken_down);
    text_format(&line, "%s.%03ldZ %s %s ", time, now.tv_nsec / 1000000, request->peer->address, request->method);
    if (strlen(request->path) > LONGEST_PATH)
        strcpy(request->path + LONGEST_PATH, "...");
    text_add_printable(&line, request->path);
    text_format(&line, " %u %lld ms%s\n", request->answer.status, (long long)(monotonic_ms() - request->began_ms),
                complete ? "" : " incomplete");
    fwrite(line.data, 1, line.length, stdout);
    fflush(stdout);
    text_free(&line);
}
