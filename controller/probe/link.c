#include "probe/link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

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

void sq_link_close(struct sq_link *l, uv_close_cb closed)
{
    sq_tls_close(l->ssl);
    l->ssl = NULL;
    uv_close((uv_handle_t *)&l->poll, closed);
    (void)close(l->fd);
    l->fd = -1;
}
