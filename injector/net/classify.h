/* What the classifier's BPF programs (net/classify.bpf.h, included by net/classid.bpf.c and packet's redirect.bpf.c)
 * and user space share. Up to SQ_CLASSIFY_FAULTS faults on one device and direction; a packet gets a mask of those that
 * match it. Plain C types only: compiled for BPF too. */
#ifndef SQUALL_CLASSIFY_H
#define SQUALL_CLASSIFY_H

#include <linux/types.h>

#define SQ_CLASSIFY_FAULTS 128 /* on one device and direction: bits of a mask */
#define SQ_CLASSIFY_RULES 1024 /* groups of all of them together */

struct sq_mask {
    __u64 w[SQ_CLASSIFY_FAULTS / 64];
};

/* The one entry of the map `n_rules`: what is looked at before any rule. */
struct sq_classify_head {
    __u32 n;           /* rules 0..n-1 may be in use */
    __u32 l3;          /* packets of this device have no Ethernet header */
    struct sq_mask on; /* faults that are switched on: one write makes all rules of a fault count, or none */
};

/* One group. Sets are numbers that key the prefix tries; 0: any. */
struct sq_rule {
    __u32 fault;   /* bit number */
    __u32 flags;   /* SQ_RULE_* */
    __u32 hosts;   /* set in `prefixes`; 0: any */
    __u32 ports;   /* set in `ports`, the other side's */
    __u32 locals;  /* set in `ports`, ours */
    __u8 protocol; /* IPPROTO_ICMP stands for ICMPv6, too; 0: any */
    __s8 dscp;     /* -1: any */
    __s16 vlan;    /* either tag of the packet's two outer ones; -1: any */
    __u64 cgroup;  /* the socket's cgroup is this one or below it; 0: any */
    __u32 level;   /* of that cgroup below the root: its ancestor test */
    __u32 pad;
};
#define SQ_RULE_ON 1u
#define SQ_RULE_EXCEPT 2u

/* LPM tries. prefixlen counts the set's 32 bits, too. */
struct sq_prefix_key {
    __u32 prefixlen; /* 32 + 0..128 */
    __u32 set;       /* big endian */
    __u8 addr[16];   /* IPv4 as ::ffff:a.b.c.d */
};
struct sq_port_key {
    __u32 prefixlen; /* 32 + 0..16: a range is a few prefixes */
    __u32 set;       /* big endian */
    __u16 port;      /* big endian */
    __u16 pad;
};

/* Rules that are looked at where the kernel can't call back (before Linux 5.13, or without a JIT): a loop that the
 * verifier walks through costs time at loading. */
#define SQ_CLASSIFY_FEW 256

/* What the program should know of its kernel: `sq_classify_env` in its read-only data, set before loading by
 * sq_classify_look. All zero works everywhere, with SQ_CLASSIFY_FEW rules and no cgroups on ingress. */
struct sq_classify_env {
    __u32 callback; /* bpf_for_each_map_elem works */
    /* Where a socket's cgroup is (bytes into structures): no helper tells a sched_cls program whom an incoming packet
     * is for. All zero: unknown. */
    __u32 sock_cgroup;      /* struct sock: sk_cgrp_data.cgroup */
    __u32 cgroup_level;     /* struct cgroup: level */
    __u32 cgroup_ancestors; /* struct cgroup: ancestors[] (Linux 6.1) */
    __u32 cgroup_node;      /* struct cgroup: kn */
    __u32 node_id;          /* struct kernfs_node: id */
};

/* Per-fault counters (per-CPU array, index = fault bit). */
struct sq_classify_count {
    __u64 packets, bytes;
};

/* What net/classid.bpf.c makes of the fault BIT, for the injector with slot 1: a class of our root (net/tree.h). */
#define SQ_CLASSID(bit) (0x5c1a0100u + (bit))

#endif
