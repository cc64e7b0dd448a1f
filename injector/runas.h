/* Do something with exactly the rights of the asking peer: in a thread of its own whose credentials (raw set*id, never
 * glibc's, which would change every thread) are dropped for good. Root peers: no change. */
#ifndef SQUALL_RUNAS_H
#define SQUALL_RUNAS_H

#include <stddef.h>

#include "faults/fault.h"

/* Calls fn(arg) and returns what it returned; -errno when the credentials could not be taken on. Blocks. Makes the
 * process non-dumpable for good (so that the peer cannot ptrace the thread while it has the peer's uid). */
int sq_run_as(const struct sq_peer *peer, int (*fn)(void *arg), void *arg, struct sq_err *e);

#define SQ_GROUPS_MAX 1024
/* The peer's groups: those of its passwd entry and its own gid; just the gid for a uid without an entry. Returns how
 * many (>= 1) were written to groups[SQ_GROUPS_MAX]. */
size_t sq_peer_groups(const struct sq_peer *peer, gid_t *groups);

#endif
