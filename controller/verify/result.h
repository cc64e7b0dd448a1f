/* What checks share: verdict objects, steps named by a parameter, parameters with their defaults. */
#ifndef SQUALL_VERIFY_RESULT_H
#define SQUALL_VERIFY_RESULT_H

#include "verify/check.h"

enum sq_outcome { SQ_V_PASS, SQ_V_FAIL, SQ_V_INCONCLUSIVE };

struct sq_result {
    enum sq_outcome verdict;
    const char *step, *subject; /* "" when it is about none */
    char observed[256], limit[256], interval[128], why[640];
    uint64_t n;
    struct sq_window win; /* empty: left out */
};

/* Start one about STEP (NULL: none) with its window; subject "" when NULL. */
void sq_result_init(struct sq_result *r, const struct sq_ev_step *step, const char *subject);
/* Set verdict and why. Returns r, for sq_result_add(results, sq_result_set(&r, ...), e). */
struct sq_result *sq_result_set(struct sq_result *r, enum sq_outcome v, const char *fmt, ...) SQ_PRINTF(3, 4);
/* Append it to RESULTS as in EVIDENCE.md. */
int sq_result_add(json_t *results, const struct sq_result *r, struct sq_err *e);
/* A JSON string of what snprintf made, without a character that was cut in half. NULL: no memory. */
json_t *sq_result_text(const char *s);
/* The worse of two: fail over inconclusive over pass. */
enum sq_outcome sq_worse(enum sq_outcome a, enum sq_outcome b);
const char *sq_outcome_name(enum sq_outcome v);

/* The steps that NAME means: "*" is every step with a fault. *out is malloc'd. -EINVAL: no such step. */
int sq_steps_named(const struct sq_evidence *ev, const char *name, const struct sq_ev_step ***out, size_t *n,
                   struct sq_err *e);
/* Why a step has no window: for inconclusive verdicts. */
void sq_step_missing(const struct sq_ev_step *s, char *buf, size_t len);

/* The endpoints that NAME means (NULL or "": all). *out is malloc'd, without those that have no samples. */
int sq_endpoints_named(const struct sq_evidence *ev, const char *name, const struct sq_ev_endpoint ***out, size_t *n,
                       struct sq_err *e);

/* Parameters: as normalized; durations also as people write them. DEF when absent. */
int64_t sq_param_ns(const json_t *params, const char *key, int64_t def);
double sq_param_percent(const json_t *params, const char *key, double def);
/* A share for people: "0.1 %", "99.97 %". */
char *sq_fmt_percent(double percent, char *buf, size_t len);

#endif
