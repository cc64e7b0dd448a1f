/* slo: passes, fails, or says how much it lacks. */
#include "unit/verify_rig.h"

#define SPEC                                                                                                           \
    "\"steps\":[{\"id\":\"one\",\"uses\":\"call/latency\"},{\"id\":\"rest\",\"wait\":1},{\"id\":\"two\","              \
    "\"uses\":\"process/kill\"}]"
#define P95(ms) "{\"metric\":\"p\",\"p\":95,\"op\":\"<\",\"value\":" #ms "000000}"
#define ERRORS(percent) "{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":" #percent "}"

/* 10 s calm, 10 s fault "one" [10.3, 20.4), 5 s calm, 10 s fault "two" [25, 35). PER_S requests a second of 20 ms; in
 * the faults BAD of them fail after BAD_MS. */
static void build(struct rig *r, unsigned per_s, unsigned bad, double bad_ms)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "one", "call/latency", 10.3, 20.4, "");
    rig_fault(r, "f2", "two", "process/kill", 25, 35, "");
    for (int sec = 0; sec < 40; sec++) {
        bool on = (sec >= 11 && sec < 20) || (sec >= 25 && sec < 35);

        rig_second(r, "cart", sec, per_s - (on ? bad : 0), 20, on ? bad : 0, bad_ms, "");
    }
    rig_end(r, 41);
}

static void percentiles(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 60, 0, 0);
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "pass");
    json_t *o = json_array_get(r.results, 0);
    assert_int_equal(sq_json_int_or(o, "n", 0), 9 * 60); /* whole seconds only */
    assert_true(json_number_value(json_array_get(json_object_get(o, "window"), 0)) == 11.0);
    assert_true(json_number_value(json_array_get(json_object_get(o, "window"), 1)) == 20.0);
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(10) "]}"), "fail");
    rig_close(&r);
    build(&r, 60, 6, 900); /* a tenth takes 0.9 s */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "fail");
    rig_close(&r);
    build(&r, 60, 3, 900); /* one in twenty: on the limit itself */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    rig_close(&r);
    build(&r, 60, 4, 900); /* a little over it: may still be chance */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    rig_close(&r);
    build(&r, 3, 0, 0); /* 27 requests: p95 needs 59 */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "about 59"));
    rig_close(&r);
}

static void failures_are_not_fast(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 60, 60, 1); /* all fail at once */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "540 of 540 failed"));
    rig_close(&r);
    build(&r, 60, 4, 1); /* a little over one in twenty */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    rig_close(&r);
    build(&r, 60, 1, 1); /* one in sixty: p95 is theirs who were served */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "pass");
    rig_close(&r);
}

static void error_rates(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 400, 0, 0); /* 3,600 without an error prove less than 0.1 % */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" ERRORS(0.1) "]}"), "pass");
    rig_close(&r);
    build(&r, 60, 0, 0); /* 540 don't */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" ERRORS(0.1) "]}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "about 2995"));
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" ERRORS(1) "]}"), "pass");
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"confidence\":99.9,\"thresholds\":[" ERRORS(1) "]}"),
           "inconclusive");
    EXPECT(&r,
           rig_check(&r, "slo",
                     "{\"step\":\"one\",\"thresholds\":[{\"metric\":\"error_rate\",\"op\":\"<=\",\"value\":0}]}"),
           "pass");
    rig_close(&r);
    build(&r, 60, 1, 20);
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" ERRORS(0.1) "]}"), "fail");
    EXPECT(&r,
           rig_check(&r, "slo",
                     "{\"step\":\"one\",\"thresholds\":[{\"metric\":\"error_rate\",\"op\":\"<=\",\"value\":0}]}"),
           "fail");
    rig_close(&r);
}

static void pooled_and_rates(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 200, 0, 0); /* neither window alone has 2,995 requests */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" ERRORS(0.1) "]}"), "inconclusive");
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"*\",\"thresholds\":[" ERRORS(0.1) "]}"), "pass");
    assert_int_equal(sq_json_int_or(json_array_get(r.results, 0), "n", 0), 19 * 200);
    const char *rate =
        "{\"step\":\"*\",\"thresholds\":[{\"metric\":\"sent_rate\",\"op\":\">=\",\"value\":199}," P95(500) "]}";
    EXPECT(&r, rig_check(&r, "slo", rate), "pass");
    assert_int_equal(json_array_size(r.results), 2);
    EXPECT(&r, rig_check(&r, "slo", "{\"thresholds\":[{\"metric\":\"sent_rate\",\"op\":\">=\",\"value\":201}]}"),
           "fail");
    rig_close(&r);
}

static void each_endpoint(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 60, 0, 0);
    rig_close(&r);
    rig_open(&r, SPEC);
    rig_fault(&r, "f1", "one", "call/latency", 10, 20, "");
    for (int sec = 0; sec < 30; sec++) {
        rig_second(&r, "good", sec, 100, 20, 0, 0, "");
        rig_second(&r, "ill", sec, 20, 900, 0, 0, "");
    }
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "pass");
    assert_string_equal(rig_verdict(&r, 1), "fail"); /* a pool of both would hide it at p80 */
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"endpoint\":\"ill\",\"thresholds\":[" P95(500) "]}"), "fail");
    EXPECT(&r, rig_check(&r, "slo", "{\"thresholds\":[{\"metric\":\"sent_rate\",\"op\":\">=\",\"value\":115}]}"),
           "pass");
    assert_int_equal(json_array_size(r.results), 1); /* the rate is all endpoints' together */
    EXPECT(&r, rig_check(&r, "slo", "{\"endpoint\":\"absent\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    rig_close(&r);
}

static void worthless(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 60, 6, 900);
    rig_line(&r, "{\"t\":41,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"3 %% late\"}");
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "3 % late"));
    rig_close(&r);
    rig_open(&r, SPEC);
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"*\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "]}"), "inconclusive");
    json_t *p = json_pack("{s:s,s:[{s:s}]}", "step", "one", "thresholds", "metric", "mood");
    json_t *res = json_array();
    struct sq_err e = {0};
    assert_int_equal(sq_check_find("slo")->run(r.ev, p, res, &e), -EINVAL);
    json_decref(p);
    json_decref(res);
    rig_close(&r);
}

/* A closed loop waits with the server: whatever it measured, it decides nothing. */
static void closed_loop(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC ",\"load\":{\"cart\":{\"executor\":\"constant-connections\"}}");
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "one", "call/latency", 10.3, 20.4, "");
    for (int sec = 0; sec < 25; sec++)
        rig_second(&r, "cart", sec, 400, 20, 0, 0, "");
    rig_end(&r, 26);
    EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"one\",\"thresholds\":[" P95(500) "," ERRORS(1) "]}"), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "closed loop"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles),      cmocka_unit_test(failures_are_not_fast), cmocka_unit_test(error_rates),
        cmocka_unit_test(pooled_and_rates), cmocka_unit_test(each_endpoint),         cmocka_unit_test(worthless),
        cmocka_unit_test(closed_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
