/* bulkhead: a dependency that is slow for some requests does not slow the others. The endpoints that have nothing to do
 * with it are compared with themselves in steady state: a percentile of their latency, and their share of errors; both
 * by the difference of two intervals, each at 97.5 %, so that the difference holds at 95 %. Percentiles by order
 * statistics, which ask nothing of the distribution.
 *
 * With max_in_flight, also the calls under way at once from each instance, which must reach a plateau and stay there.
 * Stamps are rounded to 10 ms, so that this too is an interval. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/stats.h"

#define CONF 0.975
#define STAMP_NS (20 * SQ_MS) /* two stamps, each rounded to 10 ms */
#define SEEN_NS (50 * SQ_MS)  /* that a caller gave up is seen so much later, on a busy host */
#define PRESSURE 1.5          /* times the limit that calls must want to be under way to test it */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which a dependency is slow or away"},
    {"endpoints", SQ_P_STRINGS, SQ_REQUIRED, NULL, NULL, "endpoints of the load that don't need the dependency"},
    {"max_slowdown", SQ_P_PERCENT, 0, "10%", NULL, "how much slower than in steady state they may be"},
    {"grace", SQ_P_DURATION, 0, "5ms", NULL, "what noise may add to that"},
    {"percentile", SQ_P_NUMBER, 0, "95", NULL, "of which percentile"},
    {"max_error_rise", SQ_P_PERCENT, 0, "1%", NULL, "how many percent more of their requests may fail"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the slow edge; default: the step's own"},
    {"max_in_flight", SQ_P_INT, 0, NULL, NULL, "calls that an instance may have under way on the edge at once"},
    SQ_PARAM_END,
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const char *edge;
    double slowdown, rise, p; /* shares; p in percent */
    int64_t grace, on, off;   /* seconds of the steady state */
    json_t *results;
};

static struct sq_result *slower(struct sq_result *r, const struct job *j, const struct sq_quantile *calm,
                                const struct sq_quantile *hurt)
{
    char a[64], b[64], c[64], d[64];
    double allowed = 1.0 + j->slowdown;

    r->n = hurt->n;
    (void)snprintf(r->observed, sizeof r->observed, "p%.6g = %s, %s in steady state", j->p,
                   sq_fmt_duration(hurt->value, a, sizeof a), sq_fmt_duration(calm->value, b, sizeof b));
    if (!hurt->has_upper || !calm->has_lower || !hurt->has_lower || !calm->has_upper)
        return sq_result_set(r, SQ_V_INCONCLUSIVE,
                             "%llu requests in steady state and %llu during the fault are too few to know p%.6g",
                             (unsigned long long)calm->n, (unsigned long long)hurt->n, j->p);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] against [%s, %s]",
                   sq_fmt_duration(hurt->lower, a, sizeof a), sq_fmt_duration(hurt->upper, b, sizeof b),
                   sq_fmt_duration(calm->lower, c, sizeof c), sq_fmt_duration(calm->upper, d, sizeof d));
    (void)sq_fmt_duration(hurt->value, a, sizeof a);
    (void)sq_fmt_duration(calm->value, b, sizeof b);
    if ((double)hurt->upper <= allowed * (double)calm->lower + (double)j->grace)
        return sq_result_set(r, SQ_V_PASS, "it did not suffer: p%.6g was %s, %s in steady state", j->p, a, b);
    if ((double)hurt->lower > allowed * (double)calm->upper + (double)j->grace)
        return sq_result_set(
            r, SQ_V_FAIL, "it suffered from a dependency that it does not need: p%.6g rose from %s to %s", j->p, b, a);
    return sq_result_set(r, SQ_V_INCONCLUSIVE,
                         "p%.6g of %s against %s is too near to the limit to be decided by %llu and %llu requests",
                         j->p, a, b, (unsigned long long)hurt->n, (unsigned long long)calm->n);
}

static int judge_latency(const struct job *j, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
                         struct sq_err *e)
{
    struct sq_hist *calm = sq_hist_new(), *hurt = sq_hist_new();
    struct sq_quantile a, b;
    struct sq_result r;
    char pct[64], grace[64];
    int rc = calm && hurt ? 0 : sq_err(e, -ENOMEM, "no memory for a check");

    rc = rc ? rc : sq_ev_hist(j->ev, ep, j->on, j->off, "h", calm, e);
    rc = rc ? rc : sq_ev_hist(j->ev, ep, first, end, "h", hurt, e);
    if (!rc) {
        sq_quantile_of(calm, j->p, CONF, &a);
        sq_quantile_of(hurt, j->p, CONF, &b);
        sq_result_init(&r, j->step, ep->name);
        (void)snprintf(r.limit, sizeof r.limit, "p%.6g <= steady state + %s + %s", j->p,
                       sq_fmt_percent(100.0 * j->slowdown, pct, sizeof pct),
                       sq_fmt_duration(j->grace, grace, sizeof grace));
        rc = sq_result_add(j->results, slower(&r, j, &a, &b), e);
    }
    sq_hist_free(calm);
    sq_hist_free(hurt);
    return rc;
}

static int judge_errors(const struct job *j, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
                        struct sq_err *e)
{
    struct sq_ev_sums a, b;
    struct sq_result r;
    char x[64], y[64];

    sq_ev_sum(j->ev, ep, j->on, j->off, &a);
    sq_ev_sum(j->ev, ep, first, end, &b);
    sq_result_init(&r, j->step, ep->name);
    r.n = b.n;
    double was = a.n ? (double)a.bad / (double)a.n : 0.0, is = b.n ? (double)b.bad / (double)b.n : 0.0;
    double low = sq_cp_lower(b.bad, b.n, CONF) - sq_cp_upper(a.bad, a.n, CONF),
           high = sq_cp_upper(b.bad, b.n, CONF) - sq_cp_lower(a.bad, a.n, CONF);
    (void)snprintf(r.limit, sizeof r.limit, "error rate <= steady state + %s",
                   sq_fmt_percent(100.0 * j->rise, x, sizeof x));
    (void)snprintf(r.observed, sizeof r.observed, "error rate = %s, %s in steady state",
                   sq_fmt_percent(100.0 * is, x, sizeof x), sq_fmt_percent(100.0 * was, y, sizeof y));
    (void)snprintf(r.interval, sizeof r.interval, "[%.3g, %.3g] %% more at 95 %%", 100.0 * low, 100.0 * high);
    if (a.n == 0 || b.n == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "no request was made in steady state or during the fault");
    else if (high <= j->rise)
        (void)sq_result_set(&r, SQ_V_PASS, "%llu of its %llu requests failed", (unsigned long long)b.bad,
                            (unsigned long long)b.n);
    else if (low > j->rise)
        (void)sq_result_set(&r, SQ_V_FAIL,
                            "it suffered from a dependency that it does not need: %llu of %llu requests failed, %s in "
                            "steady state",
                            (unsigned long long)b.bad, (unsigned long long)b.n, y);
    else
        (void)sq_result_set(
            &r, SQ_V_INCONCLUSIVE, "%llu bad of %llu requests are too few to tell whether errors rose by more than %s",
            (unsigned long long)b.bad, (unsigned long long)b.n, sq_fmt_percent(100.0 * j->rise, x, sizeof x));
    return sq_result_add(j->results, &r, e);
}

/* ---- calls under way ---- */

struct mark {
    int64_t t;
    int what; /* +1: begins, -1: ends */
};

static int by_time(const void *x, const void *y)
{
    const struct mark *a = x, *b = y;

    return a->t != b->t ? (a->t > b->t) - (a->t < b->t) : a->what - b->what; /* what ends makes room first */
}

/* Most calls under way at once, each taken to end SLACK earlier than stamped (later: negative), at least; earlier still
 * when its caller gave it up: that it has is seen some time after it has begun the next one. */
static uint64_t most_at_once(const struct sq_ev_series *s, size_t from, size_t to, int64_t slack, struct mark *m)
{
    size_t n = 0;
    int64_t now = 0, most = 0;

    for (size_t i = from; i < to; i++) {
        const struct sq_ev_call *c = &s->calls[i];
        bool late = slack > 0 && c->outcome == SQ_EV_GAVE_UP;
        int64_t end = c->t_ns + (int64_t)c->dur_us * 1000 - (late ? SEEN_NS : slack);

        if (s->has_requests && c->kind == SQ_EV_CONN)
            continue;
        if (end <= c->t_ns)
            continue;
        m[n++] = (struct mark){c->t_ns, 1};
        m[n++] = (struct mark){end, -1};
    }
    if (n > 1)
        qsort(m, n, sizeof *m, by_time);
    for (size_t i = 0; i < n; i++) {
        now += m[i].what;
        most = now > most ? now : most;
    }
    return (uint64_t)most;
}

/* How many would be under way if nothing held them back: the steady rate times how long a harmed call takes (Little).
 */
static double pressure(const struct job *j, const struct sq_ev_series *s, size_t from, size_t to)
{
    struct sq_window steady = {j->on * SQ_S, j->off * SQ_S};
    double busy = 0.0, harmed = 0.0, calm = 0.0;
    size_t a, b;

    for (size_t i = from; i < to; i++) {
        if (!sq_call_harmed(&s->calls[i]) || (s->has_requests && s->calls[i].kind == SQ_EV_CONN))
            continue;
        busy += (double)s->calls[i].dur_us / 1e6;
        harmed += 1.0;
    }
    for ((void)sq_ev_calls_in(s, steady, &a, &b); a < b; a++)
        calm += !(s->has_requests && s->calls[a].kind == SQ_EV_CONN);
    return harmed > 0.0 ? calm / (double)(j->off - j->on) * busy / harmed : 0.0;
}

static int judge_in_flight(const struct job *j, const struct sq_ev_series *s, uint64_t limit, struct sq_err *e)
{
    struct sq_result r;
    size_t from, to;
    size_t n = sq_ev_calls_in(s, j->step->win, &from, &to);
    cleanup_free struct mark *m = malloc((2 * n + 1) * sizeof *m);

    if (!m)
        return sq_err(e, -ENOMEM, "no memory for a check");
    uint64_t low = most_at_once(s, from, to, STAMP_NS, m), high = most_at_once(s, from, to, -STAMP_NS, m);
    double wanted = pressure(j, s, from, to);

    sq_result_init(&r, j->step, s->instance);
    r.n = n;
    (void)snprintf(r.limit, sizeof r.limit, "<= %llu calls under way", (unsigned long long)limit);
    (void)snprintf(r.observed, sizeof r.observed, "%llu calls under way at most", (unsigned long long)high);
    (void)snprintf(r.interval, sizeof r.interval, "[%llu, %llu]", (unsigned long long)low, (unsigned long long)high);
    if (low > limit)
        (void)sq_result_set(&r, SQ_V_FAIL, "%llu calls were under way at once to the slow dependency, %llu are allowed",
                            (unsigned long long)low, (unsigned long long)limit);
    else if (low < limit && wanted < PRESSURE * (double)limit)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "the load puts only about %.3g calls under way, so a limit of %llu was not put to the test",
                            wanted, (unsigned long long)limit);
    else if (high <= limit)
        (void)sq_result_set(&r, SQ_V_PASS,
                            "it never had more than %llu calls under way, without a limit it would be about %.3g",
                            (unsigned long long)high, wanted);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%llu or %llu calls were under way: stamps are too coarse to tell",
                            (unsigned long long)low, (unsigned long long)high);
    return sq_result_add(j->results, &r, e);
}

static int judge_edge(const struct job *j, uint64_t limit, struct sq_err *e)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(j->ev, j->edge, &s);
    int rc = 0;

    if (n == 0)
        return sq_undecided(j->results, j->step, j->edge, "", e, "no caller was seen on edge %s",
                            j->edge[0] ? j->edge : "(none named)");
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_in_flight(j, &s[i], limit, e);
    return rc;
}

static int judge_endpoint(const struct job *j, const char *name, struct sq_err *e)
{
    const struct sq_ev_endpoint *ep = sq_ev_endpoint(j->ev, name);
    int64_t first, end;

    if (!ep || ep->n == 0)
        return sq_undecided(j->results, j->step, name, "", e, "the probe recorded no request to %s", name);
    if (ep->is_void)
        return sq_undecided(j->results, j->step, name, "", e, "the probe missed its own schedule: %s", ep->void_why);
    if (sq_closed_loop(j->ev, name))
        return sq_undecided(j->results, j->step, name, "", e, SQ_CLOSED_LOOP);
    if (!sq_window_secs(j->step->win, &first, &end))
        return sq_undecided(j->results, j->step, name, "", e, "the fault did not last a whole second");
    int rc = judge_latency(j, ep, first, end, e);
    return rc ? rc : judge_errors(j, ep, first, end, e);
}

static int judge_step(struct job *j, const json_t *p, struct sq_err *e)
{
    const json_t *names = json_object_get(p, "endpoints");
    int64_t limit = sq_json_int_or(p, "max_in_flight", 0);
    struct sq_edge_calls hit;
    int rc = 0;

    j->edge = sq_json_str_or(p, "edge", j->step->edge);
    if (!j->step->ran)
        return sq_undecided_step(j->results, j->step, j->edge, "", e);
    if (!sq_steady_secs(j->ev, &j->on, &j->off))
        return sq_undecided(j->results, j->step, j->edge, "", e, "no steady state was recorded to compare with");
    sq_edge_calls(j->ev, j->edge, j->step->win, &hit);
    if (j->edge[0] && hit.harmed == 0 && !sq_step_is_control(j->step))
        return sq_undecided(j->results, j->step, j->edge, "", e,
                            "no call failed or was held: nothing put the bulkhead to the test");
    for (size_t i = 0; i < json_array_size(names) && !rc; i++)
        rc = judge_endpoint(j, json_string_value(json_array_get(names, i)), e);
    return rc || limit <= 0 ? rc : judge_edge(j, (uint64_t)limit, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    const json_t *names = json_object_get(p, "endpoints");
    struct job j = {.ev = ev, .results = results};
    size_t n = 0;

    j.slowdown = sq_param_percent(p, "max_slowdown", 10.0) / 100.0;
    j.rise = sq_param_percent(p, "max_error_rise", 1.0) / 100.0;
    j.grace = sq_param_ns(p, "grace", 5 * SQ_MS);
    j.p = sq_json_num_or(p, "percentile", 95.0);
    if (json_array_size(names) == 0 || !(j.p > 0.0 && j.p < 100.0) || sq_json_int_or(p, "max_in_flight", 0) < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "bulkhead takes endpoints, a percentile between 0 and 100 and a limit of 1 or more");
    for (size_t i = 0; i < json_array_size(names); i++)
        if (!json_is_string(json_array_get(names, i)))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "bulkhead takes names of endpoints");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++) {
        j.step = steps[i];
        rc = judge_step(&j, p, e);
    }
    return rc;
}

const struct sq_check sq_check_bulkhead = {
    .name = "bulkhead",
    .doc = "A slow dependency does not slow what does not need it, and binds no more calls than it may.",
    .params = params,
    .run = run,
};
