/* System calls by another process's hand: a stopped thread is stepped over the vdso's `syscall` instruction with
 * registers of ours, and gets its own back. x86_64 only. */
#ifndef SQUALL_INTERCEPT_PTRACE_H
#define SQUALL_INTERCEPT_PTRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

#if defined(__x86_64__)
#include <sys/user.h>

struct sq_tracee {
    pid_t pid, tid;
    uint64_t gate; /* address of the instruction */
    struct user_regs_struct regs;
    uint64_t mask;
    int late; /* a signal that came meanwhile; 0: none */
    bool seized, entered;
    bool anew; /* sq_tracee_anew */
};

/* Stop one thread of PID, where its registers may be borrowed. Waits for at most a second altogether. */
int sq_tracee_stop(struct sq_tracee *t, pid_t pid, struct sq_err *e);
/* What the call returned, -errno; -ESRCH when the thread has ended. */
int64_t sq_tracee_call(struct sq_tracee *t, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                       uint64_t f);
/* Let the system call that it was in begin anew instead of being continued by restart_syscall(2), which its seccomp
 * filters forbid: a wait with a timeout begins to wait anew. Nothing, if that is not how it would be continued. */
void sq_tracee_anew(struct sq_tracee *t);
/* Give everything back, and let it run. Also after an error of the others. */
void sq_tracee_go(struct sq_tracee *t);
#endif

#endif
