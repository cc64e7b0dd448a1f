/* Tells when a program begins in another network namespace, below a cgroup that is a caller (`ip netns exec`, `unshare
 * -n`, a container's first process): before its first call, that the proxy may be there in time. Loaded from user space
 * only, never pinned. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define SQ_NO_DECISIONS
#include "intercept/rules.h"

#define LEVELS 10 /* of cgroups that are looked at */

struct net {
    __u64 net_cookie;
} __attribute__((preserve_access_index));

struct nsproxy {
    struct net *net_ns;
} __attribute__((preserve_access_index));

struct task_struct {
    int tgid;
    struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

const volatile __u64 netns_cookie = 0; /* of the proxy */

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, SQ_CALLERS);
    __type(key, __u64);   /* cgroup */
    __type(value, __u32); /* caller */
} cgroups SEC(".maps");

struct told {
    __u64 cookie;
    __u64 caller;
};

/* Once each. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct told);
    __type(value, __u32);
} told SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} hooks SEC(".maps");

static __always_inline __u32 caller_of(void)
{
    for (int level = 1; level < LEVELS; level++) {
        __u64 id = bpf_get_current_ancestor_cgroup_id(level);
        __u32 *caller;

        if (!id)
            return 0;
        caller = bpf_map_lookup_elem(&cgroups, &id);
        if (caller)
            return *caller;
    }
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sq_exec, struct task_struct *task)
{
    __u64 cookie = BPF_CORE_READ(task, nsproxy, net_ns, net_cookie);
    struct sq_hook_event *ev;
    struct told key = {};
    __u32 one = 1;

    if (cookie == netns_cookie)
        return 0;
    key.caller = caller_of();
    key.cookie = cookie;
    if (!key.caller || bpf_map_update_elem(&told, &key, &one, BPF_NOEXIST) < 0)
        return 0;
    ev = bpf_ringbuf_reserve(&hooks, sizeof(*ev), 0);
    if (!ev)
        return 0;
    ev->t_ns = 0;
    ev->caller = (__u32)key.caller;
    ev->edge = ev->err = ev->rule = ev->pad = 0;
    ev->netns = cookie;
    ev->pid = (__u32)task->tgid;
    bpf_ringbuf_submit(ev, 0);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
