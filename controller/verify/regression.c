/* regression: is this build slower than the baseline? One run tells nothing: the scenario's `compare` names the runs of
 * both sides, this run is one of its own. */
#include <errno.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/history.h"
#include "verify/result.h"
#include "verify/values.h"

static const struct sq_param params[] = {
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: each of them"},
    SQ_COMPARE_PARAMS,
    {"min_runs", SQ_P_INT, 0, "8", NULL, "fewer runs a side can't tell"},
    {.name = "accept",
     .type = SQ_P_MAPS,
     .doc = "regressions that somebody accepted: they pass, and say so",
     .fields = sq_accept_params},
    SQ_PARAM_END,
};

static int undecided(const char *why, json_t *results, struct sq_err *e)
{
    struct sq_result r;

    sq_result_init(&r, NULL, NULL);
    return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_json json_t *base = sq_history(ev, "base");
    cleanup_json json_t *now = sq_history(ev, "now");
    cleanup_json json_t *rows = NULL;
    json_t *mine = NULL;
    struct sq_compare_rule rule;
    struct sq_err why = {0};
    char today[11], text[400];
    int rc = sq_compare_rule_of(p, &rule, e);

    if (rc < 0)
        return rc;
    if (!base || !now)
        return sq_err(e, -ENOMEM, "out of memory");
    if (json_array_size(base) == 0)
        return undecided("there is no baseline: the scenario's compare names none that could be read", results, e);
    if (sq_run_values(ev, sq_history_window(ev), &mine, &why) < 0)
        return undecided(why.msg, results, e);
    (void)json_array_append_new(now, mine);
    if (!sq_history_alike(base, now, text, sizeof text))
        return undecided(text, results, e);
    sq_history_today(ev, today);
    rc = sq_compare(base, now, json_object_get(p, "metrics"), sq_json_str_or(p, "endpoint", NULL), &rule,
                    json_object_get(p, "accept"), today, &rows, e);
    return rc < 0 ? rc : sq_compare_results(rows, results, e);
}

extern const struct sq_check sq_check_regression;
const struct sq_check sq_check_regression = {
    .name = "regression",
    .doc = "the runs of this build are not slower than those of the baseline, by exact statistics",
    .params = params,
    .run = run,
};
