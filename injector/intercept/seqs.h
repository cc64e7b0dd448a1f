/* Where a TCP connection is: what the other end has to send next for it to be taken (seqs.bpf.c). */
#ifndef SQUALL_INTERCEPT_SEQS_H
#define SQUALL_INTERCEPT_SEQS_H

#ifdef __bpf__
#include <linux/types.h>
struct sq_seq {
    __u32 rcv_nxt, snd_nxt;
};
#else
#include <stdint.h>

#include "squall/err.h"

struct sq_seq {
    uint32_t rcv_nxt, snd_nxt; /* host byte order */
};

struct sq_seqs; /* the loaded program */
int sq_seqs_open(struct sq_seqs **out, struct sq_err *e);
void sq_seqs_close(struct sq_seqs *s); /* NULL is fine */
/* Of the socket with this cookie (SO_COOKIE) in the network namespace that the thread is in. -ENOENT: there is none. */
int sq_seqs_read(struct sq_seqs *s, uint64_t cookie, struct sq_seq *out);
#endif

#endif
