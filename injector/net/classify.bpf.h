/* Which faults mean this packet: one pass over the rules of net/classify.h. Included by programs of type sched_cls; it
 * brings its maps along (`rules`, `n_rules`, `prefixes`, `ports`, `counts`: see struct sq_classify_maps; `frags` is its
 * own). Linux 5.13 or later, no BTF of the kernel needed. Directions are the target's view: on egress "host" is the
 * destination, on ingress the source, at whatever hook the program is.
 *
 * What it sees: IPv4 with options, IPv6 with up to 8 extension headers, VLAN tags in the skb and up to two in the
 * frame. A later fragment has the ports of its first one, if that was seen here before it. What is no IP packet (ARP)
 * matches only rules without any condition. A packet of a socket belongs to the cgroup that the socket was made in. */
#ifndef SQUALL_CLASSIFY_BPF_H
#define SQUALL_CLASSIFY_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "net/classify.h"

/* What it excludes is dead code, which the verifier never sees. */
const volatile struct sq_classify_env sq_classify_env = {};

#define SQ_EXTENSIONS 8 /* IPv6 extension headers that are looked through */
#define SQ_FRAGMENTS 8192

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, SQ_CLASSIFY_RULES);
    __type(key, __u32);
    __type(value, struct sq_rule);
} rules SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct sq_classify_head);
} n_rules SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 19);
    __type(key, struct sq_prefix_key);
    __type(value, __u8);
} prefixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1 << 19);
    __type(key, struct sq_port_key);
    __type(value, __u8);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, SQ_CLASSIFY_FAULTS);
    __type(key, __u32);
    __type(value, struct sq_classify_count);
} counts SEC(".maps");

struct sq_fragment_key {
    __u32 src[4], dst[4];
    __u32 id, protocol;
};
struct sq_fragment {
    __be16 sport, dport;
};
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, SQ_FRAGMENTS);
    __type(key, struct sq_fragment_key);
    __type(value, struct sq_fragment);
} frags SEC(".maps");

struct sq_seen {
    __u32 src[4], dst[4]; /* IPv4 as ::ffff:a.b.c.d */
    __be16 sport, dport;
    __u32 family; /* 4, 6; 0: no IP */
    __u32 protocol;
    __u32 dscp;
    __u32 has_ports;
    __s32 vlan[2]; /* -1: none */
    __u32 level;   /* `cgroup` is the socket's cgroup at this level; 0: not asked yet */
    __u64 cgroup;
    __u64 sock;     /* the address of the receiving socket */
    __u64 found[4]; /* faults that rules mean: 0..63, 64..127; and, SQ_RULE_EXCEPT further on, exceptions */
};
/* Not on the stack: there the verifier tells every kind of packet apart, in every turn of the loop over the rules. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct sq_seen);
} seen SEC(".maps");

static __always_inline int sq_protocol_has_ports(__u32 protocol)
{
    return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP ||
           protocol == IPPROTO_UDPLITE;
}

/* LATER: a fragment that is not the first; MORE: one that is not the last. */
static __always_inline void sq_see_ports(struct __sk_buff *skb, struct sq_seen *s, __u32 off, __u32 id, int later,
                                         int more)
{
    struct sq_fragment got = {};

    if (!sq_protocol_has_ports(s->protocol))
        return;
    if (!later) {
        if (bpf_skb_load_bytes(skb, off, &got, sizeof got) < 0)
            return;
        s->has_ports = 1;
    }
    if (later || more) {
        struct sq_fragment_key key = {.id = id, .protocol = s->protocol};
        const struct sq_fragment *first;

        __builtin_memcpy(key.src, s->src, sizeof key.src);
        __builtin_memcpy(key.dst, s->dst, sizeof key.dst);
        if (!later) {
            bpf_map_update_elem(&frags, &key, &got, BPF_ANY);
        } else {
            first = bpf_map_lookup_elem(&frags, &key);
            if (!first)
                return;
            got = *first;
            s->has_ports = 1;
        }
    }
    s->sport = got.sport;
    s->dport = got.dport;
}

static __always_inline void sq_see_ipv4(struct __sk_buff *skb, struct sq_seen *s, __u32 off)
{
    struct iphdr ip;
    __u32 frag;

    if (bpf_skb_load_bytes(skb, off, &ip, sizeof ip) < 0 || ip.version != 4 || ip.ihl < 5)
        return;
    s->family = 4;
    s->src[2] = s->dst[2] = bpf_htonl(0xffff);
    s->src[3] = ip.saddr;
    s->dst[3] = ip.daddr;
    s->protocol = ip.protocol;
    s->dscp = ip.tos >> 2;
    frag = bpf_ntohs(ip.frag_off);
    sq_see_ports(skb, s, off + ip.ihl * 4u, ip.id, (frag & 0x1fff) != 0, (frag & 0x2000) != 0);
}

static __always_inline void sq_see_ipv6(struct __sk_buff *skb, struct sq_seen *s, __u32 off)
{
    struct ipv6hdr ip;
    __u32 next, id = 0, frag = 0;

    if (bpf_skb_load_bytes(skb, off, &ip, sizeof ip) < 0 || ip.version != 6)
        return;
    s->family = 6;
    __builtin_memcpy(s->src, &ip.saddr, sizeof s->src);
    __builtin_memcpy(s->dst, &ip.daddr, sizeof s->dst);
    s->dscp = (__u32)(ip.priority << 2 | ip.flow_lbl[0] >> 6);
    next = ip.nexthdr;
    off += sizeof ip;
    for (int i = 0; i < SQ_EXTENSIONS; i++) {
        struct {
            __u8 next, len;
            __be16 frag;
            __be32 id;
        } ext;

        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_AH && next != IPPROTO_MH && next != 139 && next != 140)
            break;
        if (bpf_skb_load_bytes(skb, off, &ext, sizeof ext) < 0)
            break;
        if (next == IPPROTO_FRAGMENT) {
            frag = bpf_ntohs(ext.frag);
            id = ext.id;
            off += 8;
        } else if (next == IPPROTO_AH) {
            off += (ext.len + 2u) * 4;
        } else {
            off += (ext.len + 1u) * 8;
        }
        next = ext.next;
        if (frag & 0xfff8) /* what follows in a later fragment are no headers */
            break;
    }
    s->protocol = next;
    sq_see_ports(skb, s, off, id, (frag & 0xfff8) != 0, (frag & 1) != 0);
}

static __always_inline int sq_is_vlan(__be16 type)
{
    return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline void sq_see(struct __sk_buff *skb, struct sq_seen *s, int l3)
{
    __be16 type = (__be16)skb->protocol;
    __u32 off = 0;

    s->vlan[0] = s->vlan[1] = -1;
    if (skb->vlan_present)
        s->vlan[0] = skb->vlan_tci & 0xfff;
    if (!l3) {
        if (bpf_skb_load_bytes(skb, ETH_ALEN * 2, &type, sizeof type) < 0)
            return;
        off = ETH_HLEN;
        for (int i = 0; i < 2; i++) {
            __be16 tag[2];

            if (!sq_is_vlan(type) || bpf_skb_load_bytes(skb, off, tag, sizeof tag) < 0)
                break;
            if (s->vlan[0] < 0)
                s->vlan[0] = bpf_ntohs(tag[0]) & 0xfff;
            else if (s->vlan[1] < 0)
                s->vlan[1] = bpf_ntohs(tag[0]) & 0xfff;
            type = tag[1];
            off += sizeof tag;
        }
    }
    if (type == bpf_htons(ETH_P_IP))
        sq_see_ipv4(skb, s, off);
    else if (type == bpf_htons(ETH_P_IPV6))
        sq_see_ipv6(skb, s, off);
}

static __always_inline __u64 sq_peek(__u64 address)
{
    __u64 v = 0;

    return bpf_probe_read_kernel(&v, sizeof v, (const void *)address) < 0 ? 0 : v;
}

/* What bpf_sk_ancestor_cgroup_id() does for programs that may call it. */
static __always_inline __u64 sq_ancestor(__u64 sock, __u32 level)
{
    __u64 cgroup = sq_peek(sock + sq_classify_env.sock_cgroup);

    if (!cgroup || (__u32)sq_peek(cgroup + sq_classify_env.cgroup_level) < level)
        return 0;
    cgroup = sq_peek(cgroup + sq_classify_env.cgroup_ancestors + 8ull * level);
    return cgroup ? sq_peek(sq_peek(cgroup + sq_classify_env.cgroup_node) + sq_classify_env.node_id) : 0;
}

/* The cgroup of the socket that an incoming packet is for, at LEVEL. */
static __always_inline __u64 sq_receiver(struct __sk_buff *skb, struct sq_seen *s, __u32 level)
{
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk;
    __u32 len = sizeof t.ipv4;
    __u64 id;

    if (!sq_classify_env.sock_cgroup || !s->has_ports)
        return 0;
    if (s->family == 4) {
        t.ipv4.saddr = s->src[3];
        t.ipv4.daddr = s->dst[3];
        t.ipv4.sport = s->sport;
        t.ipv4.dport = s->dport;
    } else {
        __builtin_memcpy(t.ipv6.saddr, s->src, sizeof t.ipv6.saddr);
        __builtin_memcpy(t.ipv6.daddr, s->dst, sizeof t.ipv6.daddr);
        t.ipv6.sport = s->sport;
        t.ipv6.dport = s->dport;
        len = sizeof t.ipv6;
    }
    if (s->protocol == IPPROTO_TCP)
        sk = bpf_sk_lookup_tcp(skb, &t, len, BPF_F_CURRENT_NETNS, 0);
    else if (s->protocol == IPPROTO_UDP)
        sk = bpf_sk_lookup_udp(skb, &t, len, BPF_F_CURRENT_NETNS, 0);
    else
        return 0;
    if (!sk)
        return 0;
    s->sock = (__u64)sk; /* a number from here on: sums on sockets are not allowed */
    id = sq_ancestor(*(volatile __u64 *)&s->sock, level);
    bpf_sk_release(sk);
    return id;
}

static __always_inline int sq_in_cgroup(struct __sk_buff *skb, struct sq_seen *s, const struct sq_rule *r, int egress)
{
    if (s->level != r->level) {
        s->cgroup = egress ? bpf_skb_ancestor_cgroup_id(skb, (int)r->level) : sq_receiver(skb, s, r->level);
        s->level = r->level;
    }
    return s->cgroup == r->cgroup;
}

static __always_inline int sq_in_ports(__u32 set, __be16 port)
{
    struct sq_port_key key = {.prefixlen = 48, .set = bpf_htonl(set), .port = port};

    return bpf_map_lookup_elem(&ports, &key) != NULL;
}

static __always_inline int sq_in_hosts(__u32 set, const __u32 *addr)
{
    struct sq_prefix_key key = {.prefixlen = 160, .set = bpf_htonl(set)};

    __builtin_memcpy(key.addr, addr, sizeof key.addr);
    return bpf_map_lookup_elem(&prefixes, &key) != NULL;
}

/* What is cheap first. */
static __always_inline int sq_rule_holds(struct __sk_buff *skb, struct sq_seen *s, const struct sq_rule *r, int egress)
{
    if (!(r->protocol | r->hosts | r->ports | r->locals | r->cgroup) && r->dscp < 0 && r->vlan < 0)
        return 1;
    if (!s->family)
        return 0;
    if (r->protocol && r->protocol != s->protocol && !(r->protocol == IPPROTO_ICMP && s->protocol == IPPROTO_ICMPV6))
        return 0;
    if (r->dscp >= 0 && (__u32)r->dscp != s->dscp)
        return 0;
    if (r->vlan >= 0 && r->vlan != s->vlan[0] && r->vlan != s->vlan[1])
        return 0;
    if ((r->ports || r->locals) && !s->has_ports)
        return 0;
    if (r->ports && !sq_in_ports(r->ports, egress ? s->dport : s->sport))
        return 0;
    if (r->locals && !sq_in_ports(r->locals, egress ? s->sport : s->dport))
        return 0;
    if (r->hosts && !sq_in_hosts(r->hosts, egress ? s->dst : s->src))
        return 0;
    return !r->cgroup || sq_in_cgroup(skb, s, r, egress);
}

/* The 6.1 verifier forgets the bounds of an OR of 32 bits: they are stated again, behind a barrier. */
static __always_inline void sq_found(struct sq_seen *s, const struct sq_rule *r)
{
    __u64 i = (r->flags & SQ_RULE_EXCEPT) | (r->fault >> 6 & 1);

    asm volatile("%0 &= 3" : "+r"(i));
    s->found[i] |= 1ull << (r->fault & 63);
}

static __always_inline void sq_try(struct __sk_buff *skb, struct sq_seen *s, const struct sq_rule *r, int egress)
{
    if (sq_rule_holds(skb, s, r, egress))
        sq_found(s, r);
}

struct sq_pass {
    struct __sk_buff *skb;
    struct sq_seen *s;
    __u32 n;
};

/* Callbacks of bpf_for_each_map_elem: 1 ends it. */
static long sq_try_egress(void *map, const __u32 *i, struct sq_rule *r, struct sq_pass *p)
{
    (void)map;
    if (*i >= p->n)
        return 1;
    if (r->flags & SQ_RULE_ON)
        sq_try(p->skb, p->s, r, 1);
    return 0;
}

static long sq_try_ingress(void *map, const __u32 *i, struct sq_rule *r, struct sq_pass *p)
{
    (void)map;
    if (*i >= p->n)
        return 1;
    if (r->flags & SQ_RULE_ON)
        sq_try(p->skb, p->s, r, 0);
    return 0;
}

/* The same where there are no callbacks. */
static __always_inline void sq_try_few(struct __sk_buff *skb, struct sq_seen *s, __u32 n, const int egress)
{
    for (__u32 i = 0; i < SQ_CLASSIFY_FEW; i++) {
        __u32 key = i;
        const struct sq_rule *r;
        __u64 flags;

        if (i >= n)
            break;
        r = bpf_map_lookup_elem(&rules, &key);
        if (!r)
            break;
        /* By hand, so that falling through means to go on with the loop: the verifier follows that first, to the loop's
         * end, and would else have more branches open (BPF_COMPLEXITY_LIMIT_JMP_SEQ) than it can. */
        flags = r->flags & SQ_RULE_ON;
        asm goto("if %0 != 0 goto %l[on]" : : "r"(flags) : : on);
        continue;
    on:
        sq_try(skb, s, r, egress);
    }
}

/* *MASK: the faults that match. Returns whether there are any. EGRESS must be a constant. */
static __always_inline int sq_classify(struct __sk_buff *skb, const int egress, struct sq_mask *mask)
{
    const struct sq_classify_head *head;
    struct sq_seen *s;
    __u32 zero = 0;

    mask->w[0] = mask->w[1] = 0;
    head = bpf_map_lookup_elem(&n_rules, &zero);
    if (!head || !(head->on.w[0] | head->on.w[1]))
        return 0;
    s = bpf_map_lookup_elem(&seen, &zero);
    if (!s)
        return 0;
    __builtin_memset(s, 0, sizeof *s);
    sq_see(skb, s, head->l3 != 0);
    if (sq_classify_env.callback) {
        struct sq_pass pass = {skb, s, head->n};

        bpf_for_each_map_elem(&rules, egress ? (void *)sq_try_egress : (void *)sq_try_ingress, &pass, 0);
    } else {
        sq_try_few(skb, s, head->n, egress);
    }
    mask->w[0] = s->found[0] & ~s->found[SQ_RULE_EXCEPT] & head->on.w[0];
    mask->w[1] = s->found[1] & ~s->found[SQ_RULE_EXCEPT + 1] & head->on.w[1];
    return (mask->w[0] | mask->w[1]) != 0;
}

/* The number of the lowest bit of V, which is not 0. BPF has no instruction for it; a product with a de Bruijn sequence
 * has no branches, each of which the verifier would follow in every turn of a loop. */
static __always_inline __u32 sq_lowest(__u64 v)
{
    static const __u8 number[64] = {0,  1,  2,  53, 3,  7,  54, 27, 4,  38, 41, 8,  34, 55, 48, 28,
                                    62, 5,  39, 46, 44, 42, 22, 9,  24, 35, 59, 56, 49, 18, 29, 11,
                                    63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21, 23, 58, 17, 10,
                                    51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12};

    return number[(v & -v) * 0x022fdd63cc95386dull >> 58];
}

/* The packet was one for the fault BIT. */
static __always_inline void sq_classify_count_one(struct __sk_buff *skb, __u32 bit)
{
    struct sq_classify_count *c = bpf_map_lookup_elem(&counts, &bit);

    if (c) {
        c->packets++;
        c->bytes += skb->len;
    }
}

/* The packet was one for all faults of MASK. */
static __always_inline void sq_classify_count_all(struct __sk_buff *skb, const struct sq_mask *mask)
{
    __u64 lo = mask->w[0], hi = mask->w[1];

    for (int i = 0; i < SQ_CLASSIFY_FAULTS && (lo | hi); i++) {
        __u32 bit = lo ? sq_lowest(lo) : 64 + sq_lowest(hi);

        sq_classify_count_one(skb, bit);
        if (lo)
            lo &= lo - 1;
        else
            hi &= hi - 1;
    }
}

#endif
