/* timeout: callers that give up in time, late, or never. */
#include "unit/verify_rig.h"

#define EDGE "checkout->payments"
#define SPEC                                                                                                           \
    "\"load\":{\"cart\":{\"request\":{\"timeout\":3000000000}}},"                                                      \
    "\"steps\":[{\"id\":\"s\",\"uses\":\"%s\",\"target\":{\"edge\":\"" EDGE "\",\"percent\":100}}]"
#define PARAMS "{\"step\":\"s\",\"edge\":\"" EDGE "\",\"max\":300000000,\"grace\":50000000}"

static void open_step(struct rig *r, const char *uses, const char *with)
{
    char spec[512];

    (void)snprintf(spec, sizeof spec, SPEC, uses);
    rig_open(r, spec);
    rig_steady(r, 0, 5, true);
    rig_fault(r, "f1", "s", uses, 10, 20, with);
}

#define LATENCY "\"with\":{\"delay\":2000000000,\"jitter\":100000000}"

static void calls(struct rig *r, int n, double dur, int outcome)
{
    static int at;

    for (int i = 0; i < n; i++)
        rig_call(
            r, EDGE, "c.0",
            (struct rig_call){
                .t_ms = 10100 + at++ * 37 % 7000, .outcome = outcome, .dur_ms = dur, .held_ms = 2000, .fault = "f1"});
}

/* Users: N a second, SLOW of them after SLOW_MS. */
static void users(struct rig *r, unsigned n, unsigned slow, double slow_ms)
{
    for (int sec = 0; sec < 20; sec++)
        rig_second(r, "cart", sec, n - (sec >= 10 ? slow : 0), 5, sec >= 10 ? slow : 0, slow_ms, "");
}

static void judged(void **state)
{
    static const struct {
        int good, late, awful; /* given up after 301 ms, 400 ms; answered after 2 s */
        const char *want;
    } cases[] = {
        {20, 0, 0, "pass"},        {200, 1, 0, "pass"},        {4, 0, 0, "inconclusive"},
        {0, 0, 0, "inconclusive"}, {20, 1, 0, "inconclusive"}, {18, 4, 0, "fail"},
        {0, 20, 0, "fail"},        {200, 0, 1, "fail"},        {0, 0, 20, "fail"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_step(&r, "call/latency", LATENCY);
        calls(&r, cases[i].good, 301, 2);
        calls(&r, cases[i].late, 400, 2);
        calls(&r, cases[i].awful, 2003, 0);
        calls(&r, 30, 3, 0); /* answered early: neither */
        EXPECT(&r, rig_check(&r, "timeout", PARAMS), cases[i].want);
        rig_close(&r);
    }
}

/* Calls that stay open although the caller has stopped waiting: the users know. */
static void abandoned(void **state)
{
    struct rig r;

    (void)state;
    open_step(&r, "call/latency", LATENCY);
    calls(&r, 40, 2003, 0);
    users(&r, 60, 4, 305);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "pass");
    assert_non_null(strstr(rig_why(&r, 0), "without closing"));
    rig_close(&r);
    open_step(&r, "call/latency", LATENCY); /* they waited as long as the calls */
    calls(&r, 40, 2003, 0);
    users(&r, 60, 4, 2005);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
    open_step(&r, "call/latency", "\"with\":{\"delay\":5000000000}"); /* as long as their own patience, rather */
    calls(&r, 40, 5003, 0);
    users(&r, 60, 4, 3000);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
    open_step(&r, "call/latency", "\"with\":{\"delay\":3000000000}"); /* given up, but late: not abandoned */
    calls(&r, 40, 2003, 2);
    calls(&r, 2, 360, 2);
    users(&r, 60, 4, 2010);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
    open_step(&r, "call/latency", LATENCY); /* a probe that was late itself is no witness */
    calls(&r, 40, 2003, 0);
    users(&r, 60, 4, 305);
    rig_line(&r, "{\"t\":41,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
}

static void other_faults(void **state)
{
    struct rig r;

    (void)state;
    open_step(&r, "call/blackhole", "");
    calls(&r, 20, 320, 2);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "pass");
    rig_close(&r);
    open_step(&r, "call/blackhole", ""); /* hung until the fault's end */
    calls(&r, 20, 6000, 0);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
    open_step(&r, "call/latency", "\"with\":{\"delay\":400000000,\"jitter\":100000000}"); /* too weak */
    calls(&r, 20, 403, 0);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "inconclusive");
    rig_close(&r);
    open_step(&r, "call/error", "\"with\":{\"errno\":111}");
    calls(&r, 20, 1, 1);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "inconclusive");
    rig_close(&r);
    open_step(&r, "call/latency", LATENCY); /* whole connections tell nothing */
    rig_call(&r, EDGE, "c.0",
             (struct rig_call){.t_ms = 11000, .kind = 2, .dur_ms = 8000, .held_ms = 2000, .fault = "f1"});
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "not HTTP"));
    rig_close(&r);
    rig_open(&r, "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\"}]");
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "inconclusive");
    rig_close(&r);
}

/* A datagram's caller that waits no longer says so to nobody: only its users can. */
static void datagrams(void **state)
{
    struct rig r;

    (void)state;
    for (int witnessed = 0; witnessed < 2; witnessed++) {
        rig_open(&r, "\"load\":{\"cart\":{\"request\":{\"timeout\":3000000000}}},"
                     "\"edges\":{\"" EDGE "\":{\"from\":\"checkout\",\"protocol\":\"udp\"}},"
                     "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"" EDGE "\"}}]");
        rig_steady(&r, 0, 5, true);
        rig_fault(&r, "f1", "s", "call/latency", 10, 20, LATENCY);
        calls(&r, 40, 2003, 0);
        if (witnessed)
            users(&r, 20, 5, 300);
        EXPECT(&r, rig_check(&r, "timeout", PARAMS), witnessed ? "pass" : "inconclusive");
        assert_non_null(strstr(rig_why(&r, 0), witnessed ? "stops waiting" : "datagrams"));
        rig_close(&r);
    }
}

static void http_delay(void **state)
{
    struct rig r;

    (void)state;
    open_step(&r, "call/http_delay", "\"with\":{\"delay\":2000000000,\"jitter\":0}");
    calls(&r, 20, 320, 2);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "pass");
    rig_close(&r);
    open_step(&r, "call/http_delay", "\"with\":{\"delay\":2000000000,\"jitter\":0}");
    calls(&r, 20, 2003, 0);
    EXPECT(&r, rig_check(&r, "timeout", PARAMS), "fail");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(abandoned),
                                       cmocka_unit_test(other_faults), cmocka_unit_test(datagrams),
                                       cmocka_unit_test(http_delay)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
