/* The schedule is exact: counts, moments, and no drift. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "probe/schedule.h"
#include "squall/units.h"

static int make(struct sq_schedule *s, const char *json, struct sq_err *e)
{
    json_t *o = json_loads(json, 0, NULL);
    int rc;

    assert_non_null(o);
    memset(e, 0, sizeof *e);
    rc = sq_schedule_init(s, o, "e", e);
    json_decref(o);
    return rc;
}

static void must(struct sq_schedule *s, const char *json)
{
    struct sq_err e;

    assert_int_equal(make(s, json, &e), 0);
}

/* How many are planned before `ns`. */
static uint64_t count_before(struct sq_schedule *s, int64_t ns)
{
    uint64_t n = 0;

    while (sq_schedule_next(s) < ns)
        n++;
    return n;
}

static void test_constant(void **state)
{
    struct sq_schedule s;

    (void)state;
    must(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":60.0}");
    assert_int_equal(sq_schedule_next(&s), 0);
    assert_int_equal(sq_schedule_next(&s), 16666667);
    assert_int_equal(count_before(&s, 10 * SQ_S), 600 - 2);
    must(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":0.5}");
    assert_int_equal(sq_schedule_next(&s), 0);
    assert_int_equal(sq_schedule_next(&s), 2 * SQ_S);
    must(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":1000}");
    s.next = 86400 * UINT64_C(1000) * 30; /* after a month: not a nanosecond of drift */
    assert_int_equal(sq_schedule_next(&s), 30 * 86400 * SQ_S);
    must(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":3.0}");
    s.next = 3 * UINT64_C(86400) * 30;
    assert_int_equal(sq_schedule_next(&s), 30 * 86400 * SQ_S);
}

static void test_ramp(void **state)
{
    struct sq_schedule s;
    int64_t last = -1, at;

    (void)state;
    /* 10/s -> 100/s in 10 s: 550; then 100/s for 5 s: 500; then down to 20/s in 4 s: 240; then 20/s for ever. */
    const char *text =
        "{\"executor\":\"ramping-arrival-rate\",\"start\":10,\"stages\":[{\"for\":10000000000,\"to\":100},"
        "{\"for\":5000000000,\"to\":100},{\"for\":4000000000,\"to\":20}]}";
    must(&s, text);
    assert_int_equal(count_before(&s, 10 * SQ_S), 550);
    must(&s, text);
    assert_int_equal(count_before(&s, 15 * SQ_S), 1050);
    must(&s, text);
    assert_int_equal(count_before(&s, 19 * SQ_S), 1290);
    must(&s, text);
    assert_int_equal(count_before(&s, 29 * SQ_S), 1490);
    must(&s, text);
    for (int i = 0; i < 1490; i++) {
        at = sq_schedule_next(&s);
        assert_true(at > last);
        last = at;
    }
    /* The i-th is where the integral is i: 10 t + 4.5 t^2 = 100 at t = 3.73203... */
    must(&s, text);
    s.next = 100;
    at = sq_schedule_next(&s);
    assert_true(fabs((double)at / 1e9 - (-10 + sqrt(100 + 18 * 100.0)) / 9) < 2e-9);
}

static void test_ramp_from_rest_and_to_rest(void **state)
{
    struct sq_schedule s;

    (void)state;
    must(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":0,\"stages\":[{\"for\":10000000000,\"to\":10}]}");
    assert_int_equal(sq_schedule_next(&s), 0);
    assert_true(llabs(sq_schedule_next(&s) - 1414213562) <= 1); /* t^2/2 = 1 */
    must(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":10,\"stages\":[{\"for\":10000000000,\"to\":0}]}");
    assert_int_equal(count_before(&s, 10 * SQ_S), 50); /* the one at 10 s itself is taken from it, too */
    assert_true(sq_schedule_next(&s) == INT64_MAX);
    /* A step without a slope, and a stage of no length that is a jump. */
    must(&s,
         "{\"executor\":\"ramping-arrival-rate\",\"start\":10,\"stages\":[{\"for\":1000000000,\"to\":10},{\"for\":0,"
         "\"to\":50},{\"for\":1000000000,\"to\":50}]}");
    assert_int_equal(count_before(&s, 2 * SQ_S), 60);
}

/* 1000/m for 3 s and 0.2/s for 5 s: what falls a billionth of a nanosecond before the end, as doubles are, is not sent
 * at the end. The stage behind has it, once. */
static void test_at_the_end_of_a_stage(void **state)
{
    struct sq_schedule s;

    (void)state;
    must(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":16.6666666666667,\"stages\":[{\"for\":3000000000,"
             "\"to\":16.6666666666667},{\"for\":0,\"to\":0}]}");
    assert_int_equal(count_before(&s, 3 * SQ_S), 50);
    assert_true(sq_schedule_next(&s) == INT64_MAX);
    must(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":0.2,\"stages\":[{\"for\":5000000000,\"to\":0.2},"
             "{\"for\":0,\"to\":0}]}");
    assert_int_equal(sq_schedule_next(&s), 0);
    assert_true(sq_schedule_next(&s) == INT64_MAX);
    must(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":0.2,\"stages\":[{\"for\":5000000000,\"to\":0.2},"
             "{\"for\":0,\"to\":1}]}");
    assert_int_equal(sq_schedule_next(&s), 0);
    assert_int_equal(sq_schedule_next(&s), 5 * SQ_S);
    assert_int_equal(sq_schedule_next(&s), 6 * SQ_S);
}

static void test_refused(void **state)
{
    struct sq_schedule s;
    struct sq_err e;

    (void)state;
    assert_true(make(&s, "{\"executor\":\"constant-vus\",\"rate\":1}", &e) < 0);
    assert_non_null(strstr(e.msg, "constant-vus"));
    assert_int_equal(e.cls, SQ_C_INPUT);
    assert_true(make(&s, "{\"executor\":\"constant-arrival-rate\"}", &e) < 0);
    assert_true(make(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":0}", &e) < 0);
    assert_true(make(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":-1}", &e) < 0);
    assert_true(make(&s, "{\"executor\":\"constant-arrival-rate\",\"rate\":1e9}", &e) < 0);
    assert_true(make(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":1,\"stages\":[]}", &e) < 0);
    assert_true(make(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":1,\"stages\":[{\"for\":-5,\"to\":1}]}", &e) <
                0);
    assert_true(make(&s, "{\"executor\":\"ramping-arrival-rate\",\"start\":1,\"stages\":[3]}", &e) < 0);
}

/* The same seed gives the same moments, another one others; the gaps are exponential: as many of each length as there
 * should be, within five standard deviations (once in two million seeds, and the seed is fixed). */
static void test_poisson(void **state)
{
    static struct sq_schedule a, b, c;
    const int n = 100000;
    const char *spec = "{\"executor\":\"constant-arrival-rate\",\"rate\":1000,\"arrivals\":\"poisson\"}";
    int64_t last = 0, t = 0;
    int over[4] = {0}, differ = 0;

    (void)state;
    must(&a, spec);
    must(&b, spec);
    must(&c, spec);
    sq_schedule_seed(&a, 7);
    sq_schedule_seed(&b, 7);
    sq_schedule_seed(&c, 8);
    for (int i = 0; i < n; i++) {
        t = sq_schedule_next(&a);
        assert_true(t >= last);
        assert_int_equal(sq_schedule_next(&b), t);
        differ += sq_schedule_next(&c) != t;
        for (int k = 0; k < 4; k++)
            over[k] += t - last > k * SQ_MS;
        last = t;
    }
    assert_true(differ > n / 2);
    for (int k = 1; k < 4; k++) {
        double share = exp(-k), sd = sqrt(n * share * (1 - share));

        assert_true(fabs(over[k] - n * share) < 5 * sd);
    }
    /* The sum of n gaps: mean n ms, deviation sqrt(n) ms. */
    assert_true(fabs((double)t / 1e6 - n) < 5 * sqrt(n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_poisson),
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_ramp),
        cmocka_unit_test(test_ramp_from_rest_and_to_rest),
        cmocka_unit_test(test_at_the_end_of_a_stage),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
