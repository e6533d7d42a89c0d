/*
 * Listening. Runs in the main thread, before the HTTP daemon starts.
 */
#include "bind.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "message.h"
#include "text.h"

static int
listen_on(const struct addrinfo *address)
{
    int yes = 1;
    int handle = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (handle < 0)
        return -1;
    if (setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(handle, address->ai_addr, address->ai_addrlen) == 0 && listen(handle, SOMAXCONN) == 0)
        return handle;
    close(handle);
    return -1;
}

static int
port_of(int handle)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;

    if (getsockname(handle, (struct sockaddr *)&address, &length) != 0)
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

int
bind_socket(const char *host, int port, int *bound_port)
{
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[16];
    int handle = -1;
    int error;

    snprintf(service, sizeof service, "%d", port);
    error = getaddrinfo(host, service, &wanted, &found);
    if (error != 0) {
        message_error("could not listen on \"%s\": %s", host, gai_strerror(error));
        return -1;
    }
    for (const struct addrinfo *address = found; address != NULL && handle < 0; address = address->ai_next)
        handle = listen_on(address);
    if (handle < 0)
        message_error("could not listen on %s port %d: %s", host, port, strerror(errno));
    else
        *bound_port = port_of(handle);
    freeaddrinfo(found);
    return handle;
}

bool
bind_write_port(const char *path, int port)
{
    Text fresh = {0};
    FILE *file;
    bool ok;

    text_format(&fresh, "%s.new", path);
    file = fopen(fresh.data, "w");
    ok = file != NULL && fprintf(file, "%d\n", port) > 0;
    if (file != NULL)
        ok = fclose(file) == 0 && ok;
    ok = ok && rename(fresh.data, path) == 0;
    if (!ok)
        message_error("could not write \"%s\": %s", path, strerror(errno));
    text_free(&fresh);
    return ok;
}
