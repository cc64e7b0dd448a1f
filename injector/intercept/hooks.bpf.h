/* What the programs of hooks have in common, of streams (edge.bpf.c) and of datagrams (dgram.bpf.c): whose edges, and
 * which sockets can be sent to the proxy. Included once by each. */
#ifndef SQUALL_INTERCEPT_HOOKS_BPF_H
#define SQUALL_INTERCEPT_HOOKS_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "intercept/caller.bpf.h"
#include "intercept/match.bpf.h"
#include "intercept/rules.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define LOOPBACK_IF 1

struct sock_common {
    unsigned char skc_ipv6only : 1;
} __attribute__((preserve_access_index));

const volatile __u64 netns_cookie = 0; /* of the proxy; 0: unknown */

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, SQ_EDGES);
    __type(key, __u32);
    __type(value, struct sq_edge_cfg);
} edges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, SQ_EDGES);
    __type(key, __u32);
    __type(value, struct sq_edge_counts);
} counts SEC(".maps");

static __always_inline int is_v4(const __u32 *a)
{
    return a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff);
}

/* ADDR of F: what the call wants, IPv4 in the first word. */
static __always_inline void flow_addr(struct sq_flow *f, const struct call *k)
{
    int v4 = is_v4(k->a);
    __u32 *fa = (__u32 *)(void *)f->addr;

    f->family = v4 ? AF_INET : AF_INET6;
    fa[0] = v4 ? k->a[3] : k->a[0];
    fa[1] = v4 ? 0 : k->a[1];
    fa[2] = v4 ? 0 : k->a[2];
    fa[3] = v4 ? 0 : k->a[3];
}

static __always_inline void read4(const struct bpf_sock_addr *ctx, struct call *k)
{
    k->a[0] = k->a[1] = 0;
    k->a[2] = bpf_htonl(0xffff);
    k->a[3] = ctx->user_ip4;
    k->port = ctx->user_port;
    k->family = AF_INET;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, struct call *k)
{
    k->a[0] = ctx->user_ip6[0];
    k->a[1] = ctx->user_ip6[1];
    k->a[2] = ctx->user_ip6[2];
    k->a[3] = ctx->user_ip6[3];
    k->port = ctx->user_port;
    k->family = AF_INET6;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const __u32 *a, __u32 port)
{
    ctx->user_ip6[0] = a[0];
    ctx->user_ip6[1] = a[1];
    ctx->user_ip6[2] = a[2];
    ctx->user_ip6[3] = a[3];
    ctx->user_port = port;
}

static __always_inline void write_mapped(struct bpf_sock_addr *ctx, __u32 to, __u32 port)
{
    __u32 a[4] = {0, 0, bpf_htonl(0xffff), to};

    write6(ctx, a, port);
}

static __always_inline int bound_to_device(const struct bpf_sock *sk)
{
    return sk && sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_IF;
}

/* An IPv6 socket is sent to ::ffff:127.x.y.z, which one that is IPv6 only, or bound to an IPv6 address, can't reach.
 * TYPE: of the socket. */
static __always_inline int cannot_map(struct bpf_sock *sk, int type)
{
    struct sock_common *common;
    __u32 s[4];

    if (!sk)
        return 1;
    s[0] = sk->src_ip6[0];
    s[1] = sk->src_ip6[1];
    s[2] = sk->src_ip6[2];
    s[3] = sk->src_ip6[3];
    if ((s[0] | s[1] | s[2] | s[3]) && !is_v4(s))
        return 1;
    /* the first member of every socket (net/sock.h) */
    common = type == SOCK_STREAM ? (struct sock_common *)bpf_skc_to_tcp6_sock(sk)
                                 : (struct sock_common *)bpf_skc_to_udp6_sock(sk);
    if (!common)
        return 1;
    return BPF_CORE_READ_BITFIELD_PROBED(common, skc_ipv6only) != 0;
}

#endif
