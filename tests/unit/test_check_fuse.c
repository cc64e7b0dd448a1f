/* fuse: how many calls a failing dependency gets, against what breakers let through. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"a->b\"}}]"
#define EDGE "a->b"

/* RATE calls a second from each of N instances before the fault, which lasts from 20 s for T; CALLS in all during it.
 */
static void build(struct rig *r, unsigned n, double rate, int t, unsigned calls, const char *target)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/latency", 20, 20 + t, target);
    for (unsigned k = 0; k < n; k++) {
        char name[16];

        (void)snprintf(name, sizeof name, "a.%u", k);
        for (int i = 0; i < (int)(20 * rate); i++)
            rig_call(r, EDGE, name, (struct rig_call){.t_ms = (int)(i * 1e3 / rate), .status = 200, .dur_ms = 3});
        for (unsigned i = k; i < calls; i += n)
            rig_call(r, EDGE, name,
                     (struct rig_call){.t_ms = 20000 + (int)(i * 1e3 * t / calls),
                                       .outcome = 2,
                                       .dur_ms = 100,
                                       .held_ms = 100,
                                       .fault = "f1"});
    }
    for (int sec = 0; sec < 20 + t; sec++)
        rig_second(r, "cart", sec, 50, 5, 0, 0, "");
    rig_line(r, "{\"t\":%d,\"type\":\"note\",\"who\":\"x\",\"text\":\"\"}", 30 + t);
}

/* Bounds by hand, from N * (trip + 1.5 * rate * timeout + probes * (1 + ceil((T - trip / rate) / open)))
 * in Python's fractions: resilience4j 3 * (100 + 1.5 * 20 * 1 + 10 * (1 + ceil(175 / 60))) = 510; Hystrix
 * 3 * (20 + 1.5 * 20 * 1 + 1 * (1 + ceil(59 / 5))) = 189; resilience4j at 0.3/s 3 * (100 + 0.45 + 10) = 331.35. */
#define R4J "\"expect\":{\"trip_calls\":100,\"timeout\":\"1s\",\"probes\":10,\"open_for\":\"60s\"}"
#define HYSTRIX "\"expect\":{\"trip_calls\":20,\"timeout\":\"1s\",\"probes\":1,\"open_for\":\"5s\"}"

static void judged(void **state)
{
    static const struct {
        unsigned n;
        double rate;
        int t;
        unsigned calls;
        const char *params, *want, *limit;
    } cases[] = {
        {3, 20, 180, 439, R4J, "pass", "<= 612 calls"},
        {3, 20, 180, 612, R4J, "pass", "<= 612 calls"},
        {3, 20, 180, 613, R4J, "fail", "<= 612 calls"},
        {3, 20, 180, 10628, R4J, "fail", "<= 612 calls"},
        {3, 20, 60, 160, HYSTRIX, "pass", "<= 226 calls"},
        {3, 20, 60, 3518, HYSTRIX, "fail", "<= 226 calls"},
        {3, 0.3, 180, 144, R4J, "inconclusive", "<= 397 calls"},
        {3, 1, 180, 20, R4J, "inconclusive", "<= 473 calls"}, /* a twentieth of the load */
        {3, 20, 60, 160, "\"max_calls\":160", "pass", "<= 160 calls"},
        {3, 20, 60, 161, "\"max_calls\":160", "fail", "<= 160 calls"},
        {3, 1, 60, 10, "\"max_calls\":160", "inconclusive", "<= 160 calls"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[200];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"step\":\"s\",%s}", cases[i].params);
        build(&r, cases[i].n, cases[i].rate, cases[i].t, cases[i].calls, "");
        rig_check(&r, "fuse", params);
        if (strcmp(rig_verdict(&r, 0), cases[i].want) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].want, rig_why(&r, 0));
        assert_string_equal(sq_json_str_or(json_array_get(r.results, 0), "limit", ""), cases[i].limit);
        rig_close(&r);
    }
}

/* With the model of a caller: one with a breaker is under the bound, one without over it. */
static void callers(void **state)
{
    (void)state;
    for (int broken = 0; broken < 2; broken++) {
        struct caller c = {.rate = 20,
                           .end = 90,
                           .from = 20,
                           .to = 80,
                           .delay_ms = 5000,
                           .timeout_ms = 1000,
                           .trip = broken ? 0 : 20,
                           .open_ms = 5000,
                           .probes = 1,
                           .seed = 3};
        struct rig r;

        rig_open(&r, SPEC);
        rig_steady(&r, 0, 20, true);
        rig_fault(&r, "f1", "s", "call/latency", 20, 80, "");
        for (int k = 0; k < 3; k++) {
            char name[16];

            (void)snprintf(name, sizeof name, "a.%d", k);
            c.seed = (uint64_t)k + 3;
            rig_caller(&r, EDGE, name, &c);
        }
        for (int sec = 0; sec < 90; sec++)
            rig_second(&r, "cart", sec, 60, 5, 0, 0, "");
        EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), broken ? "fail" : "pass");
        rig_close(&r);
    }
}

static void others(void **state)
{
    struct sq_err e = {0};
    struct rig r;
    json_t *p;

    (void)state;
    build(&r, 1, 20, 60, 5, "\"target\":{\"percent\":50}"); /* a breaker may rightly stay closed */
    EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), "inconclusive");
    p = json_object();
    assert_int_equal(sq_check_find("fuse")->run(r.ev, p, r.results, &e), -EINVAL);
    json_decref(p);
    rig_close(&r);

    build(&r, 1, 20, 60, 100, ""); /* an instance that is started anew has a breaker anew */
    EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), "fail");
    rig_close(&r);
    build(&r, 1, 20, 60, 100, "");
    rig_line(&r, "{\"t\":40,\"type\":\"service\",\"service\":\"a\",\"instance\":\"a.0\",\"state\":\"restarted\"}");
    EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), "pass");
    rig_close(&r);

    /* a caller that dies of the fault spares its dependency, too */
    for (int again = 0; again < 2; again++) {
        build(&r, 1, 20, 60, 20, "");
        rig_line(&r, "{\"t\":40,\"type\":\"service\",\"service\":\"a\",\"instance\":\"a.0\",\"state\":\"exited\"}");
        if (again)
            rig_line(&r,
                     "{\"t\":41,\"type\":\"service\",\"service\":\"a\",\"instance\":\"a.0\",\"state\":\"restarted\"}");
        EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), again ? "pass" : "inconclusive");
        rig_close(&r);
    }
    build(&r, 1, 20, 60, 20, ""); /* the end of the run ends it */
    rig_line(&r, "{\"t\":79.5,\"type\":\"service\",\"service\":\"a\",\"instance\":\"a.0\",\"state\":\"stopped\"}");
    EXPECT(&r, rig_check(&r, "fuse", "{\"step\":\"s\"," HYSTRIX "}"), "pass");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(callers), cmocka_unit_test(others)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
