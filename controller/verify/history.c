#include "verify/history.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/rank.h"
#include "verify/result.h"
#include "verify/values.h"

json_t *sq_history(const struct sq_evidence *ev, const char *set)
{
    json_t *runs = json_array();

    for (size_t i = 0; runs && i < ev->n_events; i++) {
        const struct sq_ev_event *event = &ev->events[i];

        if (strcmp(event->type, "history") == 0 && strcmp(sq_json_str_or(event->obj, "set", ""), set) == 0)
            (void)json_array_extend(runs, json_object_get(event->obj, "runs"));
    }
    return runs;
}

const char *sq_history_window(const struct sq_evidence *ev)
{
    return sq_json_str_or(json_object_get(ev->spec, "compare"), "window", NULL);
}

void sq_history_today(const struct sq_evidence *ev, char out[11])
{
    (void)snprintf(out, 11, "%.10s", ev->start);
}

bool sq_history_alike(const json_t *a, const json_t *b, char *why, size_t len)
{
    const json_t *sides[] = {a, b}, *run;
    const char *first = NULL;
    size_t i;

    for (size_t k = 0; k < SQ_COUNT(sides); k++)
        json_array_foreach(sides[k], i, run)
        {
            const char *window = sq_json_str_or(run, "window", "");

            first = first ? first : window;
            if (strcmp(first, window) == 0)
                continue;
            (void)snprintf(why, len,
                           "the runs are not alike: some were measured over \"%.60s\", %.120s over \"%.60s\": name one "
                           "window for all",
                           first, sq_json_str_or(run, "id", "?"), window);
            return false;
        }
    return true;
}

const struct sq_param sq_accept_params[] = {
    {"metric", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "what may be worse, such as p99 or latency_p99"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "of this endpoint; default: of any"},
    {"reason", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "what it is worth it for"},
    {"by", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "who says so"},
    {"until", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the last day it is accepted, such as 2026-12-31"},
    SQ_PARAM_END,
};

int sq_compare_rule_of(const json_t *params, struct sq_compare_rule *rule, struct sq_err *e)
{
    *rule = SQ_COMPARE_RULE;
    rule->min_runs = (unsigned)sq_json_int_or(params, "min_runs", rule->min_runs);
    rule->p = sq_json_num_or(params, "p", rule->p);
    rule->warn = sq_param_percent(params, "warn", rule->warn);
    rule->block = sq_param_percent(params, "block", rule->block);
    if (!(rule->p > 0 && rule->p < 0.5) || rule->min_runs < 2 || rule->min_runs > SQ_RANK_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "p must be between 0 and 0.5, min_runs between 2 and %d",
                          SQ_RANK_MAX);
    return 0;
}

static enum sq_outcome outcome_of(const char *said)
{
    if (strcmp(said, "block") == 0)
        return SQ_V_FAIL;
    return strcmp(said, "inconclusive") == 0 ? SQ_V_INCONCLUSIVE : SQ_V_PASS;
}

static void put_numbers(const json_t *row, struct sq_result *r)
{
    const char *metric = sq_json_str_or(row, "metric", "");
    const json_t *median = json_object_get(row, "median"), *n = json_object_get(row, "n"),
                 *interval = json_object_get(row, "interval");
    char a[64], b[64];

    r->n = (uint64_t)(json_integer_value(json_array_get(n, 0)) + json_integer_value(json_array_get(n, 1)));
    (void)snprintf(r->observed, sizeof r->observed, "%s = %s, was %s (%+.1f %%)", metric,
                   sq_metric_text(metric, json_number_value(json_array_get(median, 1)), a, sizeof a),
                   sq_metric_text(metric, json_number_value(json_array_get(median, 0)), b, sizeof b),
                   sq_json_num_or(row, "change", 0));
    if (json_is_array(interval))
        (void)snprintf(r->interval, sizeof r->interval, "[%+.1f %%, %+.1f %%] at 95 %%",
                       json_number_value(json_array_get(interval, 0)), json_number_value(json_array_get(interval, 1)));
}

int sq_compare_results(const json_t *rows, json_t *results, struct sq_err *e)
{
    const json_t *row;
    size_t i;

    json_array_foreach(rows, i, row)
    {
        struct sq_result r;
        int rc;

        sq_result_init(&r, NULL, sq_json_str_or(row, "endpoint", ""));
        put_numbers(row, &r);
        (void)snprintf(r.limit, sizeof r.limit, "%s", sq_json_str_or(row, "limit", ""));
        rc = sq_result_add(
            results,
            sq_result_set(&r, outcome_of(sq_json_str_or(row, "outcome", "")), "%s", sq_json_str_or(row, "why", "")), e);
        if (rc < 0)
            return rc;
    }
    return 0;
}
