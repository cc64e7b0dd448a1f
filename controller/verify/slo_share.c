/* slo, of an SLO that no single threshold says: the share of good requests (or slices, or looks at a value) during the
 * faults, by an exact interval against the target. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "squall/units.h"
#include "verify/slo_series.h"
#include "verify/stats.h"

/* ">= 99.9 % good within 500 ms" */
static void subject_limit(const struct sq_slo *slo, struct sq_result *r)
{
    char a[64], b[64];

    (void)sq_fmt_percent(100 * slo->target, a, sizeof a);
    if (slo->below)
        (void)snprintf(r->limit, sizeof r->limit, ">= %s good within %s", a, sq_fmt_duration(slo->below, b, sizeof b));
    else
        (void)snprintf(r->limit, sizeof r->limit, ">= %s good", a);
}

/* Ratios have no counts, so there is no interval: the measured share itself. */
static void judge_plain(const struct sq_slo *slo, const struct sq_slo_sum *sum, struct sq_result *r)
{
    double share = sum->good / sum->total;
    char a[64], b[64];

    (void)sq_fmt_percent(100 * share, a, sizeof a);
    (void)sq_fmt_percent(100 * slo->target, b, sizeof b);
    (void)snprintf(r->interval, sizeof r->interval, "none: ratios without counts");
    if (share >= slo->target)
        (void)sq_result_set(r, SQ_V_PASS, "%s were good on average, %s were promised", a, b);
    else
        (void)sq_result_set(r, SQ_V_FAIL, "only %s were good on average, %s were promised", a, b);
}

static void judge_counts(const struct sq_slo *slo, const struct sq_slo_sum *sum, const char *unit, double conf,
                         struct sq_result *r)
{
    uint64_t n = (uint64_t)llround(sum->total), bad = (uint64_t)llround(sum->total - sum->good);
    double allowed = 1 - slo->target;
    char a[64], b[64], c[64];

    bad = bad > n ? n : bad;
    double low = sq_cp_lower(bad, n, conf), high = sq_cp_upper(bad, n, conf);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at %g %%", sq_fmt_percent(100 * (1 - high), a, sizeof a),
                   sq_fmt_percent(100 * (1 - low), b, sizeof b), conf * 100);
    (void)sq_fmt_percent(100 * slo->target, c, sizeof c);
    if (n == 0) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "there was less than one of its %s", unit);
    } else if (high <= allowed) {
        (void)sq_result_set(r, SQ_V_PASS, "%llu of %llu %s were bad: the SLO of %s held", (unsigned long long)bad,
                            (unsigned long long)n, unit, c);
    } else if (low > allowed) {
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu %s were bad, more than an SLO of %s allows",
                            (unsigned long long)bad, (unsigned long long)n, unit, c);
    } else {
        uint64_t need = sq_trials_to_decide(bad, n, allowed, conf);

        if (need > n)
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu %s are too few to decide an SLO of %s: about %llu would do",
                                (unsigned long long)n, unit, c, (unsigned long long)need);
        else
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu bad of %llu %s are too near to the limit to be decided",
                                (unsigned long long)bad, (unsigned long long)n, unit);
    }
}

static void judge(const struct sq_slo *slo, const struct sq_slo_series *s, const struct sq_window *secs, size_t n,
                  double conf, struct sq_result *r)
{
    struct sq_slo_sum sum = {0};
    char a[64];

    for (size_t i = 0; i < n; i++) {
        struct sq_slo_sum one = sq_slo_sum(s, secs[i].from_ns, secs[i].to_ns);

        sum.good += one.good;
        sum.total += one.total;
        sum.gaps += one.gaps;
        r->win.from_ns = i && r->win.from_ns < secs[i].from_ns * SQ_S ? r->win.from_ns : secs[i].from_ns * SQ_S;
        r->win.to_ns = i && r->win.to_ns > secs[i].to_ns * SQ_S ? r->win.to_ns : secs[i].to_ns * SQ_S;
    }
    r->n = (uint64_t)llround(sum.total);
    if (sum.total > 0)
        (void)snprintf(r->observed, sizeof r->observed, "%s good (%llu of %llu %s)",
                       sq_fmt_percent(100 * sum.good / sum.total, a, sizeof a), (unsigned long long)llround(sum.good),
                       (unsigned long long)r->n, s->unit);
    if (s->unusable)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%s", s->unusable);
    else if (sum.gaps)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu s of it have no usable data: %s", (unsigned long long)sum.gaps,
                            s->why);
    else if (sum.total <= 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "there were no %s in a whole second of the step", s->unit);
    else if (!s->counted)
        judge_plain(slo, &sum, r);
    else
        judge_counts(slo, &sum, s->unit, conf, r);
}

int sq_slo_judge(const struct sq_evidence *ev, const struct sq_slo *slo, const struct sq_ev_step *only,
                 const struct sq_window *secs, size_t n, double conf, json_t *results, struct sq_err *e)
{
    struct sq_slo_series s;
    struct sq_result r;
    int rc = sq_slo_series(ev, slo, &s, e);

    if (rc)
        return rc;
    sq_result_init(&r, only, slo->name);
    subject_limit(slo, &r);
    judge(slo, &s, secs, n, conf, &r);
    rc = sq_result_add(results, &r, e);
    sq_slo_series_free(&s);
    return rc;
}
