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

/* One group. Sets are numbers that key the prefix tries; 0: any. */
struct sq_rule {
    __u32 fault;  /* bit number */
    __u32 flags;  /* SQ_RULE_* */
    __u32 hosts;  /* set in `prefixes`; 0: any */
    __u32 ports;  /* set in `ports`, the other side's */
    __u32 locals; /* set in `ports`, ours */
    __u8 protocol;
    __s8 dscp;    /* -1: any */
    __s16 vlan;   /* -1: any */
    __u64 cgroup; /* 0: any */
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

/* Per-fault counters (per-CPU array, index = fault bit). */
struct sq_classify_count {
    __u64 packets, bytes;
};

#endif
