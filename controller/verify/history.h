/* Other runs, as the evidence of this one holds them: `history` records, written when it began (EVIDENCE.md). Pure. */
#ifndef SQUALL_VERIFY_HISTORY_H
#define SQUALL_VERIFY_HISTORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "squall/spec.h"
#include "verify/compare.h"
#include "verify/evidence.h"

/* The runs of SET ("base", "now"), as sq_run_values gives them. New reference, never NULL but without memory. */
json_t *sq_history(const struct sq_evidence *ev, const char *set);
/* The window that they were measured over; NULL: the usual one. */
const char *sq_history_window(const struct sq_evidence *ev);
/* The day this run began: "2026-11-21". */
void sq_history_today(const struct sq_evidence *ev, char out[11]);

/* Runs fall back on what they have: a steady state here and all of the load there are not alike. True: all of A and B
 * (may be NULL) were measured over windows of one name; else WHY says which differ. */
bool sq_history_alike(const json_t *a, const json_t *b, char *why, size_t len);

/* Rows of sq_compare as verdicts: block and inconclusive as they are, warn passes and says so. STEP is theirs. */
int sq_compare_results(const json_t *rows, json_t *results, struct sq_err *e);
/* Parameters that regression and canary share: metrics, p, warn, block. */
#define SQ_COMPARE_PARAMS                                                                                              \
    {"metrics", SQ_P_STRINGS, 0,                                                                                       \
     NULL,      NULL,         "p50, p95, p99, p99.9, mean, throughput (default: p50, p95, p99, throughput)"},          \
        {"p", SQ_P_NUMBER, 0, "0.01", NULL, "significant below it, all rows together (Holm)"},                         \
        {"warn", SQ_P_PERCENT, 0, "3%", NULL, "said from this much worse on"},                                         \
    {                                                                                                                  \
        "block", SQ_P_PERCENT, 0, "10%", NULL, "fails from this much worse on"                                         \
    }
/* The members of an entry of `accept`, as regression and performance_budget take them. */
extern const struct sq_param sq_accept_params[];
int sq_compare_rule_of(const json_t *params, struct sq_compare_rule *rule, struct sq_err *e);

#endif
