/*
 * Which URLs deliveries may go to. Pure checks, fit for a settings check in any process: no thread, no global
 * initialisation, no memory kept.
 */
#ifndef APAPACHO_DELIVERY_URL_H
#define APAPACHO_DELIVERY_URL_H

#include <stdbool.h>
#include <stddef.h>

/* The longest URL that is accepted, in bytes. */
#define DELIVERY_URL_MAX 4096

/*
 * Is url an absolute http or https URL with a host, without blanks and control characters (RFC 3986 as curl_url reads
 * it)? False, with one line in error that never repeats any part of the URL, when it is not.
 */
bool delivery_url_check(const char *url, char *error, size_t error_size);

/* The host of a URL that has passed the check, an IPv6 address in brackets; false: there is none, or no room for it. */
bool delivery_url_host(const char *url, char *host, size_t size);

#endif
