/* A caller whose name queries are an edge's must make them itself: nscd and systemd-resolved, which glibc asks first by
 * sockets of their own, refuse it, as if they did not run. Both then have glibc ask on port 53 (nscd/nscd_helper.c,
 * nss-resolve(8)). Needs Linux 6.7. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>

#include "intercept/caches.h"
#include "intercept/tgids.bpf.h"

#define ECONNREFUSED 111

struct sockaddr_un {
    char sun_path[108];
} __attribute__((preserve_access_index));

struct bpf_sock_addr_kern {
    struct sockaddr_un *uaddr;
} __attribute__((preserve_access_index));

const volatile __u32 by_tgid = 0; /* as in caller.bpf.h */

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym; /* kernel/bpf/helpers.c */

static __always_inline int same(const char *a, const char *b, __u32 n)
{
    for (__u32 i = 0; i < n; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

SEC("cgroup/connect_unix")
int sq_cache(struct bpf_sock_addr *ctx)
{
    const struct bpf_sock_addr_kern *kern;
    char path[SQ_CACHE_MAX] = {0};
    __u32 tgid = (__u32)(bpf_get_current_pid_tgid() >> 32);

    if (by_tgid && !bpf_map_lookup_elem(&tgids, &tgid))
        return 1;
    kern = bpf_cast_to_kern_ctx(ctx);
    bpf_probe_read_kernel_str(path, sizeof(path), BPF_CORE_READ(kern, uaddr, sun_path));
    if (!same(path, SQ_NSCD, sizeof(SQ_NSCD)) && !same(path, SQ_RESOLVED, sizeof(SQ_RESOLVED)))
        return 1;
    bpf_set_retval(-ECONNREFUSED);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
