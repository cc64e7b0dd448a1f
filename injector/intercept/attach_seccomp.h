/* `attach: seccomp`: a process that runs already, with those that it has forked, gets the filter by injection
 * (inject.h), for good. One that has ours from an earlier run is taken again: by the supervisor here that still has it,
 * or from the keeper, proxy or agent of an injector that has ended (door.h). */
#ifndef SQUALL_INTERCEPT_ATTACH_SECCOMP_H
#define SQUALL_INTERCEPT_ATTACH_SECCOMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "intercept/priv.h"
#include "squall/err.h"

struct sq_attached {
    size_t processes; /* taken: it, and those that it forked */
    size_t missed;    /* descendants that could not be; `why` says so of the last one */
    char why[256];
    bool no_new_privs, rings; /* of any: struct sq_injected */
};

/* Does it work on this host at all? And of processes that are under seccomp filters already? SQ_C_UNSUPPORTED. */
int sq_attach_here(struct sq_err *e);
int sq_attach_here_filtered(struct sq_err *e);
/* Can it be done, as far as can be told from outside? Touches nothing. *FILTERED: it is under seccomp filters of its
 * own, and sq_attach_look says more. */
int sq_attach_check(struct sq_intercept *ic, pid_t pid, uint64_t start, bool *filtered, struct sq_err *e);
/* The same, and what its own filters say: if it has any, it is stopped for less than a millisecond. DGRAM: datagrams
 * are to be taken, too. */
int sq_attach_look(struct sq_intercept *ic, pid_t pid, uint64_t start, bool dgram, struct sq_err *e);
/* All processes below PID and itself, but for Squall's and OTHERS (n), as calls of C. An error only when PID itself
 * can't be taken. */
int sq_attach_tree(struct sq_caller *c, pid_t pid, uint64_t start, const pid_t *others, size_t n,
                   struct sq_attached *out, struct sq_err *e);

#endif
