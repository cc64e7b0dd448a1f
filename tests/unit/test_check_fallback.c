/* fallback: the share of requests that got the promised answer. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"}]"
#define PARAMS "{\"step\":\"s\",\"index\":4,\"min_share\":99}"

/* 10 seconds of the fault, PER_S requests each; BAD of them without an answer. */
static void build(struct rig *r, unsigned per_s, unsigned bad, unsigned match, unsigned forbid)
{
    rig_open(r, SPEC);
    rig_fault(r, "f1", "s", "call/error", 5, 15, "");
    for (int sec = 0; sec < 20; sec++) {
        bool on = sec >= 5 && sec < 15;
        char m[160];

        (void)snprintf(m, sizeof m,
                       "\"m\":{\"4\":{\"n\":%u,\"match\":%u,\"forbid\":%u},\"1\":{\"n\":9,\"match\":0,\"forbid\":9}}",
                       per_s - (on ? bad : 0), on ? match : 0, on ? forbid : 0);
        rig_second(r, "cart", sec, per_s - (on ? bad : 0), 5, on ? bad : 0, 3000, m);
    }
}

static void judged(void **state)
{
    static const struct {
        unsigned per_s, bad, match, forbid;
        const char *want;
    } cases[] = {
        {60, 0, 60, 0, "pass"}, {60, 1, 59, 0, "inconclusive"}, {60, 3, 57, 0, "fail"},         {60, 0, 60, 1, "fail"},
        {60, 0, 0, 0, "fail"},  {3, 0, 3, 0, "inconclusive"},   {60, 60, 0, 0, "inconclusive"}, {3, 0, 0, 0, "fail"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        build(&r, cases[i].per_s, cases[i].bad, cases[i].match, cases[i].forbid);
        EXPECT(&r, rig_check(&r, "fallback", PARAMS), cases[i].want);
        assert_int_equal(sq_json_int_or(json_array_get(r.results, 0), "n", 0), cases[i].per_s * 10);
        rig_close(&r);
    }
}

static void edges(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 3, 0, 3, 0);
    EXPECT(&r, rig_check(&r, "fallback", PARAMS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "about 299"));
    EXPECT(&r, rig_check(&r, "fallback", "{\"step\":\"s\",\"index\":4,\"min_share\":100}"), "pass"); /* all 30 of 30 */
    EXPECT(&r, rig_check(&r, "fallback", "{\"step\":\"s\",\"index\":1,\"min_share\":50}"), "fail"); /* forbidden ones */
    EXPECT(&r, rig_check(&r, "fallback", "{\"step\":\"s\",\"index\":7,\"min_share\":50}"),
           "inconclusive"); /* not looked at */
    EXPECT(&r, rig_check(&r, "fallback", "{\"step\":\"s\",\"endpoint\":\"other\",\"index\":4}"), "inconclusive");
    rig_close(&r);
    build(&r, 60, 0, 60, 0);
    rig_line(&r, "{\"t\":41,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    EXPECT(&r, rig_check(&r, "fallback", PARAMS), "inconclusive");
    rig_close(&r);
    rig_open(&r, SPEC);
    EXPECT(&r, rig_check(&r, "fallback", PARAMS), "inconclusive");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(edges)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
