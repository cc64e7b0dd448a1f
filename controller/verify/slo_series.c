#include "verify/slo_series.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"

int sq_slo_find(const struct sq_evidence *ev, const char *name, struct sq_slo *out, struct sq_err *e)
{
    const json_t *def = json_object_get(json_object_get(ev->spec, "slos"), name);
    const json_t *indicator = json_object_get(def, "indicator"), *slices = json_object_get(def, "slices");
    double target = sq_json_num_or(def, "target", 0) / 100;

    if (!json_is_object(def))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the scenario has no SLO \"%.60s\"", name);
    *out = (struct sq_slo){.name = json_object_iter_key(json_object_iter_at(json_object_get(ev->spec, "slos"), name)),
                           .endpoint = sq_json_str_or(indicator, "endpoint", ""),
                           .source = sq_json_str_or(indicator, "source", ""),
                           .target = target,
                           .window_ns = sq_json_int_or(def, "window", 30 * 86400 * SQ_S),
                           .below = sq_json_int_or(indicator, "below", 0),
                           .failed_ignored = strcmp(sq_json_str_or(indicator, "failed", ""), "ignored") == 0,
                           .slice = sq_json_int_or(slices, "of", 0) / SQ_S,
                           .slice_target = sq_json_num_or(slices, "target", 100) / 100,
                           .def = def,
                           .indicator = indicator};
    if (!(target > 0 && target < 1) || out->window_ns < SQ_S || out->slice < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "SLO \"%.60s\": its target or its window is none", name);
    return 0;
}

void sq_slo_series_free(struct sq_slo_series *s)
{
    free(s->good);
    free(s->total);
    free(s->gap);
    *s = (struct sq_slo_series){0};
}

struct sq_slo_sum sq_slo_sum(const struct sq_slo_series *s, int64_t from, int64_t to)
{
    int64_t begin = s->first + (int64_t)s->before, end = s->first + (int64_t)s->n;
    struct sq_slo_sum sum = {0};

    from = from > begin ? from : begin;
    to = to < end ? to : end;
    for (int64_t sec = from; sec < to; sec++) {
        size_t i = (size_t)(sec - s->first);

        sum.good += s->good[i];
        sum.total += s->total[i];
        sum.gaps += s->gap && s->gap[i];
    }
    return sum;
}

/* ---- our own probe ---- */

static int probe_second(const struct sq_evidence *ev, const struct sq_slo *slo, const struct sq_ev_endpoint *ep,
                        int64_t sec, struct sq_hist *h, double *good, double *total, struct sq_err *e)
{
    struct sq_ev_sums sum;

    sq_ev_sum(ev, ep, sec, sec + 1, &sum);
    *total = (double)sum.n;
    *good = (double)sum.ok;
    if (!slo->below || sum.n == 0)
        return 0;
    sq_hist_reset(h);
    int rc = sq_ev_hist(ev, ep, sec, sec + 1, slo->failed_ignored ? "h" : "hok", h, e);
    if (rc)
        return rc;
    *good = (double)sq_hist_count_le(h, slo->below);
    if (slo->failed_ignored)
        *total = (double)sq_hist_count(h);
    return 0;
}

static int from_probe(const struct sq_evidence *ev, const struct sq_slo *slo, struct sq_slo_series *s, struct sq_err *e)
{
    const struct sq_ev_endpoint *ep = sq_ev_endpoint(ev, slo->endpoint);
    struct sq_hist *h = sq_hist_new();
    int rc = h ? 0 : sq_err(e, -ENOMEM, "no memory for an SLO");

    s->unit = "requests";
    s->counted = true;
    if (!ep)
        (void)snprintf(s->why, sizeof s->why, "the probe recorded no request");
    else if (ep->is_void)
        (void)snprintf(s->why, sizeof s->why, "the probe missed its own schedule: %s", ep->void_why);
    else if (sq_closed_loop(ev, slo->endpoint))
        (void)snprintf(s->why, sizeof s->why, SQ_CLOSED_LOOP);
    s->unusable = s->why[0] ? s->why : NULL;
    for (size_t i = s->before; i < s->n && !rc && ep; i++)
        rc = probe_second(ev, slo, ep, s->first + (int64_t)i, h, &s->good[i], &s->total[i], e);
    sq_hist_free(h);
    return rc;
}

/* ---- both ---- */

/* What is not known of the time before the run is taken as clean, with the run's own traffic. */
static void assume_clean(struct sq_slo_series *s)
{
    struct sq_slo_sum sum = sq_slo_sum(s, s->first + (int64_t)s->before, s->first + (int64_t)s->n);
    double rate = s->n > s->before ? sum.total / (double)(s->n - s->before) : 0;

    for (size_t i = 0; i < s->before; i++)
        s->good[i] = s->total[i] = rate;
}

/* Slices count as one, good or bad, in their last second; those of the run begin with it. One without traffic counts as
 * none. */
static void slice(const struct sq_slo *slo, struct sq_slo_series *s)
{
    size_t len = (size_t)slo->slice, from = s->before % len;

    for (size_t i = 0; i < from; i++)
        s->good[i] = s->total[i] = 0;
    for (size_t at = from; at < s->n; at += len) {
        double good = 0, total = 0;
        size_t end = at + len < s->n ? at + len : s->n;

        for (size_t i = at; i < end; i++) {
            good += s->good[i];
            total += s->total[i];
            s->good[i] = s->total[i] = 0;
        }
        if (end - at < len || total <= 0)
            continue;
        s->total[end - 1] = 1;
        s->good[end - 1] = good >= slo->slice_target * total * (1 - 1e-12) ? 1 : 0;
    }
    s->unit = "time slices";
    s->counted = true;
}

int sq_slo_series(const struct sq_evidence *ev, const struct sq_slo *slo, struct sq_slo_series *out, struct sq_err *e)
{
    const bool probe = strcmp(slo->source, "probe") == 0;
    struct sq_window all = {0, ev->last_ns};
    int64_t first, end;

    *out = (struct sq_slo_series){.unit = ""};
    if (!sq_window_secs(probe ? ev->load : all, &first, &end) || end - first > SQ_EV_MAX_SECONDS) {
        (void)snprintf(out->why, sizeof out->why, "nothing was measured");
        out->unusable = out->why;
        return 0;
    }
    out->before = SQ_SLO_BEFORE;
    out->first = first - SQ_SLO_BEFORE;
    out->n = (size_t)(end - out->first);
    out->good = calloc(out->n, sizeof *out->good);
    out->total = calloc(out->n, sizeof *out->total);
    int rc = out->good && out->total ? 0 : sq_err(e, -ENOMEM, "no memory for an SLO");
    if (!rc)
        rc = probe ? from_probe(ev, slo, out, e) : sq_slo_from_metrics(ev, slo, out, e);
    if (!rc && !out->history)
        assume_clean(out);
    if (!rc && slo->slice)
        slice(slo, out);
    if (rc)
        sq_slo_series_free(out);
    return rc;
}
