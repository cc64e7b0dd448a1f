/* SLOs during a run: asks the Prometheus of those that have one (records of type `metric`, EVIDENCE.md), and watches
 * the burn rates that safety.abort_when names. */
#ifndef CONTROLLER_RUN_SLO_H
#define CONTROLLER_RUN_SLO_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "squall/err.h"

struct sq_slos;
/* A record of TYPE "metric"; REC is taken over. From the loop. */
typedef void sq_slos_put(void *arg, const char *type, json_t *rec);

/* SPEC: the normalized scenario's, borrowed as long as *out lives. *out is NULL when there is nothing to do. T 0 of the
 * run is START_NS (CLOCK_MONOTONIC). */
int sq_slos_new(uv_loop_t *loop, const json_t *spec, int64_t start_ns, sq_slos_put *put, void *arg,
                struct sq_slos **out, struct sq_err *e);
/* From now on the indicators are asked for: at once, and then every so often. NULL is fine, here and below. */
void sq_slos_start(struct sq_slos *s);
/* A `sample` record that the probe gave out. */
void sq_slos_sample(struct sq_slos *s, const json_t *sample);
/* Does a budget burn faster than abort_when allows? WHY says which. */
bool sq_slos_due(struct sq_slos *s, char *why, size_t len);
/* Nothing more is put. Freed once the loop has closed its handles. */
void sq_slos_close(struct sq_slos *s);

#endif
