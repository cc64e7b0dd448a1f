/* Private injectors: a squalld of our own for the length of a run, in a session of its own, registered under RUN like
 * any other, so that `squall halt` finds it. It ends when we say quit, and by itself when our lease or the whole
 * controller ends. */
#ifndef CONTROLLER_RUN_PRIVATE_H
#define CONTROLLER_RUN_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

#include "squall/err.h"

/* The squalld that belongs to this squall: $SQUALL_SQUALLD, else beside our own executable, else in ../sbin from it,
 * else on $PATH. -ENOENT. */
int sq_private_program(char *buf, size_t len, struct sq_err *e);

/* Run `squalld sweep`: take back what an earlier life left. Blocks, at most 10 s. *report (malloc'd, may be NULL) is
 * what it said. Returns 0 when nothing is left; -EBUSY (exit code 6) when something stays; other -errno when it could
 * not run. */
int sq_private_sweep(char **report, struct sq_err *e);

struct sq_private;

/* DONE: the socket answers (E NULL), or it does not and the child is gone (E says why; only sq_private_free is then
 * legal). */
typedef void sq_private_ready(void *arg, const struct sq_err *e);

/* Start one; what it says goes to LOG_FD (not taken over; -1: /dev/null). DONE comes from the loop, within 10 s. */
int sq_private_start(uv_loop_t *loop, int log_fd, sq_private_ready *done, void *arg, struct sq_private **out,
                     struct sq_err *e);
const char *sq_private_socket(const struct sq_private *p);
/* Called once, from the loop, when it exits before sq_private_end was called. */
void sq_private_on_exit(struct sq_private *p, void (*fn)(void *arg, int status, int sig), void *arg);
/* Its squalld is dead: have the keeper end the services now too, and not only when the lease ends. */
void sq_private_term(struct sq_private *p);
/* It has been told to quit, or died: wait (at most WITHIN_NS) until it and its keeper are gone (the lock of its
 * directory is free), then call DONE. LEFT: what is not gone, an array of strings, borrowed; empty when all is well. */
void sq_private_end(struct sq_private *p, int64_t within_ns, void (*done)(void *arg, const json_t *left), void *arg);
/* Forget it (it is not killed). The loop must run until the handles are closed. */
void sq_private_free(struct sq_private *p);

/* Every directory that may hold injectors: our own RUN and /run/squall; for root also /run/user/<uid>/squall and
 * /tmp/squall-<uid> of others. Calls FN with each injector's directory; stops when it returns non-zero and returns
 * that. */
int sq_private_each(int (*fn)(const char *dir, void *arg), void *arg, struct sq_err *e);
/* Is the lock of an injector's directory held, that is, does its squalld or its keeper live? A missing directory: no.
 * One that we may not look into: yes, when its socket is for us. */
bool sq_private_alive(const char *dir);

#endif
