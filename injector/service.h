/* Services: processes that a run starts, each instance in a session and (root with cgroup2) a cgroup of its own,
 * entered before exec. A started instance is a loan like a fault: its undo record (kill its tree, remove its cgroup) is
 * journaled before the fork, and the same sq_service_revert is run by squalld, the keeper and a sweep. The tree of an
 * instance is its cgroup; without one, all processes of its session and those that carry
 * SQUALL_INSTANCE=<run>/<instance>@<injector> in their environment (and the children of any of them).
 *
 * An instance lives as long as its first process (a service must not put itself in the background): what is left of its
 * tree then is killed. Its environment is the request's `env` over PATH, HOME, USER, LOGNAME, SHELL and LANG of the
 * peer's; ${instance} and ${port} are replaced in command, env and cwd. Standard input is /dev/null, its output goes
 * through a pipe to RUN/<injector>/logs/<run>.<instance>.log (the first 1 MiB; gone with the instance), the last ten
 * lines into the event "exited" (`tail`). */
#ifndef SQUALL_SERVICE_H
#define SQUALL_SERVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "faults/fault.h"
#include "squall/err.h"

struct sq_services;

int sq_services_new(struct sq_engine *eng, struct sq_services **out, struct sq_err *e);
/* All instances of all runs must have been ended before. done() when the handles are closed. */
void sq_services_free(struct sq_services *s, void (*done)(void *arg), void *arg);

/* Start the instances of a service (API.md). The answer is complete when all have been exec'd (or one failed: then none
 * is left). Asynchronous: done() is called once, on the loop; the callee owns ANSWER (NULL on error). */
typedef void sq_service_done(void *arg, json_t *answer, const struct sq_err *e);
void sq_service_start(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def,
                      sq_service_done *done, void *arg);
/* `exec`: a place where a launcher of the caller's own may report ({"token","socket"}). */
int sq_service_exec(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def,
                    json_t **answer, struct sq_err *e);
/* A probe that sends from here (API.md), with the rights of PEER, root's as nobody. ORDER is the agent's (run/agent.h
 * of the controller), and passed on as it is. */
void sq_service_probe(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *order,
                      sq_service_done *done, void *arg);
/* It plans no more; NOW: nor does it wait long for answers. */
int sq_service_probe_stop(struct sq_services *s, const char *run_id, bool now, struct sq_err *e);
json_t *sq_service_list(struct sq_services *s, const char *run_id);
/* End one service (name) or all of the run (NULL): TERM, `grace_ns`, KILL. done() gets {"clean","left"}. */
void sq_service_stop(struct sq_services *s, const char *run_id, const char *name, int64_t grace_ns,
                     sq_service_done *done, void *arg);
/* A fault on this instance begins or ends: `restart: after_fault` waits for the end. */
void sq_service_fault(struct sq_services *s, const char *run_id, const char *instance, bool on);

/* Instances of a service of a run, for targets: calls fn(instance name, pid, start, cgroup path or NULL). */
int sq_service_each(struct sq_services *s, const char *run_id, const char *service,
                    int (*fn)(const char *instance, pid_t pid, uint64_t start, const char *cgroup, void *arg),
                    void *arg);

/* Undo records of kind "service". ENG NULL in keeper and sweep: then it blocks until the tree is gone (at most 2 s). */
int sq_service_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
int sq_service_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e);

/* `squalld launch`: becomes the service. Never returns. */
int sq_launch_main(int argc, char **argv);

#endif
