#include "run/abort.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"
#include "verify/sprt.h"

#define MIN_REQUESTS 100
#define WINDOW_NS (10 * SQ_S)

static unsigned seconds_of(const json_t *c)
{
    int64_t ns = sq_json_int_or(c, "for", WINDOW_NS);
    int64_t s = (ns + SQ_S - 1) / SQ_S;
    return (unsigned)(s < 1 ? 1 : s > 900 ? 900 : s);
}

unsigned sq_abort_longest(const json_t *conditions)
{
    unsigned longest = 0;
    size_t i;
    json_t *c;
    json_array_foreach(conditions, i, c)
    {
        unsigned s = seconds_of(c);
        if (s > longest)
            longest = s;
    }
    return longest;
}

/* The share of requests that an SLO's target lets be bad, in percent. */
static double allowed(const json_t *c)
{
    double left = 100 - sq_json_num_or(c, "target", 99.9);
    return left > 0 ? left : 1e-9;
}

/* A latency limit is a duration (integer ns), a rate of errors a percentage, a burn rate a number. */
static bool one_due(const json_t *c, const struct sq_probe_window *w, char *why, size_t len)
{
    const char *metric = sq_json_str_or(c, "metric", "");
    double over = sq_json_num_or(c, "over", 0), seen;
    if (strcmp(metric, "error_rate") == 0)
        seen = w->error_percent;
    else if (strcmp(metric, "burn_rate") == 0)
        seen = w->error_percent / allowed(c);
    else if (strcmp(metric, "p50") == 0)
        seen = (double)w->p50;
    else if (strcmp(metric, "p95") == 0)
        seen = (double)w->p95;
    else if (strcmp(metric, "p99") == 0)
        seen = (double)w->p99;
    else
        return false;
    if (seen <= over)
        return false;
    char a[32], b[32];
    if (strcmp(metric, "error_rate") == 0)
        snprintf(why, len, "error_rate was %.3g %% over the last %u s (%llu requests), more than %.3g %%", seen,
                 w->seconds, (unsigned long long)w->n, over);
    else if (strcmp(metric, "burn_rate") == 0)
        snprintf(why, len, "burn_rate was %.3g over the last %u s (%llu requests), more than %.3g", seen, w->seconds,
                 (unsigned long long)w->n, over);
    else
        snprintf(why, len, "%s was %s over the last %u s (%llu requests), more than %s", metric,
                 sq_fmt_duration((int64_t)seen, a, sizeof(a)), w->seconds, (unsigned long long)w->n,
                 sq_fmt_duration((int64_t)over, b, sizeof(b)));
    return true;
}

bool sq_abort_due(const json_t *conditions, sq_abort_look *look, void *arg, char *why, size_t len)
{
    size_t i;
    json_t *c;
    json_array_foreach(conditions, i, c)
    {
        struct sq_probe_window w = {0};
        unsigned s = seconds_of(c);
        int64_t min = sq_json_int_or(c, "min_requests", MIN_REQUESTS);
        if (json_object_get(c, "sprt"))
            continue;
        if (look(arg, s, &w) || w.seconds < s || w.n == 0 || w.n < (uint64_t)(min < 0 ? 0 : min))
            continue;
        if (one_due(c, &w, why, len))
            return true;
    }
    return false;
}

/* ---- sequential tests ---- */

struct sq_abort_watch {
    size_t n;
    struct one {
        const char *metric;
        struct sq_sprt_watch test;
    } one[];
};

static int start(struct one *o, const json_t *c, struct sq_err *e)
{
    const json_t *sprt = json_object_get(c, "sprt");
    int64_t min = sq_json_int_or(c, "min_requests", MIN_REQUESTS);
    double p0 = sq_json_num_or(sprt, "p0", 0), p1 = sq_json_num_or(sprt, "p1", 0);
    o->metric = strcmp(sq_json_str_or(c, "metric", ""), "burn_rate") == 0 ? "burn_rate" : "error_rate";
    if (strcmp(o->metric, "burn_rate") == 0) {
        p0 = allowed(c);
        p1 = allowed(c) * sq_json_num_or(c, "over", 0);
    }
    int rc = sq_sprt_watch_init(&o->test, p0 / 100, p1 / 100, sq_json_num_or(sprt, "alpha", 1) / 100,
                                sq_json_num_or(sprt, "beta", 1) / 100, min < 0 ? 0 : (uint64_t)min, e);
    return rc ? sq_err_prefix(e, "abort_when %s", o->metric) : 0;
}

int sq_abort_watch_new(const json_t *conditions, struct sq_abort_watch **out, struct sq_err *e)
{
    struct sq_abort_watch *w = calloc(1, sizeof(*w) + json_array_size(conditions) * sizeof(w->one[0]));
    size_t i;
    json_t *c;
    if (!w)
        return sq_err(e, -ENOMEM, "no memory");
    json_array_foreach(conditions, i, c)
    {
        int rc = json_object_get(c, "sprt") ? start(&w->one[w->n++], c, e) : 0;
        if (rc) {
            free(w);
            return rc;
        }
    }
    *out = w;
    return 0;
}

void sq_abort_watch_free(struct sq_abort_watch *w)
{
    free(w);
}

bool sq_abort_watch_due(struct sq_abort_watch *w, unsigned seconds, sq_abort_look *look, void *arg, char *why,
                        size_t len)
{
    struct sq_probe_window win = {0};
    if (!w || w->n == 0 || seconds == 0 || look(arg, seconds, &win))
        return false;
    for (size_t i = 0; i < w->n; i++) {
        const struct sq_sprt_watch *t = &w->one[i].test;
        if (!sq_sprt_watch_add(&w->one[i].test, win.bad, win.n - win.bad))
            continue;
        snprintf(why, len,
                 "%s: %llu of the last %llu requests failed, which is no chance if %.3g %% is well and %.3g %% is sick "
                 "(sequential test)",
                 w->one[i].metric, (unsigned long long)t->test.bad, (unsigned long long)t->test.n, 100 * t->p0,
                 100 * t->p1);
        return true;
    }
    return false;
}
