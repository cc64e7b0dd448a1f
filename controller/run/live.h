/* What the calls on each edge look like right now, for people who watch a run. Only for the eye: checks judge from the
 * evidence (verify/breaker.h). Times are milliseconds since the run began. */
#ifndef CONTROLLER_RUN_LIVE_H
#define CONTROLLER_RUN_LIVE_H

#include <stdint.h>

struct sq_live;

enum sq_live_state {
    SQ_LIVE_UNKNOWN,   /* no steady rate is known yet, or it is too low to tell */
    SQ_LIVE_CLOSED,    /* calls flow */
    SQ_LIVE_OPEN,      /* they stopped, though at the steady rate many were due */
    SQ_LIVE_HALF_OPEN, /* a few came after a silence */
};

struct sq_live *sq_live_new(void);
void sq_live_free(struct sq_live *l);
/* One call of one caller instance, by its start. Bounded: series beyond 256 are not followed. */
void sq_live_call(struct sq_live *l, const char *edge, const char *instance, int64_t t_ms);
/* The steady state was [from, to): rates from now on are compared with what they were then. */
void sq_live_steady(struct sq_live *l, int64_t from_ms, int64_t to_ms);
/* The worst state of the edge's callers (half-open over open over closed), and its calls/s over the last 2 s. */
enum sq_live_state sq_live_look(struct sq_live *l, const char *edge, int64_t now_ms, double *rate);

#endif
