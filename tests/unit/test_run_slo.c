/* Abort conditions by SLO: when a budget burns too fast, second by second, as the probe's samples come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "run/slo.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "squall/units.h"

struct rig {
    uv_loop_t loop;
    json_t *spec;
    struct sq_slos *slos;
    char why[256];
};

static void never(void *arg, const char *type, json_t *rec)
{
    (void)arg;
    (void)type;
    json_decref(rec);
    fail_msg("nobody is to be asked");
}

/* 99 %, a burn rate of 10 for 3 s, at least 100 requests. */
static void open_rig(struct rig *r, const char *indicator)
{
    struct sq_err e = {0};
    char text[800];

    memset(r, 0, sizeof *r);
    (void)snprintf(text, sizeof text,
                   "{\"slos\":{\"x\":{\"target\":99,\"window\":2592000000000000,\"indicator\":{\"source\":\"probe\","
                   "\"endpoint\":\"cart\",%s}}},\"safety\":{\"abort_when\":[{\"metric\":\"p99\",\"over\":1},"
                   "{\"slo\":\"x\",\"burn_rate\":10,\"for\":3000000000,\"min_requests\":100}]}}",
                   indicator);
    assert_int_equal(sq_json_parse(text, strlen(text), &r->spec, &e), 0);
    assert_int_equal(uv_loop_init(&r->loop), 0);
    assert_int_equal(sq_slos_new(&r->loop, r->spec, 0, never, NULL, &r->slos, &e), 0);
    assert_non_null(r->slos);
    sq_slos_start(r->slos); /* without a Prometheus: nothing to ask */
}

static void close_rig(struct rig *r)
{
    sq_slos_close(r->slos);
    (void)uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    json_decref(r->spec);
}

/* One second: OK good ones of 20 ms, SLOW good ones of 300 ms, BAD ones after 300 ms. Then: is it due? */
static bool second(struct rig *r, const char *endpoint, int sec, unsigned ok, unsigned slow, unsigned bad)
{
    struct sq_hist *h = sq_hist_new(), *hok = sq_hist_new();

    assert_true(h && hok);
    for (unsigned i = 0; i < ok + slow; i++) {
        sq_hist_record(h, (i < ok ? 20 : 300) * SQ_MS);
        sq_hist_record(hok, (i < ok ? 20 : 300) * SQ_MS);
    }
    for (unsigned i = 0; i < bad; i++)
        sq_hist_record(h, 300 * SQ_MS);
    json_t *sample =
        json_pack("{s:s,s:i,s:i,s:{s:i},s:o,s:o}", "endpoint", endpoint, "sec", sec, "ok", (int)(ok + slow), "bad",
                  "timeout", (int)bad, "h", sq_hist_to_json(h), "hok", sq_hist_to_json(hok));
    assert_non_null(sample);
    sq_slos_sample(r->slos, sample);
    json_decref(sample);
    sq_hist_free(h);
    sq_hist_free(hok);
    return sq_slos_due(r->slos, r->why, sizeof r->why);
}

/* 20 of 100 bad burn at 20: over 3 s that is 6.7 after one such second, 13.3 after two. */
static void burns(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r, "\"failed\":\"bad\"");
    for (int sec = 0; sec < 5; sec++)
        assert_false(second(&r, "cart", sec, 100, 0, 0));
    assert_false(second(&r, "other", 5, 0, 0, 1000));
    assert_false(second(&r, "cart", 5, 80, 0, 20));
    assert_true(second(&r, "cart", 6, 80, 0, 20));
    assert_string_equal(r.why, "the error budget of the SLO x burnt at 13.3 for 3 s (40 bad of 300), more than 10");
    assert_false(second(&r, "cart", 9, 100, 0, 0)); /* only this second is within the window now */
    close_rig(&r);
}

/* A window that is not full yet, or has too few requests, decides nothing. */
static void too_little(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r, "\"failed\":\"bad\"");
    assert_false(second(&r, "cart", 0, 0, 0, 500));
    assert_false(second(&r, "cart", 1, 0, 0, 500));
    assert_true(second(&r, "cart", 2, 0, 0, 500));
    close_rig(&r);
    open_rig(&r, "\"failed\":\"bad\"");
    for (int sec = 0; sec < 10; sec++)
        assert_false(second(&r, "cart", sec, 0, 0, 33)); /* 99 */
    assert_true(second(&r, "cart", 10, 0, 0, 34));
    close_rig(&r);
}

/* Seconds long past, whose places are used again, count no more. */
static void long_past(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r, "\"failed\":\"bad\"");
    for (int sec = 0; sec < 960; sec++)
        assert_false(second(&r, "cart", sec, 100, 0, 0));
    assert_true(second(&r, "cart", 962, 0, 0, 110));
    close_rig(&r);
}

/* `below`: a late answer is a bad one. Of latency alone a failed request that came in time is a good one. */
static void latency(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r, "\"failed\":\"bad\",\"below\":100000000");
    for (int sec = 0; sec < 5; sec++)
        assert_false(second(&r, "cart", sec, 100, 0, 0));
    assert_false(second(&r, "cart", 5, 70, 15, 15));
    assert_true(second(&r, "cart", 6, 70, 15, 15));
    close_rig(&r);
    open_rig(&r, "\"failed\":\"bad\",\"below\":1000000000"); /* in time, but no answer */
    for (int sec = 0; sec < 3; sec++)
        assert_int_equal(second(&r, "cart", sec, 50, 0, 50), sec == 2);
    close_rig(&r);
    open_rig(&r, "\"failed\":\"ignored\",\"below\":1000000000");
    for (int sec = 0; sec < 5; sec++)
        assert_false(second(&r, "cart", sec, 0, 50, 50));
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(burns), cmocka_unit_test(too_little),
                                       cmocka_unit_test(long_past), cmocka_unit_test(latency)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
