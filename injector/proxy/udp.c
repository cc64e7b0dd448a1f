/* Datagrams of an edge. What callers send to 127.3.x.y comes to one socket of the edge (from unconnected sockets to
 * IPv6 addresses: to another one on ::1, from an address that says x.y); each socket of a caller gets one of ours to
 * the dependency (a flow), so that the answers find back. A flow is a NAT's mapping: it ends when it has been idle for
 * a time, and the next datagram makes a new one.
 *
 * A connected socket is connected to us until its owner closes it: when its edge is dropped, or squalld is gone, the
 * port stays open, passing everything on, for as long as the kernel knows of a socket that is connected to it. */
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/dgram.h"
#include "proxy/diag.h"
#include "proxy/px.h"
#include "proxy/udpaddr.h"
#include "squall/clock.h"

#define BUCKETS 8192u
#define FLOWS_MAX 16384u /* then the one that was idle for longest makes room */
#define READS 64         /* at one wake-up */
#define SWEEP (500 * INT64_C(1000000))
#define IDLE (120 * INT64_C(1000000000))    /* RFC 4787, REQ-5 */
#define IDLE_DNS (30 * INT64_C(1000000000)) /* each query has a port of its own */
#define HELD_MAX (64u * 1024 * 1024) /* of memory with datagrams that a latency holds; more are lost, and counted */
#define DROPPED (1 * INT64_C(1000000000)) /* for what is on its way */
#define BLIND (150 * INT64_C(1000000000)) /* how long a port stays when the kernel does not say who is connected */

/* The socket that the datagrams of an edge come to. */
struct dport {
    TAILQ_ENTRY(dport) link;
    uv_poll_t poll;
    struct edge *edge;
    struct px_space *space;
    int fd;
    bool six;        /* on ::1 */
    uint16_t port;   /* network byte order */
    int64_t dropped; /* its edge is: since then; 0: no */
    unsigned flows;
};

struct flow {
    LIST_ENTRY(flow) link;
    TAILQ_ENTRY(flow) used; /* least recently used first */
    struct px *px;
    struct dport *port;
    union px_addr peer;   /* the caller's socket */
    struct in_addr local; /* 127.3.x.y */
    struct sq_flow to;    /* what that stood for when the flow began */
    int fd;               /* to the dependency */
    uv_poll_t poll;
    int64_t moved;
    LIST_HEAD(, held) held;
    struct px_flow_calls calls;
};

/* A datagram that is not due yet. */
struct held {
    LIST_ENTRY(held) link;
    struct sq_timer timer;
    struct flow *flow;
    int64_t came;
    bool down, twice, ended;
    struct px_asked call;
    int status;
    size_t len;
    uint8_t data[];
};

struct dgrams {
    struct px *px;
    struct sq_timer sweep;
    LIST_HEAD(, flow) bucket[BUCKETS];
    TAILQ_HEAD(, flow) used;
    TAILQ_HEAD(, dport) ports;
    unsigned n;
    size_t held;
};

static void on_answer(uv_poll_t *h, int status, int events);

static unsigned bucket_of(const union px_addr *peer, struct in_addr local, const struct dport *port)
{
    uint32_t h = local.s_addr * 2246822519u;
    if (!port->six) /* else the number is of one address of the caller's already */
        h ^= peer->in.sin_addr.s_addr * 2654435761u;
    h ^= (uint32_t)peer->in.sin_port * 3266489917u + port->port;
    return (h ^ h >> 15) % BUCKETS;
}

static struct flow *find(const struct dgrams *d, const union px_addr *peer, struct in_addr local,
                         const struct dport *port)
{
    struct flow *f;
    LIST_FOREACH(f, &d->bucket[bucket_of(peer, local, port)], link)
    {
        if (f->port == port && f->local.s_addr == local.s_addr && px_addr_same(&f->peer, peer))
            return f;
    }
    return NULL;
}

static void on_flow_closed(uv_handle_t *h)
{
    free(h->data);
}

/* It is not delivered, or nobody will ask how it was: the call that it ends is told of now. */
static void held_report(struct held *h, enum sq_call_outcome outcome)
{
    if (h->ended)
        px_dgram_report(&h->flow->calls, &h->call, outcome, 0, 0, sq_mono_ns());
    h->ended = false;
}

static void held_free(struct held *h)
{
    held_report(h, SQ_OUT_NONE);
    h->flow->px->dgrams->held -= sizeof(*h) + h->len;
    sq_timer_stop(&h->flow->px->timers, &h->timer);
    LIST_REMOVE(h, link);
    free(h);
}

static void flow_close(struct flow *f)
{
    struct dgrams *d = f->px->dgrams;
    px_dgram_expire(&f->calls, true, sq_mono_ns());
    while (!LIST_EMPTY(&f->held))
        held_free(LIST_FIRST(&f->held));
    LIST_REMOVE(f, link);
    TAILQ_REMOVE(&d->used, f, used);
    d->n--;
    f->px->open--;
    f->port->flows--;
    px_dgram_free(&f->calls);
    uv_close((uv_handle_t *)&f->poll, on_flow_closed);
    (void)close(f->fd);
}

/* Where 127.3.x.y of this edge stands for; false: for nothing of ours. */
static bool origin(const struct dport *port, struct in_addr local, struct sq_flow *out)
{
    uint32_t host = ntohl(local.s_addr);
    bool seccomp = (host & 0xffff0000u) == SQ_NET_DGRAM_SECCOMP;
    const struct sq_flow *table = port->edge->px->dflows[seccomp];
    if (!table || (!seccomp && (host & 0xffff0000u) != SQ_NET_DGRAM))
        return false;
    memcpy(out, &table[host & 0xffffu], sizeof(*out)); /* it may be written at any time: look at one copy */
    return out->edge == port->edge->id && out->via == port->port && (out->family == AF_INET || out->family == AF_INET6);
}

static int dial(struct px_space *space, const struct sq_flow *to)
{
    struct sockaddr_storage ss = {0};
    socklen_t len;
    if (to->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&ss;
        *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = to->port};
        memcpy(&in->sin_addr, to->addr, sizeof(in->sin_addr));
        len = sizeof(*in);
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
        *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = to->port};
        memcpy(&in6->sin6_addr, to->addr, sizeof(in6->sin6_addr));
        len = sizeof(*in6);
    }
    int fd = px_space_socket(space, to->family, SOCK_DGRAM);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&ss, len) < 0) {
        int rc = -errno;
        (void)close(fd);
        return rc;
    }
    return fd;
}

static void refused(struct flow *f)
{
    px_dgram_end(&f->calls, SQ_OUT_REFUSED, sq_mono_ns());
    if (!f->port->six) /* an unconnected socket is not told */
        px_udp_refuse(f->port->space, &f->peer.in, f->local, f->port->port);
}

static void touch(struct flow *f, int64_t now)
{
    struct dgrams *d = f->px->dgrams;
    f->moved = now;
    TAILQ_REMOVE(&d->used, f, used);
    TAILQ_INSERT_TAIL(&d->used, f, used);
}

static void on_sweep(struct sq_timer *t);

static struct flow *flow_new(struct dport *port, const union px_addr *peer, struct in_addr local)
{
    struct px *px = port->edge->px;
    struct dgrams *d = px->dgrams;
    struct sq_flow to;
    if (!origin(port, local, &to)) {
        px->stray++;
        return NULL;
    }
    if (d->n >= FLOWS_MAX)
        flow_close(TAILQ_FIRST(&d->used));
    int fd = dial(port->space, &to);
    if ((fd == -EMFILE || fd == -ENFILE) && d->n > 0) {
        flow_close(TAILQ_FIRST(&d->used));
        fd = dial(port->space, &to);
    }
    struct flow *f = fd < 0 ? NULL : calloc(1, sizeof(*f));
    if (!f || uv_poll_init(&px->loop, &f->poll, fd) != 0) {
        struct px_flow_calls nobody = {.edge = port->edge, .caller = to.caller};
        struct px_asked call = {.start = sq_mono_ns()};
        px_dgram_report(&nobody, &call, SQ_OUT_REFUSED, 0, 0, call.start);
        if (!port->six)
            px_udp_refuse(port->space, &peer->in, local, port->port);
        free(f);
        if (fd >= 0)
            (void)close(fd);
        return NULL;
    }
    *f = (struct flow){.px = px, .port = port, .peer = *peer, .local = local, .to = to, .fd = fd, .poll = f->poll};
    f->calls = (struct px_flow_calls){.edge = port->edge, .caller = to.caller};
    f->poll.data = f;
    (void)uv_poll_start(&f->poll, UV_READABLE, on_answer);
    LIST_INIT(&f->held);
    LIST_INSERT_HEAD(&d->bucket[bucket_of(peer, local, port)], f, link);
    TAILQ_INSERT_TAIL(&d->used, f, used);
    d->n++;
    port->flows++;
    px->open++;
    if (!d->sweep.at)
        (void)sq_timer_set(&px->timers, &d->sweep, sq_mono_ns() + SWEEP, on_sweep);
    return f;
}

static void send_up(struct flow *f, const uint8_t *p, size_t len, bool twice)
{
    for (int i = 0; i < (twice ? 2 : 1); i++) {
        ssize_t n = send(f->fd, p, len, MSG_DONTWAIT);
        if (n < 0 && errno == ECONNREFUSED) { /* of an earlier one */
            refused(f);
            n = send(f->fd, p, len, MSG_DONTWAIT);
        }
        if (n < 0)
            f->px->dropped++;
    }
    f->px->bytes[UP] += len;
    f->port->edge->bytes[UP] += len;
}

/* From the address that it was sent to. */
static void send_down(struct flow *f, const uint8_t *p, size_t len, bool twice)
{
    for (int i = 0; i < (twice ? 2 : 1); i++)
        if (px_addr_answer(f->port->fd, f->local, &f->peer, p, len) < 0)
            f->px->dropped++;
    f->px->bytes[DOWN] += len;
    f->port->edge->bytes[DOWN] += len;
}

static void deliver(struct flow *f, const struct held *h, const uint8_t *p, size_t len, int64_t now)
{
    if (h->down)
        send_down(f, p, len, h->twice);
    else
        send_up(f, p, len, h->twice);
    if (h->ended)
        px_dgram_report(&f->calls, &h->call, h->call.answered ? SQ_OUT_FAILED : SQ_OUT_ANSWERED, h->status, h->came,
                        now);
}

static void on_due(struct sq_timer *t)
{
    struct held *h = (struct held *)((char *)t - offsetof(struct held, timer));
    int64_t now = sq_mono_ns();
    touch(h->flow, now);
    deliver(h->flow, h, h->data, h->len, now);
    h->ended = false;
    held_free(h);
}

/* Now, or when it is due; it keeps its due time when the fault ends meanwhile. */
static void pass(struct flow *f, const uint8_t *p, size_t len, const struct px_verdict *v, bool down, int64_t now)
{
    struct dgrams *d = f->px->dgrams;
    struct held one = {
        .came = now, .down = down, .twice = v->twice, .ended = v->ended, .call = v->call, .status = v->status};
    if (v->drop)
        return;
    if (v->delay <= 0) {
        deliver(f, &one, p, len, now);
        return;
    }
    struct held *h = d->held + sizeof(*h) + len > HELD_MAX ? NULL : malloc(sizeof(*h) + len);
    if (!h) {
        f->px->dropped++;
        if (v->ended)
            px_dgram_report(&f->calls, &v->call, SQ_OUT_NONE, 0, 0, now);
        return;
    }
    memcpy(h, &one, sizeof(one));
    h->flow = f;
    h->len = len;
    memcpy(h->data, p, len);
    d->held += sizeof(*h) + len;
    LIST_INSERT_HEAD(&f->held, h, link);
    if (sq_timer_set(&f->px->timers, &h->timer, now + v->delay, on_due) != 0)
        held_free(h);
}

static void on_answer(uv_poll_t *handle, int status, int events)
{
    struct flow *f = handle->data;
    struct px *px = f->px;
    int64_t now = sq_mono_ns();
    (void)status;
    (void)events;
    for (int i = 0; i < READS; i++) {
        ssize_t n = recv(f->fd, px->buf, PX_BUF, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == ECONNREFUSED) {
            refused(f);
            continue;
        }
        if (n < 0)
            break;
        struct px_verdict v = px_dgram_down(&f->calls, (const uint8_t *)px->buf, (size_t)n);
        pass(f, (const uint8_t *)px->buf, (size_t)n, &v, true, now);
        touch(f, now);
    }
}

/* Has 127.3.x.y been given to another destination since? (The table is a ring.) */
static bool stale(const struct flow *f)
{
    struct sq_flow to;
    return !f->port->dropped && origin(f->port, f->local, &to) &&
           (to.caller != f->to.caller || to.port != f->to.port || to.family != f->to.family ||
            memcmp(to.addr, f->to.addr, sizeof(to.addr)) != 0);
}

static void from_caller(struct dport *port, const union px_addr *peer, struct in_addr local, size_t len)
{
    struct px *px = port->edge->px;
    struct flow *f = find(px->dgrams, peer, local, port);
    int64_t now = sq_mono_ns();
    if (f && stale(f)) {
        flow_close(f);
        f = NULL;
    }
    if (!f)
        f = flow_new(port, peer, local);
    if (!f)
        return;
    struct px_verdict v = px_dgram_up(&f->calls, (const uint8_t *)px->buf, len, false, now);
    touch(f, now);
    if (v.answer)
        pass(f, (const uint8_t *)px->out, v.answer, &v, true, now);
    else
        pass(f, (const uint8_t *)px->buf, len, &v, false, now);
}

/* The number of a datagram on ::1 is known; its socket is where the table says. */
static bool find_peer6(const struct dport *port, union px_addr *peer, struct in_addr local)
{
    struct sq_flow to;
    if (!origin(port, local, &to))
        return false;
    memcpy(&peer->in6.sin6_addr, to.src, sizeof(to.src));
    if (IN6_IS_ADDR_UNSPECIFIED(&peer->in6.sin6_addr))
        peer->in6.sin6_addr = in6addr_loopback;
    return true;
}

static void on_caller(uv_poll_t *handle, int status, int events)
{
    struct dport *port = handle->data;
    (void)status;
    (void)events;
    for (int i = 0; i < READS; i++) {
        union px_addr peer;
        struct in_addr local;
        ssize_t n = px_addr_read(port->fd, port->edge->px->buf, PX_BUF, &peer, &local);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return;
        if (port->six && !find_peer6(port, &peer, local))
            port->edge->px->stray++;
        else
            from_caller(port, &peer, local, (size_t)n);
    }
}

static void on_port_closed(uv_handle_t *h)
{
    free(h->data);
}

static void port_close(struct dport *port)
{
    struct edge *e = port->edge;
    struct flow *next;
    for (struct flow *f = TAILQ_FIRST(&e->px->dgrams->used); f && port->flows > 0; f = next) {
        next = TAILQ_NEXT(f, used);
        if (f->port == port)
            flow_close(f);
    }
    TAILQ_REMOVE(&e->px->dgrams->ports, port, link);
    e->dgrams--;
    e->px->open--;
    uv_close((uv_handle_t *)&port->poll, on_port_closed);
    (void)close(port->fd);
    px_space_unused(port->space);
    px_edge_unused(e);
}

/* Nobody is sent here any more: the port goes, with its flows, when nobody is connected to it either. What an
 * unconnected socket gets now comes from an address that it never asked. */
static bool port_over(const struct dport *port, int64_t now)
{
    const struct flow *f;
    if (!port->dropped || now - port->dropped < DROPPED)
        return false;
    TAILQ_FOREACH(f, &port->edge->px->dgrams->used, used)
    {
        if (f->port == port && !LIST_EMPTY(&f->held))
            return false;
    }
    int any = px_diag_connected(port->space->diag, port->port);
    return any < 0 ? now - port->dropped > BLIND : any == 0;
}

static int64_t idle_limit(const struct flow *f)
{
    if (f->port->dropped)
        return PX_ANSWER;
    return f->port->edge->protocol == PX_DNS ? IDLE_DNS : IDLE;
}

static void on_sweep(struct sq_timer *t)
{
    struct dgrams *d = (struct dgrams *)((char *)t - offsetof(struct dgrams, sweep));
    struct px *px = d->px;
    int64_t now = sq_mono_ns();
    struct flow *fnext;
    struct dport *pnext;
    bool again = false;
    for (struct flow *f = TAILQ_FIRST(&d->used); f; f = fnext) {
        fnext = TAILQ_NEXT(f, used);
        px_dgram_expire(&f->calls, false, now);
        if (now - f->moved > idle_limit(f) && LIST_EMPTY(&f->held))
            flow_close(f);
    }
    for (struct dport *p = TAILQ_FIRST(&d->ports); p; p = pnext) {
        pnext = TAILQ_NEXT(p, link);
        again |= p->dropped != 0;
        if (port_over(p, now))
            port_close(p);
    }
    if (d->n > 0 || again)
        (void)sq_timer_set(&px->timers, &d->sweep, now + SWEEP, on_sweep);
    px_maybe_leave(px);
}

int px_udp_add(struct edge *e, struct px_space *space, int fd)
{
    struct px *px = e->px;
    union px_addr at = {0};
    socklen_t len = sizeof(at);
    struct dport *port;
    if (!px->dgrams) {
        px->dgrams = calloc(1, sizeof(*px->dgrams));
        if (!px->dgrams)
            return -ENOMEM;
        px->dgrams->px = px;
        TAILQ_INIT(&px->dgrams->used);
        TAILQ_INIT(&px->dgrams->ports);
    }
    if (getsockname(fd, &at.sa, &len) < 0 || (at.sa.sa_family != AF_INET && at.sa.sa_family != AF_INET6))
        return -EINVAL;
    port = calloc(1, sizeof(*port));
    if (!port || uv_poll_init(&px->loop, &port->poll, fd) != 0) {
        free(port);
        return -ENOMEM;
    }
    port->edge = e;
    port->space = space;
    space->users++;
    port->fd = fd;
    port->port = at.in.sin_port;
    port->six = at.sa.sa_family == AF_INET6;
    port->poll.data = port;
    (void)uv_poll_start(&port->poll, UV_READABLE, on_caller);
    TAILQ_INSERT_TAIL(&px->dgrams->ports, port, link);
    e->dgrams++;
    px->open++;
    return 0;
}

void px_udp_leave(struct edge *e)
{
    struct dgrams *d = e->px->dgrams;
    int64_t now = sq_mono_ns();
    struct dport *p;
    struct flow *f;
    struct held *h;
    if (!d)
        return;
    TAILQ_FOREACH(f, &d->used, used)
    {
        if (f->port->edge != e)
            continue;
        px_dgram_expire(&f->calls, true, now);
        LIST_FOREACH(h, &f->held, link)
        {
            held_report(h, SQ_OUT_OPEN);
        }
    }
    TAILQ_FOREACH(p, &d->ports, link)
    {
        if (p->edge == e && !p->dropped)
            p->dropped = now;
    }
    if (e->dgrams > 0 && !d->sweep.at)
        (void)sq_timer_set(&e->px->timers, &d->sweep, now + SWEEP, on_sweep);
}

void px_udp_leave_space(struct px *px, const struct px_space *space)
{
    struct dgrams *d = px->dgrams;
    int64_t now = sq_mono_ns();
    struct dport *p;
    if (!d)
        return;
    TAILQ_FOREACH(p, &d->ports, link)
    {
        if (p->space == space && !p->dropped)
            p->dropped = now;
    }
    if (!TAILQ_EMPTY(&d->ports) && !d->sweep.at)
        (void)sq_timer_set(&px->timers, &d->sweep, now + SWEEP, on_sweep);
}

void px_udp_rules(struct edge *e, uint32_t gone, uint32_t fresh)
{
    struct flow *f;
    if (!e->px->dgrams || e->dgrams == 0)
        return;
    TAILQ_FOREACH(f, &e->px->dgrams->used, used)
    {
        if (f->port->edge == e)
            px_dgram_rules(&f->calls, gone, fresh);
    }
}

void px_udp_close(struct px *px)
{
    struct dport *next;
    if (!px->dgrams)
        return;
    for (struct dport *p = TAILQ_FIRST(&px->dgrams->ports); p; p = next) {
        next = TAILQ_NEXT(p, link);
        port_close(p);
    }
    sq_timer_stop(&px->timers, &px->dgrams->sweep);
    free(px->dgrams);
    px->dgrams = NULL;
}
