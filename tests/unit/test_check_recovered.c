/* recovered: back soon, late, never, or not to be known. */
#include "unit/verify_rig.h"

#define EDGE "a->b"
#define SPEC                                                                                                           \
    "\"steady_state\":{\"for\":1,\"thresholds\":[{\"metric\":\"p\",\"p\":95,\"op\":\"<\",\"value\":100000000},"        \
    "{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]},"                                                          \
    "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"" EDGE                                  \
    "\"}},{\"id\":\"t\",\"uses\":\"x/y\"}]"
#define PARAMS "{\"after\":\"s\",\"within\":10000000000,\"hold\":5000000000}"

struct story {
    int well_at;   /* second from which users are well again; the fault ends at 20.5 */
    int calls_at;  /* second from which the edge's calls are back */
    int load_to;   /* second at which the load ends */
    unsigned load; /* requests a second after the fault */
    double slow_ms;
    unsigned bad;
};

static void build(struct rig *r, const struct story *s)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "call/latency", 10, 20.5, "");
    for (int sec = 0; sec < s->load_to; sec++) {
        bool ill = sec >= 10 && sec < s->well_at;
        unsigned n = sec > 20 ? s->load : 60, bad = ill ? s->bad : 0;

        rig_second(r, "cart", sec, n - bad, ill ? s->slow_ms : 10, bad, 3000, "");
        for (int i = 0; i < 30 && (sec < 10 || sec >= s->calls_at); i++)
            rig_call(r, EDGE, "a.0", (struct rig_call){.t_ms = sec * 1000 + i * 30, .status = 200, .dur_ms = 3});
    }
    rig_end(r, s->load_to + 1);
}

static void judged(void **state)
{
    static const struct {
        struct story s;
        const char *want, *words;
    } cases[] = {
        {{20, 20, 40, 60, 500, 0}, "pass", "0.5 s after the fault"},
        {{25, 20, 40, 60, 500, 0}, "pass", "4.5 s after the fault"},
        {{30, 20, 40, 60, 500, 0}, "pass", "9.5 s"},
        {{31, 20, 40, 60, 500, 0}, "fail", "p95"},
        {{99, 20, 36, 60, 500, 0}, "fail", "p95"},        /* the load went on for just long enough */
        {{99, 20, 40, 60, 10, 3}, "fail", "error rate"},  /* stays sick */
        {{20, 99, 40, 60, 500, 0}, "fail", "calls/s on"}, /* users are well, but nothing is called any more */
        {{20, 24, 40, 60, 500, 0}, "pass", ""},
        {{99, 20, 30, 60, 500, 0}, "inconclusive", "settle"},
        {{20, 20, 23, 60, 500, 0}, "inconclusive", "settle"},
        {{20, 20, 40, 10, 500, 0}, "inconclusive", "load did not go on"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        build(&r, &cases[i].s);
        EXPECT(&r, rig_check(&r, "recovered", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, rig_why(&r, 0), cases[i].words);
        rig_close(&r);
    }
}

/* Well for less than `hold`, again and again, is not well. */
static void flapping(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "s", "call/latency", 10, 20.5, "");
    for (int sec = 0; sec < 60; sec++)
        rig_second(&r, "cart", sec, 60, sec >= 10 && sec % 4 == 0 ? 900 : 10, 0, 0, "");
    EXPECT(&r, rig_check(&r, "recovered", "{\"after\":\"s\",\"within\":20000000000,\"hold\":5000000000}"), "fail");
    EXPECT(&r, rig_check(&r, "recovered", "{\"after\":\"s\",\"within\":20000000000,\"hold\":3000000000}"), "pass");
    rig_close(&r);
}

static void worthless(void **state)
{
    const struct story well = {20, 20, 40, 60, 500, 0};
    struct rig r;

    (void)state;
    build(&r, &well); /* the next fault is too near */
    rig_fault(&r, "f2", "t", "x/y", 23, 30, "");
    EXPECT(&r, rig_check(&r, "recovered", PARAMS), "inconclusive");
    rig_close(&r);
    build(&r, &well);
    rig_line(&r, "{\"t\":41,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    EXPECT(&r, rig_check(&r, "recovered", PARAMS), "inconclusive");
    rig_close(&r);
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    EXPECT(&r, rig_check(&r, "recovered", PARAMS), "inconclusive");
    rig_close(&r);
    rig_open(&r, SPEC); /* never taken back */
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "s", "call/latency", 10, 0, "");
    for (int sec = 0; sec < 60; sec++)
        rig_second(&r, "cart", sec, 60, 10, 0, 0, "");
    EXPECT(&r, rig_check(&r, "recovered", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "not taken back"));
    rig_close(&r);
}

/* A handful of requests that go well, or badly, shows nothing. */
static void too_little_load(void **state)
{
    struct rig r;

    (void)state;
    for (int sick = 0; sick <= 1; sick++) {
        rig_open(&r, SPEC);
        rig_steady(&r, 0, 10, true);
        rig_fault(&r, "f1", "s", "call/latency", 10, 20.5, "");
        for (int sec = 0; sec < 40; sec++)
            rig_second(&r, "cart", sec, 3, sick && sec > 10 ? 500 : 10, 0, 0, "");
        rig_end(&r, 41);
        EXPECT(&r, rig_check(&r, "recovered", PARAMS), "inconclusive");
        assert_non_null(strstr(rig_why(&r, 0), "too little load"));
        rig_close(&r);
    }
}

static void own_thresholds(void **state)
{
    const struct story slow = {99, 20, 40, 60, 500, 0};
    struct rig r;

    (void)state;
    build(&r, &slow);
    EXPECT(&r,
           rig_check(&r, "recovered",
                     "{\"after\":\"s\",\"within\":10000000000,\"hold\":5000000000,\"endpoint\":\"cart\",\"thresholds\":"
                     "[{\"metric\":\"p\",\"p\":95,\"op\":\"<\",\"value\":1000000000},"
                     "{\"metric\":\"sent_rate\",\"op\":\">=\",\"value\":59}]}"),
           "pass");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(flapping),
                                       cmocka_unit_test(worthless), cmocka_unit_test(too_little_load),
                                       cmocka_unit_test(own_thresholds)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
