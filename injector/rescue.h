/* `squalld rescue PID`: for a program under a seccomp filter of ours that has lost all who answered for it (squalld,
 * its keeper and the proxy, killed at once): each connect(2) of it fails with ENOSYS, for ever, for a filter can't be
 * taken off. A tracer may suspend it (PTRACE_O_SUSPEND_SECCOMP, ptrace(2)): ENOSYS ends at once, for as long as the
 * tracer lives. */
#ifndef SQUALL_RESCUE_H
#define SQUALL_RESCUE_H

/* argv[0] is "rescue". Returns the exit status when all that was rescued has ended. */
int sq_rescue_main(int argc, char **argv);

#endif
