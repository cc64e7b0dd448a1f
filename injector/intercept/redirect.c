/* What becomes of a trapped connect: let go, failed, or sent to the proxy by "dup-connect": the supervisor connects the
 * very same socket itself, so that everything the application has set on it stays.
 *
 * Nothing is ever held. A non-blocking socket gets its EINPROGRESS at once. A blocking one is made to begin without
 * waiting (O_NONBLOCK for the moment of the call), and then the application's own connect(2) is let go: on a socket
 * that is already connecting the kernel ignores the address and waits, with the application's own timeouts and signals
 * (__inet_stream_connect, net/ipv4/af_inet.c). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "intercept/caches.h"
#include "intercept/supervise.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/guard.h"

static void let_go(struct sq_reply *r)
{
    r->cont = true;
    r->error = 0;
}

static void answer(struct sq_reply *r, int error)
{
    r->cont = false;
    r->error = error;
}

/* An edge's call that can't be taken goes direct, and is not silently lost. */
void sq_attempt_bypass(struct sq_supervisor *s, const struct sq_edge *edge, struct sq_reply *r, const char *why)
{
    s->ic->counts[edge->slot].bypassed++;
    let_go(r);
    if (!s->caller->warned)
        sq_ic_warn(s->ic, edge->run, "a call of %s over edge %s went past the proxy: %s", s->caller->instance,
                   edge->name, why);
    s->caller->warned = true;
}

static int int_opt(int fd, int level, int opt, int def)
{
    int v = 0;
    socklen_t len = sizeof(v);

    return getsockopt(fd, level, opt, &v, &len) == 0 ? v : def;
}

/* A stream socket, TCP's or its like's, that has not begun to connect. */
static bool fresh_stream(int fd)
{
    uint8_t state = 0; /* of struct tcp_info the first byte */
    socklen_t len = sizeof(state);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &len) == 0)
        return state == TCP_CLOSE;
    return int_opt(fd, SOL_SOCKET, SO_TYPE, 0) == SOCK_STREAM;
}

static bool bound_to_device(int fd)
{
    char dev[64] = "";
    socklen_t len = sizeof(dev);

    return getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, dev, &len) == 0 && len > 0 && dev[0] && strcmp(dev, "lo") != 0;
}

/* Bound to an IPv6 address of its own: it can't reach a v4-mapped one. */
static bool bound_to_v6(int fd)
{
    struct sockaddr_in6 a = {0};
    socklen_t len = sizeof(a);

    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0 || a.sin6_family != AF_INET6)
        return false;
    return !IN6_IS_ADDR_UNSPECIFIED(&a.sin6_addr) && !IN6_IS_ADDR_V4MAPPED(&a.sin6_addr);
}

bool sq_attempt_v6_only(const struct sq_attempt *a, int fd)
{
    return a->to.sa.sa_family == AF_INET6 && (int_opt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) || bound_to_v6(fd));
}

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof(cookie);

    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

static bool our_netns(const struct sq_intercept *ic, pid_t tid)
{
    struct stat st;
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)tid);
    return stat(path, &st) == 0 && st.st_dev == ic->netns_dev && st.st_ino == ic->netns_ino;
}

bool sq_attempt_listeners(const struct sq_supervisor *s, struct sq_edge *edge, const struct sq_attempt *a, int fd,
                          struct sq_space_ports *at, char *why, size_t len)
{
    const struct sq_edge_cfg *cfg = &s->ic->cfg[edge->slot];
    const struct sq_space_ports home = {.pass = cfg->pass,
                                        .gate = cfg->gate,
                                        .dgram = cfg->dgram,
                                        .pass6 = cfg->pass6,
                                        .gate6 = cfg->gate6,
                                        .dgram6 = cfg->dgram6},
                                *there;
    uint64_t cookie = sq_space_cookie(fd);

    *at = home;
    if (bound_to_device(fd)) {
        (void)snprintf(why, len, "its socket is bound to a device");
        return false;
    }
    if (cookie ? cookie == s->ic->netns_cookie : our_netns(s->ic, a->tid))
        return true;
    sq_guard_end(); /* to go there the first time is not a call that the guard may end */
    there = sq_space_ports(edge, a->tid, cookie, why, len);
    sq_guard_begin();
    if (there)
        *at = *there;
    if (there && !sq_lo_is_up(fd)) {
        (void)snprintf(why, len, "the loopback device of its network namespace is down");
        return false;
    }
    return there != NULL;
}

bool sq_attempt_wanted(const struct sq_attempt *a, uint32_t addr[4], uint16_t *port)
{
    if (a->to.sa.sa_family == AF_INET && a->to_len >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&a->to.ss;

        addr[0] = addr[1] = 0;
        addr[2] = htonl(0xffff);
        addr[3] = in->sin_addr.s_addr;
        *port = ntohs(in->sin_port);
        return true;
    }
    if (a->to.sa.sa_family == AF_INET6 && a->to_len >= 24 /* SIN6_LEN_RFC2133 */) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&a->to.ss;

        memcpy(addr, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
        return true;
    }
    return false;
}

static struct sq_edge *tcp_edge(const struct sq_supervisor *s, const uint32_t addr[4], uint16_t port)
{
    uint32_t found = s->caller->tables ? sq_tables_find(s->caller->tables, addr, htons(port)) : 0;

    return found ? s->ic->edge[found - 1] : NULL;
}

static uint32_t write_flow(struct sq_supervisor *s, const struct sq_edge *edge, const struct sq_decision *d,
                           const uint32_t addr[4], uint16_t port, uint64_t cookie, int64_t now)
{
    uint32_t idx = cookie ? SQ_FLOW_OF(cookie) : s->ic->next_flow++ & (SQ_FLOWS - 1);
    struct sq_flow *f = &s->ic->flows[idx];
    bool v4 = addr[0] == 0 && addr[1] == 0 && addr[2] == htonl(0xffff);

    f->t_ns = (uint64_t)now;
    f->cookie = cookie;
    f->caller = s->caller->id;
    f->edge = edge->id;
    f->port = htons(port);
    f->family = v4 ? AF_INET : AF_INET6;
    f->hits = (uint8_t)d->hits;
    memcpy(f->rule, d->drawn, sizeof(f->rule));
    memset(f->addr, 0, sizeof(f->addr));
    memcpy(f->addr, v4 ? &addr[3] : &addr[0], v4 ? 4 : 16);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return idx;
}

/* connect(2) that does not wait, whatever the socket's own mode is, or is made meanwhile by the application: to a
 * listener on this host the handshake is over before the call could wait (ASIS), and the guard ends one that does wait
 * all the same: -EINTR, it has begun. To the gate it would wait: MSG_FASTOPEN with nothing to send is a connect that
 * MSG_DONTWAIT holds for. The socket's own mode is not touched, so nobody who is killed here leaves it changed; only
 * where net.ipv4.tcp_fastopen forbids it there is no other way. */
static int begin(int fd, bool asis, int flags, const struct sockaddr *sa, socklen_t len)
{
    int rc = -EOPNOTSUPP;

    if (!asis)
        rc = sendto(fd, "", 0, MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, sa, len) < 0 ? -errno : 0;
    if (rc != -EOPNOTSUPP)
        return rc;
    if (!asis && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    rc = connect(fd, sa, len) < 0 ? -errno : 0;
    if (!asis)
        (void)fcntl(fd, F_SETFL, flags);
    return rc;
}

static socklen_t proxy_address6(uint16_t port, struct sockaddr_storage *ss)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

    memcpy(ss, &in6, sizeof(in6));
    return sizeof(in6);
}

static socklen_t proxy_address(sa_family_t family, uint32_t idx, uint16_t port, struct sockaddr_storage *ss)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(SQ_NET_SECCOMP | idx)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};

    if (family == AF_INET) {
        memcpy(ss, &in, sizeof(in));
        return sizeof(in);
    }
    in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(&in6.sin6_addr.s6_addr[12], &in.sin_addr, 4);
    memcpy(ss, &in6, sizeof(in6));
    return sizeof(in6);
}

static bool has_timeout(int fd)
{
    struct timeval tv = {0};
    socklen_t len = sizeof(tv);

    return getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &len) == 0 && (tv.tv_sec || tv.tv_usec);
}

/* What a real connect begun like this would have said. MSG_FASTOPEN: a non-blocking one without a cookie says
 * EINPROGRESS and has sent nothing; of a blocking one we can't send the data, and "not supported" is what it must be
 * prepared for (tcp(7)). */
static void conclude(struct sq_reply *r, const struct sq_attempt *a, bool asis, int rc)
{
    if (a->fastopen)
        answer(r, rc == 0 || rc == -EINPROGRESS ? -EINPROGRESS : -EOPNOTSUPP);
    else if (rc == 0 || (rc == -EINPROGRESS && asis))
        answer(r, rc);
    else
        let_go(r); /* connecting: the kernel waits; failed: the kernel tries the real destination */
}

static void count_connect(struct sq_supervisor *s, const struct sq_edge *edge)
{
    struct sq_tally_cell *made = sq_cell(s->ic->tallies, SQ_RULE_TALLIES + edge->slot, s->caller->slot);

    s->ic->counts[edge->slot].connects++;
    if (made)
        __sync_fetch_and_add(&made->seen, 1);
}

static void take_tcp(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r)
{
    const int64_t now = sq_mono_ns();
    struct sq_decision d;
    struct sq_edge *edge;
    uint32_t addr[4], idx;
    uint16_t port, to;
    uint64_t cookie = 0; /* of a socket that can speak IPv6 only */
    struct sockaddr_storage proxy;
    socklen_t len;
    struct sq_space_ports at;
    char text[300] = "";
    const char *why;
    bool refused, asis;
    int flags, rc;

    if (s->caller->with_bpf || !sq_attempt_wanted(a, addr, &port))
        return;
    edge = tcp_edge(s, addr, port);
    if (!edge)
        return;
    cleanup_close int fd = sq_attempt_socket(s, a);
    if (fd < 0) {
        sq_attempt_bypass(s, edge, r,
                          fd == -EPERM ? "its descriptors may not be taken (ptrace rights, Yama)" : strerror(-fd));
        return;
    }
    /* getaddrinfo connects datagram sockets to the same port; and only a fresh socket begins a connection. */
    if (!fresh_stream(fd) || int_opt(fd, SOL_SOCKET, SO_DOMAIN, 0) != a->to.sa.sa_family)
        return;
    why = sq_attempt_listeners(s, edge, a, fd, &at, text, sizeof(text)) ? NULL : text;
    if (!why && sq_attempt_v6_only(a, fd) && (!(cookie = cookie_of(fd)) || !at.pass6))
        why = "its socket can speak IPv6 only, and there is no ::1 here";
    if (!why && !sq_link_alive(s->ic))
        why = "the proxy is gone";
    refused = a->fastopen && !(fcntl(fd, F_GETFL) & O_NONBLOCK);
    count_connect(s, edge);
    sq_decide(&s->ic->cfg[edge->slot], s->ic->tallies, s->caller->slot, why || refused, &d);
    if (d.go == SQ_GO_FAIL) {
        s->ic->counts[edge->slot].failed++;
        sq_incoming_failed(s->caller, edge, now, d.rule);
        answer(r, -(int)d.err);
        return;
    }
    if (why) {
        sq_attempt_bypass(s, edge, r, why);
        return;
    }
    if (refused) {
        answer(r, -EOPNOTSUPP);
        return;
    }
    if (cookie && !at.gate6)
        d.go = SQ_GO_PASS; /* there is no gate */
    to = d.go == SQ_GO_GATE ? (cookie ? at.gate6 : at.gate) : cookie ? at.pass6 : at.pass;
    idx = write_flow(s, edge, &d, addr, port, cookie, now);
    len = cookie ? proxy_address6(to, &proxy) : proxy_address(a->to.sa.sa_family, idx, to, &proxy);
    flags = d.go == SQ_GO_GATE ? fcntl(fd, F_GETFL) : 0;
    asis = d.go != SQ_GO_GATE || (flags & O_NONBLOCK);
    if (!asis && has_timeout(fd) && sq_wait_connect(s, a->id, fd, (struct sockaddr *)&proxy, len) == 0) {
        s->ic->counts[edge->slot].redirected++;
        r->later = true;
        return;
    }
    rc = begin(fd, asis, flags, (struct sockaddr *)&proxy, len);
    if (rc == 0 || rc == -EINPROGRESS || rc == -EINTR)
        s->ic->counts[edge->slot].redirected++;
    if (rc == -EINPROGRESS && d.go == SQ_GO_GATE && edge->hole_shut)
        sq_holed_add(s->caller, edge, fd, now, sq_edge_hole(edge), &proxy);
    if (rc != 0 && rc != -EINPROGRESS && rc != -EINTR)
        sq_attempt_bypass(s, edge, r, strerror(-rc));
    conclude(r, a, asis, rc);
}

/* The edge that has this Unix socket, and the file that stands for it: the edge that was declared first wins. */
static struct sq_edge *unix_edge(const struct sq_supervisor *s, const struct sq_attempt *a, const char **path)
{
    const struct sq_caller *c = s->caller;
    struct sq_edge *found = NULL;

    for (size_t i = 0; i < c->n_unix; i++) {
        struct sq_edge *edge = sq_ic_edge(s->ic, c->unix_edge[i].edge);

        if (!sq_edge_calls(s->caller, edge) || (found && found->id <= edge->id) ||
            !sq_attempt_is_unix(a, &edge->dest[c->unix_edge[i].dest]))
            continue;
        found = edge;
        *path = c->unix_edge[i].path;
    }
    return found;
}

/* A Unix connect has no flow entry that could carry a draw to the proxy: it fails here only when every one does. */
static bool fails_always(const struct sq_supervisor *s, const struct sq_edge *edge, struct sq_decision *d)
{
    const struct sq_edge_cfg *cfg = &s->ic->cfg[edge->slot];
    const struct sq_rules *rules = &cfg->slot[cfg->epoch & 1];
    uint32_t slot = s->caller->slot;

    for (uint32_t i = 0; i < rules->n && i < SQ_EDGE_RULES; i++) {
        const struct sq_rule *rule = &rules->rule[i];

        if (rule->kind != SQ_RULE_ERROR || rule->threshold < SQ_ALWAYS || sq_nth_any(&rule->count) ||
            !(rule->callers[slot / 64] & (UINT64_C(1) << (slot % 64))))
            continue;
        (void)sq_nth_take(&rule->count, sq_cell(s->ic->tallies, rule->tally, slot));
        d->err = rule->err;
        d->rule = rule->number;
        return true;
    }
    return false;
}

static bool asks_cache(const struct sq_supervisor *s, const struct sq_attempt *a)
{
    char path[sizeof(a->to) + 1] = "";

    memcpy(path, &a->to, a->to_len);
    return sq_caches_is(path + offsetof(struct sockaddr_un, sun_path)) && sq_caches_wanted(s->ic, s->caller);
}

static void take_unix(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r)
{
    struct sq_decision d = {0};
    const char *path = NULL;
    struct sq_edge *edge = a->fastopen ? NULL : unix_edge(s, a, &path);
    int rc;

    if (!a->fastopen && asks_cache(s, a)) {
        answer(r, -ECONNREFUSED);
        return;
    }
    if (!edge)
        return;
    cleanup_close int fd = sq_attempt_socket(s, a);
    if (fd < 0) {
        sq_attempt_bypass(s, edge, r,
                          fd == -EPERM ? "its descriptors may not be taken (ptrace rights, Yama)" : strerror(-fd));
        return;
    }
    if (int_opt(fd, SOL_SOCKET, SO_TYPE, 0) != SOCK_STREAM || int_opt(fd, SOL_SOCKET, SO_DOMAIN, 0) != AF_UNIX)
        return;
    count_connect(s, edge);
    if (fails_always(s, edge, &d)) {
        s->ic->counts[edge->slot].failed++;
        sq_incoming_failed(s->caller, edge, sq_mono_ns(), d.rule);
        answer(r, -(int)d.err);
        return;
    }
    if (!sq_link_alive(s->ic)) {
        sq_attempt_bypass(s, edge, r, "the proxy is gone");
        return;
    }
    rc = sq_connect_in(fd, s->ic->dir, path); /* the guard ends one that waits: it goes past the proxy */
    if (rc == -EISCONN)
        return;
    if (rc < 0) {
        sq_attempt_bypass(s, edge, r, strerror(-rc));
        return;
    }
    s->ic->counts[edge->slot].redirected++;
    answer(r, 0);
}

void sq_attempt_decide(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r)
{
    switch (a->to.sa.sa_family) {
    case AF_INET:
    case AF_INET6:
        if (!sq_dgram_connect(s, a, r))
            take_tcp(s, a, r);
        break;
    case AF_UNIX:
        take_unix(s, a, r);
        break;
    default:
        break;
    }
}
