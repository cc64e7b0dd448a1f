#include "probe/link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "squall/units.h"

static int socket_for(const struct sockaddr *sa, socklen_t len, bool datagram, int *fd)
{
    int one = 1, rc;

    *fd = socket(sa->sa_family, (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return -errno;
    if (sa->sa_family != AF_UNIX && !datagram)
        (void)setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(*fd, sa, len) == 0)
        return 1;
    rc = errno == EINPROGRESS ? 0 : -errno;
    if (rc < 0) {
        (void)close(*fd);
        *fd = -1;
    }
    return rc;
}

int sq_link_open(struct sq_link *l, uv_loop_t *loop, const struct sq_place *place, size_t addr, struct sq_tls *tls,
                 uv_poll_cb on_poll, void *arg)
{
    int rc, connected;

    l->fd = -1;
    connected =
        socket_for((const struct sockaddr *)&place->addr[addr].sa, place->addr[addr].len, place->datagram, &l->fd);
    if (connected < 0)
        return connected;
    if (tls && !(l->ssl = sq_tls_open(tls, l->fd)))
        rc = -ENOMEM;
    else
        rc = uv_poll_init(loop, &l->poll, l->fd);
    if (rc < 0) {
        SSL_free(l->ssl);
        l->ssl = NULL;
        (void)close(l->fd);
        l->fd = -1;
        return rc;
    }
    l->datagram = place->datagram;
    l->connected = connected == 1;
    l->on_poll = on_poll;
    l->poll.data = arg;
    l->events = 0;
    l->stamped = false;
    if (!connected)
        sq_link_events(l, UV_WRITABLE);
    return connected;
}

enum sq_bad sq_link_why(int err)
{
    /* Nobody listens there; a Unix socket that isn't there is the same thing. */
    return err == -ECONNREFUSED || err == -ENOENT ? SQ_BAD_REFUSED : SQ_BAD_CONNECT;
}

int sq_link_rise(struct sq_link *l, enum sq_bad *bad)
{
    bool want_write;
    int err = 0, rc;
    socklen_t len = sizeof err;

    if (!l->connected) {
        if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
            err = errno;
        if (err) {
            *bad = sq_link_why(-err);
            return -1;
        }
        l->connected = true;
    }
    if (!l->ssl)
        return 1;
    rc = sq_tls_handshake(l->ssl, &want_write);
    if (rc == 0)
        return 1;
    if (rc == -EAGAIN) {
        sq_link_events(l, want_write ? UV_WRITABLE : UV_READABLE);
        return 0;
    }
    *bad = SQ_BAD_TLS;
    return -1;
}

void sq_link_events(struct sq_link *l, int events)
{
    if (l->events == events)
        return;
    l->events = events;
    (void)uv_poll_start(&l->poll, events, l->on_poll);
}

void sq_link_stamp(struct sq_link *l)
{
    int one = 1, family = 0;
    socklen_t len = sizeof family;

    if (l->ssl || l->datagram || getsockopt(l->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) < 0 || family == AF_UNIX)
        return;
    l->stamped = setsockopt(l->fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one) == 0;
}

ssize_t sq_link_read_stamped(struct sq_link *l, char *buf, size_t len, int64_t *stamp)
{
    char control[CMSG_SPACE(sizeof(struct timespec))] __attribute__((aligned(8)));
    struct iovec v = {buf, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(l->fd, &m, MSG_DONTWAIT);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    struct timespec t = {0, 0};

    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS && c->cmsg_len == CMSG_LEN(sizeof t))
        memcpy(&t, CMSG_DATA(c), sizeof t);
    *stamp = t.tv_sec * SQ_S + t.tv_nsec;
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

void sq_link_close(struct sq_link *l, uv_close_cb closed)
{
    sq_tls_close(l->ssl);
    l->ssl = NULL;
    uv_close((uv_handle_t *)&l->poll, closed);
    (void)close(l->fd);
    l->fd = -1;
}
