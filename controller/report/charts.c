#include "report/charts.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/markup.h"
#include "report/series.h"
#include "report/svg.h"
#include "squall/cleanup.h"
#include "verify/breaker.h"

static double seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

static struct sq_chart chart(FILE *out, const struct sq_evidence *ev, const char *title, const char *unit, double max)
{
    return (struct sq_chart){.out = out,
                             .title = title,
                             .t0 = seconds(ev->load.from_ns),
                             .t1 = seconds(ev->load.to_ns),
                             .max = max,
                             .unit = unit,
                             .height = 150};
}

static void shade(struct sq_chart *c, const struct sq_evidence *ev, bool labels)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);

    if (steady)
        sq_chart_span(c, seconds(steady->win.from_ns), seconds(steady->win.to_ns), "steady",
                      labels ? "steady state" : "");
    for (size_t i = 0; i < ev->n_faults; i++)
        if (ev->faults[i].applied)
            sq_chart_span(c, seconds(ev->faults[i].win.from_ns), seconds(ev->faults[i].win.to_ns), "fault",
                          labels ? ev->faults[i].step : "");
}

struct columns { /* the points, as the lines want them */
    double *t, *p50, *p95, *p99, *bad;
    double *all;
};

static int columns(const struct sq_point *p, size_t n, struct columns *c, struct sq_err *e)
{
    c->all = calloc(5 * (n ? n : 1), sizeof *c->all);
    if (!c->all)
        return sq_err(e, -ENOMEM, "out of memory");
    c->t = c->all;
    c->p50 = c->all + n;
    c->p95 = c->all + 2 * n;
    c->p99 = c->all + 3 * n;
    c->bad = c->all + 4 * n;
    for (size_t i = 0; i < n; i++) {
        c->t[i] = (double)p[i].sec + 0.5;
        c->p50[i] = p[i].p50;
        c->p95[i] = p[i].p95;
        c->p99[i] = p[i].p99;
        c->bad[i] = p[i].n ? 100.0 * (double)p[i].bad / (double)p[i].n : (double)NAN;
    }
    return 0;
}

static double highest(const double *v, size_t n)
{
    double top = 0;

    for (size_t i = 0; i < n; i++)
        if (v[i] > top)
            top = v[i];
    return top;
}

/* Of those that are known; 1 when none is. */
static double lowest(const double *v, size_t n)
{
    double low = 1;

    for (size_t i = 0; i < n; i++)
        low = v[i] < low ? v[i] : low; /* NAN is less than nothing */
    return low;
}

static int users(FILE *out, const struct sq_evidence *ev, struct sq_err *e)
{
    static const char *const keys[] = {"p50", "p50", "p95", "p95", "p99", "p99", "fault", "fault active", NULL};
    cleanup_free struct sq_point *points = NULL;
    struct columns c = {0};
    size_t n = 0;
    int r = sq_points(ev, NULL, &points, &n, e);

    if (r == 0)
        r = columns(points, n, &c, e);
    if (r == 0) {
        struct sq_chart latency = chart(out, ev, "Latency, from the planned send time", "ms", 10);
        struct sq_chart errors = chart(out, ev, "Error rate", "%", sq_round_up(fmax(1, highest(c.bad, n))));

        latency.log = true;
        latency.min = lowest(c.p50, n) < 0.1 ? 0.01 : 0.1;
        while (latency.max < highest(c.p99, n))
            latency.max *= 10;
        latency.height = 220;
        sq_chart_begin(&latency);
        shade(&latency, ev, true);
        sq_chart_line(&latency, c.t, c.p50, n, "p50");
        sq_chart_line(&latency, c.t, c.p95, n, "p95");
        sq_chart_line(&latency, c.t, c.p99, n, "p99");
        sq_chart_end(&latency);
        sq_legend(out, keys);
        errors.height = 90;
        sq_chart_begin(&errors);
        shade(&errors, ev, false);
        sq_chart_line(&errors, c.t, c.bad, n, "bad");
        sq_chart_end(&errors);
    }
    free(c.all);
    return r;
}

static unsigned total(const struct sq_rates *r)
{
    return r->answered + r->failed + r->gave_up + r->broken;
}

static int edge_calls(FILE *out, const struct sq_evidence *ev, const char *edge, struct sq_err *e)
{
    static const char *const keys[] = {"ok",    "answered",           "failed", "failed by the fault",
                                       "gave",  "the caller gave up", "broken", "no answer, refused or broken off",
                                       "fault", "fault active",       NULL};
    cleanup_free struct sq_rates *rates = NULL;
    char title[256];
    unsigned top = 1;
    struct sq_chart c;
    size_t n = 0;
    int r = sq_edge_rates(ev, edge, &rates, &n, e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        if (total(&rates[i]) > top)
            top = total(&rates[i]);
    (void)snprintf(title, sizeof title, "Calls on %s", edge);
    c = chart(out, ev, title, "per second", sq_round_up(top));
    sq_chart_begin(&c);
    shade(&c, ev, false);
    for (size_t i = 0; i < n; i++) {
        double t = c.t0 + (double)i, a = rates[i].answered, b = a + rates[i].failed, g = b + rates[i].gave_up;

        sq_chart_bar(&c, t, 0.9, 0, a, "ok");
        sq_chart_bar(&c, t, 0.9, a, b, "failed");
        sq_chart_bar(&c, t, 0.9, b, g, "gave");
        sq_chart_bar(&c, t, 0.9, g, g + rates[i].broken, "broken");
    }
    sq_chart_end(&c);
    sq_legend(out, keys);
    return 0;
}

static int breaker_band(FILE *out, const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_err *e)
{
    cleanup_free struct sq_breaker_span *spans = NULL;
    char title[320];
    struct sq_chart c;
    size_t n = 0;
    int r = sq_breaker_spans(ev, s, &spans, &n, e);

    if (r < 0)
        return r;
    (void)snprintf(title, sizeof title, "Breaker of %s on %s, as its calls show it", s->instance, s->edge);
    c = chart(out, ev, title, "", 1);
    c.height = 22;
    sq_chart_begin(&c);
    for (size_t i = 0; i < n; i++)
        sq_chart_span(&c, seconds(spans[i].win.from_ns), seconds(spans[i].win.to_ns),
                      sq_breaker_state_name(spans[i].state), "");
    sq_chart_end(&c);
    return 0;
}

int sq_charts(FILE *out, const struct sq_evidence *ev, struct sq_err *e)
{
    static const char *const keys[] = {"closed",    "closed (calls flow)", "open",    "open (silence)",
                                       "half-open", "half-open (trials)",  "unknown", "too few calls to tell",
                                       NULL};
    const char *edge;
    size_t i = 0;
    int r;

    if (ev->load.to_ns <= ev->load.from_ns)
        return 0;
    (void)fputs("<h2>Timeline</h2>\n<div class=\"wrap\"><div class=\"charts\">\n", out);
    r = users(out, ev, e);
    while (r == 0 && (edge = sq_next_edge(ev, &i)) != NULL)
        r = edge_calls(out, ev, edge, e);
    for (i = 0; r == 0 && i < ev->n_series; i++)
        r = breaker_band(out, ev, &ev->series[i], e);
    if (r == 0 && ev->n_series > 0)
        sq_legend(out, keys);
    (void)fputs("</div></div>\n", out);
    return r;
}
