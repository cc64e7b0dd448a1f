/* Yesterday against today: two sets of runs, endpoint by endpoint and metric by metric. Shifts are ratios
 * (Hodges-Lehmann on logarithms), significance is the exact U test, adjusted for all rows (Holm). Pure. */
#ifndef SQUALL_VERIFY_COMPARE_H
#define SQUALL_VERIFY_COMPARE_H

#include <jansson.h>

#include "squall/err.h"

struct sq_compare_rule {
    unsigned min_runs;  /* a side; fewer decide nothing */
    double p;           /* significant below it, after Holm */
    double warn, block; /* percent for the worse */
};
#define SQ_COMPARE_RULE ((struct sq_compare_rule){.min_runs = 8, .p = 0.01, .warn = 3, .block = 10})

/* BASE, CAND: arrays of what sq_run_values gives. METRICS: names (NULL: p50, p95, p99, throughput). ENDPOINT NULL: all
 * that either side has. ACCEPT (may be NULL): [{"metric","endpoint" (absent: any),"reason","by","until":"2026-12-31"}],
 * each valid up to and with that day; TODAY: "2026-11-21". *rows (new reference): an array of
 *   {"endpoint","metric","n":[a,b],"median":[a,b],"cv":[percent,percent],"change":percent,"interval":[lo,hi] or null,
 *    "p","p_adjusted","detectable":percent or null,"outcome":"same|better|warn|block|accepted|inconclusive",
 *    "limit","accepted":{...} or absent,"why":"one sentence"}, ordered by endpoint, then as in METRICS. */
int sq_compare(const json_t *base, const json_t *cand, const json_t *metrics, const char *endpoint,
               const struct sq_compare_rule *rule, const json_t *accept, const char *today, json_t **rows,
               struct sq_err *e);
/* An acceptance without reason, author or a real date is none: -EINVAL, SQ_C_INPUT. */
int sq_compare_accept_check(const json_t *accept, struct sq_err *e);

#endif
