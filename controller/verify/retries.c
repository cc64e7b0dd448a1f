/* retries: a caller tries again, but not without end, not all at once, and not so often that it makes things worse.
 *
 * Attempts of one request are known when calls carry a trace id (traced): they are counted per id, divided by what one
 * request makes in steady state. Where requests differ in that, what a request was meant to make is not known: it fails
 * only if it called too often for the largest of them, and is good only if it did not for the smallest. Most of those
 * that were hit may carry none all the same: connects that were held or refused end before a request is sent. Then only
 * the ratio of calls to requests is known, from the fault's begin until the caller's breaker opens, if it does: being
 * open must not hide what happens before. Calls and requests are counted, not sampled, so that what was seen is enough
 * to pass; to fail, chance must be out of the question. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/breaker.h"
#include "verify/result.h"
#include "verify/stats.h"

#define CONF 0.95
#define STAMP_NS (15 * SQ_MS) /* two stamps, each rounded to 10 ms */
#define CUT_NS SQ_S           /* a request is over in that time, when all is well */
#define AT_BEGIN 2.0          /* requests under way when the fault begins, whose repetitions come after */
#define LOW 0.1               /* pauses vary from this share of them to that */
#define HIGH 0.9

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which calls fail or hang"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the edge whose callers are judged; default: the step's own"},
    {"max_attempts", SQ_P_INT, 0, NULL, NULL, "how often one request may call, the first time included"},
    {"amplification", SQ_P_NUMBER, 0, NULL, NULL,
     "how many times the steady state's calls per request the step may see"},
    {"min_backoff", SQ_P_DURATION, 0, NULL, NULL, "the least pause between a call's end and its repetition"},
    {"min_jitter", SQ_P_DURATION, 0, NULL, NULL,
     "how much these pauses must vary, at least: from their 10th to their 90th percentile"},
    {"min_requests", SQ_P_INT, 0, "10", NULL, "requests whose calls were hit that it takes to judge"},
    SQ_PARAM_END,
};

/* One call, as needed here. */
struct attempt {
    uint8_t trace[16];
    int64_t from_ns, to_ns;
    bool hit;
};

/* The traced calls of an edge in a window, grouped by trace id, each group by time. */
struct traces {
    struct attempt *a;
    size_t n;
    uint64_t calls; /* with or without a trace */
};

static int by_trace(const void *x, const void *y)
{
    const struct attempt *a = x, *b = y;
    int c = memcmp(a->trace, b->trace, sizeof a->trace);

    return c ? c : (a->from_ns > b->from_ns) - (a->from_ns < b->from_ns);
}

static int collect(const struct sq_evidence *ev, const char *edge, struct sq_window win, struct traces *t,
                   struct sq_err *e)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(ev, edge, &s), from, to;

    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < n; i++)
        t->calls += sq_ev_calls_in(&s[i], win, &from, &to);
    t->a = calloc((size_t)t->calls + 1, sizeof *t->a);
    if (!t->a)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0; i < n; i++) {
        (void)sq_ev_calls_in(&s[i], win, &from, &to);
        for (size_t k = from; k < to; k++) {
            const struct sq_ev_call *c = &s[i].calls[k];

            if (!c->traced)
                continue;
            struct attempt *a = &t->a[t->n++];
            memcpy(a->trace, c->trace, sizeof a->trace);
            a->from_ns = c->t_ns;
            a->to_ns = c->t_ns + (int64_t)c->dur_us * 1000;
            a->hit = c->fault != 0 || c->outcome != SQ_EV_ANSWERED;
        }
    }
    if (t->n > 1)
        qsort(t->a, t->n, sizeof *t->a, by_trace);
    return 0;
}

/* The end of the group that begins at i. */
static size_t group(const struct traces *t, size_t i)
{
    size_t k = i + 1;

    while (k < t->n && memcmp(t->a[k].trace, t->a[i].trace, sizeof t->a[i].trace) == 0)
        k++;
    return k;
}

static int by_count(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* How many calls one request makes when all is well: the 1st and the 99th percentile. 0: no request was traced. Those
 * that the window's ends may have cut are left out when there are others. */
static int fan_out(const struct traces *t, struct sq_window win, size_t *least, size_t *most, struct sq_err *e)
{
    cleanup_free size_t *counts = malloc((t->n + 1) * sizeof *counts);
    size_t n = 0, cut = 0;

    *least = *most = 0;
    if (!counts)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0, k; i < t->n; i = k) {
        k = group(t, i);
        if (t->a[i].from_ns >= win.from_ns + CUT_NS && t->a[k - 1].from_ns < win.to_ns - CUT_NS)
            counts[n++] = k - i;
        else
            counts[t->n - cut++] = k - i;
    }
    if (n == 0) {
        memmove(counts, counts + t->n + 1 - cut, cut * sizeof *counts);
        n = cut;
    }
    if (n == 0)
        return 0;
    qsort(counts, n, sizeof *counts, by_count);
    *least = counts[(n - 1) / 100];
    *most = counts[(n - 1) * 99 / 100];
    return 0;
}

/* What the two windows have to say. */
struct view {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const char *edge;
    struct sq_window steady;
    struct traces calm, storm;
    bool traced;
    size_t fan_least, fan;
    uint64_t min;      /* requests */
    uint64_t requests; /* traced: with a call that was hit */
    uint64_t hit;      /* calls that were hit and traced */
    uint64_t all_hit;  /* calls that were hit */
    size_t most;       /* attempts of one request */
    uint64_t over;     /* requests with more than allowed */
    uint64_t maybe;    /* requests with more than allowed if they are of the smallest */
    size_t calls;      /* of the one of these with the most */
    uint64_t retried;  /* pairs of attempts */
    uint64_t hasty;    /* pairs with less than min_backoff between */
    uint64_t overlap;  /* pairs that overlap */
    int64_t least_ns;  /* the shortest pause */
    int64_t *pauses;   /* of the pairs that don't overlap */
};

static void look(struct view *v, int64_t max_attempts, int64_t backoff)
{
    const struct traces *t = &v->storm;

    v->least_ns = INT64_MAX;
    for (size_t i = 0, k; i < t->n; i = k) {
        bool hit = false;

        k = group(t, i);
        for (size_t j = i; j < k; j++) {
            hit |= t->a[j].hit;
            v->hit += t->a[j].hit;
        }
        if (!hit || t->a[i].from_ns >= v->step->win.to_ns)
            continue;
        size_t attempts = v->fan ? (k - i + v->fan - 1) / v->fan : k - i;
        v->requests++;
        v->most = attempts > v->most ? attempts : v->most;
        v->over += max_attempts > 0 && attempts > (size_t)max_attempts;
        if (v->fan_least && (k - i + v->fan_least - 1) / v->fan_least > (size_t)max_attempts) {
            v->maybe++;
            v->calls = k - i > v->calls ? k - i : v->calls;
        }
        for (size_t j = i + 1; j < k; j++) {
            int64_t pause = t->a[j].from_ns - t->a[j - 1].to_ns;

            v->retried++;
            if (pause < -STAMP_NS) {
                v->overlap++;
                continue;
            }
            v->pauses[v->retried - v->overlap - 1] = pause;
            v->least_ns = pause < v->least_ns ? pause : v->least_ns;
            v->hasty += pause + STAMP_NS < backoff;
        }
    }
}

static uint64_t all_hits(const struct view *v)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(v->ev, v->edge, &s), from, to;
    uint64_t hit = 0;

    for (size_t i = 0; i < n; i++) {
        (void)sq_ev_calls_in(&s[i], v->step->win, &from, &to);
        for (size_t k = from; k < to; k++)
            hit += s[i].calls[k].fault != 0 || s[i].calls[k].outcome != SQ_EV_ANSWERED;
    }
    return hit;
}

/* Calls and requests in the whole seconds of WIN. */
static void ratio_in(const struct view *v, struct sq_window win, uint64_t *calls, uint64_t *requests)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(v->ev, v->edge, &s), from, to;
    int64_t first, end;

    *calls = *requests = 0;
    if (!sq_window_secs(win, &first, &end))
        return;
    for (int64_t sec = first; sec < end; sec++) {
        struct sq_window one = {sec * SQ_S, (sec + 1) * SQ_S};
        struct sq_ev_sums sums;
        uint64_t c = 0;

        for (size_t i = 0; i < n; i++)
            c += sq_ev_calls_in(&s[i], one, &from, &to);
        sq_ev_sum(v->ev, NULL, sec, sec + 1, &sums);
        uint64_t asked = sums.sent > sums.n ? sums.sent : sums.n;
        *calls += asked ? c : 0;
        *requests += asked;
    }
}

/* How much longer it would have taken: the logarithm of the ratio of two counts varies by 1/C0 + 1/C1. */
static const char *longer(uint64_t c0, uint64_t c1, double apart, char *buf, size_t len)
{
    double times = 1.645 * 1.645 * (1 / (double)c0 + 1 / ((double)c1 + 1)) / (apart * apart);

    buf[0] = '\0';
    if (times > 1 && times < 20)
        (void)snprintf(buf, len, ": about %.0f times the load, or the time in steady state and step, would do",
                       ceil(times + 0.2));
    return buf;
}

/* The ratio of calls per request now and in steady state, judged against LIMIT. */
static void judge_ratio(const struct view *v, double limit, struct sq_result *r)
{
    uint64_t c0, n0, c1, n1;
    char more[120];

    ratio_in(v, v->steady, &c0, &n0);
    ratio_in(v, v->step->win, &c1, &n1);
    r->n = n1;
    if (c0 == 0 || n0 == 0 || n1 == 0) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "the probe's requests or the steady state's calls are missing: no ratio can be had");
        return;
    }
    double seen = ((double)c1 / (double)n1) / ((double)c0 / (double)n0);
    double low = sq_rate_ratio_lower(c1, (double)n1, c0, (double)n0, CONF);
    double high = sq_rate_ratio_upper(c1, (double)n1, c0, (double)n0, CONF);

    (void)snprintf(r->observed, sizeof r->observed, "%.3g times the calls per request of the steady state", seen);
    (void)snprintf(r->interval, sizeof r->interval, "[%.3g, %.3g] at 95 %%", low, high);
    if (high <= limit)
        (void)sq_result_set(r, SQ_V_PASS, "%llu requests made %llu calls: %.3g times as many each as in steady state",
                            (unsigned long long)n1, (unsigned long long)c1, seen);
    else if (low > limit)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "%llu requests made %llu calls: %.3g times as many each as in steady state, which makes an "
                            "overload worse",
                            (unsigned long long)n1, (unsigned long long)c1, seen);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu requests are too few to tell %.3g from %.3g times the calls%s",
                            (unsigned long long)n1, seen, limit, longer(c0, c1, log(limit / seen), more, sizeof more));
}

/* Calls while they were let through, and how many there would have been in steady state. */
struct active {
    uint64_t calls, steady;
    double due;
};

static int count_active(const struct view *v, struct active *a, struct sq_err *e)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(v->ev, v->edge, &s), from, to;

    for (size_t i = 0; i < n; i++) {
        struct sq_window w = v->step->win;
        struct sq_breaker *b;
        int rc = sq_breaker_new(v->ev, &s[i], &b, e);

        if (rc)
            return rc;
        for (size_t k = 0; k < b->n_silences; k++)
            if (b->silences[k].to_ns > w.from_ns && b->silences[k].from_ns < w.to_ns) {
                w.to_ns = b->silences[k].from_ns > w.from_ns ? b->silences[k].from_ns : w.from_ns;
                break;
            }
        a->calls += sq_ev_calls_in(&s[i], w, &from, &to);
        a->due += sq_breaker_expected(b, w.from_ns, w.to_ns);
        a->steady += b->steady_calls;
        sq_breaker_free(b);
    }
    return 0;
}

static void judge_active(const struct view *v, const struct active *a, int64_t max, struct sq_result *r)
{
    double due = a->due + AT_BEGIN, seen = (double)a->calls / due;
    double low = a->steady ? sq_rate_ratio_lower(a->calls, due, a->steady, (double)a->steady, CONF) : 0.0;

    r->n = a->calls;
    (void)snprintf(r->observed, sizeof r->observed, "%.3g times the calls per request of the steady state", seen);
    if (a->steady == 0 || a->due < (double)v->min)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "calls were let through for only about %.0f requests, at least %llu are wanted", a->due,
                            (unsigned long long)v->min);
    else if (low > (double)max)
        (void)sq_result_set(r, SQ_V_FAIL, "about %.0f requests made %llu calls, more than %lld each", due,
                            (unsigned long long)a->calls, (long long)max);
    else if (seen <= (double)max)
        (void)sq_result_set(r, SQ_V_PASS,
                            "about %.0f requests made %llu calls (most carry no trace id: judged by their ratio)", due,
                            (unsigned long long)a->calls);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "about %.0f requests made %llu calls: too near to %lld each to be decided", due,
                            (unsigned long long)a->calls, (long long)max);
}

static int judge_attempts(const struct view *v, int64_t max, struct sq_result *r, struct sq_err *e)
{
    struct active a = {0};

    (void)snprintf(r->limit, sizeof r->limit, "<= %lld attempts a request", (long long)max);
    r->n = v->requests;
    (void)snprintf(r->observed, sizeof r->observed, "at most %zu attempts", v->most);
    if (v->traced && v->over > 0 && v->requests < v->min)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "one request called %zu times, but only %llu had a call that was hit, at least %llu are "
                            "wanted",
                            v->most, (unsigned long long)v->requests, (unsigned long long)v->min);
    else if (v->traced && v->over > 0)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu requests called more than %lld times, one of them %zu times",
                            (unsigned long long)v->over, (unsigned long long)v->requests, (long long)max, v->most);
    else if (v->traced && v->maybe > 0)
        (void)sq_result_set(
            r, SQ_V_INCONCLUSIVE,
            "%llu of %llu requests may have called too often, one of them %zu times; when all is well they "
            "make %zu to %zu calls, so this can't be known (`amplification` judges all together)",
            (unsigned long long)v->maybe, (unsigned long long)v->requests, v->calls, v->fan_least, v->fan);
    else if (v->traced && 2 * v->hit > v->all_hit) {
        if (v->requests < v->min)
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                                "only %llu requests had a call that was hit, at least %llu are wanted",
                                (unsigned long long)v->requests, (unsigned long long)v->min);
        else
            (void)sq_result_set(r, SQ_V_PASS,
                                "no request called more than %lld times (%llu requests, by their trace ids)",
                                (long long)max, (unsigned long long)v->requests);
    } else {
        int rc = count_active(v, &a, e);

        if (rc)
            return rc;
        judge_active(v, &a, max, r);
        rc = sq_breaker_doubt_base(v->ev, v->edge, v->step->win.from_ns, r, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Can it be known which call repeats which? Says why not. */
static bool pairs_known(const struct view *v, struct sq_result *r)
{
    if (!v->traced || 2 * v->hit <= v->all_hit)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "most calls carry no trace id: which call repeats which can't be known");
    else if (v->fan > 1)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "one request makes %zu calls when all is well: which call repeats which can't be known",
                            v->fan);
    else if (v->requests < v->min)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "only %llu requests had a call that was hit, at least %llu are wanted",
                            (unsigned long long)v->requests, (unsigned long long)v->min);
    else
        return true;
    return false;
}

static void judge_backoff(const struct view *v, int64_t backoff, struct sq_result *r)
{
    uint64_t pairs = v->retried - v->overlap;
    char a[64], b[64];

    (void)snprintf(r->limit, sizeof r->limit, ">= %s between attempts", sq_fmt_duration(backoff, a, sizeof a));
    r->n = pairs;
    if (pairs)
        (void)snprintf(r->observed, sizeof r->observed, "the shortest pause was %s",
                       sq_fmt_duration(v->least_ns < 0 ? 0 : v->least_ns, b, sizeof b));
    if (!pairs_known(v, r))
        return;
    if (v->hasty > 0 && (double)v->hasty > 0.01 * (double)pairs)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu repetitions came sooner than %s after the call before",
                            (unsigned long long)v->hasty, (unsigned long long)pairs, a);
    else if (pairs == 0 && v->overlap > 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "calls were repeated while the first was still open: no pause to measure");
    else
        (void)sq_result_set(r, SQ_V_PASS,
                            pairs ? "%llu repetitions, all of them %s or more after the call before"
                                  : "no call was repeated (%llu repetitions, limit %s)",
                            (unsigned long long)pairs, a);
}

static int by_length(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;

    return (a > b) - (a < b);
}

/* Callers that all repeat after the same pause come back as one wave. What rounded stamps add to the spread can only
 * hide a lack of jitter, so to pass, it is taken off. */
static void judge_jitter(const struct view *v, int64_t jitter, struct sq_result *r)
{
    uint64_t n = v->retried - v->overlap;
    uint64_t low_a = sq_rank_lower(n, LOW, CONF), low_b = sq_rank_upper(n, LOW, CONF);
    uint64_t high_a = sq_rank_lower(n, HIGH, CONF), high_b = sq_rank_upper(n, HIGH, CONF);
    char a[64], b[64], c[64];

    (void)snprintf(r->limit, sizeof r->limit, "pauses vary by %s", sq_fmt_duration(jitter, a, sizeof a));
    r->n = n;
    if (!pairs_known(v, r))
        return;
    if (v->retried == 0) {
        (void)sq_result_set(r, SQ_V_PASS, "no call was repeated");
        return;
    }
    if (!low_a || !low_b || !high_a || !high_b) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu pauses are too few to know how much they vary",
                            (unsigned long long)n);
        return;
    }
    qsort(v->pauses, n, sizeof *v->pauses, by_length);
    const int64_t *p = v->pauses;
    int64_t least = p[high_a - 1] - p[low_b - 1] - STAMP_NS, most = p[high_b - 1] - p[low_a - 1];
    least = least > 0 ? least : 0;
    (void)snprintf(r->observed, sizeof r->observed, "pauses vary by %s at most", sq_fmt_duration(most, b, sizeof b));
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s]", sq_fmt_duration(least, c, sizeof c), b);
    if (least >= jitter)
        (void)sq_result_set(r, SQ_V_PASS, "the pauses before %llu repetitions vary by %s or more",
                            (unsigned long long)n, c);
    else if (most < jitter)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "%llu repetitions came after nearly the same pause (they vary by %s, %s are wanted): "
                            "callers that fail together come back together",
                            (unsigned long long)n, b, a);
    else
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "pauses vary by %s to %s: too near to %s to be decided by %llu", c, b,
                            a, (unsigned long long)n);
}

static int judge_view(struct view *v, const json_t *p, json_t *results, struct sq_err *e)
{
    int64_t max = sq_json_int_or(p, "max_attempts", 0), backoff = sq_param_ns(p, "min_backoff", 0),
            jitter = sq_param_ns(p, "min_jitter", 0);
    double amplification = sq_json_num_or(p, "amplification", 0.0);
    struct sq_result r;
    int rc = 0;

    look(v, max, backoff);
    sq_result_init(&r, v->step, v->edge);
    v->all_hit = all_hits(v);
    if (v->all_hit == 0)
        return sq_result_add(
            results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "no call failed or was held: nothing had to be retried"), e);
    if (max > 0) {
        rc = judge_attempts(v, max, &r, e);
        rc = rc ? rc : sq_result_add(results, &r, e);
    }
    if (!rc && amplification > 0.0) {
        sq_result_init(&r, v->step, v->edge);
        (void)snprintf(r.limit, sizeof r.limit, "<= %.3g times the calls per request", amplification);
        judge_ratio(v, amplification, &r);
        rc = sq_breaker_doubt_base(v->ev, v->edge, v->step->win.from_ns, &r, e);
        rc = rc ? rc : sq_result_add(results, &r, e);
    }
    if (!rc && backoff > 0) {
        sq_result_init(&r, v->step, v->edge);
        judge_backoff(v, backoff, &r);
        rc = sq_result_add(results, &r, e);
    }
    if (!rc && jitter > 0) {
        sq_result_init(&r, v->step, v->edge);
        judge_jitter(v, jitter, &r);
        rc = sq_result_add(results, &r, e);
    }
    return rc;
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                      struct sq_err *e)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);
    struct view v = {.ev = ev, .step = s, .edge = sq_json_str_or(p, "edge", s->edge)};
    struct sq_result r;
    char why[512] = "no steady state was recorded to compare with";

    v.min = (uint64_t)llabs(sq_json_int_or(p, "min_requests", 10));
    sq_result_init(&r, s, v.edge);
    if (!s->ran)
        sq_step_missing(s, why, sizeof why);
    if (!s->ran || !steady)
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
    v.steady = steady->win;
    /* Attempts that follow the first ones may come after the fault. */
    struct sq_window storm = {s->win.from_ns, s->win.to_ns + 10 * SQ_S};
    storm.to_ns = storm.to_ns < s->until_ns ? storm.to_ns : s->until_ns;
    int rc = collect(ev, v.edge, v.steady, &v.calm, e);
    if (!rc)
        rc = collect(ev, v.edge, storm, &v.storm, e);
    v.pauses = malloc((v.storm.n + 1) * sizeof *v.pauses);
    if (!rc && !v.pauses)
        rc = sq_err(e, -ENOMEM, "no memory for a check");
    if (!rc) {
        v.traced = v.calm.n * 2 > v.calm.calls && v.calm.calls > 0;
        rc = v.traced ? fan_out(&v.calm, v.steady, &v.fan_least, &v.fan, e) : 0;
        rc = rc ? rc : judge_view(&v, p, results, e);
    }
    free(v.calm.a);
    free(v.storm.a);
    free(v.pauses);
    return rc;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;

    if (!json_object_get(p, "max_attempts") && !json_object_get(p, "amplification") &&
        !json_object_get(p, "min_backoff") && !json_object_get(p, "min_jitter"))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "retries takes max_attempts, amplification, min_backoff or min_jitter");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], p, results, e);
    return rc;
}

const struct sq_check sq_check_retries = {
    .name = "retries",
    .doc = "Callers repeat failed calls within bounds: attempts, amplification, pauses.",
    .params = params,
    .run = run,
};
