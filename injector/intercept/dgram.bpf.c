/* The hooks of one caller for datagrams (cgroup-BPF): connected sockets are connected to the proxy, the destinations of
 * unconnected ones are replaced at each send, and where an answer came from is put back. One object is loaded per
 * instance that has an edge of datagrams; the maps are shared among all of them.
 *
 * A datagram goes to 127.3.x.y, where x.y is a destination of a caller in the table of datagram flows: the same one
 * each time, so that it stays true however long a socket lives. A connect is no call: getaddrinfo(3) connects datagram
 * sockets to sort addresses, and never sends. */
#include "intercept/hooks.bpf.h"

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

static __always_inline void fill_flow(struct sq_flow *f, const struct call *k, const struct sq_edge_cfg *cfg)
{
    f->t_ns = bpf_ktime_get_ns();
    f->caller = k->caller;
    f->edge = cfg->id;
    f->port = (__u16)k->port;
    f->via = cfg->dgram;
    flow_addr(f, k);
}

/* Is the entry still this destination's? The table is a ring: after SQ_FLOWS others it is not. */
static __always_inline int still(const struct sq_flow *f, const struct call *k, const struct sq_edge_cfg *cfg)
{
    const __u32 *fa = (const __u32 *)(const void *)f->addr;

    if (f->caller != k->caller || f->edge != cfg->id || f->port != (__u16)k->port || f->via != cfg->dgram)
        return 0;
    if (is_v4(k->a))
        return f->family == AF_INET && fa[0] == k->a[3];
    return f->family == AF_INET6 && fa[0] == k->a[0] && fa[1] == k->a[1] && fa[2] == k->a[2] && fa[3] == k->a[3];
}

/* The number of this destination. 0: it has none. */
static __always_inline int number_of(const struct call *k, const struct sq_edge_cfg *cfg, __u32 *idx)
{
    struct sq_dgram_dest key = {.caller = k->caller, .port = k->port};
    __u32 zero = 0, *known, *next;
    struct sq_flow *f;

    key.addr[0] = k->a[0];
    key.addr[1] = k->a[1];
    key.addr[2] = k->a[2];
    key.addr[3] = k->a[3];
    known = bpf_map_lookup_elem(&ddests, &key);
    if (known) {
        *idx = *known & (SQ_FLOWS - 1);
        f = bpf_map_lookup_elem(&dflows, idx);
        if (f && still(f, k, cfg))
            return 1;
    }
    next = bpf_map_lookup_elem(&next_dflow, &zero);
    if (!next)
        return 0;
    *idx = __sync_fetch_and_add(next, 1) & (SQ_FLOWS - 1);
    f = bpf_map_lookup_elem(&dflows, idx);
    if (!f)
        return 0;
    fill_flow(f, k, cfg);
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

/* On its way to the proxy already: the hook of another caller, further down in the tree of cgroups, has it. */
static __always_inline int is_taken(const struct call *k)
{
    return is_v4(k->a) && stands_for(k->a[3], k->port);
}

/* 1: *to and *port are where to go instead. */
static __always_inline int redirect(struct bpf_sock_addr *ctx, struct call *k, int bypass, __u32 *to, __u32 *port)
{
    struct sq_edge_counts *c;
    struct sq_edge_cfg *cfg;
    __u32 slot = 0, idx;

    if (!is_caller(k) || !match(k, &slot) || !unicast(k->a) || is_taken(k))
        return 0;
    cfg = bpf_map_lookup_elem(&edges, &slot);
    c = bpf_map_lookup_elem(&counts, &slot);
    if (!cfg || !c || !cfg->dgram)
        return 0;
    if (netns_cookie && bpf_get_netns_cookie(ctx) != netns_cookie)
        bypass = 1;
    if (bypass || !number_of(k, cfg, &idx)) {
        __sync_fetch_and_add(&c->bypassed, 1);
        return 0;
    }
    *to = bpf_htonl(SQ_NET_DGRAM | idx);
    *port = cfg->dgram;
    return 1;
}

static __always_inline int take4(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0;

    read4(ctx, &k);
    if (redirect(ctx, &k, bound_to_device(ctx->sk), &to, &port)) {
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
    __u32 to = 0, port = 0;

    if (ctx->type != SOCK_DGRAM)
        return 1;
    read6(ctx, &k);
    if (!redirect(ctx, &k, bound_to_device(ctx->sk) || cannot_map(ctx->sk, SOCK_DGRAM), &to, &port))
        return 1;
    write_mapped(ctx, to, port);
    return 1;
}

/* The kernel refuses a v4-mapped address from this hook (udpv6_sendmsg): what an unconnected socket sends to an IPv6
 * address goes past the proxy, and is counted. v4-mapped ones come to sendmsg4. */
SEC("cgroup/sendmsg6")
int sq_dsend6(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0;

    read6(ctx, &k);
    (void)redirect(ctx, &k, 1, &to, &port);
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
    __u32 to = ctx->user_ip6[3], port = ctx->user_port, *fa;
    struct call k = {};
    struct sq_flow *f;

    if (ctx->user_ip6[0] || ctx->user_ip6[1] || ctx->user_ip6[2] != bpf_htonl(0xffff))
        return 1;
    f = stands_for(to, port);
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
