/* runbook: what its records say about each of its steps. */
#include "unit/verify_rig.h"

#define PARAMS "{\"file\":\"payments.md\",\"level\":\"drilled\"}"

static void judged(void **state)
{
    static const struct {
        const char *level, *steps, *want, *why;
    } cases[] = {
        {"drilled", "{\"id\":\"a\",\"ok\":true,\"took_ns\":5,\"within_ns\":9},{\"id\":\"b\",\"ok\":true}", "pass",
         "all 2 steps"},
        {"drilled", "{\"id\":\"a\",\"ok\":true},{\"id\":\"b\",\"ok\":false,\"why\":\"exit 1\"}", "fail", "exit 1"},
        {"drilled", "{\"id\":\"a\",\"ok\":true,\"took_ns\":2000000000,\"within_ns\":1000000000}", "fail",
         "step a took 2 s"},
        {"drilled", "{\"id\":\"a\"}", "fail", "step a"},
        {"drilled", "", "inconclusive", "none of its steps"},
        {"lint", "{\"id\":\"a\",\"ok\":true}", "inconclusive", "not tried at level drilled"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        rig_open(&r, "\"steps\":[]");
        rig_line(&r, "{\"t\":5,\"type\":\"runbook\",\"file\":\"payments.md\",\"level\":\"%s\",\"steps\":[%s]}",
                 cases[i].level, cases[i].steps);
        rig_line(&r, "{\"t\":6,\"type\":\"runbook\",\"file\":\"other.md\",\"level\":\"drilled\",\"steps\":[{}]}");
        EXPECT(&r, rig_check(&r, "runbook", PARAMS), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].why))
            fail_msg("\"%s\" does not say \"%s\"", rig_why(&r, 0), cases[i].why);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
