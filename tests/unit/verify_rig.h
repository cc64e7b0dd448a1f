/* Builds evidence for the tests of checks: text in, struct sq_evidence out, so that the reader is on the way too. Also
 * a small model of a caller with a breaker, a timeout and workers, which makes the calls such a caller would make. */
#ifndef TESTS_UNIT_VERIFY_RIG_H
#define TESTS_UNIT_VERIFY_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/hist.h"
#include "squall/json.h"
#include "squall/rng.h"
#include "squall/units.h"
#include "verify/check.h"
#include "verify/evidence.h"
#include "verify/verdict.h"

struct rig {
    char *text;
    size_t len;
    FILE *f;
    struct sq_evidence *ev;
    json_t *results;
};

static inline void rig_line(struct rig *r, const char *fmt, ...) SQ_PRINTF(2, 3);
static inline void rig_line(struct rig *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vfprintf(r->f, fmt, ap);
    va_end(ap);
    (void)fputc('\n', r->f);
}

/* SPEC: the inside of the scenario's "spec", in JSON. */
static inline void rig_open(struct rig *r, const char *spec)
{
    memset(r, 0, sizeof *r);
    r->f = open_memstream(&r->text, &r->len);
    assert_non_null(r->f);
    rig_line(r,
             "{\"t\":0,\"type\":\"run\",\"v\":1,\"id\":\"r-1\",\"name\":\"rig\",\"start\":\"2026-01-01T00:00:00.000Z\","
             "\"start_mono_ns\":1,\"squall\":\"0\",\"host\":\"h\",\"seed\":1,\"scenario\":{\"spec\":{%s}}}",
             spec);
}

static inline void rig_steady(struct rig *r, double from, double to, bool met)
{
    rig_line(r, "{\"t\":%.6f,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"begin\"}", from);
    rig_line(r, "{\"t\":%.6f,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"end\",\"met\":%s,\"why\":\"\"}", to,
             met ? "true" : "false");
}

/* MORE: further members of the applied record, in JSON, such as "\"with\":{...}". */
static inline void rig_fault(struct rig *r, const char *id, const char *step, const char *uses, double from, double to,
                             const char *more)
{
    rig_line(
        r, "{\"t\":%.6f,\"type\":\"fault\",\"state\":\"applied\",\"step\":\"%s\",\"fault\":\"%s\",\"uses\":\"%s\"%s%s}",
        from, step, id, uses, more[0] ? "," : "", more);
    if (to > from)
        rig_line(
            r,
            "{\"t\":%.6f,\"type\":\"fault\",\"state\":\"reverted\",\"step\":\"%s\",\"fault\":\"%s\",\"uses\":\"%s\","
            "\"by\":\"request\",\"clean\":true,\"left\":[]}",
            to, step, id, uses);
}

/* One second: OK good requests of latency MS, BAD ones of latency BAD_MS. MORE: further members. */
static inline void rig_second(struct rig *r, const char *endpoint, int sec, unsigned ok, double ms, unsigned bad,
                              double bad_ms, const char *more)
{
    struct sq_hist *h = sq_hist_new();

    assert_non_null(h);
    for (unsigned i = 0; i < ok; i++)
        sq_hist_record(h, (int64_t)(ms * 1e6));
    for (unsigned i = 0; i < bad; i++)
        sq_hist_record(h, (int64_t)(bad_ms * 1e6));
    json_t *j = sq_hist_to_json(h);
    char *text = json_dumps(j, JSON_COMPACT);
    rig_line(
        r,
        "{\"t\":%d.5,\"type\":\"sample\",\"sec\":%d,\"endpoint\":\"%s\",\"sent\":%u,\"ok\":%u,\"bad\":{\"status\":%u},"
        "\"late\":0,\"lag_late\":0,\"h\":%s%s%s}",
        sec + 1, sec, endpoint, ok + bad, ok, bad, text, more[0] ? "," : "", more);
    free(text);
    json_decref(j);
    sq_hist_free(h);
}

struct rig_call {
    int t_ms;
    int kind, outcome, status;
    double dur_ms, held_ms;
    const char *fault; /* NULL: none */
    unsigned trace;    /* 0: none */
    double answer_ms;
};

static inline void rig_call(struct rig *r, const char *edge, const char *instance, struct rig_call c)
{
    char trace[40] = "";

    if (c.trace)
        (void)snprintf(trace, sizeof trace, "%032x", c.trace);
    rig_line(
        r,
        "{\"t\":%.6f,\"type\":\"calls\",\"edge\":\"%s\",\"instance\":\"%s\",\"calls\":[[%d,%d,%d,%d,%.0f,%.0f,\"%s\","
        "\"%s\",%.0f]]}",
        (c.t_ms + c.dur_ms) / 1e3, edge, instance, (c.t_ms + 5) / 10 * 10, c.kind, c.outcome, c.status, c.dur_ms * 1e3,
        c.held_ms * 1e3, c.fault ? c.fault : "", trace, c.answer_ms * 1e3);
}

static inline void rig_end(struct rig *r, double t)
{
    rig_line(r, "{\"t\":%.6f,\"type\":\"end\",\"reason\":\"completed\",\"why\":\"\",\"clean\":true,\"left\":[]}", t);
}

static inline void rig_read(struct rig *r)
{
    struct sq_err e = {0};

    (void)fclose(r->f);
    r->f = NULL;
    if (sq_evidence_parse(r->text, r->len, &r->ev, &e) != 0)
        fail_msg("evidence: %s", e.msg);
    assert_int_equal(r->ev->damaged, 0);
}

/* Run one check; returns its first verdict. */
static inline const char *rig_check(struct rig *r, const char *name, const char *params)
{
    const struct sq_check *c = sq_check_find(name);
    struct sq_err e = {0};
    json_t *p = NULL;

    if (!r->ev)
        rig_read(r);
    assert_non_null(c);
    if (sq_json_parse(params, strlen(params), &p, &e) != 0)
        fail_msg("%s: %s", params, e.msg);
    json_decref(r->results);
    r->results = json_array();
    if (c->run(r->ev, p, r->results, &e) != 0)
        fail_msg("%s: %s", name, e.msg);
    json_decref(p);
    assert_true(json_array_size(r->results) > 0);
    return sq_json_str_or(json_array_get(r->results, 0), "verdict", "?");
}

static inline const char *rig_verdict(const struct rig *r, size_t i)
{
    return sq_json_str_or(json_array_get(r->results, i), "verdict", "?");
}

static inline const char *rig_why(const struct rig *r, size_t i)
{
    return sq_json_str_or(json_array_get(r->results, i), "why", "?");
}

static inline void rig_close(struct rig *r)
{
    if (r->f)
        (void)fclose(r->f);
    free(r->text);
    sq_evidence_free(r->ev);
    json_decref(r->results);
    memset(r, 0, sizeof *r);
}

#define EXPECT(r, verdict, want)                                                                                       \
    do {                                                                                                               \
        const char *got_ = (verdict);                                                                                  \
        if (strcmp(got_, want) != 0)                                                                                   \
            fail_msg("%s instead of %s: %s (observed: %s)", got_, want, rig_why((r), 0),                               \
                     sq_json_str_or(json_array_get((r)->results, 0), "observed", ""));                                 \
    } while (0)

/* ---- a caller ---- */

struct caller {
    double rate;                   /* requests a second that want to call */
    bool even;                     /* at even times instead of by chance */
    double end, from, to;          /* seconds: of the load, the fault's window */
    double delay_ms, timeout_ms;   /* timeout 0: none */
    bool refuse;                   /* the fault refuses calls instead of delaying them */
    unsigned hit_percent;          /* 0: all */
    unsigned trip;                 /* consecutive failures that open the breaker; 0: no breaker */
    double open_ms, grow;          /* grow: each open time is that much longer; 0: 1 */
    unsigned probes;               /* at a time while half-open */
    bool never_closes, opens_once; /* opens_once: the first trial call closes it, whatever comes of it */
    bool abandons;                 /* stops waiting without closing the connection */
    unsigned workers;              /* 0: as many as needed */
    unsigned attempts;             /* 0: 1 */
    bool inside;                   /* retries are inside the breaker: it sees the first attempt only */
    double backoff_ms;
    bool traced, blind; /* blind: calls that were hit end before they could send their trace id */
    uint64_t seed;
};

struct sim_req {
    double due; /* ms: when it may call (again) */
    unsigned trace, tried;
};

struct sim_call {
    double start, result, natural; /* ms */
    bool ok, trial;
    struct sim_req req;
};

#define SIM_MOST 8192

struct sim {
    struct sim_req queue[SIM_MOST];
    struct sim_call open[SIM_MOST];
    size_t n_queue, n_open;
    unsigned failures, trials, cycles;
    bool is_open, half, dead;
    double open_until;
};

static inline bool sim_gate(struct sim *s, const struct caller *c, double now, bool *trial)
{
    *trial = false;
    if (!c->trip || !s->is_open)
        return true;
    if (s->dead || now < s->open_until)
        return false;
    if (!s->half) {
        s->half = true;
        s->trials = 0;
    }
    if (s->trials >= (c->probes ? c->probes : 1))
        return false;
    s->trials++;
    *trial = true;
    return true;
}

static inline void sim_result(struct sim *s, const struct caller *c, const struct sim_call *call, double now)
{
    if (!c->trip)
        return;
    if (call->trial && (call->ok || c->opens_once)) {
        s->is_open = s->half = false;
        s->failures = 0;
        s->dead = false;
    } else if (call->trial || (!s->is_open && !call->ok && ++s->failures >= c->trip)) {
        double grow = pow(c->grow > 0.0 ? c->grow : 1.0, s->cycles++);

        s->is_open = true;
        s->half = false;
        s->open_until = now + c->open_ms * grow;
        s->dead = c->never_closes;
    } else if (call->ok)
        s->failures = 0;
}

static inline void sim_emit(struct rig *r, const char *edge, const char *instance, const struct caller *c,
                            const struct sim_call *call, bool hit)
{
    bool answered = call->ok || (c->abandons && !c->refuse);
    double dur = answered ? (c->abandons ? call->natural : call->result) - call->start : call->result - call->start;

    rig_call(r, edge, instance,
             (struct rig_call){.t_ms = (int)call->start,
                               .kind = c->refuse && hit ? 1 : 0,
                               .outcome = answered    ? 0
                                          : c->refuse ? 1
                                                      : 2,
                               .status = answered ? 200 : 0,
                               .dur_ms = dur,
                               .held_ms = hit && !c->refuse ? c->delay_ms : 0,
                               .fault = hit ? "f1" : NULL,
                               .trace = c->traced && !(hit && c->blind) ? call->req.trace : 0,
                               .answer_ms = 2});
}

/* Writes the calls that C makes on EDGE, and (INSTANCE's) nothing else. */
static inline void rig_caller(struct rig *r, const char *edge, const char *instance, const struct caller *c)
{
    struct sim *s = calloc(1, sizeof *s);
    struct sq_rng rng;
    double next = 0;
    unsigned trace = (unsigned)c->seed * 100000u + 1u;

    assert_non_null(s);
    sq_rng_seed(&rng, c->seed * 7919 + 1);
    for (double now = 0; now < c->end * 1e3 + 5000; now += 1.0) {
        for (size_t i = 0; i < s->n_open;) {
            if (s->open[i].result > now) {
                i++;
                continue;
            }
            struct sim_call done = s->open[i];
            s->open[i] = s->open[--s->n_open];
            sim_result(s, c, &done, now);
            if (!done.ok && done.req.tried < (c->attempts ? c->attempts : 1) && s->n_queue < SIM_MOST) {
                done.req.due = now + c->backoff_ms;
                s->queue[s->n_queue++] = done.req;
            }
        }
        while (now < c->end * 1e3 && next <= now) {
            if (s->n_queue < SIM_MOST)
                s->queue[s->n_queue++] = (struct sim_req){.due = next, .trace = trace++};
            next += 1e3 / c->rate * (c->even ? 1.0 : -log(1.0 - sq_rng_double(&rng)));
        }
        for (size_t i = 0; i < s->n_queue;) {
            struct sim_req req = s->queue[i];
            bool trial;

            if (req.due > now) {
                i++;
                continue;
            }
            if (c->workers && s->n_open >= c->workers)
                break;
            memmove(&s->queue[i], &s->queue[i + 1], (s->n_queue - i - 1) * sizeof req);
            s->n_queue--;
            if (c->inside && req.tried > 0)
                trial = false;
            else if (!sim_gate(s, c, now, &trial))
                continue;
            bool hit = now >= c->from * 1e3 && now < c->to * 1e3 &&
                       (!c->hit_percent || sq_rng_below(&rng, 100) < c->hit_percent);
            struct sim_call call = {.start = now, .trial = trial, .req = req};
            call.natural = now + (hit ? (c->refuse ? 1 : c->delay_ms) : 0) + 3 + 4 * sq_rng_double(&rng);
            call.ok = !(hit && c->refuse) && !(c->timeout_ms > 0 && call.natural > now + c->timeout_ms);
            call.result = call.ok || !(c->timeout_ms > 0) || call.natural < now + c->timeout_ms ? call.natural
                                                                                                : now + c->timeout_ms;
            call.req.tried++;
            sim_emit(r, edge, instance, c, &call, hit);
            assert_true(s->n_open < SIM_MOST);
            s->open[s->n_open++] = call;
        }
    }
    free(s);
}

#endif
