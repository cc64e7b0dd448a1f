/* What a Prometheus answers, and what it must not be taken for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "run/promql.h"

#define OK(type, result) "{\"status\":\"success\",\"data\":{\"resultType\":\"" type "\",\"result\":" result "}}"

static void instant(void **state)
{
    static const struct {
        const char *body;
        double value;     /* when says is NULL */
        const char *says; /* the error */
    } cases[] = {
        {OK("vector", "[{\"metric\":{},\"value\":[1763713200.123,\"42.5\"]}]"), 42.5, NULL},
        {OK("scalar", "[1763713200.123,\"0\"]"), 0, NULL},
        {OK("vector", "[{\"metric\":{\"job\":\"x\"},\"value\":[1,\"1e3\"]}]"), 1000, NULL},
        {OK("vector", "[]"), 0, "no series"},
        {OK("vector", "[{\"value\":[1,\"1\"]},{\"value\":[1,\"2\"]}]"), 0, "2 series, sum()"},
        {OK("vector", "[{\"value\":[1,\"NaN\"]}]"), 0, "NaN"},
        {OK("vector", "[{\"value\":[1,\"+Inf\"]}]"), 0, "+Inf"},
        {OK("vector", "[{\"value\":[1,\"12x\"]}]"), 0, "12x"},
        {OK("vector", "[{\"value\":[1,12]}]"), 0, "no number"},
        {OK("vector", "[{}]"), 0, "no number"},
        {OK("vector", "{}"), 0, "no series"},
        {OK("matrix", "[]"), 0, "gives a matrix"},
        {OK("string", "[1,\"x\"]"), 0, "gives a string"},
        {"{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error: x\"}", 0, "parse error: x"},
        {"{\"status\":\"error\",\"errorType\":\"timeout\"}", 0, "refused the query: timeout"},
        {"{\"status\":\"success\"}", 0, "not that of a Prometheus"},
        {"<html>", 0, "not that of a Prometheus"},
        {"[]", 0, "not that of a Prometheus"},
        {"", 0, "not that of a Prometheus"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sq_err e = {0};
        double v = -1;
        int rc = sq_promql_value(cases[i].body, strlen(cases[i].body), &v, &e);

        if (!cases[i].says) {
            assert_int_equal(rc, 0);
            assert_true(v == cases[i].value);
        } else if (rc != -EINVAL || !strstr(e.msg, cases[i].says)) {
            fail_msg("%s: %d %s", cases[i].body, rc, e.msg);
        }
    }
}

static void range(void **state)
{
    static const char good[] =
        OK("matrix", "[{\"metric\":{},\"values\":[[100,\"1\"],[160,\"NaN\"],[220,\"3.5\"],[\"x\"],7]}]");
    static const char two[] = OK("matrix", "[{\"values\":[]},{\"values\":[]}]");
    static const char *const wrong[] = {OK("vector", "[]"), two, "{}", ""};
    struct sq_err e = {0};
    json_t *points = NULL;

    (void)state;
    assert_int_equal(sq_promql_range(good, strlen(good), &points, &e), 0);
    assert_int_equal(json_array_size(points), 2);
    assert_true(json_number_value(json_array_get(json_array_get(points, 1), 0)) == 220);
    assert_true(json_number_value(json_array_get(json_array_get(points, 1), 1)) == 3.5);
    json_decref(points);
    assert_int_equal(sq_promql_range(OK("matrix", "[]"), strlen(OK("matrix", "[]")), &points, &e), 0);
    assert_int_equal(json_array_size(points), 0);
    json_decref(points);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        points = NULL;
        assert_int_equal(sq_promql_range(wrong[i], strlen(wrong[i]), &points, &e), -EINVAL);
        assert_null(points);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(instant), cmocka_unit_test(range)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
