/*
 * The table of routes, and which one a request means. Any thread; nothing here changes.
 */
#include "serve_route.h"

#include <string.h>

static const Parameter run_parameters[] = {{"wait", PARAMETER_BOOLEAN, 0, 0, NULL}, {0}};
static const Parameter process_parameters[] = {{"batchSize", PARAMETER_INTEGER, 1, 2147483647, NULL}, {0}};
static const Parameter cleanup_parameters[] = {{"days", PARAMETER_INTEGER, 0, 36500, NULL}, {0}};
static const Parameter events_parameters[] = {
    {"status", PARAMETER_WORD, 0, 0, "pending published failed all"},
    {"limit", PARAMETER_INTEGER, 1, 1000, NULL},
    {"offset", PARAMETER_INTEGER, 0, 2147483647, NULL},
    {0},
};

static const RouteDescription routes[ROUTE_COUNT] = {
    [ROUTE_INDEX] = {"GET", "/", false, LANE_NONE, NULL},
    [ROUTE_HEALTH] = {"GET", "/healthz", false, LANE_NONE, NULL},
    [ROUTE_READY] = {"GET", "/readyz", false, LANE_QUICK, NULL},
    [ROUTE_METRICS] = {"GET", "/metrics", false, LANE_QUICK, NULL},
    [ROUTE_OPENAPI] = {"GET", "/openapi.json", false, LANE_NONE, NULL},
    [ROUTE_STATUS] = {"GET", "/api/jobs/status", false, LANE_QUICK, NULL},
    [ROUTE_RUN] = {"POST", "/api/admin/jobs/run/:jobName", true, LANE_SLOW, run_parameters},
    [ROUTE_PROCESS] = {"POST", "/api/admin/outbox/process", true, LANE_SLOW, process_parameters},
    [ROUTE_STATS] = {"GET", "/api/admin/outbox/stats", true, LANE_QUICK, NULL},
    [ROUTE_CLEANUP] = {"POST", "/api/admin/outbox/cleanup", true, LANE_SLOW, cleanup_parameters},
    [ROUTE_RETRY_FAILED] = {"POST", "/api/admin/outbox/retry-failed", true, LANE_SLOW, NULL},
    [ROUTE_EVENTS] = {"GET", "/api/admin/outbox/events", true, LANE_QUICK, events_parameters},
    [ROUTE_NONE] = {"", "other", false, LANE_NONE, NULL},
};

const RouteDescription *
route_describe(Route route)
{
    return &routes[route];
}

static bool
path_matches(const char *path, const Uri *uri)
{
    int segment = 0;

    for (path++; *path != '\0';) {
        size_t length = strcspn(path, "/");

        if (segment == uri->segment_count)
            return false;
        if (*path == ':'
                ? *uri->segments[segment] == '\0'
                : strlen(uri->segments[segment]) != length || memcmp(uri->segments[segment], path, length) != 0)
            return false;
        segment++;
        path += length + (path[length] == '/');
    }
    return segment == uri->segment_count;
}

RouteMatch
route_find(const char *method, const Uri *uri, Route *route)
{
    RouteMatch match = MATCH_NO_PATH;

    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    *route = ROUTE_NONE;
    for (int i = 0; i < ROUTE_NONE && match != MATCH_FOUND; i++) {
        if (!path_matches(routes[i].path, uri))
            continue;
        match = strcmp(routes[i].method, method) == 0 ? MATCH_FOUND : MATCH_NO_METHOD;
        *route = (Route)i;
    }
    return match;
}

bool
route_is_admin(const Uri *uri)
{
    return uri->segment_count >= 2 && strcmp(uri->segments[0], "api") == 0 && strcmp(uri->segments[1], "admin") == 0;
}

void
routes_add(Text *text)
{
    text_add(text, "[");
    for (int i = 0; i < ROUTE_NONE; i++) {
        text_format(text, "%s{\"method\": \"%s\", \"path\": \"%s\", \"admin\": %s, \"parameters\": [",
                    i > 0 ? ",\n  " : "", routes[i].method, routes[i].path, routes[i].admin ? "true" : "false");
        for (const Parameter *p = routes[i].parameters; p != NULL && p->name != NULL; p++)
            text_format(text, "%s\"%s\"", p != routes[i].parameters ? ", " : "", p->name);
        text_add(text, "]}");
    }
    text_add(text, "]");
}
