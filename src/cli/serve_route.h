/*
 * The routes of `serve`.
 */
#ifndef APAPACHO_CLI_SERVE_ROUTE_H
#define APAPACHO_CLI_SERVE_ROUTE_H

#include <stdbool.h>

#include "serve_parameters.h"
#include "serve_uri.h"
#include "text.h"

#define ROUTE_MAX_PARAMETERS 4

/* In the order of the table. The last stands for whatever is no route. */
typedef enum Route {
    ROUTE_INDEX,
    ROUTE_HEALTH,
    ROUTE_READY,
    ROUTE_METRICS,
    ROUTE_OPENAPI,
    ROUTE_STATUS,
    ROUTE_RUN,
    ROUTE_PROCESS,
    ROUTE_STATS,
    ROUTE_CLEANUP,
    ROUTE_RETRY_FAILED,
    ROUTE_EVENTS,
    ROUTE_NONE,
    ROUTE_COUNT
} Route;

/* Who does it: libmicrohttpd's thread at once; a worker, one of which takes nothing but what is quick. */
typedef enum RouteLane { LANE_QUICK, LANE_SLOW, LANE_COUNT, LANE_NONE } RouteLane;

typedef struct RouteDescription {
    const char *method; /* GET (and so HEAD) or POST */
    const char *path;   /* a segment that begins with ":" stands for any text */
    bool admin;         /* takes the key */
    RouteLane lane;
    const Parameter *parameters; /* NULL: none */
} RouteDescription;

/* The description of a route; of ROUTE_NONE: path "other". */
const RouteDescription *route_describe(Route route);

typedef enum RouteMatch { MATCH_FOUND, MATCH_NO_PATH, MATCH_NO_METHOD } RouteMatch;

/* Finds the route of a method and a path. With MATCH_NO_METHOD, *route has the path (and another method). */
RouteMatch route_find(const char *method, const Uri *uri, Route *route);

/* Whether a path is below /api/admin, known or not. */
bool route_is_admin(const Uri *uri);

/* Adds the routes as an array of JSON. */
void routes_add(Text *text);

#endif
