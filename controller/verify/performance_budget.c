/* performance_budget: what an endpoint may cost its users (`budgets` of the SLO files), by the interval rule. What
 * exceeding it means is the budget's own: block fails, notify passes and says so, require_approval fails unless
 * somebody answers for it, on the command line (an `approval` record) or in the scenario (`accept`). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/history.h"
#include "verify/stats.h"
#include "verify/values.h"

static const struct sq_param params[] = {
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "an endpoint that has a budget; default: each of them"},
    {"window", SQ_P_STRING, 0, NULL, NULL,
     "steady, load or a step's id (default: the steady state, else all of the load)"},
    {"confidence", SQ_P_PERCENT, 0, "95%", NULL, "how sure a bound must be, one-sided"},
    {.name = "accept",
     .type = SQ_P_MAPS,
     .doc = "budgets with require_approval that may be exceeded: they pass, and say so",
     .fields = sq_accept_params},
    SQ_PARAM_END,
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_endpoint *ep;
    const json_t *budget, *accept;
    json_t *results;
    struct sq_window win;
    int64_t first, end;
    const char *window;
    char today[11];
    double conf;
};

/* ---- what was measured ---- */

static void judge_latency(const struct job *j, const struct sq_hist *h, const char *key, double limit,
                          struct sq_result *r)
{
    double p = strtod(key + strlen("latency_p"), NULL);
    char value[64], low[64], high[64], most[64];
    struct sq_quantile q;

    sq_quantile_of(h, p, j->conf, &q);
    r->n = q.n;
    (void)sq_fmt_duration(q.value, value, sizeof value);
    (void)sq_fmt_duration((int64_t)limit, most, sizeof most);
    (void)snprintf(r->limit, sizeof r->limit, "p%g <= %s", p, most);
    (void)snprintf(r->observed, sizeof r->observed, "p%g = %s", p, value);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at %g %%",
                   q.has_lower ? sq_fmt_duration(q.lower, low, sizeof low) : "0",
                   q.has_upper ? sq_fmt_duration(q.upper, high, sizeof high) : "unknown", j->conf * 100);
    if (q.has_upper && (double)q.upper <= limit)
        (void)sq_result_set(r, SQ_V_PASS, "p%g is within its budget of %s", p, most);
    else if (q.has_lower && (double)q.lower > limit)
        (void)sq_result_set(r, SQ_V_FAIL, "p%g is %s, its budget is %s", p, value, most);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu requests can't tell whether p%g is within its budget of %s",
                            (unsigned long long)q.n, p, most);
}

/* Good answers a second: the schedule is no chance, so there is no interval; but who asks for less can't see more. */
static void judge_throughput(const struct job *j, const struct sq_ev_sums *s, double limit, struct sq_result *r)
{
    double secs = (double)(j->end - j->first), got = (double)s->ok / secs;
    double asked = (double)sq_demand(j->ev, j->ep, j->first, j->end) / secs;

    r->n = s->n;
    (void)snprintf(r->limit, sizeof r->limit, ">= %.6g good answers a second", limit);
    (void)snprintf(r->observed, sizeof r->observed, "%.4g/s of %.4g/s asked for", got, asked);
    if (got >= limit)
        (void)sq_result_set(r, SQ_V_PASS, "%.4g good answers a second, at least %.6g are its budget", got, limit);
    else if (asked < limit)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the load asked for %.4g a second only: that can't show %.6g", asked,
                            limit);
    else
        (void)sq_result_set(r, SQ_V_FAIL, "only %.4g good answers a second, at least %.6g are its budget", got, limit);
}

static void judge_errors(const struct job *j, const struct sq_ev_sums *s, double limit, struct sq_result *r)
{
    double low = 100 * sq_cp_lower(s->bad, s->n, j->conf), high = 100 * sq_cp_upper(s->bad, s->n, j->conf);
    char a[64], b[64], most[64];

    r->n = s->n;
    (void)sq_fmt_percent(limit, most, sizeof most);
    (void)snprintf(r->limit, sizeof r->limit, "error rate <= %s", most);
    (void)snprintf(r->observed, sizeof r->observed, "%llu of %llu bad", (unsigned long long)s->bad,
                   (unsigned long long)s->n);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at %g %%", sq_fmt_percent(low, a, sizeof a),
                   sq_fmt_percent(high, b, sizeof b), j->conf * 100);
    if (high <= limit)
        (void)sq_result_set(r, SQ_V_PASS, "the error rate is within its budget of %s", most);
    else if (low > limit)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu requests were bad, its budget is %s",
                            (unsigned long long)s->bad, (unsigned long long)s->n, most);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%llu requests can't tell whether the error rate is within its budget of %s",
                            (unsigned long long)s->n, most);
}

/* ---- what exceeding it means ---- */

/* Who approved it: on the command line for this run, else in the scenario until a day. *expired: one whose day is past.
 */
static const json_t *approval(const struct job *j, const char *key, const json_t **expired)
{
    const json_t *a;
    size_t i;

    for (i = 0; i < j->ev->n_events; i++)
        if (strcmp(j->ev->events[i].type, "approval") == 0)
            return j->ev->events[i].obj;
    json_array_foreach(j->accept, i, a)
    {
        const char *endpoint = sq_json_str_or(a, "endpoint", NULL);
        const char *mine = sq_metric_name(key), *metric = sq_json_str_or(a, "metric", "");
        const char *theirs = sq_metric_name(metric);

        if (endpoint && strcmp(endpoint, j->ep->name) != 0)
            continue;
        if (strcmp(metric, key) != 0 && !(mine && theirs && strcmp(mine, theirs) == 0))
            continue;
        if (strcmp(sq_json_str_or(a, "until", ""), j->today) >= 0)
            return a;
        *expired = a;
    }
    return NULL;
}

/* Returns the approval that it passes by; NULL: none. */
static const json_t *exceeded(const struct job *j, const char *key, struct sq_result *r)
{
    const char *action = sq_json_str_or(j->budget, "on_budget_exceed", "block");
    const json_t *a, *expired = NULL;
    char why[sizeof r->why];

    (void)snprintf(why, sizeof why, "%s", r->why);
    if (strcmp(action, "notify") == 0) {
        (void)sq_result_set(r, SQ_V_PASS, "exceeded, to be notified only: %.500s", why);
        return NULL;
    }
    if (strcmp(action, "require_approval") != 0)
        return NULL;
    a = approval(j, key, &expired);
    if (a)
        (void)sq_result_set(r, SQ_V_PASS, "exceeded, approved by %.60s (until %.20s): %.160s; %.250s",
                            sq_json_str_or(a, "by", "?"), sq_json_str_or(a, "until", "?"),
                            sq_json_str_or(a, "reason", "?"), why);
    else if (expired)
        (void)sq_result_set(r, SQ_V_FAIL, "%.400s; %.60s's approval ended on %.10s", why,
                            sq_json_str_or(expired, "by", "?"), sq_json_str_or(expired, "until", ""));
    else
        (void)sq_result_set(r, SQ_V_FAIL, "%.400s; nobody approved it (squall run --approve NAME --reason TEXT)", why);
    return a;
}

static int judge(const struct job *j, const struct sq_hist *h, const struct sq_ev_sums *s, const char *key,
                 double limit, struct sq_err *e)
{
    char subject[160];
    struct sq_result r;
    const json_t *by = NULL;
    bool fail;

    (void)snprintf(subject, sizeof subject, "%.63s %.40s", j->ep->name, key);
    sq_result_init(&r, NULL, subject);
    r.win = j->win;
    if (j->ep->is_void)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the probe missed its own schedule: %s", j->ep->void_why);
    else if (s->n == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "no request was answered in its window (%s)", j->window);
    else if (strcmp(key, "throughput_min") != 0 && sq_closed_loop(j->ev, j->ep->name))
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, SQ_CLOSED_LOOP);
    else if (strncmp(key, "latency_p", 9) == 0)
        judge_latency(j, h, key, limit, &r);
    else if (strcmp(key, "throughput_min") == 0)
        judge_throughput(j, s, limit, &r);
    else
        judge_errors(j, s, limit, &r);
    fail = r.verdict == SQ_V_FAIL;
    if (fail)
        by = exceeded(j, key, &r);
    int rc = sq_result_add(j->results, &r, e);
    json_t *last = json_array_get(j->results, json_array_size(j->results) - 1);
    if (!rc && fail)
        (void)json_object_set_new(last, "on_budget_exceed",
                                  json_string(sq_json_str_or(j->budget, "on_budget_exceed", "block")));
    if (!rc && by)
        (void)json_object_set_new(last, "approved",
                                  json_pack("{s:s,s:s,s:s}", "by", sq_json_str_or(by, "by", ""), "reason",
                                            sq_json_str_or(by, "reason", ""), "until",
                                            sq_json_str_or(by, "until", "")));
    return rc;
}

static int judge_endpoint(struct job *j, const char *name, struct sq_err *e)
{
    struct sq_hist *h = NULL;
    struct sq_ev_sums s;
    const char *key;
    json_t *v;
    int rc;

    j->ep = sq_ev_endpoint(j->ev, name);
    if (!j->ep)
        return sq_undecided(j->results, NULL, name, "", e, "the probe recorded no request");
    h = sq_hist_new();
    rc = h ? sq_ev_hist(j->ev, j->ep, j->first, j->end, "h", h, e) : sq_err(e, -ENOMEM, "no memory for a check");
    sq_ev_sum(j->ev, j->ep, j->first, j->end, &s);
    json_object_foreach((json_t *)(uintptr_t)j->budget, key, v)
    {
        if (!rc && json_is_number(v))
            rc = judge(j, h, &s, key, json_number_value(v), e);
    }
    sq_hist_free(h);
    return rc;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const json_t *budgets = json_object_get(ev->spec, "budgets");
    const char *only = sq_json_str_or(p, "endpoint", NULL), *name;
    struct job j = {.ev = ev,
                    .results = results,
                    .accept = json_object_get(p, "accept"),
                    .conf = sq_param_percent(p, "confidence", 95.0) / 100.0};
    struct sq_err why = {0};
    json_t *budget;
    size_t before = json_array_size(results);
    int rc = 0;

    if (!(j.conf > 0.5 && j.conf < 1.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a confidence must be over 50 %% and under 100 %%");
    if (sq_values_window(ev, sq_json_str_or(p, "window", NULL), &j.win, &j.window, &why) < 0)
        return sq_undecided(results, NULL, only ? only : "", "", e, "%s", why.msg);
    if (!sq_window_secs(j.win, &j.first, &j.end))
        return sq_undecided(results, NULL, only ? only : "", "", e, "its window (%s) has no whole second", j.window);
    sq_history_today(ev, j.today);
    json_object_foreach((json_t *)(uintptr_t)budgets, name, budget)
    {
        if (rc || (only && strcmp(only, name) != 0))
            continue;
        j.budget = budget;
        rc = judge_endpoint(&j, name, e);
    }
    if (!rc && json_array_size(results) == before)
        rc = sq_undecided(results, NULL, only ? only : "", "", e, "there is no such budget in the SLO files");
    return rc;
}

const struct sq_check sq_check_performance_budget = {
    .name = "performance_budget",
    .doc = "Endpoints cost no more than their performance budgets, or somebody answers for it.",
    .params = params,
    .run = run,
};
