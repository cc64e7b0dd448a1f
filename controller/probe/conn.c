/* Connections: a pool for each endpoint, opened on demand, the one used last first, so that no more are kept busy than
 * it takes. One request at a time on each.
 *
 * A kept-alive connection that the server closed in the same moment in which a request was sent on it says nothing
 * about the server: as every HTTP client does, such a request is sent once more, at once, on a fresh connection, when
 * it is idempotent and not a byte of its answer came (RFC 9112, 9.3.1); its latency still counts from the planned send.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe/engine.h"
#include "squall/clock.h"
#include "squall/units.h"

#define LATE_NS SQ_MS
#define BACKLOG_RETRY_NS SQ_MS
#define READS_MAX 16 /* of one connection, before the others have their turn */

enum state { CONNECTING, IDLE, BUSY, CLOSED };

struct sq_conn {
    uv_poll_t poll;
    struct sq_endpoint *ep;
    struct sq_conn *next, *prev;           /* all open ones; next: also the spare ones */
    struct sq_conn *idle_next, *idle_prev; /* the idle ones */
    struct sq_request *req;
    int fd, events;
    enum state state;
    bool reused;   /* has carried a request before this one */
    bool answered; /* a byte of the answer has come */
    size_t addr, out, out_len;
    char trace[SQ_TRACE_LEN];
    max_align_t talk[];
};

static void on_poll(uv_poll_t *poll, int status, int events);

/* --- lists --- */

static void idle_push(struct sq_endpoint *ep, struct sq_conn *c)
{
    c->state = IDLE;
    c->idle_prev = NULL;
    c->idle_next = ep->idle;
    if (ep->idle)
        ep->idle->idle_prev = c;
    ep->idle = c;
}

static void idle_remove(struct sq_endpoint *ep, struct sq_conn *c)
{
    if (c->idle_prev)
        c->idle_prev->idle_next = c->idle_next;
    else
        ep->idle = c->idle_next;
    if (c->idle_next)
        c->idle_next->idle_prev = c->idle_prev;
}

static void wait_push(struct sq_endpoint *ep, struct sq_request *r)
{
    r->wait_next = NULL;
    if (ep->wait_tail)
        ep->wait_tail->wait_next = r;
    else
        ep->wait_head = r;
    ep->wait_tail = r;
    ep->waiting++;
}

/* Back to the front: it was planned before all that wait. */
static void wait_unshift(struct sq_endpoint *ep, struct sq_request *r)
{
    r->wait_next = ep->wait_head;
    ep->wait_head = r;
    if (!ep->wait_tail)
        ep->wait_tail = r;
    ep->waiting++;
}

static struct sq_request *wait_shift(struct sq_endpoint *ep)
{
    struct sq_request *r = ep->wait_head;

    ep->wait_head = r->wait_next;
    if (!ep->wait_head)
        ep->wait_tail = NULL;
    ep->waiting--;
    return r;
}

/* --- open and close --- */

static void on_closed(uv_handle_t *h)
{
    struct sq_conn *c = h->data;

    c->next = c->ep->spare;
    c->ep->spare = c;
}

static void conn_close(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;

    if (c->state == IDLE)
        idle_remove(ep, c);
    if (c->req)
        c->req->conn = NULL;
    c->req = NULL;
    c->state = CLOSED;
    if (c->prev)
        c->prev->next = c->next;
    else
        ep->all = c->next;
    if (c->next)
        c->next->prev = c->prev;
    ep->open--;
    uv_close((uv_handle_t *)&c->poll, on_closed);
    (void)close(c->fd);
    c->fd = -1;
}

static void set_events(struct sq_conn *c, int events)
{
    if (c->events == events)
        return;
    c->events = events;
    (void)uv_poll_start(&c->poll, events, on_poll);
}

static struct sq_conn *conn_new(struct sq_endpoint *ep)
{
    struct sq_conn *c = ep->spare;

    if (c)
        ep->spare = c->next;
    else
        c = malloc(sizeof *c + ep->proto->talk_size);
    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    c->ep = ep;
    c->fd = -1;
    return c;
}

static int socket_for(const struct sockaddr *sa, socklen_t len, int *fd)
{
    int one = 1, rc;

    *fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return -errno;
    if (sa->sa_family != AF_UNIX)
        (void)setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(*fd, sa, len) == 0)
        return 0;
    rc = -errno;
    if (rc != -EINPROGRESS) {
        (void)close(*fd);
        *fd = -1;
    }
    return rc;
}

/* The actual send is the moment in which a request gets its connection: connecting is part of the service. */
static void note_sent(struct sq_endpoint *ep, struct sq_request *r)
{
    if (r->sent >= 0)
        return;
    r->sent = ep->probe->now;
    ep->sent++;
    if (r->sent - r->picked > LATE_NS)
        r->second->late++;
}

static void send_request(struct sq_conn *c);

/* A new connection for R to its address number ADDR: 0, or -errno and nothing has changed. */
static int conn_open(struct sq_endpoint *ep, struct sq_request *r, size_t addr)
{
    struct sq_conn *c = conn_new(ep);
    int rc =
        c ? socket_for((const struct sockaddr *)&ep->place.addr[addr].sa, ep->place.addr[addr].len, &c->fd) : -ENOMEM;
    bool connected = rc == 0;

    if (connected || rc == -EINPROGRESS) {
        rc = uv_poll_init(&ep->probe->loop, &c->poll, c->fd);
        if (rc < 0)
            (void)close(c->fd);
    }
    if (rc < 0) {
        if (c) {
            c->next = ep->spare;
            ep->spare = c;
        }
        return rc;
    }
    c->poll.data = c;
    c->addr = addr;
    c->req = r;
    c->state = CONNECTING;
    r->conn = c;
    c->next = ep->all;
    if (ep->all)
        ep->all->prev = c;
    ep->all = c;
    ep->open++;
    note_sent(ep, r);
    ep->proto->open(c->talk, ep->plan);
    if (connected)
        send_request(c);
    else
        set_events(c, UV_WRITABLE);
    return 0;
}

static enum sq_bad why_not_connected(int err)
{
    /* Nobody listens there; a Unix socket that isn't there is the same thing. */
    return err == -ECONNREFUSED || err == -ENOENT ? SQ_BAD_REFUSED : SQ_BAD_CONNECT;
}

/* Connect for R, to one address after the other. */
static void open_for(struct sq_endpoint *ep, struct sq_request *r)
{
    int rc = -ECONNREFUSED;

    for (; r->tries < ep->place.n; r->tries++) {
        rc = conn_open(ep, r, (ep->addr + r->tries) % ep->place.n);
        if (rc == 0)
            return;
        if (rc == -EAGAIN) {
            /* A Unix socket whose backlog is full can't be waited for by poll (unix(7)): ask again soon. */
            ep->retry_at = ep->probe->now + BACKLOG_RETRY_NS;
            wait_unshift(ep, r);
            return;
        }
    }
    note_sent(ep, r);
    sq_engine_finish(ep, r, why_not_connected(rc), NULL);
}

/* --- a request on its way --- */

static void retry_or_fail(struct sq_conn *c, enum sq_bad bad)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    bool again = c->reused && !c->answered && ep->repeatable && !r->retried;

    conn_close(c);
    if (!again) {
        sq_engine_finish(ep, r, bad, NULL);
        return;
    }
    r->retried = true;
    r->tries = 0;
    r->second->reconnects++;
    open_for(ep, r);
}

static void write_out(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    size_t len;
    const char *text = ep->proto->request(ep->plan, c->trace, &len);
    ssize_t n = send(c->fd, text + c->out, len - c->out, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        retry_or_fail(c, SQ_BAD_RESET);
        return;
    }
    c->out += n > 0 ? (size_t)n : 0;
    c->out_len = len;
    set_events(c, c->out < len ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

static void hex(char *to, uint64_t v)
{
    for (int i = 15; i >= 0; i--, v >>= 4)
        to[i] = "0123456789abcdef"[v & 15];
}

static void send_request(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_probe *p = ep->probe;

    /* An id of zeros would be invalid. */
    hex(p->trace + 19, sq_rng_u64(&p->rng) | 1);
    hex(p->trace + 36, sq_rng_u64(&p->rng) | 1);
    memcpy(c->trace, p->trace, SQ_TRACE_LEN);
    c->state = BUSY;
    c->answered = false;
    c->out = 0;
    write_out(c);
}

static void send_on(struct sq_endpoint *ep, struct sq_conn *c, struct sq_request *r)
{
    idle_remove(ep, c);
    c->req = r;
    c->reused = true;
    r->conn = c;
    ep->proto->begin(c->talk);
    note_sent(ep, r);
    send_request(c);
}

void sq_conn_dispatch(struct sq_endpoint *ep, struct sq_request *r)
{
    if (ep->wait_head || (!ep->idle && ep->open >= ep->limit))
        wait_push(ep, r);
    else if (ep->idle)
        send_on(ep, ep->idle, r);
    else
        open_for(ep, r);
}

void sq_conn_pump(struct sq_endpoint *ep)
{
    if (ep->retry_at > ep->probe->now && ep->retry_at != SQ_NEVER && !ep->idle)
        return;
    ep->retry_at = SQ_NEVER;
    while (ep->wait_head && ep->retry_at == SQ_NEVER && (ep->idle || ep->open < ep->limit)) {
        struct sq_request *r = wait_shift(ep);

        if (ep->idle)
            send_on(ep, ep->idle, r);
        else
            open_for(ep, r);
    }
}

void sq_conn_forget(struct sq_endpoint *ep, struct sq_request *r)
{
    if (r->conn)
        conn_close(r->conn);
    else if (ep->wait_head == r)
        (void)wait_shift(ep);
}

/* --- events --- */

static void connected(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    int err = 0;
    socklen_t len = sizeof err;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        err = errno;
    if (err == 0) {
        ep->addr = c->addr;
        send_request(c);
        return;
    }
    conn_close(c);
    if (++r->tries < ep->place.n)
        open_for(ep, r);
    else
        sq_engine_finish(ep, r, why_not_connected(-err), NULL);
}

static void answered(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    struct sq_answer a;
    enum sq_bad bad = SQ_BAD_NONE;

    ep->proto->answer(c->talk, &a);
    if (!a.matched.status_ok)
        bad = SQ_BAD_STATUS;
    else if (!a.matched.body_ok)
        bad = SQ_BAD_BODY;
    c->req = NULL;
    r->conn = NULL;
    if (a.keep && c->out == c->out_len)
        idle_push(ep, c);
    else
        conn_close(c);
    sq_engine_finish(ep, r, bad, &a);
}

static void at_eof(struct sq_conn *c, ssize_t n)
{
    if (c->state == IDLE)
        conn_close(c);
    else if (n == 0 && c->answered && c->ep->proto->eof(c->talk) == SQ_FEED_DONE)
        answered(c);
    else
        retry_or_fail(c, SQ_BAD_RESET);
}

static void read_in(struct sq_conn *c)
{
    struct sq_probe *p = c->ep->probe;
    ssize_t n;

    for (int i = 0; i < READS_MAX; i++) {
        enum sq_feed fed;

        n = recv(c->fd, p->buffer, SQ_READ_BUFFER, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        p->now = sq_mono_ns();
        if (n <= 0) {
            at_eof(c, n);
            return;
        }
        if (c->state == IDLE) { /* bytes that nobody asked for */
            conn_close(c);
            return;
        }
        c->answered = true;
        fed = c->ep->proto->feed(c->talk, p->buffer, (size_t)n);
        if (fed == SQ_FEED_DONE) {
            answered(c);
            return;
        }
        if (fed == SQ_FEED_BAD) {
            retry_or_fail(c, SQ_BAD_PROTOCOL);
            return;
        }
        if (n < SQ_READ_BUFFER)
            return;
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct sq_conn *c = poll->data;
    struct sq_endpoint *ep = c->ep;
    struct sq_probe *p = ep->probe;

    if (status < 0) {
        c->events = 0; /* libuv has stopped it: what is wrong, recv(2) and SO_ERROR say */
        p->now = sq_mono_ns();
    }
    if (c->state == CONNECTING) {
        p->now = sq_mono_ns();
        connected(c);
    } else if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT))) {
        read_in(c);
        /* Stopped, and yet nothing to be read: never wait for ever. */
        if (status < 0 && (c->state == IDLE || c->state == BUSY))
            set_events(c, UV_READABLE);
    }
    if ((events & UV_WRITABLE) && c->state == BUSY && c->out < c->out_len)
        write_out(c);
    sq_conn_pump(ep);
    if (p->now >= p->next_due)
        sq_engine_issue(p);
}

void sq_conn_close_all(struct sq_endpoint *ep)
{
    while (ep->all)
        conn_close(ep->all);
}

void sq_conn_free_spare(struct sq_endpoint *ep)
{
    while (ep->spare) {
        struct sq_conn *c = ep->spare;

        ep->spare = c->next;
        free(c);
    }
}
