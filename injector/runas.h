/* Do something with exactly the rights of the asking peer: in a thread of its own whose credentials (raw set*id, never
 * glibc's, which would change every thread) are dropped for good. Root peers: no change. */
#ifndef SQUALL_RUNAS_H
#define SQUALL_RUNAS_H

#include "faults/fault.h"

/* Calls fn(arg) and returns what it returned; -errno when the credentials could not be taken on. Blocks. */
int sq_run_as(const struct sq_peer *peer, int (*fn)(void *arg), void *arg, struct sq_err *e);

#endif
