/* regression and trend: this run and others of its build against a baseline that the evidence holds. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"}],\"compare\":{\"baseline\":\"b\"}"

/* N runs of one day whose p99 is about MS, spread by a fixed pattern of SPREAD percent. */
static void history(struct rig *r, const char *set, const char *day, unsigned n, double ms, double spread)
{
    static const double pattern[] = {-1.3, 0.4, 1.1, -0.6, 0.9, -0.2, 0.1, -0.9, 1.4, -0.4, 0.6, -1.0};

    (void)fprintf(r->f, "{\"t\":0.001,\"type\":\"history\",\"set\":\"%s\",\"path\":\"x\",\"left_out\":[],\"runs\":[",
                  set);
    for (unsigned i = 0; i < n; i++)
        (void)fprintf(
            r->f,
            "%s{\"id\":\"r%u\",\"start\":\"%sT0%u:00:00.000Z\",\"window\":\"steady\",\"left_out\":{},\"values\":{"
            "\"cart\":{\"p99\":%.0f,\"throughput\":%.3f,\"n\":100}}}",
            i ? "," : "", i, day, i % 10, ms * 1e6 * (1 + spread / 100 * pattern[i % 12]),
            60 * (1 + spread / 300 * pattern[(i + 5) % 12]));
    (void)fprintf(r->f, "]}\n");
}

static void build(struct rig *r, unsigned base, double base_ms, unsigned now, double now_ms, double spread)
{
    rig_open(r, SPEC);
    if (base)
        history(r, "base", "2025-12-31", base, base_ms, spread);
    if (now)
        history(r, "now", "2026-01-01", now, now_ms, spread);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "call/error", 12, 14, "");
    for (int sec = 0; sec < 20; sec++)
        rig_second(r, "cart", sec, 60, now_ms, 0, 0, "");
}

static void judged(void **state)
{
    static const struct {
        unsigned base, now;
        double base_ms, now_ms, spread;
        const char *params, *want, *word;
    } cases[] = {
        {8, 7, 100, 100, 2, "", "pass", "no change"},
        {8, 7, 100, 125, 2, "", "fail", "worse"},
        {8, 7, 100, 107, 1, "", "pass", "watch it"}, /* over warn, under block */
        {8, 7, 100, 80, 2, "", "pass", "better"},
        {8, 6, 100, 125, 2, "", "inconclusive", "8 a side"}, /* this run is the seventh */
        {7, 7, 100, 125, 2, "", "inconclusive", "8 a side"},
        {8, 7, 100, 100, 25, "", "inconclusive", "varies"}, /* can't see 10 % */
        {0, 7, 0, 100, 2, "", "inconclusive", "no baseline"},
        {8, 7, 100, 125, 2, ",\"block\":40", "pass", "watch it"},
        {8, 7, 100, 125, 2,
         ",\"accept\":[{\"metric\":\"p99\",\"reason\":\"tls\",\"by\":\"ana\",\"until\":\"2026-01-01\"}]", "pass",
         "accepted until"},
        {8, 7, 100, 125, 2,
         ",\"accept\":[{\"metric\":\"p99\",\"reason\":\"tls\",\"by\":\"ana\",\"until\":\"2025-12-31\"}]", "fail",
         "acceptance ended"},
        {8, 7, 100, 125, 2,
         ",\"accept\":[{\"metric\":\"p50\",\"reason\":\"tls\",\"by\":\"ana\",\"until\":\"2026-02-01\"}]", "fail",
         "worse"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char params[300];
        struct rig r;

        (void)snprintf(params, sizeof params, "{\"metrics\":[\"p99\"]%s}", cases[i].params);
        build(&r, cases[i].base, cases[i].base_ms, cases[i].now, cases[i].now_ms, cases[i].spread);
        const char *got = rig_check(&r, "regression", params);
        const char *why = sq_json_str_or(json_array_get(r.results, 0), "why", "");
        if (strcmp(got, cases[i].want) != 0 || !strstr(why, cases[i].word))
            fail_msg("case %zu: %s (%s), wanted %s (%s)", i, got, why, cases[i].want, cases[i].word);
        rig_close(&r);
    }
}

/* A steady state of some runs is no load of others; a run that has no such window is none of its build's either. */
static void windows(void **state)
{
    static const char *const checks[] = {"regression", "trend"};

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct rig r;

        rig_open(&r, SPEC); /* without a steady state all of the load is taken */
        history(&r, "base", "2025-12-31", 8, 100, 2);
        history(&r, "now", "2026-01-01", 8, 100, 2);
        rig_fault(&r, "f1", "s", "call/error", 12, 14, "");
        for (int sec = 0; sec < 20; sec++)
            rig_second(&r, "cart", sec, 60, 100, 0, 0, "");
        EXPECT(&r, rig_check(&r, checks[k], k ? "{\"days\":1}" : "{\"metrics\":[\"p99\"]}"), "inconclusive");
        assert_non_null(strstr(rig_why(&r, 0), "not alike"));
        rig_close(&r);
    }
}

/* Less throughput is worse, more of it is not. */
static void direction(void **state)
{
    struct rig r;

    (void)state;
    build(&r, 8, 100, 8, 100, 1);
    EXPECT(&r, rig_check(&r, "regression", "{\"metrics\":[\"throughput\"],\"endpoint\":\"cart\"}"), "pass");
    rig_close(&r);
}

/* Two of nine runs had no good answer at all: they are not left out, so that the other seven can't speak for all. */
static void dead_runs(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    history(&r, "base", "2025-12-31", 9, 100, 1);
    history(&r, "now", "2026-01-01", 8, 100, 1);
    (void)fprintf(r.f, "{\"t\":0.001,\"type\":\"history\",\"set\":\"now\",\"path\":\"x\",\"left_out\":[],\"runs\":[");
    for (int i = 0; i < 2; i++)
        (void)fprintf(r.f,
                      "%s{\"id\":\"d%d\",\"start\":\"2026-01-01T09:00:00.000Z\",\"window\":\"steady\",\"left_out\":{},"
                      "\"values\":{\"cart\":{\"p99\":1000000,\"throughput\":0.0,\"n\":100}}}",
                      i ? "," : "", i);
    (void)fprintf(r.f, "]}\n");
    rig_steady(&r, 0, 10, true);
    for (int sec = 0; sec < 20; sec++)
        rig_second(&r, "cart", sec, 60, 100, 0, 0, "");
    EXPECT(&r, rig_check(&r, "regression", "{\"metrics\":[\"throughput\"],\"endpoint\":\"cart\"}"), "inconclusive");
    rig_close(&r);
}

/* Day after day, each STEP percent slower. */
static void days(struct rig *r, unsigned n_days, double step, double spread, unsigned runs)
{
    double ms = 100;

    rig_open(r, SPEC);
    for (unsigned d = 0; d < n_days; d++) {
        char day[16];

        (void)snprintf(day, sizeof day, "2025-12-%02u", 10 + d);
        history(r, "base", day, runs, ms, spread);
        ms *= 1 + step / 100;
    }
    rig_steady(r, 0, 10, true);
    for (int sec = 0; sec < 20; sec++)
        rig_second(r, "cart", sec, 60, 100, 0, 0, "");
}

static void creeping(void **state)
{
    static const struct {
        unsigned days, runs;
        double step, spread;
        const char *want;
    } cases[] = {
        {4, 8, 6, 2, "fail"},          {4, 8, 2, 2, "pass"}, {3, 8, 6, 2, "inconclusive"},
        {4, 7, 6, 2, "inconclusive"},  {6, 8, 0, 2, "pass"}, {6, 8, 7, 1, "fail"},
        {4, 8, 6, 40, "inconclusive"}, /* three rises that can be chance */
        {4, 3, 0, 1, "inconclusive"},  /* three against three can't differ beyond chance */
        {4, 8, 4, 25, "inconclusive"}, /* no three rises of 5 %, but these runs could not have shown them */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        days(&r, cases[i].days, cases[i].step, cases[i].spread, cases[i].runs);
        const char *got = rig_check(&r, "trend",
                                    cases[i].runs < 4 ? "{\"metric\":\"p99\",\"rise\":5,\"days\":3,\"min_runs\":3}"
                                                      : "{\"metric\":\"p99\",\"rise\":5,\"days\":3}");
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("case %zu: %s, wanted %s (%s)", i, got, cases[i].want,
                     sq_json_str_or(json_array_get(r.results, 0), "why", ""));
        rig_close(&r);
    }
}

/* Two endpoints side by side for SECS seconds; the second is SLOWER percent slower and fails BAD a second. */
static void canary_rig(struct rig *r, int secs, unsigned per_s, double slower, unsigned bad)
{
    rig_open(r, SPEC);
    rig_steady(r, 0, secs, true);
    for (int sec = 0; sec < secs; sec++) {
        double ms = 20 * (1 + 0.02 * ((sec / 5 * 7) % 5 - 2)); /* both feel the same host */

        rig_second(r, "old", sec, per_s, ms, 0, 0, "");
        rig_second(r, "new", sec, per_s - bad, ms * (1 + slower / 100), bad, 20, "");
    }
}

static void canary(void **state)
{
    static const struct {
        int secs;
        unsigned per_s;
        double slower;
        unsigned bad;
        const char *want;
    } cases[] = {
        {120, 60, 0, 0, "pass"},          {120, 60, 25, 0, "fail"},        {120, 60, 0, 3, "fail"},
        {120, 60, -20, 0, "pass"},        {30, 60, 25, 0, "inconclusive"}, {30, 60, 0, 0, "inconclusive"},
        {120, 19, 25, 0, "inconclusive"}, {120, 3, 0, 0, "inconclusive"}, /* blocks of 95 and 15 requests */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        canary_rig(&r, cases[i].secs, cases[i].per_s, cases[i].slower, cases[i].bad);
        const char *got = rig_check(
            &r, "canary", "{\"control\":\"old\",\"experiment\":\"new\",\"metrics\":[\"p95\"],\"max_error_rise\":1}");
        if (strcmp(got, "pass") == 0) /* the percentile's; then the errors' */
            got = rig_verdict(&r, 1);
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("case %zu: %s, wanted %s", i, got, cases[i].want);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(judged),    cmocka_unit_test(windows),  cmocka_unit_test(direction),
        cmocka_unit_test(dead_runs), cmocka_unit_test(creeping), cmocka_unit_test(canary),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
