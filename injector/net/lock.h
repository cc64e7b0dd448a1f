/* One network namespace's configuration is changed by one Squall at a time. */
#ifndef SQUALL_NET_LOCK_H
#define SQUALL_NET_LOCK_H

#include "squall/err.h"

/* Locks the namespace of the calling thread. A descriptor to close, or -errno: -EBUSY (SQ_C_CONFLICT) when another one
 * holds it for longer than MOST_MS. The lock is a byte of a file that only our uid may open (/run/squall-netns.lock;
 * in the run directory where /run is not ours), so nobody else can keep a fault from beginning. Squalls of several
 * uids, or with several /run, don't wait for one another: there the kernel's refusal of what exists already decides. */
int sq_net_lock(int most_ms, struct sq_err *e);

#endif
