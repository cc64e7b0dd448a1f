/* The sequence numbers of one TCP socket, read without touching it: an iterator over the sockets of the network
 * namespace of whoever reads it. Loaded from user space only, never pinned. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "intercept/seqs.h"

typedef struct {
    __s64 counter;
} __attribute__((preserve_access_index)) atomic64_t;

struct sock_common {
    atomic64_t skc_cookie;
} __attribute__((preserve_access_index));

struct tcp_sock {
    __u32 rcv_nxt, snd_nxt;
} __attribute__((preserve_access_index));

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
} __attribute__((preserve_access_index));

__u64 want = 0; /* the cookie of the one that is meant */

SEC("iter/tcp")
int sq_seqs(struct bpf_iter__tcp *ctx)
{
    struct sock_common *common = ctx->sk_common;
    struct sq_seq out = {};
    struct tcp_sock *tp;

    if (!common || (__u64)common->skc_cookie.counter != want)
        return 0;
    tp = bpf_skc_to_tcp_sock(common);
    if (!tp)
        return 0;
    out.rcv_nxt = tp->rcv_nxt;
    out.snd_nxt = tp->snd_nxt;
    bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
