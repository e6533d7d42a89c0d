/*
 * The text format of metrics. Any thread.
 */
#include <stdio.h>
#include <string.h>

#include "metrics.h"

void
metric_head(Text *text, const Family *family)
{
    static const char *const types[] = {"gauge", "counter", "histogram"};

    text_format(text, "# HELP " METRICS_PREFIX "%s %s\n# TYPE " METRICS_PREFIX "%s %s\n", family->name, family->help,
                family->name, types[family->type]);
}

void
metric_add_label_value(Text *text, const char *value)
{
    text_add(text, "\"");
    for (; *value != '\0'; value++) {
        if (*value == '\n')
            text_add(text, "\\n");
        else if (*value == '"' || *value == '\\')
            text_format(text, "\\%c", *value);
        else
            text_add_bytes(text, value, 1);
    }
    text_add(text, "\"");
}

static void
add_label(Text *text, const char *name, size_t length, const char *value, bool *first)
{
    text_add(text, *first ? "{" : ",");
    text_add_bytes(text, name, length);
    text_add(text, "=");
    metric_add_label_value(text, value);
    *first = false;
}

/* The labels of a row: those columns that are not null. */
static void
add_labels(Text *text, const char *labels, const PGresult *result, int row, bool *first)
{
    while (*labels != '\0') {
        size_t length = strcspn(labels, " ");
        char name[64];
        int column;

        snprintf(name, sizeof name, "%.*s", (int)length, labels);
        column = PQfnumber(result, name);
        if (column >= 0 && !PQgetisnull(result, row, column))
            add_label(text, labels, length, PQgetvalue(result, row, column), first);
        labels += length + (labels[length] == ' ');
    }
}

/* PostgreSQL writes numbers as Prometheus reads them, but for one. */
static void
add_number(Text *text, const char *number)
{
    if (strcmp(number, "Infinity") == 0 || strcmp(number, "-Infinity") == 0)
        text_format(text, "%cInf\n", *number == '-' ? '-' : '+');
    else
        text_format(text, "%s\n", number);
}

/* The samples of a column, e.g. of NAME_bucket. */
static void
add_column(Text *text, const Family *family, const char *suffix, const PGresult *result)
{
    char name[96];
    int column;

    snprintf(name, sizeof name, "%s%s", family->name, suffix);
    column = PQfnumber(result, name);
    for (int row = 0; column >= 0 && row < PQntuples(result); row++) {
        bool first = true;

        if (PQgetisnull(result, row, column))
            continue;
        text_format(text, METRICS_PREFIX "%s", name);
        add_labels(text, family->labels, result, row, &first);
        text_add(text, first ? " " : "} ");
        add_number(text, PQgetvalue(result, row, column));
    }
}

void
metric_from_result(Text *text, const Family *family, const PGresult *result)
{
    metric_head(text, family);
    if (result == NULL)
        return;
    if (family->type != METRIC_HISTOGRAM) {
        add_column(text, family, "", result);
        return;
    }
    add_column(text, family, "_bucket", result);
    add_column(text, family, "_sum", result);
    add_column(text, family, "_count", result);
}

void
metric_sample(Text *text, const Family *family, const char *labels, double value)
{
    text_format(text, METRICS_PREFIX "%s%s%s%s %.17g\n", family->name, *labels != '\0' ? "{" : "", labels,
                *labels != '\0' ? "}" : "", value);
}
