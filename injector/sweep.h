/* Sweeping: taking back what an earlier life left. An injector's directory whose lock nobody holds belongs to no living
 * process: its journal is undone, its cgroups are removed, then the directory. Others' directories are left alone. */
#ifndef SQUALL_SWEEP_H
#define SQUALL_SWEEP_H

#include "squall/err.h"

/* Sweep every dead injector below RUN_DIR (NULL: ours). Says on LOG (may be NULL) what it took back. 0: nothing is
 * left; -EBUSY: something stays, E says what. */
int sq_sweep_log(const char *run_dir, void (*log)(void *arg, const char *line), void *arg, struct sq_err *e);

/* Remove an injector's directory with all that is in it, the lock last. The caller holds the lock. */
int sq_sweep_remove(const char *dir, struct sq_err *e);
/* Remove the cgroups of injector ID, all of whose records have been undone. Waits at most 0.5 s. 0: there are none any
 * more; -EBUSY: somebody is still in one. */
int sq_sweep_cgroups(const char *id, struct sq_err *e);
/* Remove only its sockets, so that nobody tries to talk to it. */
void sq_sweep_sockets(const char *dir);

/* Take RUN/<id>/lock: the descriptor (close-on-exec), -EWOULDBLOCK: somebody lives there, -ENOENT, other -errno. */
int sq_sweep_lock(const char *dir, struct sq_err *e);

#endif
