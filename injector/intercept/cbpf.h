/* What a seccomp filter (classic BPF) can say to a system call of which not all is known. The program is followed along
 * every way that what is unknown leaves open, each instruction once (it can only jump forward); where ways meet, a word
 * is known when all of them agree on it. So the answer may name actions that can't be, but never leaves one out.
 * The instructions and what they mean: seccomp(2), Documentation/networking/filter.rst, kernel/seccomp.c
 * (seccomp_check_filter). */
#ifndef SQUALL_INTERCEPT_CBPF_H
#define SQUALL_INTERCEPT_CBPF_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

enum sq_says {
    SQ_SAYS_ALLOW = 1,
    SQ_SAYS_LOG = 2,
    SQ_SAYS_TRACE = 4,
    SQ_SAYS_NOTIFY = 8,
    SQ_SAYS_ERRNO = 16,
    SQ_SAYS_TRAP = 32,
    SQ_SAYS_KILL = 64,
    SQ_SAYS_ANYTHING = 128, /* it can't be told: also of a program that no kernel would have taken */
};

struct sq_cbpf_call {
    uint32_t arch, nr; /* AUDIT_ARCH_*; its instruction pointer is unknown */
    uint64_t arg[6];
    unsigned known; /* bit i: arg[i] is what it will be */
};

/* A set of enum sq_says; 0: no memory. N: instructions, at most BPF_MAXINSNS. */
unsigned sq_cbpf_says(const struct sock_filter *prog, size_t n, const struct sq_cbpf_call *call);

#endif
