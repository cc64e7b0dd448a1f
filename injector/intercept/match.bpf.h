/* The destinations of one caller, as its hooks look for them: the same for streams (edge.bpf.c) and datagrams
 * (dgram.bpf.c). Included once by each program; the memory is that object's own. */
#ifndef SQUALL_INTERCEPT_MATCH_BPF_H
#define SQUALL_INTERCEPT_MATCH_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "intercept/rules.h"
#include "intercept/table.h"

/* What a hook found out about one call. The address is v4-mapped for IPv4, whatever the socket's family. */
struct call {
    __u32 a[4];
    __u32 family; /* of the socket */
    __u32 port;   /* as in ctx */
    __u32 only6;  /* a stream that can't reach a v4-mapped address */
    __u64 cookie;
    __u32 caller, slot; /* whose it is (caller.bpf.h) */
};

struct sq_tables tables = {}; /* written by squalld while the hooks run */

static __always_inline int match(const struct call *k, __u32 *slot)
{
    __u32 found = sq_tables_find(&tables, k->a, (__u16)k->port);

    *slot = found - 1;
    return found != 0;
}

#endif
