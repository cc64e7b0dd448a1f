/* Connections that a caller had before its edge was armed: found by sock_diag(7) and /proc/PID/fd, counted, and (reset,
 * wait) ended. One that is meant is a TCP socket of the caller's processes, connected from there to a destination of
 * the edge, and not to our proxy. */
#ifndef SQUALL_INTERCEPT_EXISTING_H
#define SQUALL_INTERCEPT_EXISTING_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "intercept/rules.h"
#include "squall/clock.h"
#include "squall/err.h"
#include "squall/units.h"

#define SQ_EXISTING_WAIT_NS (10 * SQ_S) /* `existing: wait`: so long, then it is an error */

struct sq_intercept;
struct sq_edge;
struct sq_seqs; /* seqs.h */

/* How many connections these processes have to the destinations TO but EXCEPT (as an edge has them). */
int sq_existing_count(struct sq_intercept *ic, const json_t *to, const json_t *except, const pid_t *pid, size_t n,
                      int64_t *open, struct sq_err *e);

typedef void sq_existing_done(void *arg, json_t *answer, const struct sq_err *e);
/* An edge was declared: deal with its caller's connections as it says. Takes ANSWER, adds "existing": {"policy",
 * "found", "reset", "left"} for a caller that ran before, and gives it to DONE, at once or (wait) later. On error the
 * edge is dropped. */
void sq_existing_settle(struct sq_edge *edge, json_t *answer, sq_existing_done *done, void *arg);
/* Edges that wait are answered with an error. RUN NULL: all. */
void sq_existing_cancel(struct sq_intercept *ic, const char *run);

/* socks.c: one connection, as the kernel says it. */
struct sq_sock {
    uint32_t local[4], remote[4]; /* v4-mapped, network byte order */
    uint16_t lport, rport;        /* host byte order */
    uint8_t state;                /* enum in linux/tcp_states.h */
    uint32_t inode;
    pid_t pid; /* who has it, and by which descriptor; 0: nobody of those asked for */
    int fd;
};
/* Those of the processes PID whose remote end is one that WANTED says, in whichever network namespace; nobody's
 * accepted ones. *OUT is malloc'd. */
typedef bool sq_sock_wanted(const uint32_t remote[4], uint16_t port, void *arg);
int sq_socks_of(const pid_t *pid, size_t n, sq_sock_wanted *wanted, void *arg, struct sq_sock **out, size_t *n_out,
                struct sq_err *e);
/* A segment with RST, as from the other end, for exactly this connection; its process gets ECONNRESET. The other end is
 * told, too. -EAGAIN: it has not taken it; -ENOENT: the connection is gone already. */
int sq_sock_reset(struct sq_seqs *seqs, const struct sq_sock *s, struct sq_err *e);

#endif
