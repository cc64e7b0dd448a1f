/* Burn rates: the workbook's numbers, the seconds at which its alerts fire and stop by arithmetic, and any series
 * against sums made the slow way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "squall/rng.h"
#include "verify/burn.h"

#define DAYS3 259200

/* SRE workbook, ch. 5, table 5-8: 2 % in 1 h, 5 % in 6 h, 10 % in 3 d; the shorter window is a twelfth of the longer
 * one. 3 over 1 d is sloth's. */
static void standard(void **state)
{
    static const struct {
        const char *severity;
        double rate, share;
        int64_t longer, shorter;
    } want[4] = {{"page", 14.4, 2, 3600, 300},
                 {"page", 6, 5, 21600, 1800},
                 {"ticket", 3, 10, 86400, 7200},
                 {"ticket", 1, 10, 259200, 21600}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        const struct sq_burn_rule *r = &sq_burn_rules[i];

        assert_string_equal(r->severity, want[i].severity);
        assert_true(r->rate == want[i].rate && r->share == want[i].share);
        assert_true(r->longer == want[i].longer && r->shorter == want[i].shorter);
        assert_true(r->longer == 12 * r->shorter);
        /* a rate of 1 spends 30 days' budget in 30 days */
        assert_true(r->rate * (double)r->longer / (30 * 86400.0) * 100 - r->share < 1e-9);
    }
}

/* 3 days of 10/s without a failure, then a share BAD of failures for ON seconds of SECS, at a target of 99.9 %. */
static void outage(double bad, size_t on, size_t secs, struct sq_burn_state st[4])
{
    size_t n = DAYS3 + secs;
    double *good = calloc(n, sizeof *good), *total = calloc(n, sizeof *total);

    assert_true(good && total);
    for (size_t i = 0; i < n; i++) {
        total[i] = 10;
        good[i] = i >= DAYS3 && i < DAYS3 + on ? 10 * (1 - bad) : 10;
    }
    assert_int_equal(sq_burn(good, total, n, DAYS3, 0.001, st), 0);
    free(good);
    free(total);
}

/* T seconds of a share e of failures burn a window of W at e T / W / 0.001. All bad: 14.4 is passed in the 52nd second
 * of an hour (51.84), 6 in the 130th of 6 h (129.6), 3 in the 260th of a day (259.2), 1 in the 260th of 3 days (259.2).
 * 11 % of it
 * bad: after 1 / 0.11 of that time. */
static void fires(void **state)
{
    static const struct {
        double bad;
        int64_t at[4];
    } cases[] = {{1, {51, 129, 259, 259}}, {0.11, {471, 1178, 2356, 2356}}, {0.021, {2468, 6171, 12342, 12342}}};
    struct sq_burn_state st[4];

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        outage(cases[c].bad, 20000, 20000, st);
        for (size_t i = 0; i < 4; i++) {
            assert_true(st[i].fired && st[i].possible);
            assert_int_equal(st[i].at, cases[c].at[i]);
            assert_int_equal(st[i].until, 19999);
            assert_int_equal(st[i].secs, 20000 - cases[c].at[i]);
        }
    }
    /* 1.4 % of failures for ever burns at 14: no page over an hour, however long; over 6 h there is one. */
    outage(0.014, 20000, 20000, st);
    assert_true(!st[0].fired && st[0].possible && st[1].fired);
    assert_true(st[0].worst > 13.99 && st[0].worst < 14.01);
}

/* A minute of outage: the hour remembers it, the 5 minutes end the page. They hold more than 14.4 x 0.001 x 300 = 4.32
 * bad seconds until 355 s after the beginning (300 - 5 + 60), so it fires in the seconds 51 to 354. */
static void stops(void **state)
{
    struct sq_burn_state st[4];

    (void)state;
    outage(1, 60, 2000, st);
    assert_true(st[0].fired && !st[1].fired && !st[2].fired && !st[3].fired);
    assert_int_equal(st[0].at, 51);
    assert_int_equal(st[0].until, 354);
    assert_int_equal(st[0].secs, 304);
    assert_true(st[0].worst > 16.6 && st[0].worst < 16.7); /* 60 / 3600 / 0.001 */
}

/* What a run is too short for can't be called quiet: 51 s of outage burn an hour at 14.17, 52 s at 14.44. */
static void possible(void **state)
{
    struct sq_burn_state st[4];

    (void)state;
    outage(0, 0, 51, st);
    assert_true(!st[0].possible && !st[1].possible && !st[2].possible && !st[3].possible);
    outage(0, 0, 52, st);
    assert_true(st[0].possible && !st[0].fired && !st[1].possible && !st[2].possible && !st[3].possible);
    outage(0, 0, 260, st);
    for (size_t i = 0; i < 4; i++)
        assert_true(st[i].possible && !st[i].fired && st[i].worst == 0);
}

static double burn_slowly(const double *good, const double *total, size_t i, int64_t window, double allowed)
{
    double bad = 0, all = 0;

    for (int64_t k = 0; k < window && k <= (int64_t)i; k++) {
        bad += total[i - (size_t)k] - good[i - (size_t)k];
        all += total[i - (size_t)k];
    }
    return all > 0 ? bad / all / allowed : 0;
}

/* Traffic that comes and goes, failures in spells. */
static void any_series(void **state)
{
    enum { N = 2500, BEFORE = 700 };
    static double good[N], total[N];
    struct sq_rng rng;

    (void)state;
    sq_rng_seed(&rng, 14);
    for (unsigned round = 0; round < 4; round++) {
        struct sq_burn_state st[4];
        bool sick = false;

        for (size_t i = 0; i < N; i++) {
            sick = sq_rng_double(&rng) < 0.02 ? !sick : sick;
            total[i] = sq_rng_double(&rng) < 0.1 ? 0 : (double)(1 + (unsigned)(sq_rng_double(&rng) * 20));
            good[i] = total[i] * (sick ? sq_rng_double(&rng) : 1);
        }
        const double allowed = round % 2 ? 0.05 : 0.02;
        assert_int_equal(sq_burn(good, total, N, BEFORE, allowed, st), 0);
        for (size_t r = 0; r < 4; r++) {
            int64_t at = -1, until = -1, secs = 0;
            double worst = 0;

            for (size_t i = BEFORE; i < N; i++) {
                double a = burn_slowly(good, total, i, sq_burn_rules[r].longer, allowed);
                double b = burn_slowly(good, total, i, sq_burn_rules[r].shorter, allowed), less = a < b ? a : b;

                worst = less > worst ? less : worst;
                if (less > sq_burn_rules[r].rate) {
                    at = at < 0 ? (int64_t)(i - BEFORE) : at;
                    until = (int64_t)(i - BEFORE);
                    secs++;
                }
            }
            assert_true(worst - st[r].worst < 1e-6 && st[r].worst - worst < 1e-6);
            assert_int_equal(st[r].fired, secs > 0);
            assert_int_equal(st[r].secs, secs);
            if (secs) {
                assert_int_equal(st[r].at, at);
                assert_int_equal(st[r].until, until);
            }
        }
    }
}

static void no_traffic(void **state)
{
    double none[10] = {0};
    struct sq_burn_state st[4];

    (void)state;
    assert_int_equal(sq_burn(none, none, 10, 5, 0.001, st), 0);
    for (size_t i = 0; i < 4; i++)
        assert_true(!st[i].fired && !st[i].possible && st[i].worst == 0);
    assert_int_equal(sq_burn(none, none, 0, 0, 0.001, st), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(standard),   cmocka_unit_test(fires),
                                       cmocka_unit_test(stops),      cmocka_unit_test(possible),
                                       cmocka_unit_test(any_series), cmocka_unit_test(no_traffic)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
