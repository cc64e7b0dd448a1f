/* canary: the same load on two targets, the old build and the new, at the same time. What a shared host does to both,
 * it does to both: blocks of seconds of the two are compared, one-sided, as runs are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/history.h"
#include "verify/rank.h"
#include "verify/result.h"
#include "verify/stats.h"
#include "verify/values.h"

#define ERRORS_CONF 0.99

static const struct sq_param params[] = {
    {"control", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the endpoint of the old target"},
    {"experiment", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the endpoint of the new one"},
    {"window", SQ_P_STRING, 0, NULL, NULL,
     "steady, load or a step's id (default: the steady state, else all of the load)"},
    {"block_of", SQ_P_DURATION, 0, "5s", NULL, "seconds that are taken as one value: neighbours resemble each other"},
    {"min_blocks", SQ_P_INT, 0, "8", NULL, "fewer a side decide nothing"},
    {"min_requests", SQ_P_INT, 0, "100", NULL, "fewer make no block: their percentiles are chance"},
    {"max_error_rise", SQ_P_PERCENT, 0, "0.1%", NULL, "how much more of its requests the new one may fail"},
    SQ_COMPARE_PARAMS,
    SQ_PARAM_END,
};

struct blocks {
    struct sq_window win;
    int64_t secs, min_requests;
};

/* Values of each whole block, as if it were a run of one endpoint "experiment". */
static int blocks_of(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, const struct blocks *of,
                     const char *as, json_t *runs, struct sq_err *e)
{
    struct sq_hist *h = sq_hist_new();
    int64_t first, end;
    int rc = h ? 0 : sq_err(e, -ENOMEM, "out of memory");

    if (rc == 0 && sq_window_secs(of->win, &first, &end))
        for (int64_t at = first; rc == 0 && at + of->secs <= end && json_array_size(runs) < SQ_RANK_MAX;
             at += of->secs) {
            json_t *one = NULL;

            rc = sq_endpoint_values(ev, ep, at, at + of->secs, h, &one, e);
            if (rc == 0 && sq_json_int_or(one, "n", 0) >= of->min_requests)
                (void)json_array_append_new(runs, json_pack("{s:{s:O}}", "values", as, one));
            json_decref(one);
        }
    sq_hist_free(h);
    return rc;
}

static int errors(const struct sq_evidence *ev, const struct sq_ev_endpoint *a, const struct sq_ev_endpoint *b,
                  struct sq_window win, double max, json_t *results, struct sq_err *e)
{
    struct sq_ev_sums sa = {0}, sb = {0};
    struct sq_result r;
    int64_t first, end;
    char x[64], y[64];

    sq_result_init(&r, NULL, b->name);
    if (sq_window_secs(win, &first, &end)) {
        sq_ev_sum(ev, a, first, end, &sa);
        sq_ev_sum(ev, b, first, end, &sb);
    }
    double low = 100.0 * (sq_cp_lower(sb.bad, sb.n, ERRORS_CONF) - sq_cp_upper(sa.bad, sa.n, ERRORS_CONF));
    double high = 100.0 * (sq_cp_upper(sb.bad, sb.n, ERRORS_CONF) - sq_cp_lower(sa.bad, sa.n, ERRORS_CONF));
    double pa = sa.n ? 100.0 * (double)sa.bad / (double)sa.n : 0, pb = sb.n ? 100.0 * (double)sb.bad / (double)sb.n : 0;

    r.n = sa.n + sb.n;
    r.win = win;
    (void)snprintf(r.observed, sizeof r.observed, "%s of the requests failed, %s of the control's",
                   sq_fmt_percent(pb, x, sizeof x), sq_fmt_percent(pa, y, sizeof y));
    (void)snprintf(r.limit, sizeof r.limit, "at most %s more", sq_fmt_percent(max, x, sizeof x));
    (void)snprintf(r.interval, sizeof r.interval, "[%+.3g %%, %+.3g %%]", low, high);
    if (low > max)
        (void)sq_result_set(&r, SQ_V_FAIL, "%s fails more often than %s: %llu of %llu requests against %llu of %llu",
                            b->name, a->name, (unsigned long long)sb.bad, (unsigned long long)sb.n,
                            (unsigned long long)sa.bad, (unsigned long long)sa.n);
    else if (high <= max)
        (void)sq_result_set(&r, SQ_V_PASS, "%s fails no more often than %s", b->name, a->name);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%llu and %llu requests are too few to compare how often they fail",
                            (unsigned long long)sb.n, (unsigned long long)sa.n);
    return sq_result_add(results, &r, e);
}

static int undecided(json_t *results, const char *subject, const char *why, struct sq_err *e)
{
    struct sq_result r;

    sq_result_init(&r, NULL, subject);
    return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *name_a = sq_json_str_or(p, "control", ""), *name_b = sq_json_str_or(p, "experiment", ""), *used;
    const struct sq_ev_endpoint *a = sq_ev_endpoint(ev, name_a), *b = sq_ev_endpoint(ev, name_b);
    struct blocks of = {.secs = sq_param_ns(p, "block_of", 5 * SQ_S) / SQ_S};
    cleanup_json json_t *control = json_array();
    cleanup_json json_t *experiment = json_array();
    cleanup_json json_t *rows = NULL;
    struct sq_compare_rule rule;
    struct sq_err why = {0};
    int rc = sq_compare_rule_of(p, &rule, e);

    if (rc < 0)
        return rc;
    if (!a || !b)
        return undecided(results, a ? name_b : name_a, "nothing was measured there", e);
    if (a->is_void || b->is_void)
        return undecided(results, a->is_void ? name_a : name_b, a->is_void ? a->void_why : b->void_why, e);
    if (sq_values_window(ev, sq_json_str_or(p, "window", NULL), &of.win, &used, &why) < 0)
        return undecided(results, name_b, why.msg, e);
    of.secs = of.secs > 0 ? of.secs : 1;
    of.min_requests = sq_json_int_or(p, "min_requests", 100);
    of.min_requests = of.min_requests > 0 ? of.min_requests : 1;
    /* The U test is two-sided; only the worse side counts here. */
    rule.p *= 2;
    rule.min_runs = (unsigned)sq_json_int_or(p, "min_blocks", 8);
    rc = blocks_of(ev, a, &of, name_b, control, e);
    if (rc == 0)
        rc = blocks_of(ev, b, &of, name_b, experiment, e);
    if (rc == 0 && (json_array_size(control) < rule.min_runs || json_array_size(experiment) < rule.min_runs)) {
        char text[200];

        (void)snprintf(text, sizeof text,
                       "%zu and %zu blocks of %lld s have %lld requests or more: it takes %u of each target",
                       json_array_size(experiment), json_array_size(control), (long long)of.secs,
                       (long long)of.min_requests, rule.min_runs);
        return undecided(results, name_b, text, e);
    }
    if (rc == 0)
        rc = sq_compare(control, experiment, json_object_get(p, "metrics"), name_b, &rule, NULL, "", &rows, e);
    if (rc == 0)
        rc = sq_compare_results(rows, results, e);
    return rc < 0 ? rc : errors(ev, a, b, of.win, sq_param_percent(p, "max_error_rise", 0.1), results, e);
}

extern const struct sq_check sq_check_canary;
const struct sq_check sq_check_canary = {
    .name = "canary",
    .doc = "the new target is no slower and fails no more often than the old one under the same load",
    .params = params,
    .run = run,
};
