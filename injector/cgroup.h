/* cgroup2, found by its mount (hybrid layouts too: /sys/fs/cgroup/unified). Ours are <mount>/<own cgroup>/squall-<injector>/...:
 * the name is the mark by which a sweep knows them. */
#ifndef SQUALL_CGROUP_H
#define SQUALL_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "squall/err.h"

/* The directory under which we may make cgroups; -ENOENT/-EACCES with why when there is none. Cached. */
int sq_cgroup_root(char *buf, size_t len, struct sq_err *e);
int sq_cgroup_make(const char *injector, const char *run, const char *instance, char *path, size_t len, struct sq_err *e);
int sq_cgroup_enter(const char *path, pid_t pid, struct sq_err *e); /* pid 0: self */
/* Write cgroup.freeze and wait (at most 1 s) until cgroup.events agrees. */
int sq_cgroup_freeze(const char *path, bool on, struct sq_err *e);
int sq_cgroup_frozen(const char *path, bool *on, struct sq_err *e);
int sq_cgroup_kill(const char *path, struct sq_err *e); /* cgroup.kill, else signals until empty; thaws first */
bool sq_cgroup_empty(const char *path);
/* Remove it (and empty children); absent is success. Only below a directory named squall-*. */
int sq_cgroup_remove(const char *path, struct sq_err *e);

#endif
