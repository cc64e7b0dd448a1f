/* alert: what Alertmanager delivered, and what it did not; and moments as RFC 3339 has them. */
#include "unit/verify_rig.h"
#include "verify/when.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"}]"
#define LISTEN "{\"t\":0.1,\"type\":\"alerts\",\"state\":\"listening\",\"listen\":\"127.0.0.1:9\"}"

/* An alert received at T that started at STARTS (seconds since the run began, which is 2026-01-01T00:00:00Z). */
static void alert(struct rig *r, double t, const char *name, const char *status, int starts, const char *more)
{
    rig_line(r,
             "{\"t\":%.3f,\"type\":\"alert\",\"name\":\"%s\",\"status\":\"%s\",\"starts_at\":\"2026-01-01T00:%02d:%02d."
             "000Z\",\"labels\":{},\"annotations\":{%s}}",
             t, name, status, starts / 60, starts % 60, more);
}

/* The fault is on from 20 to 60 s, the load until 120 s. */
static void open_run(struct rig *r)
{
    rig_open(r, SPEC);
    rig_fault(r, "f1", "s", "call/error", 20, 60, "");
    rig_second(r, "cart", 1, 60, 5, 0, 0, "");
    rig_second(r, "cart", 119, 60, 5, 0, 0, "");
}

#define FIRES "{\"step\":\"s\",\"fires\":{\"Open\":30000000000}"

static void fires(void **state)
{
    static const struct {
        bool listening;
        double t; /* received; 0: never */
        int starts;
        const char *params, *want;
    } cases[] = {
        {true, 45, 35, FIRES "}", "pass"},
        {true, 55, 35, FIRES "}", "fail"}, /* received too late */
        {true, 55, 35, FIRES ",\"judge\":\"detected\"}", "pass"},
        {true, 55, 52, FIRES ",\"judge\":\"detected\"}", "fail"},
        {true, 45, 19, FIRES "}", "pass"},         /* clocks */
        {true, 45, 5, FIRES "}", "inconclusive"},  /* was firing already */
        {true, 15, 14, FIRES "}", "inconclusive"}, /* came before the fault */
        {true, 0, 0, FIRES "}", "fail"},
        {false, 0, 0, FIRES "}", "inconclusive"},                                     /* nobody listened */
        {true, 0, 0, "{\"step\":\"s\",\"fires\":{\"Open\":\"3m\"}}", "inconclusive"}, /* it had no time */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        open_run(&r);
        if (cases[i].listening)
            rig_line(&r, LISTEN);
        if (cases[i].t > 0)
            alert(&r, cases[i].t, "Open", "firing", cases[i].starts, "");
        rig_check(&r, "alert", cases[i].params);
        if (strcmp(rig_verdict(&r, 0), cases[i].want) != 0)
            fail_msg("case %zu: %s instead of %s: %s", i, rig_verdict(&r, 0), cases[i].want, rig_why(&r, 0));
        rig_close(&r);
    }
}

static void silence(void **state)
{
    static const char params[] = "{\"step\":\"s\",\"silent\":[\"Burn\"]}";
    struct rig r;

    (void)state;
    open_run(&r);
    rig_line(&r, LISTEN);
    EXPECT(&r, rig_check(&r, "alert", params), "inconclusive"); /* nothing can come, for all we know */
    rig_close(&r);

    open_run(&r);
    alert(&r, 5, "Watchdog", "firing", 1, "");
    EXPECT(&r, rig_check(&r, "alert", params), "pass");
    rig_close(&r);

    for (int i = 0; i < 2; i++) { /* a rule with a `for`: the fault lasts 40 s */
        open_run(&r);
        alert(&r, 5, "Watchdog", "firing", 1, "");
        EXPECT(&r,
               rig_check(&r, "alert",
                         i ? "{\"step\":\"s\",\"silent\":[\"Burn\"],\"silent_for\":\"5m\"}"
                           : "{\"step\":\"s\",\"silent\":[\"Burn\"],\"silent_for\":\"35s\"}"),
               i ? "inconclusive" : "pass");
        rig_close(&r);
    }

    open_run(&r);
    alert(&r, 50, "Burn", "firing", 45, "");
    EXPECT(&r, rig_check(&r, "alert", params), "fail");
    rig_close(&r);

    open_run(&r); /* over before the fault, and again long after the load */
    alert(&r, 5, "Burn", "firing", 1, "");
    alert(&r, 10, "Burn", "resolved", 1, "");
    alert(&r, 130, "Burn", "firing", 129, "");
    EXPECT(&r, rig_check(&r, "alert", params), "pass");
    rig_close(&r);
}

static void resolves_and_runbook(void **state)
{
    static const char params[] = FIRES ",\"resolves\":\"20s\",\"runbook\":\"https://wiki/open\"}";
    struct rig r;

    (void)state;
    for (int i = 0; i < 4; i++) {
        static const double resolved[] = {75, 85, 0, 50};
        static const char *const want[] = {"pass", "fail", "fail", "pass"};

        open_run(&r);
        alert(&r, 40, "Open", "firing", 35, i == 1 ? "" : "\"runbook_url\":\"https://wiki/open\"");
        if (resolved[i] > 0)
            alert(&r, resolved[i], "Open", "resolved", 35, "");
        EXPECT(&r, rig_check(&r, "alert", params), "pass");
        assert_int_equal(json_array_size(r.results), 3);
        assert_string_equal(rig_verdict(&r, 1), i == 1 ? "fail" : "pass");
        assert_string_equal(rig_verdict(&r, 2), want[i]);
        rig_close(&r);
    }
    open_run(&r);
    alert(&r, 40, "Open", "firing", 35, "\"runbook_url\":\"https://wiki/other\"");
    EXPECT(&r, rig_check(&r, "alert", FIRES ",\"runbook\":\"https://wiki/open\"}"), "pass");
    assert_string_equal(rig_verdict(&r, 1), "fail");
    EXPECT(&r, rig_check(&r, "alert", FIRES ",\"resolves\":\"90s\"}"), "pass");
    assert_string_equal(rig_verdict(&r, 1), "inconclusive"); /* the run ended 60 s after the fault */
    rig_close(&r);
}

/* Seconds since 1970 from Python's datetime. */
static void moments(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-11-21T06:30:38Z", INT64_C(1795242638000000000)},
        {"2026-11-21T06:30:38.123456789+01:00", INT64_C(1795239038123456789)},
        {"2024-02-29t23:59:59.5-05:30", INT64_C(1709270999500000000)},
    };
    static const char *const bad[] = {
        "",
        "2026",
        "2026-11-21T06:30:38",
        "2026-11-21T06:30:38.Z",
        "2026-13-21T06:30:38Z",
        "2026-11-21T24:30:38Z",
        "2026-11-21T06:30:38+0100",
        "2026-11-21T06:30:38Zjunk",
        "0001-01-01T00:00:00Z",
        "2026-11-21T06:30:38+25:00",
    };
    int64_t ns;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(sq_rfc3339(good[i].text, &ns));
        assert_int_equal(ns, good[i].ns);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (sq_rfc3339(bad[i], &ns))
            fail_msg("\"%s\" was taken for a moment", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fires), cmocka_unit_test(silence),
                                       cmocka_unit_test(resolves_and_runbook), cmocka_unit_test(moments)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
