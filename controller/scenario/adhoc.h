/* A scenario of one endpoint and one wait, for a load that no file describes. */
#ifndef CONTROLLER_SCENARIO_ADHOC_H
#define CONTROLLER_SCENARIO_ADHOC_H

#include <jansson.h>
#include <stdint.h>

#include "squall/err.h"

/* ENDPOINT: an endpoint of `load` as a person would write it in a scenario, HOSTS: what `hosts` takes; they are checked
 * by the same tables. NAME: a name of endpoints. STEP: what the wait of FOR_NS is called. THRESHOLDS (strings, may be
 * empty) become a check `slo` over it with CONFIDENCE percent. *doc: the normalized scenario; *warnings: an array of
 * strings; new references. */
int sq_scenario_adhoc(const json_t *endpoint, const json_t *hosts, const char *name, const char *step, int64_t for_ns,
                      const json_t *thresholds, double confidence, json_t **doc, json_t **warnings, struct sq_err *e);

#endif
