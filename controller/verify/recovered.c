/* recovered: once the fault is over, under a load that goes on, all is as it was: the steady state's thresholds hold
 * for a while that begins soon enough. Systems that stay broken after their trigger is gone are found only here.
 *
 * As the gate of the steady state itself, this looks at whole seconds and at what was seen, not at bounds of it: some
 * seconds of load would prove no rare error. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/result.h"
#include "verify/threshold.h"

#define MAX_THRESHOLDS 32
#define LOAD_LEFT 0.8  /* share of the steady state's load that must go on */
#define CALLS_BACK 0.8 /* share of the edge's steady rate that must be back */
#define FEW_CALLS 20.0 /* expected ones in `hold` below which the edge is not looked at */
#define FEW_ASKED 20.0 /* requests in `hold` below which a few good ones, or bad ones, say nothing */

static const struct sq_param params[] = {
    {"after", SQ_P_STRING, SQ_REQUIRED, NULL, NULL,
     "the step after whose fault all must be well again; \"*\": each step"},
    {"within", SQ_P_DURATION, 0, "30s", NULL, "from the fault's end until all is well"},
    {"hold", SQ_P_DURATION, 0, "5s", NULL, "how long it must stay well"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL,
     "the endpoint of the load; default: all of them, pooled as in the steady state"},
    {"thresholds", SQ_P_STRINGS, 0, NULL, NULL, "what must hold; default: the steady state's thresholds"},
    SQ_PARAM_END,
};

/* Running sums by second: element i is over the first i seconds, so that any stretch costs two look-ups. */
struct sums {
    int64_t first; /* second */
    size_t n;
    double *asked, *bad, *sent, *calls;
    double *under[MAX_THRESHOLDS]; /* answers within the limit of threshold t */
    double *latencies;
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const struct sq_ev_endpoint *ep; /* NULL: all */
    struct sq_threshold t[MAX_THRESHOLDS];
    size_t n_t;
    int64_t within, hold; /* seconds */
    struct sums s;
    double steady_load, steady_calls; /* per second */
};

static void sums_free(struct sums *s)
{
    free(s->asked);
    free(s->bad);
    free(s->sent);
    free(s->calls);
    free(s->latencies);
    for (size_t i = 0; i < MAX_THRESHOLDS; i++)
        free(s->under[i]);
}

static int sums_new(struct sums *s, size_t n_t, struct sq_err *e)
{
    double **const v[] = {&s->asked, &s->bad, &s->sent, &s->calls, &s->latencies};
    bool ok = true;

    for (size_t i = 0; i < SQ_COUNT(v); i++)
        ok &= (*v[i] = calloc(s->n + 1, sizeof **v[i])) != NULL;
    for (size_t i = 0; i < n_t; i++)
        ok &= (s->under[i] = calloc(s->n + 1, sizeof *s->under[i])) != NULL;
    return ok ? 0 : sq_err(e, -ENOMEM, "no memory for a check");
}

static double calls_in(const struct job *j, struct sq_window win)
{
    const struct sq_ev_series *series;
    size_t n = sq_ev_series(j->ev, j->step->edge, &series), from, to;
    double calls = 0.0;

    for (size_t i = 0; i < n; i++)
        calls += (double)sq_ev_calls_in(&series[i], win, &from, &to);
    return calls;
}

static double asked_in(const struct job *j, int64_t first, int64_t end)
{
    struct sq_ev_sums one;

    sq_ev_sum(j->ev, j->ep, first, end, &one);
    return (double)(one.n > one.sent ? one.n : one.sent);
}

static int fill(struct job *j, struct sq_hist *h, struct sq_err *e)
{
    struct sums *s = &j->s;

    for (size_t i = 0; i < s->n; i++) {
        int64_t sec = s->first + (int64_t)i;
        struct sq_ev_sums one;

        sq_ev_sum(j->ev, j->ep, sec, sec + 1, &one);
        sq_hist_reset(h);
        int rc = sq_ev_hist(j->ev, j->ep, sec, sec + 1, "h", h, e);
        if (rc)
            return rc;
        s->asked[i + 1] = s->asked[i] + (double)(one.n > one.sent ? one.n : one.sent);
        s->bad[i + 1] = s->bad[i] + (double)one.bad;
        s->sent[i + 1] = s->sent[i] + (double)one.sent;
        s->calls[i + 1] = s->calls[i] + calls_in(j, (struct sq_window){sec * SQ_S, (sec + 1) * SQ_S});
        s->latencies[i + 1] = s->latencies[i] + (double)sq_hist_count(h);
        for (size_t k = 0; k < j->n_t; k++)
            s->under[k][i + 1] = s->under[k][i] + (double)sq_hist_count_le(h, (int64_t)j->t[k].value);
    }
    return 0;
}

/* Does threshold k hold over the seconds [a, b) (indices)? */
static bool holds(const struct job *j, size_t k, size_t a, size_t b)
{
    const struct sq_threshold *t = &j->t[k];
    const struct sums *s = &j->s;
    double asked = s->asked[b] - s->asked[a], n = s->latencies[b] - s->latencies[a];

    switch (t->metric) {
    case SQ_M_PERCENTILE:
        return s->under[k][b] - s->under[k][a] >= ceil(t->p / 100.0 * n - 1e-9);
    case SQ_M_ERROR_RATE:
        return sq_threshold_holds(t, asked > 0.0 ? 100.0 * (s->bad[b] - s->bad[a]) / asked : 0.0);
    case SQ_M_SENT_RATE:
        return sq_threshold_holds(t, (s->sent[b] - s->sent[a]) / (double)(b - a));
    }
    return false;
}

/* Are the edge's calls back? With few of them, chance alone makes some seconds poor. */
static bool calls_back(const struct job *j, size_t a, size_t b, bool *known)
{
    double due = j->steady_calls * (j->s.asked[b] - j->s.asked[a]) / fmax(j->steady_load, 1e-9);

    *known = j->step->edge[0] && due >= FEW_CALLS;
    return !*known || j->s.calls[b] - j->s.calls[a] >= fmin(CALLS_BACK * due, due - 3.0 * sqrt(due));
}

enum found { BACK, NOT_BACK, NO_LOAD, CUT_SHORT, TOO_FEW };

/* Try every stretch; *at is where it holds, or where it failed last, *bad_t the threshold that did not (n_t: the
 * calls). */
static enum found search(const struct job *j, size_t *at, size_t *bad_t)
{
    size_t hold = (size_t)j->hold, tried = 0, idle = 0;

    if (j->steady_load * (double)j->hold < FEW_ASKED)
        return TOO_FEW;
    for (size_t a = 0; (j->s.first + (int64_t)a) * SQ_S <= j->step->win.to_ns + j->within * SQ_S; a++) {
        bool known, good = true;

        if (a + hold > j->s.n)
            return tried && idle == tried ? NO_LOAD : CUT_SHORT;
        tried++;
        if (j->s.asked[a + hold] - j->s.asked[a] < LOAD_LEFT * j->steady_load * (double)hold) {
            idle++;
            continue;
        }
        *at = a;
        for (size_t k = 0; k < j->n_t && good; k++) {
            good = holds(j, k, a, a + hold);
            if (!good)
                *bad_t = k;
        }
        if (good && !calls_back(j, a, a + hold, &known)) {
            good = false;
            *bad_t = j->n_t;
        }
        if (good)
            return BACK;
    }
    return idle == tried ? NO_LOAD : NOT_BACK;
}

/* What was seen of a threshold in the stretch that begins at index a. */
static int say_seen(const struct job *j, size_t k, size_t a, char *buf, size_t len, struct sq_err *e)
{
    const struct sums *s = &j->s;
    size_t b = a + (size_t)j->hold;
    double value = (s->sent[b] - s->sent[a]) / (double)j->hold;
    char metric[32], text[64];
    int rc = 0;

    if (k == j->n_t) {
        (void)snprintf(buf, len, "%.3g calls/s on %s", (s->calls[b] - s->calls[a]) / (double)j->hold, j->step->edge);
        return 0;
    }
    if (j->t[k].metric == SQ_M_ERROR_RATE)
        value = s->asked[b] > s->asked[a] ? 100.0 * (s->bad[b] - s->bad[a]) / (s->asked[b] - s->asked[a]) : 0.0;
    if (j->t[k].metric == SQ_M_PERCENTILE) {
        struct sq_hist *h = sq_hist_new();

        if (!h)
            return sq_err(e, -ENOMEM, "no memory for a check");
        rc = sq_ev_hist(j->ev, j->ep, s->first + (int64_t)a, s->first + (int64_t)b, "h", h, e);
        value = (double)sq_hist_percentile(h, j->t[k].p);
        sq_hist_free(h);
    }
    (void)snprintf(buf, len, "%s = %s", sq_threshold_metric(&j->t[k], metric, sizeof metric),
                   sq_threshold_value(&j->t[k], value, text, sizeof text));
    return rc;
}

static void say_limit(const struct job *j, char *buf, size_t len)
{
    char one[96];
    size_t used = (size_t)snprintf(buf, len, "within %lld s, for %lld s:", (long long)j->within, (long long)j->hold);

    for (size_t k = 0; k < j->n_t && used + 1 < len; k++)
        used += (size_t)snprintf(buf + used, len - used, "%s %s", k ? "," : "",
                                 sq_threshold_text(&j->t[k], one, sizeof one));
}

static int judge(struct job *j, struct sq_result *r, struct sq_err *e)
{
    size_t at = 0, bad_t = 0;
    char seen[160] = "";
    enum found f = search(j, &at, &bad_t);
    double after = (double)(j->s.first + (int64_t)at) - (double)j->step->win.to_ns / 1e9;
    int rc = f == BACK && j->n_t ? say_seen(j, 0, at, seen, sizeof seen, e) : 0;

    if (f == NOT_BACK)
        rc = say_seen(j, bad_t, at, seen, sizeof seen, e);
    if (at + (size_t)j->hold <= j->s.n)
        r->n = (uint64_t)(j->s.asked[at + (size_t)j->hold] - j->s.asked[at]);
    switch (f) {
    case BACK:
        (void)snprintf(r->observed, sizeof r->observed, "after %.1f s (%s)", after, seen);
        (void)sq_result_set(r, SQ_V_PASS, "all was as in steady state %.1f s after the fault, and stayed so for %lld s",
                            after, (long long)j->hold);
        break;
    case NOT_BACK:
        (void)snprintf(r->observed, sizeof r->observed, "not within %lld s (%s)", (long long)j->within, seen);
        (void)sq_result_set(r, SQ_V_FAIL, "%lld s after the fault it still was not as in steady state: %s",
                            (long long)j->within, seen);
        break;
    case NO_LOAD:
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the load did not go on after the fault: nothing shows a recovery");
        break;
    case TOO_FEW:
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "too little load: %.3g requests in %lld s show no recovery, %.0f would",
                            j->steady_load * (double)j->hold, (long long)j->hold, FEW_ASKED);
        break;
    case CUT_SHORT:
        (void)sq_result_set(
            r, SQ_V_INCONCLUSIVE,
            "the load ended or the next fault began %.1f s after this one's end, before it was well for "
            "%lld s; settle: gives it time",
            (double)(j->step->until_ns - j->step->win.to_ns) / 1e9, (long long)j->hold);
        break;
    }
    return rc;
}

/* A void probe, a fault that was never taken back, no load: what makes any answer worthless. */
static bool worthless(const struct job *j, const char *endpoint, char *why, size_t len)
{
    if (!j->step->ran)
        sq_step_missing(j->step, why, len);
    else if (j->step->fault && !j->step->fault->reverted)
        (void)snprintf(why, len, "the fault was not taken back during the run");
    else if ((endpoint && !j->ep) || j->ev->n_endpoints == 0)
        (void)snprintf(why, len, "the probe recorded no request");
    else if (!sq_ev_steady(j->ev))
        (void)snprintf(why, len, "no steady state was recorded to compare with");
    else {
        for (size_t i = 0; i < j->ev->n_endpoints; i++)
            if (j->ev->endpoints[i].is_void && (!j->ep || j->ep == &j->ev->endpoints[i])) {
                (void)snprintf(why, len, "the probe missed its own schedule: %s", j->ev->endpoints[i].void_why);
                return true;
            }
        return false;
    }
    return true;
}

static int judge_step(struct job *j, const char *endpoint, json_t *results, struct sq_err *e)
{
    const struct sq_ev_phase *steady = sq_ev_steady(j->ev);
    struct sq_result r;
    char why[512];
    int64_t first = 0, end = 0;

    sq_result_init(&r, j->step, endpoint ? endpoint : "all endpoints");
    say_limit(j, r.limit, sizeof r.limit);
    if (worthless(j, endpoint, why, sizeof why))
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
    struct sq_window calm = steady->win;
    calm.from_ns = calm.from_ns > j->ev->load.from_ns ? calm.from_ns : j->ev->load.from_ns;
    if (sq_window_secs(calm, &first, &end)) {
        j->steady_load = asked_in(j, first, end) / (double)(end - first);
        j->steady_calls = calls_in(j, (struct sq_window){first * SQ_S, end * SQ_S}) / (double)(end - first);
    }
    if (!sq_window_secs((struct sq_window){j->step->win.to_ns, j->step->until_ns}, &first, &end))
        first = end = 0;
    int64_t most = j->within + j->hold;
    j->s = (struct sums){.first = first, .n = (size_t)(end - first < most ? end - first : most)};
    r.win = (struct sq_window){first * SQ_S, (first + (int64_t)j->s.n) * SQ_S};
    struct sq_hist *h = sq_hist_new();
    int rc = h ? sums_new(&j->s, j->n_t, e) : sq_err(e, -ENOMEM, "no memory for a check");
    rc = rc ? rc : fill(j, h, e);
    rc = rc ? rc : judge(j, &r, e);
    sq_hist_free(h);
    sums_free(&j->s);
    return rc ? rc : sq_result_add(results, &r, e);
}

static int read_thresholds(struct job *j, const json_t *p, struct sq_err *e)
{
    const json_t *list = json_object_get(p, "thresholds");

    if (json_array_size(list) == 0)
        list = json_object_get(json_object_get(j->ev->spec, "steady_state"), "thresholds");
    j->n_t = json_array_size(list);
    if (j->n_t == 0 || j->n_t > MAX_THRESHOLDS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "recovered takes 1 to %d thresholds, its own or the steady state's",
                          MAX_THRESHOLDS);
    for (size_t i = 0; i < j->n_t; i++) {
        int rc = sq_threshold_read(json_array_get(list, i), &j->t[i], e);

        if (rc)
            return rc;
    }
    return 0;
}

static int64_t whole_seconds(int64_t ns)
{
    int64_t secs = (ns + SQ_S - 1) / SQ_S;

    return secs < 0 ? 0 : secs > 100 * 86400 ? INT64_C(100) * 86400 : secs;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *endpoint = sq_json_str_or(p, "endpoint", NULL);
    struct job j = {.ev = ev, .ep = endpoint ? sq_ev_endpoint(ev, endpoint) : NULL};
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;

    j.within = whole_seconds(sq_param_ns(p, "within", 30 * SQ_S));
    j.hold = whole_seconds(sq_param_ns(p, "hold", 5 * SQ_S));
    j.hold = j.hold > 0 ? j.hold : 1;
    int rc = read_thresholds(&j, p, e);
    if (!rc)
        rc = sq_steps_named(ev, sq_json_str_or(p, "after", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++) {
        j.step = steps[i];
        rc = judge_step(&j, endpoint, results, e);
    }
    return rc;
}

const struct sq_check sq_check_recovered = {
    .name = "recovered",
    .doc = "After the fault, under load, the steady state comes back soon and stays.",
    .params = params,
    .run = run,
};
