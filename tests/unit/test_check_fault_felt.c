/* fault_felt: bitten, not bitten, bitten otherwise than asked. */
#include "unit/verify_rig.h"

#define EDGE "a->b"
#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"%s\",\"target\":{\"edge\":\"" EDGE "\",\"percent\":100}}]"
#define PARAMS "{\"step\":\"s\",\"min_calls\":10,\"tolerance\":20}"

static void open_step(struct rig *r, const char *uses, const char *more)
{
    char spec[256];

    (void)snprintf(spec, sizeof spec, SPEC, uses);
    rig_open(r, spec);
    rig_steady(r, 0, 5, true);
    rig_fault(r, "f1", "s", uses, 10, 20, more);
}

#define LATENCY                                                                                                        \
    "\"target\":{\"edge\":\"" EDGE "\",\"percent\":100.0},\"with\":{\"delay\":2000000000,\"jitter\":200000000}"

/* N calls in the fault, each as C but for its time. */
static void calls(struct rig *r, int n, struct rig_call c)
{
    for (int i = 0; i < n; i++) {
        c.t_ms = 10200 + i * 9000 / (n ? n : 1);
        rig_call(r, EDGE, "a.0", c);
    }
}

static void latency(void **state)
{
    static const struct {
        int n, past;
        double held;
        int outcome;
        const char *want, *words;
    } cases[] = {
        {30, 0, 2000, 0, "pass", "was felt"},
        {30, 0, 2300, 0, "pass", ""},
        {30, 0, 1650, 0, "pass", ""},
        {30, 0, 1200, 0, "fail", "instead of"},
        {30, 0, 3000, 0, "fail", "instead of"},
        {30, 0, 2000, 2, "pass", "gave up while they were held"}, /* given up while held */
        {30, 0, 0, 2, "fail", "only 0 of them were harmed"},      /* marked, but not held */
        {9, 0, 2000, 0, "inconclusive", "only 9 calls"},
        {0, 0, 2000, 0, "inconclusive", "only 0 calls"},
        {30, 30, 2000, 0, "inconclusive", "bypasses the edge"},
        {30, 2, 2000, 0, "pass", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "call/latency", LATENCY);
        calls(&r, cases[i].n,
              (struct rig_call){.outcome = cases[i].outcome,
                                .status = cases[i].outcome ? 0 : 200,
                                .dur_ms = cases[i].outcome ? 300 : cases[i].held + 3,
                                .held_ms = cases[i].held,
                                .fault = "f1",
                                .answer_ms = 2});
        calls(&r, cases[i].past, (struct rig_call){.status = 200, .dur_ms = 3});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, rig_why(&r, 0), cases[i].words);
        rig_close(&r);
    }
}

/* A fault that counts is felt when it hit as many of the calls as it was to hit: no more, and no fewer. */
static void counting(void **state)
{
    static const struct {
        const char *target;
        int hit, past;
        const char *want, *words;
    } cases[] = {
        {"\"first\":3", 3, 40, "pass", "felt by 3 calls"},
        {"\"first\":3", 2, 40, "inconclusive", "only 2 calls, at least 3"},
        {"\"first\":3", 4, 40, "fail", "hit 4 of 44 calls of a.0, and was to hit 3: the first 3 of the calls"},
        {"\"first\":30", 20, 0, "pass", "felt by 20 calls"},
        {"\"first\":30", 20, 40, "fail", "hit 20 of 60 calls of a.0, and was to hit 30"},
        {"\"every\":2", 9, 9, "inconclusive", "at least 10"},
        {"\"every\":2", 20, 20, "pass", "felt by 20"},
        {"\"every\":2", 20, 22, "pass", "felt by 20"}, /* stamps are rounded */
        {"\"every\":2", 20, 40, "fail", "hit 20 of 60 calls of a.0, and was to hit 30: every 2nd call"},
        {"\"every\":2", 20, 3, "fail", "hit 20 of 23 calls of a.0, and was to hit 11"},
        {"\"every\":3,\"after\":10", 10, 30, "pass", "felt by 10"},
        {"\"every\":3,\"after\":10", 14, 26, "fail", "was to hit 10"},
        {"\"after\":5", 20, 5, "pass", "felt by 20"},
        {"\"after\":5", 20, 40, "fail", "hit 20 of 60 calls of a.0, and was to hit 55"},
        {"\"every\":2,\"percent\":40", 10, 60, "pass", "felt by 10"}, /* whom percent spares is not counted */
        {"\"every\":2,\"percent\":40", 40, 30, "fail", "hit 40 of 70 calls of a.0, and was to hit 35"},
        {"\"every\":2,\"match\":{\"path\":\"/x\"}", 10, 60, "pass", "felt by 10"},
        {"\"percent\":100", 20, 40, "inconclusive", "bypasses the edge"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char more[160];
        struct rig r;

        (void)snprintf(more, sizeof more, "\"target\":{\"edge\":\"" EDGE "\",%s}", cases[i].target);
        open_step(&r, "call/error", more);
        calls(&r, cases[i].hit, (struct rig_call){.kind = 1, .outcome = 1, .fault = "f1"});
        calls(&r, cases[i].past, (struct rig_call){.status = 200, .dur_ms = 3});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, rig_why(&r, 0), cases[i].words);
        rig_close(&r);
    }
}

/* A call that two faults hit is marked with one of them: which of those of another one were hit, too, can't be told. */
static void counting_beside(void **state)
{
    static const struct {
        int hit, other, past;
        const char *want, *words;
    } cases[] = {
        {12, 40, 28, "pass", "felt by 12"}, /* of 40, 28 are marked with the other one */
        {28, 40, 12, "pass", "felt by 28"}, /* or 12 */
        {43, 20, 17, "fail", "hit 43 of 80 calls of a.0, and was to hit 40"},
        {10, 5, 65, "fail", "hit 10 of 75 calls of a.0, and was to hit 32"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "call/error", "\"target\":{\"edge\":\"" EDGE "\",\"every\":2}");
        rig_fault(&r, "f2", "t", "call/error", 10, 20, "\"target\":{\"edge\":\"" EDGE "\",\"percent\":50}");
        calls(&r, cases[i].hit, (struct rig_call){.kind = 1, .outcome = 1, .fault = "f1"});
        calls(&r, cases[i].other, (struct rig_call){.kind = 1, .outcome = 1, .fault = "f2"});
        calls(&r, cases[i].past, (struct rig_call){.status = 200, .dur_ms = 3});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, rig_why(&r, 0), cases[i].words);
        rig_close(&r);
    }
}

/* Connections that no request is sent on (health checks) may have been counted or not: of those that were not it can't
 * be known. Where nothing but connections is seen each is a call. */
static void counting_connections(void **state)
{
    static const struct {
        int kind, hit, conns;
        const char *want;
    } cases[] = {
        {0, 20, 40, "pass"}, /* 40 requests, and 40 connections that were not counted */
        {0, 40, 40, "pass"}, /* or that were */
        {0, 45, 40, "fail"}, {0, 10, 40, "fail"}, {2, 40, 40, "pass"}, {2, 20, 40, "fail"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "call/error", "\"target\":{\"edge\":\"" EDGE "\",\"every\":2}");
        calls(&r, cases[i].hit, (struct rig_call){.kind = 1, .outcome = 1, .fault = "f1"});
        calls(&r, cases[i].kind ? 80 - cases[i].hit - cases[i].conns : 40 - (cases[i].hit > 20 ? 20 : cases[i].hit),
              (struct rig_call){.kind = cases[i].kind, .status = 200, .dur_ms = 3});
        calls(&r, cases[i].kind ? cases[i].conns : cases[i].conns - (cases[i].hit > 20 ? cases[i].hit - 20 : 0),
              (struct rig_call){.kind = 2, .dur_ms = 2});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        rig_close(&r);
    }
}

/* Each instance counts for itself; what was under way as the fault began, and what came as it ended, may count. */
static void counting_each(void **state)
{
    (void)state;
    for (int wrong = 0; wrong < 2; wrong++) {
        struct rig r;

        open_step(&r, "call/error", "\"target\":{\"edge\":\"" EDGE "\",\"every\":2}");
        for (int i = 0; i < 80; i++) {
            bool hit = wrong ? i < 40 : i % 4 < 2; /* in all, half of them */

            rig_call(
                &r, EDGE, i % 2 ? "a.1" : "a.0",
                (struct rig_call){.t_ms = 10200 + 100 * i, .dur_ms = 1, .outcome = hit, .fault = hit ? "f1" : NULL});
        }
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
        rig_close(&r);
        open_step(&r, "call/error", "\"target\":{\"edge\":\"" EDGE "\",\"every\":2}");
        for (int i = 0; i < 80; i++) {
            bool hit = wrong ? i % 2 : i % 4 < 2;

            rig_call(
                &r, EDGE, i % 2 ? "a.1" : "a.0",
                (struct rig_call){.t_ms = 10200 + 100 * i, .dur_ms = 1, .outcome = hit, .fault = hit ? "f1" : NULL});
        }
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), wrong ? "fail" : "pass");
        rig_close(&r);
        open_step(&r, "call/error", "\"target\":{\"edge\":\"" EDGE "\",\"every\":2}");
        calls(&r, 10, (struct rig_call){.outcome = 1, .dur_ms = 1, .fault = "f1"});
        calls(&r, 10, (struct rig_call){.status = 200, .dur_ms = 1});
        for (int i = 0; i < 10; i++) { /* no fewer than before it, and as it ended */
            rig_call(&r, EDGE, "a.0", (struct rig_call){.t_ms = wrong ? 9000 : 19970, .status = 200, .dur_ms = 990});
        }
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
        rig_close(&r);
    }
}

/* On a busy host taking back takes a while: calls that went through meanwhile bypassed nothing. */
static void while_it_ends(void **state)
{
    (void)state;
    for (int took = 0; took < 2; took++) {
        struct rig r;

        rig_open(&r, "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\",\"target\":{\"edge\":\"" EDGE "\"}}]");
        rig_fault(&r, "f1", "s", "call/error", 10, 0, "\"target\":{\"edge\":\"" EDGE "\",\"percent\":100}");
        for (int i = 0; i < 20; i++)
            rig_call(&r, EDGE, "a.0",
                     (struct rig_call){.t_ms = 11000 + 100 * i, .outcome = 1, .dur_ms = 1, .fault = "f1"});
        for (int i = 0; i < 5; i++)
            rig_call(&r, EDGE, "a.0", (struct rig_call){.t_ms = 19750 + 40 * i, .status = 200, .dur_ms = 3});
        rig_line(&r,
                 "{\"t\":20.0,\"type\":\"fault\",\"state\":\"reverted\",\"step\":\"s\",\"fault\":\"f1\",\"uses\":"
                 "\"call/error\",\"by\":\"request\",\"clean\":true,\"left\":[],\"took_ns\":%d}",
                 took ? 300000000 : 0);
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), took ? "pass" : "inconclusive");
        rig_close(&r);
    }
}

/* Callers give up long before the delay is over; the call that the fault's end lets go of is answered. */
static void cut_short(void **state)
{
    static const struct {
        int t_ms;
        double held;
        const char *want;
    } cases[] = {
        {19900, 80, "pass"},
        {9950, 10, "pass"}, /* began before it */
        {15000, 80, "fail"},
        {10500, 2000, "pass"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "call/latency", LATENCY);
        calls(&r, 30, (struct rig_call){.outcome = 2, .dur_ms = 200, .held_ms = 200, .fault = "f1"});
        rig_call(&r, EDGE, "a.0",
                 (struct rig_call){.t_ms = cases[i].t_ms,
                                   .status = 200,
                                   .dur_ms = cases[i].held + 5,
                                   .held_ms = cases[i].held,
                                   .fault = "f1"});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        rig_close(&r);
    }
}

/* A call that opens its connection waits twice where the connect is delayed too. */
static void connect_is_delayed_too(void **state)
{
    struct rig r;

    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        open_step(&r, "call/latency", LATENCY);
        rig_line(&r, "{\"t\":0.1,\"type\":\"edge\",\"edge\":\"" EDGE "\",\"mode\":\"bpf\",\"delays_connect\":%s}",
                 twice ? "true" : "false");
        calls(&r, 30, (struct rig_call){.status = 200, .dur_ms = 4003, .held_ms = 4000, .fault = "f1"});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), twice ? "pass" : "fail");
        rig_close(&r);
    }
}

static void percent_spares_some(void **state)
{
    struct rig r;

    (void)state;
    open_step(&r, "call/latency",
              "\"target\":{\"edge\":\"" EDGE "\",\"percent\":30.0},\"with\":{\"delay\":2000000000}");
    calls(&r, 30, (struct rig_call){.status = 200, .dur_ms = 2003, .held_ms = 2000, .fault = "f1"});
    calls(&r, 70, (struct rig_call){.status = 200, .dur_ms = 3});
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
    rig_close(&r);
}

static void errors_and_holes(void **state)
{
    struct rig r;

    (void)state;
    open_step(&r, "call/error", "\"with\":{\"errno\":111}");
    calls(&r, 30, (struct rig_call){.kind = 1, .outcome = 1, .fault = "f1"});
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
    rig_close(&r);
    open_step(&r, "call/error", "\"with\":{\"errno\":111}");
    calls(&r, 30, (struct rig_call){.status = 200, .dur_ms = 3, .fault = "f1"});
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "fail");
    rig_close(&r);
    open_step(&r, "call/blackhole", "");
    calls(&r, 30, (struct rig_call){.outcome = 2, .dur_ms = 300, .held_ms = 290, .fault = "f1"});
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
    rig_close(&r);
    open_step(&r, "call/blackhole", "");
    calls(&r, 30, (struct rig_call){.outcome = 5, .dur_ms = 9000, .fault = "f1"});
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
    rig_close(&r);
}

static void read_back(void **state)
{
    static const struct {
        const char *uses, *more, *want;
    } cases[] = {
        {"process/kill", "\"hit\":[{\"pid\":5}],\"readback\":{\"processes\":[{\"pid\":5,\"state\":\"gone\"}]}", "pass"},
        {"process/kill", "\"hit\":[{\"pid\":5}],\"readback\":{}", "inconclusive"},
        {"process/kill", "\"hit\":[{\"pid\":5,\"chosen\":false}],\"readback\":{\"x\":1}", "inconclusive"},
        {"network/latency",
         "\"hit\":[{\"interface\":\"eth0\"}],\"with\":{\"delay\":100000000,\"jitter\":0,\"loss\":1.0},"
         "\"readback\":{\"backend\":\"netem\",\"delay\":100000000,\"jitter\":0,\"loss\":1.0000001}",
         "pass"},
        {"network/latency",
         "\"hit\":[{\"interface\":\"eth0\"}],\"with\":{\"delay\":100000000},\"readback\":{\"delay\":50000000}", "fail"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, cases[i].uses, cases[i].more);
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        rig_close(&r);
    }
}

/* Network faults count packets themselves, and say so as they end. */
static void packets(void **state)
{
    static const struct {
        const char *end, *want, *words;
    } cases[] = {
        {"\"packets\":7,\"bytes\":420,\"intact\":true", "pass", "7 packets felt it"},
        {"\"packets\":7,\"bytes\":420", "pass", "7 packets felt it"}, /* impairments don't tell `intact` */
        {"\"packets\":0,\"bytes\":0,\"intact\":true", "inconclusive", "hit no packet"},
        {"\"packets\":7,\"bytes\":420,\"intact\":false", "inconclusive", "changed or removed by somebody else"},
        {"\"by\":\"request\"", "pass", "not counted"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "network/partition", "\"hit\":[{\"namespace\":\"x\"}],\"readback\":{\"backend\":\"nftables\"}");
        /* of another fault, and of this one's life: neither is the last word */
        rig_line(&r, "{\"t\":19,\"type\":\"fault\",\"fault\":\"f2\",\"state\":\"reverted\",\"packets\":99}");
        rig_line(&r, "{\"t\":19,\"type\":\"packets\",\"fault\":\"f1\",\"packets\":99}");
        rig_line(&r, "{\"t\":20.1,\"type\":\"fault\",\"fault\":\"f1\",\"state\":\"reverted\",%s}", cases[i].end);
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, rig_why(&r, 0), cases[i].words);
        rig_close(&r);
    }
}

static void not_applied(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"},{\"id\":\"t\",\"uses\":\"call/error\"}]");
    rig_line(&r, "{\"t\":3,\"type\":\"fault\",\"state\":\"failed\",\"step\":\"s\",\"uses\":\"call/"
                 "error\",\"error\":\"no BPF\"}");
    EXPECT(&r, rig_check(&r, "fault_felt", "{\"step\":\"*\"}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "no BPF"));
    assert_int_equal(json_array_size(r.results), 2);
    assert_non_null(strstr(rig_why(&r, 1), "before step t began"));
    rig_close(&r);
}

/* A control step passes when calls went through it and none felt anything. */
static void control(void **state)
{
    static const struct {
        int past, hit;
        const char *want;
    } cases[] = {{30, 0, "pass"}, {30, 1, "fail"}, {9, 0, "inconclusive"}, {0, 0, "inconclusive"}};
    static const char control_step[] = "\"with\":{\"delay\":2000000000,\"dose\":0.0}";
    struct rig r;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        open_step(&r, "call/latency", control_step);
        calls(&r, cases[i].past, (struct rig_call){.status = 200, .dur_ms = 3});
        calls(&r, cases[i].hit, (struct rig_call){.status = 200, .dur_ms = 2003, .held_ms = 2000, .fault = "f1"});
        EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), cases[i].want);
        rig_close(&r);
    }
    open_step(&r, "process/kill",
              "\"with\":{\"dose\":0.0},\"hit\":[{\"pid\":7,\"chosen\":true}],\"readback\":{\"signal\":\"none\"}");
    EXPECT(&r, rig_check(&r, "fault_felt", PARAMS), "pass");
    assert_non_null(strstr(rig_why(&r, 0), "a control step"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latency),
        cmocka_unit_test(cut_short),
        cmocka_unit_test(counting),
        cmocka_unit_test(counting_beside),
        cmocka_unit_test(counting_connections),
        cmocka_unit_test(counting_each),
        cmocka_unit_test(while_it_ends),
        cmocka_unit_test(connect_is_delayed_too),
        cmocka_unit_test(percent_spares_some),
        cmocka_unit_test(errors_and_holes),
        cmocka_unit_test(read_back),
        cmocka_unit_test(packets),
        cmocka_unit_test(not_applied),
        cmocka_unit_test(control),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
