/* The map of the processes that are callers. Included once by each program that has it. */
#ifndef SQUALL_INTERCEPT_TGIDS_BPF_H
#define SQUALL_INTERCEPT_TGIDS_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "intercept/tgids.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, SQ_TGIDS);
    __type(key, __u32);
    __type(value, struct sq_tgid);
} tgids SEC(".maps");

#endif
