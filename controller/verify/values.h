/* What one run measured, as plain numbers to compare with other runs. Pure. */
#ifndef SQUALL_VERIFY_VALUES_H
#define SQUALL_VERIFY_VALUES_H

#include <jansson.h>

#include "verify/evidence.h"

/* The window that NAME means (see below); *used: its name. */
int sq_values_window(const struct sq_evidence *ev, const char *name, struct sq_window *win, const char **used,
                     struct sq_err *e);

/* The numbers of a run over WINDOW: "steady" (the steady-state phase), "load" (all of it) or a step's id; NULL: steady
 * if the run had one, else load. *out (new reference), as in `history` records (EVIDENCE.md):
 *   {"id","start","window","values":{"cart":{"p50":ns,"p95","p99","p99.9","mean","throughput":answers/s,"n":requests}}}
 * An endpoint whose probe missed its own schedule, or that has no answers there, is left out and named in "left_out"
 * ({"cart":"why"}). -EINVAL when the run has no such window. */
int sq_run_values(const struct sq_evidence *ev, const char *window, json_t **out, struct sq_err *e);

/* One endpoint over the seconds [first, end): an object as in "values" above, new reference; NULL: no answers there. H
 * is the caller's, for use in between. */
int sq_endpoint_values(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
                       struct sq_hist *h, json_t **out, struct sq_err *e);

/* The canonical name of a metric as people write it ("p99", "latency_p99", "throughput_min"); NULL: there is none. */
const char *sq_metric_name(const char *text);
/* More is better (throughput). */
bool sq_metric_more(const char *metric);
/* What a run (one of "runs" above) has of a metric: > 0, however little; 0: it has none. */
double sq_metric_of(const json_t *run, const char *endpoint, const char *metric);
/* "212 ms", "980/s". */
char *sq_metric_text(const char *metric, double value, char *buf, size_t len);

#endif
