/* A check is a pure function from evidence to verdicts: no I/O, no clock. One file, verify/<name>.c, which defines
 * `const struct sq_check sq_check_<name>`, and one line in checks.def.
 *
 * PARAMS of run() is the entry of `verify` in the scenario, normalized: by sq_spec_normalize with `params` (durations
 * are integer ns, percentages 0..100), nested mappings with `maps`, and `thresholds` as the objects of EVIDENCE.md.
 * Members it does not know ("check") are ignored. */
#ifndef SQUALL_VERIFY_CHECK_H
#define SQUALL_VERIFY_CHECK_H

#include <jansson.h>
#include <stddef.h>

#include "squall/err.h"
#include "squall/spec.h"
#include "verify/evidence.h"

/* The schema of a parameter of type SQ_P_MAP. */
struct sq_check_map {
    const char *key; /* NULL ends the list */
    const struct sq_param *params;
};

struct sq_check {
    const char *name;              /* as written in the scenario */
    const char *doc;               /* one sentence: what it proves */
    const struct sq_param *params; /* ends with SQ_PARAM_END; "check" itself is not among them */
    /* Append one verdict object or more to RESULTS (EVIDENCE.md, verdict.json; "check" is filled in by the caller). An
     * error only for what is no verdict: no memory, parameters that break the contract. */
    int (*run)(const struct sq_evidence *ev, const json_t *params, json_t *results, struct sq_err *e);
    const struct sq_check_map *maps; /* NULL: none */
};

const struct sq_check *sq_check_find(const char *name); /* NULL: no such check */
size_t sq_checks(const struct sq_check *const **out);

/* Parameters that name things of the scenario, by the name of the parameter: "step" (a step's id, or "*"), "after" (a
 * step's id), "edge", "endpoint". The scenario's reader resolves them and reports misspelt ones. */

#endif
