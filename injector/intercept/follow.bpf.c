/* Which processes are callers: those that were named, and all that they fork from then on. A process that forks is
 * looked up before its child has run for the first time (sched_process_fork comes before wake_up_new_task,
 * kernel/fork.c), so no call of a child is missed; and a child of anybody else takes its number out, so that a number
 * that is used again never means a bystander. Loaded from user space only, never pinned. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "intercept/tgids.bpf.h"

typedef struct {
    int counter;
} __attribute__((preserve_access_index)) atomic_t;

struct signal_struct {
    atomic_t live; /* threads that have not begun to exit */
} __attribute__((preserve_access_index));

struct task_struct {
    int tgid;
    struct signal_struct *signal;
} __attribute__((preserve_access_index));

__u64 lost = 0; /* children that did not fit */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sq_fork, struct task_struct *parent, struct task_struct *child)
{
    __u32 from = (__u32)parent->tgid, to = (__u32)child->tgid;
    struct sq_tgid *t, copy;

    if (from == to) /* a thread */
        return 0;
    t = bpf_map_lookup_elem(&tgids, &from);
    if (!t) {
        bpf_map_delete_elem(&tgids, &to);
        return 0;
    }
    copy = *t;
    if (bpf_map_update_elem(&tgids, &to, &copy, BPF_ANY) < 0)
        __sync_fetch_and_add(&lost, 1);
    return 0;
}

/* Threads may go on when the first one has ended: the last one's end counts. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(sq_exit, struct task_struct *task)
{
    __u32 tgid = (__u32)task->tgid;

    if (task->signal->live.counter == 0)
        bpf_map_delete_elem(&tgids, &tgid);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
