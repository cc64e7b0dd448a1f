/* Callers that ran before the run: {"name": "shop", "select": {"pid"|"pattern"|"port"|"unit"|"cgroup"|"container":
 * ...}}.
 *
 * Processes (pid, pattern, port): each that matches is an instance, "shop.0" the one with the lowest number, with what
 * it has forked and will fork, unless that matched itself. The hooks are on the root of the cgroup2 tree, for a socket
 * stays in the cgroup that it was made in, and look each process up; one that ends is told, a new one that would match
 * is not taken. A cgroup (unit, cgroup, container) is one instance, whoever is in it and whenever; when it is made
 * again under the same name it is taken again.
 *
 * Where cgroup-BPF is missing: nft.h.
 *
 * With "attach": "seccomp" processes get a filter by injection (attach_seccomp.h), which stays for as long as they
 * live.
 *
 * Never a caller: squalld, its keeper, its proxy, what they start, squall. The proxy holds the links. */
#ifndef SQUALL_INTERCEPT_RUNNING_H
#define SQUALL_INTERCEPT_RUNNING_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "faults/fault.h"
#include "intercept/priv.h"
#include "squall/err.h"

#define SQ_RUNNING_MOST 64 /* instances of one service */

/* Which ways work here. 0, or -errno and why + hint. */
int sq_running_check(struct sq_err *e);           /* cgroups */
int sq_running_check_processes(struct sq_err *e); /* processes, too */

/* DEF as POST /v1/runs/R/services takes it. The hooks are there when it returns, and pass everything by until an edge
 * says otherwise. Only for root: what a process sends is not less private than its memory. */
int sq_running_attach(struct sq_intercept *ic, struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer,
                      const json_t *def, json_t **answer, struct sq_err *e);
/* Who would be taken, and ({"to": [...]}) how many connections they have there now. Touches nothing. */
int sq_running_plan(struct sq_intercept *ic, struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer,
                    const json_t *def, json_t **answer, struct sq_err *e);
/* An edge was declared: hooks that none needed before. */
int sq_running_edge(struct sq_edge *edge, struct sq_err *e);
/* Is it there, and taken by seccomp ("attach": "seccomp")? */
bool sq_running_by_nft(struct sq_intercept *ic, const char *run, const char *service);
bool sq_running_by_seccomp(struct sq_intercept *ic, const char *run, const char *service);
/* May its edges have datagrams? Not by nftables, nor when it was attached to by seccomp without them. */
bool sq_running_datagrams(struct sq_intercept *ic, const char *run, const char *service);
struct sq_running *sq_running_find(struct sq_intercept *ic, const char *run, const char *service);
void sq_running_list(struct sq_intercept *ic, const char *run, json_t *instances); /* appended, as GET services says */
/* -ENOENT: there is none of this name. */
int sq_running_detach(struct sq_intercept *ic, const char *run, const char *service);
void sq_running_drop_run(struct sq_intercept *ic, const char *run); /* NULL: of all */
/* Once a second. */
void sq_running_tick(struct sq_intercept *ic);
/* The processes that are meant now. malloc'd. */
int sq_running_processes(const struct sq_running *r, pid_t **out, size_t *n, struct sq_err *e);

#endif
