/* retries: bounded or not, traced or not, hasty or patient. */
#include "squall/rng.h"
#include "unit/verify_rig.h"

#define EDGE "checkout->payments"
#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"" EDGE "\"}}]"
#define ATTEMPTS "{\"step\":\"s\",\"max_attempts\":3}"
#define AMPLIFICATION "{\"step\":\"s\",\"amplification\":1.2}"
#define BACKOFF "{\"step\":\"s\",\"min_backoff\":100000000}"

static void build(struct rig *r, const struct caller *c)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "call/latency", c->from, c->to, "");
    for (int sec = 0; sec < (int)c->end; sec++)
        rig_second(r, "cart", sec, (unsigned)c->rate, 10, 0, 0, "");
    rig_caller(r, EDGE, "checkout.0", c);
    rig_end(r, c->end + 1);
}

static void expect(const struct caller *c, const char *params, const char *want, const char *words)
{
    struct rig r;

    build(&r, c);
    EXPECT(&r, rig_check(&r, "retries", params), want);
    if (!strstr(rig_why(&r, 0), words))
        fail_msg("\"%s\" does not say \"%s\"", rig_why(&r, 0), words);
    rig_close(&r);
}

static const struct caller base = {.rate = 25,
                                   .end = 32,
                                   .from = 12,
                                   .to = 27,
                                   .delay_ms = 2000,
                                   .timeout_ms = 200,
                                   .trip = 12,
                                   .open_ms = 2000,
                                   .attempts = 3,
                                   .backoff_ms = 150,
                                   .traced = true,
                                   .seed = 3};

static void attempts(void **state)
{
    struct caller c = base;

    (void)state;
    expect(&c, ATTEMPTS, "pass", "by their trace ids");
    c.trip = 0;
    expect(&c, ATTEMPTS, "pass", "");
    c.attempts = 1;
    expect(&c, ATTEMPTS, "pass", "");
    c.attempts = 5;
    expect(&c, ATTEMPTS, "fail", "5 times");
    c.trip = 120; /* a breaker that opens later does not hide it */
    c.attempts = 8;
    expect(&c, ATTEMPTS, "fail", "");
    c.rate = base.rate / 20; /* too few */
    c.attempts = 3;
    c.trip = 3;
    expect(&c, ATTEMPTS, "inconclusive", "at least 10");
    c.attempts = 8;
    c.trip = 0;
    c.rate = base.rate / 40;
    expect(&c, ATTEMPTS, "inconclusive", "one request called");
}

static void untraced(void **state)
{
    struct caller c = base;

    (void)state;
    c.traced = false;
    expect(&c, ATTEMPTS, "pass", "carry no trace id");
    c.trip = 0;
    c.attempts = 2;
    expect(&c, ATTEMPTS, "pass", "");
    c.attempts = 6;
    expect(&c, ATTEMPTS, "fail", "");
    c.trip = 500; /* a breaker that is open for the rest does not hide it */
    c.open_ms = 20000;
    expect(&c, ATTEMPTS, "fail", "");
}

/* Connects that are held or refused end before their request, and its trace id, is sent. */
static void held_connects(void **state)
{
    struct caller c = base;

    (void)state;
    c.blind = true;
    c.rate = 80;
    c.timeout_ms = 200;
    c.backoff_ms = 0;
    for (c.seed = 1; c.seed <= 40; c.seed++) {
        c.even = true; /* as a probe does */
        c.attempts = 2;
        c.trip = 20;
        expect(&c, "{\"step\":\"s\",\"max_attempts\":2}", "pass", "carry no trace id");
        c.trip = 0;
        expect(&c, "{\"step\":\"s\",\"max_attempts\":2}", "pass", "");
        c.attempts = 8;
        c.even = c.seed % 2;
        expect(&c, "{\"step\":\"s\",\"max_attempts\":2}", "fail", "more than 2 each");
    }
    c.trip = 2; /* opens after a handful of calls: says nothing about repetitions */
    c.refuse = true;
    expect(&c, "{\"step\":\"s\",\"max_attempts\":2}", "inconclusive", "let through for only");
    expect(&c, BACKOFF, "inconclusive", "no trace id");
}

static void amplification(void **state)
{
    struct caller c = base;

    (void)state;
    expect(&c, AMPLIFICATION, "pass", "");
    c.trip = 0;
    expect(&c, AMPLIFICATION, "fail", "overload worse");
    c.attempts = 1;
    c.even = true;
    expect(&c, "{\"step\":\"s\",\"amplification\":1.3}", "pass", "");
    expect(&c, "{\"step\":\"s\",\"amplification\":1.0}", "inconclusive", "too few to tell");
}

static void backoff(void **state)
{
    struct caller c = base;

    (void)state;
    expect(&c, BACKOFF, "pass", "or more after");
    c.backoff_ms = 0;
    expect(&c, BACKOFF, "fail", "sooner than");
    c.attempts = 1;
    expect(&c, BACKOFF, "pass", "no call was repeated");
    c.attempts = 3;
    c.traced = false;
    expect(&c, BACKOFF, "inconclusive", "no trace id");
}

/* N requests in ten seconds call twice, the second time after FROM_MS and by chance up to SPREAD_MS more. */
static void expect_jitter(unsigned n, unsigned from_ms, unsigned spread_ms, const char *want, const char *words)
{
    struct sq_rng rng;
    struct rig r;

    sq_rng_seed(&rng, 7);
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "s", "call/latency", 12, 27, "");
    for (unsigned i = 0; i < 200; i++)
        rig_call(&r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = (int)i * 50, .dur_ms = 5, .trace = 1000 + i, .status = 200});
    for (unsigned i = 0; i < n; i++) {
        int at = 12000 + (int)(i * 10000 / n);
        int pause = (int)(from_ms + sq_rng_double(&rng) * spread_ms);

        rig_call(&r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = at / 10 * 10, .outcome = 1, .dur_ms = 3, .trace = i + 1, .fault = "f1"});
        rig_call(&r, EDGE, "checkout.0",
                 (struct rig_call){.t_ms = (at + 3 + pause) / 10 * 10, .dur_ms = 3, .trace = i + 1, .status = 200});
    }
    EXPECT(&r, rig_check(&r, "retries", "{\"step\":\"s\",\"min_jitter\":30000000}"), want);
    if (!strstr(rig_why(&r, 0), words))
        fail_msg("\"%s\" does not say \"%s\"", rig_why(&r, 0), words);
    rig_close(&r);
}

static void jitter(void **state)
{
    (void)state;
    expect_jitter(100, 30, 90, "pass", "or more");
    expect_jitter(100, 60, 2, "fail", "come back together");
    expect_jitter(100, 60, 10, "fail", "come back together");
    expect_jitter(100, 60, 45, "inconclusive", "too near");
    expect_jitter(25, 30, 90, "inconclusive", "too few");
    expect_jitter(5, 60, 2, "inconclusive", "at least 10");
}

/* A page that calls twice by design has not retried. */
static void fan_out(void **state)
{
    struct rig r;

    (void)state;
    for (int tries = 3; tries <= 4; tries++) {
        rig_open(&r, SPEC);
        rig_steady(&r, 0, 10, true);
        rig_fault(&r, "f1", "s", "call/latency", 12, 27, "");
        for (unsigned i = 0; i < 32 * 20; i++) {
            bool hit = i * 50 >= 12000 && i * 50 < 27000;

            for (int k = 0; k < (hit ? 2 * tries : 2); k++)
                rig_call(&r, EDGE, "checkout.0",
                         (struct rig_call){.t_ms = (int)i * 50 + k * 10,
                                           .outcome = hit ? 2 : 0,
                                           .dur_ms = 5,
                                           .trace = i + 1,
                                           .fault = hit ? "f1" : NULL,
                                           .status = hit ? 0 : 200});
        }
        for (int sec = 0; sec < 32; sec++)
            rig_second(&r, "cart", sec, 20, 10, 0, 0, "");
        EXPECT(&r, rig_check(&r, "retries", ATTEMPTS), tries == 3 ? "pass" : "fail");
        EXPECT(&r, rig_check(&r, "retries", BACKOFF), "inconclusive");
        rig_close(&r);
    }
}

/* Pages of one call beside pages of four: the small ones' retries may hide behind the large ones' calls. */
static void uneven_fan_out(void **state)
{
    static const struct {
        int tries;
        unsigned large; /* every so-manieth page makes four calls */
        const char *want;
    } cases[] = {{1, 2, "inconclusive"},  {3, 2, "inconclusive"}, {4, 2, "fail"},
                 {3, 50, "inconclusive"}, {2, 1000, "pass"},      {4, 1000, "fail"}};

    (void)state;
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct rig r;

        rig_open(&r, SPEC);
        rig_steady(&r, 0, 10, true);
        rig_fault(&r, "f1", "s", "call/latency", 12, 27, "");
        for (unsigned i = 0; i < 32 * 20; i++) {
            bool hit = i * 50 >= 12000 && i * 50 < 27000;
            int calls = (i % cases[n].large == 1 ? 4 : 1) * (hit ? cases[n].tries : 1);

            for (int k = 0; k < calls; k++)
                rig_call(&r, EDGE, "checkout.0",
                         (struct rig_call){.t_ms = (int)i * 50 + k * 10,
                                           .outcome = hit ? 2 : 0,
                                           .dur_ms = 5,
                                           .trace = i + 1,
                                           .fault = hit ? "f1" : NULL,
                                           .status = hit ? 0 : 200});
        }
        for (int sec = 0; sec < 32; sec++)
            rig_second(&r, "cart", sec, 20, 10, 0, 0, "");
        EXPECT(&r, rig_check(&r, "retries", ATTEMPTS), cases[n].want);
        rig_close(&r);
    }
}

static void nothing_to_judge(void **state)
{
    struct caller c = base;
    struct rig r;

    (void)state;
    c.from = c.to = 100; /* the fault's window has calls, none was hit */
    rig_open(&r, SPEC);
    rig_steady(&r, 0, 10, true);
    rig_fault(&r, "f1", "s", "call/latency", 12, 27, "");
    rig_caller(&r, EDGE, "checkout.0", &c);
    EXPECT(&r, rig_check(&r, "retries", ATTEMPTS), "inconclusive");
    assert_non_null(strstr(rig_why(&r, 0), "no call failed"));
    rig_close(&r);
    rig_open(&r, SPEC);
    EXPECT(&r, rig_check(&r, "retries", ATTEMPTS), "inconclusive");
    json_t *p = json_pack("{s:s}", "step", "s"), *res = json_array();
    struct sq_err e = {0};
    assert_int_equal(sq_check_find("retries")->run(r.ev, p, res, &e), -EINVAL);
    json_decref(p);
    json_decref(res);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attempts),      cmocka_unit_test(untraced),       cmocka_unit_test(amplification),
        cmocka_unit_test(held_connects), cmocka_unit_test(backoff),        cmocka_unit_test(jitter),
        cmocka_unit_test(fan_out),       cmocka_unit_test(uneven_fan_out), cmocka_unit_test(nothing_to_judge),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
