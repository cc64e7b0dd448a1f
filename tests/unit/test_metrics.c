/* The page for Prometheus: what is escaped, and that nothing breaks it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "metrics.h"

static char *page(const char *edges)
{
    json_t *e = json_loads(edges, 0, NULL), *p = json_pack("{s:b,s:I}", "up", 1, "open", (json_int_t)7);
    char *text;

    assert_non_null(e);
    text = sq_metrics_of(e, p);
    json_decref(e);
    json_decref(p);
    assert_non_null(text);
    return text;
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void escaped(void **state)
{
    char *text = page(
        "[{\"run\":\"r1\",\"edge\":\"a\\\"\\\\\\n}b\",\"bypassed\":3,\"instances\":[{\"instance\":\"\u00e9.0\","
        "\"connects\":9223372036854775807,\"outcomes\":{\"answered\":2},\"durations\":{\"le\":[[0.5,1]],\"count\":2,"
        "\"sum_ns\":1500000000}}],\"faults\":[{\"fault\":\"f1\",\"uses\":\"call/error\",\"hits\":4}]}]");

    (void)state;
    has(text, "\nsquall_edge_bypassed_total{run=\"r1\",edge=\"a\\\"\\\\\\n}b\"} 3\n");
    has(text, "edge=\"a\\\"\\\\\\n}b\",instance=\"\xc3\xa9.0\"} 9223372036854775807\n");
    has(text, ",outcome=\"answered\"} 2\n");
    has(text, ",le=\"0.5\"} 1\n");
    has(text, ",le=\"+Inf\"} 2\n");
    has(text, "} 1.500000000\n");
    has(text, ",fault=\"f1\",uses=\"call/error\"} 4\n");
    has(text, "\nsquall_proxy_connections_open 7\n");
    free(text);
}

/* Without a run, and with members that are not there, it is still a page. */
static void empty(void **state)
{
    char *text = page("[]");

    (void)state;
    has(text, "squall_build_info{version=");
    has(text, "\nsquall_proxy_up 1\n");
    assert_null(strstr(text, "squall_calls_total{"));
    free(text);
    text = page("[{},{\"instances\":[{}],\"faults\":[{}]}]");
    has(text, "squall_connects_total{run=\"\",edge=\"\",instance=\"\"} 0\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(escaped), cmocka_unit_test(empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
