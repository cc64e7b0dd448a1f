/* Scenarios: a YAML file becomes one JSON object with its variables replaced, its defaults filled in and its values
 * normalized, as SCENARIO.md ("Normalized") says. Everybody else reads that object, none the file. */
#ifndef CONTROLLER_SCENARIO_SCENARIO_H
#define CONTROLLER_SCENARIO_SCENARIO_H

#include <jansson.h>

#include "scenario/diag.h"
#include "scenario/vars.h"
#include "squall/err.h"

/* Load and check the file D->file; VARS (may be NULL) is what --var gave. *normalized is a new reference. D must be
 * fresh from sq_diags_init(d, path) and gets all that was found, warnings too; 0 when it has no errors. */
int sq_scenario_check(const struct sq_vars *vars, json_t **normalized, struct sq_diags *d);
/* The same for LEN bytes of text; D->file is the name that messages use, and relative paths in the text are relative to
 * its folder. */
int sq_scenario_check_text(const char *text, size_t len, const struct sq_vars *vars, json_t **normalized,
                           struct sq_diags *d);

/* Instance I of a service of the normalized scenario, with its own ${instance} and ${port}: {"name": "checkout.0",
 * "service", "command", "cwd", "env", "restart", "port" (absent without one), "ready" (absent when it needs none)}. New
 * reference. */
int sq_scenario_instance(const json_t *normalized, const char *service, unsigned i, json_t **out, struct sq_err *e);

#endif
