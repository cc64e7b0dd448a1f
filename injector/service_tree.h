/* The tree of a launched instance, from its undo record alone (squalld, keeper and sweep use the same code): its
 * cgroup; without one, its session, whatever carries its mark SQUALL_INSTANCE=<run>/<instance>@<injector>, and all
 * children of these. A process is only ever touched through a pidfd opened for its pid and start time. Without a
 * cgroup, a process that leaves its session, clears its environment and loses its parent is lost to us. */
#ifndef SQUALL_SERVICE_TREE_H
#define SQUALL_SERVICE_TREE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "squall/err.h"

#define SQ_MARK_NAME "SQUALL_INSTANCE"
#define SQ_MARK_MAX 256

struct sq_tree {
    char cgroup[SQ_CGROUP_MAX]; /* "" : none */
    char mark[SQ_MARK_MAX];
    pid_t pid; /* 0: not forked yet */
    uint64_t start;
    pid_t sid; /* 0: no session of its own */
};

struct sq_member {
    pid_t pid;
    uint64_t start;
    char state;
    char comm[17];
};

/* Fill from an undo record; -EINVAL when it is not one. */
int sq_tree_of(const json_t *undo, struct sq_tree *t, struct sq_err *e);
/* Its live processes (no zombies), malloc'd. */
int sq_tree_list(const struct sq_tree *t, struct sq_member **out, size_t *n, struct sq_err *e);
/* Signal all of it, each by its own pidfd. Returns how many got it. */
int sq_tree_signal(const struct sq_tree *t, int sig);
/* Thaw it and kill all of it, once. Returns how many were alive (the cgroup's count as 1). */
int sq_tree_kill(const struct sq_tree *t);
bool sq_tree_empty(const struct sq_tree *t);

#endif
