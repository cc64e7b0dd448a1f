#include "squall/fds.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union room {
    char buf[CMSG_SPACE(SQ_FDS_MAX * sizeof(int))];
    struct cmsghdr align;
};

static void attach(struct msghdr *h, union room *room, const int *fds, size_t n)
{
    memset(room, 0, sizeof(*room));
    h->msg_control = room->buf;
    h->msg_controllen = CMSG_SPACE(n * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(h);
    if (!c)
        return; /* for the compiler: there is room */
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
}

int sq_fds_send(int sock, const void *data, size_t len, const int *fds, size_t n, int flags)
{
    union room room;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t rc;
    if (n > SQ_FDS_MAX)
        return -EINVAL;
    if (n > 0)
        attach(&h, &room, fds, n);
    do
        rc = sendmsg(sock, &h, flags | MSG_NOSIGNAL);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static size_t take(const struct cmsghdr *c, int *fds, size_t have, size_t most)
{
    size_t came = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < came; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
        if (have < most)
            fds[have++] = fd;
        else
            (void)close(fd);
    }
    return have;
}

ssize_t sq_fds_recv(int sock, void *buf, size_t size, int *fds, size_t *n, int flags)
{
    union room room;
    struct iovec iov = {.iov_base = buf, .iov_len = size};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room.buf, .msg_controllen = sizeof(room.buf)};
    size_t most = *n;
    ssize_t len;
    *n = 0;
    do
        len = recvmsg(sock, &h, flags | MSG_CMSG_CLOEXEC);
    while (len < 0 && errno == EINTR);
    if (len < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            *n = take(c, fds, *n, most);
    if (!(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return len;
    while (*n > 0)
        (void)close(fds[--*n]);
    return -EMSGSIZE;
}
