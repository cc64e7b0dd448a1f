/* The byte pump: reads, lets the tracker and the rules look (take.c), writes, and waits. Bytes are altered by rules on
 * bytes only; their order is kept; what cannot be written yet is bounded (lane.h), and above the bound nothing more is
 * read.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/clock.h"

#define READS 4 /* at one wake-up: others want their turn */

#define LATE_MOST INT64_C(1000000000) /* ns: that long bytes may have waited for us, at most */

#define LOOK (10 * INT64_C(1000000)) /* ns between looks whether a caller left that cannot say so */
#define LOOK_FEW 200                 /* with more connections, ten times that */

static void on_end(uv_poll_t *h, int status, int events);

void px_end_poll(struct end *e, int want)
{
    if (e->fd < 0 || (e->polled && e->want == want))
        return;
    if (!e->polled) {
        if (want == 0 || uv_poll_init(&e->conn->px->loop, &e->poll, e->fd) != 0)
            return;
        e->poll.data = e;
        e->polled = true;
    }
    e->want = want;
    if (want == 0)
        (void)uv_poll_stop(&e->poll);
    else
        (void)uv_poll_start(&e->poll, want, on_end);
}

/* Calls whose last byte has been written. */
static void flushed(struct conn *c, int64_t now)
{
    struct sq_call *call;
    while ((call = sq_http_at(&c->http, 0)) && call->done && call->end_off <= c->lane[DOWN].out) {
        if (c->lane[DOWN].stages && now - call->ended > call->held)
            call->held = now - call->ended; /* the pace of its last byte */
        enum sq_call_outcome how = call->cut || (call->fate && call->status >= 400) ? SQ_OUT_FAILED : SQ_OUT_ANSWERED;
        px_call(c, SQ_CALL_REQUEST, call->gave_up ? SQ_OUT_GAVE_UP : how, call->status, call,
                call->gave_up ? call->gave_up : now);
        sq_http_pop(&c->http);
    }
}

static void caller_reset(struct conn *c)
{
    int64_t now = sq_mono_ns();
    for (unsigned i = 0; i < c->http.n; i++)
        if (!sq_http_at(&c->http, i)->gave_up)
            sq_http_at(&c->http, i)->gave_up = now;
    if (c->state == PX_CONNECTING || c->lane[UP].head || c->lane[DOWN].head)
        c->whole.gave_up = now;
    px_h2_end(c, SQ_OUT_GAVE_UP, now);
    px_conn_close(c, SQ_OUT_ANSWERED, 0, true);
}

/* False: a rule on bytes kept some of them for good. */
bool px_put(struct conn *c, int lane, char *p, size_t len, int64_t due, uint32_t bh, int64_t now)
{
    if (len == 0 || c->state == PX_CLOSED)
        return true;
    if ((lane == DOWN && c->gone) || (lane == UP && c->deaf))
        return true;
    c->px->bytes[lane] += len;
    c->edge->bytes[lane] += len;
    size_t all = len;
    if (c->lane[lane].stages && (len = px_shape_take(c, lane, p, len, &due, now)) == 0)
        return false;
    int rc = sq_lane_put(&c->lane[lane], c->end[1 - lane].fd, p, len, due, bh, now);
    if (rc == 0)
        return len == all;
    if (lane == DOWN || rc == -ENOMEM) {
        caller_reset(c);
    } else { /* it may have said why before it stopped reading: what it sends is still read */
        c->deaf = true;
        sq_lane_clear(&c->lane[UP]);
    }
    return true;
}

void px_stamp(struct end *e)
{
    int one = 1;
    if (!e->stamped && !e->conn->local && e->fd >= 0)
        (void)setsockopt(e->fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
    e->stamped = true;
}

/* As recv(2). *LATE: so long ago the last of it came. */
static ssize_t receive(const struct end *e, char *p, size_t len, int64_t *late)
{
    *late = 0;
    if (!e->stamped)
        return recv(e->fd, p, len, MSG_DONTWAIT);
    char control[CMSG_SPACE(sizeof(struct timespec))];
    struct iovec v = {.iov_base = p, .iov_len = len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(e->fd, &m, MSG_DONTWAIT);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SO_TIMESTAMPNS)
        return n;
    struct timespec came, now;
    memcpy(&came, CMSG_DATA(c), sizeof(came));
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t ago = (now.tv_sec - came.tv_sec) * INT64_C(1000000000) + now.tv_nsec - came.tv_nsec;
    *late = ago > 0 && ago < LATE_MOST ? ago : 0; /* else somebody has set that clock */
    return n;
}

enum got { GOT_ALL, GOT_MORE, GOT_NOTHING }; /* what the socket had; _MORE: perhaps there is more */

static enum got read_once(struct conn *c, int from)
{
    struct end *e = &c->end[from];
    int64_t late;
    ssize_t n = receive(e, c->px->buf, PX_BUF, &late);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return GOT_NOTHING;
    if (n < 0 && errno == EINTR)
        return GOT_MORE;
    if (n < 0 && from == CALLER) {
        caller_reset(c);
        return GOT_NOTHING;
    }
    if (n <= 0) {
        px_take_end(c, from, n < 0 ? SQ_END_RST : SQ_END_FIN);
        return GOT_NOTHING;
    }
    int64_t now = sq_mono_ns();
    c->moved = now;
    c->late = late;
    px_take(c, from, c->px->buf, (size_t)n, now);
    c->late = 0;
    return n == PX_BUF ? GOT_MORE : GOT_ALL;
}

/* Read from one end; all of it when no event will come for it any more. */
static void read_from(struct conn *c, int from, bool to_the_end)
{
    for (int i = 0; to_the_end || i < READS; i++) {
        if (c->state != PX_OPEN || c->end[from].eof || sq_lane_full(&c->lane[from], sq_mono_ns()) ||
            (!to_the_end && px_h2_full(c, from)))
            return;
        enum got got = read_once(c, from);
        if (got == GOT_NOTHING || (got == GOT_ALL && !to_the_end))
            return;
    }
}

/* Else the peer may be another host's, whose sockets nobody here can be asked about. */
static bool on_loopback(const union px_addr *a)
{
    const struct in6_addr *six = &a->in6.sin6_addr;
    if (a->sa.sa_family == AF_INET)
        return ntohl(a->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == IN_LOOPBACKNET);
}

/* The caller closed: for good, or only its sending side (which is no giving up)? */
static bool caller_left(struct conn *c)
{
    union px_addr from, to;
    socklen_t n = sizeof(from), m = sizeof(to);
    if (c->local || getpeername(c->end[CALLER].fd, &from.sa, &n) != 0 ||
        getsockname(c->end[CALLER].fd, &to.sa, &m) != 0)
        return !c->local;
    enum px_peer peer = PX_PEER_UNKNOWN;
    if (c->translated ? px_nft_dest(c->end[CALLER].fd, &to) : on_loopback(&to))
        peer = px_diag(c->space->diag, &from, &to);
    /* An HTTP client closes its sending side only when it closes; others do it to say that they are done. */
    return peer == PX_PEER_UNKNOWN ? !c->opaque : peer == PX_PEER_LEFT;
}

/* Nobody will read what we have for the caller. Its calls end now; the dependency is told as the caller's kernel would.
 */
static void gone(struct conn *c, int64_t now)
{
    bool holes = px_blackhole(c, c->hits) != 0;
    c->gone = true;
    px_h2_end(c, SQ_OUT_GAVE_UP, now);
    for (unsigned i = 0; i < c->http.n; i++) {
        struct sq_call *call = sq_http_at(&c->http, i);
        call->gave_up = now;
        holes = holes || px_blackhole(c, call->hits);
    }
    if (c->state == PX_CONNECTING || c->lane[DOWN].head || holes)
        c->whole.gave_up = now;
    if (c->state == PX_CONNECTING || holes) {
        px_conn_close(c, SQ_OUT_GAVE_UP, 0, true);
        return;
    }
    sq_lane_clear(&c->lane[DOWN]);
    c->lane[DOWN].last_due = 0;
    c->lane[DOWN].end_due = 0;
    c->lane[DOWN].end_bh = 0;
    /* The dependency's answer is known for these; for the others it is worth knowing. */
    while (c->http.n > 0 && sq_http_at(&c->http, 0)->answer) {
        struct sq_call *call = sq_http_at(&c->http, 0);
        px_call(c, SQ_CALL_REQUEST, SQ_OUT_GAVE_UP, call->status, call, now);
        sq_http_pop(&c->http);
    }
}

static void maybe_gone(struct conn *c)
{
    if (c->edge->plain && c->state == PX_CONNECTING)
        return; /* what it sent before it left is for the upstream */
    bool waits = c->state == PX_CONNECTING || c->http.n > 0 || px_h2_waits(c) || c->lane[UP].head || c->lane[DOWN].head;
    if (c->state != PX_CLOSED && !c->gone && waits && caller_left(c))
        gone(c, sq_mono_ns());
}

static void on_caller(struct conn *c, int status, int events)
{
    bool was = c->end[CALLER].eof;
    if (status < 0 || (events & UV_PRIORITIZED)) {
        int err = 0;
        socklen_t n = sizeof(err);
        (void)getsockopt(c->end[CALLER].fd, SOL_SOCKET, SO_ERROR, &err, &n);
        if (c->local && c->state == PX_OPEN && !was)
            read_from(c, CALLER, true);
        if (c->state != PX_CLOSED && c->local)
            gone(c, sq_mono_ns());
        else if (c->state != PX_CLOSED)
            caller_reset(c);
        return;
    }
    if (events & UV_READABLE)
        read_from(c, CALLER, false);
    if (c->state == PX_CLOSED)
        return;
    bool fin = (events & UV_DISCONNECT) && !c->end[CALLER].eof && !c->fin_seen &&
               (c->state == PX_CONNECTING || sq_lane_full(&c->lane[UP], sq_mono_ns()));
    if (fin)
        c->fin_seen = true;
    if (fin || (c->end[CALLER].eof && !was && !c->fin_seen))
        maybe_gone(c);
}

static void on_dep(struct conn *c, int status, int events)
{
    if (c->state == PX_CONNECTING) {
        int err = 0;
        socklen_t n = sizeof(err);
        (void)getsockopt(c->end[DEP].fd, SOL_SOCKET, SO_ERROR, &err, &n);
        if ((err || status < 0) && c->edge->plain && px_plain_again(c))
            return;
        px_conn_connected(c, status < 0 && err == 0 ? ECONNREFUSED : err);
        return;
    }
    if (status < 0 || (events & UV_READABLE))
        read_from(c, DEP, status < 0);
}

static void unblock(struct sq_lane *l)
{
    if (l->blocked && l->stages)
        sq_stages_resume(l->stages, sq_mono_ns());
    l->blocked = false;
}

static void on_end(uv_poll_t *h, int status, int events)
{
    struct end *e = h->data;
    struct conn *c = e->conn;
    if (status < 0)
        e->want = 0; /* libuv stopped it */
    if (e == &c->end[CALLER]) {
        if (events & UV_WRITABLE)
            unblock(&c->lane[DOWN]);
        on_caller(c, status, events);
    } else {
        if (events & UV_WRITABLE)
            unblock(&c->lane[UP]);
        on_dep(c, status, events);
    }
    px_pump(c);
}

static void flush(struct conn *c, int lane, int64_t now)
{
    struct sq_lane *l = &c->lane[lane];
    if (c->state != PX_OPEN || !l->head || l->blocked || l->paced > now)
        return;
    int rc = sq_lane_flush(l, c->end[1 - lane].fd, now);
    if (rc == 0)
        return;
    if (lane == DOWN) {
        caller_reset(c);
    } else {
        c->deaf = true;
        sq_lane_clear(l);
    }
}

/* Pass on the end of a lane. */
static void finish(struct conn *c, int lane, int64_t now)
{
    struct sq_lane *l = &c->lane[lane];
    if (c->state != PX_OPEN || c->ended[lane] || px_h2_holds(c, lane) || !sq_lane_at_end(l, now))
        return;
    c->ended[lane] = true;
    if (l->stages)
        sq_stages_lingered(l->stages);
    if (l->end == SQ_END_RST) {
        px_conn_close(c, SQ_OUT_BROKEN, 0, true);
        return;
    }
    if (l->end == SQ_END_CLOSE) {
        px_shape_end(c);
        return;
    }
    (void)shutdown(c->end[1 - lane].fd, SHUT_WR);
    if (lane == UP)
        return;
    for (; c->http.n > 0; sq_http_pop(&c->http)) {
        struct sq_call *call = sq_http_at(&c->http, 0);
        enum sq_call_outcome o = c->opaque && call->answer ? SQ_OUT_ANSWERED : SQ_OUT_BROKEN;
        px_call(c, SQ_CALL_REQUEST, call->gave_up ? SQ_OUT_GAVE_UP : o, call->status, call,
                call->gave_up ? call->gave_up : now);
    }
}

/* Has the caller left without a sign? One whose socket is full behind our black hole cannot even send its FIN; one that
 * has shut its sending side down sends none when it closes (Java does both, one after the other). Then the kernel is
 * asked again and again. */
static bool may_leave(const struct conn *c, int64_t now)
{
    if (c->local || c->gone)
        return false;
    if (c->end[CALLER].eof || c->fin_seen)
        return c->state == PX_CONNECTING || c->http.n > 0 || c->lane[DOWN].head;
    return c->lane[UP].head && c->lane[UP].head->bh && sq_lane_full(&c->lane[UP], now);
}

static void on_due(struct sq_timer *t)
{
    struct conn *c = (struct conn *)((char *)t - offsetof(struct conn, timer));
    if (c->deadline && c->deadline <= sq_mono_ns()) {
        if (c->state == PX_CONNECTING)
            px_conn_connected(c, ETIMEDOUT);
        else
            px_conn_close(c, SQ_OUT_GAVE_UP, 0, true);
        return;
    }
    if (may_leave(c, sq_mono_ns()))
        maybe_gone(c);
    px_pump(c);
}

static void wait_for(struct conn *c, int64_t now)
{
    bool open = c->state == PX_OPEN;
    const struct end *caller = &c->end[CALLER], *dep = &c->end[DEP];
    int want = 0;
    if (open && !caller->eof && !sq_lane_full(&c->lane[UP], now) && !px_h2_full(c, UP))
        want |= UV_READABLE;
    if (!caller->eof && !c->fin_seen)
        want |= UV_DISCONNECT;
    if (open && c->lane[DOWN].blocked)
        want |= UV_WRITABLE;
    if (want == 0 && !c->gone && !c->ended[DOWN])
        want = UV_PRIORITIZED; /* nothing but a reset */
    px_end_poll(&c->end[CALLER], want);
    want = 0;
    if (open && !dep->eof && !sq_lane_full(&c->lane[DOWN], now) && !px_h2_full(c, DOWN))
        want |= UV_READABLE;
    if (!open || c->lane[UP].blocked)
        want |= UV_WRITABLE;
    px_end_poll(&c->end[DEP], want);
    int64_t due = c->deadline ? c->deadline : INT64_MAX;
    if (may_leave(c, now) && due > now + LOOK)
        due = now + (c->px->open < LOOK_FEW ? LOOK : 10 * LOOK);
    if (c->shaped) {
        int64_t fires = px_shape_next(c);
        due = fires < due ? fires : due;
    }
    if (open && c->h2 && px_h2_next(c) < due)
        due = px_h2_next(c);
    if (open && px_preface_due(c) < due)
        due = px_preface_due(c);
    for (int i = 0; open && i < 2; i++) {
        bool later = c->ended[i] || (!c->lane[i].head && px_h2_holds(c, i)); /* its end waits, too */
        int64_t next = later ? INT64_MAX : sq_lane_next(&c->lane[i]);
        due = next < due ? next : due;
    }
    if (due == INT64_MAX)
        sq_timer_stop(&c->px->timers, &c->timer);
    else if (c->timer.at == 0 || c->timer.due != due)
        (void)sq_timer_set(&c->px->timers, &c->timer, due, on_due);
}

void px_pump(struct conn *c)
{
    if (c->state == PX_CLOSED)
        return;
    int64_t now = sq_mono_ns();
    if (px_preface_due(c) <= now)
        px_no_preface(c, now);
    flush(c, UP, now);
    flush(c, DOWN, now);
    if (c->state == PX_CLOSED)
        return;
    if (c->web)
        px_web_turn(c, now);
    if (c->h2)
        px_h2_pump(c, now);
    if (c->state == PX_CLOSED)
        return;
    flushed(c, now);
    if (c->web && px_web_reset(c))
        return;
    if (c->shaped && px_shape_fire(c, now))
        return;
    finish(c, UP, now);
    finish(c, DOWN, now);
    if (c->gone && (c->ended[UP] || px_h2_holds(c, UP)) && !c->deadline)
        c->deadline = now + PX_GONE;
    if (c->state == PX_OPEN && c->ended[UP] && c->ended[DOWN] && !px_web_lingers(c))
        px_conn_close(c, SQ_OUT_ANSWERED, 0, false);
    if (c->state != PX_CLOSED)
        wait_for(c, now);
}
