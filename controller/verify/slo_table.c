/* What the run meant for each SLO of the scenario: how much of the budget is gone, and which of the standard burn-rate
 * alerts would have fired, and when. A table beside the verdict: it decides nothing. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"
#include "verify/burn.h"
#include "verify/slo_series.h"

static const char *windows(int64_t secs, char *buf, size_t len)
{
    if (secs % 86400 == 0)
        (void)snprintf(buf, len, "%lldd", (long long)(secs / 86400));
    else if (secs % 3600 == 0)
        (void)snprintf(buf, len, "%lldh", (long long)(secs / 3600));
    else
        (void)snprintf(buf, len, "%lldm", (long long)(secs / 60));
    return buf;
}

static json_t *alert(const struct sq_burn_rule *rule, const struct sq_burn_state *st, int64_t begin)
{
    char a[24], b[24];
    json_t *o = json_pack("{s:s,s:f,s:s,s:s,s:s,s:f}", "severity", rule->severity, "burn_rate", rule->rate, "long",
                          windows(rule->longer, a, sizeof a), "short", windows(rule->shorter, b, sizeof b), "state",
                          st->fired      ? "fired"
                          : st->possible ? "quiet"
                                         : "impossible",
                          "worst", st->worst);

    if (o && st->fired) {
        (void)json_object_set_new(o, "at", json_integer(begin + st->at + 1));
        (void)json_object_set_new(o, "until", json_integer(begin + st->until + 1));
    }
    return o;
}

static json_t *alerts(const struct sq_slo *slo, const struct sq_slo_series *s)
{
    struct sq_burn_state st[4];
    json_t *list = json_array();

    if (!list || sq_burn(s->good, s->total, s->n, s->before, 1 - slo->target, st) < 0) {
        json_decref(list);
        return NULL;
    }
    for (size_t i = 0; i < 4; i++)
        (void)json_array_append_new(list, alert(&sq_burn_rules[i], &st[i], s->first + (int64_t)s->before));
    return list;
}

/* Percent of the window's budget that the run spent, at the run's own traffic. */
static double spent(const struct sq_slo *slo, const struct sq_slo_series *s, const struct sq_slo_sum *sum)
{
    double secs = (double)(s->n - s->before), window = (double)slo->window_ns / 1e9;

    if (slo->slice)
        return 100 * (sum->total - sum->good) / ((1 - slo->target) * window / (double)slo->slice);
    return 100 * (sum->total - sum->good) / ((1 - slo->target) * sum->total * window / secs);
}

static void describe(const struct sq_slo *slo, char *buf, size_t len)
{
    const char *url = sq_json_str_or(slo->indicator, "prometheus", "");
    char below[64] = "";

    if (slo->below)
        (void)sq_fmt_duration(slo->below, below, sizeof below);
    if (strcmp(slo->source, "probe") != 0)
        (void)snprintf(buf, len, "%.80s", url);
    else
        (void)snprintf(buf, len, "%s%s%s", slo->endpoint, slo->below ? " below " : "", below);
}

static int row(const struct sq_evidence *ev, const char *name, json_t *rows, struct sq_err *e)
{
    struct sq_slo slo;
    struct sq_slo_series s;
    char what[256];
    int rc = sq_slo_find(ev, name, &slo, e);

    rc = rc ? rc : sq_slo_series(ev, &slo, &s, e);
    if (rc)
        return rc;
    struct sq_slo_sum sum = sq_slo_sum(&s, s.first + (int64_t)s.before, s.first + (int64_t)s.n);
    describe(&slo, what, sizeof what);
    json_t *o = json_pack("{s:s,s:s,s:s,s:f,s:I,s:s,s:f,s:f}", "slo", slo.name, "source", slo.source, "indicator", what,
                          "target", 100 * slo.target, "window_s", (json_int_t)(slo.window_ns / SQ_S), "unit", s.unit,
                          "good", sum.good, "total", sum.total);
    if (o && !s.unusable && sum.total > 0) {
        json_t *list = alerts(&slo, &s);

        rc = list ? 0 : sq_err(e, -ENOMEM, "no memory for an SLO");
        (void)json_object_set_new(o, "observed", json_real(100 * sum.good / sum.total));
        (void)json_object_set_new(o, "spent", json_real(spent(&slo, &s, &sum)));
        (void)json_object_set_new(o, "before", json_string(s.history ? "measured" : "taken as clean"));
        (void)json_object_set_new(o, "alerts", list);
    }
    if (o && (s.unusable || s.why[0] || sum.total <= 0))
        (void)json_object_set_new(o, "why", sq_result_text(s.why[0] ? s.why : "nothing was measured"));
    if (o && sum.gaps)
        (void)json_object_set_new(o, "gap_s", json_integer((json_int_t)sum.gaps));
    sq_slo_series_free(&s);
    if (!o || json_array_append_new(rows, o) < 0)
        return sq_err(e, -ENOMEM, "no memory for an SLO");
    return rc;
}

int sq_slo_table(const struct sq_evidence *ev, json_t **rows, struct sq_err *e)
{
    json_t *list = json_array(), *unused;
    const char *name;
    int rc = list ? 0 : sq_err(e, -ENOMEM, "no memory for SLOs");

    json_object_foreach(json_object_get(ev->spec, "slos"), name, unused)
    {
        rc = rc ? rc : row(ev, name, list, e);
    }
    if (rc) {
        json_decref(list);
        list = NULL;
    }
    *rows = list;
    return rc;
}
