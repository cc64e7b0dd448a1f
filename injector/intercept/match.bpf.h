/* The destinations of one caller, as its hooks look for them: the same for streams (edge.bpf.c) and datagrams
 * (dgram.bpf.c). Included once by each program; the memory is that object's own. */
#ifndef SQUALL_INTERCEPT_MATCH_BPF_H
#define SQUALL_INTERCEPT_MATCH_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "intercept/rules.h"

/* What a hook found out about one call. The address is v4-mapped for IPv4, whatever the socket's family. */
struct call {
    __u32 a[4];
    __u32 family; /* of the socket */
    __u32 port;   /* as in ctx */
    __u64 cookie;
    __u32 caller, slot; /* whose it is (caller.bpf.h) */
};

/* Written by squalld while the hooks run: a matcher first, then the count. */
__u32 n_matchers = 0;
struct sq_matcher matchers[SQ_MATCHERS] = {};

static __always_inline int match(const struct call *k, __u32 *slot)
{
    __u16 port = bpf_ntohs((__u16)k->port);
    __u32 n = *(volatile __u32 *)&n_matchers;

    for (__u32 i = 0; i < SQ_MATCHERS; i++) {
        const struct sq_matcher *m = &matchers[i];

        if (i >= n)
            break;
        if (port < m->port_lo || port > m->port_hi)
            continue;
        if ((k->a[0] & m->mask[0]) != m->addr[0] || (k->a[1] & m->mask[1]) != m->addr[1] ||
            (k->a[2] & m->mask[2]) != m->addr[2] || (k->a[3] & m->mask[3]) != m->addr[3])
            continue;
        *slot = m->slot;
        return 1;
    }
    return 0;
}

#endif
