#include "run/abort.h"

#include <string.h>

#include "squall/json.h"
#include "squall/units.h"

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

/* A latency limit is a duration (integer ns), a rate of errors a percentage. */
static bool one_due(const json_t *c, const struct sq_probe_window *w, char *why, size_t len)
{
    const char *metric = sq_json_str_or(c, "metric", "");
    double over = sq_json_num_or(c, "over", 0), seen;
    if (strcmp(metric, "error_rate") == 0)
        seen = w->error_percent;
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
        if (look(arg, s, &w) || w.seconds < s || w.n == 0 || w.n < (uint64_t)(min < 0 ? 0 : min))
            continue;
        if (one_due(c, &w, why, len))
            return true;
    }
    return false;
}
