/*
 * A listening TCP socket, for the commands that serve HTTP.
 */
#ifndef APAPACHO_CLI_BIND_H
#define APAPACHO_CLI_BIND_H

#include <stdbool.h>

/*
 * Listens on a host (an address or a name) and port (0: any that is free). Returns the socket and the port in
 * *bound_port; -1: it could not, and the reason has been told.
 */
int bind_socket(const char *host, int port, int *bound_port);

/* Writes a port into a file so that a reader sees all of it or no file; false: it could not, and said so. */
bool bind_write_port(const char *path, int port);

#endif
