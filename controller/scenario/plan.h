/* What a scenario would do, step by step: a pure function of the normalized scenario. */
#ifndef CONTROLLER_SCENARIO_PLAN_H
#define CONTROLLER_SCENARIO_PLAN_H

#include <jansson.h>
#include <stddef.h>

#include "squall/err.h"
#include "squall/spec.h"

/* New reference:
 * {"name", "hypothesis",
 *  "services": [{"name": "payments.0", "service", "command": [...], "cwd", "port", "ready", "restart"}],   started
 *  "selected": [{"service", "select": {...}}],                                                             found
 *  "timeline": [{"at": ns, "for": ns, "what": "steady_state" | "fault" | "settle" | "wait", "step", "name", "uses",
 * "target", "with"}], "faults": ["call/latency", ...],    each kind once
 *  "total": ns, "load": {...}, "hosts": {...}}             what is sent, and from where, as in the scenario
 * Times count from when all services are ready; NULL with E: no memory. */
json_t *sq_plan_make(const json_t *normalized, struct sq_err *e);

/* Normalized values as people write them, "delay 2 s, jitter 200 ms", by their schema. Writes at most len bytes,
 * returns buf. */
char *sq_plan_values(const struct sq_param *params, const json_t *values, char *buf, size_t len);

#endif
