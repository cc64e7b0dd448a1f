/* Edges, their listeners and callers: where connections come from, and where they wanted to go. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/clock.h"

#define ACCEPTS 64 /* at one wake-up */
#define BACKLOG_MAX 8192
#define EDGES_MAX 1024
#define RETRY (100 * INT64_C(1000000))

static void on_ready(uv_poll_t *h, int status, int events);

struct edge *px_edge_find(struct px *px, uint32_t id)
{
    struct edge *e;
    TAILQ_FOREACH(e, &px->edges, link)
    {
        if (e->id == id && e->counted)
            return e;
    }
    return NULL;
}

/* An entry may be written at any time: look at one copy. A socket that may only speak IPv6 is sent to ::1, which has no
 * room for a flow's number: its cookie finds it. */
bool px_flow(const struct px_space *space, const union px_addr *from, const union px_addr *to, struct sq_flow *out)
{
    const struct px *px = space->px;
    uint32_t addr = ntohl(to->in.sin_addr.s_addr), net = addr & 0xffff0000u;
    const struct sq_flow *const *table = px->flows;
    if (to->sa.sa_family == AF_INET) {
        int i = net == SQ_NET_SECCOMP;
        if ((!i && net != SQ_NET_BPF) || !table[i])
            return false;
        memcpy(out, &table[i][addr & 0xffffu], sizeof(*out));
        return true;
    }
    uint64_t cookie = px_diag_cookie(space->diag, from, to);
    table = px->cookies;
    for (int i = 0; cookie && i < 2; i++) {
        if (!table[i])
            continue;
        memcpy(out, &table[i][SQ_FLOW_OF(cookie) - SQ_FLOWS], sizeof(*out));
        if (out->cookie == cookie)
            return true;
    }
    return false;
}

static bool origin_from(const struct edge *e, const struct sq_flow *f, struct origin *o)
{
    if (f->edge != e->id)
        return false;
    *o = (struct origin){.caller = f->caller, .flow_ns = (int64_t)f->t_ns, .drawn.hits = f->hits};
    memcpy(o->drawn.rule, f->rule, sizeof(f->rule));
    if (f->family == AF_INET) {
        struct sockaddr_in *to = (struct sockaddr_in *)&o->to;
        *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = f->port};
        memcpy(&to->sin_addr, f->addr, sizeof(to->sin_addr));
        o->to_len = sizeof(*to);
    } else if (f->family == AF_INET6) {
        struct sockaddr_in6 *to = (struct sockaddr_in6 *)&o->to;
        *to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = f->port};
        memcpy(&to->sin6_addr, f->addr, sizeof(to->sin6_addr));
        o->to_len = sizeof(*to);
    } else {
        return false;
    }
    return true;
}

/* The original destination of an accepted connection, from the address that it was sent to. */
static bool origin_of(struct edge *e, struct px_space *space, const union px_addr *peer, const union px_addr *local,
                      struct origin *o)
{
    struct sq_flow f;
    if (!px_flow(space, peer, local, &f) || !origin_from(e, &f, o))
        return false;
    px_hold_accepted(space, peer, local, o);
    return true;
}

static void welcome(struct listener *l, int fd, const union px_addr *peer)
{
    struct edge *e = l->edge;
    struct origin o = {.caller = l->caller, .dest = l->dest};
    union px_addr local = {0};
    socklen_t n = sizeof(local);
    bool known = l->kind == PX_UNIX || l->kind == PX_PLAIN;
    if (l->kind == PX_NFT)
        o.translated = known = px_nft_origin(e, fd, l->dest, &o);
    else if (!known && getsockname(fd, &local.sa, &n) == 0)
        known = origin_of(e, l->space, peer, &local, &o);
    o.space = l->space;
    if (known) {
        if (e->protocol == PX_DNS)
            px_dnstcp_new(e, fd, &o);
        else
            px_conn_new(e, fd, l->kind == PX_UNIX, &o);
        return;
    }
    e->px->stray++;
    (void)close(fd);
}

enum accepted { ACCEPT_MORE, ACCEPT_NONE, ACCEPT_NO_ROOM };

static enum accepted accept_one(struct listener *l)
{
    union px_addr peer = {0}; /* of a Unix socket there is no room for it, nor a use */
    socklen_t n = sizeof(peer);
    int fd = accept4(l->fd, &peer.sa, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        welcome(l, fd, &peer);
        return ACCEPT_MORE;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        return ACCEPT_NO_ROOM;
    return errno == ECONNABORTED || errno == EINTR ? ACCEPT_MORE : ACCEPT_NONE;
}

static void on_again(struct sq_timer *t)
{
    struct listener *l = (struct listener *)((char *)t - offsetof(struct listener, again));
    (void)uv_poll_start(&l->poll, UV_READABLE, on_ready);
}

static void on_ready(uv_poll_t *h, int status, int events)
{
    struct listener *l = h->data;
    struct px *px = l->edge->px;
    (void)events;
    if (status < 0)
        return;
    for (int i = 0; i < ACCEPTS; i++) {
        enum accepted got = accept_one(l);
        if (got == ACCEPT_NO_ROOM) {
            (void)uv_poll_stop(&l->poll); /* it stays readable: come back when there may be room */
            (void)sq_timer_set(&px->timers, &l->again, sq_mono_ns() + RETRY, on_again);
        }
        if (got != ACCEPT_MORE)
            return;
    }
}

static void on_listener_closed(uv_handle_t *h)
{
    free(h->data);
}

int px_listen(struct edge *e, struct px_space *space, int fd, enum listen_kind kind, uint32_t caller, uint32_t dest)
{
    struct listener *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    *l = (struct listener){.edge = e, .space = space, .fd = fd, .kind = kind, .caller = caller, .dest = dest};
    int fl = fcntl(fd, F_GETFL);
    int rc = fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0 ? -errno : uv_poll_init(&e->px->loop, &l->poll, fd);
    if (rc < 0) {
        free(l);
        return rc;
    }
    l->poll.data = l;
    (void)uv_poll_start(&l->poll, UV_READABLE, on_ready);
    TAILQ_INSERT_TAIL(&e->listeners, l, link);
    space->users++;
    return 0;
}

static void unlisten(struct listener *l)
{
    /* Closing it would reset those that wait to be accepted; of a plain proxy all end now. */
    for (int i = 0; l->kind != PX_PLAIN && i < BACKLOG_MAX && accept_one(l) == ACCEPT_MORE; i++)
        ;
    TAILQ_REMOVE(&l->edge->listeners, l, link);
    sq_timer_stop(&l->edge->px->timers, &l->again);
    uv_close((uv_handle_t *)&l->poll, on_listener_closed);
    (void)close(l->fd);
    px_space_unused(l->space);
}

void px_edge_unlisten(struct edge *e)
{
    while (!TAILQ_EMPTY(&e->listeners))
        unlisten(TAILQ_FIRST(&e->listeners));
}

void px_edges_unlisten(struct px *px, const struct px_space *space)
{
    struct edge *e;
    TAILQ_FOREACH(e, &px->edges, link)
    {
        struct listener *next;
        for (struct listener *l = TAILQ_FIRST(&e->listeners); l; l = next) {
            next = TAILQ_NEXT(l, link);
            if (l->space == space)
                unlisten(l);
        }
    }
}

static enum px_protocol protocol_of(const char *s)
{
    if (strcmp(s, "tcp") == 0)
        return PX_TCP;
    if (strcmp(s, "udp") == 0 || strcmp(s, "dns") == 0)
        return s[0] == 'u' ? PX_UDP : PX_DNS;
    return strcmp(s, "http") == 0 ? PX_HTTP : PX_AUTO;
}

int px_edge_listen(struct edge *e, struct px_space *space, int *fds, size_t nfds)
{
    static const enum listen_kind KINDS[] = {PX_PASS, PX_GATE, PX_PASS6, PX_GATE6};
    int rc = 0;
    for (size_t i = 0; i < nfds && i < sizeof(KINDS) / sizeof(KINDS[0]) && rc == 0; i++) {
        rc = px_listen(e, space, fds[i], KINDS[i], 0, 0);
        if (rc < 0)
            break;
        union px_addr at = {0};
        socklen_t len = sizeof(at);
        if (getsockname(fds[i], &at.sa, &len) == 0)
            TAILQ_LAST(&e->listeners, listeners)->port = at.in.sin_port;
        fds[i] = -1;
    }
    return rc;
}

/* Takes the descriptors that it uses: sets those to -1. */
int px_edge_add(struct px *px, uint32_t id, const char *name, const char *protocol, int *fds, size_t nfds)
{
    unsigned n = 0;
    struct edge *other;
    TAILQ_FOREACH(other, &px->edges, link)
    {
        n++;
    }
    if (px->draining || px_edge_find(px, id) || n >= EDGES_MAX)
        return -EEXIST;
    struct edge *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->px = px;
    e->id = id;
    e->protocol = protocol_of(protocol);
    e->rules.names = &px->names;
    e->rules.tallies = &px->tallies;
    e->counted = true;
    (void)snprintf(e->name, sizeof(e->name), "%s", name);
    TAILQ_INIT(&e->listeners);
    TAILQ_INIT(&e->conns);
    TAILQ_INSERT_TAIL(&px->edges, e, link);
    int rc = px_edge_listen(e, &px->home, fds, nfds);
    if (rc < 0)
        px_edge_drop(e);
    return rc;
}

int px_edge_unix(struct edge *e, uint32_t caller, uint32_t dest, int fd)
{
    return e->px->draining ? -ESHUTDOWN : px_listen(e, &e->px->home, fd, PX_UNIX, caller, dest);
}

static void free_edge(struct edge *e)
{
    sq_rules_none(&e->rules);
    px_edge_unlisten(e);
    TAILQ_REMOVE(&e->px->edges, e, link);
    free(e->plain);
    free(e);
}

void px_edge_unused(struct edge *e)
{
    if (!e->counted && TAILQ_EMPTY(&e->conns) && e->dgrams == 0)
        free_edge(e);
}

void px_edge_drop(struct edge *e)
{
    px_edge_unlisten(e);
    px_hold_forget(e->px, e);
    for (struct conn *c = TAILQ_FIRST(&e->conns), *next; c; c = next) {
        next = TAILQ_NEXT(c, link);
        px_conn_leave(c);
    }
    px_udp_leave(e);
    px_dnstcp_leave(e);
    px_calls_flush(e->px);
    uint32_t gone = e->rules.mask;
    sq_rules_none(&e->rules);
    px_rules_changed(e, gone, 0);
    e->counted = false;
    px_edge_unused(e);
}

int px_caller_add(struct px *px, uint32_t id, int *fds, size_t nfds)
{
    struct caller *c = calloc(1, sizeof(*c));
    if (!c || nfds > SQ_WIRE_FDS) {
        free(c);
        return -ENOMEM;
    }
    c->id = id;
    c->table = -1;
    for (; c->n < nfds; c->n++) {
        c->links[c->n] = fds[c->n];
        fds[c->n] = -1;
    }
    TAILQ_INSERT_TAIL(&px->callers, c, link);
    return 0;
}

static void free_caller(struct px *px, struct caller *c)
{
    TAILQ_REMOVE(&px->callers, c, link);
    for (unsigned i = 0; i < c->n; i++)
        (void)close(c->links[i]);
    if (c->table >= 0)
        (void)close(c->table);
    free(c);
}

void px_caller_drop(struct px *px, uint32_t id)
{
    struct caller *next;
    for (struct caller *c = TAILQ_FIRST(&px->callers); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->id == id)
            free_caller(px, c);
    }
}

void px_callers_drop(struct px *px)
{
    while (!TAILQ_EMPTY(&px->callers))
        free_caller(px, TAILQ_FIRST(&px->callers));
}
