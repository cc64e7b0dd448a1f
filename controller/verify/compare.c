#include "verify/compare.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/rank.h"
#include "verify/values.h"

#define CONF 0.95

struct job {
    const json_t *base, *cand, *accept;
    const struct sq_compare_rule *rule;
    const char *today;
    json_t *rows;
};

struct sides {
    double a[SQ_RANK_MAX], b[SQ_RANK_MAX];
    size_t n, m;
};

/* --- acceptances --- */

static bool is_date(const char *s)
{
    struct tm tm = {0};
    const char *end = strptime(s, "%Y-%m-%d", &tm);

    return end && *end == '\0' && strlen(s) == 10;
}

int sq_compare_accept_check(const json_t *accept, struct sq_err *e)
{
    static const char *const keys[] = {"metric", "reason", "by", "until"};
    const json_t *a;
    size_t i;

    json_array_foreach(accept, i, a)
    {
        for (size_t k = 0; k < SQ_COUNT(keys); k++) {
            if (sq_json_str_or(a, keys[k], "")[0])
                continue;
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "acceptance %zu has no \"%s\"", i + 1, keys[k]);
            sq_err_hint(e, "{metric: p99, endpoint: cart, reason: why it is worth it, by: who, until: 2026-12-31}");
            return -EINVAL;
        }
        if (!sq_metric_name(sq_json_str_or(a, "metric", "")))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "acceptance %zu: there is no metric \"%.40s\"", i + 1,
                              sq_json_str_or(a, "metric", ""));
        if (!is_date(sq_json_str_or(a, "until", "")))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "acceptance %zu: \"until\" is a day such as 2026-12-31", i + 1);
    }
    return 0;
}

/* The acceptance that covers a row; *expired: one that did until its day. */
static const json_t *accepted(const struct job *job, const char *endpoint, const char *metric, const json_t **expired)
{
    const json_t *a, *found = NULL;
    size_t i;

    *expired = NULL;
    json_array_foreach(job->accept, i, a)
    {
        const char *ep = sq_json_str_or(a, "endpoint", NULL), *name = sq_metric_name(sq_json_str_or(a, "metric", ""));

        if ((ep && strcmp(ep, endpoint) != 0) || !name || strcmp(name, metric) != 0)
            continue;
        if (strcmp(sq_json_str_or(a, "until", ""), job->today) >= 0)
            found = a;
        else
            *expired = a;
    }
    return found;
}

/* --- one row --- */

/* Positive values of one metric; an endpoint that a run has not is a run less. */
static size_t collect(const json_t *runs, const char *endpoint, const char *metric, double *v)
{
    const json_t *run;
    size_t i, n = 0;

    json_array_foreach(runs, i, run)
    {
        double x = sq_metric_of(run, endpoint, metric);

        if (x > 0 && n < SQ_RANK_MAX)
            v[n++] = x;
    }
    return n;
}

struct row {
    const char *endpoint, *metric;
    size_t n, m;
    double median[2], cv[2], change, lower, upper, p, p_adjusted, detectable;
    bool has_bounds;
};

static double percent_of(double log_ratio)
{
    return 100.0 * (exp(log_ratio) - 1.0);
}

static int measure(struct sides *s, struct row *r, struct sq_err *e)
{
    struct sq_u u = {.p = 1};
    struct sq_shift shift = {0};
    int rc;

    r->n = s->n;
    r->m = s->m;
    r->p = 1;
    r->detectable = INFINITY;
    if (s->n == 0 || s->m == 0)
        return 0;
    r->cv[0] = 100.0 * sq_cv(s->a, s->n);
    r->cv[1] = 100.0 * sq_cv(s->b, s->m);
    r->median[0] = sq_median(s->a, s->n);
    r->median[1] = sq_median(s->b, s->m);
    for (size_t i = 0; i < s->n; i++)
        s->a[i] = log(s->a[i]);
    for (size_t i = 0; i < s->m; i++)
        s->b[i] = log(s->b[i]);
    rc = sq_u_test(s->a, s->n, s->b, s->m, SQ_TWO_SIDED, &u, e);
    if (rc == 0)
        rc = sq_hodges_lehmann(s->a, s->n, s->b, s->m, CONF, &shift, e);
    r->p = u.p;
    r->change = percent_of(shift.value);
    r->has_bounds = shift.has_bounds;
    r->lower = percent_of(shift.lower);
    r->upper = percent_of(shift.upper);
    return rc;
}

/* "worse by 12 %": percent for the worse, negative when it got better. */
static double worse(const struct row *r)
{
    return sq_metric_more(r->metric) ? -r->change : r->change;
}

static const char *judge(const struct job *job, const struct row *r, char *why, size_t len)
{
    const struct sq_compare_rule *rule = job->rule;
    bool significant = r->p_adjusted < rule->p;
    double w = worse(r);

    if (r->n < rule->min_runs || r->m < rule->min_runs) {
        (void)snprintf(why, len, "%zu runs against %zu can't tell: it takes %u a side", r->m, r->n, rule->min_runs);
        return "inconclusive";
    }
    if (significant && w > rule->block) {
        (void)snprintf(why, len, "%s of %s is %.1f %% worse (p = %.2g), more than the %g %% that block", r->metric,
                       r->endpoint, w, r->p_adjusted, rule->block);
        return "block";
    }
    if (significant && w > rule->warn) {
        (void)snprintf(why, len, "%s of %s is %.1f %% worse (p = %.2g): watch it", r->metric, r->endpoint, w,
                       r->p_adjusted);
        return "warn";
    }
    if (significant) {
        (void)snprintf(why, len, "%s of %s is %.1f %% %s (p = %.2g)", r->metric, r->endpoint, fabs(w),
                       w > 0 ? "worse, which is under the warning" : "better", r->p_adjusted);
        return w > 0 ? "same" : "better";
    }
    if (isinf(r->detectable)) {
        (void)snprintf(why, len, "%zu against %zu runs are too few to find anything in so many rows", r->m, r->n);
        return "inconclusive";
    }
    if (r->detectable > rule->block || w > rule->block) {
        (void)snprintf(
            why, len,
            "%s of %s varies by %.1f %% from run to run: %zu against %zu runs could have seen a change of %.0f "
            "%%, not one of %g %%",
            r->metric, r->endpoint, fmax(r->cv[0], r->cv[1]), r->m, r->n, r->detectable, rule->block);
        return "inconclusive";
    }
    (void)snprintf(why, len, "%s of %s shows no change; one of %.1f %% would have been seen", r->metric, r->endpoint,
                   r->detectable);
    return "same";
}

static json_t *number_or_null(bool there, double v)
{
    return there && isfinite(v) ? json_real(v) : json_null();
}

static int add_row(const struct job *job, const struct row *r, struct sq_err *e)
{
    char why[400], more[300] = "";
    const char *outcome = judge(job, r, why, sizeof why);
    const json_t *expired = NULL, *a = NULL;
    bool blocks = strcmp(outcome, "block") == 0;
    json_t *o;

    if (blocks)
        a = accepted(job, r->endpoint, r->metric, &expired);
    if (a) {
        outcome = "accepted";
        (void)snprintf(more, sizeof more, "; accepted until %.10s by %.60s: %.160s", sq_json_str_or(a, "until", ""),
                       sq_json_str_or(a, "by", ""), sq_json_str_or(a, "reason", ""));
    } else if (expired) {
        (void)snprintf(more, sizeof more, "; %.60s's acceptance ended on %.10s", sq_json_str_or(expired, "by", ""),
                       sq_json_str_or(expired, "until", ""));
    }
    o = json_pack("{s:s,s:s,s:[I,I],s:[f,f],s:[f,f],s:f,s:f,s:f,s:o,s:s}", "endpoint", r->endpoint, "metric", r->metric,
                  "n", (json_int_t)r->n, (json_int_t)r->m, "median", r->median[0], r->median[1], "cv", r->cv[0],
                  r->cv[1], "change", r->change, "p", r->p, "p_adjusted", r->p_adjusted, "detectable",
                  number_or_null(true, r->detectable), "outcome", outcome);
    if (!o)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)json_object_set_new(o, "interval", r->has_bounds ? json_pack("[f,f]", r->lower, r->upper) : json_null());
    (void)json_object_set_new(o, "why", json_sprintf("%s%s", why, more));
    (void)json_object_set_new(o, "limit", json_sprintf("at most %g %% worse", job->rule->block));
    if (a)
        (void)json_object_set(o, "accepted", (json_t *)(uintptr_t)a);
    return json_array_append_new(job->rows, o) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

/* --- all of them --- */

static int name_endpoints(const json_t *runs, json_t *names)
{
    const json_t *run;
    const char *name;
    json_t *v;
    size_t i;

    json_array_foreach(runs, i, run)
    {
        json_object_foreach(json_object_get(run, "values"), name, v)
        {
            if (json_object_set_new(names, name, json_true()) != 0)
                return -ENOMEM;
        }
    }
    return 0;
}

static int fill_rows(const struct job *job, const json_t *names, const json_t *metrics, struct row *rows, size_t *n,
                     struct sq_err *e)
{
    cleanup_free struct sides *s = calloc(1, sizeof *s);
    const char *name;
    json_t *unused;

    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    json_object_foreach((json_t *)(uintptr_t)names, name, unused)
    {
        const json_t *metric;
        size_t i;

        json_array_foreach(metrics, i, metric)
        {
            struct row *r = &rows[*n];
            const char *canonical = sq_metric_name(json_string_value(metric));
            int rc;

            if (!canonical) {
                sq_err_cls(e, SQ_C_INPUT, -EINVAL, "there is no metric \"%.40s\"", json_string_value(metric));
                sq_err_hint(e, "p50, p95, p99, p99.9, mean, throughput");
                return -EINVAL;
            }
            *r = (struct row){.endpoint = name, .metric = canonical};
            s->n = collect(job->base, name, canonical, s->a);
            s->m = collect(job->cand, name, canonical, s->b);
            rc = measure(s, r, e);
            if (rc < 0)
                return rc;
            (*n)++;
        }
    }
    return 0;
}

/* Only rows that have enough runs were looked at; each of them costs significance. */
static int adjust(const struct job *job, struct row *rows, size_t n, struct sq_err *e)
{
    cleanup_free double *p = calloc(n ? n : 1, sizeof *p);
    size_t k = 0;
    int rc;

    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        if (rows[i].n >= job->rule->min_runs && rows[i].m >= job->rule->min_runs)
            p[k++] = rows[i].p;
    rc = sq_holm(p, k, e);
    for (size_t i = 0, at = 0; rc == 0 && i < n; i++) {
        struct row *r = &rows[i];

        r->p_adjusted = r->n >= job->rule->min_runs && r->m >= job->rule->min_runs ? p[at++] : 1.0;
        /* What the strictest of the adjusted levels could have seen. */
        r->detectable =
            100.0 * sq_detectable(fmax(r->cv[0], r->cv[1]) / 100.0, r->n, r->m, job->rule->p / (double)(k ? k : 1));
    }
    return rc;
}

int sq_compare(const json_t *base, const json_t *cand, const json_t *metrics, const char *endpoint,
               const struct sq_compare_rule *rule, const json_t *accept, const char *today, json_t **rows,
               struct sq_err *e)
{
    cleanup_json json_t *usual = json_pack("[s,s,s,s]", "p50", "p95", "p99", "throughput");
    cleanup_json json_t *names = json_object();
    cleanup_json json_t *out = json_array();
    struct job job = {.base = base, .cand = cand, .accept = accept, .rule = rule, .today = today, .rows = out};
    size_t n = 0;
    int rc = sq_compare_accept_check(accept, e);

    if (rc < 0)
        return rc;
    if (!usual || !names || !out)
        return sq_err(e, -ENOMEM, "out of memory");
    if (endpoint)
        rc = json_object_set_new(names, endpoint, json_true());
    else if (name_endpoints(base, names) < 0 || name_endpoints(cand, names) < 0)
        rc = -1;
    if (rc != 0)
        return sq_err(e, -ENOMEM, "out of memory");
    if (!metrics || json_array_size(metrics) == 0)
        metrics = usual;
    cleanup_free struct row *all = calloc(json_object_size(names) * json_array_size(metrics) + 1, sizeof *all);
    if (!all)
        return sq_err(e, -ENOMEM, "out of memory");
    rc = fill_rows(&job, names, metrics, all, &n, e);
    if (rc == 0)
        rc = adjust(&job, all, n, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_row(&job, &all[i], e);
    if (rc == 0)
        *rows = SQ_TAKE(out);
    return rc;
}
