/* budget: what a step spent of an error budget, and how fast it burnt. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"},{\"id\":\"w\",\"wait\":1}]"

/* 100 s of load at PER_S; the fault is on from 20 to 50 s, BAD requests a second fail during it. */
static void build(struct rig *r, unsigned per_s, unsigned bad)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/error", 20, 50, "");
    for (int sec = 0; sec < 100; sec++) {
        unsigned b = sec >= 20 && sec < 50 ? bad : 0;

        rig_second(r, "cart", sec, per_s - b, 5, b, 20, "");
    }
}

/* Fractions of Python, without the code under test: budget = (1 - 0.999) * 60/s * 1 d = 5184 bad requests; 30 s with 2
 * bad a second are 60, so 60 / 5184 = 1.1574 %; the sample is 80 s * 60/s = 4800. */
static void spend(void **state)
{
    static const struct {
        unsigned per_s, bad;
        const char *params, *want, *observed;
    } cases[] = {
        {60, 2, "\"max_spend\":1.5", "pass", "1.16 % spent (60 bad requests of 4800)"},
        {60, 2, "\"max_spend\":1.2", "inconclusive", "1.16 % spent (60 bad requests of 4800)"},
        {60, 2, "\"max_spend\":0.9", "fail", "1.16 % spent (60 bad requests of 4800)"},
        {60, 0, "\"max_spend\":0.2", "pass", "0 % spent (0 bad requests of 4800)"},
        {3, 0, "\"max_spend\":0.2", "inconclusive", "0 % spent (0 bad requests of 240)"},
        {1, 0, "\"max_spend\":99", "inconclusive", "0 % spent (0 bad requests of 80)"}, /* min_requests */
        {1, 0, "\"max_spend\":99,\"min_requests\":80", "pass", "0 % spent (0 bad requests of 80)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[200];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"step\":\"s\",\"target\":99.9,\"window\":\"1d\",%s}", cases[i].params);
        build(&r, cases[i].per_s, cases[i].bad);
        EXPECT(&r, rig_check(&r, "budget", params), cases[i].want);
        assert_string_equal(sq_json_str_or(json_array_get(r.results, 0), "observed", ""), cases[i].observed);
        rig_close(&r);
    }
}

/* 3 of 60 a second fail: 5 % over 0.1 % allowed is a burn rate of 50 in any stretch inside the fault. */
static void burn(void **state)
{
    static const struct {
        unsigned per_s, bad;
        const char *params, *want;
    } cases[] = {
        {60, 3, "\"burn_rate\":14.4,\"for\":\"20s\"", "fail"},
        {60, 3, "\"burn_rate\":50,\"for\":\"20s\"", "inconclusive"},
        {60, 3, "\"burn_rate\":80,\"for\":\"20s\"", "pass"},
        {60, 0, "\"burn_rate\":14.4,\"for\":\"20s\"", "pass"},
        {60, 60, "\"burn_rate\":14.4,\"for\":\"20s\"", "fail"},
        {3, 0, "\"burn_rate\":14.4,\"for\":\"20s\"", "inconclusive"},  /* 60 requests a stretch */
        {60, 0, "\"burn_rate\":14.4,\"for\":\"90s\"", "inconclusive"}, /* no stretch is that long */
        {60, 1, "\"burn_rate\":5,\"for\":\"5s\"", "inconclusive"}, /* 6.6 is the lower bound of one look, not of 76 */
        {60, 1, "\"burn_rate\":14.4,\"for\":\"5s\"", "inconclusive"}, /* 5 of 300: burn 16.7, by how much? */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[200];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"step\":\"*\",\"target\":\"99.9%%\",%s}", cases[i].params);
        build(&r, cases[i].per_s, cases[i].bad);
        EXPECT(&r, rig_check(&r, "budget", params), cases[i].want);
        rig_close(&r);
    }
}

/* The worst stretch is the one that is named. */
static void worst(void **state)
{
    struct rig r;
    double at;

    (void)state;
    build(&r, 60, 10);
    EXPECT(&r, rig_check(&r, "budget", "{\"target\":99.9,\"burn_rate\":14.4,\"for\":\"10s\"}"), "fail");
    at = json_number_value(json_array_get(json_object_get(json_array_get(r.results, 0), "window"), 0));
    assert_true(at >= 20 && at <= 40);
    assert_non_null(strstr(rig_why(&r, 0), "167 times"));
    rig_close(&r);
}

/* The load ends within a second: the last stretch has fewer requests for that, which is no want of them. */
static void torn_second(void **state)
{
    static const struct {
        int thin; /* a second with 10 requests */
        const char *want;
    } cases[] = {{39, "pass"}, {38, "inconclusive"}, {25, "inconclusive"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        rig_open(&r, SPEC);
        rig_fault(&r, "f1", "s", "call/error", 20, 30, "");
        for (int sec = 0; sec < 40; sec++)
            rig_second(&r, "cart", sec, sec == cases[i].thin ? 10 : 60, 5, 0, 0, "");
        EXPECT(&r, rig_check(&r, "budget", "{\"target\":99,\"burn_rate\":20,\"for\":\"2s\"}"), cases[i].want);
        rig_close(&r);
    }
    /* nor are few requests enough because there is but one stretch */
    struct rig r;
    rig_open(&r, SPEC);
    rig_fault(&r, "f1", "s", "call/error", 20, 30, "");
    for (int sec = 0; sec < 40; sec++)
        rig_second(&r, "cart", sec, 4, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "budget", "{\"target\":99,\"burn_rate\":20,\"for\":\"20s\"}"), "inconclusive");
    rig_close(&r);
}

static void nothing(void **state)
{
    struct sq_err e = {0};
    struct rig r;
    json_t *p;

    (void)state;
    rig_open(&r, "\"load\":{\"cart\":{\"executor\":\"constant-connections\"}}," SPEC);
    rig_fault(&r, "f1", "s", "call/error", 20, 30, "");
    for (int sec = 0; sec < 40; sec++)
        rig_second(&r, "cart", sec, 60, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "budget", "{\"target\":99.9,\"burn_rate\":1000,\"for\":\"10s\"}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "closed loop"));
    rig_close(&r);

    rig_open(&r, SPEC);
    rig_second(&r, "cart", 0, 60, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "budget", "{\"step\":\"s\",\"target\":99.9,\"max_spend\":1}"), "inconclusive");
    p = json_pack("{s:f}", "target", 99.9); /* neither max_spend nor burn_rate */
    assert_int_equal(sq_check_find("budget")->run(r.ev, p, r.results, &e), -EINVAL);
    json_decref(p);
    rig_close(&r);

    build(&r, 60, 0);
    rig_line(&r, "{\"t\":101,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    EXPECT(&r, rig_check(&r, "budget", "{\"step\":\"s\",\"target\":99.9,\"max_spend\":99}"), "inconclusive");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(spend), cmocka_unit_test(burn), cmocka_unit_test(worst),
                                       cmocka_unit_test(torn_second), cmocka_unit_test(nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
