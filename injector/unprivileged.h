/* What a process of ours does first that reads hostile bytes: the proxy, the packet process. */
#ifndef SQUALL_UNPRIVILEGED_H
#define SQUALL_UNPRIVILEGED_H

/* What is left can do nothing but use the descriptors it was given: no capability, not even to be gained by exec,
 * nobody instead of root, not to be traced; and the OOM killer's exception for squalld is not for it: an orphan would
 * be the wrong one to survive. 0 or -errno, after which the process must end. */
int sq_unprivileged(void);

/* Only the OOM killer's exception. Async-signal-safe. */
void sq_plain_oom(void);

/* After a fork: all signals at their defaults, none blocked. Async-signal-safe. */
void sq_plain_signals(void);

#endif
