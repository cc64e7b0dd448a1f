/* The seccomp filters that a process is under already (a container's, a sandbox of its own), and whether ours may join
 * them: it may when they let through what the process is made to do for it (inject.h), and when they say nothing to its
 * calls that ours would hide from their supervisor. They are read as they are in the kernel, by ptrace(2). x86_64 only.
 */
#ifndef SQUALL_INTERCEPT_FILTERS_H
#define SQUALL_INTERCEPT_FILTERS_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "squall/err.h"

struct sq_filters {
    size_t n; /* the newest first */
    struct sq_one_filter {
        struct sock_filter *insn; /* owned */
        size_t len;
    } * v;
};

/* Of /proc/PID/status: 0: none, 1: strict mode, 2: filters. -ESRCH: it is gone. *STATE: as in ps(1). */
int sq_filters_mode(pid_t pid, char *state);
/* Can they be read here? Asks a child of its own. SQ_C_UNSUPPORTED and why not. */
int sq_filters_check(struct sq_err *e);
/* Of the thread TID of PID, which we trace and which is stopped; none in strict mode. SQ_C_CONFLICT also when others of
 * its threads have fewer, for they would get what it has. */
int sq_filters_read(pid_t pid, pid_t tid, struct sq_filters *out, struct sq_err *e);
void sq_filters_free(struct sq_filters *f);
/* May OURS (LEN bytes) join them? SQ_C_CONFLICT: not, or it can't be known. -EALREADY: it is among them. */
int sq_filters_allow(const struct sq_filters *f, pid_t pid, const void *ours, size_t len, struct sq_err *e);
/* May it set no_new_privs? As before. */
int sq_filters_allow_nnp(const struct sq_filters *f, pid_t pid, struct sq_err *e);
/* May it be restarted by restart_syscall(2)? */
bool sq_filters_allow_restart(const struct sq_filters *f);

#endif
