#include "verify/values.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static const struct {
    const char *written, *name;
} metrics[] = {
    {"p50", "p50"},           {"p95", "p95"},
    {"p99", "p99"},           {"p99.9", "p99.9"},
    {"mean", "mean"},         {"throughput", "throughput"},
    {"latency_p50", "p50"},   {"latency_p95", "p95"},
    {"latency_p99", "p99"},   {"latency_p99.9", "p99.9"},
    {"latency_mean", "mean"}, {"throughput_min", "throughput"},
};

const char *sq_metric_name(const char *text)
{
    for (size_t i = 0; i < SQ_COUNT(metrics); i++)
        if (strcmp(metrics[i].written, text) == 0)
            return metrics[i].name;
    return NULL;
}

bool sq_metric_more(const char *metric)
{
    return strcmp(metric, "throughput") == 0;
}

/* A run in which nothing was answered well is the worst of all: left out, it would only do its side good. Not 0, whose
 * logarithm is none. */
#define NOTHING 1e-9

double sq_metric_of(const json_t *run, const char *endpoint, const char *metric)
{
    const json_t *v = json_object_get(json_object_get(json_object_get(run, "values"), endpoint), metric);
    double x = json_is_number(v) ? json_number_value(v) : 0;

    if (!isfinite(x) || x < 0)
        return 0;
    return json_is_number(v) && sq_metric_more(metric) && x < NOTHING ? NOTHING : x;
}

char *sq_metric_text(const char *metric, double value, char *buf, size_t len)
{
    if (!sq_metric_more(metric))
        return sq_fmt_duration((int64_t)value, buf, len);
    (void)snprintf(buf, len, "%.4g/s", value > NOTHING ? value : 0);
    return buf;
}

/* The seconds of load. In those behind the run's last phase in which nothing was to be sent the probe only waited for
 * last answers. Before its end a second without requests is one: of a slow rate, or of users who all wait. */
static struct sq_window asked_for(const struct sq_evidence *ev)
{
    struct sq_window win = ev->load;
    int64_t last = -1;

    for (size_t i = 0; i < ev->n_phases; i++) {
        int64_t sec = ev->phases[i].win.to_ns / SQ_S - 1;

        last = sec > last ? sec : last;
    }
    for (size_t i = 0; i < ev->n_endpoints; i++) {
        const struct sq_ev_endpoint *ep = &ev->endpoints[i];

        for (size_t k = ep->n; k-- > 0;) {
            const struct sq_ev_second *s = &ep->secs[k];

            if (s->sent + s->ok + s->bad + s->late == 0)
                continue;
            last = s->sec > last ? s->sec : last;
            break;
        }
    }
    if (last >= 0 && last < win.to_ns / SQ_S)
        win.to_ns = (last + 1) * SQ_S;
    return win;
}

int sq_values_window(const struct sq_evidence *ev, const char *name, struct sq_window *win, const char **used,
                     struct sq_err *e)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);
    const struct sq_ev_step *step;

    *used = name ? name : steady ? "steady" : "load";
    if (strcmp(*used, "load") == 0) {
        *win = asked_for(ev);
        return 0;
    }
    if (strcmp(*used, "steady") == 0) {
        if (!steady)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "run %s has no steady state", ev->id);
        *win = steady->win;
        return 0;
    }
    step = sq_ev_step(ev, *used);
    if (!step || !step->ran)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "run %s has no step %.60s", ev->id, *used);
    *win = step->win;
    return 0;
}

int sq_endpoint_values(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
                       struct sq_hist *h, json_t **out, struct sq_err *e)
{
    struct sq_ev_sums sums;
    int rc;

    sq_hist_reset(h);
    sq_ev_sum(ev, ep, first, end, &sums);
    rc = sq_ev_hist(ev, ep, first, end, "h", h, e);
    if (rc < 0)
        return rc;
    *out = NULL;
    if (sq_hist_count(h) == 0)
        return 0;
    *out = json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:I}", "p50", (json_int_t)sq_hist_percentile(h, 50), "p95",
                     (json_int_t)sq_hist_percentile(h, 95), "p99", (json_int_t)sq_hist_percentile(h, 99), "p99.9",
                     (json_int_t)sq_hist_percentile(h, 99.9), "mean", sq_hist_mean(h), "throughput",
                     (double)sums.ok / (double)(end - first), "n", (json_int_t)sums.n);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

int sq_run_values(const struct sq_evidence *ev, const char *window, json_t **out, struct sq_err *e)
{
    cleanup_json json_t *values = json_object();
    cleanup_json json_t *left_out = json_object();
    struct sq_hist *h = sq_hist_new();
    struct sq_window win = {0, 0};
    const char *used = "";
    int64_t first = 0, end = 0;
    int rc =
        h && values && left_out ? sq_values_window(ev, window, &win, &used, e) : sq_err(e, -ENOMEM, "out of memory");

    if (rc == 0 && !sq_window_secs(win, &first, &end))
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "run %s has no whole second of load in \"%s\"", ev->id, used);
    for (size_t i = 0; rc == 0 && i < ev->n_endpoints; i++) {
        const struct sq_ev_endpoint *ep = &ev->endpoints[i];
        json_t *one = NULL;

        if (ep->is_void) {
            (void)json_object_set_new(left_out, ep->name, json_string(ep->void_why));
            continue;
        }
        rc = sq_endpoint_values(ev, ep, first, end, h, &one, e);
        if (rc == 0 && one)
            (void)json_object_set_new(values, ep->name, one);
        else if (rc == 0)
            (void)json_object_set_new(left_out, ep->name, json_string("no requests in the window"));
    }
    if (rc == 0) {
        *out = json_pack("{s:s,s:s,s:s,s:O,s:O}", "id", ev->id, "start", ev->start, "window", used, "values", values,
                         "left_out", left_out);
        rc = *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
    }
    sq_hist_free(h);
    return rc;
}
