/* The hooks of one caller for datagrams (cgroup-BPF): connected sockets are connected to the proxy, the destinations of
 * unconnected ones are replaced at each send, and where an answer came from is put back. One object is loaded per
 * instance that has an edge of datagrams; the maps are shared among all of them.
 *
 * A datagram goes to 127.3.x.y, where x.y is a destination of a caller in the table of datagram flows: the same one
 * each time, so that it stays true however long a socket lives. One of an unconnected socket to an IPv6 address goes to
 * ::1, from an address that says x.y: the kernel refuses a v4-mapped one there (udpv6_sendmsg). A connect is no call:
 * getaddrinfo(3) connects datagram sockets to sort addresses, and never sends. */
#include "intercept/space.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, SQ_FLOWS);
    __type(key, __u32);
    __type(value, struct sq_flow);
} dflows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} next_dflow SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, SQ_FLOWS);
    __type(key, struct sq_dgram_dest);
    __type(value, __u32);
} ddests SEC(".maps");

/* Nothing is decided about a datagram here: the proxy counts. */
static __always_inline struct sq_tally_cell *sq_cell(struct sq_tally *unused, __u32 tally, __u32 slot)
{
    (void)unused;
    (void)tally;
    (void)slot;
    return 0;
}

/* Which of the proxy's sockets a datagram goes to, and the IPv6 address that its own socket is bound to. */
struct way {
    __u16 via;
    __u32 src[4];
};

static __always_inline void fill_flow(struct sq_flow *f, const struct call *k, const struct sq_edge_cfg *cfg,
                                      const struct way *w)
{
    __u32 *src = (__u32 *)(void *)f->src;

    f->t_ns = bpf_ktime_get_ns();
    f->caller = k->caller;
    f->edge = cfg->id;
    f->port = (__u16)k->port;
    f->via = w->via;
    src[0] = w->src[0];
    src[1] = w->src[1];
    src[2] = w->src[2];
    src[3] = w->src[3];
    flow_addr(f, k);
}

/* Is the entry still this destination's? The table is a ring: after SQ_FLOWS others it is not. */
static __always_inline int still(const struct sq_flow *f, const struct call *k, const struct sq_edge_cfg *cfg,
                                 const struct way *w)
{
    const __u32 *fa = (const __u32 *)(const void *)f->addr, *src = (const __u32 *)(const void *)f->src;

    if (f->caller != k->caller || f->edge != cfg->id || f->port != (__u16)k->port || f->via != w->via)
        return 0;
    if (src[0] != w->src[0] || src[1] != w->src[1] || src[2] != w->src[2] || src[3] != w->src[3])
        return 0;
    if (is_v4(k->a))
        return f->family == AF_INET && fa[0] == k->a[3];
    return f->family == AF_INET6 && fa[0] == k->a[0] && fa[1] == k->a[1] && fa[2] == k->a[2] && fa[3] == k->a[3];
}

/* The number of this destination. 0: it has none. */
static __always_inline int number_of(const struct call *k, const struct sq_edge_cfg *cfg, const struct way *w,
                                     __u32 *idx)
{
    struct sq_dgram_dest key = {.caller = k->caller, .port = (__u16)k->port, .via = w->via};
    __u32 zero = 0, *known, *next;
    struct sq_flow *f;

    __builtin_memcpy(key.addr, k->a, sizeof(key.addr));
    __builtin_memcpy(key.src, w->src, sizeof(key.src));
    known = bpf_map_lookup_elem(&ddests, &key);
    if (known) {
        *idx = *known & (SQ_FLOWS - 1);
        f = bpf_map_lookup_elem(&dflows, idx);
        if (f && still(f, k, cfg, w))
            return 1;
    }
    next = bpf_map_lookup_elem(&next_dflow, &zero);
    if (!next)
        return 0;
    *idx = __sync_fetch_and_add(next, 1) & (SQ_FLOWS - 1);
    f = bpf_map_lookup_elem(&dflows, idx);
    if (!f)
        return 0;
    fill_flow(f, k, cfg, w);
    return bpf_map_update_elem(&ddests, &key, idx, BPF_ANY) == 0;
}

/* To one, not to many: a group's datagrams can't be carried by a proxy. */
static __always_inline int unicast(const __u32 *a)
{
    if (is_v4(a))
        return (bpf_ntohl(a[3]) >> 28) < 0xe;
    return (bpf_ntohl(a[0]) >> 24) != 0xff;
}

/* The destination that 127.3.x.y:PORT stands for; NULL: it is an address like any other. */
static __always_inline struct sq_flow *stands_for(__u32 ip4, __u32 port)
{
    __u32 host = bpf_ntohl(ip4), idx = host & 0xffff;
    struct sq_flow *f;

    if ((host & 0xffff0000) != SQ_NET_DGRAM)
        return 0;
    f = bpf_map_lookup_elem(&dflows, &idx);
    return f && f->family && f->via == (__u16)port ? f : 0;
}

/* The same of an IPv6 address: ::ffff:127.3.x.y, or where datagrams to ::1 come from. */
static __always_inline struct sq_flow *stands_for6(const __u32 *a, __u32 port)
{
    if (!is_v4(a) &&
        (a[0] != bpf_htonl(SQ_DGRAM6_0) || a[1] != bpf_htonl(SQ_DGRAM6_1) || a[2] != bpf_htonl(SQ_DGRAM6_2)))
        return 0;
    return stands_for(a[3], port);
}

/* Its scope is no part of the address, and unknown to the proxy. */
static __always_inline int link_local(const __u32 *a)
{
    return (bpf_ntohl(a[0]) & 0xffc00000) == 0xfe800000;
}

/* 1: *to and *port are where to go instead. SRC: the address that an unconnected IPv6 socket is bound to, which sends
 * to an IPv6 address; NULL: of any other. */
static __always_inline int redirect(struct bpf_sock_addr *ctx, struct call *k, __u32 bypass, const __u32 *src,
                                    __u32 *to, __u32 *port)
{
    struct sq_space_ports at = {};
    struct sq_edge_counts *c;
    struct sq_edge_cfg *cfg;
    struct way w = {};
    __u32 slot = 0, idx, why;

    if (!is_caller(k) || !match(k, &slot) || !unicast(k->a) || stands_for6(k->a, k->port)) /* one further down has it */
        return 0;
    cfg = bpf_map_lookup_elem(&edges, &slot);
    c = bpf_map_lookup_elem(&counts, &slot);
    if (!cfg || !c || !cfg->dgram)
        return 0;
    why = listeners(ctx, k->caller, slot, cfg, &at);
    w.via = src ? at.dgram6 : at.dgram;
    if (src)
        __builtin_memcpy(w.src, src, sizeof(w.src));
    if (!why && !w.via)
        why = src ? SQ_BY_DGRAM6 : SQ_BY_NETNS;
    bypass |= why | (link_local(k->a) ? SQ_BY_SCOPE : 0);
    if (bypass || !number_of(k, cfg, &w, &idx)) {
        __sync_fetch_and_add(&c->bypassed, 1);
        __sync_fetch_and_or(&c->why, bypass ? bypass : SQ_BY_FLOW);
        return 0;
    }
    *to = bpf_htonl(SQ_NET_DGRAM | idx);
    *port = w.via;
    return 1;
}

static __always_inline int take4(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0;

    read4(ctx, &k);
    if (redirect(ctx, &k, bound_to_device(ctx->sk) ? SQ_BY_DEVICE : 0, 0, &to, &port)) {
        ctx->user_ip4 = to;
        ctx->user_port = port;
    }
    return 1;
}

SEC("cgroup/connect4")
int sq_dconnect4(struct bpf_sock_addr *ctx)
{
    return ctx->type == SOCK_DGRAM ? take4(ctx) : 1;
}

SEC("cgroup/sendmsg4")
int sq_dsend4(struct bpf_sock_addr *ctx)
{
    return take4(ctx);
}

SEC("cgroup/connect6")
int sq_dconnect6(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0, bypass;

    if (ctx->type != SOCK_DGRAM)
        return 1;
    read6(ctx, &k);
    bypass = (bound_to_device(ctx->sk) ? SQ_BY_DEVICE : 0) | (cannot_map(ctx->sk, SOCK_DGRAM) ? SQ_BY_ONLY6 : 0);
    if (!redirect(ctx, &k, bypass, 0, &to, &port))
        return 1;
    write_mapped(ctx, to, port);
    return 1;
}

/* Of an unconnected socket to an IPv6 address; v4-mapped ones come to sendmsg4. One that chooses its source itself
 * (IPV6_PKTINFO) keeps it, and goes past the proxy. */
SEC("cgroup/sendmsg6")
int sq_dsend6(struct bpf_sock_addr *ctx)
{
    __u32 from[4] = {ctx->msg_src_ip6[0], ctx->msg_src_ip6[1], ctx->msg_src_ip6[2], ctx->msg_src_ip6[3]};
    struct bpf_sock *sk = ctx->sk;
    __u32 to = 0, port = 0, src[4], bypass = 0;
    struct call k = {};

    read6(ctx, &k);
    if (!sk || stands_for6(from, k.port)) /* the hook of another caller, further down in the tree of cgroups, has it */
        return 1;
    src[0] = sk->src_ip6[0];
    src[1] = sk->src_ip6[1];
    src[2] = sk->src_ip6[2];
    src[3] = sk->src_ip6[3];
    if (from[0] != src[0] || from[1] != src[1] || from[2] != src[2] || from[3] != src[3])
        bypass = SQ_BY_SOURCE;
    if (bound_to_device(sk))
        bypass |= SQ_BY_DEVICE;
    if (!redirect(ctx, &k, bypass, src, &to, &port))
        return 1;
    write6(ctx, (__u32[4]){0, 0, 0, bpf_htonl(1)}, port);
    ctx->msg_src_ip6[0] = bpf_htonl(SQ_DGRAM6_0);
    ctx->msg_src_ip6[1] = bpf_htonl(SQ_DGRAM6_1);
    ctx->msg_src_ip6[2] = bpf_htonl(SQ_DGRAM6_2);
    ctx->msg_src_ip6[3] = to;
    return 1;
}

static __always_inline int give_back4(struct bpf_sock_addr *ctx)
{
    struct sq_flow *f = stands_for(ctx->user_ip4, ctx->user_port);
    struct call k = {};

    if (f && is_caller(&k) && f->caller == k.caller && f->family == AF_INET) {
        ctx->user_ip4 = *(__u32 *)(void *)f->addr;
        ctx->user_port = f->port;
    }
    return 1;
}

static __always_inline int give_back6(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    struct sq_flow *f;
    __u32 *fa;

    read6(ctx, &k);
    f = stands_for6(k.a, k.port);
    if (!f || !is_caller(&k) || f->caller != k.caller)
        return 1;
    fa = (__u32 *)(void *)f->addr;
    if (f->family == AF_INET)
        write_mapped(ctx, fa[0], f->port);
    else
        write6(ctx, fa, f->port);
    return 1;
}

SEC("cgroup/recvmsg4")
int sq_drecv4(struct bpf_sock_addr *ctx)
{
    return give_back4(ctx);
}

SEC("cgroup/recvmsg6")
int sq_drecv6(struct bpf_sock_addr *ctx)
{
    return give_back6(ctx);
}

SEC("cgroup/getpeername4")
int sq_dpeer4(struct bpf_sock_addr *ctx)
{
    return give_back4(ctx);
}

SEC("cgroup/getpeername6")
int sq_dpeer6(struct bpf_sock_addr *ctx)
{
    return give_back6(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
