/* timeout: callers give up a call that takes longer than their own limit says. Watched at the edge: a call that the
 * fault held is closed by its caller in time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/result.h"
#include "verify/stats.h"

#define SHARE 0.99 /* of held calls that must be given up in time */
#define CONF 0.95

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "a step that delays or swallows calls for longer than max"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the edge whose callers are judged; default: the step's own"},
    {"max", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "when a caller must have given up at the latest"},
    {"grace", SQ_P_DURATION, 0, "50ms", NULL, "what scheduling may add to max"},
    {"min_calls", SQ_P_INT, 0, "5", NULL, "calls that must have been held for longer than max"},
    SQ_PARAM_END,
};

struct held {
    int64_t *durs;                    /* how long the late ones took */
    uint64_t in_time, late, too_late; /* too late: beyond twice max */
    uint64_t opaque;                  /* whole connections: their calls can't be told apart */
    int64_t worst_ns;
};

static int count(const struct sq_evidence *ev, const struct sq_ev_step *s, const char *edge, int64_t max, int64_t grace,
                 struct held *h, struct sq_err *e)
{
    uint16_t fault = (uint16_t)(s->fault - ev->faults + 1);
    const struct sq_ev_series *series;
    size_t n = sq_ev_series(ev, edge, &series), all = 0, from, to;

    for (size_t i = 0; i < n; i++)
        all += sq_ev_calls_in(&series[i], s->win, &from, &to);
    h->durs = malloc((all + 1) * sizeof *h->durs);
    if (!h->durs)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0; i < n; i++) {
        (void)sq_ev_calls_in(&series[i], s->win, &from, &to);
        for (size_t k = from; k < to; k++) {
            const struct sq_ev_call *c = &series[i].calls[k];
            int64_t dur = (int64_t)c->dur_us * 1000;

            if (c->fault != fault)
                continue;
            if (c->kind == SQ_EV_CONN) {
                h->opaque++;
                continue;
            }
            if (dur <= max + grace) { /* one that got its answer or an error that early says nothing */
                h->in_time += c->outcome == SQ_EV_GAVE_UP;
                if (c->outcome == SQ_EV_GAVE_UP && dur > h->worst_ns)
                    h->worst_ns = dur;
                continue;
            }
            h->durs[h->late++] = dur;
            h->too_late += dur > 2 * max + grace;
            h->worst_ns = dur > h->worst_ns ? dur : h->worst_ns;
        }
    }
    return 0;
}

static int by_length(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;

    return (a > b) - (a < b);
}

/* Does the fault hold calls for longer than any caller should wait? */
static bool strong_enough(const struct sq_ev_step *s, int64_t max, int64_t grace, char *why, size_t len)
{
    int64_t delay = sq_param_ns(s->fault->with, "delay", 0), jitter = sq_param_ns(s->fault->with, "jitter", 0);
    char a[64], b[64];

    if (strcmp(s->uses, "call/blackhole") == 0)
        return true;
    if (strcmp(s->uses, "call/latency") != 0 && strcmp(s->uses, "call/http_delay") != 0) {
        (void)snprintf(why, len, "a fault of kind %s does not make callers wait", s->uses);
        return false;
    }
    if (delay - jitter > max + grace)
        return true;
    (void)snprintf(why, len, "the fault delays calls by %s at least, which is not more than max and grace, %s",
                   sq_fmt_duration(delay > jitter ? delay - jitter : 0, a, sizeof a),
                   sq_fmt_duration(max + grace, b, sizeof b));
    return false;
}

/* A user of the probe waits no longer than its own timeout. */
static int64_t patience(const struct sq_evidence *ev)
{
    json_t *load = json_object_get(ev->spec, "load"), *endpoint;
    int64_t least = INT64_MAX;
    const char *key;

    json_object_foreach(load, key, endpoint)
    {
        int64_t t = sq_param_ns(json_object_get(endpoint, "request"), "timeout", INT64_MAX);

        least = t < least ? t : least;
    }
    return least;
}

/* A caller may stop waiting without closing the connection. Then its users got their answer long before the call ended:
 * fewer than half as many users waited that long as calls did. Calls may end sooner than the fault's delay, when their
 * caller does give up, only late. -1: the probe can't tell. */
static int abandoned(const struct sq_evidence *ev, const struct sq_ev_step *s, int64_t max, int64_t grace,
                     const struct held *held, struct sq_err *e)
{
    int64_t delay = sq_param_ns(s->fault->with, "delay", 0), first, end;
    int64_t slow = delay > 0 ? delay - delay / 10 : 2 * (max + grace), typical;
    uint64_t late = held->late;
    struct sq_hist *h;
    int answer = -1;

    qsort(held->durs, late, sizeof *held->durs, by_length);
    typical = held->durs[late / 2];
    slow = slow < typical - typical / 10 ? slow : typical - typical / 10;
    slow = slow < patience(ev) - patience(ev) / 10 ? slow : patience(ev) - patience(ev) / 10;
    if (slow <= max + grace || !sq_window_secs(s->win, &first, &end) || !(h = sq_hist_new()))
        return -1;
    for (size_t i = 0; i < ev->n_endpoints; i++)
        if (ev->endpoints[i].is_void)
            goto out;
    if (sq_ev_hist(ev, NULL, first, end, "h", h, e) == 0 && sq_hist_count(h) >= late)
        answer = 2 * (sq_hist_count(h) - sq_hist_count_le(h, slow)) < late;
out:
    sq_hist_free(h);
    return answer;
}

static void judge(const struct held *h, uint64_t min, int64_t max, int witness, bool datagrams, struct sq_result *r)
{
    uint64_t n = h->in_time + h->late;
    double share = n ? (double)h->in_time / (double)n : 0.0;
    char worst[64], limit[64], pct[64], low[64], high[64];

    r->n = n;
    (void)sq_fmt_duration(h->worst_ns, worst, sizeof worst);
    (void)sq_fmt_duration(max, limit, sizeof limit);
    (void)snprintf(r->observed, sizeof r->observed, "%s given up in time, the last after %s",
                   sq_fmt_percent(100.0 * share, pct, sizeof pct), worst);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at 95 %%",
                   sq_fmt_percent(100.0 * sq_cp_lower(h->in_time, n, CONF), low, sizeof low),
                   sq_fmt_percent(100.0 * sq_cp_upper(h->in_time, n, CONF), high, sizeof high));
    if (datagrams && h->late > 0) {
        (void)snprintf(r->observed, sizeof r->observed, "%llu calls without an answer for longer than %s",
                       (unsigned long long)h->late, limit);
        r->interval[0] = '\0';
    }
    if (n < min && h->opaque > 0 && n == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "the calls on this edge are not HTTP: how long one takes can't be seen from outside");
    else if (n < min)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "only %llu calls were held for longer than %s, at least %llu are wanted",
                            (unsigned long long)n, limit, (unsigned long long)min);
    else if (h->late > 0 && (h->too_late > 0 || sq_cp_upper(h->in_time, n, CONF) < SHARE) && witness == 1)
        (void)sq_result_set(r, SQ_V_PASS,
                            "%llu calls stayed open beyond %s, but users had their answers by then: the caller stops "
                            "waiting%s",
                            (unsigned long long)h->late, limit, datagrams ? "" : " without closing its connections");
    else if (h->late > 0 && datagrams) /* a socket that is closed tells its peer nothing */
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%llu calls had no answer for longer than %s, but they are datagrams: whether their caller "
                            "still waited can't be seen",
                            (unsigned long long)h->late, limit);
    else if (h->too_late > 0)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "%llu of %llu callers still waited after twice the limit of %s, the longest for %s",
                            (unsigned long long)h->too_late, (unsigned long long)n, limit, worst);
    else if (share >= SHARE)
        (void)sq_result_set(r, SQ_V_PASS, "callers gave up in time: %llu of %llu within %s and its grace",
                            (unsigned long long)h->in_time, (unsigned long long)n, limit);
    else if (sq_cp_upper(h->in_time, n, CONF) < SHARE)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu callers waited longer than %s, the longest for %s",
                            (unsigned long long)h->late, (unsigned long long)n, limit, worst);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%llu of %llu callers waited longer than %s: too few calls to tell a rule from an accident",
                            (unsigned long long)h->late, (unsigned long long)n, limit);
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                      struct sq_err *e)
{
    const char *edge = sq_json_str_or(p, "edge", s->edge);
    int64_t max = sq_param_ns(p, "max", 0), grace = sq_param_ns(p, "grace", 50 * SQ_MS);
    uint64_t min = (uint64_t)llabs(sq_json_int_or(p, "min_calls", 5));
    char why[512], a[64], b[64];
    struct held h = {0};
    struct sq_result r;

    sq_result_init(&r, s, edge);
    (void)snprintf(r.limit, sizeof r.limit, "given up within %s + %s", sq_fmt_duration(max, a, sizeof a),
                   sq_fmt_duration(grace, b, sizeof b));
    if (!s->ran) {
        sq_step_missing(s, why, sizeof why);
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
    }
    if (!s->fault || !strong_enough(s, max, grace, why, sizeof why))
        return sq_result_add(results,
                             sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", s->fault ? why : "the step has no fault"), e);
    int rc = count(ev, s, edge, max, grace, &h, e);
    struct sq_err late = {0};
    int witness = rc == 0 && h.late ? abandoned(ev, s, max, grace, &h, &late) : -1;
    free(h.durs);
    if (rc)
        return rc;
    judge(&h, min ? min : 1, max, witness, sq_edge_has_datagrams(ev, edge), &r);
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const struct sq_ev_step **steps = NULL;
    size_t n = 0;
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);

    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], p, results, e);
    free(steps);
    return rc;
}

const struct sq_check sq_check_timeout = {
    .name = "timeout",
    .doc = "Callers give up a slow call within their own limit.",
    .params = params,
    .run = run,
};
