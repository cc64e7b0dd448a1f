/* What a Prometheus said about an SLO (`metric` records, EVIDENCE.md), as seconds: a value of a rate stands for the
 * time since the one before, a counter for what it grew by, any other value for one look. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/slo_series.h"

#define MAX_STEP 7200 /* seconds: further apart is a hole in the history */

enum mode { RATE, COUNTER, RAW, VALUE };

struct point {
    double t; /* seconds of the run */
    double part, total;
    const char *error; /* NULL: it has values */
};

struct points {
    struct point *p;
    size_t n, cap;
};

static enum mode mode_of(const json_t *indicator)
{
    if (json_object_get(indicator, "raw"))
        return RAW;
    if (json_object_get(indicator, "query"))
        return VALUE;
    return sq_json_bool_or(indicator, "counter", false) ? COUNTER : RATE;
}

static int add(struct points *list, struct point p, struct sq_err *e)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 256;
        void *v = reallocarray(list->p, cap, sizeof *list->p);

        if (!v)
            return sq_err(e, -ENOMEM, "no memory for an SLO");
        list->p = v;
        list->cap = cap;
    }
    list->p[list->n++] = p;
    return 0;
}

static double at(const json_t *row, size_t i)
{
    const json_t *v = json_array_get(row, i);

    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static int by_time(const void *va, const void *vb)
{
    const struct point *a = va, *b = vb;

    return a->t < b->t ? -1 : a->t > b->t;
}

/* HISTORY: of the time before the run, else of the run itself. */
static int collect(const struct sq_evidence *ev, const struct sq_slo *slo, bool history, struct points *out,
                   struct sq_err *e)
{
    int rc = 0;

    for (size_t i = 0; i < ev->n_events && !rc; i++) {
        const json_t *o = ev->events[i].obj, *values = json_object_get(o, "values"), *row;
        const json_t *past = json_object_get(o, "history");
        size_t k;

        if (strcmp(ev->events[i].type, "metric") != 0 || strcmp(sq_json_str_or(o, "slo", ""), slo->name) != 0)
            continue;
        if (history) {
            json_array_foreach(past, k, row) rc =
                rc ? rc : add(out, (struct point){at(row, 0), at(row, 1), at(row, 2), NULL}, e);
        } else if (!past && !json_object_get(o, "about")) {
            rc = add(out,
                     (struct point){(double)ev->events[i].t_ns / 1e9, at(values, 0), at(values, 1),
                                    values ? NULL : sq_json_str_or(o, "error", "no value")},
                     e);
        }
    }
    if (!rc && out->n > 1)
        qsort(out->p, out->n, sizeof *out->p, by_time);
    return rc;
}

/* Why the values of B (after A) say nothing; NULL: they do. */
static const char *wrong(const json_t *indicator, enum mode m, const struct point *a, const struct point *b)
{
    const bool bad = json_object_get(indicator, "bad") != NULL;

    if (b->error)
        return b->error;
    if (!isfinite(b->part) || (m < RAW && !isfinite(b->total)))
        return "a value is not a number";
    if (m == RAW && (b->part < -1e-9 || b->part > 1.001)) /* rates are extrapolated: never to the last digit */
        return "a ratio is not between 0 and 1";
    if (m < RAW && (b->part < 0 || b->total < 0))
        return "a value is negative";
    if (m == COUNTER && a && (b->part < a->part || b->total < a->total))
        return "a counter went back: something restarted; rate() in the query would bear it";
    if (m == RATE && b->part > b->total * 1.001 + 1e-9)
        return bad ? "there are more bad than all" : "there are more good than all";
    return NULL;
}

static void value_of(const json_t *indicator, enum mode m, const struct point *a, const struct point *b, double *good,
                     double *total)
{
    const char *op = sq_json_str_or(indicator, "op", "");
    double limit = sq_json_num_or(indicator, "value", 0), part = b->part, dt = a ? b->t - a->t : 0;

    if (m == RAW) {
        bool failure = strcmp(sq_json_str_or(indicator, "raw_type", ""), "failure") == 0;

        part = part > 1 ? 1 : part < 0 ? 0 : part;
        *total = 1;
        *good = failure ? 1 - part : part;
        return;
    }
    if (m == VALUE) {
        *total = 1;
        *good = strcmp(op, "lt") == 0    ? part < limit
                : strcmp(op, "lte") == 0 ? part <= limit
                : strcmp(op, "gt") == 0  ? part > limit
                                         : part >= limit;
        return;
    }
    part = m == COUNTER ? part - a->part : part * dt;
    *total = m == COUNTER ? b->total - a->total : b->total * dt;
    *good = json_object_get(indicator, "bad") ? *total - part : part;
    *good = *good > *total ? *total : *good < 0 ? 0 : *good;
}

const char *sq_slo_metric(const json_t *indicator, double t0, const double before[2], double t1, const double now[2],
                          double *good, double *total)
{
    enum mode m = mode_of(indicator);
    struct point a = {t0, before ? before[0] : 0, before ? before[1] : 0, NULL}, b = {t1, now[0], now[1], NULL};
    const char *why = wrong(indicator, m, before ? &a : NULL, &b);

    *good = *total = 0;
    if (!why && (before || m >= RAW))
        value_of(indicator, m, before ? &a : NULL, &b, good, total);
    return why;
}

/* Spread evenly over the seconds from A to B (RATE, COUNTER), or put into B's own second. */
static void put(struct sq_slo_series *s, size_t from_i, size_t to_i, double a, double b, bool spread, double good,
                double total)
{
    int64_t from = spread ? (int64_t)floor(a) : (int64_t)floor(b), to = (int64_t)floor(b);
    double len = b - a;

    for (int64_t sec = from; sec <= to; sec++) {
        double lo = a > (double)sec ? a : (double)sec, hi = b < (double)sec + 1 ? b : (double)sec + 1;
        double share = !spread ? 1 : len > 0 ? (hi - lo) / len : 0;
        int64_t i = sec - s->first;

        if (i < (int64_t)from_i || i >= (int64_t)to_i || share <= 0)
            continue;
        s->good[i] += good * share;
        s->total[i] += total * share;
    }
}

static void mark(struct sq_slo_series *s, double a, double b, const char *why)
{
    for (int64_t sec = (int64_t)floor(a); (double)sec < b; sec++) {
        int64_t i = sec - s->first;

        if (i >= (int64_t)s->before && i < (int64_t)s->n)
            s->gap[i] = true;
    }
    if (!s->why[0])
        (void)snprintf(s->why, sizeof s->why, "%.250s", why);
}

static void fill_run(const struct sq_slo *slo, enum mode m, const struct points *list, struct sq_slo_series *s)
{
    const struct point *before = NULL;
    double begin = (double)(s->first + (int64_t)s->before), seen = begin, good, total;

    for (size_t i = 0; i < list->n; i++) {
        const struct point *p = &list->p[i];
        const char *why = wrong(slo->indicator, m, before, p);

        if (why) {
            mark(s, seen, p->t + 1e-6, why);
            seen = p->t;
            if (m == COUNTER && !p->error) /* it goes on from here */
                before = p;
            continue;
        }
        if (m >= RAW || before) {
            value_of(slo->indicator, m, before, p, &good, &total);
            put(s, s->before, s->n, before ? before->t : p->t, p->t, m < RAW, good, total);
        }
        before = p;
        seen = p->t;
    }
}

static void fill_before(const struct sq_slo *slo, enum mode m, const struct points *list, struct sq_slo_series *s)
{
    const struct point *before = NULL;
    double good, total;

    for (size_t i = 0; i < list->n; i++) {
        const struct point *p = &list->p[i];

        if (wrong(slo->indicator, m, m == COUNTER ? before : NULL, p)) {
            before = NULL;
            continue;
        }
        if (m >= RAW || (before && p->t - before->t <= MAX_STEP)) {
            value_of(slo->indicator, m, before, p, &good, &total);
            put(s, 0, s->before, before ? before->t : p->t, p->t, m < RAW, good, total);
            s->history = true;
        }
        before = p;
    }
}

int sq_slo_from_metrics(const struct sq_evidence *ev, const struct sq_slo *slo, struct sq_slo_series *s,
                        struct sq_err *e)
{
    static const char *const units[] = {"requests (by their rate)", "requests", "ratios", "values"};
    struct points now = {0}, past = {0};
    enum mode m = mode_of(slo->indicator);

    s->unit = units[m];
    s->counted = m != RAW;
    s->gap = calloc(s->n, sizeof *s->gap);
    int rc = s->gap ? 0 : sq_err(e, -ENOMEM, "no memory for an SLO");
    rc = rc ? rc : collect(ev, slo, false, &now, e);
    rc = rc ? rc : collect(ev, slo, true, &past, e);
    if (!rc && now.n == 0) {
        (void)snprintf(s->why, sizeof s->why, "the Prometheus was never asked");
        s->unusable = s->why;
    }
    if (!rc) {
        fill_run(slo, m, &now, s);
        fill_before(slo, m, &past, s);
    }
    free(now.p);
    free(past.p);
    return rc;
}
