/* Where the proxy listens for a call: its ports in the network namespace of the caller's socket. Included once by each
 * program of hooks. */
#ifndef SQUALL_INTERCEPT_SPACE_BPF_H
#define SQUALL_INTERCEPT_SPACE_BPF_H

#include "intercept/hooks.bpf.h"

#define IFF_UP 1

struct net_device {
    unsigned int flags;
} __attribute__((preserve_access_index));

struct net {
    __u64 net_cookie;
    struct net_device *loopback_dev;
} __attribute__((preserve_access_index));

struct nsproxy {
    struct net *net_ns;
} __attribute__((preserve_access_index));

struct task_struct {
    struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} hooks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, SQ_SPACE_PORTS);
    __type(key, struct sq_space_key);
    __type(value, struct sq_space_ports);
} spaces SEC(".maps");

/* A namespace is born with its loopback down: until somebody has put it up nothing can reach us there. Asked of the
 * process's namespace, which is the socket's but for very odd programs: those go direct. */
static __always_inline int lo_is_up(__u64 cookie)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);

    return BPF_CORE_READ(net, net_cookie) == cookie && (BPF_CORE_READ(net, loopback_dev, flags) & IFF_UP);
}

static __always_inline void tell_space(__u64 cookie, __u32 caller, __u32 edge)
{
    struct sq_hook_event *ev = bpf_ringbuf_reserve(&hooks, sizeof(*ev), 0);

    if (!ev)
        return;
    ev->t_ns = 0;
    ev->caller = caller;
    ev->edge = edge;
    ev->err = ev->rule = ev->pad = 0;
    ev->netns = cookie;
    ev->pid = (__u32)(bpf_get_current_pid_tgid() >> 32);
    bpf_ringbuf_submit(ev, 0);
}

/* 0, and where the edge at SLOT is listened for; or why it can't be there (enum sq_bypass). */
static __always_inline __u32 listeners(struct bpf_sock_addr *ctx, __u32 caller, __u32 slot,
                                       const struct sq_edge_cfg *cfg, struct sq_space_ports *at)
{
    struct sq_space_key key = {.slot = slot};
    struct sq_space_ports *there;

    key.cookie = netns_cookie ? bpf_get_netns_cookie(ctx) : 0;
    if (key.cookie == netns_cookie) {
        at->pass = cfg->pass;
        at->gate = cfg->gate;
        at->dgram = cfg->dgram;
        at->pass6 = cfg->pass6;
        at->gate6 = cfg->gate6;
        at->dgram6 = cfg->dgram6;
        return 0;
    }
    there = bpf_map_lookup_elem(&spaces, &key);
    if (!there) {
        if (bpf_map_update_elem(&spaces, &key, at, BPF_NOEXIST) == 0)
            tell_space(key.cookie, caller, cfg->id);
        return SQ_BY_NETNS;
    }
    if (!there->pass)
        return SQ_BY_NETNS;
    *at = *there;
    return lo_is_up(key.cookie) ? 0 : SQ_BY_LO;
}

#endif
