/* What reports draw and tabulate, by second or by step. */
#ifndef SQUALL_REPORT_SERIES_H
#define SQUALL_REPORT_SERIES_H

#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"
#include "verify/evidence.h"

struct sq_point { /* one second of the probe, all endpoints or one */
    int64_t sec;
    uint64_t n, bad;
    double p50, p95, p99; /* ms; NaN when nothing finished */
};
/* One point for each second of the load; *out is malloc'd. ep NULL: all endpoints. */
int sq_points(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, struct sq_point **out, size_t *n,
              struct sq_err *e);

struct sq_rates { /* one second of an edge, all its callers */
    unsigned answered, failed, gave_up, broken;
};
/* As many as the load has seconds, from its first; *out is malloc'd. */
int sq_edge_rates(const struct sq_evidence *ev, const char *edge, struct sq_rates **out, size_t *n, struct sq_err *e);
/* The next edge's name after the one at series index *i; NULL at the end. */
const char *sq_next_edge(const struct sq_evidence *ev, size_t *i);

#define SQ_PHASE_ENDPOINTS 20
struct sq_phase_row { /* what users felt in one stretch of the run */
    const char *name;
    const char *endpoint; /* NULL: of all */
    struct sq_window win;
    uint64_t n, bad;
    double p50, p95, p99, error_rate; /* ms, percent; NaN when nothing finished */
};
/* Steady state, then each step that ran; behind each, where there are several endpoints (and at most
 * SQ_PHASE_ENDPOINTS), their own. */
int sq_phase_rows(const struct sq_evidence *ev, struct sq_phase_row **out, size_t *n, struct sq_err *e);

/* "pass", "fail", "inconclusive", "aborted", ... of a verdict or check. */
const char *sq_verdict_of(const json_t *v);
/* A one-line text for what a fault did to whom: "kill payments.0 (pid 12)". buf is filled, bounded. */
const char *sq_fault_line(const struct sq_ev_fault *f, char *buf, size_t len);

#endif
