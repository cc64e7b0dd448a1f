/* A connection's lower half: a socket in the probe's loop, with or without TLS on it. Knows no requests. */
#ifndef SQUALL_PROBE_LINK_H
#define SQUALL_PROBE_LINK_H

#include <errno.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <uv.h>

#include "probe/proto.h"
#include "probe/sample.h"
#include "probe/tls.h"

#define SQ_LINK_READS 16 /* of one connection, before the others have their turn */

struct sq_link {
    uv_poll_t poll;
    uv_poll_cb on_poll;
    SSL *ssl;
    int fd, events;
    bool datagram, connected; /* connected: the socket is; TLS may still be on its way */
    bool stamped;             /* reads tell when the bytes came */
};

/* Begin to connect to address number ADDR of PLACE: 1 when that is done at once, 0 when ON_POLL (its `data` is ARG)
 * will tell; -errno: nothing has changed. TLS NULL: none. Either way sq_link_rise is next. */
int sq_link_open(struct sq_link *l, uv_loop_t *loop, const struct sq_place *place, size_t addr, struct sq_tls *tls,
                 uv_poll_cb on_poll, void *arg);
/* How far it is: 1 up, 0 it waits for events (set already), -1 it failed: *bad says why. */
int sq_link_rise(struct sq_link *l, enum sq_bad *bad);
void sq_link_events(struct sq_link *l, int events);
/* Ask the kernel to say when bytes come: not for TLS, datagrams and Unix sockets. */
void sq_link_stamp(struct sq_link *l);
/* Of a stamped link: as sq_link_read, and when the last of them came, CLOCK_REALTIME; 0: it did not say. */
ssize_t sq_link_read_stamped(struct sq_link *l, char *buf, size_t len, int64_t *stamp);
/* The socket is closed at once, the memory is CLOSED's when libuv has let go of it. */
void sq_link_close(struct sq_link *l, uv_close_cb closed);
/* Nobody listens there, or something else is wrong. */
enum sq_bad sq_link_why(int err);

/* As recv(2) and send(2), but -errno; -EAGAIN: nothing for now. */
static inline ssize_t sq_link_read(struct sq_link *l, char *buf, size_t len)
{
    ssize_t n;

    if (l->ssl)
        return sq_tls_read(l->ssl, buf, len);
    n = recv(l->fd, buf, len, MSG_DONTWAIT);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static inline ssize_t sq_link_write(struct sq_link *l, const char *buf, size_t len)
{
    ssize_t n;

    if (l->ssl)
        return sq_tls_write(l->ssl, buf, len);
    n = send(l->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

/* After a read of N bytes into room for LEN: is there certainly nothing more now? */
static inline bool sq_link_drained(const struct sq_link *l, size_t n, size_t len)
{
    return !l->ssl && !l->datagram && n < len;
}

#endif
