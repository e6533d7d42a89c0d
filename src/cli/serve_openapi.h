/*
 * The OpenAPI document, openapi.json beside this file, as the Makefile puts it into the program.
 */
#ifndef APAPACHO_CLI_SERVE_OPENAPI_H
#define APAPACHO_CLI_SERVE_OPENAPI_H

extern const char openapi_document[];

#endif
