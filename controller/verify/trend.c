/* trend: "5 % a day, three days running" is a regression that no single comparison sees. Daily medians of enough runs;
 * by chance alone three such rises happen 0.1 times a year for a metric whose runs vary by 5 %, once at 8 %: so the
 * first and the last day must differ beyond chance, too. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/history.h"
#include "verify/rank.h"
#include "verify/result.h"
#include "verify/values.h"

#define DAYS_MOST 60
#define P 0.01

static const struct sq_param params[] = {
    {"metric", SQ_P_STRING, 0, "p99", NULL, "p50, p95, p99, p99.9, mean or throughput"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: each of them"},
    {"rise", SQ_P_PERCENT, 0, "5%", NULL, "worse by so much from one day to the next"},
    {"days", SQ_P_INT, 0, "3", NULL, "so many times running (1 to 30)"},
    {"min_runs", SQ_P_INT, 0, "8", NULL, "a day with fewer runs does not count"},
    SQ_PARAM_END,
};

struct day {
    char date[11];
    double v[SQ_RANK_MAX];
    size_t n;
};

static struct day *day_of(struct day *days, size_t *n, const char *date)
{
    for (size_t i = 0; i < *n; i++)
        if (strncmp(days[i].date, date, 10) == 0)
            return &days[i];
    if (*n == DAYS_MOST)
        return NULL;
    (void)snprintf(days[*n].date, sizeof days[*n].date, "%.10s", date);
    days[*n].n = 0;
    return &days[(*n)++];
}

static int by_date(const void *a, const void *b)
{
    return strcmp(((const struct day *)a)->date, ((const struct day *)b)->date);
}

/* The smallest change between two days that their runs can show, in percent. */
static double visible(const struct day *a, const struct day *b)
{
    return 100.0 * sq_detectable(fmax(sq_cv(a->v, a->n), sq_cv(b->v, b->n)), a->n, b->n, P);
}

/* Values by day, oldest first, without days of too few runs. */
static size_t collect(const json_t *runs, const char *endpoint, const char *metric, size_t min, struct day *days)
{
    const json_t *run;
    size_t i, n = 0, kept = 0;

    json_array_foreach(runs, i, run)
    {
        double v = sq_metric_of(run, endpoint, metric);
        struct day *d = v > 0 ? day_of(days, &n, sq_json_str_or(run, "start", "")) : NULL;

        if (d && d->n < SQ_RANK_MAX)
            d->v[d->n++] = v;
    }
    qsort(days, n, sizeof *days, by_date);
    for (i = 0; i < n; i++)
        if (days[i].n >= min)
            days[kept++] = days[i];
    return kept;
}

static double worse_by(const char *metric, double from, double to)
{
    return sq_metric_more(metric) ? 100.0 * (from / to - 1.0) : 100.0 * (to / from - 1.0);
}

static int judge(const char *endpoint, const char *metric, struct day *days, size_t n, size_t want, double rise,
                 json_t *results, struct sq_err *e)
{
    struct sq_result r;
    struct sq_u u = {.p = 1};
    size_t rises = 0;
    double all = 0, last = 0, whole = 100.0 * (pow(1.0 + rise / 100.0, (double)want) - 1.0);
    char a[64], b[64];

    sq_result_init(&r, NULL, endpoint);
    (void)snprintf(r.limit, sizeof r.limit, "not %zu rises of %g %% running", want, rise);
    r.n = n;
    if (n < want + 1) {
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%zu days with enough runs can't show a trend of %zu", n, want);
        return sq_result_add(results, &r, e);
    }
    struct day *first = &days[n - want - 1], *latest = &days[n - 1];
    int rc = sq_u_test(first->v, first->n, latest->v, latest->n, SQ_TWO_SIDED, &u, e);
    if (rc < 0)
        return rc;
    for (struct day *d = first; d <= latest; d++) {
        double m = sq_median(d->v, d->n);

        if (d > first)
            rises += worse_by(metric, last, m) >= rise;
        last = m;
    }
    all = worse_by(metric, sq_median(first->v, first->n), last);
    (void)snprintf(r.observed, sizeof r.observed, "%s: %s on %s, %s on %s (%+.1f %% worse)", metric,
                   sq_metric_text(metric, sq_median(first->v, first->n), a, sizeof a), first->date,
                   sq_metric_text(metric, last, b, sizeof b), latest->date, all);
    if (rises == want && u.p < P)
        (void)sq_result_set(&r, SQ_V_FAIL, "%s of %s got worse by %g %% and more on each of %zu days running: %+.1f %%",
                            metric, endpoint, rise, want, all);
    else if (rises == want)
        (void)sq_result_set(
            &r, SQ_V_INCONCLUSIVE,
            "%s of %s rose on %zu days running, but its runs vary so much that it can be chance (p = %.2g)", metric,
            endpoint, want, u.p);
    else if (isinf(visible(first, latest)))
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%zu and %zu runs a day are too few to show any trend", first->n,
                            latest->n);
    else if (visible(first, latest) > whole)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s of %s varies so much from run to run that only a change of %.0f %% would be seen, not "
                            "one of %.0f %% in %zu days",
                            metric, endpoint, visible(first, latest), whole, want);
    else
        (void)sq_result_set(&r, SQ_V_PASS,
                            "%s of %s does not creep: %zu of %zu days were %g %% worse than the one before", metric,
                            endpoint, rises, want, rise);
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *metric = sq_metric_name(sq_json_str_or(p, "metric", "p99")),
               *only = sq_json_str_or(p, "endpoint", NULL);
    int64_t want = sq_json_int_or(p, "days", 3), min = sq_json_int_or(p, "min_runs", 8);
    cleanup_free struct day *days = calloc(DAYS_MOST, sizeof *days);
    cleanup_json json_t *runs = sq_history(ev, "base");
    cleanup_json json_t *now = sq_history(ev, "now");
    json_t *mine = NULL;
    struct sq_err why = {0};
    size_t before = json_array_size(results);
    char text[400];
    int rc = 0;

    if (!days || !runs || !now)
        return sq_err(e, -ENOMEM, "out of memory");
    if (!metric || want < 1 || want > 30 || min < 2)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "trend: metric, days (1 to 30) or min_runs (from 2) is not right");
    (void)json_array_extend(runs, now);
    if (sq_run_values(ev, sq_history_window(ev), &mine, &why) == 0)
        (void)json_array_append_new(runs, mine);
    if (!sq_history_alike(runs, NULL, text, sizeof text)) {
        struct sq_result r;

        sq_result_init(&r, NULL, only);
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", text), e);
    }
    for (size_t i = 0; rc == 0 && i < ev->n_endpoints; i++) {
        const char *name = ev->endpoints[i].name;

        if (!only || strcmp(only, name) == 0)
            rc = judge(name, metric, days, collect(runs, name, metric, (size_t)min, days), (size_t)want,
                       sq_param_percent(p, "rise", 5), results, e);
    }
    if (rc == 0 && json_array_size(results) == before)
        rc = judge(only ? only : "", metric, days, 0, (size_t)want, sq_param_percent(p, "rise", 5), results, e);
    return rc;
}

extern const struct sq_check sq_check_trend;
const struct sq_check sq_check_trend = {
    .name = "trend",
    .doc = "a metric does not get a little worse day after day",
    .params = params,
    .run = run,
};
