/* The connect and getpeername hooks of one caller (cgroup-BPF). One object is loaded per instance, or for all instances
 * of a service of processes that ran before (by_tgid); the maps are shared among all of them, the destinations (bss)
 * are its own. Loaded from user space only, never pinned. */
#include "intercept/space.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 2 * SQ_FLOWS);
    __type(key, __u32);
    __type(value, struct sq_flow);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} next_flow SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, SQ_FLOWS);
    __type(key, __u64);
    __type(value, struct sq_peer_addr);
} peers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, SQ_TALLIES);
    __type(key, __u32);
    __type(value, struct sq_tally);
} tallies SEC(".maps");

static __always_inline struct sq_tally_cell *sq_cell(struct sq_tally *unused, __u32 tally, __u32 slot)
{
    struct sq_tally *t = bpf_map_lookup_elem(&tallies, &tally);

    (void)unused;
    return t ? &t->of[slot & (SQ_TALLY_CALLERS - 1)] : 0;
}

/* On its way to the proxy already: the hook of another caller, further down in the tree of cgroups, has it. */
static __always_inline int is_taken(const struct call *k)
{
    if (k->only6) {
        __u32 at = SQ_FLOW_OF(k->cookie);
        struct sq_flow *f = bpf_map_lookup_elem(&flows, &at);

        return f && f->cookie == k->cookie && f->via == (__u16)k->port && k->a[0] == 0 && k->a[1] == 0 &&
               k->a[2] == 0 && k->a[3] == bpf_htonl(1);
    }
    return is_v4(k->a) && (bpf_ntohl(k->a[3]) & 0xffff0000) == SQ_NET_BPF && bpf_map_lookup_elem(&peers, &k->cookie);
}

static __always_inline void tell(__u64 now, __u32 caller, __u32 edge, const struct sq_decision *d,
                                 struct sq_edge_counts *c)
{
    struct sq_hook_event *ev = bpf_ringbuf_reserve(&hooks, sizeof(*ev), 0);

    if (!ev) {
        __sync_fetch_and_add(&c->lost, 1);
        return;
    }
    ev->t_ns = now;
    ev->caller = caller;
    ev->edge = edge;
    ev->err = d->err;
    ev->rule = d->rule;
    ev->netns = 0;
    ev->pid = ev->pad = 0;
    bpf_ringbuf_submit(ev, 0);
}

/* Remember where the connect wanted to go: for the proxy, and for getpeername. 0: the table's index could not be used.
 * VIA: the proxy's port on ::1 when it goes there. */
static __always_inline int write_flow(const struct call *k, const struct sq_decision *d, __u32 edge, __u64 now,
                                      __u16 via, __u32 *idx)
{
    struct sq_peer_addr peer = {};
    __u32 zero = 0, *next = bpf_map_lookup_elem(&next_flow, &zero);
    struct sq_flow *f;

    if (!next)
        return 0;
    *idx = k->only6 ? SQ_FLOW_OF(k->cookie) : __sync_fetch_and_add(next, 1) & (SQ_FLOWS - 1);
    f = bpf_map_lookup_elem(&flows, idx);
    if (!f)
        return 0;
    f->t_ns = now;
    f->cookie = k->cookie;
    f->via = via;
    f->caller = k->caller;
    f->edge = edge;
    f->port = (__u16)k->port;
    f->hits = (__u8)d->hits;
    for (int i = 0; i < SQ_FLOW_RULES; i++)
        f->rule[i] = d->drawn[i];
    flow_addr(f, k);
    peer.family = k->family;
    peer.port = (__u16)k->port;
    peer.addr[0] = k->family == AF_INET ? k->a[3] : k->a[0];
    peer.addr[1] = k->a[1];
    peer.addr[2] = k->a[2];
    peer.addr[3] = k->a[3];
    bpf_map_update_elem(&peers, &k->cookie, &peer, BPF_ANY);
    return 1;
}

/* 1: go direct; 0: failed (errno set); 2: *to and *port are where to go instead. BYPASS: enum sq_bypass. */
static __always_inline int intercept(struct bpf_sock_addr *ctx, const struct call *k, __u32 bypass, __u32 *to,
                                     __u32 *port)
{
    struct sq_space_ports at = {};
    struct sq_tally_cell *made;
    struct sq_edge_counts *c;
    struct sq_edge_cfg *cfg;
    struct sq_decision d;
    __u32 slot = 0, why, idx;
    __u64 now;

    if (is_taken(k))
        return 1;
    if (!match(k, &slot)) {
        bpf_map_delete_elem(&peers, &k->cookie);
        return 1;
    }
    cfg = bpf_map_lookup_elem(&edges, &slot);
    c = bpf_map_lookup_elem(&counts, &slot);
    if (!cfg || !c || !cfg->pass)
        return 1;
    __sync_fetch_and_add(&c->connects, 1);
    made = sq_cell(0, SQ_RULE_TALLIES + slot, k->slot);
    if (made)
        __sync_fetch_and_add(&made->seen, 1);
    now = bpf_ktime_get_ns();
    why = listeners(ctx, k->caller, slot, cfg, &at);
    if (!why && k->only6 && !at.pass6)
        why = SQ_BY_V6;
    bypass |= why;
    sq_decide(cfg, 0, k->slot, bypass, &d);
    if (d.go == SQ_GO_FAIL) {
        __sync_fetch_and_add(&c->failed, 1);
        tell(now, k->caller, cfg->id, &d, c);
        bpf_set_retval(-(int)d.err);
        return 0;
    }
    if (k->only6)
        *port = d.go == SQ_GO_GATE && at.gate6 ? at.gate6 : at.pass6;
    else
        *port = d.go == SQ_GO_GATE ? at.gate : at.pass;
    if (bypass || !write_flow(k, &d, cfg->id, now, k->only6 ? (__u16)*port : 0, &idx)) {
        __sync_fetch_and_add(&c->bypassed, 1);
        __sync_fetch_and_or(&c->why, bypass ? bypass : SQ_BY_FLOW);
        bpf_map_delete_elem(&peers, &k->cookie);
        return 1;
    }
    __sync_fetch_and_add(&c->redirected, 1);
    *to = bpf_htonl(SQ_NET_BPF | idx);
    return 2;
}

SEC("cgroup/connect4")
int sq_connect4(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0;
    int rc;

    if (ctx->type != SOCK_STREAM || !is_caller(&k))
        return 1;
    read4(ctx, &k);
    k.cookie = bpf_get_socket_cookie(ctx);
    rc = intercept(ctx, &k, bound_to_device(ctx->sk) ? SQ_BY_DEVICE : 0, &to, &port);
    if (rc != 2)
        return rc;
    ctx->user_ip4 = to;
    ctx->user_port = port;
    return 1;
}

SEC("cgroup/connect6")
int sq_connect6(struct bpf_sock_addr *ctx)
{
    struct call k = {};
    __u32 to = 0, port = 0;
    int rc;

    if (ctx->type != SOCK_STREAM || !is_caller(&k))
        return 1;
    read6(ctx, &k);
    k.cookie = bpf_get_socket_cookie(ctx);
    k.only6 = cannot_map(ctx->sk, SOCK_STREAM);
    rc = intercept(ctx, &k, bound_to_device(ctx->sk) ? SQ_BY_DEVICE : 0, &to, &port);
    if (rc != 2)
        return rc;
    if (k.only6)
        write6(ctx, (__u32[4]){0, 0, 0, bpf_htonl(1)}, port);
    else
        write_mapped(ctx, to, port);
    return 1;
}

SEC("cgroup/getpeername4")
int sq_getpeer4(struct bpf_sock_addr *ctx)
{
    __u64 cookie = bpf_get_socket_cookie(ctx);
    struct sq_peer_addr *p = bpf_map_lookup_elem(&peers, &cookie);

    if (p && p->family == AF_INET) {
        ctx->user_ip4 = p->addr[0];
        ctx->user_port = p->port;
    }
    return 1;
}

SEC("cgroup/getpeername6")
int sq_getpeer6(struct bpf_sock_addr *ctx)
{
    __u64 cookie = bpf_get_socket_cookie(ctx);
    struct sq_peer_addr *p = bpf_map_lookup_elem(&peers, &cookie);

    if (p && p->family == AF_INET6)
        write6(ctx, p->addr, p->port);
    return 1;
}

/* For tests: what the hooks would find. Never loaded otherwise. */
SEC("?syscall")
int sq_find(struct sq_find_args *ctx)
{
    __u32 addr[4] = {ctx->addr[0], ctx->addr[1], ctx->addr[2], ctx->addr[3]};

    ctx->found = sq_tables_find(&tables, addr, (__u16)ctx->port);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
