/* fuse: however a caller decides it, a failing dependency gets next to no calls. A breaker's parameters bound them
 * without looking at its state: each instance makes at most
 *
 *     trip_calls + 1.5 * rate * timeout + probes * (1 + ceil((T - trip_calls / rate) / open_for))
 *
 * in a fault of T: those that trip it, those under way by then, and the trials of each time it is open. A fifth more is
 * allowed. That says something only where an unprotected caller would make at least twice as many. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"

#define MARGIN 1.2
#define POWER 2.0
#define ENOUGH_CALLS 20 /* in steady state, all instances together, to know a rate */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which every call fails or hangs"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the edge whose calls are counted; default: the step's own"},
    {"max_calls", SQ_P_INT, 0, NULL, NULL, "calls that may be made during the fault, all instances together"},
    {"expect", SQ_P_MAP, 0, NULL, NULL, "instead: the breaker's parameters, which bound the calls"},
    SQ_PARAM_END,
};

static const struct sq_param expect_params[] = {
    {"trip_calls", SQ_P_INT, SQ_REQUIRED, NULL, NULL, "failed calls after which an instance's breaker opens"},
    {"timeout", SQ_P_DURATION, 0, "0s", NULL, "how long a caller waits for one call; 0s: calls fail at once"},
    {"probes", SQ_P_INT, 0, "1", NULL, "trial calls each time it is half-open"},
    {"open_for", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how long it stays open before it tries again"},
    SQ_PARAM_END,
};

static const struct sq_check_map maps[] = {{"expect", expect_params}, {NULL, NULL}};

struct bound {
    double limit;    /* calls, the margin included */
    double bare;     /* without it */
    double expected; /* of callers without a breaker */
    uint64_t instances;
};

static bool was_restarted(const struct sq_ev_event *ev, const char *instance, struct sq_window win)
{
    return ev->t_ns >= win.from_ns && ev->t_ns < win.to_ns && strcmp(ev->type, "service") == 0 &&
           strcmp(sq_json_str_or(ev->obj, "state", ""), "restarted") == 0 &&
           strcmp(sq_json_str_or(ev->obj, "instance", ""), instance) == 0;
}

/* A caller that is started anew has a breaker anew. */
static uint64_t lives_of(const struct sq_evidence *ev, const char *instance, struct sq_window win)
{
    uint64_t n = 1;

    for (size_t i = 0; i < ev->n_events; i++)
        n += was_restarted(&ev->events[i], instance, win);
    return n;
}

static double of_instance(const json_t *x, double rate, double fault_s)
{
    double trip = (double)sq_json_int_or(x, "trip_calls", 0), probes = (double)sq_json_int_or(x, "probes", 1),
           timeout = (double)sq_param_ns(x, "timeout", 0) / 1e9,
           open_for = (double)sq_param_ns(x, "open_for", SQ_S) / 1e9;
    double again = ceil((fault_s - trip / rate) / open_for - 1e-9);

    return trip + 1.5 * rate * timeout + probes * (1.0 + (again > 0.0 ? again : 0.0));
}

/* X: the breaker's parameters; NULL: max_calls are given. */
static void bound_of(const struct sq_evidence *ev, const char *edge, struct sq_window win, const json_t *x,
                     double max_calls, struct bound *b)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(ev, edge, &s);
    double fault_s = (double)(win.to_ns - win.from_ns) / 1e9, worth = fault_s;
    int64_t on, off, first, end;

    memset(b, 0, sizeof *b);
    if (!sq_steady_secs(ev, &on, &off))
        return;
    if (sq_window_secs(win, &first, &end)) /* as the load was, but no less than in steady state for the rate */
        worth = sq_load_worth(ev, first, end) / (double)(end - first) * fault_s;
    for (size_t i = 0; i < n; i++) {
        struct sq_edge_calls calm = {0};
        size_t from, to;

        for ((void)sq_ev_calls_in(&s[i], (struct sq_window){on * SQ_S, off * SQ_S}, &from, &to); from < to; from++)
            calm.n += !(s[i].has_requests && s[i].calls[from].kind == SQ_EV_CONN);
        double rate = (double)calm.n / (double)(off - on);
        b->expected += rate * worth;
        uint64_t lives = lives_of(ev, s[i].instance, win);
        b->instances += lives;
        if (x) /* one that was idle before: as if it had the rate of one call in all that time */
            b->bare += (double)lives *
                       of_instance(x, fmax(rate, 1.0 / (double)(off - on)) * fmax(1.0, worth / fault_s), fault_s);
    }
    if (!x)
        b->bare = max_calls;
    b->limit = x ? MARGIN * b->bare : b->bare;
}

static void judge(const struct sq_edge_calls *c, const struct bound *b, uint64_t steady, bool provoked,
                  struct sq_result *r)
{
    r->n = c->n;
    (void)snprintf(r->limit, sizeof r->limit, "<= %.0f calls", floor(b->limit));
    (void)snprintf(r->observed, sizeof r->observed, "%llu calls from %llu instance%s", (unsigned long long)c->n,
                   (unsigned long long)b->instances, b->instances == 1 ? "" : "s");
    (void)snprintf(r->interval, sizeof r->interval, "about %.0f without a breaker", b->expected);
    if (steady < ENOUGH_CALLS)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "only %llu calls were made in steady state, too few to know a rate",
                            (unsigned long long)steady);
    else if (POWER * b->bare > b->expected)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "too little load: callers without a breaker would have made about %.0f calls, and %.0f are "
                            "allowed, so that few calls prove nothing",
                            b->expected, floor(b->limit));
    else if (!provoked)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "no call failed or was held: there was no reason to stop calling");
    else if ((double)c->n <= b->limit)
        (void)sq_result_set(r, SQ_V_PASS,
                            "the failing dependency was spared: %llu calls, about %.0f would have been made without a "
                            "breaker",
                            (unsigned long long)c->n, b->expected);
    else
        (void)sq_result_set(r, SQ_V_FAIL, "%llu calls reached for the failing dependency, at most %.0f are allowed",
                            (unsigned long long)c->n, floor(b->limit));
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                      struct sq_err *e)
{
    const char *edge = sq_json_str_or(p, "edge", s->edge);
    const json_t *x = json_object_get(p, "expect");
    struct sq_edge_calls c, calm;
    struct bound b;
    struct sq_result r;
    int64_t on, off;

    if (!s->ran)
        return sq_undecided_step(results, s, edge, "", e);
    if (!sq_steady_secs(ev, &on, &off))
        return sq_undecided(results, s, edge, "", e, "no steady state was recorded to know the callers' rate from");
    if (x && (sq_param_percent(s->fault->target, "percent", 100.0) < 100.0 || sq_call_counts(s->fault->target)))
        return sq_undecided(results, s, edge, "", e,
                            "the fault hits some calls only, so that a breaker may rightly stay closed");
    sq_edge_calls(ev, edge, s->win, &c);
    sq_edge_calls(ev, edge, (struct sq_window){on * SQ_S, off * SQ_S}, &calm);
    bound_of(ev, edge, s->win, x, (double)sq_json_int_or(p, "max_calls", 0), &b);
    sq_result_init(&r, s, edge);
    judge(&c, &b, calm.n, c.harmed > 0, &r);
    const char *gone = sq_caller_gone(ev, edge, s->win);
    if (gone && r.verdict == SQ_V_PASS)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s ended while the fault was on, so that it made few calls proves "
                            "nothing",
                            gone);
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    const json_t *x = json_object_get(p, "expect");
    size_t n = 0;

    if (!x == !json_object_get(p, "max_calls") || sq_json_int_or(p, "max_calls", 0) < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "fuse takes either max_calls or expect");
    if (x && (sq_json_int_or(x, "trip_calls", 0) < 1 || sq_json_int_or(x, "probes", 1) < 0 ||
              sq_param_ns(x, "open_for", 0) <= 0 || sq_param_ns(x, "timeout", 0) < 0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "fuse expects trip_calls of 1 or more and an open_for above 0");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], p, results, e);
    return rc;
}

const struct sq_check sq_check_fuse = {
    .name = "fuse",
    .doc = "A failing dependency gets no more calls than a breaker would let through.",
    .params = params,
    .run = run,
    .maps = maps,
};
