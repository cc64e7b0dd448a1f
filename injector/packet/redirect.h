/* What packet/redirect.bpf.c and net/attach.c share. Compiled for BPF too. */
#ifndef SQUALL_REDIRECT_H
#define SQUALL_REDIRECT_H

#include <linux/types.h>

#include "net/classify.h"

/* In tc_index of a packet that comes from the process: the rest of its way is direct. The low bits are its pkt_type. */
#define SQ_REDIRECT_MAGIC 0x5c18u
#define SQ_REDIRECT_TYPES 3u

enum sq_redirect_device { SQ_REDIRECT_TARGET, SQ_REDIRECT_TAP, SQ_REDIRECT_DEVICES };

/* Faults that are random loss and nothing else. */
struct sq_redirect_loss {
    struct sq_mask mask;
    __u64 threshold[SQ_CLASSIFY_FAULTS]; /* of 2^32 */
};

#endif
