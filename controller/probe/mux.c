/* Connections that carry several requests at once, each as many as the peer allows; a further one is opened only when
 * all are full. A request whose answer comes too late is taken back alone: its connection goes on. */
#include <stdlib.h>
#include <string.h>

#include "probe/engine.h"
#include "probe/link.h"
#include "squall/clock.h"
#include "squall/units.h"

struct sq_muxed {
    struct sq_link link; /* first: libuv gives its poll handle back when it is closed */
    struct sq_endpoint *ep;
    struct sq_muxed *next, *prev; /* in ep->muxed, or in ep->full */
    struct sq_request *first;
    void *talk;
    unsigned n;
    size_t addr, tries;
    bool up, full, closed;
    bool no_more; /* it takes no new requests */
};

static void on_poll(uv_poll_t *poll, int status, int events);
static void flush(struct sq_muxed *m);
static void fail_all(struct sq_muxed *m, enum sq_bad bad);

/* --- lists --- */

static void list_remove(struct sq_muxed *m)
{
    struct sq_muxed **head = m->full ? &m->ep->full : &m->ep->muxed;

    if (m->prev)
        m->prev->next = m->next;
    else
        *head = m->next;
    if (m->next)
        m->next->prev = m->prev;
}

static void list_push(struct sq_muxed *m, bool full)
{
    struct sq_muxed **head = full ? &m->ep->full : &m->ep->muxed;

    m->full = full;
    m->prev = NULL;
    m->next = *head;
    if (*head)
        (*head)->prev = m;
    *head = m;
}

static bool has_room(const struct sq_muxed *m)
{
    const struct sq_endpoint *ep = m->ep;
    unsigned room = ep->proto->mux->room(m->talk);

    return !m->no_more && m->n < (ep->keep_alive ? ep->streams : 1) && m->n < room;
}

static void sort_in(struct sq_muxed *m)
{
    bool full = !has_room(m);

    if (m->closed || full == m->full)
        return;
    list_remove(m);
    list_push(m, full);
}

static void attach(struct sq_muxed *m, struct sq_request *r)
{
    r->carrier = m;
    r->mux_prev = NULL;
    r->mux_next = m->first;
    if (m->first)
        m->first->mux_prev = r;
    m->first = r;
    m->n++;
}

static void detach(struct sq_muxed *m, struct sq_request *r)
{
    if (r->mux_prev)
        r->mux_prev->mux_next = r->mux_next;
    else
        m->first = r->mux_next;
    if (r->mux_next)
        r->mux_next->mux_prev = r->mux_prev;
    r->carrier = NULL;
    m->n--;
}

/* --- open and close --- */

static void on_closed(uv_handle_t *h)
{
    struct sq_muxed *m = h->data;

    if (m->talk)
        m->ep->proto->mux->close(m->talk);
    free(m);
}

static void muxed_close(struct sq_muxed *m)
{
    if (m->closed)
        return;
    list_remove(m);
    m->closed = true;
    m->ep->open--;
    sq_link_close(&m->link, on_closed);
}

static void ended(void *arg, void *tag, enum sq_mux_end how, const struct sq_answer *a);

static struct sq_muxed *muxed_new(struct sq_endpoint *ep)
{
    struct sq_muxed *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->ep = ep;
    m->talk = ep->proto->mux->open(m, ended);
    if (!m->talk) {
        free(m);
        return NULL;
    }
    return m;
}

/* A new connection, to one address after the other; -errno: none of them. */
static int muxed_open(struct sq_endpoint *ep, size_t tries, struct sq_muxed **out)
{
    struct sq_muxed *m = muxed_new(ep);
    int rc = m ? -ECONNREFUSED : -ENOMEM;

    for (; m && tries < ep->place.n; tries++) {
        m->addr = (ep->addr + tries) % ep->place.n;
        rc = sq_link_open(&m->link, &ep->probe->loop, &ep->place, m->addr, ep->tls, on_poll, m);
        if (rc >= 0)
            break;
    }
    if (rc < 0) {
        if (m)
            ep->proto->mux->close(m->talk);
        free(m);
        return rc;
    }
    m->tries = tries;
    ep->open++;
    list_push(m, false);
    *out = m;
    return rc;
}

static void submit(struct sq_muxed *m, struct sq_request *r)
{
    struct sq_endpoint *ep = m->ep;
    struct sq_values v;
    char trace[SQ_TRACE_LEN];

    sq_note_sent(ep, r);
    sq_trace_new(ep->probe, trace);
    attach(m, r);
    if (ep->proto->mux->submit(m->talk, r, r->variant->plan, sq_values_of(ep, r, &v), trace, sq_keep_of(r))) {
        m->no_more = m->no_more || !ep->keep_alive;
        sort_in(m);
        return;
    }
    detach(m, r);
    m->no_more = true;
    sort_in(m);
    sq_engine_finish(ep, r, SQ_BAD_PROTOCOL, NULL);
}

static void risen(struct sq_muxed *m)
{
    enum sq_bad bad = SQ_BAD_CONNECT;
    int rc = sq_link_rise(&m->link, &bad);
    struct sq_endpoint *ep = m->ep;
    struct sq_muxed *other;

    if (rc == 0)
        return;
    if (rc > 0) {
        m->up = true;
        ep->addr = m->addr;
        flush(m);
        return;
    }
    /* The next address takes over what waits for this one. */
    if (bad != SQ_BAD_TLS && m->tries + 1 < ep->place.n && (rc = muxed_open(ep, m->tries + 1, &other)) >= 0) {
        while (m->first) {
            struct sq_request *r = m->first;

            detach(m, r);
            submit(other, r);
        }
        muxed_close(m);
        if (rc == 1)
            risen(other);
        return;
    }
    fail_all(m, bad);
}

/* --- requests --- */

/* Each is sent once more on another connection, if this one has shown that it was good before, and it may be. */
static void again_or_fail(struct sq_endpoint *ep, struct sq_request *r, bool again, enum sq_bad bad)
{
    if (again && r->variant->repeatable && !r->retried) {
        r->retried = true;
        r->second->reconnects++;
        sq_wait_unshift(ep, r);
    } else {
        sq_engine_finish(ep, r, bad, NULL);
    }
}

static void fail_all(struct sq_muxed *m, enum sq_bad bad)
{
    struct sq_endpoint *ep = m->ep;

    muxed_close(m);
    while (m->first) {
        struct sq_request *r = m->first;

        detach(m, r);
        sq_engine_finish(ep, r, bad, NULL);
    }
}

static void ended(void *arg, void *tag, enum sq_mux_end how, const struct sq_answer *a)
{
    struct sq_muxed *m = arg;
    struct sq_request *r = tag;

    detach(m, r);
    switch (how) {
    case SQ_MUX_ANSWERED:
        sq_engine_finish(m->ep, r, sq_judge(a), a);
        break;
    case SQ_MUX_REFUSED:
        again_or_fail(m->ep, r, true, SQ_BAD_RESET);
        break;
    case SQ_MUX_RESET:
        sq_engine_finish(m->ep, r, SQ_BAD_RESET, NULL);
        break;
    case SQ_MUX_BAD:
        sq_engine_finish(m->ep, r, SQ_BAD_PROTOCOL, NULL);
        break;
    }
}

static void flush(struct sq_muxed *m)
{
    const struct sq_mux *mux = m->ep->proto->mux;
    const char *data;
    size_t len;

    if (!m->up || m->closed)
        return;
    while ((len = mux->output(m->talk, &data)) > 0) {
        ssize_t n = sq_link_write(&m->link, data, len);

        if (n < 0 && n != -EAGAIN) {
            fail_all(m, SQ_BAD_RESET);
            return;
        }
        if (n > 0)
            mux->sent(m->talk, (size_t)n);
        if (n < (ssize_t)len) {
            sq_link_events(&m->link, UV_READABLE | UV_WRITABLE);
            return;
        }
    }
    sq_link_events(&m->link, UV_READABLE);
}

static void read_in(struct sq_muxed *m)
{
    struct sq_engine *p = m->ep->probe;

    for (int i = 0; i < SQ_LINK_READS && !m->closed; i++) {
        ssize_t n = sq_link_read(&m->link, p->buffer, SQ_READ_BUFFER);

        if (n == -EAGAIN)
            break;
        p->now = sq_mono_ns();
        if (n <= 0) {
            fail_all(m, SQ_BAD_RESET);
            return;
        }
        if (!m->ep->proto->mux->feed(m->talk, p->buffer, (size_t)n)) {
            flush(m); /* says why, if it can */
            fail_all(m, SQ_BAD_PROTOCOL);
            return;
        }
        if (sq_link_drained(&m->link, (size_t)n, SQ_READ_BUFFER))
            break;
    }
    if (m->closed)
        return;
    if (m->no_more && m->n == 0)
        muxed_close(m);
    else
        sort_in(m);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct sq_muxed *m = poll->data;
    struct sq_endpoint *ep = m->ep;
    struct sq_engine *p = ep->probe;

    if (status < 0 || !m->up)
        p->now = sq_mono_ns();
    if (status < 0)
        m->link.events = 0; /* libuv has stopped it */
    if (!m->up) {
        risen(m);
    } else {
        if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT)))
            read_in(m);
        flush(m);
    }
    if (status < 0 && !m->closed)
        sq_link_events(&m->link, UV_READABLE);
    sq_pump(ep);
    if (p->now >= p->next_due)
        sq_engine_issue(p);
}

/* --- the driver --- */

static bool room(const struct sq_endpoint *ep)
{
    return ep->muxed || ep->open < ep->limit;
}

static void take(struct sq_endpoint *ep, struct sq_request *r)
{
    struct sq_muxed *m = ep->muxed;
    int rc = 0;

    if (!m)
        rc = muxed_open(ep, 0, &m);
    if (rc < 0) {
        sq_note_sent(ep, r);
        sq_engine_finish(ep, r, sq_link_why(rc), NULL);
        return;
    }
    submit(m, r);
    if (rc == 1)
        risen(m);
    else
        flush(m);
}

static void forget(struct sq_endpoint *ep, struct sq_request *r)
{
    struct sq_muxed *m = r->carrier;

    detach(m, r);
    ep->proto->mux->forget(m->talk, r);
    if (!m->up && m->n == 0) { /* nobody answers there: the next one tries anew */
        muxed_close(m);
        return;
    }
    flush(m);
    sort_in(m);
}

static void close_all(struct sq_endpoint *ep)
{
    while (ep->muxed)
        muxed_close(ep->muxed);
    while (ep->full)
        muxed_close(ep->full);
}

static void free_spare(struct sq_endpoint *ep)
{
    (void)ep; /* each is freed when it is closed */
}

const struct sq_driver sq_driver_mux = {room, take, forget, close_all, free_spare};
