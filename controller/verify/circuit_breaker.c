/* circuit_breaker: when its dependency fails, a caller stops calling soon, stays silent for as long as it should, tries
 * again with few calls, and calls as before once the fault is over. Judged for each instance of the caller by itself,
 * from nothing but the times of its calls (verify/breaker.h). */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/breaker.h"
#include "verify/result.h"
#include "verify/stats.h"

#define STAMP_NS (20 * SQ_MS)  /* two stamps, each rounded to 10 ms */
#define LEAD_NS SQ_S           /* a silence that began this long before the fault's stamp is still its doing */
#define QUIET_NS (500 * SQ_MS) /* the least silence that counts where none is asked for */
#define EDGE_NS (50 * SQ_MS)   /* trial calls this near to the fault's end may already have met a healthy dependency */
#define ENOUGH_CALLS 20        /* in steady state, to know an instance's rate */
#define BACK 0.9               /* share of the steady rate at which calls are back */
#define AS_BEFORE 0.9          /* share of the calls without a breaker: nothing holds them back */
#define HELD_BACK 0.5          /* surely something does */
#define TRIALS_MANY 30         /* in one go, where nothing says how many are right */
#define BACK_CALLS 30.0        /* calls expected in the stretch that shows it */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which the dependency fails or hangs"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the edge whose callers are judged; default: the step's own"},
    {"per", SQ_P_ENUM, 0, "instance", "instance", "what has a breaker of its own"},
    {"expect", SQ_P_MAP, 0, NULL, NULL, "what the breaker must do"},
    SQ_PARAM_END,
};

static const struct sq_param expect_params[] = {
    {"opens_within", SQ_P_DURATION, 0, "10s", NULL, "from the fault's begin until calls stop"},
    {"open_for", SQ_P_DURATION, 0, NULL, NULL, "how long no call may be made after that, at least"},
    {"probes", SQ_P_INT, 0, NULL, NULL, "trial calls that may be made at a time while the fault lasts"},
    {"closes_within", SQ_P_DURATION, 0, "60s", NULL, "from the fault's end until calls are back at their rate"},
    {"trip_calls", SQ_P_INT, 0, NULL, NULL, "calls that may reach the dependency before the breaker opens"},
    {"trip_calls_min", SQ_P_INT, 0, NULL, NULL, "calls that it must see before it opens"},
    {"tolerance", SQ_P_PERCENT, 0, "10%", NULL, "how much shorter than open_for the silence may be"},
    SQ_PARAM_END,
};

static const struct sq_check_map maps[] = {{"expect", expect_params}, {NULL, NULL}};

struct expect {
    int64_t opens_within, open_for, closes_within, probes, trip_calls, trip_calls_min; /* 0: not asked for */
    double tolerance;                                                                  /* share */
};

struct view {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const struct sq_ev_series *series;
    const struct expect *x;
    struct sq_breaker *b;
    struct sq_result r;
    const struct sq_silence *opened;
    uint64_t bursts, most_trials;
    bool passed; /* a trial call was answered while the fault was on */
};

/* ---- putting the verdict together: the worst part speaks ---- */

static void part(struct view *v, enum sq_outcome outcome, const char *fmt, ...) SQ_PRINTF(3, 4);
static void part(struct view *v, enum sq_outcome outcome, const char *fmt, ...)
{
    enum sq_outcome worse = sq_worse(v->r.verdict, outcome);
    va_list ap;

    if (outcome == SQ_V_PASS || worse == v->r.verdict) /* of two alike the first is the cause */
        return;
    v->r.verdict = worse;
    va_start(ap, fmt);
    (void)vsnprintf(v->r.why, sizeof v->r.why, fmt, ap);
    va_end(ap);
}

static void seen(struct view *v, const char *fmt, ...) SQ_PRINTF(2, 3);
static void seen(struct view *v, const char *fmt, ...)
{
    size_t used = strlen(v->r.observed);
    va_list ap;

    if (used && used + 2 < sizeof v->r.observed) {
        memcpy(v->r.observed + used, ", ", 3);
        used += 2;
    }
    va_start(ap, fmt);
    (void)vsnprintf(v->r.observed + used, sizeof v->r.observed - used, fmt, ap);
    va_end(ap);
}

static char *dur(int64_t ns, char buf[64])
{
    return sq_fmt_duration(ns < 0 ? 0 : ns, buf, 64);
}

static void say_limit(const struct expect *x, char *buf, size_t len)
{
    char a[64], b[64], c[64];
    int n = snprintf(buf, len, "opens within %s", dur(x->opens_within, a));
    size_t used = n > 0 ? (size_t)n : 0;

    if (x->trip_calls && used < len)
        used += (size_t)snprintf(buf + used, len - used, " and %lld calls", (long long)x->trip_calls);
    if (x->open_for && used < len)
        used += (size_t)snprintf(buf + used, len - used, ", silent for %s", dur(x->open_for, b));
    if (x->probes && used < len)
        used += (size_t)snprintf(buf + used, len - used, ", trials of at most %lld", (long long)x->probes);
    if (used < len)
        (void)snprintf(buf + used, len - used, ", closes within %s", dur(x->closes_within, c));
}

/* ---- can it be judged at all? ---- */

static int64_t least_silence(const struct expect *x)
{
    return x->open_for ? (int64_t)((double)x->open_for * (1.0 - x->tolerance)) : QUIET_NS;
}

static bool judge_load(struct view *v)
{
    const struct expect *x = v->x;
    const struct sq_breaker *b = v->b;
    int64_t quiet = x->open_for ? least_silence(x) : x->opens_within;
    double need = quiet > 0 ? SQ_SILENCE / ((double)quiet / 1e9) : 0.0;
    const struct sq_silence *before = sq_breaker_silent_base(v->ev, b, v->step->win.from_ns);
    char d[64];

    if (!sq_ev_steady(v->ev))
        part(v, SQ_V_INCONCLUSIVE, "no steady state was recorded to compare with");
    else if (b->steady_calls == 0)
        part(v, SQ_V_INCONCLUSIVE, "it made no call in steady state");
    else if (b->steady_calls < ENOUGH_CALLS)
        part(v, SQ_V_INCONCLUSIVE, "it made only %llu calls in steady state, too few to know its rate",
             (unsigned long long)b->steady_calls);
    else if (b->rate < need)
        part(v, SQ_V_INCONCLUSIVE,
             "too little load: at %.2g calls a second, %s without a call may be chance; %.2g a second would prove it",
             b->rate, dur(quiet, d), need);
    else if (x->trip_calls && b->rate * (double)x->opens_within / 1e9 < (double)x->trip_calls)
        part(v, SQ_V_INCONCLUSIVE, "too little load to trip it: %.2g calls a second do not make %lld calls in %s",
             b->rate, (long long)x->trip_calls, dur(x->opens_within, d));
    else if (before)
        part(v, SQ_V_INCONCLUSIVE,
             "in steady state it made no call for %s from %.1f s on: there is no rate to compare with",
             dur(before->to_ns - before->from_ns, d), (double)before->from_ns / 1e9);
    else
        return true;
    return false;
}

/* A caller that ended, or was itself what the fault hit, is silent for another reason. */
static bool judge_caller(struct view *v)
{
    const char *me = v->series->instance;
    const struct sq_ev_phase *steady = sq_ev_steady(v->ev);
    const json_t *hit = v->step->fault->hit;
    /* services are stopped right after the load's last request, somewhere in its last second */
    int64_t to = v->step->until_ns < v->b->end_ns - SQ_S ? v->step->until_ns : v->b->end_ns - SQ_S;

    for (size_t i = 0; i < json_array_size(hit); i++) {
        const json_t *h = json_array_get(hit, i);

        if (sq_json_bool_or(h, "chosen", true) && strcmp(sq_json_str_or(h, "instance", ""), me) == 0 &&
            json_object_get(h, "pid")) {
            part(v, SQ_V_INCONCLUSIVE, "the fault hit this caller itself, so its silence proves nothing");
            return false;
        }
    }
    for (size_t i = 0; i < v->ev->n_events; i++) {
        const struct sq_ev_event *ev = &v->ev->events[i];
        const char *state = sq_json_str_or(ev->obj, "state", "");

        if (ev->t_ns < (steady ? steady->win.from_ns : 0) || ev->t_ns >= to)
            continue;
        if (strcmp(ev->type, "service") == 0 && strcmp(sq_json_str_or(ev->obj, "instance", ""), me) == 0 &&
            (strcmp(state, "exited") == 0 || strcmp(state, "restarted") == 0 || strcmp(state, "stopped") == 0)) {
            part(v, SQ_V_INCONCLUSIVE, "%s %s at %.1f s, so its silence proves nothing", me, state,
                 (double)ev->t_ns / 1e9);
            return false;
        }
        if (strcmp(ev->type, "proxy") == 0 && strcmp(state, "died") == 0) {
            part(v, SQ_V_INCONCLUSIVE, "the proxy died at %.1f s: calls after that were not counted",
                 (double)ev->t_ns / 1e9);
            return false;
        }
    }
    return true;
}

/* ---- opening ---- */

/* The first silence that begins while the fault is on (or covers its begin) and lasts as long as it should. A caller
 * that waits for a few stuck calls pauses too, before its breaker opens; so a shorter one counts only where no long one
 * is. */
static const struct sq_silence *find_opening(const struct view *v)
{
    const struct sq_window w = v->step->win;
    const struct sq_silence *first = NULL;

    for (size_t i = 0; i < v->b->n_silences; i++) {
        const struct sq_silence *s = &v->b->silences[i];

        if (s->to_ns <= w.from_ns || s->from_ns >= w.to_ns + STAMP_NS)
            continue;
        if (s->to_ns - s->from_ns + STAMP_NS >= least_silence(v->x) || s->from_ns < w.from_ns - LEAD_NS)
            return s;
        if (!first && v->x->open_for && sq_breaker_harmed(v->b, w.from_ns, s->from_ns + 1) > 0)
            first = s;
    }
    return first;
}

static void judge_never(struct view *v, uint64_t reached)
{
    const struct sq_window w = v->step->win;
    const struct expect *x = v->x;
    const struct sq_breaker *b = v->b;
    int64_t due = w.from_ns + x->opens_within;
    int64_t first = sq_json_int_or(v->step->fault->target, "first", 0);
    size_t last = sq_breaker_at(b, INT64_MAX);
    char a[64], d[64];

    seen(v, "never opened, %llu calls in %s", (unsigned long long)reached, dur(w.to_ns - w.from_ns, d));
    if (sq_breaker_harmed(b, w.from_ns - STAMP_NS, w.to_ns) == 0)
        part(v, SQ_V_INCONCLUSIVE, "no call failed or was held: the breaker had no reason to open");
    else if (first > 0 && (x->trip_calls == 0 || first < x->trip_calls))
        part(v, SQ_V_INCONCLUSIVE, "it did not open, but the fault hit only the first %lld of its calls",
             (long long)first);
    else if (w.to_ns < due)
        part(v, SQ_V_INCONCLUSIVE, "it did not open, but the fault lasted only %s and it may take %s", d,
             dur(x->opens_within, a));
    else if (last == 0 || b->calls[last - 1].from_ns <= due + STAMP_NS)
        part(v, SQ_V_INCONCLUSIVE, "calls stopped, but the load ended too soon after that to prove it");
    else
        part(v, SQ_V_FAIL, "it never opened: %llu calls reached the failing dependency in %s",
             (unsigned long long)reached, d);
}

/* Those that the fault spared in the moment after its stamp: they began before it, or before its rules were there. */
static uint64_t spared(const struct sq_breaker *b, int64_t from)
{
    uint64_t n = 0;

    for (size_t i = sq_breaker_at(b, from); i < b->n && b->calls[i].from_ns < from + EDGE_NS; i++)
        n += !b->calls[i].harmed;
    return n;
}

static uint64_t reached_in(const struct sq_ev_series *s, int64_t from, int64_t to)
{
    size_t a, b;

    return sq_ev_calls_in(s, (struct sq_window){from, to}, &a, &b);
}

static bool judge_opening(struct view *v)
{
    const struct sq_window w = v->step->win;
    const struct expect *x = v->x;
    char a[64], d[64];

    v->opened = find_opening(v);
    if (!v->opened) {
        judge_never(v, reached_in(v->series, w.from_ns, w.to_ns));
        return false;
    }
    const struct sq_silence *s = v->opened;
    if (s->before == SIZE_MAX || s->from_ns < w.from_ns - LEAD_NS) {
        seen(v, "silent since %.1f s", (double)s->from_ns / 1e9);
        part(v, SQ_V_INCONCLUSIVE, "it was silent already when the fault began");
        return false;
    }
    int64_t after = s->from_ns - w.from_ns;
    uint64_t calls = reached_in(v->series, w.from_ns, s->from_ns + 1);
    if (sq_breaker_harmed(v->b, w.from_ns - LEAD_NS, s->from_ns + 1) == 0) {
        seen(v, "silent after %s", dur(after, a));
        part(v, SQ_V_INCONCLUSIVE, "its calls stopped without one having failed: that was not the breaker");
        return false;
    }
    seen(v, "opened after %s and %llu calls", dur(after, a), (unsigned long long)calls);
    if (after > x->opens_within + STAMP_NS)
        part(v, SQ_V_FAIL, "it opened only %s after the fault began, %s are allowed", a, dur(x->opens_within, d));
    /* Stamps are rounded: what the breaker saw of the fault counts from its first call that was harmed. */
    uint64_t late = spared(v->b, w.from_ns), early = sq_breaker_harmed(v->b, w.from_ns - LEAD_NS, w.from_ns);
    if (x->trip_calls && calls > (uint64_t)x->trip_calls + late)
        part(v, SQ_V_FAIL, "it let %llu calls through before it opened, %lld are allowed", (unsigned long long)calls,
             (long long)x->trip_calls);
    if (x->trip_calls_min && calls + early < (uint64_t)x->trip_calls_min)
        part(v, SQ_V_FAIL, "it opened after only %llu calls, it should bear %lld", (unsigned long long)(calls + early),
             (long long)x->trip_calls_min - 1);
    return true;
}

/* ---- staying open ---- */

static void judge_open(struct view *v)
{
    const struct sq_silence *s = v->opened;
    int64_t quiet = s->to_ns - s->from_ns;
    char a[64], d[64];

    seen(v, "silent for %s%s", dur(quiet, a), s->open_ended ? " or more" : "");
    if (!v->x->open_for || quiet + STAMP_NS >= least_silence(v->x))
        return;
    if (s->open_ended)
        part(v, SQ_V_INCONCLUSIVE, "the load ended %s after it opened: whether it stays open for %s is not seen", a,
             dur(v->x->open_for, d));
    else
        part(v, SQ_V_FAIL, "it was open for %s only, %s are wanted: %llu calls reached the failing dependency", a,
             dur(v->x->open_for, d),
             (unsigned long long)reached_in(v->series, v->step->win.from_ns, v->step->win.to_ns));
}

/* ---- trying again while the fault lasts ---- */

/* Does a silence follow call i? */
static bool followed(const struct view *v, size_t i)
{
    const struct sq_breaker *b = v->b;
    size_t lo = 0, hi = b->n_silences;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (b->silences[mid].before == SIZE_MAX || b->silences[mid].before < i)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < b->n_silences && b->silences[lo].before == i;
}

/* Calls belong to one attempt until a silence as long as the breaker's own ends it. Returns the call after the attempt;
 * *calls counts those before END. */
static size_t one_attempt(const struct view *v, size_t i, int64_t end, uint64_t *calls, bool *trial_passed)
{
    const struct sq_breaker *b = v->b;
    int64_t pause = v->x->open_for ? least_silence(v->x) - STAMP_NS : INT64_MAX;
    uint64_t allowed = v->x->probes > 0 ? (uint64_t)v->x->probes : 1;

    *calls = 0;
    *trial_passed = false;
    for (; i < b->n && b->calls[i].from_ns < end; i++) {
        *trial_passed |= *calls < allowed && !b->calls[i].harmed;
        (*calls)++;
        if (i + 1 < b->n && b->calls[i + 1].from_ns - b->calls[i].from_ns >= pause)
            return i + 1;
        if (!v->x->open_for && followed(v, i))
            return i + 1;
    }
    return i;
}

static void judge_trials(struct view *v)
{
    const struct sq_breaker *b = v->b;
    int64_t end = v->step->win.to_ns - EDGE_NS;
    char a[64];

    if (v->opened->open_ended)
        return;
    for (size_t i = v->opened->before + 1; i < b->n && b->calls[i].from_ns < end;) {
        uint64_t calls;
        bool passed;
        double at = (double)b->calls[i].from_ns / 1e9;

        i = one_attempt(v, i, end, &calls, &passed);
        v->bursts++;
        v->passed = passed;
        if (passed) /* its dependency answered (a fault on some calls only): rightly closed */
            break;
        v->most_trials = calls > v->most_trials ? calls : v->most_trials;
        if (v->x->probes && calls > (uint64_t)v->x->probes)
            part(v, SQ_V_FAIL, "it let %llu calls through at %.1f s while half-open, %lld are allowed",
                 (unsigned long long)calls, at, (long long)v->x->probes);
        else if (!v->x->probes && !v->x->open_for && calls >= TRIALS_MANY)
            part(v, SQ_V_INCONCLUSIVE,
                 "from %.1f s on %llu calls in a row reached the failing dependency: many for trial calls; \"probes\" "
                 "or "
                 "\"open_for\" would say what is right",
                 at, (unsigned long long)calls);
    }
    if (v->bursts)
        seen(v, "tried again %llu time%s with %llu call%s at most", (unsigned long long)v->bursts,
             v->bursts == 1 ? "" : "s", (unsigned long long)v->most_trials, v->most_trials == 1 ? "" : "s");
    else if (v->x->probes)
        part(v, SQ_V_INCONCLUSIVE,
             "the fault ended %s after it opened, before it tried again: how many trial calls it makes is not seen",
             dur(v->step->win.to_ns - v->opened->from_ns, a));
}

/* ---- was that a breaker? ---- */

/* Its process may have stood still for a while: then it calls on as before, or more often. Trial calls may come as
 * often, where they are all that the fault's end left time for. */
static void judge_spared(struct view *v)
{
    int64_t from = v->opened->to_ns, end = v->step->win.to_ns - EDGE_NS;
    double due = sq_breaker_expected(v->b, from, end);
    uint64_t n = sq_breaker_made(v->b, from, end);
    char a[64], d[64];

    if (!v->passed && n > (uint64_t)v->x->probes && due >= SQ_SILENCE && (double)n > HELD_BACK * due)
        part(v, (double)n >= AS_BEFORE * due ? SQ_V_FAIL : SQ_V_INCONCLUSIVE,
             "it was silent for %s, but %llu calls reached the failing dependency in the %s after that, about %.0f "
             "would have without a breaker",
             dur(from - v->opened->from_ns, a), (unsigned long long)n, dur(end - from, d), due);
}

static void judge_pace(struct view *v)
{
    uint64_t n = sq_breaker_one_at_a_time(v->b, v->step->win);

    if (n > 0)
        part(
            v, SQ_V_INCONCLUSIVE,
            "each call began as soon as the one before it had ended (%llu times): it calls one at a time, which a mere "
            "limit of calls under way does, too",
            (unsigned long long)n);
}

/* ---- closing ---- */

/* How long calls must be back at their rate to be believed. */
static int64_t stretch_of(const struct sq_breaker *b)
{
    return (int64_t)fmax(1e9, BACK_CALLS / b->rate * 1e9);
}

static uint64_t calls_in(const struct sq_breaker *b, int64_t from, int64_t to)
{
    return to > from ? sq_breaker_at(b, to) - sq_breaker_at(b, from) : 0;
}

/* When did calls come back: the first call after the fault from which on the rate is as before. -1: not until UNTIL. */
static int64_t back_at(const struct view *v, int64_t until)
{
    const struct sq_breaker *b = v->b;
    int64_t from = v->step->win.to_ns, stretch = stretch_of(b);

    for (size_t i = sq_breaker_at(b, from), head = i; i < b->n; i++) {
        int64_t at = b->calls[i].from_ns;

        if (at > until - stretch || at > from + v->x->closes_within)
            break;
        while (head < b->n && b->calls[head].from_ns < at + stretch)
            head++;
        double due = sq_breaker_expected(b, at, at + stretch);
        if (due >= BACK_CALLS / 2.0 && (double)(head - i) >= BACK * due)
            return at;
    }
    return -1;
}

static void judge_closing(struct view *v)
{
    const struct sq_breaker *b = v->b;
    int64_t until = v->step->until_ns < b->end_ns ? v->step->until_ns : b->end_ns;
    int64_t from = v->step->win.to_ns, due = from + v->x->closes_within, look = due < until ? due : until;
    int64_t at = back_at(v, until), tail = until - stretch_of(b);
    double wanted = sq_breaker_expected(b, from, look);
    char a[64], d[64];

    if (!v->step->fault->reverted)
        part(v, SQ_V_INCONCLUSIVE, "the fault was not taken back during the run: closing is not seen");
    else if (at >= 0)
        seen(v, "closed %s after the fault", dur(at - from, a));
    else if (until < due - STAMP_NS)
        part(v, SQ_V_INCONCLUSIVE,
             "calls were not back yet when the load ended or the next fault began, %s after this one; it may take %s",
             dur(until - from, a), dur(v->x->closes_within, d));
    else if (wanted < SQ_SILENCE)
        part(v, SQ_V_INCONCLUSIVE, "the load did not go on after the fault: closing is not seen");
    else if (tail < due && (double)calls_in(b, tail, until) > 0.5 * sq_breaker_expected(b, tail, until))
        part(v, SQ_V_INCONCLUSIVE, "calls were coming back when the load ended, too late to be sure");
    else {
        uint64_t made = calls_in(b, from, look);

        seen(v, "not closed %s after the fault", dur(look - from, a));
        part(v, SQ_V_FAIL, "it never closed: %llu calls in the %s after the fault, about %.0f would be as before",
             (unsigned long long)made, a, wanted);
    }
}

/* ---- one instance, one step ---- */

static void judge_calls(struct view *v)
{
    sq_result_init(&v->r, v->step, v->series->instance);
    v->r.verdict = SQ_V_PASS;
    v->r.n = reached_in(v->series, v->step->win.from_ns, v->step->until_ns);
    v->r.win.to_ns = v->step->until_ns;
    say_limit(v->x, v->r.limit, sizeof v->r.limit);
    (void)snprintf(v->r.interval, sizeof v->r.interval, "%.3g calls/s in steady state", v->b->rate);
    if (judge_load(v) && judge_caller(v) && judge_opening(v)) {
        judge_open(v);
        judge_trials(v);
        judge_spared(v);
        judge_pace(v);
        judge_closing(v);
    }
    if (v->r.verdict == SQ_V_PASS)
        (void)snprintf(v->r.why, sizeof v->r.why, "the breaker held: %s", v->r.observed);
}

/* It failed, but its calls may not have been its users': would it without as many others as come when all is well? */
static int judge_least(struct view *v, struct sq_err *e)
{
    struct view least = {.ev = v->ev, .step = v->step, .series = v->series, .x = v->x};
    char why[sizeof v->r.why];
    int rc = sq_breaker_least(v->ev, v->series, &least.b, e);

    if (rc)
        return rc;
    judge_calls(&least);
    if (least.r.verdict != SQ_V_FAIL) {
        (void)snprintf(why, sizeof why, "%s", v->r.why);
        (void)sq_result_set(&v->r, SQ_V_INCONCLUSIVE,
                            "its calls can't be told from its health checks, which the fault hits, too (%.3g a second "
                            "without a trace id or a request when all is well); if all were calls: %.200s",
                            v->b->others, why);
    }
    sq_breaker_free(least.b);
    return 0;
}

static int judge(const struct sq_evidence *ev, const struct sq_ev_step *s, const struct sq_ev_series *series,
                 const struct expect *x, json_t *results, struct sq_err *e)
{
    struct view v = {.ev = ev, .step = s, .series = series, .x = x};
    int rc = sq_breaker_new(ev, series, &v.b, e);

    if (rc)
        return rc;
    judge_calls(&v);
    if (v.r.verdict == SQ_V_FAIL && v.b->others > 0.0)
        rc = judge_least(&v, e);
    rc = rc ? rc : sq_result_add(results, &v.r, e);
    sq_breaker_free(v.b);
    return rc;
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const char *edge,
                      const struct expect *x, json_t *results, struct sq_err *e)
{
    const struct sq_ev_series *series;
    size_t n = sq_ev_series(ev, edge, &series);
    char why[512];
    int rc = 0;

    if (!s->ran || !s->fault || n == 0) {
        struct sq_result r;

        (void)snprintf(why, sizeof why, "no caller was seen on edge %s", edge[0] ? edge : "(none named)");
        if (!s->ran)
            sq_step_missing(s, why, sizeof why);
        else if (!s->fault)
            (void)snprintf(why, sizeof why, "step %s has no fault", s->id);
        sq_result_init(&r, s, edge);
        say_limit(x, r.limit, sizeof r.limit);
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
    }
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge(ev, s, &series[i], x, results, e);
    return rc;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const json_t *o = json_object_get(p, "expect");
    struct expect x = {
        .opens_within = sq_param_ns(o, "opens_within", 10 * SQ_S),
        .open_for = sq_param_ns(o, "open_for", 0),
        .closes_within = sq_param_ns(o, "closes_within", 60 * SQ_S),
        .probes = sq_json_int_or(o, "probes", 0),
        .trip_calls = sq_json_int_or(o, "trip_calls", 0),
        .trip_calls_min = sq_json_int_or(o, "trip_calls_min", 0),
        .tolerance = sq_param_percent(o, "tolerance", 10.0) / 100.0,
    };
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;

    if (x.probes < 0 || x.trip_calls < 0 || x.trip_calls_min < 0 || x.opens_within < 0 || x.open_for < 0 ||
        x.closes_within < 0 || x.opens_within > INT64_MAX / 4 || x.open_for > INT64_MAX / 4 ||
        x.closes_within > INT64_MAX / 4 || !(x.tolerance >= 0.0 && x.tolerance <= 1.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "circuit_breaker expects counts and durations that are not negative");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], sq_json_str_or(p, "edge", steps[i]->edge), &x, results, e);
    return rc;
}

const struct sq_check sq_check_circuit_breaker = {
    .name = "circuit_breaker",
    .doc = "Callers stop calling a failing dependency, try it again carefully, and come back after the fault.",
    .params = params,
    .run = run,
    .maps = maps,
};
