/* Parameters of network faults: what combines, presets, limits, what is said back. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/dist.h"
#include "net/impair.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static const struct sq_param params[] = {SQ_IMPAIR_DELAY(0), SQ_IMPAIR_LOSS(0), SQ_IMPAIR_REST, SQ_PARAM_END};

/* As a person writes it; durations and percentages with their units (sq_spec_check). */
static int impair(const char *json, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *with = NULL, *normal = NULL;
    int r;

    memset(im, 0, sizeof *im);
    assert_int_equal(sq_json_parse(json, strlen(json), &with, e), 0);
    r = sq_spec_check("network", params, with, &normal, NULL, NULL, e);
    return r < 0 ? r : sq_impair_read(normal, im, e);
}

static void combinations(void **state)
{
    static const struct {
        const char *with, *message; /* NULL: fine */
    } all[] = {
        {"{}", "nothing to do"},
        {"{\"delay\":\"0\"}", "nothing to do"},
        {"{\"loss\":\"0%\",\"limit\":7}", "nothing to do"},
        {"{\"delay\":\"1h\"}", NULL},
        {"{\"delay\":\"61m\"}", "at most 1h"},
        {"{\"jitter\":\"5ms\"}", NULL},
        {"{\"delay\":\"5ms\",\"jitter\":\"50ms\"}", NULL},
        {"{\"delay\":\"5ms\",\"correlation\":\"1%\"}", "give a \"jitter\""},
        {"{\"delay\":\"5ms\",\"distribution\":\"normal\"}", "give a \"jitter\""},
        {"{\"delay\":\"5ms\",\"distribution\":\"uniform\"}", NULL},
        {"{\"delay\":\"5ms\",\"jitter\":\"1ms\",\"distribution\":\"gauss\"}", "can't be \"gauss\""},
        {"{\"delay\":\"5ms\",\"jitter\":\"1ms\",\"distribution\":\"file:x\"}", "no absolute path"},
        {"{\"delay\":\"5ms\",\"jitter\":\"1ms\",\"distribution\":\"file:/dev/zero\"}", "no regular file"},
        {"{\"distribution\":\"hlog:/nowhere\"}", "No such file"},
        {"{\"distribution\":\"run:/nowhere#x\"}", "/nowhere/evidence.jsonl"},
        {"{\"loss\":\"1%\",\"loss_gemodel\":{\"p\":\"1%\"}}", "only one of"},
        {"{\"loss_state\":{\"p13\":\"1%\"},\"loss_gemodel\":{\"p\":\"1%\"}}", "only one of"},
        {"{\"loss_state\":{}}", "\"p13\" is missing"},
        {"{\"loss_gemodel\":{\"p\":\"1%\",\"1-g\":\"1%\"}}", "unknown key"},
        {"{\"loss_gemodel\":{\"p\":\"101%\"}}", "percentage"},
        {"{\"loss_gemodel\":{\"p\":\"1%\"},\"loss_correlation\":\"1%\"}", "needs a \"loss\""},
        {"{\"delay\":\"1ms\",\"ecn\":true}", "marks what would be lost"},
        {"{\"loss_state\":{\"p13\":\"1%\"},\"ecn\":true}", NULL},
        {"{\"delay\":\"1ms\",\"duplicate_correlation\":\"1%\"}", "needs a \"duplicate\""},
        {"{\"delay\":\"1ms\",\"corrupt_correlation\":\"1%\"}", "needs a \"corrupt\""},
        {"{\"reorder\":\"1%\",\"loss\":\"1%\"}", "give a \"delay\""},
        {"{\"delay\":\"1ms\",\"gap\":5}", "\"gap\" needs"},
        {"{\"delay\":\"1ms\",\"reorder\":\"1%\",\"gap\":-1}", "\"gap\" must be"},
        {"{\"delay\":\"1ms\",\"reorder\":\"1%\",\"gap\":5}", NULL},
        {"{\"rate\":\"10mbit\"}", NULL},
        {"{\"rate\":\"10 mbit\"}", "not a bandwidth"},
        {"{\"rate\":\"1e9\"}", "not a bandwidth"},
        {"{\"rate\":\"-5mbit\"}", "not a bandwidth"},
        {"{\"rate\":\"inf\"}", "not a bandwidth"},
        {"{\"rate\":\"\"}", "not a bandwidth"},
        {"{\"rate\":\"1bit\"}", "8bit to"},
        {"{\"rate\":\"999999999tbit\"}", "8bit to"},
        {"{\"rate\":\"1mbit\",\"packet_overhead\":-19}", NULL},
        {"{\"rate\":\"1mbit\",\"packet_overhead\":-20}", "\"packet_overhead\" must be"},
        {"{\"delay\":\"1ms\",\"packet_overhead\":4}", "count for a \"rate\""},
        {"{\"rate\":\"1mbit\",\"cell_overhead\":5}", "needs a \"cell_size\""},
        {"{\"rate\":\"1mbit\",\"cell_size\":48,\"cell_overhead\":-48}", "leave something"},
        {"{\"rate\":\"1mbit\",\"cell_size\":48,\"cell_overhead\":-47}", NULL},
        {"{\"slot\":{\"min\":\"1ms\"}}", NULL},
        {"{\"slot\":{\"packets\":1}}", "needs the time"},
        {"{\"slot\":{\"min\":\"2ms\",\"max\":\"1ms\"}}", "max is less"},
        {"{\"slot\":{\"min\":\"2ms\",\"jitter\":\"1ms\"}}", "either min and max"},
        {"{\"slot\":{\"delay\":\"2ms\",\"distribution\":\"normal\"}}", "needs a jitter"},
        {"{\"slot\":{\"delay\":\"2ms\",\"jitter\":\"1ms\",\"distribution\":\"normal\",\"bytes\":-1}}",
         "\"bytes\" must"},
        {"{\"delay\":\"1ms\",\"limit\":4194305}", "\"limit\" must be"},
        {"{\"preset\":\"3h\"}", "no preset \"3h\""},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++) {
        struct sq_impair im;
        struct sq_err e = {0};
        int r = impair(all[i].with, &im, &e);

        if ((r == 0) != (all[i].message == NULL) || (r < 0 && !strstr(e.msg, all[i].message)))
            fail_msg("%s: %d %s", all[i].with, r, e.msg);
        if (r < 0 && sq_exit_of(&e) != SQ_USAGE)
            fail_msg("%s: class %d", all[i].with, (int)e.cls);
        sq_impair_clear(&im);
    }
}

/* iproute2's lib/utils_math.c, tested against tc in test_netem, too. */
static void rates(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } all[] = {
        {"8", 1},
        {"8bit", 1},
        {"1kbit", 125},
        {"1kibit", 128},
        {"1.5Mbit", 187500},
        {"1gbit", 125000000},
        {"40gbit", 5000000000},
        {"1tbit", 125000000000},
        {"1bps", 1},
        {"1kbps", 1000},
        {"1kibps", 1024},
        {"1mibps", 1048576},
        {"9", 1},
        {"56kbit", 7000},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++) {
        struct sq_impair im;
        char with[64];

        (void)snprintf(with, sizeof with, "{\"rate\":\"%s\"}", all[i].text);
        assert_int_equal(impair(with, &im, NULL), 0);
        assert_int_equal(im.rate, all[i].bytes);
        sq_impair_clear(&im);
    }
}

static void presets(void **state)
{
    size_t n;
    const struct sq_preset *all = sq_presets(&n);
    struct sq_impair im;
    struct sq_err e = {0};

    (void)state;
    assert_true(n >= 20);
    for (size_t i = 0; i < n; i++) {
        char with[128];

        (void)snprintf(with, sizeof with, "{\"preset\":\"%s\"}", all[i].name);
        if (impair(with, &im, &e) < 0)
            fail_msg("%s: %s", all[i].name, e.msg);
        assert_true(strlen(all[i].source) >= 5 && strlen(all[i].doc) >= 10);
        sq_impair_clear(&im);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(all[i].name, all[j].name);
    }
    /* Overridden by what is beside it, also by nothing. */
    assert_int_equal(impair("{\"preset\":\"lossy-wifi\",\"loss\":\"0%\",\"delay\":\"1ms\"}", &im, &e), 0);
    assert_int_equal(im.loss_model, SQ_LOSS_NONE);
    assert_int_equal(im.delay, SQ_MS);
    assert_int_equal(im.jitter, 5 * SQ_MS);
    assert_int_equal(im.dist, SQ_DIST_PARETONORMAL);
    sq_impair_clear(&im);
    assert_int_equal(impair("{\"preset\":\"congested-wifi\",\"loss_gemodel\":{\"p\":\"1%\"}}", &im, &e), 0);
    assert_int_equal(im.loss_model, SQ_LOSS_GEMODEL);
    assert_true(im.loss_corr == 0);
    sq_impair_clear(&im);
    assert_int_equal(impair("{\"preset\":\"cross-region eu-us\"}", &im, &e), 0);
    assert_int_equal(im.delay, 45 * SQ_MS);
    sq_impair_clear(&im);
    assert_int_equal(impair("{\"preset\":\"satelite\"}", &im, &e), -EINVAL);
    assert_non_null(strstr(e.hint, "satellite"));
}

static void limits(void **state)
{
    const struct {
        struct sq_impair im;
        uint32_t least;
    } all[] = {
        {{.delay = SQ_MS}, 1000},
        {{.delay = SQ_S}, 833334}, /* 10 Gbit/s of 1500 bytes */
        {{.delay = 100 * SQ_MS, .jitter = 100 * SQ_MS}, 416667},
        {{.delay = 100 * SQ_S}, SQ_IMPAIR_LIMIT_MAX},
        {{.rate = 125000, .delay = SQ_S}, 1954},      /* 1 Mbit/s of 64 bytes */
        {{.rate = 125000000, .delay = SQ_S}, 833334}, /* not more than without */
        {{.slot = true, .slot_max = SQ_S}, 833334},
        {{.slot = true, .slot_delay = SQ_S, .slot_jitter = SQ_S / 4}, 1666667},
        {{.delay = SQ_S, .limit = 3}, 3},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        assert_int_equal(sq_impair_limit(&all[i].im), all[i].least);
}

/* What is said back names all that is on, and nothing else. */
static void as_json(void **state)
{
    cleanup_json json_t *o = NULL, *m = NULL;
    struct sq_impair im;

    (void)state;
    assert_int_equal(
        impair("{\"delay\":\"100ms\",\"loss_gemodel\":{\"p\":\"1%\",\"r\":\"10%\"},\"rate\":\"1mbit\"}", &im, NULL), 0);
    o = sq_impair_json(&im);
    m = json_pack("{s:I,s:{s:f,s:f,s:f,s:f},s:I,s:I}", "delay", (json_int_t)100000000, "loss_gemodel", "p", 1.0, "r",
                  10.0, "1-h", 100.0, "1-k", 0.0, "rate", (json_int_t)125000, "limit", (json_int_t)1000);
    assert_true(json_equal(o, m));
    sq_impair_clear(&im);
}

/* hlog: and run: give delay and jitter where these are not given. */
static void recordings(void **state)
{
    char dir[] = "/tmp/sqt-impair-XXXXXX", with[4200], here[4096];
    struct sq_impair im;
    struct sq_err e = {0};

    (void)state;
    assert_non_null(realpath("tests/golden/latency.hlog", here));
    (void)snprintf(with, sizeof with, "{\"distribution\":\"hlog:%s#us\"}", here);
    assert_int_equal(impair(with, &im, &e), 0);
    assert_true(fabs((double)im.delay / 3623116 - 1) < 0.001);
    assert_true(im.jitter > 0 && im.table && im.table->n == SQ_DIST_POINTS);
    sq_impair_clear(&im);
    (void)snprintf(with, sizeof with, "{\"delay\":\"9ms\",\"jitter\":\"2ms\",\"distribution\":\"hlog:%s#us\"}", here);
    assert_int_equal(impair(with, &im, &e), 0);
    assert_int_equal(im.delay, 9 * SQ_MS);
    assert_int_equal(im.jitter, 2 * SQ_MS);
    sq_impair_clear(&im);

    assert_non_null(mkdtemp(dir));
    (void)snprintf(here, sizeof here, "%s/evidence.jsonl", dir);
    {
        cleanup_fclose FILE *f = fopen(here, "we");

        assert_non_null(f);
        (void)fputs("{\"t\":1,\"type\":\"sample\",\"endpoint\":\"a\",\"h\":[1000,5,2000,5]}\n", f);
    }
    (void)snprintf(with, sizeof with, "{\"distribution\":\"run:%s#a\"}", dir);
    assert_int_equal(impair(with, &im, &e), 0);
    assert_int_equal(im.delay, 1500);
    sq_impair_clear(&im);
    (void)snprintf(with, sizeof with, "{\"distribution\":\"run:%s#b\"}", dir);
    assert_int_equal(impair(with, &im, &e), -ENODATA);
    assert_int_equal(e.cls, SQ_C_NOTFOUND);
    sq_impair_clear(&im);
    assert_int_equal(unlink(here), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(combinations), cmocka_unit_test(rates),   cmocka_unit_test(presets),
        cmocka_unit_test(limits),       cmocka_unit_test(as_json), cmocka_unit_test(recordings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
