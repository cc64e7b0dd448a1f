/* DNS over TCP (RFC 7766): messages with their length before them. Each query is a call, and the rules act on messages
 * as on datagrams; what passes keeps its order. The dependency is dialled when the caller connects. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/dgram.h"
#include "proxy/px.h"
#include "squall/clock.h"

#define WAITS_MAX (256 * 1024) /* of memory with messages that wait, of one direction; then nothing more is read */
#define PREFIX 2
#define LAST (30 * INT64_C(1000000000)) /* how long the other end may take when one has closed */

struct waiting {
    STAILQ_ENTRY(waiting) link;
    int64_t due, came;
    bool ended;
    struct px_asked call;
    int status;
    size_t len, off;
    uint8_t data[];
};

/* One end: what was read of it and is no whole message yet, and what is to be written to it. */
struct side {
    struct dnstcp *conn;
    int fd;
    uv_poll_t poll;
    bool eof, shut;
    uint8_t *buf;
    size_t len, cap;
    STAILQ_HEAD(, waiting) out;
    size_t out_bytes;
    int64_t last_due;
};

struct dnstcp {
    LIST_ENTRY(dnstcp) link;
    struct px *px;
    struct sq_timer timer;
    struct side side[2]; /* CALLER, DEP */
    bool connected;
    int64_t end_by; /* 0: open on both sides */
    int closing;
    struct px_flow_calls calls;
};

static void on_closed(uv_handle_t *h)
{
    struct dnstcp *c = h->data;
    if (--c->closing > 0)
        return;
    for (int i = 0; i < 2; i++)
        free(c->side[i].buf);
    free(c);
}

static void close_conn(struct dnstcp *c, enum sq_call_outcome why)
{
    struct edge *e = c->calls.edge;
    struct waiting *w;
    px_dgram_end(&c->calls, why, sq_mono_ns());
    px_dgram_free(&c->calls);
    sq_timer_stop(&c->px->timers, &c->timer);
    LIST_REMOVE(c, link);
    for (int i = 0; i < 2; i++) {
        while ((w = STAILQ_FIRST(&c->side[i].out))) {
            STAILQ_REMOVE_HEAD(&c->side[i].out, link);
            if (w->ended)
                px_dgram_report(&c->calls, &w->call, SQ_OUT_GAVE_UP, 0, 0, sq_mono_ns());
            free(w);
        }
        c->side[i].poll.data = c;
        uv_close((uv_handle_t *)&c->side[i].poll, on_closed);
        (void)close(c->side[i].fd);
    }
    c->px->open--;
    e->dgrams--;
    px_edge_unused(e);
    px_maybe_leave(c->px);
}

static struct side *other(struct side *s)
{
    return &s->conn->side[s == &s->conn->side[CALLER] ? DEP : CALLER];
}

static void on_side(uv_poll_t *h, int status, int events);

static void on_timer(struct sq_timer *t);

static void rearm(struct dnstcp *c, int64_t now)
{
    int64_t next = c->end_by ? c->end_by : INT64_MAX;
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];
        struct waiting *w = STAILQ_FIRST(&s->out);
        bool dialling = i == DEP && !c->connected, due = w && w->due <= now;
        int want = dialling || due ? UV_WRITABLE : 0;
        /* What a caller asks may be answered by us: it has to read that as it would the dependency's. */
        bool full = other(s)->out_bytes >= WAITS_MAX || (i == CALLER && s->out_bytes >= WAITS_MAX);
        if (!s->eof && !dialling && !full)
            want |= UV_READABLE;
        (void)(want ? uv_poll_start(&s->poll, want, on_side) : uv_poll_stop(&s->poll));
        if (w && !due && w->due < next)
            next = w->due;
    }
    if (c->calls.n > 0 && c->calls.asked[0].start + PX_ANSWER < next)
        next = c->calls.asked[0].start + PX_ANSWER;
    if (next < INT64_MAX)
        (void)sq_timer_set(&c->px->timers, &c->timer, next, on_timer);
    else
        sq_timer_stop(&c->px->timers, &c->timer);
}

static void queue(struct side *to, const uint8_t *p, size_t len, const struct px_verdict *v, int64_t now)
{
    struct waiting *w = malloc(sizeof(*w) + PREFIX + len);
    if (!w)
        return;
    int64_t due = now + v->delay;
    due = due > to->last_due ? due : to->last_due;
    to->last_due = due;
    *w = (struct waiting){
        .due = due, .came = now, .ended = v->ended, .call = v->call, .status = v->status, .len = PREFIX + len};
    w->data[0] = (uint8_t)(len >> 8);
    w->data[1] = (uint8_t)len;
    memcpy(w->data + PREFIX, p, len);
    to->out_bytes += sizeof(*w) + w->len;
    STAILQ_INSERT_TAIL(&to->out, w, link);
}

static void message(struct side *from, const uint8_t *p, size_t len, int64_t now)
{
    struct dnstcp *c = from->conn;
    bool up = from == &c->side[CALLER];
    struct px_verdict v = up ? px_dgram_up(&c->calls, p, len, true, now) : px_dgram_down(&c->calls, p, len);
    if (v.drop)
        return;
    if (v.answer && v.answer <= UINT16_MAX)
        queue(from, (const uint8_t *)c->px->out, v.answer, &v, now);
    else if (!v.answer)
        queue(other(from), p, len, &v, now);
}

/* All whole messages; the rest stays. */
static void take(struct side *s, int64_t now)
{
    size_t at = 0;
    while (s->len - at >= PREFIX) {
        size_t n = (size_t)(s->buf[at] << 8 | s->buf[at + 1]);
        if (s->len - at < PREFIX + n)
            break;
        message(s, s->buf + at + PREFIX, n, now);
        at += PREFIX + n;
    }
    s->len -= at;
    if (at > 0 && s->len > 0)
        memmove(s->buf, s->buf + at, s->len);
    if (s->len == 0) {
        free(s->buf);
        s->buf = NULL;
        s->cap = 0;
    }
}

/* False: it is over. */
static bool read_side(struct side *s, int64_t now)
{
    struct px *px = s->conn->px;
    ssize_t n = recv(s->fd, px->buf, PX_BUF, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0) {
        s->eof = true;
        return true;
    }
    if (s->len + (size_t)n > s->cap) { /* at most a message that is not whole, and one read */
        uint8_t *p = realloc(s->buf, s->len + (size_t)n);
        if (!p)
            return false;
        s->buf = p;
        s->cap = s->len + (size_t)n;
    }
    memcpy(s->buf + s->len, px->buf, (size_t)n);
    s->len += (size_t)n;
    px->bytes[s == &s->conn->side[CALLER] ? UP : DOWN] += (uint64_t)n;
    take(s, now);
    return true;
}

static bool write_side(struct side *s, int64_t now)
{
    struct dnstcp *c = s->conn;
    struct waiting *w;
    while ((w = STAILQ_FIRST(&s->out)) && w->due <= now) {
        ssize_t n = send(s->fd, w->data + w->off, w->len - w->off, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        w->off += (size_t)n;
        if (w->off < w->len)
            return true;
        if (w->ended)
            px_dgram_report(&c->calls, &w->call, w->call.answered ? SQ_OUT_FAILED : SQ_OUT_ANSWERED, w->status, w->came,
                            now);
        STAILQ_REMOVE_HEAD(&s->out, link);
        s->out_bytes -= sizeof(*w) + w->len;
        free(w);
    }
    return true;
}

/* The end of one side is passed on behind what waits. False: both have ended. */
static bool pass_ends(struct dnstcp *c, int64_t now)
{
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i], *o = other(s);
        if (!s->eof || o->shut || !STAILQ_EMPTY(&o->out) || (i == CALLER && !c->connected))
            continue;
        o->shut = true;
        (void)shutdown(o->fd, SHUT_WR);
        if (!c->end_by)
            c->end_by = now + LAST;
    }
    return !(c->side[CALLER].shut && (c->side[DEP].shut || c->side[DEP].eof));
}

static void step(struct dnstcp *c, int64_t now)
{
    bool ok = write_side(&c->side[CALLER], now) && (!c->connected || write_side(&c->side[DEP], now));
    if (!ok || !pass_ends(c, now) || (c->end_by && c->end_by <= now))
        close_conn(c, c->side[CALLER].eof || !ok ? SQ_OUT_GAVE_UP : SQ_OUT_BROKEN);
    else
        rearm(c, now);
}

static void on_timer(struct sq_timer *t)
{
    struct dnstcp *c = (struct dnstcp *)((char *)t - offsetof(struct dnstcp, timer));
    int64_t now = sq_mono_ns();
    px_dgram_expire(&c->calls, false, now);
    step(c, now);
}

static void reset(struct dnstcp *c, enum sq_call_outcome why)
{
    struct linger hard = {.l_onoff = 1};
    (void)setsockopt(c->side[CALLER].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close_conn(c, why);
}

static void on_side(uv_poll_t *h, int status, int events)
{
    struct side *s = h->data;
    struct dnstcp *c = s->conn;
    int64_t now = sq_mono_ns();
    bool dep = s == &c->side[DEP];
    if (dep && !c->connected) {
        int err = 0;
        socklen_t n = sizeof(err);
        if (status < 0 || getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0 || err != 0) {
            reset(c, SQ_OUT_REFUSED);
            return;
        }
        c->connected = true;
    } else if ((status < 0 || (events & UV_READABLE)) && !s->eof && !read_side(s, now)) {
        reset(c, dep ? SQ_OUT_BROKEN : SQ_OUT_GAVE_UP);
        return;
    }
    step(c, now);
}

void px_dnstcp_new(struct edge *e, int fd, const struct origin *o)
{
    struct px *px = e->px;
    struct dnstcp *c = calloc(1, sizeof(*c));
    int one = 1, dep = o->to_len ? px_space_socket(o->space, o->to.ss_family, SOCK_STREAM) : -1;
    int rc = dep < 0 ? -1 : connect(dep, (const struct sockaddr *)&o->to, o->to_len);
    if (!c || dep < 0 || (rc < 0 && errno != EINPROGRESS)) {
        struct px_flow_calls nobody = {.edge = e, .caller = o->caller};
        struct px_asked call = {.start = sq_mono_ns()};
        px_dgram_report(&nobody, &call, SQ_OUT_REFUSED, 0, 0, call.start);
        free(c);
        (void)close(fd);
        if (dep >= 0)
            (void)close(dep);
        return;
    }
    c->px = px;
    c->calls = (struct px_flow_calls){.edge = e, .caller = o->caller};
    c->closing = 2;
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];
        s->conn = c;
        s->fd = i == CALLER ? fd : dep;
        STAILQ_INIT(&s->out);
        (void)setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        (void)uv_poll_init(&px->loop, &s->poll, s->fd);
        s->poll.data = s;
    }
    LIST_INSERT_HEAD(&px->dnstcp, c, link);
    px->open++;
    e->dgrams++;
    rearm(c, sq_mono_ns());
}

void px_dnstcp_leave(struct edge *e)
{
    int64_t now = sq_mono_ns();
    struct waiting *w;
    struct dnstcp *c;
    LIST_FOREACH(c, &e->px->dnstcp, link)
    {
        if (c->calls.edge != e)
            continue;
        px_dgram_end(&c->calls, SQ_OUT_OPEN, now);
        STAILQ_FOREACH(w, &c->side[CALLER].out, link)
        {
            if (w->ended)
                px_dgram_report(&c->calls, &w->call, SQ_OUT_OPEN, 0, 0, now);
            w->ended = false;
        }
    }
}

void px_dnstcp_rules(struct edge *e, uint32_t gone, uint32_t fresh)
{
    struct dnstcp *c;
    LIST_FOREACH(c, &e->px->dnstcp, link)
    {
        if (c->calls.edge == e)
            px_dgram_rules(&c->calls, gone, fresh);
    }
}

void px_dnstcp_close(struct px *px)
{
    while (!LIST_EMPTY(&px->dnstcp))
        close_conn(LIST_FIRST(&px->dnstcp), SQ_OUT_OPEN);
}
