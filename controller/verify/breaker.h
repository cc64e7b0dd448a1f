/* What a circuit breaker looks like from outside: when a caller's calls stopped and came back. Used by the check
 * circuit_breaker and by the band of breaker states in reports. */
#ifndef SQUALL_VERIFY_BREAKER_H
#define SQUALL_VERIFY_BREAKER_H

#include "verify/evidence.h"

enum sq_breaker_state { SQ_BREAKER_CLOSED, SQ_BREAKER_OPEN, SQ_BREAKER_HALF_OPEN, SQ_BREAKER_UNKNOWN };

struct sq_breaker_span {
    struct sq_window win;
    enum sq_breaker_state state;
};

/* The states of one series over the whole load, in order and without holes. UNKNOWN alone when there are too few calls in
 * steady state to tell silence from chance. *out is malloc'd. */
int sq_breaker_spans(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker_span **out, size_t *n,
                     struct sq_err *e);
const char *sq_breaker_state_name(enum sq_breaker_state s); /* "closed", "open", "half-open", "unknown" */

#endif
