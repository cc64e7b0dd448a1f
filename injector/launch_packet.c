/* Packets of the launch protocol, with or without a descriptor. */
#include "launch.h"
#include "squall/fds.h"

int sq_packet_send(int sock, const void *data, size_t len, int fd)
{
    return sq_fds_send(sock, data, len, &fd, fd >= 0, SQ_LAUNCH_FLAG);
}

ssize_t sq_packet_recv(int sock, char *buf, size_t len, int *fd)
{
    size_t n = 1;
    *fd = -1;
    ssize_t got = sq_fds_recv(sock, buf, len - 1, fd, &n, 0);
    if (got >= 0)
        buf[got] = '\0';
    else
        *fd = -1;
    return got;
}
