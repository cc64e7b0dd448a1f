/* fail_fast: p95 of what users wait while the breaker is open. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"a->b\"}}]"

/* The fault is on from 10 to 40 s; requests wait 2 s for its first 5 s, then SLOW of PER_S a second still do. */
static void build(struct rig *r, unsigned per_s, unsigned slow)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "call/latency", 10, 40, "");
    rig_call(r, "a->b", "a.0", (struct rig_call){.t_ms = 11000, .outcome = 2, .dur_ms = 100, .fault = "f1"});
    for (int sec = 0; sec < 50; sec++) {
        unsigned s = sec < 10 || sec >= 40 ? 0 : sec < 15 ? per_s : slow;

        rig_second(r, "cart", sec, per_s - s, 5, s, 2000, "");
    }
}

/* 25 s at 60/s are 1500 requests. Clopper-Pearson at 95 %, by bisection of the summed binomial in Python: 50 slow are
 * [2.606, 4.200] %, 75 are [4.107, 6.027] %, 100 are [5.638, 7.824] %. */
static void judged(void **state)
{
    static const struct {
        unsigned per_s, slow;
        const char *params, *want;
    } cases[] = {
        {60, 0, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "pass"},
        {60, 2, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "pass"}, /* 3.3 %: trial calls */
        {60, 3, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "inconclusive"},
        {60, 4, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "fail"},
        {60, 60, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "fail"},
        {60, 60, "\"max\":\"3s\",\"opens_within\":\"5s\"", "pass"},
        {60, 0, "\"max\":\"100ms\",\"opens_within\":\"0s\"", "fail"},          /* not before it may be open */
        {60, 0, "\"max\":\"100ms\",\"opens_within\":\"30s\"", "inconclusive"}, /* the fault is over by then */
        {2, 0, "\"max\":\"100ms\",\"opens_within\":\"5s\"", "inconclusive"},   /* 50 requests: 59 are wanted */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[128];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"step\":\"s\",%s}", cases[i].params);
        build(&r, cases[i].per_s, cases[i].slow);
        rig_check(&r, "fail_fast", params);
        if (strcmp(rig_verdict(&r, 0), cases[i].want) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].want, rig_why(&r, 0));
        rig_close(&r);
    }
}

static void edges(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_fault(&r, "f1", "s", "call/latency", 10, 40, "");
    rig_call(&r, "a->b", "a.0", (struct rig_call){.t_ms = 11000, .status = 200, .dur_ms = 1});
    for (int sec = 10; sec < 40; sec++)
        rig_second(&r, "cart", sec, 60, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "fail_fast", "{\"step\":\"s\",\"max\":\"1s\",\"opens_within\":\"5s\"}"), "inconclusive");
    rig_close(&r);

    /* requests that never were timed were not fast */
    rig_open(&r, SPEC);
    rig_fault(&r, "f1", "s", "call/latency", 10, 40, "");
    rig_call(&r, "a->b", "a.0", (struct rig_call){.t_ms = 11000, .outcome = 2, .dur_ms = 1, .fault = "f1"});
    for (int sec = 10; sec < 40; sec++) {
        rig_second(&r, "cart", sec, 30, 5, 0, 0, "");
        rig_line(&r,
                 "{\"t\":%d.9,\"type\":\"sample\",\"sec\":%d,\"endpoint\":\"cart\",\"sent\":0,\"ok\":0,"
                 "\"bad\":{\"unsent\":30},\"h\":[]}",
                 sec + 1, sec);
    }
    EXPECT(&r, rig_check(&r, "fail_fast", "{\"step\":\"s\",\"max\":\"1s\",\"opens_within\":\"5s\"}"), "fail");
    rig_close(&r);
}

/* A loop that waits with the server was never there to wait. */
/* A fault that hits the first few calls only: that nobody waits later says nothing of a breaker. */
static void well_again(void **state)
{
    (void)state;
    for (int hit = 0; hit < 2; hit++) {
        struct rig r;

        build(&r, 60, 0);
        for (int t = 16000; t < 39000; t += 100)
            rig_call(&r, "a->b", "a.0",
                     (struct rig_call){.t_ms = t, .status = hit ? 503 : 200, .dur_ms = 1, .fault = hit ? "f1" : NULL});
        EXPECT(&r, rig_check(&r, "fail_fast", "{\"step\":\"s\",\"max\":\"100ms\",\"opens_within\":\"5s\"}"),
               hit ? "pass" : "inconclusive");
        rig_close(&r);
    }
}

static void closed_loop(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, "\"load\":{\"cart\":{\"executor\":\"constant-connections\"}}," SPEC);
    rig_fault(&r, "f1", "s", "call/latency", 10, 40, "");
    rig_call(&r, "a->b", "a.0", (struct rig_call){.t_ms = 11000, .outcome = 2, .dur_ms = 1, .fault = "f1"});
    for (int sec = 10; sec < 40; sec++)
        rig_second(&r, "cart", sec, 60, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "fail_fast", "{\"step\":\"s\",\"max\":\"1s\",\"opens_within\":\"5s\"}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "closed loop"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(edges), cmocka_unit_test(well_again),
                                       cmocka_unit_test(closed_loop)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
