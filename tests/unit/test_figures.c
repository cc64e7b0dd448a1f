/* The figures that the verifier's limits stand on (sample sizes, power, early alarms), each reproduced by the code that
 * uses it and by means that share nothing with that code: plain sums, published tables, simulation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "squall/cleanup.h"
#include "squall/rng.h"
#include "verify/burn.h"
#include "verify/rank.h"
#include "verify/stats.h"

static double gauss(struct sq_rng *r)
{
    double u = sq_rng_double(r);

    return sq_normal_quantile(u <= 0 ? 0.5 : u);
}

/* Not by the incomplete beta function. */
static double binomial_pmf(unsigned k, unsigned n, double p)
{
    return exp(lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0) + k * log(p) + (n - k) * log1p(-p));
}

/* An error rate of 0.1 % is refuted at 1 % by 5 failures in 1,000, 9 in 3,000, 19 in 10,000, and by no fewer. */
static void failures_that_refute(void **state)
{
    static const struct {
        uint64_t k, n;
    } table[] = {{5, 1000}, {9, 3000}, {19, 10000}};

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(table); i++) {
        assert_true(sq_cp_lower(table[i].k, table[i].n, 0.99) > 0.001);
        assert_false(sq_cp_lower(table[i].k - 1, table[i].n, 0.99) > 0.001);
    }
}

/* About a hundred events in the tail for +-20 %: 2,000 requests for p95, 10,000 for p99, 100,000 for p99.9. */
static void tail_events(void **state)
{
    static const struct {
        uint64_t n;
        double tail;
    } table[] = {{2000, 0.05}, {10000, 0.01}, {100000, 0.001}};

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(table); i++) {
        double low = sq_cp_lower(100, table[i].n, 0.975) / table[i].tail,
               high = sq_cp_upper(100, table[i].n, 0.975) / table[i].tail;

        assert_true(low > 0.78 && low < 0.85);
        assert_true(high > 1.15 && high < 1.22);
    }
}

/* Clopper-Pearson covers: whatever the true share, its bounds miss it with at most 5 %. Summed, not simulated. */
static void proportions_are_covered(void **state)
{
    (void)state;
    for (unsigned n = 5; n <= 80; n += 25)
        for (double p = 0.005; p < 1; p += 0.0173) {
            double above = 0, below = 0;

            for (unsigned k = 0; k <= n; k++) {
                above += sq_cp_lower(k, n, 0.95) > p ? binomial_pmf(k, n, p) : 0;
                below += sq_cp_upper(k, n, 0.95) < p ? binomial_pmf(k, n, p) : 0;
            }
            assert_true(above <= 0.05 + 1e-9 && below <= 0.05 + 1e-9);
        }
}

/* The ranks of order statistics, by plain sums: the least rank of which P(more than that lie below the quantile) does.
 */
static void ranks_by_sums(void **state)
{
    static const unsigned sizes[] = {20, 59, 60, 100, 299, 500};
    static const double at[] = {0.5, 0.9, 0.95, 0.99};

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(sizes); i++)
        for (size_t k = 0; k < SQ_COUNT(at); k++) {
            unsigned n = sizes[i], upper = 0, lower = 0;
            double sum = 0;

            for (unsigned r = 1; r <= n; r++) { /* P(X <= r - 1), X of n lie below the quantile */
                sum += binomial_pmf(r - 1, n, at[k]);
                if (!upper && sum >= 0.95)
                    upper = r;
                if (1 - sum >= 0.95)
                    lower = r;
            }
            assert_int_equal(sq_rank_upper(n, at[k], 0.95), upper);
            assert_int_equal(sq_rank_lower(n, at[k], 0.95), lower);
        }
}

/* And they cover: p95 of 200 exponential values, 20,000 times. */
static void quantiles_are_covered(void **state)
{
    double truth = -log(0.05);
    unsigned missed[2] = {0, 0};
    struct sq_rng r;

    (void)state;
    sq_rng_seed(&r, 21);
    uint64_t upper = sq_rank_upper(200, 0.95, 0.95), lower = sq_rank_lower(200, 0.95, 0.95);
    for (int round = 0; round < 20000; round++) {
        unsigned below = 0; /* values under the true quantile: the k-th smallest is one of them if k <= below */

        for (int i = 0; i < 200; i++)
            below += -log(1 - sq_rng_double(&r)) < truth;
        missed[0] += upper <= below;
        missed[1] += lower > below;
    }
    print_message("p95 of 200: upper bound missed %.2f %%, lower %.2f %%\n", missed[0] / 200.0, missed[1] / 200.0);
    for (int i = 0; i < 2; i++)
        assert_true(missed[i] < 1100 && missed[i] > 200); /* at most 5 %, and no needlessly wide ones */
}

/* Two samples with exactly this U: value j of b has so many values of a above it. */
static double p_at(unsigned n, unsigned m, unsigned u)
{
    struct sq_err e = {0};
    struct sq_u got;
    double a[20], b[20];

    for (unsigned i = 0; i < n; i++)
        a[i] = i + 1;
    for (unsigned j = 0; j < m; j++) {
        unsigned above = u < n ? u : n;

        u -= above;
        b[j] = n - above + 0.5 + 0.001 * j;
    }
    assert_int_equal(sq_u_test(a, n, b, m, SQ_TWO_SIDED, &got, &e), 0);
    return got.p;
}

/* The tables at the back of every textbook (two-sided): the largest U that is significant. */
static void critical_u(void **state)
{
    static const struct {
        unsigned n, m, at_5, at_1;
    } table[] = {{5, 5, 2, 0},    {5, 8, 6, 2},     {8, 8, 13, 7},    {7, 10, 14, 9},    {10, 10, 23, 16},
                 {9, 15, 34, 24}, {12, 12, 37, 27}, {15, 15, 64, 51}, {20, 20, 127, 105}};

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(table); i++) {
        unsigned n = table[i].n, m = table[i].m;

        assert_true(p_at(n, m, table[i].at_5) <= 0.05 && p_at(n, m, table[i].at_5 + 1) > 0.05);
        assert_true(p_at(n, m, table[i].at_1) <= 0.01 && p_at(n, m, table[i].at_1 + 1) > 0.01);
    }
}

/* How often 8 runs against 8 block a change ("p < 0.01 and medians more than 10 % apart"), and flag one of 5 % (3 %).
 */
static void power(void **state)
{
    static const struct {
        double cv, none, flagged, at_12, at_15, at_20; /* percent */
    } table[] = {{0.03, 0.0, 52, 86, 99, 100},
                 {0.05, 0.1, 13, 70, 93, 100},
                 {0.08, 0.2, 5, 36, 59, 86},
                 {0.10, 0.3, 3, 21, 37, 65}};
    static const double changes[] = {0, 0.05, 0.12, 0.15, 0.20};
    const int rounds = 10000;
    struct sq_rng r;

    (void)state;
    sq_rng_seed(&r, 15);
    for (size_t t = 0; t < SQ_COUNT(table); t++) {
        const double want[] = {table[t].none, table[t].flagged, table[t].at_12, table[t].at_15, table[t].at_20};

        for (size_t c = 0; c < SQ_COUNT(changes); c++) {
            int seen = 0;

            for (int round = 0; round < rounds; round++) {
                double a[8], b[8];
                struct sq_err e = {0};
                struct sq_u u;

                for (int i = 0; i < 8; i++) {
                    a[i] = 1 + table[t].cv * gauss(&r);
                    b[i] = (1 + changes[c]) * (1 + table[t].cv * gauss(&r));
                }
                assert_int_equal(sq_u_test(a, 8, b, 8, SQ_TWO_SIDED, &u, &e), 0);
                seen += u.p < 0.01 && sq_median(b, 8) > (c == 1 ? 1.03 : 1.10) * sq_median(a, 8);
            }
            double got = 100.0 * seen / rounds;
            print_message("%s%4.0f %%", c ? ", " : "", got);
            if (fabs(got - want[c]) > 3) /* the figures came out of a smaller simulation */
                fail_msg("CV %g, +%g: %.1f %%, wanted %g %%", table[t].cv, changes[c], got, want[c]);
        }
        print_message(" at a CV of %g %%\n", 100 * table[t].cv);
    }
}

/* Three days running 5 % more, by chance alone: 0.1 times a year when days vary by 5 %, 1.0 at 8 %, 2.1 at 10 %. */
static void rises_by_chance(void **state)
{
    static const struct {
        double cv, a_year;
    } table[] = {{0.05, 0.1}, {0.08, 1.0}, {0.10, 2.1}};
    const int years = 1500;
    struct sq_rng r;

    (void)state;
    sq_rng_seed(&r, 8);
    for (size_t t = 0; t < SQ_COUNT(table); t++) {
        double before = 1, alarms = 0;
        int running = 0;

        for (int day = 0; day < 365 * years; day++) {
            double now = 1 + table[t].cv * gauss(&r);

            running = now >= 1.05 * before ? running + 1 : 0;
            alarms += running >= 3;
            before = now;
        }
        print_message("%.2f a year at %g %%\n", alarms / years, 100 * table[t].cv);
        assert_true(fabs(alarms / years - table[t].a_year) < 0.15);
    }
}

/* A fault of D minutes in a clean hour fires the page of 14.4 only if 0.864 / D of the requests fail: 29 % at 3
 * minutes, 17 % at 5; and a failure among 100 an hour burns at 10. */
static void short_faults_and_pages(void **state)
{
    static const struct {
        size_t minutes;
        double share;
    } table[] = {{3, 0.288}, {5, 0.1728}};
    const size_t n = 7200, before = 3600;
    double *good = calloc(n, sizeof *good), *total = calloc(n, sizeof *total);
    struct sq_burn_state st[4];

    (void)state;
    assert_true(good && total);
    for (size_t t = 0; t < SQ_COUNT(table); t++)
        for (int more = 0; more < 2; more++) {
            double share = table[t].share * (more ? 1.01 : 0.99);

            for (size_t i = 0; i < n; i++) {
                total[i] = 100;
                good[i] = i >= before && i < before + 60 * table[t].minutes ? 100 * (1 - share) : 100;
            }
            assert_int_equal(sq_burn(good, total, n, before, 0.001, st), 0);
            assert_int_equal(st[0].fired, more);
        }
    for (size_t i = 0; i < n; i++) /* one request every 36 s */
        good[i] = total[i] = i % 36 == 0;
    good[before] = 0;
    assert_int_equal(sq_burn(good, total, n, before, 0.001, st), 0);
    assert_true(st[0].worst > 9.8 && st[0].worst < 10.2);
    free(good);
    free(total);
}

/* Silence: where SQ_SILENCE calls are due, none at all is chance less than once in a million times. */
static void silence(void **state)
{
    (void)state;
    assert_true(sq_poisson_cdf(0, SQ_SILENCE) < 1e-6);
    assert_true(sq_poisson_cdf(0, SQ_SILENCE - 0.2) > 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_that_refute),
        cmocka_unit_test(tail_events),
        cmocka_unit_test(proportions_are_covered),
        cmocka_unit_test(ranks_by_sums),
        cmocka_unit_test(quantiles_are_covered),
        cmocka_unit_test(critical_u),
        cmocka_unit_test(power),
        cmocka_unit_test(rises_by_chance),
        cmocka_unit_test(short_faults_and_pages),
        cmocka_unit_test(silence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
