/* performance_budget: what an endpoint may cost, and what happens when it costs more. */
#include "unit/verify_rig.h"

#define STEPS "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\"}]"
#define BUDGETS(inside) STEPS ",\"budgets\":{\"cart\":{" inside "}}"
#define CLOSED(inside) "\"load\":{\"cart\":{\"executor\":\"constant-connections\"}}," BUDGETS(inside)
#define NONE ""

/* 30 s of steady state, then 30 s in which the fault is on: 50/s of 20 ms, BAD of them fail after 300 ms. */
static void build_with(struct rig *r, const char *spec, unsigned bad, const char *record)
{
    rig_open(r, spec);
    if (record[0])
        rig_line(r, "%s", record);
    rig_steady(r, 0, 30, true);
    rig_fault(r, "f1", "s", "call/latency", 30, 60, "");
    for (int sec = 0; sec < 60; sec++)
        rig_second(r, "cart", sec, 50 - (sec < 30 ? 0 : bad), 20, sec < 30 ? 0 : bad, 300, "");
    rig_end(r, 61);
}

/* The interval rule: 1500 requests of 20 ms; with 10 of 50 slow ones p95 is the slow mode. */
static void measures(void **state)
{
    static const struct {
        const char *spec, *params;
        unsigned bad;
        const char *want;
    } cases[] = {
        {BUDGETS("\"latency_p95\":25000000"), "{}", 10, "pass"}, /* the steady state is judged */
        {BUDGETS("\"latency_p95\":25000000"), "{\"window\":\"s\"}", 10, "fail"},
        {BUDGETS("\"latency_p95\":310000000"), "{\"window\":\"s\"}", 10, "pass"},
        {BUDGETS("\"latency_p95\":15000000"), "{}", 0, "fail"},
        {BUDGETS("\"latency_p99.9\":25000000"), "{}", 0, "inconclusive"}, /* that takes 2995 requests */
        {BUDGETS("\"latency_p99.9\":25000000"), "{\"window\":\"load\"}", 0, "pass"},
        {BUDGETS("\"latency_p95\":25000000"), "{\"window\":\"s\",\"confidence\":99}", 2, "inconclusive"}, /* 4 % */
        {BUDGETS("\"latency_p95\":25000000"), "{\"window\":\"s\",\"confidence\":99}", 3, "inconclusive"}, /* 6 % */
        {BUDGETS("\"throughput_min\":50.0"), "{}", 0, "pass"},
        {BUDGETS("\"throughput_min\":50.5"), "{}", 0, "inconclusive"}, /* nobody asked for so many */
        {BUDGETS("\"throughput_min\":45.0"), "{\"window\":\"s\"}", 10, "fail"},
        {BUDGETS("\"throughput_min\":40.0"), "{\"window\":\"s\"}", 10, "pass"},
        {BUDGETS("\"error_rate_max\":0.1"), "{}", 0, "inconclusive"}, /* none of 1500: at most 0.2 % */
        {BUDGETS("\"error_rate_max\":0.2"), "{}", 0, "pass"},         /* 1 - 0.05^(1/1500) = 0.1995 % */
        {BUDGETS("\"error_rate_max\":15"), "{\"window\":\"s\"}", 10, "fail"},
        {BUDGETS("\"error_rate_max\":25"), "{\"window\":\"s\"}", 10, "pass"},
        {CLOSED("\"latency_p95\":25000000"), "{}", 0, "inconclusive"},
        {CLOSED("\"error_rate_max\":25"), "{}", 0, "inconclusive"},
        {CLOSED("\"throughput_min\":50.0"), "{}", 0, "pass"}, /* how much it can do is what it shows */
        {BUDGETS("\"error_rate_max\":20.5"), "{\"window\":\"s\"}", 10, "inconclusive"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        build_with(&r, cases[i].spec, cases[i].bad, NONE);
        EXPECT(&r, rig_check(&r, "performance_budget", cases[i].params), cases[i].want);
        assert_int_equal(json_array_size(r.results), 1);
        rig_close(&r);
    }
}

/* Exceeded by far; what that means is the budget's own. */
static void exceeded(void **state)
{
#define OVER(action) BUDGETS("\"latency_p95\":15000000,\"on_budget_exceed\":\"" action "\"")
#define ACCEPT(metric, until)                                                                                          \
    "{\"accept\":[{\"metric\":\"" metric "\",\"reason\":\"cold cache\",\"by\":\"ana\",\"until\":\"" until "\"}]}"
    static const char approval[] =
        "{\"t\":0.1,\"type\":\"approval\",\"by\":\"li\",\"reason\":\"sale\",\"until\":\"the end of this run\"}";
    static const struct {
        const char *spec, *params, *record, *want, *says;
    } cases[] = {
        {OVER("block"), "{}", NONE, "fail", "p95 is 20"},
        {OVER("block"), "{}", approval, "fail", "p95 is 20"}, /* block is not to be talked out of */
        {OVER("block"), ACCEPT("latency_p95", "2026-12-31"), NONE, "fail", "p95 is 20"},
        {OVER("notify"), "{}", NONE, "pass", "to be notified only: p95 is 20"},
        {OVER("require_approval"), "{}", NONE, "fail", "nobody approved it"},
        {OVER("require_approval"), "{}", approval, "pass", "approved by li (until the end of this run): sale"},
        {OVER("require_approval"), ACCEPT("latency_p95", "2026-12-31"), NONE, "pass", "approved by ana"},
        {OVER("require_approval"), ACCEPT("p95", "2026-01-01"), NONE, "pass", "approved by ana"}, /* its last day */
        {OVER("require_approval"), ACCEPT("latency_p95", "2025-12-31"), NONE, "fail", "ended on 2025-12-31"},
        {OVER("require_approval"), ACCEPT("latency_p99", "2026-12-31"), NONE, "fail", "nobody approved it"},
        {OVER("require_approval"),
         "{\"accept\":[{\"metric\":\"p95\",\"endpoint\":\"other\",\"reason\":\"r\",\"by\":\"b\",\"until\":\"2027-01-"
         "01\"}]}",
         NONE, "fail", "nobody approved it"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        build_with(&r, cases[i].spec, 0, cases[i].record);
        EXPECT(&r, rig_check(&r, "performance_budget", cases[i].params), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].says))
            fail_msg("case %zu says: %s", i, rig_why(&r, 0));
        assert_non_null(json_object_get(json_array_get(r.results, 0), "on_budget_exceed"));
        assert_int_equal(json_object_get(json_array_get(r.results, 0), "approved") != NULL,
                         strstr(cases[i].says, "approved by") != NULL);
        rig_close(&r);
    }
}

/* A budget that is not exceeded needs nobody, and an approval proves nothing. */
static void undecided(void **state)
{
    struct rig r;

    (void)state;
    build_with(&r, BUDGETS("\"latency_p99.9\":25000000,\"on_budget_exceed\":\"require_approval\""), 0,
               "{\"t\":0.1,\"type\":\"approval\",\"by\":\"li\",\"reason\":\"sale\",\"until\":\"u\"}");
    EXPECT(&r, rig_check(&r, "performance_budget", "{}"), "inconclusive");
    assert_null(json_object_get(json_array_get(r.results, 0), "approved"));
    EXPECT(&r, rig_check(&r, "performance_budget", "{\"window\":\"nosuch\"}"), "inconclusive");
    EXPECT(&r, rig_check(&r, "performance_budget", "{\"endpoint\":\"other\"}"), "inconclusive");
    rig_close(&r);

    rig_open(&r, STEPS ",\"budgets\":{\"cart\":{\"latency_p50\":25000000},\"pay\":{\"latency_p50\":25000000}}");
    rig_steady(&r, 0, 30, true);
    for (int sec = 0; sec < 30; sec++)
        rig_second(&r, "cart", sec, 50, 20, 0, 0, "");
    rig_line(&r, "{\"t\":31,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    rig_end(&r, 31);
    EXPECT(&r, rig_check(&r, "performance_budget", "{}"), "inconclusive");
    assert_int_equal(json_array_size(r.results), 2); /* pay was never asked */
    assert_string_equal(rig_verdict(&r, 1), "inconclusive");
    rig_close(&r);
}

/* A load without a steady state (squall probe), until 60 s: the last answers are waited for in a second of none. Users
 * who all wait send nothing more, and that is what the server does then. */
static void throughput_of_a_load(void **state)
{
    static const struct {
        int busy, slow; /* seconds until the last request; between two */
        const char *least, *want;
    } cases[] = {
        {60, 1, "50", "pass"}, {60, 1, "50.1", "inconclusive"},  {40, 1, "34", "inconclusive"},
        {40, 1, "33", "pass"}, {60, 20, "2.51", "inconclusive"}, {60, 20, "2.5", "pass"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;
        char spec[256];

        (void)snprintf(spec, sizeof spec, CLOSED("\"throughput_min\":%s"), cases[i].least);
        rig_open(&r, spec);
        rig_line(&r, "{\"t\":0,\"type\":\"phase\",\"phase\":\"wait\",\"state\":\"begin\",\"step\":\"load\"}");
        for (int sec = 0; sec < 62; sec++)
            rig_second(&r, "cart", sec, sec < cases[i].busy && sec % cases[i].slow == 0 ? 50 : 0, 20, 0, 0, "");
        rig_line(&r, "{\"t\":60,\"type\":\"phase\",\"phase\":\"wait\",\"state\":\"end\",\"step\":\"load\"}");
        rig_end(&r, 62);
        EXPECT(&r, rig_check(&r, "performance_budget", "{}"), cases[i].want);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(measures), cmocka_unit_test(exceeded),
                                       cmocka_unit_test(undecided), cmocka_unit_test(throughput_of_a_load)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
