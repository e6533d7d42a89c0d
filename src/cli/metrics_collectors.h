/*
 * What is measured in the database: the one place with its SQL.
 */
#ifndef APAPACHO_CLI_METRICS_COLLECTORS_H
#define APAPACHO_CLI_METRICS_COLLECTORS_H

#include "metrics.h"

/* A statement and the metrics that it gives. "@extschema@" in it stands for the schema of the extension's functions,
 * "@tables@" for that of the backend's tables. */
typedef struct Collector {
    const char *name;
    const char *sql;
    const Family *families;
} Collector;

/* Ends with name NULL. */
extern const Collector metrics_collectors[];

#endif
