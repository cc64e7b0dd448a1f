/* failover: what users feel when instances die. */
#include "unit/verify_rig.h"

#define SPEC                                                                                                           \
    "\"services\":{\"shop\":{\"instances\":3}},"                                                                       \
    "\"steps\":[{\"id\":\"kill\",\"uses\":\"process/kill\",\"target\":{\"service\":\"shop\"}}]"

/* Steady from 0 to 20 s, killed at 20.5 s, load until END; BAD of PER_S a second fail in the LAST seconds after it. */
static void build(struct rig *r, unsigned per_s, unsigned bad, int last, unsigned always, int end)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "kill", "process/kill", 20.5, 50, "\"hit\":[{\"pid\":7,\"instance\":\"shop.0\"}]");
    for (int sec = 0; sec < end; sec++) {
        unsigned b = always && sec % 10 == 3 ? always : 0;

        b += sec >= 20 && sec < 20 + last ? bad : 0;
        rig_second(r, "cart", sec, per_s - b, 5, b, 20, "");
    }
}

static void judged(void **state)
{
    static const struct {
        unsigned per_s, bad;
        int last;
        unsigned always;
        int end;
        const char *params, *failed, *time;
    } cases[] = {
        {60, 0, 0, 0, 60, "\"within\":\"5s\"", "pass", "pass"},
        {60, 20, 1, 0, 60, "\"within\":\"5s\",\"max_failed\":30", "pass", "pass"},
        {60, 20, 2, 0, 60, "\"within\":\"5s\",\"max_failed\":30", "fail", "pass"},
        {60, 20, 8, 0, 60, "\"within\":\"5s\",\"max_failed\":30", "fail", "fail"},
        {60, 20, 8, 0, 60, "\"within\":\"7s\",\"max_failed\":200", "inconclusive", "inconclusive"}, /* 6.5 to 7.5 s */
        {60, 20, 30, 0, 60, "\"within\":\"5s\"", "fail", "fail"},
        {60, 60, 60, 0, 60, "\"within\":\"5s\"", "fail", "fail"},
        {60, 20, 60, 0, 24, "\"within\":\"5s\"", "fail", "inconclusive"},      /* the load ended too soon */
        {3, 0, 0, 0, 60, "\"within\":\"5s\"", "inconclusive", "inconclusive"}, /* 5 requests for the dead one */
        {60, 0, 0, 1, 60, "\"within\":\"5s\"", "inconclusive", "pass"},        /* the 4 failures are its own */
        {60, 0, 0, 1, 60, "\"within\":\"5s\",\"max_failed\":5", "pass", "pass"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[128];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"step\":\"kill\",%s}", cases[i].params);
        build(&r, cases[i].per_s, cases[i].bad, cases[i].last, cases[i].always, cases[i].end);
        rig_check(&r, "failover", params);
        assert_int_equal(json_array_size(r.results), 2);
        if (strcmp(rig_verdict(&r, 0), cases[i].failed) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].failed, rig_why(&r, 0));
        if (strcmp(rig_verdict(&r, 1), cases[i].time) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 1), cases[i].time, rig_why(&r, 1));
        assert_string_equal(sq_json_str_or(json_array_get(r.results, 0), "subject", ""), "shop");
        rig_close(&r);
    }
}

static void nothing(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 20, true);
    rig_second(&r, "cart", 0, 60, 5, 0, 0, "");
    EXPECT(&r, rig_check(&r, "failover", "{\"step\":\"kill\"}"), "inconclusive");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
