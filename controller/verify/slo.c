/* slo: did users get what was promised while the faults were on? Judged by exact intervals: pass when the whole
 * interval is on the right side of the limit, fail when it is on the wrong one, inconclusive when the limit is inside.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/result.h"
#include "verify/slo_series.h"
#include "verify/stats.h"
#include "verify/threshold.h"

#define MAX_THRESHOLDS 32

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, 0, "*", NULL, "the step whose window is judged; \"*\": all steps that have a fault, pooled"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: each of them"},
    {"slo", SQ_P_STRING, 0, NULL, NULL, "an SLO of the files in slos: its endpoint, its target"},
    {"thresholds", SQ_P_STRINGS, 0, NULL, NULL, "what must hold, such as p(95)<500ms or error_rate<0.1%"},
    {"confidence", SQ_P_PERCENT, 0, "95%", NULL, "how sure a bound must be, one-sided"},
    SQ_PARAM_END,
};

/* What one endpoint (NULL: all) felt in the pooled windows. */
struct felt {
    const struct sq_ev_endpoint *ep;
    struct sq_ev_sums sums;
    struct sq_hist *h, *ok; /* all, and the good ones */
    uint64_t secs;
    struct sq_window span;
};

struct job {
    const struct sq_evidence *ev;
    json_t *results;
    double conf;
    const char *slo;               /* the SLO that the thresholds are; NULL: they are the check's own */
    const struct sq_ev_step *only; /* the step, when it is one */
    const struct sq_ev_step **steps;
    size_t n_steps;
};

static int feel(const struct job *job, const struct sq_ev_endpoint *ep, struct felt *f, struct sq_err *e)
{
    bool any = false;

    f->ep = ep;
    memset(&f->sums, 0, sizeof f->sums);
    sq_hist_reset(f->h);
    sq_hist_reset(f->ok);
    f->secs = 0;
    f->span = (struct sq_window){0, 0};
    for (size_t i = 0; i < job->n_steps; i++) {
        const struct sq_ev_step *s = job->steps[i];
        struct sq_ev_sums one;
        int64_t first, end;

        if (!s->ran || !sq_window_secs(s->win, &first, &end))
            continue;
        sq_ev_sum(job->ev, ep, first, end, &one);
        f->sums.sent += one.sent;
        f->sums.ok += one.ok;
        f->sums.bad += one.bad;
        f->sums.n += one.n;
        f->secs += (uint64_t)(end - first);
        int rc = sq_ev_hist(job->ev, ep, first, end, "h", f->h, e);
        rc = rc ? rc : sq_ev_hist(job->ev, ep, first, end, "hok", f->ok, e);
        if (rc)
            return rc;
        f->span.from_ns = any && f->span.from_ns < first * SQ_S ? f->span.from_ns : first * SQ_S;
        f->span.to_ns = any && f->span.to_ns > end * SQ_S ? f->span.to_ns : end * SQ_S;
        any = true;
    }
    return 0;
}

static void say_more(struct sq_result *r, uint64_t k, uint64_t n, double limit, double conf, const char *metric)
{
    uint64_t need = sq_trials_to_decide(k, n, limit, conf);

    if (need > n)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu requests are too few to decide %s: about %llu would do",
                            (unsigned long long)n, metric, (unsigned long long)need);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%s is too near to its limit to be decided by %llu requests", metric,
                            (unsigned long long)n);
}

/* A request that failed was not fast, however soon it failed. Does the limit hold as surely when those are counted as
 * slow? */
static bool holds_without_failures(const struct job *job, const struct felt *f, const struct sq_threshold *t)
{
    uint64_t n = sq_hist_count(f->h), slow = n - sq_hist_count_le(f->h, (int64_t)t->value);

    if (f->sums.bad == 0)
        return true;
    if (sq_hist_count(f->ok) == f->sums.ok)
        slow = n - sq_hist_count_le(f->ok, (int64_t)t->value);
    else /* not told apart: all that failed may have failed soon */
        slow = slow + f->sums.bad < n ? slow + f->sums.bad : n;
    return sq_cp_upper(slow, n, job->conf) <= 1.0 - t->p / 100.0;
}

static void judge_percentile(const struct job *job, const struct felt *f, const struct sq_threshold *t,
                             struct sq_result *r)
{
    char metric[32], value[64], low[64], high[64];
    struct sq_quantile q;

    sq_quantile_of(f->h, t->p, job->conf, &q);
    r->n = q.n;
    (void)sq_threshold_metric(t, metric, sizeof metric);
    (void)snprintf(r->observed, sizeof r->observed, "%s = %s", metric, sq_fmt_duration(q.value, value, sizeof value));
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at %g %%",
                   q.has_lower ? sq_fmt_duration(q.lower, low, sizeof low) : "0",
                   q.has_upper ? sq_fmt_duration(q.upper, high, sizeof high) : "unknown", job->conf * 100);
    if (q.has_upper && sq_threshold_holds(t, (double)q.upper) && !holds_without_failures(job, f, t))
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%s is under its limit of %s only because requests failed fast: %llu of %llu failed",
                            metric, sq_threshold_value(t, t->value, low, sizeof low), (unsigned long long)f->sums.bad,
                            (unsigned long long)f->sums.n);
    else if (q.has_upper && sq_threshold_holds(t, (double)q.upper))
        (void)sq_result_set(r, SQ_V_PASS, "%s stayed under its limit of %s", metric,
                            sq_threshold_value(t, t->value, low, sizeof low));
    else if (q.has_lower && !sq_threshold_holds(t, (double)q.lower))
        (void)sq_result_set(r, SQ_V_FAIL, "users waited %s at %s, more than the %s that were promised", value, metric,
                            sq_threshold_value(t, t->value, low, sizeof low));
    else
        say_more(r, q.n - sq_hist_count_le(f->h, (int64_t)t->value), q.n, 1.0 - t->p / 100.0, job->conf, metric);
}

static void judge_errors(const struct job *job, const struct felt *f, const struct sq_threshold *t, struct sq_result *r)
{
    uint64_t n = f->sums.n, bad = f->sums.bad;
    double share = n ? (double)bad / (double)n : 0.0;
    double low = 100.0 * sq_cp_lower(bad, n, job->conf), high = 100.0 * sq_cp_upper(bad, n, job->conf);
    char a[64], b[64], c[64];

    r->n = n;
    (void)snprintf(r->observed, sizeof r->observed, "error rate = %s (%llu of %llu)",
                   sq_fmt_percent(100.0 * share, a, sizeof a), (unsigned long long)bad, (unsigned long long)n);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at %g %%", sq_fmt_percent(low, b, sizeof b),
                   sq_fmt_percent(high, c, sizeof c), job->conf * 100);
    (void)sq_threshold_value(t, t->value, b, sizeof b);
    /* "none at all" is a count, which no interval can prove */
    if (sq_threshold_holds(t, high) || (t->value <= 0.0 && t->equal && bad == 0 && n > 0))
        (void)sq_result_set(r, SQ_V_PASS, "%llu of %llu requests failed: the error rate stayed under its limit of %s",
                            (unsigned long long)bad, (unsigned long long)n, b);
    else if (!sq_threshold_holds(t, low) && bad > 0)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu requests failed, more than the %s that were promised",
                            (unsigned long long)bad, (unsigned long long)n, b);
    else
        say_more(r, bad, n, t->value / 100.0, job->conf, "the error rate");
}

static void judge_rate(const struct felt *f, const struct sq_threshold *t, struct sq_result *r)
{
    double rate = (double)f->sums.sent / (double)f->secs;
    char limit[64];

    r->n = f->sums.sent;
    (void)sq_threshold_value(t, t->value, limit, sizeof limit);
    (void)snprintf(r->observed, sizeof r->observed, "%.4g/s sent", rate);
    if (sq_threshold_holds(t, rate))
        (void)sq_result_set(r, SQ_V_PASS, "the load was on: %.4g requests a second", rate);
    else
        (void)sq_result_set(r, SQ_V_FAIL, "only %.4g requests a second could be sent, %s were due", rate, limit);
}

static int judge(const struct job *job, const struct felt *f, const struct sq_threshold *t, struct sq_err *e)
{
    struct sq_result r;

    sq_result_init(&r, job->only, job->slo ? job->slo : f->ep ? f->ep->name : "all endpoints");
    r.win = f->span;
    (void)sq_threshold_text(t, r.limit, sizeof r.limit);
    if (f->ep && f->ep->is_void)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the probe missed its own schedule: %s", f->ep->void_why);
    else if (f->ep && sq_closed_loop(job->ev, f->ep->name))
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, SQ_CLOSED_LOOP);
    else if (f->secs == 0 || f->sums.n == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "no request was made in a whole second of the step");
    else if (t->metric == SQ_M_PERCENTILE)
        judge_percentile(job, f, t, &r);
    else if (t->metric == SQ_M_ERROR_RATE)
        judge_errors(job, f, t, &r);
    else
        judge_rate(f, t, &r);
    return sq_result_add(job->results, &r, e);
}

/* Nothing to judge: one verdict that says why. */
static int nothing(const struct job *job, const char *subject, const char *why, struct sq_err *e)
{
    struct sq_result r;

    sq_result_init(&r, job->only, subject);
    return sq_result_add(job->results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
}

static int judge_all(const struct job *job, const struct sq_threshold *t, size_t n_t, const char *endpoint,
                     struct sq_err *e)
{
    cleanup_free const struct sq_ev_endpoint **eps = NULL;
    size_t n = 0;
    struct felt f = {.h = sq_hist_new(), .ok = sq_hist_new()};
    int rc =
        f.h && f.ok ? sq_endpoints_named(job->ev, endpoint, &eps, &n, e) : sq_err(e, -ENOMEM, "no memory for a check");

    if (!rc && n == 0)
        rc = nothing(job, endpoint, "the probe recorded no request", e);
    for (size_t i = 0; i < n && !rc; i++) {
        rc = feel(job, eps[i], &f, e);
        for (size_t k = 0; k < n_t && !rc; k++) /* a rate that was meant for all is not each one's */
            if (t[k].metric != SQ_M_SENT_RATE || n == 1 || endpoint)
                rc = judge(job, &f, &t[k], e);
    }
    if (!rc && n > 1 && !endpoint)
        rc = feel(job, NULL, &f, e);
    for (size_t k = 0; k < n_t && !rc && n > 1 && !endpoint; k++)
        if (t[k].metric == SQ_M_SENT_RATE)
            rc = judge(job, &f, &t[k], e);
    sq_hist_free(f.h);
    sq_hist_free(f.ok);
    return rc;
}

/* An SLO that is no threshold: its share of good ones. */
static int judge_share(const struct job *job, const char *name, struct sq_err *e)
{
    cleanup_free struct sq_window *secs = calloc(job->n_steps, sizeof *secs);
    struct sq_slo slo;
    size_t n = 0;
    int rc = secs ? sq_slo_find(job->ev, name, &slo, e) : sq_err(e, -ENOMEM, "no memory for a check");

    for (size_t i = 0; i < job->n_steps && !rc; i++)
        if (job->steps[i]->ran && sq_window_secs(job->steps[i]->win, &secs[n].from_ns, &secs[n].to_ns))
            n++;
    return rc ? rc : sq_slo_judge(job->ev, &slo, job->only, secs, n, job->conf, job->results, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const json_t *list = json_object_get(p, "thresholds");
    const char *step = sq_json_str_or(p, "step", "*"), *endpoint = sq_json_str_or(p, "endpoint", NULL);
    struct sq_threshold t[MAX_THRESHOLDS];
    size_t n_t = json_array_size(list), ran = 0;
    cleanup_free const struct sq_ev_step **steps = NULL;
    struct job job = {.ev = ev,
                      .results = results,
                      .slo = sq_json_str_or(p, "slo", NULL),
                      .conf = sq_param_percent(p, "confidence", 95.0) / 100.0};

    if ((n_t == 0 && !job.slo) || n_t > MAX_THRESHOLDS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "slo takes an SLO, or 1 to %d thresholds", MAX_THRESHOLDS);
    if (!(job.conf > 0.5 && job.conf < 1.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a confidence must be over 50 %% and under 100 %%");
    for (size_t i = 0; i < n_t; i++) {
        int rc = sq_threshold_read(json_array_get(list, i), &t[i], e);

        if (rc)
            return rc;
    }
    int rc = sq_steps_named(ev, step, &steps, &job.n_steps, e);
    if (rc)
        return rc;
    job.steps = steps;
    job.only = job.n_steps == 1 ? steps[0] : NULL;
    for (size_t i = 0; i < job.n_steps; i++)
        ran += steps[i]->ran;
    if (ran == 0) {
        char why[512] = "no step with a fault ran";

        if (job.n_steps)
            sq_step_missing(steps[0], why, sizeof why);
        return nothing(&job, job.slo ? job.slo : endpoint, why, e);
    }
    if (n_t == 0)
        return judge_share(&job, job.slo, e);
    return judge_all(&job, t, n_t, endpoint, e);
}

const struct sq_check sq_check_slo = {
    .name = "slo",
    .doc = "Users got what was promised while the faults were on: percentiles, error rate, rate.",
    .params = params,
    .run = run,
};
