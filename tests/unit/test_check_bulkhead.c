/* bulkhead: endpoints that don't need the slow dependency, against themselves in steady state; calls under way. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"a->b\"}}]"
#define CATALOG "{\"step\":\"s\",\"endpoints\":[\"catalog\"]"

/* One second of catalog: latencies spread evenly over [ms, 2 ms), BAD of them failures. */
static void second(struct rig *r, int sec, unsigned n, double ms, unsigned bad)
{
    struct sq_hist *h = sq_hist_new();

    for (unsigned i = 0; i < n; i++)
        sq_hist_record(h, (int64_t)(ms * 1e6 * (1.0 + (double)((i * 7u + (unsigned)sec * 3u) % n) / n)));
    json_t *j = sq_hist_to_json(h);
    char *text = json_dumps(j, JSON_COMPACT);
    rig_line(r,
             "{\"t\":%d.5,\"type\":\"sample\",\"sec\":%d,\"endpoint\":\"catalog\",\"sent\":%u,\"ok\":%u,"
             "\"bad\":{\"status\":%u},\"h\":%s}",
             sec + 1, sec, n, n - bad, bad, text);
    free(text);
    json_decref(j);
    sq_hist_free(h);
}

/* Steady from 0 to 20 s, the fault from 20 to 50 s. */
static void build_with(struct rig *r, const char *spec, unsigned per_s, double ms, double hurt_ms, unsigned bad,
                       bool harmed)
{
    rig_open(r, spec);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/latency", 20, 50, "");
    rig_call(r, "a->b", "a.0",
             (struct rig_call){.t_ms = 21000, .outcome = harmed ? 2 : 0, .dur_ms = 100, .fault = harmed ? "f1" : NULL});
    for (int sec = 0; sec < 60; sec++) {
        bool on = sec >= 20 && sec < 50;

        second(r, sec, per_s, on ? hurt_ms : ms, on ? bad : 0);
    }
}

static void build(struct rig *r, unsigned per_s, double ms, double hurt_ms, unsigned bad, bool harmed)
{
    build_with(r, SPEC, per_s, ms, hurt_ms, bad, harmed);
}

static void judged(void **state)
{
    static const struct {
        unsigned per_s;
        double ms, hurt_ms;
        unsigned bad;
        const char *more, *latency, *errors;
    } cases[] = {
        {60, 50, 50, 0, "", "pass", "pass"},
        {60, 50, 100, 0, "", "fail", "pass"},
        {60, 50, 2000, 60, "", "fail", "fail"},
        {60, 50, 52, 0, ",\"max_slowdown\":20", "pass", "pass"},
        {60, 50, 55, 0, ",\"max_slowdown\":10,\"grace\":\"0\"", "inconclusive", "pass"}, /* on the limit itself */
        {60, 2, 4, 0, "", "pass", "pass"},                                               /* twice as slow, by 4 ms */
        {60, 2, 4, 0, ",\"grace\":\"0\"", "fail", "pass"},
        {60, 50, 50, 1, "", "inconclusive", "inconclusive"}, /* judged below: 1.7 % of 1800 */
        {60, 50, 50, 3, "", "pass", "fail"},
        {3, 50, 50, 0, "", "inconclusive", "inconclusive"}, /* 60 and 90 requests */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[200];
        struct rig r;

        (void)snprintf(params, sizeof params, CATALOG "%s}", cases[i].more);
        build(&r, cases[i].per_s, cases[i].ms, cases[i].hurt_ms, cases[i].bad, true);
        rig_check(&r, "bulkhead", params);
        assert_int_equal(json_array_size(r.results), 2);
        if (i != 7 && strcmp(rig_verdict(&r, 0), cases[i].latency) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].latency, rig_why(&r, 0));
        if (strcmp(rig_verdict(&r, 1), cases[i].errors) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 1), cases[i].errors, rig_why(&r, 1));
        rig_close(&r);
    }
}

/* N calls of 2 s, one every EVERY ms, in the fault; EVERY / 4 apart in steady state. */
static void in_flight(struct rig *r, unsigned n, int every, int rate_every, double dur)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/latency", 20, 50, "");
    for (int t = 0; t < 20000; t += rate_every)
        rig_call(r, "a->b", "a.0", (struct rig_call){.t_ms = t, .status = 200, .dur_ms = 3});
    for (unsigned i = 0; i < n && (int)i * every < 29000; i++)
        rig_call(r, "a->b", "a.0",
                 (struct rig_call){.t_ms = 20100 + (int)i * every, .outcome = 2, .dur_ms = dur, .fault = "f1"});
    for (int sec = 0; sec < 60; sec++)
        second(r, sec, 60, 50, 0);
}

static void plateau(void **state)
{
    static const struct {
        int every, rate_every;
        double dur;
        const char *limit, *want;
    } cases[] = {
        {200, 50, 1950, "10", "pass"}, /* at 20/s, 39 would be under way; 10 are */
        {200, 50, 1950, "9", "fail"},
        {200, 50, 1950, "20", "pass"},           /* put to the test, and never near */
        {200, 50, 1950, "30", "inconclusive"},   /* 39 wanted is not 45 */
        {200, 200, 1950, "10", "pass"},          /* the plateau itself */
        {200, 1000, 1950, "20", "inconclusive"}, /* too little load */
        {200, 50, 2000, "10", "inconclusive"},   /* the 11th begins when the first one ends */
        {200, 50, 2040, "10", "inconclusive"}, /* or before it is seen that it has: a semaphore in Go on a busy host */
        {200, 50, 2080, "10", "fail"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[200];
        struct rig r;

        (void)snprintf(params, sizeof params, CATALOG ",\"max_in_flight\":%s}", cases[i].limit);
        in_flight(&r, 140, cases[i].every, cases[i].rate_every, cases[i].dur);
        rig_check(&r, "bulkhead", params);
        assert_int_equal(json_array_size(r.results), 3);
        if (strcmp(rig_verdict(&r, 2), cases[i].want) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 2), cases[i].want, rig_why(&r, 2));
        rig_close(&r);
    }
}

static void untested(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 60, 50, 50, 0, false);
    EXPECT(&r, rig_check(&r, "bulkhead", CATALOG "}"), "inconclusive");
    EXPECT(&r, rig_check(&r, "bulkhead", "{\"step\":\"s\",\"endpoints\":[\"nosuch\"]}"), "inconclusive");
    rig_close(&r);

    build(&r, 60, 50, 50, 0, true);
    EXPECT(&r, rig_check(&r, "bulkhead", CATALOG "}"), "pass");
    rig_close(&r);
    build_with(&r, "\"load\":{\"catalog\":{\"executor\":\"constant-connections\"}}," SPEC, 60, 50, 50, 0, true);
    EXPECT(&r, rig_check(&r, "bulkhead", CATALOG "}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "closed loop"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(plateau), cmocka_unit_test(untested)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
