/* What the two files that check `verify` share: can the run ever decide a check? */
#ifndef CONTROLLER_SCENARIO_DECIDE_H
#define CONTROLLER_SCENARIO_DECIDE_H

#include "scenario/normalize.h"

struct sq_decide {
    struct sq_norm *c;
    const struct sq_node *node; /* the check */
    const json_t *spec;
    json_t *check;
    const char *name;
};

/* Where KEY of the check is; the check itself when it is not there. */
static inline struct sq_pos sq_decide_at(const struct sq_decide *x, const char *key)
{
    const struct sq_node *v = sq_node_get(x->node, key);

    return v ? v->pos : x->node->pos;
}

/* Is STEP one of those that the check is about (`step`, or `after`)? */
bool sq_decide_meant(const struct sq_decide *x, const json_t *step);
/* How long the load still runs after the fault of step I and before the next one. */
int64_t sq_decide_after(const json_t *spec, size_t i, bool *last);
/* Requests that a schedule plans in its first T seconds. */
double sq_decide_planned(const json_t *endpoint, double t);
/* decide.c: budget, retry_storm, fuse, fail_fast, bulkhead, failover, alert, runbook. */
void sq_decide_more(const struct sq_decide *x);
/* compare.c: regression and trend; canary. */
void sq_decide_compared(const struct sq_decide *x);
void sq_decide_canary(const struct sq_decide *x);

#endif
