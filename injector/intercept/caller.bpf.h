/* Whose calls a hook sees: of the one caller that its cgroup holds, or (by_tgid) of the processes that follow.bpf.c
 * keeps. Included once by each program of hooks, after match.bpf.h. */
#ifndef SQUALL_INTERCEPT_CALLER_BPF_H
#define SQUALL_INTERCEPT_CALLER_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "intercept/match.bpf.h"
#include "intercept/tgids.bpf.h"

const volatile __u32 caller_id = 0;
const volatile __u32 caller_slot = 0;
const volatile __u32 by_tgid = 0; /* the callers are those in `tgids`; 0: whoever is in the cgroup is one caller */

/* False: a call of nobody that is meant. Else k->caller and k->slot say whose it is. */
static __always_inline int is_caller(struct call *k)
{
    const struct sq_tgid *t;
    __u32 tgid;

    k->caller = caller_id;
    k->slot = caller_slot;
    if (!by_tgid)
        return 1;
    tgid = (__u32)(bpf_get_current_pid_tgid() >> 32);
    t = bpf_map_lookup_elem(&tgids, &tgid);
    if (!t)
        return 0;
    k->caller = t->caller;
    k->slot = t->slot;
    return 1;
}

#endif
