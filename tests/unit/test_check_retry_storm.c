/* retry_storm: calls a second during and after a fault, against the steady state's. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\",\"target\":{\"edge\":\"a->b\"}}]"
#define EDGE "a->b"

struct shape {
    double rate, during, after; /* calls a second: steady, in the fault, after it */
    int burst;                  /* seconds after the fault with ten times the rate */
    int end;                    /* of the load; the fault is on from 20 to 40 s */
    bool unharmed;
    int quiet; /* seconds until the first call */
};

static void build(struct rig *r, const struct shape *s, uint64_t seed)
{
    struct sq_rng rng;
    double t = s->quiet;

    sq_rng_seed(&rng, seed);
    rig_open(r, SPEC);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/error", 20, 40, "");
    while (t < s->end) {
        bool on = t >= 20 && t < 40, burst = t >= 40 && t < 40 + s->burst;
        double rate = on ? s->during : burst ? 10 * s->rate : t >= 40 ? s->after : s->rate;

        if (rate <= 0) {
            t += 0.5;
            continue;
        }
        t += -log(1.0 - sq_rng_double(&rng)) / rate;
        if (t < s->end)
            rig_call(r, EDGE, "a.0",
                     (struct rig_call){.t_ms = (int)(t * 1e3),
                                       .outcome = on && !s->unharmed ? 1 : 0,
                                       .status = 200,
                                       .dur_ms = 3,
                                       .fault = on && !s->unharmed ? "f1" : NULL});
    }
    for (int sec = 0; sec < s->end; sec++)
        rig_second(r, "cart", sec, (unsigned)(s->rate * 2), 5, 0, 0, "");
}

static void judged(void **state)
{
    static const struct {
        struct shape s;
        const char *params, *want;
    } cases[] = {
        {{40, 40, 40, 0, 60, false}, "\"factor\":2", "pass"},
        {{40, 2, 40, 0, 60, false}, "\"factor\":2", "pass"},          /* a breaker */
        {{40, 120, 40, 0, 60, false}, "\"factor\":2", "fail"},        /* retries while it lasts */
        {{40, 40, 120, 0, 60, false}, "\"factor\":2", "fail"},        /* retries for ever */
        {{40, 0, 120, 0, 60, false}, "\"factor\":2", "inconclusive"}, /* nothing was called: nothing was harmed */
        {{40, 40, 40, 2, 60, false}, "\"factor\":2", "pass"},         /* catching up */
        {{40, 40, 40, 6, 60, false}, "\"factor\":2", "fail"},
        {{40, 40, 40, 6, 60, false}, "\"factor\":2,\"burst_seconds\":7", "pass"},
        {{40, 40, 40, 0, 42, false}, "\"factor\":2", "inconclusive"}, /* the load ended with the fault */
        {{40, 40, 40, 0, 60, true}, "\"factor\":2", "inconclusive"},  /* no call was harmed */
        {{2, 2, 2, 0, 60, false}, "\"factor\":2", "inconclusive"},    /* a twentieth of the load */
        {{2, 2, 6, 0, 60, false}, "\"factor\":2", "inconclusive"},
        {{40, 120, 40, 0, 60, false}, "\"factor\":5", "pass"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[128];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"after\":\"s\",%s}", cases[i].params);
        build(&r, &cases[i].s, 5);
        rig_check(&r, "retry_storm", params);
        if (strcmp(rig_verdict(&r, 0), cases[i].want) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].want, rig_why(&r, 0));
        rig_close(&r);
    }
}

/* A healthy service passes however chance falls. */
static void never_by_chance(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct rig r;

        build(&r, &(struct shape){25, 25, 25, 0, 60, false}, seed);
        EXPECT(&r, rig_check(&r, "retry_storm", "{\"after\":\"s\"}"), "pass");
        rig_close(&r);
    }
}

/* The dead make no storm. */
/* A JVM that warms up makes next to no calls in the first half of the steady state: that is no storm afterwards. */
static void quiet_in_steady_state(void **state)
{
    struct shape s = {40, 40, 40, 0, 60, false, 14};
    struct rig r;

    (void)state;
    build(&r, &s, 1);
    EXPECT(&r, rig_check(&r, "retry_storm", "{\"after\":\"s\",\"factor\":2}"), "inconclusive");
    if (!strstr(rig_why(&r, 0), "no rate to compare with"))
        fail_msg("%s", rig_why(&r, 0));
    EXPECT(&r, rig_check(&r, "retries", "{\"step\":\"s\",\"max_attempts\":1}"), "inconclusive");
    if (!strstr(rig_why(&r, 0), "no rate to compare with"))
        fail_msg("%s", rig_why(&r, 0));
    EXPECT(&r, rig_check(&r, "retries", "{\"step\":\"s\",\"amplification\":1.5}"), "inconclusive");
    if (!strstr(rig_why(&r, 0), "no rate to compare with"))
        fail_msg("%s", rig_why(&r, 0));
    rig_close(&r);
    s.quiet = 0; /* all the same it is one when it is */
    s.during = 120;
    build(&r, &s, 1);
    EXPECT(&r, rig_check(&r, "retries", "{\"step\":\"s\",\"max_attempts\":1}"), "fail");
    rig_close(&r);
}

static void dead_caller(void **state)
{
    struct rig r;

    (void)state;
    build(&r, &(struct shape){40, 40, 40, 0, 60, false}, 5);
    rig_line(&r, "{\"t\":30,\"type\":\"service\",\"service\":\"a\",\"instance\":\"a.0\",\"state\":\"exited\"}");
    EXPECT(&r, rig_check(&r, "retry_storm", "{\"after\":\"s\"}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "a.0 ended"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(never_by_chance),
                                       cmocka_unit_test(quiet_in_steady_state), cmocka_unit_test(dead_caller)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
