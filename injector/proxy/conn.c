/* The life of one connection: accepted, connected to the dependency, closed, and what is counted at its end. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/clock.h"

static void set_int(int fd, int level, int opt, int v)
{
    (void)setsockopt(fd, level, opt, &v, sizeof(v));
}

static void tune(const struct conn *c, int fd)
{
    if (c->local)
        return;
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1); /* urgent bytes are bytes too */
}

int px_conn_dial(struct conn *c, const struct sockaddr *to, socklen_t len)
{
    int fd = px_space_socket(c->space, to->sa_family, SOCK_STREAM);
    if (fd < 0)
        return -fd;
    c->end[DEP].fd = fd;
    tune(c, fd);
    if (connect(fd, to, len) == 0)
        return 0;
    if (errno == EINPROGRESS || errno == EINTR)
        return EINPROGRESS;
    int err = errno;
    (void)close(fd);
    c->end[DEP].fd = -1;
    return err;
}

static void ask_squalld(struct conn *c)
{
    struct px *px = c->px;
    c->req = ++px->last_req;
    c->pending = true;
    TAILQ_INSERT_TAIL(&px->pending, c, pending_link);
    px_send_upstream(px, c);
}

void px_conn_new(struct edge *e, int fd, bool local, const struct origin *o)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c) {
        (void)close(fd);
        return;
    }
    int64_t now = sq_mono_ns();
    *c = (struct conn){.px = e->px,
                       .edge = e,
                       .space = o->space,
                       .local = local,
                       .translated = o->translated,
                       .caller = o->caller,
                       .dest = o->dest,
                       .drawn = o->drawn,
                       .flow_ns = o->flow_ns,
                       .accepted = now,
                       .moved = now,
                       .deadline = now + PX_CONNECT,
                       .judged = o->judged,
                       .hits = o->hits & e->rules.mask};
    c->end[CALLER] = (struct end){.conn = c, .fd = fd};
    c->end[DEP] = (struct end){.conn = c, .fd = -1};
    c->whole.start = o->held_by && o->flow_ns ? o->flow_ns : now;
    c->whole.held = o->waited_ns;
    c->held_by = o->held_by;
    sq_http_init(&c->http);
    tune(c, fd);
    TAILQ_INSERT_TAIL(&e->conns, c, link);
    c->px->open++;
    c->space->users++;
    c->px->nft_open += o->translated;
    px_shape_new(c);
    if (e->protocol == PX_TCP)
        px_go_opaque(c);
    int err = EINPROGRESS;
    if (e->plain)
        err = px_plain_dial(c);
    else if (o->to_len > 0)
        err = px_conn_dial(c, (const struct sockaddr *)&o->to, o->to_len);
    else if (c->px->wire.fd < 0)
        err = ECONNREFUSED;
    else
        ask_squalld(c);
    if (err == EINPROGRESS)
        px_pump(c);
    else
        px_conn_connected(c, err);
}

void px_conn_upstream(struct px *px, uint32_t req, int fd, int err)
{
    struct conn *c;
    TAILQ_FOREACH(c, &px->pending, pending_link)
    {
        if (c->req == req)
            break;
    }
    if (!c || (fd < 0 && err == 0)) {
        if (fd >= 0)
            (void)close(fd);
        if (!c)
            return;
        err = EPROTO;
        fd = -1;
    }
    TAILQ_REMOVE(&px->pending, c, pending_link);
    c->pending = false;
    c->end[DEP].fd = fd;
    px_conn_connected(c, err);
}

void px_conn_connected(struct conn *c, int err)
{
    if (c->state != PX_CONNECTING)
        return;
    if (err) {
        px_conn_close(c, SQ_OUT_REFUSED, err, !c->edge->plain);
        return;
    }
    c->state = PX_OPEN;
    c->deadline = 0;
    c->moved = sq_mono_ns();
    px_pump(c);
}

static void on_closed(uv_handle_t *h)
{
    struct end *end = h->data;
    struct conn *c = end->conn;
    if (--c->closing > 0)
        return;
    free(c);
}

static void close_end(struct end *e, bool reset)
{
    if (e->polled) {
        e->polled = false;
        e->conn->closing++;
        uv_close((uv_handle_t *)&e->poll, on_closed);
    }
    if (e->fd < 0)
        return;
    if (reset && !e->conn->local) {
        struct linger hard = {.l_onoff = 1, .l_linger = 0};
        (void)setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    }
    (void)close(e->fd);
    e->fd = -1;
}

/* A call that is cut off by the orderly end of its connection. */
static enum sq_call_outcome at_end(const struct conn *c, const struct sq_call *call, enum sq_call_outcome why)
{
    if (call->gave_up)
        return SQ_OUT_GAVE_UP;
    if (why == SQ_OUT_ANSWERED && !(c->opaque && call->answer))
        return SQ_OUT_BROKEN;
    return why;
}

static void settle_hole(struct sq_call *call, int64_t end)
{
    if (call->bh_since)
        call->held += end - call->bh_since;
    call->bh_since = 0;
}

/* Report everything that is open, as it is now. */
static void report(struct conn *c, enum sq_call_outcome why, int status)
{
    int64_t now = sq_mono_ns();
    bool any = c->carried;
    px_h2_end(c, c->gone || c->whole.gave_up ? SQ_OUT_GAVE_UP : why, now);
    uint16_t fault = c->whole.fault;
    for (; c->http.n > 0; sq_http_pop(&c->http)) {
        struct sq_call *call = sq_http_at(&c->http, 0);
        int64_t end = call->gave_up ? call->gave_up : now;
        settle_hole(call, end);
        if (why == SQ_OUT_FAILED && !call->fault)
            call->fault = fault ? fault : sq_rules_fault(&c->edge->rules, c->hits);
        px_call(c, SQ_CALL_REQUEST, at_end(c, call, why), call->status, call, end);
    }
    if (any)
        return;
    int64_t end = c->whole.gave_up ? c->whole.gave_up : now;
    settle_hole(&c->whole, end);
    if (c->whole.gave_up)
        why = SQ_OUT_GAVE_UP;
    if (!c->whole.fault) /* its caller waited for the connect, and sent nothing when it had it */
        c->whole.fault = c->held_by;
    px_call(c, c->state == PX_CONNECTING ? SQ_CALL_CONNECT : SQ_CALL_CONN, why, status, &c->whole, end);
}

void px_conn_leave(struct conn *c)
{
    bool owes = px_web_owes(c);
    report(c, SQ_OUT_OPEN, 0);
    if (owes) /* it would wait for ever */
        px_conn_close(c, SQ_OUT_OPEN, 0, true);
}

void px_conn_close(struct conn *c, enum sq_call_outcome why, int status, bool reset)
{
    if (c->state == PX_CLOSED)
        return;
    struct px *px = c->px;
    struct edge *e = c->edge;
    report(c, why, status);
    c->state = PX_CLOSED;
    if (c->pending)
        TAILQ_REMOVE(&px->pending, c, pending_link);
    c->pending = false;
    sq_timer_stop(&px->timers, &c->timer);
    px_plain_forget(c);
    for (int i = 0; i < 2; i++) {
        e->sent[i] += c->lane[i].out;
        sq_lane_clear(&c->lane[i]);
        free(c->lane[i].stages);
        c->lane[i].stages = NULL;
    }
    c->closing = 1;
    close_end(&c->end[CALLER], reset);
    close_end(&c->end[DEP], reset);
    sq_http_free(&c->http);
    px_web_free(c);
    px_h2_free(c);
    TAILQ_REMOVE(&e->conns, c, link);
    px->open--;
    px_space_unused(c->space);
    c->space = NULL;
    px->nft_open -= c->translated;
    if (c->translated)
        px->nft_last = sq_mono_ns();
    if (--c->closing == 0)
        free(c);
    px_edge_unused(e);
    px_maybe_leave(px);
}
