/* circuit_breaker against callers that behave and callers that don't. */
#include "unit/verify_rig.h"

#define EDGE "checkout->payments"
#define SPEC                                                                                                           \
    "\"steps\":[{\"id\":\"slow\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"" EDGE "\",\"percent\":100},"        \
    "\"with\":{\"delay\":2000000000}},{\"id\":\"settle\",\"wait\":10000000000}]"
#define PARAMS                                                                                                         \
    "{\"step\":\"slow\",\"edge\":\"" EDGE "\",\"expect\":{\"opens_within\":5000000000,\"open_for\":2000000000,"        \
    "\"probes\":3,\"closes_within\":10000000000,\"tolerance\":10.0}}"

static const struct caller healthy = {.rate = 25,
                                      .end = 42,
                                      .from = 12,
                                      .to = 30,
                                      .delay_ms = 2000,
                                      .timeout_ms = 300,
                                      .trip = 8,
                                      .open_ms = 2000,
                                      .probes = 1,
                                      .seed = 1};

static void build(struct rig *r, const struct caller *c, unsigned load)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "slow", "call/latency", c->from, c->to,
              "\"target\":{\"edge\":\"" EDGE "\",\"percent\":100.0},\"with\":{\"delay\":2000000000},"
              "\"hit\":[{\"edge\":\"" EDGE "\"}],\"readback\":{}");
    for (int sec = 0; sec < (int)c->end; sec++)
        rig_second(r, "cart", sec, load, 10, 0, 0, "");
    rig_caller(r, EDGE, "checkout.0", c);
    rig_end(r, c->end + 1);
}

static const char *judge_with(struct rig *r, const struct caller *c, const char *params)
{
    build(r, c, (unsigned)c->rate);
    return rig_check(r, "circuit_breaker", params);
}

static void expect(const struct caller *c, const char *want, const char *words)
{
    struct rig r;

    EXPECT(&r, judge_with(&r, c, PARAMS), want);
    if (!strstr(rig_why(&r, 0), words))
        fail_msg("\"%s\" does not say \"%s\"", rig_why(&r, 0), words);
    rig_close(&r);
}

static void healthy_passes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct caller c = healthy;

        c.seed = seed;
        c.even = seed % 2;
        expect(&c, "pass", "the breaker held");
    }
}

/* Libraries differ; all of these are right. */
static void healthy_variants_pass(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct caller c = healthy;

        c.seed = seed;
        c.probes = 3; /* resilience4j: several permitted, as they come */
        expect(&c, "pass", "");
        c.grow = 1.1; /* open times that grow: open_for is a minimum */
        expect(&c, "pass", "");
        c.grow = 0;
        c.abandons = true; /* opossum without an abort: calls stay open until they are answered */
        expect(&c, "pass", "");
        c.rate = 60;
        expect(&c, "pass", "");
        c.abandons = false;
        c.workers = 4; /* blocking workers */
        expect(&c, "pass", "");
        c.rate = 25;
        c.workers = 0;
        c.attempts = 3; /* retries around the breaker */
        c.traced = true;
        expect(&c, "pass", "");
        c.attempts = 0;
        c.refuse = true; /* fails at once: opens after some milliseconds */
        expect(&c, "pass", "");
    }
}

/* A caller that waits for a few stuck calls pauses before its breaker opens; stragglers come after it has opened. */
static void pauses_and_stragglers_pass(void **state)
{
    (void)state;
    for (uint64_t seed = 160; seed < 180; seed++) {
        struct caller c = {.rate = 60,
                           .end = 42,
                           .from = 12,
                           .to = 30,
                           .delay_ms = 3000,
                           .timeout_ms = 498,
                           .trip = 6,
                           .open_ms = 2870,
                           .probes = 2,
                           .workers = 4,
                           .seed = seed};

        expect(&c, "pass", "");
        c = healthy;
        c.seed = seed;
        c.attempts = 3;
        c.inside = c.traced = true;
        c.backoff_ms = 500;
        expect(&c, "pass", "");
    }
}

static void no_breaker_fails(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct caller c = healthy;

        c.seed = seed;
        c.trip = 0;
        expect(&c, "fail", "never opened");
        c.timeout_ms = 0; /* and no timeout either */
        expect(&c, "fail", "never opened");
        c.rate = 100;
        c.workers = 1; /* a stuck caller is silent for 2 s at a time, and yet has no breaker */
        expect(&c, "fail", "never opened");
        c.workers = 8;
        expect(&c, "fail", "never opened");
        c.timeout_ms = 300;
        expect(&c, "fail", "never opened");
        c.workers = 0;
        c.rate = 25;
        c.attempts = 3;
        c.traced = true;
        expect(&c, "fail", "never opened");
    }
}

static void never_closes_fails(void **state)
{
    struct caller c = healthy;

    (void)state;
    c.never_closes = true;
    expect(&c, "fail", "never closed");
    c = healthy;
    c.end = 40; /* the load ends exactly when it must be closed at the latest */
    c.never_closes = true;
    expect(&c, "fail", "never closed");
    c.end = 35; /* too early to know */
    expect(&c, "inconclusive", "it may take");
}

static void short_open_time_fails(void **state)
{
    struct caller c = healthy;

    (void)state;
    c.open_ms = 1000;
    expect(&c, "fail", "was open for");
    c.open_ms = 1900; /* within the tolerance */
    expect(&c, "pass", "");
}

static void many_trials_fail(void **state)
{
    struct caller c = healthy;

    (void)state;
    c.probes = 10;
    expect(&c, "fail", "half-open");
    c.probes = 1;
    c.opens_once = true; /* the first trial closes it for good: eight more calls until it opens again */
    expect(&c, "fail", "half-open");
}

static void late_opening_fails(void **state)
{
    struct caller c = healthy;

    (void)state;
    c.trip = 170; /* about 6.8 s */
    expect(&c, "fail", "after the fault began");
    struct rig r;
    c = healthy;
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls\":3,\"open_for\":2000000000}}"), "fail");
    assert_non_null(strstr(rig_why(&r, 0), "3 are allowed"));
    rig_close(&r);
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls\":40,\"open_for\":2000000000}}"),
           "pass");
    rig_close(&r);
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls_min\":100,\"open_for\":2000000000}}"),
           "fail");
    rig_close(&r);
}

/* Calls are stamped to 10 ms: one that met the fault may bear a stamp before it, one that did not may bear one after. A
 * breaker that opens after exactly eight is right all the same. */
static void stamps_do_not_miscount(void **state)
{
    struct caller c = healthy;
    struct rig r;

    (void)state;
    c.refuse = true;
    c.even = true;
    c.rate = 1000.0 / 23; /* calls at 12.006, 12.029, 12.052 s */
    c.from = 12.0515;
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls_min\":8,\"open_for\":2000000000}}"),
           "pass");
    rig_close(&r);
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls_min\":9,\"open_for\":2000000000}}"),
           "fail");
    rig_close(&r);
    c.from = 12.0075;
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls\":8,\"open_for\":2000000000}}"), "pass");
    rig_close(&r);
    EXPECT(&r, judge_with(&r, &c, "{\"step\":\"slow\",\"expect\":{\"trip_calls\":7,\"open_for\":2000000000}}"), "fail");
    rig_close(&r);
}

static void little_load_is_inconclusive(void **state)
{
    struct caller c = healthy;

    (void)state;
    for (unsigned broken = 0; broken < 2; broken++) {
        c.trip = broken ? 0 : 8;
        c.rate = healthy.rate / 20;
        expect(&c, "inconclusive", "too few to know");
        c.rate = 5;
        expect(&c, "inconclusive", "too little load");
    }
    struct rig r;
    c = healthy;
    c.trip = 0;
    EXPECT(&r,
           judge_with(&r, &c,
                      "{\"step\":\"slow\",\"expect\":{\"opens_within\":5000000000,\"trip_calls\":500,"
                      "\"open_for\":2000000000}}"),
           "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "to trip it"));
    rig_close(&r);
}

static void short_fault_is_inconclusive(void **state)
{
    struct caller c = healthy;

    (void)state;
    c.trip = 0;
    c.to = 15; /* 3 s: it may take 5 to open */
    expect(&c, "inconclusive", "the fault lasted only");
    c = healthy;
    c.to = 13.5; /* opens, but is back before the first trial */
    expect(&c, "inconclusive", "before it tried again");
}

static void fault_without_effect_is_inconclusive(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
    for (int i = 0; i < 42 * 25; i++)
        rig_call(&r, EDGE, "checkout.0", (struct rig_call){.t_ms = i * 40, .status = 200, .dur_ms = 3, .answer_ms = 2});
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "no reason to open"));
    rig_close(&r);
}

/* Silence for other reasons is not the breaker's. */
static void requests(struct rig *r, int from_ms, int to_ms)
{
    for (int t = from_ms; t < to_ms; t += 40)
        rig_call(r, EDGE, "checkout.0", (struct rig_call){.t_ms = t, .status = 200, .dur_ms = 2});
}

static void connections(struct rig *r, int n, int from_ms, double dur_ms, int outcome, const char *fault)
{
    for (int i = 0; i < n; i++)
        rig_call(r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = from_ms + 25 * i,
                                   .kind = outcome ? 1 : 2,
                                   .outcome = outcome,
                                   .dur_ms = dur_ms,
                                   .held_ms = fault ? dur_ms : 0,
                                   .fault = fault});
}

/* A pool connects again and again in vain: by the time a connection is there, the request that it was for has been
 * given up. Such a caller sends nothing, and yet has no breaker. */
static void pool_without_breaker_fails(void **state)
{
    (void)state;
    for (int hole = 0; hole < 2; hole++) {
        struct caller c = healthy;
        struct rig r;

        c.end = 12; /* as long as all is well it is as any other */
        build(&r, &c, 25);
        for (int sec = 12; sec < 42; sec++)
            rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
        if (hole) { /* all are let go together, and overlap those that come then */
            connections(&r, 10, 12020, 10400, 2, "f1");
            connections(&r, 20, 22440, 7600, 0, "f1");
        } else
            for (int at = 12020; at < 30000; at += 3010)
                connections(&r, 10, at, 3000, 0, "f1");
        connections(&r, 40, 30050, 30, 0, NULL);
        requests(&r, 31000, 42000);
        EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "fail");
        if (!strstr(rig_why(&r, 0), "never opened"))
            fail_msg("%s", rig_why(&r, 0));
        rig_close(&r);
    }
}

/* Connections that nothing is sent on, and that no fault hit, are somebody's health check: no trial calls. */
static void health_checks_are_no_trials(void **state)
{
    struct caller c = healthy;
    struct rig r;

    (void)state;
    build(&r, &c, 25);
    for (int t = 500; t < 42000; t += 1000)
        connections(&r, 1, t, 2, 0, NULL);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "pass");
    rig_close(&r);
}

/* Nor do they say that the caller goes on: its calls fail quickly, so that one or two of them are under way when its
 * breaker opens, and the next health check comes right after they have ended. */
static void health_checks_hide_no_silence(void **state)
{
    static const int every[] = {50, 70, 100, 150, 500};

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        for (size_t i = 0; i < sizeof every / sizeof every[0]; i++) {
            struct caller c = healthy;
            struct rig r;

            c.seed = seed;
            c.even = seed % 2;
            c.timeout_ms = 45;
            c.trip = 3;
            build(&r, &c, 25);
            for (int t = 500 + (int)seed; t < 42000; t += every[i])
                connections(&r, 1, t, 2, 0, NULL);
            EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "pass");
            rig_close(&r);
            c.trip = 0; /* and they make no breaker of what has none */
            c.timeout_ms = 0;
            c.rate = 100;
            c.workers = 1 + (unsigned)seed % 3;
            build(&r, &c, 25);
            for (int t = 500 + (int)seed; t < 42000; t += every[i])
                connections(&r, 1, t, 2, 0, NULL);
            EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "fail");
            rig_close(&r);
        }
    }
}

/* The verdict on C when something else in it calls or connects every EVERY_MS, which the fault hits like any call. */
static const char *beside(struct rig *r, const struct caller *c, int every_ms, bool request)
{
    build(r, c, (unsigned)c->rate);
    for (int t = 500; t < 1000 * (int)c->end; t += every_ms) {
        bool hit = t >= 1000 * (int)c->from && t < 1000 * (int)c->to;

        rig_call(r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = t,
                                   .kind = request ? 0
                                           : hit   ? 1
                                                   : 2,
                                   .outcome = hit ? request ? 2 : 1 : 0,
                                   .status = request && !hit ? 200 : 0,
                                   .dur_ms = 2,
                                   .fault = hit ? "f1" : NULL});
    }
    return rig_check(r, "circuit_breaker", PARAMS);
}

/* Health checks that the fault hits look like calls: then a sound breaker can't be seen, but one that is missing can.
 */
static void health_checks_that_are_hit(void **state)
{
    (void)state;
    for (int request = 0; request < 2; request++) {
        for (uint64_t seed = 1; seed <= 20; seed++) {
            struct caller c = healthy;
            struct rig r;

            c.seed = seed;
            c.refuse = !request;
            c.traced = c.blind = true;
            EXPECT(&r, beside(&r, &c, request ? 600 : 150, request), "inconclusive");
            if (!strstr(rig_why(&r, 0), "health checks"))
                fail_msg("%s", rig_why(&r, 0));
            rig_close(&r);
            c.trip = 0;
            EXPECT(&r, beside(&r, &c, request ? 600 : 150, request), "fail");
            rig_close(&r);
            c.trip = healthy.trip;
            c.never_closes = true;
            EXPECT(&r, beside(&r, &c, request ? 600 : 150, request), "fail");
            rig_close(&r);
        }
    }
}

#define PLAIN "{\"step\":\"slow\",\"expect\":{\"opens_within\":5000000000,\"closes_within\":10000000000}}"

/* As tenacity that repeats for ever in Python, or axios-retry in a process that can't keep up: it stands still for a
 * second, and then calls on. */
static void standing_still_is_no_breaker(void **state)
{
    (void)state;
    for (int attempts = 1; attempts <= 4; attempts += 3) {
        struct caller c = healthy;
        struct rig r;

        c.trip = 0;
        c.refuse = true;
        c.end = 13.5;
        c.attempts = (unsigned)attempts;
        c.traced = true;
        build(&r, &c, 25);
        for (int sec = 13; sec < 42; sec++)
            rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
        for (int t = 15000; t < 30000; t += 100)
            for (int k = 0; k < attempts; k++)
                rig_call(&r, EDGE, "checkout.0",
                         (struct rig_call){
                             .t_ms = t + 10 * k, .kind = 1, .outcome = 1, .fault = "f1", .trace = (unsigned)t});
        requests(&r, 30000, 42000);
        /* with one attempt it is held back by something: 10 calls a second of 25 */
        EXPECT(&r, rig_check(&r, "circuit_breaker", PLAIN), attempts > 1 ? "fail" : "inconclusive");
        if (attempts > 1 && !strstr(rig_why(&r, 0), "without a breaker"))
            fail_msg("%s", rig_why(&r, 0));
        rig_close(&r);
    }
}

/* A fault that ends amid the first trial calls leaves no time to tell that there are few of them: as many as are
 * allowed are no proof against the breaker. */
static void fault_that_ends_amid_trials(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        for (unsigned trip = 0; trip <= 8; trip += 8) {
            struct caller c = healthy;
            struct rig r;

            c.seed = seed;
            c.even = true;
            c.to = 16.2;
            c.timeout_ms = 1000;
            c.trip = trip;
            c.probes = 20;
            EXPECT(&r,
                   judge_with(&r, &c,
                              "{\"step\":\"slow\",\"expect\":{\"opens_within\":2000000000,\"probes\":20,"
                              "\"closes_within\":10000000000}}"),
                   trip ? "pass" : "fail");
            rig_close(&r);
        }
    }
}

/* An adaptive limit of calls under way, shrunk to one, calls again as soon as its call has timed out. A breaker waits.
 */
static void one_at_a_time_is_no_breaker(void **state)
{
    (void)state;
    for (int breaker = 0; breaker < 2; breaker++) {
        struct caller c = healthy;
        struct rig r;

        c.end = 12;
        build(&r, &c, 25);
        for (int sec = 12; sec < 42; sec++)
            rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
        for (int i = 0; i < 20; i++)
            rig_call(&r, EDGE, "checkout.0",
                     (struct rig_call){
                         .t_ms = 12020 + 40 * i, .outcome = 2, .dur_ms = 1000, .held_ms = 2000, .fault = "f1"});
        for (int t = 13800; t < 30000; t += breaker ? 2000 : 1015)
            rig_call(&r, EDGE, "checkout.0",
                     (struct rig_call){.t_ms = t, .outcome = 2, .dur_ms = 1000, .held_ms = 2000, .fault = "f1"});
        requests(&r, 31000, 42000);
        EXPECT(&r, rig_check(&r, "circuit_breaker", PLAIN), breaker ? "pass" : "inconclusive");
        if (!breaker && !strstr(rig_why(&r, 0), "one at a time"))
            fail_msg("%s", rig_why(&r, 0));
        rig_close(&r);
    }
}

/* A JVM that warms up times out until its breaker opens, in steady state: no rate to compare with. */
static void silent_in_steady_state(void **state)
{
    struct caller c = healthy;
    struct rig r;

    (void)state;
    c.from = 2;
    c.to = 4.5;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[{\"edge\":\"" EDGE "\"}],\"readback\":{}");
    for (int sec = 0; sec < 42; sec++)
        rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
    rig_caller(&r, EDGE, "checkout.0", &c);
    rig_end(&r, 43);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    if (!strstr(rig_why(&r, 0), "no rate to compare with"))
        fail_msg("%s", rig_why(&r, 0));
    rig_close(&r);
}

/* Nor do connections that a pool opens ahead and closes unused say how many calls the caller can have under way: it is
 * stuck with one. */
static void unused_connections_are_no_calls(void **state)
{
    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct caller c = healthy;
        struct rig r;

        c.trip = 0;
        c.timeout_ms = 0;
        c.rate = 100;
        c.workers = workers;
        build(&r, &c, 25);
        connections(&r, 20, 1000, 3000, 0, NULL);
        EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "fail");
        if (!strstr(rig_why(&r, 0), "never opened"))
            fail_msg("%s", rig_why(&r, 0));
        rig_close(&r);
    }
}

static void other_silences(void **state)
{
    struct caller c = healthy;
    struct rig r;

    (void)state;
    /* the caller died */
    build(&r, &c, 25);
    rig_line(&r, "{\"t\":14.0,\"type\":\"service\",\"service\":\"checkout\",\"instance\":\"checkout.0\",\"pid\":1,"
                 "\"state\":\"exited\",\"exit\":1}");
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    rig_close(&r);
    /* another instance died: no matter */
    build(&r, &c, 25);
    rig_line(&r, "{\"t\":14.0,\"type\":\"service\",\"service\":\"payments\",\"instance\":\"payments.0\",\"pid\":1,"
                 "\"state\":\"exited\",\"exit\":1}");
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "pass");
    rig_close(&r);
    /* services are stopped at the end of every run */
    build(&r, &c, 25);
    rig_line(&r, "{\"t\":41.5,\"type\":\"service\",\"service\":\"checkout\",\"instance\":\"checkout.0\",\"pid\":1,"
                 "\"state\":\"stopped\"}");
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "pass");
    rig_close(&r);
    /* silent before the fault */
    c.end = 11;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 8, true);
    rig_fault(&r, "f1", "slow", "call/latency", 15, 30, "\"hit\":[],\"readback\":{}");
    for (int sec = 0; sec < 42; sec++)
        rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
    rig_caller(&r, EDGE, "checkout.0", &c);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "silent already"));
    rig_close(&r);
    /* the load stopped when the fault began, and the caller has no breaker */
    c = healthy;
    c.trip = 0;
    c.end = 13;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 8, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
    for (int sec = 0; sec < 13; sec++)
        rig_second(&r, "cart", sec, 25, 10, 0, 0, "");
    rig_caller(&r, EDGE, "checkout.0", &c);
    rig_end(&r, 43);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    rig_close(&r);
}

/* CALLS_S calls a second in [from, to) seconds, answered. */
static void well(struct rig *r, double from, double to, double calls_s)
{
    for (int i = 0; i < (int)((to - from) * calls_s); i++)
        rig_call(r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = (int)(from * 1e3 + i * 1e3 / calls_s), .status = 200, .dur_ms = 3});
}

/* Half of the calls is not all of them; and calls that stop without one having failed were not stopped by a breaker. */
static void half_back(void **state)
{
    struct rig r;

    (void)state;
    for (int back = 0; back < 2; back++) {
        rig_open(&r, SPEC);
        rig_steady(&r, 0, 10, true);
        rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
        for (int sec = 0; sec < 50; sec++)
            rig_second(&r, "cart", sec, 40, 10, 0, 0, "");
        well(&r, 0, 12, 40);
        for (int t = 12000; t < 30000; t += t == 12100 ? 2400 : t < 12100 ? 10 : 2500)
            rig_call(&r, EDGE, "checkout.0",
                     (struct rig_call){.t_ms = t, .outcome = 2, .dur_ms = 300, .held_ms = 2000, .fault = "f1"});
        well(&r, 31, 50, back ? 40 : 16);
        rig_end(&r, 51);
        EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), back ? "pass" : "fail");
        if (!back)
            assert_non_null(strstr(rig_why(&r, 0), "never closed"));
        rig_close(&r);
    }
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
    for (int sec = 0; sec < 50; sec++)
        rig_second(&r, "cart", sec, 40, 10, 0, 0, "");
    well(&r, 0, 13, 40);
    well(&r, 31, 50, 40);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "without one having failed"));
    rig_close(&r);
}

/* At a thousand calls a second, a stall of some milliseconds is no open breaker; nor is one of 300 ms. */
static void stalls(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 20, "\"hit\":[],\"readback\":{}");
    for (int sec = 0; sec < 32; sec++)
        rig_second(&r, "cart", sec, 1000, 10, 0, 0, "");
    for (int t = 0; t < 32000; t++) {
        bool hit = t >= 12000 && t < 20000;

        if (t % 1000 < 300 && t % 3000 < 1000) /* the load generator or the caller hangs */
            continue;
        rig_call(&r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = t,
                                   .outcome = hit ? 2 : 0,
                                   .status = hit ? 0 : 200,
                                   .dur_ms = hit ? 100 : 3,
                                   .fault = hit ? "f1" : NULL});
    }
    rig_end(&r, 33);
    EXPECT(&r, rig_check(&r, "circuit_breaker", "{\"step\":\"slow\",\"expect\":{\"opens_within\":5000000000}}"),
           "fail");
    assert_non_null(strstr(rig_why(&r, 0), "never opened"));
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "fail");
    rig_close(&r);
}

/* Each instance by itself: two good breakers pass, one bad one is named. */
static void per_instance(void **state)
{
    struct caller c = healthy;
    struct rig r;

    (void)state;
    build(&r, &c, 50);
    c.seed = 2;
    c.trip = 0;
    rig_caller(&r, EDGE, "checkout.1", &c);
    rig_call(&r, EDGE, "checkout.2", (struct rig_call){.t_ms = 20000, .status = 200, .dur_ms = 3});
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "pass");
    assert_int_equal(json_array_size(r.results), 3);
    assert_string_equal(rig_verdict(&r, 1), "fail");
    assert_string_equal(sq_json_str_or(json_array_get(r.results, 1), "subject", ""), "checkout.1");
    assert_string_equal(rig_verdict(&r, 2), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 2), "no call in steady state"));
    rig_close(&r);
}

/* A load that falls after the steady state is no silence of the caller's. */
static void ramping_load(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
    for (int sec = 0; sec < 42; sec++) /* from 20 s on next to no load */
        rig_second(&r, "cart", sec, sec < 20 ? 30 : 1, 10, 0, 0, "");
    for (int i = 0; i < 20 * 30 + 22; i++) {
        int t = i < 600 ? i * 1000 / 30 : 20000 + (i - 600) * 1000;
        bool hit = t >= 12000 && t < 30000;

        rig_call(&r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = t,
                                   .outcome = hit ? 2 : 0,
                                   .status = hit ? 0 : 200,
                                   .dur_ms = hit ? 300 : 3,
                                   .held_ms = hit ? 2000 : 0,
                                   .fault = hit ? "f1" : NULL});
    }
    rig_end(&r, 43);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "fail");
    assert_non_null(strstr(rig_why(&r, 0), "never opened"));
    rig_close(&r);
}

/* first: N: a breaker that wants more failures than that rightly stays closed. */
static void first_calls_only(void **state)
{
    static const struct {
        int first;
        const char *expect, *want;
    } cases[] = {{3, "\"opens_within\":5000000000", "inconclusive"},
                 {3, "\"opens_within\":5000000000,\"trip_calls\":5", "inconclusive"},
                 {20, "\"opens_within\":5000000000,\"trip_calls\":5", "fail"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        struct rig r;
        int n = 0;

        (void)snprintf(text, sizeof text,
                       "\"steps\":[{\"id\":\"slow\",\"uses\":\"call/http_status\",\"target\":{\"edge\":\"" EDGE
                       "\",\"first\":%d}}]",
                       cases[i].first);
        rig_open(&r, text);
        rig_steady(&r, 0, 10, true);
        (void)snprintf(text, sizeof text, "\"target\":{\"edge\":\"" EDGE "\",\"first\":%d},\"with\":{\"status\":503}",
                       cases[i].first);
        rig_fault(&r, "f1", "slow", "call/http_status", 10, 30, text);
        for (int t = 50; t < 40000; t += 40) {
            bool hit = t >= 10000 && n < cases[i].first;

            n += hit;
            rig_call(
                &r, EDGE, "checkout.0",
                (struct rig_call){
                    .t_ms = t, .outcome = hit, .status = hit ? 503 : 200, .dur_ms = 3, .fault = hit ? "f1" : NULL});
        }
        rig_end(&r, 43);
        (void)snprintf(text, sizeof text, "{\"step\":\"slow\",\"expect\":{%s}}", cases[i].expect);
        EXPECT(&r, rig_check(&r, "circuit_breaker", text), cases[i].want);
        rig_close(&r);
    }
}

static void step_that_never_ran(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, false);
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    rig_close(&r);
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "slow", "call/latency", 12, 30, "\"hit\":[],\"readback\":{}");
    EXPECT(&r, rig_check(&r, "circuit_breaker", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "no caller was seen"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(healthy_passes),
        cmocka_unit_test(healthy_variants_pass),
        cmocka_unit_test(pauses_and_stragglers_pass),
        cmocka_unit_test(half_back),
        cmocka_unit_test(stalls),
        cmocka_unit_test(no_breaker_fails),
        cmocka_unit_test(never_closes_fails),
        cmocka_unit_test(short_open_time_fails),
        cmocka_unit_test(many_trials_fail),
        cmocka_unit_test(late_opening_fails),
        cmocka_unit_test(stamps_do_not_miscount),
        cmocka_unit_test(little_load_is_inconclusive),
        cmocka_unit_test(short_fault_is_inconclusive),
        cmocka_unit_test(fault_without_effect_is_inconclusive),
        cmocka_unit_test(pool_without_breaker_fails),
        cmocka_unit_test(health_checks_are_no_trials),
        cmocka_unit_test(health_checks_hide_no_silence),
        cmocka_unit_test(health_checks_that_are_hit),
        cmocka_unit_test(standing_still_is_no_breaker),
        cmocka_unit_test(fault_that_ends_amid_trials),
        cmocka_unit_test(one_at_a_time_is_no_breaker),
        cmocka_unit_test(silent_in_steady_state),
        cmocka_unit_test(unused_connections_are_no_calls),
        cmocka_unit_test(other_silences),
        cmocka_unit_test(per_instance),
        cmocka_unit_test(ramping_load),
        cmocka_unit_test(step_that_never_ran),
        cmocka_unit_test(first_calls_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
