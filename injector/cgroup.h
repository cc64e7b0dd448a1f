/* cgroup2, found by its mount (hybrid layouts too: /sys/fs/cgroup/unified). Ours are
 * <mount>/<own cgroup>/squall-<injector>/<run>/<instance>: the name is the mark by which a sweep knows them.
 * See cgroups(7) and Documentation/admin-guide/cgroup-v2.rst. */
#ifndef SQUALL_CGROUP_H
#define SQUALL_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

#define SQ_CGROUP_MAX 512 /* longest path of a cgroup's directory that we make or record */

/* The directory under which we may make cgroups; -ENOENT/-EACCES with why when there is none. */
int sq_cgroup_root(char *buf, size_t len, struct sq_err *e);
/* The cgroups of INJECTOR are the caller's for as long as the descriptor that it gets (or a fork's) is open.
 * SQ_C_CONFLICT, -EBUSY: they are another one's, which lives; else -errno as sq_cgroup_root: there are none for us. */
int sq_cgroup_claim(const char *injector, struct sq_err *e);
/* Where sq_cgroup_make would make it; touches nothing, so that the path can be journaled first. */
int sq_cgroup_path(const char *injector, const char *run, const char *instance, char *path, size_t len,
                   struct sq_err *e);
int sq_cgroup_make(const char *injector, const char *run, const char *instance, char *path, size_t len,
                   struct sq_err *e);
/* The cgroup2 directory that PID (0: self) is in, as we can reach it. */
int sq_cgroup_of(pid_t pid, char *buf, size_t len, struct sq_err *e);
/* The directory of a cgroup named as /proc/PID/cgroup does ("/system.slice/x"), or by its directory itself. -ENOENT,
 * SQ_C_NOTFOUND. */
int sq_cgroup_find(const char *name, char *buf, size_t len, struct sq_err *e);
/* What BPF's cgroup helpers know it by: its id, and how deep it is below the root (1..). The root itself, which is
 * everybody, is -EINVAL. */
int sq_cgroup_id(const char *path, uint64_t *id, uint32_t *level, struct sq_err *e);
/* Is PID in the cgroup PATH or below it? */
bool sq_cgroup_has(const char *path, pid_t pid);
int sq_cgroup_enter(const char *path, pid_t pid, struct sq_err *e); /* pid 0: self */
/* Call fn for each process in PATH and below (no zombies); stop when it returns non-zero and return that. */
int sq_cgroup_each(const char *path, int (*fn)(pid_t pid, void *arg), void *arg);
/* Write cgroup.freeze and wait (at most 1 s) until cgroup.events agrees. */
int sq_cgroup_freeze(const char *path, bool on, struct sq_err *e);
int sq_cgroup_frozen(const char *path, bool *on, struct sq_err *e);
/* cgroup.kill, else signals until empty; thaws first. The processes may need a moment to be gone: sq_cgroup_empty. */
int sq_cgroup_kill(const char *path, struct sq_err *e);
bool sq_cgroup_empty(const char *path); /* no live process in it or below; absent is empty */
/* Remove it (and empty children, and the run's and injector's directory when they are empty then); absent is success.
 * Only below a directory named squall-*. -EBUSY: processes are left in it. */
int sq_cgroup_remove(const char *path, struct sq_err *e);

#endif
