#include "probe/schedule.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probe/baseline.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define RATE_MAX 1e7
#define STAGE_NS_MAX (100 * 86400 * SQ_S)

static int read_rate(const json_t *o, const char *key, double least, double *out, struct sq_err *e)
{
    int rc = sq_json_num(o, key, out, e);

    if (rc < 0)
        return rc;
    if (!(*out >= least && *out <= RATE_MAX))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: a rate is above 0 and at most 10000000/s", key);
    return 0;
}

static void add_stage(struct sq_schedule *s, double from, double to, int64_t ns)
{
    struct sq_stage *g = &s->list[s->n];

    g->from = from;
    g->to = to;
    g->ns = ns;
    g->begin = 0;
    g->before = 0;
    if (s->n > 0) {
        const struct sq_stage *last = g - 1;

        g->begin = last->begin + last->ns;
        g->before = last->before + ((long double)last->from + last->to) / 2 * (long double)last->ns / SQ_S;
    }
    s->n++;
}

static int sq_executor_constant(struct sq_schedule *s, const json_t *o, const char *name, struct sq_err *e)
{
    double rate;
    int rc = read_rate(o, "rate", 1e-6, &rate, e);

    (void)name;
    if (rc == 0)
        add_stage(s, rate, rate, INT64_MAX);
    return rc;
}

static int sq_executor_ramping(struct sq_schedule *s, const json_t *o, const char *name, struct sq_err *e)
{
    json_t *stages, *g;
    double from, to;
    int64_t ns;
    size_t i;
    int rc;

    (void)name;
    if ((rc = read_rate(o, "start", 0, &from, e)) < 0 || (rc = sq_json_arr(o, "stages", &stages, e)) < 0)
        return rc;
    if (json_array_size(stages) == 0 || json_array_size(stages) > SQ_STAGES_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "stages: between 1 and %d of them", SQ_STAGES_MAX);
    json_array_foreach(stages, i, g)
    {
        if ((rc = sq_json_int(g, "for", &ns, e)) < 0 || (rc = read_rate(g, "to", 0, &to, e)) < 0)
            return rc;
        if (ns < 0 || ns > STAGE_NS_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "stages: a stage lasts at most 100 days");
        if (ns > 0)
            add_stage(s, from, to, ns);
        from = to;
    }
    add_stage(s, from, from, INT64_MAX);
    return 0;
}

/* A recorded baseline, second by second, so many times over; then the last rate stays. */
static int sq_executor_recorded(struct sq_schedule *s, const json_t *o, const char *name, struct sq_err *e)
{
    const char *path;
    double *rate = NULL, times;
    size_t n = 0;
    int rc = sq_json_str(o, "baseline", &path, e);

    times = sq_json_num_or(o, "multiply", 1);
    if (rc < 0 || (rc = sq_baseline_read(path, sq_json_str_or(o, "baseline_endpoint", name), &rate, &n, e)) < 0)
        return rc;
    s->list = calloc(n + 1, sizeof *s->list);
    for (size_t i = 0; s->list && rc == 0 && i < n; i++) {
        if (!(rate[i] * times >= 0 && rate[i] * times <= RATE_MAX))
            rc = sq_err_cls(e, SQ_C_INPUT, -ERANGE, "baseline: second %zu times %g is more than 10000000/s", i, times);
        else
            add_stage(s, rate[i] * times, rate[i] * times, i + 1 < n ? SQ_S : INT64_MAX);
    }
    free(rate);
    return s->list ? rc : sq_err(e, -ENOMEM, "no memory");
}

int sq_schedule_init(struct sq_schedule *s, const json_t *endpoint, const char *endpoint_name, struct sq_err *e)
{
    static const struct {
        const char *name;
        int (*read)(struct sq_schedule *, const json_t *, const char *, struct sq_err *);
    } executors[] = {
#define SQ_EXECUTOR(name, fn) {name, fn},
#include "probe/executors.def"
#undef SQ_EXECUTOR
    };
    const char *name;
    int rc = sq_json_str(endpoint, "executor", &name, e);

    if (rc < 0)
        return rc;
    memset(s, 0, sizeof *s);
    s->list = s->stage;
    s->poisson = strcmp(sq_json_str_or(endpoint, "arrivals", "even"), "poisson") == 0;
    for (size_t i = 0; i < SQ_COUNT(executors); i++)
        if (strcmp(name, executors[i].name) == 0)
            return executors[i].read(s, endpoint, endpoint_name, e);
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "executor: there is no \"%s\"", name);
}

void sq_schedule_clear(struct sq_schedule *s)
{
    if (s->list != s->stage)
        free(s->list);
    s->list = NULL;
    s->n = 0;
}

/* The exponential distribution with mean 1. */
static long double gap(struct sq_schedule *s)
{
    return -logl(1.0L - (long double)sq_rng_double(&s->rng));
}

void sq_schedule_seed(struct sq_schedule *s, uint64_t seed)
{
    sq_rng_seed(&s->rng, seed);
    s->sum = s->poisson ? gap(s) : 0;
}

/* Seconds into the stage at which the integral of its rate reaches x; < 0: not within it. */
static long double stage_time(const struct sq_stage *g, long double x)
{
    long double rise, root;

    if (g->ns == INT64_MAX && !(g->from > 0))
        return -1; /* a schedule that ends: not even one at its very end */
    if (x <= 0)
        return 0;
    if (g->ns == INT64_MAX)
        return g->from > 0 ? x / (long double)g->from : -1;
    rise = ((long double)g->to - g->from) * SQ_S / (long double)g->ns;
    root = (long double)g->from * g->from + 2 * rise * x;
    if (root < 0)
        return -1;
    /* The stable form of the quadratic's solution: exact when the rate does not change. */
    root = g->from + sqrtl(root);
    return root > 0 ? 2 * x / root : -1;
}

int64_t sq_schedule_next(struct sq_schedule *s)
{
    long double i = s->poisson ? s->sum : (long double)s->next;

    while (s->at < s->n) {
        const struct sq_stage *g = &s->list[s->at];
        long double t = stage_time(g, i - g->before);
        long double ns = roundl(t * SQ_S);

        if (t >= 0 && (g->ns == INT64_MAX || ns < (long double)g->ns)) {
            if (ns > (long double)(INT64_MAX / 4))
                return INT64_MAX;
            s->next++;
            if (s->poisson)
                s->sum += gap(s);
            return g->begin + (int64_t)ns;
        }
        if (g->ns == INT64_MAX)
            return INT64_MAX;
        s->at++;
    }
    return INT64_MAX;
}
