/* Datagrams of an edge: the socket that the proxy takes them at, and the hooks that send them there. As bpf.c, the
 * links go to the proxy and are closed here. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "intercept/caches.h"
#include "intercept/follow.h"
#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#include "dgram.skel.h"

#define N_PROGS 8
#define ARRIVES_MS 200
#define ARRIVES_AGAIN_MS 5
#define ROOM (4 * 1024 * 1024) /* of the socket: a burst may come while the proxy does something else */

static int refuse(struct sq_err *e, int rc, const char *what)
{
    rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "cgroup-BPF for datagrams: %s: %s", what, strerror(-rc));
    sq_err_hint(e, "run squalld as root; it needs Linux 5.18 with CONFIG_CGROUP_BPF and /sys/kernel/btf/vmlinux");
    return rc;
}

int sq_dgram_table(struct sq_caller *c, struct sq_err *e)
{
    return sq_edge_table(c, true, &c->dgram->bss->tables, e);
}

static int load(struct sq_intercept *ic, struct sq_caller *c, const struct sq_follow *f, struct sq_err *e)
{
    struct dgram *s = dgram__open();
    int rc;

    if (!s)
        return refuse(e, -errno, "cannot open the programs");
    c->dgram = s;
    s->rodata->caller_id = c->id;
    s->rodata->netns_cookie = ic->netns_cookie;
    s->rodata->by_tgid = f != NULL;
    rc = bpf_map__reuse_fd(s->maps.edges, ic->bpf.fd[SQ_M_EDGES]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.counts, ic->bpf.fd[SQ_M_COUNTS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.dflows, ic->bpf.fd[SQ_M_DFLOWS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.next_dflow, ic->bpf.fd[SQ_M_NEXT_DFLOW]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.hooks, ic->bpf.fd[SQ_M_HOOKS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.spaces, ic->bpf.fd[SQ_M_SPACES]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.ddests, ic->bpf.fd[SQ_M_DDESTS]);
    if (rc == 0)
        rc = f ? bpf_map__reuse_fd(s->maps.tgids, sq_follow_map(f)) : bpf_map__set_max_entries(s->maps.tgids, 1);
    rc = rc ? rc : dgram__load(s);
    return rc < 0 ? refuse(e, rc, "cannot load the programs") : 0;
}

/* Those that give an address back come first: no answer may be seen from an address that nobody asked. */
static int link_all(struct dgram *s, int cgroup_fd, struct bpf_link **links, struct sq_err *e)
{
    struct bpf_program *progs[N_PROGS] = {s->progs.sq_drecv4,    s->progs.sq_drecv6,   s->progs.sq_dpeer4,
                                          s->progs.sq_dpeer6,    s->progs.sq_dsend4,   s->progs.sq_dsend6,
                                          s->progs.sq_dconnect4, s->progs.sq_dconnect6};

    for (size_t i = 0; i < N_PROGS; i++) {
        links[i] = bpf_program__attach_cgroup(progs[i], cgroup_fd);
        if (!links[i])
            return refuse(e, -errno, "cannot attach to the instance's cgroup");
    }
    return 0;
}

static bool wanted(const struct sq_intercept *ic, const struct sq_caller *c)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (sq_edge_calls(c, ic->edge[i]) && ic->edge[i]->dgram)
            return true;
    return false;
}

int sq_dgram_attach(struct sq_intercept *ic, struct sq_caller *c, int cgroup_fd, const struct sq_follow *f,
                    struct sq_err *e)
{
    struct bpf_link *links[N_PROGS] = {0};
    int fds[N_PROGS], rc;

    if (!wanted(ic, c))
        return 0;
    rc = load(ic, c, f, e);
    rc = rc ? rc : sq_dgram_table(c, e);
    rc = rc ? rc : link_all(c->dgram, cgroup_fd, links, e);
    if (rc == 0) {
        for (size_t i = 0; i < N_PROGS; i++)
            fds[i] = bpf_link__fd(links[i]);
        rc = sq_ic_tell_caller(c, fds, N_PROGS, e);
    }
    for (size_t i = 0; i < N_PROGS; i++)
        (void)bpf_link__destroy(links[i]);
    rc = rc ? rc : sq_caches_attach(c, cgroup_fd, f, e);
    if (rc < 0)
        sq_dgram_detach(c);
    return rc;
}

void sq_dgram_detach(struct sq_caller *c)
{
    if (c->dgram && c->dgram->bss)
        sq_tables_clear(&c->dgram->bss->tables);
    if (c->dgram)
        dgram__destroy(c->dgram);
    c->dgram = NULL;
    c->caches = false;
}

/* All of 127.0.0.0/8 on loopback; each datagram says where it was sent to. */
static int bind_lo(int *out, uint16_t *port, struct sq_err *e)
{
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    int one = 1, room = ROOM;

    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a socket for datagrams");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) < 0)
        return sq_err_sys(e, -errno, "cannot bind a socket to the loopback device");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return sq_err_sys(e, -errno, "cannot bind a socket for datagrams");
    *port = a.sin_port;
    *out = SQ_TAKE_FD(fd);
    return 0;
}

static int bind_lo6(uint16_t *port)
{
    cleanup_close int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof(a);
    int one = 1, room = ROOM;

    if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one)) < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return -errno;
    *port = a.sin6_port;
    return SQ_TAKE_FD(fd);
}

/* Does a datagram from an address like those of struct sq_flow's numbers arrive? A firewall's reverse path filter may
 * be against it, and then it must not be tried with the caller's. */
static bool arrives(int fd, uint16_t port, int patience_ms)
{
    cleanup_close int from = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6}, to = {.sin6_family = AF_INET6, .sin6_port = port};
    uint32_t words[4] = {htonl(SQ_DGRAM6_0), htonl(SQ_DGRAM6_1), htonl(SQ_DGRAM6_2), htonl(SQ_NET_DGRAM)};
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int one = 1;
    char c;

    memcpy(&a.sin6_addr, words, sizeof(words));
    to.sin6_addr = in6addr_loopback;
    if (from < 0 || setsockopt(from, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one)) < 0 ||
        bind(from, (struct sockaddr *)&a, sizeof(a)) < 0 ||
        sendto(from, "", 1, 0, (struct sockaddr *)&to, sizeof(to)) != 1)
        return false;
    return poll(&p, 1, patience_ms) == 1 && recv(fd, &c, 1, 0) == 1;
}

int sq_dgram_bind(int fd[2], uint16_t *port, uint16_t *port6, bool *deaf6, struct sq_err *e)
{
    int rc;

    fd[0] = fd[1] = -1;
    rc = bind_lo(&fd[0], port, e);
    if (rc < 0)
        return rc;
    fd[1] = bind_lo6(port6);
    if (fd[1] >= 0)
        *deaf6 = !arrives(fd[1], *port6, *deaf6 ? ARRIVES_AGAIN_MS : ARRIVES_MS);
    if (fd[1] >= 0 && !*deaf6)
        return 0;
    if (fd[1] >= 0)
        (void)close(fd[1]);
    fd[1] = -1;
    *port6 = 0;
    return 0;
}

int sq_dgram_open(struct sq_edge *edge, struct sq_err *e)
{
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "dgram", "edge", (json_int_t)edge->id);
    struct sq_edge_cfg *cfg = &edge->ic->cfg[edge->slot];
    uint16_t port = 0, port6 = 0;
    int fd[2], rc = sq_dgram_bind(fd, &port, &port6, &edge->ic->deaf6, e);

    if (rc < 0)
        return rc;
    rc = sq_link_send(edge->ic, msg, fd, port6 ? 2 : 1, e);
    for (size_t i = 0; i < SQ_COUNT(fd); i++)
        if (fd[i] >= 0)
            (void)close(fd[i]);
    sq_caches_tell(edge);
    if (rc == 0) {
        cfg->dgram6 = port6;
        __atomic_store_n(&cfg->dgram, port, __ATOMIC_RELEASE);
    }
    return rc;
}

int sq_dgram_hello(struct sq_intercept *ic, struct sq_err *e)
{
    const int fds[] = {ic->bpf.fd[SQ_M_DFLOWS], ic->dflows_fd};
    int rc = 0;

    for (int i = 0; i < 2 && rc == 0; i++) {
        cleanup_json json_t *msg = json_pack("{s:s,s:i}", "op", "dgrams", "net", i);

        rc = fds[i] < 0 ? 0 : sq_link_send(ic, msg, &fds[i], 1, e);
    }
    return rc;
}
