/* budget: how much of an SLO's error budget a step spent, and how fast it burnt. The budget is what the target leaves
 * of the requests that the load would send in the SLO's window: with a probe as the only user it is notional, and the
 * verdict says so. What is spent is spent until the next fault or the load's end, so that is how long is counted.
 *
 * Burn rate: share of bad requests over the share that the target allows (SRE workbook, ch. 5). Every stretch of `for`
 * is looked at: to pass, the upper bound of each must be under the limit; to fail, a lower bound must be over it at a
 * confidence that allows for the number of looks (Bonferroni). */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/slo_series.h"
#include "verify/stats.h"

#define CONF 0.95
#define DAY_NS (86400 * SQ_S)

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, 0, "*", NULL, "the step that spends it; \"*\": all that have a fault, added up"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: all of them, pooled"},
    {"slo", SQ_P_STRING, 0, NULL, NULL, "an SLO of the files in slos: its endpoint, target and window"},
    {"target", SQ_P_PERCENT, 0, NULL, NULL, "the SLO: the share of requests that must be good, such as 99.9%"},
    {"window", SQ_P_DURATION, 0, "30d", NULL, "the SLO's window, whose budget is meant"},
    {"max_spend", SQ_P_PERCENT, 0, NULL, NULL, "the most of the window's budget that may be spent"},
    {"burn_rate", SQ_P_NUMBER, 0, NULL, NULL, "the fastest that it may burn: 1 spends it all in one window"},
    {"for", SQ_P_DURATION, 0, "1m", NULL, "the stretch that a burn rate is taken over, in whole seconds"},
    {"min_requests", SQ_P_INT, 0, "100", NULL, "fewer requests than this decide nothing (of each stretch)"},
    SQ_PARAM_END,
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_endpoint *ep; /* NULL: all */
    const struct sq_ev_step **steps;
    size_t n_steps;
    double allowed; /* share of bad requests that the target leaves */
    int64_t window;
    uint64_t min;
    const char *subject;
    struct sq_slo_series series; /* of an SLO; n 0: the endpoint's own answers are good or bad */
};

/* As sq_ev_sum, of what the SLO calls good. */
static void sum_of(const struct job *j, int64_t first, int64_t end, struct sq_ev_sums *out)
{
    if (!j->series.n) {
        sq_ev_sum(j->ev, j->ep, first, end, out);
        return;
    }
    struct sq_slo_sum s = sq_slo_sum(&j->series, first, end);
    uint64_t n = (uint64_t)llround(s.total), ok = (uint64_t)llround(s.good);
    *out = (struct sq_ev_sums){.n = n, .ok = ok < n ? ok : n, .bad = ok < n ? n - ok : 0};
}

/* From the fault's begin until the next fault or the load's end. */
static bool stretch_of(const struct job *j, const struct sq_ev_step *s, int64_t *first, int64_t *end)
{
    int64_t last = j->series.n ? (j->series.first + (int64_t)j->series.n) * SQ_S : j->ev->load.to_ns;
    int64_t to = s->until_ns < last ? s->until_ns : last;

    return s->ran && sq_window_secs((struct sq_window){s->win.from_ns, to}, first, end);
}

static void pool(const struct job *j, struct sq_ev_sums *sum, uint64_t *secs, struct sq_window *span)
{
    *sum = (struct sq_ev_sums){0};
    *secs = 0;
    *span = (struct sq_window){0, 0};
    for (size_t i = 0; i < j->n_steps; i++) {
        struct sq_ev_sums one;
        int64_t first, end;

        if (!stretch_of(j, j->steps[i], &first, &end))
            continue;
        sum_of(j, first, end, &one);
        sum->bad += one.bad;
        sum->n += one.n;
        span->from_ns = *secs && span->from_ns < first * SQ_S ? span->from_ns : first * SQ_S;
        span->to_ns = *secs && span->to_ns > end * SQ_S ? span->to_ns : end * SQ_S;
        *secs += (uint64_t)(end - first);
    }
}

/* People think of an SLO's window in days. */
static char *window_text(int64_t ns, char *buf, size_t len)
{
    if (ns < 2 * DAY_NS || ns % DAY_NS)
        return sq_fmt_duration(ns, buf, len);
    (void)snprintf(buf, len, "%lld days", (long long)(ns / DAY_NS));
    return buf;
}

static struct sq_result *too_few(struct sq_result *r, uint64_t n, uint64_t min)
{
    return sq_result_set(r, SQ_V_INCONCLUSIVE, "only %llu requests were made, at least %llu are wanted",
                         (unsigned long long)n, (unsigned long long)min);
}

static int judge_spend(const struct job *j, double max, json_t *results, struct sq_err *e)
{
    struct sq_ev_sums s;
    struct sq_result r;
    uint64_t secs;
    char a[64], b[64], c[64], d[64];

    sq_result_init(&r, j->n_steps == 1 ? j->steps[0] : NULL, j->subject);
    pool(j, &s, &secs, &r.win);
    /* budget = allowed * rate * window; bad / budget with rate = n / secs */
    double part = 100.0 * (double)secs * 1e9 / (double)j->window / j->allowed;
    double seen = s.n ? part * (double)s.bad / (double)s.n : 0.0;
    double low = part * sq_cp_lower(s.bad, s.n, CONF), high = part * sq_cp_upper(s.bad, s.n, CONF);

    r.n = s.n;
    (void)snprintf(r.limit, sizeof r.limit, "<= %s of the error budget of %s", sq_fmt_percent(max, a, sizeof a),
                   window_text(j->window, b, sizeof b));
    (void)snprintf(r.observed, sizeof r.observed, "%s spent (%llu bad requests of %llu)",
                   sq_fmt_percent(seen, a, sizeof a), (unsigned long long)s.bad, (unsigned long long)s.n);
    (void)snprintf(r.interval, sizeof r.interval, "[%s, %s] at 95 %%", sq_fmt_percent(low, c, sizeof c),
                   sq_fmt_percent(high, d, sizeof d));
    (void)sq_fmt_percent(max, c, sizeof c);
    if (s.n < j->min || s.n == 0)
        (void)too_few(&r, s.n, j->min);
    else if (high <= max)
        (void)sq_result_set(&r, SQ_V_PASS,
                            "%s of the error budget of %s was spent, %s may be (the budget is that of this load: %.3g "
                            "requests a second)",
                            a, b, c, (double)s.n / (double)secs);
    else if (low > max)
        (void)sq_result_set(&r, SQ_V_FAIL,
                            "%s of the error budget of %s is gone, %s was allowed: %llu of %llu requests failed", a, b,
                            c, (unsigned long long)s.bad, (unsigned long long)s.n);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "between %s and %s of the budget was spent: too few requests to tell on which side of %s",
                            sq_fmt_percent(low, a, sizeof a), sq_fmt_percent(high, d, sizeof d), c);
    return sq_result_add(results, &r, e);
}

struct burn {
    uint64_t looks, few; /* stretches; those with too few requests */
    uint64_t bad, n;     /* of the worst one */
    int64_t at;          /* its first second */
    double worst_low, worst_high;
};

static void look(const struct job *j, int64_t first, int64_t end, int64_t len, double conf, struct burn *b)
{
    for (int64_t at = first; at + len <= end; at++) {
        struct sq_ev_sums s;

        sum_of(j, at, at + len, &s);
        /* The load ends within its last second: what it sent in that is no stretch of its own. */
        if (s.n < j->min && at > first && (at + len) * SQ_S >= j->ev->load.to_ns)
            continue;
        b->few += s.n < j->min || s.n == 0;
        if (s.n == 0)
            continue;
        double low = sq_cp_lower(s.bad, s.n, conf) / j->allowed, high = sq_cp_upper(s.bad, s.n, CONF) / j->allowed;
        b->worst_high = high > b->worst_high ? high : b->worst_high;
        if (s.n < j->min)
            continue;
        b->worst_low = low > b->worst_low ? low : b->worst_low;
        if (b->n == 0 || (double)s.bad * (double)b->n > (double)b->bad * (double)s.n) {
            b->bad = s.bad;
            b->n = s.n;
            b->at = at;
        }
    }
}

static int judge_burn(const struct job *j, double max, int64_t len, json_t *results, struct sq_err *e)
{
    struct burn b = {0};
    struct sq_result r;
    char d[64];

    sq_result_init(&r, j->n_steps == 1 ? j->steps[0] : NULL, j->subject);
    (void)sq_fmt_duration(len * SQ_S, d, sizeof d);
    (void)snprintf(r.limit, sizeof r.limit, "burn rate <= %g over %s", max, d);
    for (size_t i = 0; i < j->n_steps; i++) {
        int64_t first, end;

        if (stretch_of(j, j->steps[i], &first, &end) && end - first >= len)
            b.looks += (uint64_t)(end - first - len + 1);
    }
    for (size_t i = 0; i < j->n_steps && b.looks; i++) {
        int64_t first, end;

        if (stretch_of(j, j->steps[i], &first, &end))
            look(j, first, end, len, 1.0 - (1.0 - CONF) / (double)b.looks, &b);
    }
    double seen = b.n ? (double)b.bad / (double)b.n / j->allowed : 0.0;
    r.n = b.n;
    if (b.n) {
        r.win = (struct sq_window){b.at * SQ_S, (b.at + len) * SQ_S};
        (void)snprintf(r.observed, sizeof r.observed, "burnt at %.3g at most (%llu bad of %llu)", seen,
                       (unsigned long long)b.bad, (unsigned long long)b.n);
        (void)snprintf(r.interval, sizeof r.interval, "[%.3g, %.3g] at 95 %%", b.worst_low, b.worst_high);
    }
    if (b.looks == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "no fault and what followed it lasted %s under load", d);
    else if (b.worst_low > max)
        (void)sq_result_set(&r, SQ_V_FAIL,
                            "the error budget burnt %.3g times as fast as it may in the %s from %lld s on (limit %g)",
                            seen, d, (long long)b.at, max);
    else if (b.few)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "in %llu of %llu stretches of %s there were fewer than %llu requests",
                            (unsigned long long)b.few, (unsigned long long)b.looks, d, (unsigned long long)j->min);
    else if (b.worst_high <= max)
        (void)sq_result_set(&r, SQ_V_PASS, "the error budget never burnt faster than %g over %s", max, d);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%llu requests in %s can't tell a burn rate of %.3g from one of %g",
                            (unsigned long long)b.n, d, seen, max);
    return sq_result_add(results, &r, e);
}

static bool counts_for_itself(const struct sq_slo *slo)
{
    return slo->below || slo->slice || strcmp(slo->source, "probe") != 0;
}

static int judge_limits(struct job *j, double spend, double burn, int64_t len, json_t *results, struct sq_err *e)
{
    int rc = 0;

    if (spend >= 0.0)
        rc = judge_spend(j, spend, results, e);
    return rc || burn <= 0.0 ? rc : judge_burn(j, burn, len, results, e);
}

/* An SLO whose indicator is more than good and bad answers of an endpoint. */
static int judge_slo(struct job *j, const struct sq_slo *slo, double spend, double burn, int64_t len, json_t *results,
                     struct sq_err *e)
{
    int rc = sq_slo_series(j->ev, slo, &j->series, e);
    uint64_t gaps = 0;

    if (rc)
        return rc;
    for (size_t i = 0; i < j->n_steps; i++) {
        int64_t first, end;

        if (stretch_of(j, j->steps[i], &first, &end))
            gaps += sq_slo_sum(&j->series, first, end).gaps;
    }
    if (j->series.unusable || !j->series.n)
        rc = sq_undecided(results, NULL, j->subject, "", e, "%s", j->series.why);
    else if (gaps)
        rc = sq_undecided(results, NULL, j->subject, "", e, "%llu s of it have no usable data: %s",
                          (unsigned long long)gaps, j->series.why);
    else if (!j->series.counted)
        rc = sq_undecided(results, NULL, j->subject, "", e, "a ratio without counts spends no known part of a budget");
    else if (slo->slice && burn > 0)
        rc = sq_undecided(results, NULL, j->subject, "", e, "the burn rate of time slices is in the table of SLOs");
    else
        rc = judge_limits(j, spend, burn, len, results, e);
    sq_slo_series_free(&j->series);
    return rc;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *endpoint = sq_json_str_or(p, "endpoint", NULL), *why;
    double target = sq_param_percent(p, "target", 0.0), spend = sq_param_percent(p, "max_spend", -1.0),
           burn = sq_json_num_or(p, "burn_rate", 0.0);
    cleanup_free const struct sq_ev_step **steps = NULL;
    cleanup_free const struct sq_ev_endpoint **eps = NULL;
    struct job j = {.ev = ev, .ep = endpoint ? sq_ev_endpoint(ev, endpoint) : NULL, .allowed = 1.0 - target / 100.0};
    const char *name = sq_json_str_or(p, "slo", NULL);
    struct sq_slo slo = {0};
    size_t n_eps = 0, ran = 0;

    j.window = sq_param_ns(p, "window", 30 * 86400 * SQ_S);
    j.min = (uint64_t)llabs(sq_json_int_or(p, "min_requests", 100));
    j.subject = name ? name : endpoint ? endpoint : "all endpoints";
    int64_t len = (sq_param_ns(p, "for", 60 * SQ_S) + SQ_S - 1) / SQ_S;
    if (!(target > 0.0 && target < 100.0) || j.window <= 0 || len <= 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "budget takes a target between 0 and 100 %%, a window and a stretch");
    if (spend < 0.0 && burn <= 0.0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "budget takes max_spend, burn_rate or both");
    int rc = name ? sq_slo_find(ev, name, &slo, e) : 0;
    rc = rc ? rc : sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &j.n_steps, e);
    rc = rc ? rc : sq_endpoints_named(ev, endpoint, &eps, &n_eps, e);
    if (rc)
        return rc;
    j.steps = steps;
    for (size_t i = 0; i < j.n_steps; i++)
        ran += steps[i]->ran;
    if (ran == 0 && j.n_steps)
        return sq_undecided_step(results, steps[0], j.subject, "", e);
    if (ran && name && counts_for_itself(&slo))
        return judge_slo(&j, &slo, spend, burn, len, results, e);
    if (ran == 0 || n_eps == 0)
        return sq_undecided(results, NULL, j.subject, "", e, ran ? "the probe recorded no request" : "no step ran");
    if ((why = sq_endpoints_void(eps, n_eps)))
        return sq_undecided(results, NULL, j.subject, "", e, "the probe missed its own schedule: %s", why);
    for (size_t i = 0; i < n_eps; i++)
        if (sq_closed_loop(ev, eps[i]->name))
            return sq_undecided(results, NULL, j.subject, "", e, SQ_CLOSED_LOOP);
    return judge_limits(&j, spend, burn, len, results, e);
}

const struct sq_check sq_check_budget = {
    .name = "budget",
    .doc = "The rehearsal spent no more of the error budget than was agreed, and not faster.",
    .params = params,
    .run = run,
};
