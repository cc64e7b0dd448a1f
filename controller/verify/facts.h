/* Facts that several checks ask of the evidence: what an edge carried, what the load was, what the steady state looked
 * like. All are pure; windows are half-open, in nanoseconds since the run began. */
#ifndef SQUALL_VERIFY_FACTS_H
#define SQUALL_VERIFY_FACTS_H

#include "verify/result.h"

/* Calls that start in WIN on EDGE, all callers together; whole connections count only where nothing else is to be seen
 * on the edge. harmed: hit by a fault, without their answer, or answered by an error of the server. */
struct sq_edge_calls {
    uint64_t n, harmed;
    uint64_t instances; /* callers that made one */
};
void sq_edge_calls(const struct sq_evidence *ev, const char *edge, struct sq_window win, struct sq_edge_calls *out);
bool sq_call_harmed(const struct sq_ev_call *c);
/* protocol: udp or dns. Whoever no longer waits for a datagram's answer tells nobody: no such call is ever given up. */
bool sq_edge_has_datagrams(const struct sq_evidence *ev, const char *edge);

/* The whole seconds [*first, *end) of the steady state in which there was load. False: none. */
bool sq_steady_secs(const struct sq_evidence *ev, int64_t *first, int64_t *end);
/* Requests that the probe asked for in the seconds [first, end): sent or decided, whichever is more. */
uint64_t sq_demand(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end);
/* The load of the seconds [first, end) in seconds of the steady state's load: how many of them it is worth. Without a
 * probe time itself. 0: no steady state. */
double sq_load_worth(const struct sq_evidence *ev, int64_t first, int64_t end);

/* A control step: its fault had `dose: 0`, the whole machinery without effect. */
bool sq_step_is_control(const struct sq_ev_step *s);
/* A closed loop sends nothing while the server stalls: what it measured can't speak for users, who come anyway. */
bool sq_closed_loop(const struct sq_evidence *ev, const char *endpoint);
#define SQ_CLOSED_LOOP                                                                                                 \
    "a closed loop (constant-connections) waits with the server and cannot see its stalls: an arrival rate can "       \
    "decide "                                                                                                          \
    "this"
/* Why the probe's record of these endpoints can't be believed; NULL: it can. */
const char *sq_endpoints_void(const struct sq_ev_endpoint *const *eps, size_t n);
/* A caller on EDGE that ended in WIN and was not started again: it calls no more, for whatever reason. NULL: none. That
 * services are stopped as the load ends is no such end. */
const char *sq_caller_gone(const struct sq_evidence *ev, const char *edge, struct sq_window win);
/* One inconclusive verdict that says why. */
int sq_undecided(json_t *results, const struct sq_ev_step *s, const char *subject, const char *limit, struct sq_err *e,
                 const char *fmt, ...) SQ_PRINTF(6, 7);
/* The same for a step that did not run. */
int sq_undecided_step(json_t *results, const struct sq_ev_step *s, const char *subject, const char *limit,
                      struct sq_err *e);

#endif
