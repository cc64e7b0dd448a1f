/* One run of the probe in a test: begin, end, and what it said. Include after cmocka.h. */
#ifndef SQUALL_TESTS_PROBE_RUN_H
#define SQUALL_TESTS_PROBE_RUN_H

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "probe/probe.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "squall/units.h"

/* A run of the probe and everything it said. */
struct run {
    struct sq_probe *probe;
    json_t *samples, *end;
    int64_t zero;
};

static inline void wake_up(void *arg)
{
    uint64_t one = 1;

    (void)!write(*(int *)arg, &one, sizeof one);
}

static inline struct sq_probe *create(json_t *load, const char *lateness, const char *matchers, struct sq_err *e)
{
    json_t *l = lateness ? json_loads(lateness, 0, NULL) : NULL, *m = matchers ? json_loads(matchers, 0, NULL) : NULL;
    struct sq_probe_opts o = {.load = load, .lateness = l, .matchers = m, .run_id = "test"};
    struct sq_probe *p = NULL;

    memset(e, 0, sizeof *e);
    (void)sq_probe_create(&o, &p, e);
    json_decref(load);
    json_decref(l);
    json_decref(m);
    return p;
}

/* {"e": {executor constant, rate, url, ...}}, with what `more` adds to the endpoint. */
static inline json_t *load_of(double rate, const char *url, int64_t timeout, int connections, const char *more)
{
    json_t *ep =
        json_pack("{s:s, s:f, s:i, s:{s:s, s:s, s:I}}", "executor", "constant-arrival-rate", "rate", rate,
                  "connections", connections, "request", "method", "GET", "url", url, "timeout", (json_int_t)timeout);

    assert_non_null(ep);
    if (more) {
        json_t *x = json_loads(more, 0, NULL);

        assert_non_null(x);
        (void)json_object_update_recursive(ep, x);
        json_decref(x);
    }
    return json_pack("{s:o}", "e", ep);
}

static inline void begin_run(struct run *r, json_t *load, const char *lateness, const char *matchers)
{
    struct sq_err e;

    r->probe = create(load, lateness ? lateness : "{\"over\": 1000000000, \"share\": 100.0}", matchers, &e);
    if (!r->probe)
        print_error("%s\n", e.msg);
    assert_non_null(r->probe);
    r->samples = json_array();
    r->zero = sq_mono_ns();
    /* Begin in the middle of a second or not: all the same. Here at once, for the tests' sake. */
    assert_int_equal(sq_probe_start(r->probe, r->zero, r->zero + 30 * SQ_MS, &e), 0);
}

static inline void sleep_until(int64_t at)
{
    struct timespec t = {at / SQ_S, at % SQ_S};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static inline void end_run(struct run *r, int64_t grace)
{
    json_t *s;
    int64_t limit = sq_mono_ns() + 20 * SQ_S;

    sq_probe_stop(r->probe, grace);
    while (!sq_probe_done(r->probe)) {
        assert_true(sq_mono_ns() < limit);
        (void)usleep(2000);
    }
    while ((s = sq_probe_next(r->probe)))
        (void)json_array_append_new(r->samples, s);
    r->end = sq_probe_end(r->probe);
    sq_probe_free(r->probe);
    r->probe = NULL;
}

static inline void free_run(struct run *r)
{
    json_decref(r->samples);
    json_decref(r->end);
}

/* Run for `ns` from the first planned request. */
static inline void run_for(struct run *r, json_t *load, int64_t ns)
{
    begin_run(r, load, NULL, NULL);
    sleep_until(sq_probe_begin_ns(r->probe) + ns);
    end_run(r, -1);
}

static inline int64_t total(const struct run *r, const char *key)
{
    json_t *s;
    size_t i;
    int64_t n = 0;

    json_array_foreach(r->samples, i, s) n += sq_json_int_or(s, key, 0);
    return n;
}

static inline int64_t total_in(const struct run *r, const char *object, const char *key)
{
    json_t *s;
    size_t i;
    int64_t n = 0;

    json_array_foreach(r->samples, i, s) n += sq_json_int_or(json_object_get(s, object), key, 0);
    return n;
}

static inline struct sq_hist *merged(const struct run *r, const char *key)
{
    struct sq_hist *h = sq_hist_new();
    json_t *s;
    size_t i;

    json_array_foreach(r->samples, i, s) assert_int_equal(sq_hist_add_json(h, json_object_get(s, key), NULL), 0);
    return h;
}

static inline int64_t end_int(const struct run *r, const char *key)
{
    return sq_json_int_or(json_array_get(r->end, 0), key, -1);
}

static inline void assert_all_bad(struct run *r, const char *why)
{
    assert_true(end_int(r, "planned") >= 30);
    assert_int_equal(total_in(r, "bad", why), end_int(r, "planned"));
    assert_int_equal(total(r, "ok"), 0);
    free_run(r);
}

static inline void assert_all_good(struct run *r)
{
    assert_true(end_int(r, "planned") >= 30);
    assert_int_equal(total(r, "ok"), end_int(r, "planned"));
    free_run(r);
}

#endif
