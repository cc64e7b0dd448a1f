/* fail_fast: once the breaker is open, users don't wait for a dependency that is known to be away: 95 % of requests get
 * an answer, or an error, within `max`. Looked at from opens_within after the fault's begin until its end; trial calls
 * of a half-open breaker are within the other 5 %. A request that never got so far as to be timed was not fast. */
#include <errno.h>
#include <stdlib.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/stats.h"

#define CONF 0.95
#define SHARE 0.95 /* of requests that must be fast */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which the dependency fails or hangs"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: each of them"},
    {"max", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "the limit of p95, what the fallback does included"},
    {"opens_within", SQ_P_DURATION, 0, "10s", NULL, "from the fault's begin until the breaker is open"},
    SQ_PARAM_END,
};

static void judge(const struct sq_hist *h, uint64_t decided, int64_t max, struct sq_result *r)
{
    uint64_t timed = sq_hist_count(h), n = decided > timed ? decided : timed;
    uint64_t slow = n - sq_hist_count_le(h, max);
    double low = sq_cp_lower(slow, n, CONF), high = sq_cp_upper(slow, n, CONF);
    char p95[64], limit[64], a[64], b[64];
    struct sq_quantile q;

    sq_quantile_of(h, 100.0 * SHARE, CONF, &q);
    (void)sq_fmt_duration(max, limit, sizeof limit);
    r->n = n;
    (void)snprintf(r->observed, sizeof r->observed, "p95 = %s, %llu of %llu slower than %s",
                   sq_fmt_duration(q.value, p95, sizeof p95), (unsigned long long)slow, (unsigned long long)n, limit);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] slower at 95 %%",
                   sq_fmt_percent(100.0 * low, a, sizeof a), sq_fmt_percent(100.0 * high, b, sizeof b));
    if (n == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "no request was made in a whole second while the breaker was open");
    else if (high <= 1.0 - SHARE)
        (void)sq_result_set(r, SQ_V_PASS, "requests did not wait for the dependency: 95 %% were answered within %s",
                            p95);
    else if (low > 1.0 - SHARE)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "users still waited for a dependency that was known to be away: %llu of %llu requests took "
                            "longer than %s",
                            (unsigned long long)slow, (unsigned long long)n, limit);
    else {
        uint64_t need = sq_trials_to_decide(slow, n, 1.0 - SHARE, CONF);

        if (need > n)
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu requests are too few to decide p95: about %llu would do",
                                (unsigned long long)n, (unsigned long long)need);
        else
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "p95 is too near to %s to be decided by %llu requests", limit,
                                (unsigned long long)n);
    }
}

static int judge_endpoint(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, struct sq_window win,
                          int64_t max, struct sq_result *r, struct sq_err *e)
{
    struct sq_hist *h = sq_hist_new();
    struct sq_ev_sums sums = {0};
    int64_t first, end;
    int rc = h ? 0 : sq_err(e, -ENOMEM, "no memory for a check");

    if (!rc && sq_window_secs(win, &first, &end)) {
        sq_ev_sum(ev, ep, first, end, &sums);
        rc = sq_ev_hist(ev, ep, first, end, "h", h, e);
    }
    if (!rc)
        judge(h, sums.n, max, r);
    sq_hist_free(h);
    return rc;
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                      struct sq_err *e)
{
    const char *endpoint = sq_json_str_or(p, "endpoint", NULL), *subject = endpoint ? endpoint : "all endpoints";
    int64_t max = sq_param_ns(p, "max", 0), opens = sq_param_ns(p, "opens_within", 10 * SQ_S);
    cleanup_free const struct sq_ev_endpoint **eps = NULL;
    struct sq_edge_calls hit;
    char limit[96], a[64];
    size_t n = 0;

    (void)snprintf(limit, sizeof limit, "p95 <= %s", sq_fmt_duration(max, a, sizeof a));
    if (!s->ran)
        return sq_undecided_step(results, s, subject, limit, e);
    int rc = sq_endpoints_named(ev, endpoint, &eps, &n, e);
    if (rc)
        return rc;
    sq_edge_calls(ev, s->edge, s->win, &hit);
    if (n == 0)
        return sq_undecided(results, s, subject, limit, e, "the probe recorded no request");
    if (s->edge[0] && hit.harmed == 0 && !sq_step_is_control(s))
        return sq_undecided(results, s, subject, limit, e, "no call failed or was held: nothing made requests wait");
    if (s->win.from_ns + opens >= s->win.to_ns)
        return sq_undecided(results, s, subject, limit, e,
                            "the fault was over before the breaker had to be open, %s "
                            "after its begin",
                            sq_fmt_duration(opens, a, sizeof a));
    sq_edge_calls(ev, s->edge, (struct sq_window){s->win.from_ns + opens, s->win.to_ns}, &hit);
    if (s->edge[0] && hit.n > 0 && hit.harmed == 0 && !sq_step_is_control(s)) /* first: N, say */
        return sq_undecided(results, s, subject, limit, e,
                            "%s after the fault's begin it hit no call any more, and %llu were made: the dependency "
                            "was well again",
                            sq_fmt_duration(opens, a, sizeof a), (unsigned long long)hit.n);
    for (size_t i = 0; i < n && !rc; i++) {
        struct sq_result r;

        sq_result_init(&r, s, eps[i]->name);
        r.win.from_ns += opens;
        (void)snprintf(r.limit, sizeof r.limit, "%s", limit);
        if (eps[i]->is_void)
            (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the probe missed its own schedule: %s", eps[i]->void_why);
        else if (sq_closed_loop(ev, eps[i]->name))
            (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, SQ_CLOSED_LOOP);
        else
            rc = judge_endpoint(ev, eps[i], r.win, max, &r, e);
        rc = rc ? rc : sq_result_add(results, &r, e);
    }
    return rc;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;

    if (sq_param_ns(p, "max", 0) <= 0 || sq_param_ns(p, "opens_within", 0) < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "fail_fast takes a max above 0");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], p, results, e);
    return rc;
}

const struct sq_check sq_check_fail_fast = {
    .name = "fail_fast",
    .doc = "With the breaker open users get their answer at once, without waiting for what is away.",
    .params = params,
    .run = run,
};
