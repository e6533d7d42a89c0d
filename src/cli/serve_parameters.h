/*
 * The parameters of a request, from its query and its body: whole numbers, booleans, words.
 *
 * Pure; what is wrong is said in Spanish, for the answer.
 */
#ifndef APAPACHO_CLI_SERVE_PARAMETERS_H
#define APAPACHO_CLI_SERVE_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>

#include "serve_uri.h"
#include "text.h"

typedef enum ParameterKind { PARAMETER_INTEGER, PARAMETER_BOOLEAN, PARAMETER_WORD } ParameterKind;

/* A parameter that a route has; a list of them ends with name NULL. */
typedef struct Parameter {
    const char *name;
    ParameterKind kind;
    long lowest;
    long highest;
    const char *words; /* separated by blanks */
} Parameter;

/* Room for the longest integer, "false" and the longest word. */
#define PARAMETER_VALUE_SIZE 24

typedef struct ParameterValue {
    char text[PARAMETER_VALUE_SIZE]; /* as SQL reads it; "" where it was not given */
} ParameterValue;

/* Both fill values[i] for parameters[i]. False: something is unknown, given twice or wrong; *error says what. */
bool parameters_from_query(const Uri *uri, const Parameter *parameters, ParameterValue *values, Text *error);
/* An object of JSON whose members are the parameters, null for one that is not given; or nothing but blanks. */
bool parameters_from_json(const char *text, size_t length, const Parameter *parameters, ParameterValue *values,
                          Text *error);

#endif
