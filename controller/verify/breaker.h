/* What a circuit breaker looks like from outside: when a caller's calls stopped and came back. Used by the check
 * circuit_breaker and by the band of breaker states in reports.
 *
 * Silence is a pause of 200 ms or more between two calls in which at least SQ_SILENCE calls were to be expected: from
 * the instance's own rate in steady state, in proportion to the load that the probe sends. A pause in which the caller
 * could not call, because all its calls under way were stuck, is none: such a caller calls again as soon as one of them
 * ends. */
#ifndef SQUALL_VERIFY_BREAKER_H
#define SQUALL_VERIFY_BREAKER_H

#include "verify/evidence.h"
#include "verify/result.h"

enum sq_breaker_state { SQ_BREAKER_CLOSED, SQ_BREAKER_OPEN, SQ_BREAKER_HALF_OPEN, SQ_BREAKER_UNKNOWN };

struct sq_breaker_span {
    struct sq_window win;
    enum sq_breaker_state state;
};

/* The states of one series over the whole load, in order and without holes. UNKNOWN alone when there are too few calls
 * in steady state to tell silence from chance. *out is malloc'd. */
int sq_breaker_spans(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker_span **out,
                     size_t *n, struct sq_err *e);
const char *sq_breaker_state_name(enum sq_breaker_state s); /* "closed", "open", "half-open", "unknown" */

/* A call as far as a breaker is concerned. Repetitions of a call (a trace id seen before) are left out when one request
 * makes one call in steady state: they passed the breaker with the first one. */
struct sq_breaker_call {
    int64_t from_ns, to_ns;
    bool harmed; /* it was hit by a fault, did not get its answer, or got an error of the server */
};

struct sq_silence {
    size_t before;   /* index of the last call before it; SIZE_MAX: it begins with the load */
    int64_t from_ns; /* start of that call */
    int64_t to_ns;   /* start of the next call; the load's end when there is none: */
    bool open_ended;
};

struct sq_breaker {
    struct sq_breaker_call *calls; /* by time */
    size_t n;
    struct sq_breaker_call *busy; /* the same with the repetitions: what keeps the caller busy */
    size_t n_busy;
    int64_t *unused; /* when connections began that nothing was sent on */
    size_t n_unused;
    double unused_rate; /* of them in steady state, per second: health checks, that come whatever the caller does */
    double
        others; /* the same with requests without a trace id where the rest have one; 0: so few that they are chance */
    struct sq_silence *silences; /* by time */
    size_t n_silences;
    uint64_t steady_calls; /* in the steady state */
    double rate;           /* of the steady state, per second; 0: no steady state or no call */
    int64_t end_ns;        /* the load's end */
    /* calls to be expected from the load's first second to the begin of second i, in units of `rate` */
    double *cum;
    int64_t first_sec;
    size_t n_secs;
};

/* Whatever one series says about its breaker. Owner: the caller, sq_breaker_free. */
int sq_breaker_new(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker **out,
                   struct sq_err *e);
/* The same without whatever may have been something else's: of connects and requests that could be health checks, which
 * a fault hits like any call, as many as came in steady state. The caller made no fewer calls than these. */
int sq_breaker_least(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker **out,
                     struct sq_err *e);
void sq_breaker_free(struct sq_breaker *b);
/* Calls to be expected in a window, had nothing changed since the steady state. */
double sq_breaker_expected(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns);
/* Calls that began in [from, to) and were harmed; all that did, with the repetitions. */
uint64_t sq_breaker_harmed(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns);
uint64_t sq_breaker_made(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns);
/* The first silence of a second or more that began in steady state and was over before the fault: the rate there is
 * none to compare with. NULL: none. */
const struct sq_silence *sq_breaker_silent_base(const struct sq_evidence *ev, const struct sq_breaker *b,
                                                int64_t fault_ns);
/* A result on EDGE that failed for more calls than in steady state is undecided when one of its callers was silent
 * there, as a JVM that warms up. */
int sq_breaker_doubt_base(const struct sq_evidence *ev, const char *edge, int64_t fault_ns, struct sq_result *r,
                          struct sq_err *e);
/* A limit of calls under way that has shrunk to one is silent for as long as a call takes; a breaker is silent for
 * longer, for it opens when that call has failed. How many silences within WIN ended with the call before; 0: not
 * nearly all of them did, or so few that it may be an accident. */
uint64_t sq_breaker_one_at_a_time(const struct sq_breaker *b, struct sq_window win);
/* Index of the first call at or after T; b->n when there is none. */
size_t sq_breaker_at(const struct sq_breaker *b, int64_t t_ns);

#endif
