/* Which processes a target names. Resolution touches nothing; zero matches is -ESRCH, class SQ_C_NOTFOUND. Squall's own
 * processes, pid 1, kernel threads and the asking peer's ancestors are never matched by a pattern. */
#ifndef SQUALL_TARGET_H
#define SQUALL_TARGET_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "faults/fault.h"

struct sq_victim {
    pid_t pid;
    uint64_t start;
    int pidfd;         /* owned */
    char instance[80]; /* "payments.0", or "" */
    char cgroup[512];  /* the instance's own cgroup directory, or "" */
    char cmd[256];
};

/* f->target normalized; the seeded choice of `count` among the matches is recorded in f->hit (all matches there have
 * "chosen": true or false). The array is malloc'd; free with sq_victims_free. */
int sq_target_resolve(struct sq_fault *f, struct sq_victim **out, size_t *n, struct sq_err *e);
/* Can processes be pinned here (pidfds)? The `check` of every kind that acts on processes. */
int sq_target_check(struct sq_engine *eng, struct sq_err *e);
/* Is F a control (dose 0: everything is done but the harm)? A process can't be hit by half: any other dose than 0 and
 * 100 is -EINVAL. */
int sq_target_dose(const struct sq_fault *f, bool *control, struct sq_err *e);
/* Is P squalld (whose /proc/self/exe is SELF), its keeper, its proxy, a launcher that has not become its command yet,
 * or squall? Never a target. */
struct sq_proc;
struct stat;
bool sq_target_is_squall(const struct sq_proc *p, const struct stat *self);
void sq_victims_free(struct sq_victim *v, size_t n);

#endif
