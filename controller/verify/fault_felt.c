/* fault_felt: did the fault bite? Without calls that it hit, or with calls that went past it, nothing that other checks
 * see proves anything: inconclusive. What hit but did something else than asked is a failure. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/counted.h"
#include "verify/facts.h"

/* Stamps of calls are rounded to 10 ms, and rules reach the proxy a moment before they are confirmed: calls this near
 * to the edge of a window may be on either side. */
#define EDGE_NS (50 * SQ_MS)
#define BYPASS                                                                                                         \
    0.10 /* share of calls that went past the fault at percent 100 from which it is not the fault asked for */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step whose fault is meant; \"*\": each step that has one"},
    {"min_calls", SQ_P_INT, 0, "10", NULL, "calls that a call fault must have acted on"},
    {"tolerance", SQ_P_PERCENT, 0, "20%", NULL, "how far the delay that was felt may be from the one asked for"},
    SQ_PARAM_END,
};

struct tally {
    uint64_t hit, felt, past, answered;
    double *held;  /* of answered calls that were hit, ns */
    size_t n_held; /* of them: whose delay was seen whole */
};

static uint64_t count_hits(const struct sq_evidence *ev, uint16_t fault, struct sq_window win)
{
    uint64_t n = 0;

    for (size_t i = 0; i < ev->n_series; i++) {
        size_t from, to;

        (void)sq_ev_calls_in(&ev->series[i], win, &from, &to);
        for (size_t k = from; k < to; k++)
            n += ev->series[i].calls[k].fault == fault;
    }
    return n;
}

static bool felt_by(const struct sq_ev_call *c, const char *uses)
{
    if (strcmp(uses, "call/error") == 0)
        return c->outcome == SQ_EV_FAILED;
    if (sq_is_http_fault(uses) && strcmp(uses, "call/http_delay") != 0) /* it is marked when it was done */
        return true;
    if (strcmp(uses, "call/blackhole") == 0)
        return c->outcome == SQ_EV_GAVE_UP || c->outcome == SQ_EV_OPEN || c->outcome == SQ_EV_FAILED ||
               c->outcome == SQ_EV_NONE || c->held_us > 0;
    return c->held_us > 0;
}

/* How far the injector may have delayed a call that opens its connection: once for the connect, once for the answer. */
static bool delays_connect(const struct sq_evidence *ev, const char *edge)
{
    for (size_t i = 0; i < ev->n_events; i++)
        if (strcmp(ev->events[i].type, "edge") == 0 && strcmp(sq_json_str_or(ev->events[i].obj, "edge", ""), edge) == 0)
            return sq_json_bool_or(ev->events[i].obj, "delays_connect", false);
    return false;
}

/* A call that the fault's own begin or end found under way was held for less than asked, which is nobody's fault. */
static bool cut_short(const struct sq_ev_call *c, int64_t from, int64_t ending, double held, double delay_ns)
{
    return held < delay_ns && (c->t_ns < from + EDGE_NS || c->t_ns + (int64_t)c->dur_us * 1000 > ending - EDGE_NS);
}

static int tally_calls(const struct sq_evidence *ev, const struct sq_ev_step *s, double delay_ns, struct tally *t,
                       struct sq_err *e)
{
    uint16_t fault = (uint16_t)(s->fault - ev->faults + 1);
    struct sq_window reach = {INT64_MIN, s->win.to_ns}; /* a call under way when the fault began may be hit */
    int64_t ending = s->fault->reverted ? s->fault->ending_ns : s->win.to_ns;
    bool twice = delays_connect(ev, s->edge) && !sq_is_http_fault(s->uses);

    t->held = malloc((size_t)(count_hits(ev, fault, reach) + 1) * sizeof *t->held);
    if (!t->held)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0; i < ev->n_series; i++) {
        const struct sq_ev_series *series = &ev->series[i];
        size_t from, to;

        (void)sq_ev_calls_in(series, reach, &from, &to);
        for (size_t k = from; k < to; k++) {
            const struct sq_ev_call *c = &series->calls[k];

            if (c->fault != fault) {
                t->past += strcmp(series->edge, s->edge) == 0 && c->fault == 0 && c->kind != SQ_EV_CONN &&
                           c->t_ns >= s->win.from_ns + EDGE_NS && c->t_ns < ending - EDGE_NS;
                continue;
            }
            t->hit++;
            t->felt += felt_by(c, s->uses);
            if (c->outcome != SQ_EV_ANSWERED)
                continue;
            double held = (double)c->held_us * 1e3;
            t->answered++;
            if (!cut_short(c, s->win.from_ns, ending, held, delay_ns))
                t->held[t->n_held++] = twice && held > 1.5 * delay_ns ? held / 2.0 : held;
        }
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median delay of answered calls, against what was asked for. Jitter widens what is right by what chance does to a
 * median. */
static void judge_delay(struct tally *t, double delay, double jitter, double tolerance, struct sq_result *r)
{
    char a[64], b[64];

    qsort(t->held, t->n_held, sizeof *t->held, by_value);
    double median = t->held[t->n_held / 2];
    double slack = delay * tolerance / 100.0 + fmin(jitter, 4.0 * jitter / sqrt((double)t->n_held)) + 1e6;

    (void)snprintf(r->observed, sizeof r->observed, "%llu calls felt it, answers came %s later",
                   (unsigned long long)t->felt, sq_fmt_duration((int64_t)median, a, sizeof a));
    if (fabs(median - delay) <= slack)
        (void)sq_result_set(r, SQ_V_PASS, "the fault was felt: half of %llu answers were delayed by %s or more",
                            (unsigned long long)t->n_held, a);
    else
        (void)sq_result_set(r, SQ_V_FAIL,
                            "answers were delayed by %s instead of %s: the fault is not the one asked for", a,
                            sq_fmt_duration((int64_t)delay, b, sizeof b));
}

/* How often a fault on bytes acted, from the record of its end; -1: it does not count that. */
static int64_t acts_of(const struct sq_evidence *ev, const struct sq_ev_fault *f)
{
    for (size_t i = ev->n_events; i-- > 0;) {
        const json_t *o = ev->events[i].obj;

        if (strcmp(ev->events[i].type, "fault") == 0 && strcmp(sq_json_str_or(o, "fault", ""), f->id) == 0 &&
            json_is_integer(json_object_get(o, "acts")))
            return sq_json_int_or(o, "acts", 0);
    }
    return -1;
}

/* A figure of the record of its end; 0: it has none. */
static int64_t figure_of(const struct sq_evidence *ev, const struct sq_ev_fault *f, const char *key)
{
    for (size_t i = ev->n_events; i-- > 0;) {
        const json_t *o = ev->events[i].obj;

        if (strcmp(ev->events[i].type, "fault") == 0 && strcmp(sq_json_str_or(o, "fault", ""), f->id) == 0 &&
            json_is_integer(json_object_get(o, key)))
            return sq_json_int_or(o, key, 0);
    }
    return 0;
}

/* Too few requests were hit: because they could not be read? */
static bool unreadable(const struct sq_evidence *ev, const struct sq_ev_step *s, struct sq_result *r)
{
    long long tls = figure_of(ev, s->fault, "tls"), unjudged = figure_of(ev, s->fault, "unjudged");

    if (tls > 0)
        (void)sq_result_set(
            r, SQ_V_INCONCLUSIVE,
            "%lld connections of the edge carry TLS, which is never opened: %s can't read their requests", tls,
            s->uses);
    else if (unjudged > 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%lld requests or connections of the edge could not be read as HTTP, and were spared",
                            unjudged);
    return tls > 0 || unjudged > 0;
}

static void judge_acts(int64_t acts, const struct tally *t, bool datagrams, struct sq_result *r)
{
    const char *of = datagrams ? "datagrams" : "bytes";

    (void)snprintf(r->observed, sizeof r->observed, "%llu calls went through it, it acted %lld times",
                   (unsigned long long)t->hit, (long long)acts);
    if (acts == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "it was in force for %llu calls, but none of their %s gave it cause",
                            (unsigned long long)t->hit, of);
    else
        (void)sq_result_set(r, SQ_V_PASS, "the fault acted %lld times on the %s of %llu calls", (long long)acts, of,
                            (unsigned long long)t->hit);
}

static uint64_t expected_calls(const struct sq_evidence *ev, const struct sq_ev_step *s)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);
    const struct sq_ev_series *first;
    size_t n = sq_ev_series(ev, s->edge, &first);
    double calls = 0.0;

    if (!steady || steady->win.to_ns <= steady->win.from_ns)
        return 0;
    for (size_t i = 0; i < n; i++) {
        size_t from, to;

        calls += (double)sq_ev_calls_in(&first[i], steady->win, &from, &to);
    }
    double share = (double)(s->win.to_ns - s->win.from_ns) / (double)(steady->win.to_ns - steady->win.from_ns);
    return (uint64_t)(calls * share);
}

/* Those on bytes hit connections, each with as many calls as it carries: only HTTP and whole calls can be counted. */
static bool counted_wrong(const struct sq_evidence *ev, const struct sq_ev_step *s, bool named, struct sq_result *r)
{
    bool http = sq_is_http_fault(s->uses), partly = named || sq_edge_has_datagrams(ev, s->edge);
    char why[512];

    if (!http && acts_of(ev, s->fault) >= 0)
        return false;
    partly = partly || sq_param_percent(s->fault->target, "percent", 100.0) < 100.0 ||
             json_object_get(s->fault->target, "match") || json_object_get(s->fault->target, "instance") ||
             figure_of(ev, s->fault, "tls") > 0 || figure_of(ev, s->fault, "unjudged") > 0;
    if (!sq_counted_wrong(ev, s, partly, why, sizeof why))
        return false;
    (void)sq_result_set(r, SQ_V_FAIL, "%s", why);
    return true;
}

static void judge_tally(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, struct tally *t,
                        struct sq_result *r)
{
    uint64_t min = (uint64_t)llabs(sq_json_int_or(p, "min_calls", 10));
    uint64_t first = (uint64_t)sq_json_int_or(s->fault->target, "first", 0);
    bool all = sq_param_percent(s->fault->target, "percent", 100.0) >= 100.0 && !sq_call_counts(s->fault->target);
    double delay = (double)sq_param_ns(s->fault->with, "delay", 0),
           jitter = (double)sq_param_ns(s->fault->with, "jitter", 0);

    min = first > 0 && first < min ? first : min;
    r->n = t->hit;
    (void)snprintf(r->limit, sizeof r->limit, ">= %llu calls", (unsigned long long)min);
    (void)snprintf(r->observed, sizeof r->observed, "%llu calls felt it", (unsigned long long)t->felt);
    bool named = json_array_size(json_object_get(s->fault->with, "names")) > 0 ||
                 json_array_size(json_object_get(s->fault->with, "types")) > 0; /* other queries are none of it */
    if (all && !named && !json_object_get(s->fault->target, "match") &&
        (double)t->past > BYPASS * (double)(t->past + t->hit) && t->past >= 3) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%llu of %llu calls went past the fault although it should hit every one: the caller "
                            "bypasses the edge",
                            (unsigned long long)t->past, (unsigned long long)(t->past + t->hit));
        return;
    }
    if (t->hit < min && sq_is_http_fault(s->uses) && unreadable(ev, s, r))
        return;
    if (t->hit < min && (json_object_get(s->fault->target, "match") || named) && t->past > 0) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "the fault hit only %llu calls, at least %llu are wanted: %llu others were not as its %s "
                            "say",
                            (unsigned long long)t->hit, (unsigned long long)min, (unsigned long long)t->past,
                            named ? "names and types" : "target's conditions (match)");
        return;
    }
    if (t->hit < min) {
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "the fault hit only %llu calls, at least %llu are wanted (at the steady-state rate about "
                            "%llu would have been made)",
                            (unsigned long long)t->hit, (unsigned long long)min,
                            (unsigned long long)expected_calls(ev, s));
        return;
    }
    bool http = sq_is_http_fault(s->uses);
    if (counted_wrong(ev, s, named, r))
        return;
    if (acts_of(ev, s->fault) >= 0 && !http) {
        judge_acts(acts_of(ev, s->fault), t, sq_edge_has_datagrams(ev, s->edge), r);
        return;
    }
    if (t->felt < min) {
        (void)sq_result_set(r, SQ_V_FAIL, "the fault is marked on %llu calls, but only %llu of them were harmed",
                            (unsigned long long)t->hit, (unsigned long long)t->felt);
        return;
    }
    bool delays = strcmp(s->uses, "call/latency") == 0 || strcmp(s->uses, "call/http_delay") == 0;
    if (delays && t->n_held > 0 && s->fault->changes == 0)
        judge_delay(t, delay, jitter, sq_param_percent(p, "tolerance", 20.0), r);
    else
        (void)sq_result_set(r, SQ_V_PASS, "the fault was felt by %llu calls%s", (unsigned long long)t->felt,
                            !delays || t->n_held > 0 ? ""
                            : t->answered == 0       ? ", which their callers gave up while they were held"
                                               : ", which their callers gave up while they were held, or that it held "
                                                 "when it ended");
}

/* A control step must do nothing, to calls that were made. */
static void judge_control(const json_t *p, const struct tally *t, struct sq_result *r)
{
    uint64_t min = (uint64_t)llabs(sq_json_int_or(p, "min_calls", 10));

    r->n = t->hit + t->past;
    (void)snprintf(r->limit, sizeof r->limit, "none of >= %llu calls", (unsigned long long)min);
    (void)snprintf(r->observed, sizeof r->observed, "%llu calls felt it, %llu did not", (unsigned long long)t->hit,
                   (unsigned long long)t->past);
    if (t->hit > 0)
        (void)sq_result_set(r, SQ_V_FAIL, "a control step, and %llu calls felt it all the same",
                            (unsigned long long)t->hit);
    else if (t->past < min || t->past == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "a control step that only %llu calls went through, at least %llu are wanted",
                            (unsigned long long)t->past, (unsigned long long)min);
    else
        (void)sq_result_set(r, SQ_V_PASS, "a control step: %llu calls went through and none felt anything",
                            (unsigned long long)t->past);
}

static int judge_calls(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                       struct sq_err *e)
{
    struct sq_result r;
    struct tally t = {0};

    sq_result_init(&r, s, s->edge);
    int rc = tally_calls(ev, s, (double)sq_param_ns(s->fault->with, "delay", 0), &t, e);
    if (!rc && sq_step_is_control(s))
        judge_control(p, &t, &r);
    else if (!rc)
        judge_tally(ev, s, p, &t, &r);
    free(t.held);
    return rc ? rc : sq_result_add(results, &r, e);
}

/* Do the numbers that were read back from the kernel equal those asked for? Names the first that does not. */
static const char *differs(const json_t *with, const json_t *readback)
{
    static const char *const keys[] = {"delay", "jitter", "loss", "correlation"};

    for (size_t i = 0; i < SQ_COUNT(keys); i++) {
        const json_t *a = json_object_get(with, keys[i]), *b = json_object_get(readback, keys[i]);

        /* netem counts in ticks of at most 1 us and in 1/2^32: closer than 1 % and 1 us is equal */
        if (json_is_number(a) && json_is_number(b) &&
            fabs(json_number_value(a) - json_number_value(b)) >
                fmax(0.01 * fabs(json_number_value(a)), strcmp(keys[i], "loss") == 0 ? 0.001 : 1000.0))
            return keys[i];
    }
    return NULL;
}

/* A hit entry that was only a candidate of `count` is no target. */
static uint64_t targets(const json_t *hit)
{
    uint64_t n = 0;

    for (size_t i = 0; i < json_array_size(hit); i++)
        n += sq_json_bool_or(json_array_get(hit, i), "chosen", true);
    return n;
}

/* What a network fault counted, from the record of its end; NULL: it did not count. */
static const json_t *counted(const struct sq_evidence *ev, const struct sq_ev_fault *f)
{
    for (size_t i = ev->n_events; i-- > 0;) {
        const json_t *o = ev->events[i].obj;

        if (strcmp(ev->events[i].type, "fault") == 0 && strcmp(sq_json_str_or(o, "fault", ""), f->id) == 0 &&
            json_is_integer(json_object_get(o, "packets")))
            return o;
    }
    return NULL;
}

static void judge_packets(const struct sq_ev_fault *f, const json_t *end, struct sq_result *r)
{
    uint64_t n = (uint64_t)sq_json_int_or(end, "packets", 0);

    (void)snprintf(r->observed, sizeof r->observed, "%llu packets felt it", (unsigned long long)n);
    r->n = n;
    if (!sq_json_bool_or(end, "intact", true))
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "its rules were changed or removed by somebody else while it was to last");
    else if (n == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the kernel had it as asked for, but it hit no packet%s",
                            sq_json_bool_or(f->target, "spare_control", true)
                                ? ": did any match that is not the probe's own, which spare_control leaves alone?"
                                : "");
    else
        (void)sq_result_set(r, SQ_V_PASS, "the kernel had it as asked for, and %llu packets felt it",
                            (unsigned long long)n);
}

/* Faults on processes and interfaces: the injector refuses to call one applied that it can't read back (-EBADE). */
static int judge_readback(const struct sq_evidence *ev, const struct sq_ev_step *s, json_t *results, struct sq_err *e)
{
    const struct sq_ev_fault *f = s->fault;
    bool process = strncmp(s->uses, "process/", 8) == 0;
    const char *wrong = differs(f->with, f->readback);
    struct sq_result r;

    sq_result_init(&r, s, s->uses);
    r.n = targets(f->hit);
    (void)snprintf(r.limit, sizeof r.limit, "read back from the kernel as asked for");
    (void)snprintf(r.observed, sizeof r.observed, "%llu %s%s", (unsigned long long)r.n,
                   process ? "process" : "interface",
                   r.n == 1  ? ""
                   : process ? "es"
                             : "s");
    (void)snprintf(r.observed + strlen(r.observed), sizeof r.observed - strlen(r.observed), " %s",
                   process ? "hit" : "changed");
    if (!json_is_object(f->readback) || json_object_size(f->readback) == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the fault was applied, but nothing was read back to prove it");
    else if (r.n == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the fault hit nothing");
    else if (sq_step_is_control(s))
        (void)sq_result_set(&r, SQ_V_PASS, "a control step: everything was done but the harm");
    else if (wrong)
        (void)sq_result_set(&r, SQ_V_FAIL, "the kernel has another %s than was asked for", wrong);
    else if (process)
        (void)sq_result_set(&r, SQ_V_PASS, "the kernel confirmed it for %llu process%s", (unsigned long long)r.n,
                            r.n == 1 ? "" : "es");
    else if (counted(ev, f))
        judge_packets(f, counted(ev, f), &r);
    else
        (void)sq_result_set(&r, SQ_V_PASS,
                            "the kernel has it as asked for (read back; whether packets felt it is not counted)");
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);

    for (size_t i = 0; i < n && !rc; i++) {
        struct sq_result r;

        if (!steps[i]->uses[0] || !steps[i]->ran) {
            char why[512] = "the step only waits: there is no fault to feel";

            if (steps[i]->uses[0])
                sq_step_missing(steps[i], why, sizeof why);
            sq_result_init(&r, steps[i], steps[i]->uses);
            rc = sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
        } else if (strncmp(steps[i]->uses, "call/", 5) == 0)
            rc = judge_calls(ev, steps[i], p, results, e);
        else
            rc = judge_readback(ev, steps[i], results, e);
    }
    return rc;
}

const struct sq_check sq_check_fault_felt = {
    .name = "fault_felt",
    .doc = "The fault reached what it was meant for, and did what was asked.",
    .params = params,
    .run = run,
};
