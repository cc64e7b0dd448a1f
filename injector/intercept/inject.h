/* A seccomp filter, with its listener, for a process that runs already: the `attach: seccomp` of an edge. One of its
 * threads is stopped for less than a millisecond with ptrace(2), and made to load the filter for all of them; the
 * system call that it was in goes on as if nothing had been.
 *
 * It can't be undone: the filter stays until the process and all that it starts have ended, and somebody must answer
 * for so long. So the helper that does it keeps the listener until the caller says that others have it, and if the
 * caller dies before that, it stays and lets every call go where it wants to. */
#ifndef SQUALL_INTERCEPT_INJECT_H
#define SQUALL_INTERCEPT_INJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

struct sq_injected {
    int listener;       /* the caller's; -1: none */
    bool no_new_privs;  /* had to be set, for good: setuid programs that it starts do not gain their rights */
    bool rings;         /* it has io_uring instances, whose connects no filter sees */
    int64_t stopped_ns; /* how long the thread stood still */
    pid_t helper;       /* until sq_inject_done */
    int ack;
};

/* May and can it be done to the process (PID, START; sq_proc), as far as can be told from outside? Touches nothing.
 * *FILTERED: it is under seccomp filters already, and what those say is seen only when it is stopped. -ESRCH: gone.
 * SQ_C_CONFLICT: not now. SQ_C_UNSUPPORTED: not this process (32 bits, stopped, traced), or not on this machine. */
int sq_inject_check(pid_t pid, uint64_t start, bool *filtered, struct sq_err *e);
/* Do the filters that it is under let this one in (filters.h)? One thread of it is stopped, and goes on. Blocks as
 * sq_inject. SQ_C_CONFLICT: which of them says what; -EALREADY: this one is among them. */
int sq_inject_look(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_err *e);
/* FILTER: LEN bytes of struct sock_filter. Refuses as sq_inject_look does. Blocks for some milliseconds, at most two
 * seconds. On success sq_inject_done must follow as soon as others hold the listener. */
int sq_inject(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_injected *out, struct sq_err *e);
void sq_inject_done(struct sq_injected *in);
/* Or: nobody will. The helper stays and answers. The listener is not closed by either. */
void sq_inject_leave(struct sq_injected *in);

#endif
