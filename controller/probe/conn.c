/* Connections: a pool for each endpoint, opened on demand, the one used last first, so that no more are kept busy than
 * it takes. One request at a time on each.
 *
 * A kept-alive connection that the server closed in the same moment in which a request was sent on it says nothing
 * about the server: as every HTTP client does, such a request is sent once more, at once, on a fresh connection, when
 * it is idempotent and not a byte of its answer came (RFC 9112, 9.3.1); its latency still counts from the planned send.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "probe/engine.h"
#include "probe/link.h"
#include "probe/nap.h"
#include "squall/clock.h"
#include "squall/units.h"

#define BACKLOG_RETRY_NS SQ_MS

enum state { CONNECTING, HELLO, IDLE, BUSY, CLOSED };

struct sq_conn {
    struct sq_link link; /* first: libuv gives its poll handle back when it is closed */
    struct sq_endpoint *ep;
    struct sq_conn *next, *prev;           /* all open ones; next: also the spare ones */
    struct sq_conn *idle_next, *idle_prev; /* the idle ones */
    struct sq_request *req;
    enum state state;
    bool reused;   /* has carried a request before this one */
    bool answered; /* a byte of the answer has come */
    bool prompt;   /* its next event must be seen at once: counted in the engine */
    size_t addr, out, out_len;
    struct sq_buf hello; /* what the hello wants sent */
    char trace[SQ_TRACE_LEN];
    max_align_t talk[];
};

static void on_poll(uv_poll_t *poll, int status, int events);

#define PIECES_NS SQ_S /* so long naps are left out after an answer that came in pieces */

static void prompt(struct sq_conn *c, bool on)
{
    if (c->prompt == on)
        return;
    c->prompt = on;
    c->ep->probe->prompt += on ? 1u : -1u;
}

/* --- lists --- */

static void idle_push(struct sq_endpoint *ep, struct sq_conn *c)
{
    c->state = IDLE;
    prompt(c, false);
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
        c->req->carrier = NULL;
    c->req = NULL;
    c->state = CLOSED;
    if (c->prev)
        c->prev->next = c->next;
    else
        ep->all = c->next;
    if (c->next)
        c->next->prev = c->prev;
    ep->open--;
    prompt(c, false);
    sq_buf_free(&c->hello);
    sq_link_close(&c->link, on_closed);
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
    return c;
}

static void risen(struct sq_conn *c);

/* A new connection for R to its address number ADDR: 0, or -errno and nothing has changed. */
static int conn_open(struct sq_endpoint *ep, struct sq_request *r, size_t addr)
{
    struct sq_conn *c = conn_new(ep);
    int rc = c ? sq_link_open(&c->link, &ep->probe->loop, &ep->place, addr, ep->tls, on_poll, c) : -ENOMEM;

    if (rc < 0) {
        if (c) {
            c->next = ep->spare;
            ep->spare = c;
        }
        return rc;
    }
    c->addr = addr;
    c->req = r;
    c->state = CONNECTING;
    r->carrier = c;
    c->next = ep->all;
    if (ep->all)
        ep->all->prev = c;
    ep->all = c;
    ep->open++;
    prompt(c, true);
    if (ep->keep_alive && !ep->closed)
        sq_link_stamp(&c->link);
    sq_note_sent(ep, r);
    ep->proto->open(c->talk, r->variant->plan);
    if (rc == 1)
        risen(c);
    return 0;
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
            sq_wait_unshift(ep, r);
            return;
        }
    }
    sq_note_sent(ep, r);
    sq_engine_finish(ep, r, sq_link_why(rc), NULL);
}

/* --- a request on its way --- */

static void retry_or_fail(struct sq_conn *c, enum sq_bad bad)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    bool again = c->reused && !c->answered && r->variant->repeatable && !r->retried;

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

static void answered(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    struct sq_answer a;

    ep->proto->answer(c->talk, &a);
    c->req = NULL;
    r->carrier = NULL;
    if (a.keep && ep->keep_alive && c->out == c->out_len)
        idle_push(ep, c);
    else
        conn_close(c);
    sq_engine_finish(ep, r, sq_judge(&a), &a);
}

static void write_out(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_values v;
    size_t len;
    const char *text = ep->proto->request(c->req->variant->plan, sq_values_of(ep, c->req, &v), c->trace, &len);
    ssize_t n;

    if (!text && len == 0) {
        retry_or_fail(c, SQ_BAD_PROTOCOL);
        return;
    }
    n = len > c->out ? sq_link_write(&c->link, text + c->out, len - c->out) : 0;
    if (n < 0 && n != -EAGAIN) {
        retry_or_fail(c, n == -ECONNREFUSED ? SQ_BAD_REFUSED : SQ_BAD_RESET);
        return;
    }
    c->out += n > 0 ? (size_t)n : 0;
    c->out_len = len;
    prompt(c, c->out < len || !(c->link.stamped || ep->closed));
    if (c->out == len && ep->proto->sent && ep->proto->sent(c->talk) == SQ_FEED_DONE)
        answered(c);
    else
        sq_link_events(&c->link, c->out < len ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

static void send_request(struct sq_conn *c)
{
    sq_trace_new(c->ep->probe, c->trace);
    c->state = BUSY;
    c->answered = false;
    c->out = 0;
    c->ep->proto->begin(c->talk, c->req->variant->plan, sq_keep_of(c->req));
    write_out(c);
}

static void send_on(struct sq_endpoint *ep, struct sq_conn *c, struct sq_request *r)
{
    idle_remove(ep, c);
    c->req = r;
    c->reused = true;
    r->carrier = c;
    sq_note_sent(ep, r);
    send_request(c);
}

/* Before the first request. */
static void hello(struct sq_conn *c, const char *data, size_t len)
{
    enum sq_feed fed = c->ep->proto->hello(c->talk, data, len, &c->hello);
    size_t left = c->hello.len - c->hello.at;
    ssize_t n = left > 0 ? sq_link_write(&c->link, c->hello.data + c->hello.at, left) : 0;

    if (fed == SQ_FEED_BAD || c->hello.failed) {
        retry_or_fail(c, SQ_BAD_CONNECT);
        return;
    }
    if (n < 0 && n != -EAGAIN) {
        retry_or_fail(c, SQ_BAD_RESET);
        return;
    }
    c->hello.at += n > 0 ? (size_t)n : 0;
    if (c->hello.at == c->hello.len)
        sq_buf_clear(&c->hello);
    if (fed == SQ_FEED_DONE && c->hello.len == 0)
        send_request(c);
    else
        sq_link_events(&c->link, c->hello.len > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

/* --- events --- */

static void risen(struct sq_conn *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    enum sq_bad bad = SQ_BAD_CONNECT;
    int rc = sq_link_rise(&c->link, &bad);

    if (rc == 0)
        return;
    if (rc > 0) {
        ep->addr = c->addr;
        c->state = HELLO;
        if (ep->proto->hello)
            hello(c, NULL, 0);
        else
            send_request(c);
        return;
    }
    conn_close(c);
    if (bad != SQ_BAD_TLS && ++r->tries < ep->place.n)
        open_for(ep, r);
    else
        sq_engine_finish(ep, r, bad, NULL);
}

static void at_eof(struct sq_conn *c, ssize_t n)
{
    if (c->state == IDLE)
        conn_close(c);
    else if (n == 0 && c->state == BUSY && c->ep->proto->eof(c->talk) == SQ_FEED_DONE)
        answered(c);
    else
        retry_or_fail(c, n == -ECONNREFUSED && c->link.datagram ? SQ_BAD_REFUSED : SQ_BAD_RESET);
}

/* What has come, and when; false: enough for now. */
static bool fed(struct sq_conn *c, const char *data, size_t n, int64_t at)
{
    enum sq_feed fed;

    if (c->state == IDLE) { /* bytes that nobody asked for */
        conn_close(c);
        return false;
    }
    if (c->state == HELLO) {
        hello(c, data, n);
        return c->state == HELLO || c->state == BUSY;
    }
    c->answered = true;
    fed = c->ep->proto->feed(c->talk, data, n);
    if (fed == SQ_FEED_MORE)
        c->ep->pieces_until = c->ep->probe->now + PIECES_NS;
    else
        c->req->arrived = at;
    if (fed == SQ_FEED_DONE)
        answered(c);
    else if (fed == SQ_FEED_BAD)
        retry_or_fail(c, SQ_BAD_PROTOCOL);
    return fed == SQ_FEED_MORE;
}

/* When what was read now came. */
static int64_t came(struct sq_conn *c, int64_t stamp)
{
    struct sq_engine *p = c->ep->probe;

    if (!c->link.stamped)
        return p->now;
    p->nap.stamps = stamp > 0;
    return stamp > 0 && c->req ? sq_arrived(p, c->req, stamp) : p->now;
}

static void read_in(struct sq_conn *c)
{
    struct sq_engine *p = c->ep->probe;
    int64_t stamp = 0;
    ssize_t n;

    for (int i = 0; i < SQ_LINK_READS; i++) {
        n = c->link.stamped ? sq_link_read_stamped(&c->link, p->buffer, SQ_READ_BUFFER, &stamp)
                            : sq_link_read(&c->link, p->buffer, SQ_READ_BUFFER);
        if (n == -EAGAIN)
            return;
        p->now = sq_mono_ns();
        if (n < 0 || (n == 0 && !c->link.datagram)) {
            at_eof(c, n);
            return;
        }
        if (!fed(c, p->buffer, (size_t)n, came(c, stamp)) || sq_link_drained(&c->link, (size_t)n, SQ_READ_BUFFER))
            return;
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct sq_conn *c = poll->data;
    struct sq_endpoint *ep = c->ep;
    struct sq_engine *p = ep->probe;

    if (status < 0) {
        c->link.events = 0; /* libuv has stopped it: what is wrong, recv(2) and SO_ERROR say */
        p->now = sq_mono_ns();
    }
    if (c->state == CONNECTING) {
        p->now = sq_mono_ns();
        risen(c);
    } else if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT))) {
        read_in(c);
        /* Stopped, and yet nothing to be read: never wait for ever. */
        if (status < 0 && (c->state == IDLE || c->state == BUSY || c->state == HELLO))
            sq_link_events(&c->link, UV_READABLE);
    }
    if ((events & UV_WRITABLE) && c->state == BUSY && c->out < c->out_len)
        write_out(c);
    else if ((events & UV_WRITABLE) && c->state == HELLO && c->hello.len > 0)
        hello(c, "", 0);
    sq_pump(ep);
    if (p->now >= p->next_due)
        sq_engine_issue(p);
}

/* --- the driver --- */

static bool room(const struct sq_endpoint *ep)
{
    return ep->idle || ep->open < ep->limit;
}

static void take(struct sq_endpoint *ep, struct sq_request *r)
{
    if (ep->idle)
        send_on(ep, ep->idle, r);
    else
        open_for(ep, r);
}

static void forget(struct sq_endpoint *ep, struct sq_request *r)
{
    (void)ep;
    conn_close(r->carrier);
}

static void close_all(struct sq_endpoint *ep)
{
    while (ep->all)
        conn_close(ep->all);
}

static void free_spare(struct sq_endpoint *ep)
{
    while (ep->spare) {
        struct sq_conn *c = ep->spare;

        ep->spare = c->next;
        free(c);
    }
}

const struct sq_driver sq_driver_conn = {room, take, forget, close_all, free_spare};
