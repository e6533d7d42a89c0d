/*
 * Metrics in the text format that Prometheus reads (version 0.0.4).
 *
 * A Family is one metric: what its samples are called, mean and are labelled with. Pure functions on the caller's Text.
 */
#ifndef APAPACHO_CLI_METRICS_H
#define APAPACHO_CLI_METRICS_H

#include <stdbool.h>

#include <libpq-fe.h>

#include "text.h"

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define METRICS_PREFIX "apapacho_jobs_"

typedef enum MetricType { METRIC_GAUGE, METRIC_COUNTER, METRIC_HISTOGRAM } MetricType;

/* A list of them ends with name NULL. */
typedef struct Family {
    const char *name; /* without the prefix; of a result, the column with its values */
    MetricType type;
    const char *labels; /* columns, separated by blanks */
    const char *help;
} Family;

/* HELP and TYPE of a family. */
void metric_head(Text *text, const Family *family);

/*
 * A family with a sample for each row whose column of the family's name is not null. A histogram has the columns
 * NAME_bucket (cumulative, with the label le), NAME_sum and NAME_count. Without a result: its head alone.
 */
void metric_from_result(Text *text, const Family *family, const PGresult *result);

/* One sample without labels; or with those that are given, as they stand. */
void metric_sample(Text *text, const Family *family, const char *labels, double value);

/* Adds a label's value, escaped, with its quotes. */
void metric_add_label_value(Text *text, const char *value);

#endif
