/* What one run measured, as plain numbers to compare with other runs. Pure. */
#ifndef SQUALL_VERIFY_VALUES_H
#define SQUALL_VERIFY_VALUES_H

#include <jansson.h>

#include "verify/evidence.h"

/* The numbers of a run over WINDOW: "steady" (the steady-state phase), "load" (all of it) or a step's id; NULL: steady
 * if the run had one, else load. *out (new reference), as in `history` records (EVIDENCE.md):
 *   {"id","start","window","values":{"cart":{"p50":ns,"p95","p99","p99.9","mean","throughput":answers/s,"n":requests}}}
 * An endpoint whose probe missed its own schedule, or that has no answers there, is left out and named in "left_out"
 * ({"cart":"why"}). -EINVAL when the run has no such window. */
int sq_run_values(const struct sq_evidence *ev, const char *window, json_t **out, struct sq_err *e);

/* The canonical name of a metric as people write it ("p99", "latency_p99", "throughput_min"); NULL: there is none. */
const char *sq_metric_name(const char *text);
/* More is better (throughput). */
bool sq_metric_more(const char *metric);
/* "212 ms", "980/s". */
char *sq_metric_text(const char *metric, double value, char *buf, size_t len);

#endif
