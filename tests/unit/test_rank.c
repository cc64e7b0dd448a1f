/* The statistics of comparing runs, against values worked out by other means (the formula or program is beside each).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/rng.h"
#include "verify/rank.h"

static double p_of(const double *a, size_t n, const double *b, size_t m, enum sq_tail tail)
{
    struct sq_err e = {0};
    struct sq_u u;

    assert_int_equal(sq_u_test(a, n, b, m, tail, &u, &e), 0);
    return u.p;
}

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("got %.10g, wanted %.10g", got, want);
}

/* U and p by trying all C(n+m, n) ways: nothing in common with the counting in rank.c. */
static double brute(const double *v, size_t n, size_t m)
{
    size_t total = n + m;
    double mine = 0, below = 0, above = 0, all = 0;

    for (unsigned set = 0; set < 1u << total; set++) {
        double u = 0;

        if ((size_t)__builtin_popcount(set) != m)
            continue;
        for (size_t i = 0; i < total; i++)
            for (size_t j = 0; j < total; j++)
                if ((set >> j & 1) && !(set >> i & 1))
                    u += v[j] > v[i] ? 1 : v[j] >= v[i] ? 0.5 : 0;
        if (set == ((1u << total) - 1) >> n << n)
            mine = u;
    }
    for (unsigned set = 0; set < 1u << total; set++) {
        double u = 0;

        if ((size_t)__builtin_popcount(set) != m)
            continue;
        for (size_t i = 0; i < total; i++)
            for (size_t j = 0; j < total; j++)
                if ((set >> j & 1) && !(set >> i & 1))
                    u += v[j] > v[i] ? 1 : v[j] >= v[i] ? 0.5 : 0;
        all++;
        below += u <= mine + 1e-9;
        above += u >= mine - 1e-9;
    }
    return fmin(1, 2 * fmin(below, above) / all);
}

static void u_is_exact(void **state)
{
    (void)state;
    struct sq_rng rng;
    sq_rng_seed(&rng, 7);
    for (int round = 0; round < 60; round++) {
        size_t n = 1 + (size_t)(sq_rng_double(&rng) * 6), m = 1 + (size_t)(sq_rng_double(&rng) * 6);
        double v[12];

        for (size_t i = 0; i < n + m; i++) /* every other round full of ties */
            v[i] = round % 2 ? floor(sq_rng_double(&rng) * 4) : sq_rng_double(&rng);
        near(p_of(v, n, v + n, m, SQ_TWO_SIDED), brute(v, n, m), 1e-12);
    }
}

/* benchstat's table: 2 / C(2n, n). */
static void least_p(void **state)
{
    (void)state;
    double a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {11, 12, 13, 14, 15, 16, 17, 18};
    near(sq_u_least_p(4, 4), 2.0 / 70, 1e-12);
    near(sq_u_least_p(5, 5), 2.0 / 252, 1e-12);
    near(sq_u_least_p(8, 8), 2.0 / 12870, 1e-12);
    near(p_of(a, 8, b, 8, SQ_TWO_SIDED), 2.0 / 12870, 1e-12);
    near(p_of(a, 8, b, 8, SQ_B_GREATER), 1.0 / 12870, 1e-12);
    near(p_of(a, 8, b, 8, SQ_B_LESS), 1.0, 1e-12);
}

/* "n=8 against 8, p < 0.01 two-sided means U <= 7": one step more is not significant. */
static void u_of_seven(void **state)
{
    (void)state;
    double a[8], b[8];
    double last = 0;
    unsigned most = 0;

    /* b lies above a but for k inversions, one at a time: move the lowest b down past k values of a. */
    for (unsigned k = 0; k <= 8; k++) {
        for (unsigned i = 0; i < 8; i++) {
            a[i] = i + 1;
            b[i] = 100 + i;
        }
        b[0] = 8 - k + 0.5;
        last = p_of(a, 8, b, 8, SQ_TWO_SIDED);
        if (last < 0.01)
            most = k;
    }
    assert_int_equal(most, 7);
    assert_true(last >= 0.01);
}

static void normal(void **state)
{
    (void)state;
    near(sq_normal_quantile(0.975), 1.959963984540054, 1e-12);
    near(sq_normal_quantile(0.995), 2.5758293035489004, 1e-12);
    near(sq_normal_quantile(0.8), 0.8416212335729143, 1e-12);
    near(sq_normal_quantile(1e-9), -5.997807015007687, 1e-10);
    near(sq_normal_quantile(0.5), 0, 1e-15);
}

/* A large sample's normal p agrees with the exact one of just as many that are still counted. */
static void large(void **state)
{
    (void)state;
    double a[150], b[150];
    struct sq_rng rng;
    struct sq_err e = {0};
    struct sq_u exact, approx;

    sq_rng_seed(&rng, 3);
    for (int i = 0; i < 150; i++) {
        a[i] = sq_rng_double(&rng);
        b[i] = sq_rng_double(&rng) + 0.12;
    }
    assert_int_equal(sq_u_test(a, 50, b, 50, SQ_TWO_SIDED, &exact, &e), 0);
    assert_true(exact.exact);
    assert_int_equal(sq_u_test(a, 51, b, 50, SQ_TWO_SIDED, &approx, &e), 0);
    assert_false(approx.exact);
    assert_true(approx.p > exact.p * 0.3 && approx.p < exact.p * 3 + 0.02);
    assert_int_equal(sq_u_test(a, 201, b, 1, SQ_TWO_SIDED, &exact, &e), -EINVAL);
    assert_int_equal(sq_u_test(a, 0, b, 1, SQ_TWO_SIDED, &exact, &e), -EINVAL);
}

/* Hollander & Wolfe, Nonparametric Statistical Methods, example 4.1 (water permeability of the human chorioamnion):
 * HL 0.305 (at term minus 12 to 26 weeks); 96 % interval from the Mann-Whitney tables (-0.76, 0.15) with the sign
 * turned. */
static void shift(void **state)
{
    (void)state;
    double term[] = {0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46},
           weeks[] = {1.15, 0.88, 0.90, 0.74, 1.21};
    struct sq_err e = {0};
    struct sq_shift s;

    assert_int_equal(sq_hodges_lehmann(weeks, 5, term, 10, 0.96, &s, &e), 0);
    near(s.value, 0.305, 1e-9);
    assert_true(s.has_bounds);
    near(s.lower, -0.15, 1e-9);
    near(s.upper, 0.76, 1e-9);
    assert_int_equal(sq_hodges_lehmann(weeks, 2, term, 2, 0.95, &s, &e), 0);
    assert_false(s.has_bounds);
}

/* The interval covers what it says: 1,000 pairs of samples from one distribution. */
static void coverage(void **state)
{
    (void)state;
    struct sq_rng rng;
    struct sq_err e = {0};
    int missed = 0;

    sq_rng_seed(&rng, 11);
    for (int round = 0; round < 1000; round++) {
        double a[8], b[8];
        struct sq_shift s;

        for (int i = 0; i < 8; i++) {
            a[i] = -log(1 - sq_rng_double(&rng));
            b[i] = -log(1 - sq_rng_double(&rng));
        }
        assert_int_equal(sq_hodges_lehmann(a, 8, b, 8, 0.95, &s, &e), 0);
        missed += s.lower > 0 || s.upper < 0;
    }
    assert_true(missed <= 75); /* 5 % of 1,000 and more than three standard deviations */
    assert_true(missed >= 20); /* and no interval so wide that it says nothing */
}

/* R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") is 0.03 0.06 0.06 0.02 */
static void holm(void **state)
{
    (void)state;
    double p[] = {0.01, 0.04, 0.03, 0.005}, want[] = {0.03, 0.06, 0.06, 0.02};
    struct sq_err e = {0};

    assert_int_equal(sq_holm(p, 4, &e), 0);
    for (int i = 0; i < 4; i++)
        near(p[i], want[i], 1e-12);
}

static double gauss(struct sq_rng *rng)
{
    double u = sq_rng_double(rng);

    return sq_normal_quantile(u <= 0 ? 0.5 : u);
}

/* Power at n = 8 with the rule "p < 0.01 and the median shift over 10 %": how often a
 * true change is blocked, by simulation. */
static void power(void **state)
{
    (void)state;
    static const struct {
        double cv, change, blocked, tolerance;
    } table[] = {
        {0.03, 0.00, 0.000, 0.01}, {0.03, 0.12, 0.86, 0.05}, {0.03, 0.15, 0.99, 0.03}, {0.05, 0.12, 0.70, 0.05},
        {0.05, 0.20, 1.00, 0.02},  {0.08, 0.15, 0.59, 0.05}, {0.10, 0.20, 0.65, 0.05}, {0.10, 0.12, 0.21, 0.05},
    };
    struct sq_rng rng;

    sq_rng_seed(&rng, 5);
    for (size_t t = 0; t < sizeof table / sizeof *table; t++) {
        int blocked = 0, rounds = 2000;

        for (int round = 0; round < rounds; round++) {
            double a[8], b[8], sa[8], sb[8];

            for (int i = 0; i < 8; i++) {
                sa[i] = a[i] = 100 * (1 + table[t].cv * gauss(&rng));
                sb[i] = b[i] = 100 * (1 + table[t].change) * (1 + table[t].cv * gauss(&rng));
            }
            if (p_of(a, 8, b, 8, SQ_TWO_SIDED) < 0.01 && sq_median(sb, 8) > 1.10 * sq_median(sa, 8))
                blocked++;
        }
        near((double)blocked / rounds, table[t].blocked, table[t].tolerance);
    }
}

/* sq_detectable promises power 0.8: simulated. */
static void detectable(void **state)
{
    (void)state;
    struct sq_rng rng;

    sq_rng_seed(&rng, 9);
    for (size_t n = 8; n <= 16; n += 8) {
        double d = sq_detectable(0.04, n, n, 0.01);
        int seen = 0, rounds = 2000;

        for (int round = 0; round < rounds; round++) {
            double a[16], b[16];

            for (size_t i = 0; i < n; i++) {
                a[i] = 1 + 0.04 * gauss(&rng);
                b[i] = (1 + d) * (1 + 0.04 * gauss(&rng));
            }
            seen += p_of(a, n, b, n, SQ_TWO_SIDED) < 0.01;
        }
        near((double)seen / rounds, 0.8, 0.04);
    }
    assert_true(isinf(sq_detectable(0.01, 4, 4, 0.01))); /* 2/70 is the least that p can be */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(u_is_exact), cmocka_unit_test(least_p), cmocka_unit_test(u_of_seven),
        cmocka_unit_test(normal),     cmocka_unit_test(large),   cmocka_unit_test(shift),
        cmocka_unit_test(coverage),   cmocka_unit_test(holm),    cmocka_unit_test(power),
        cmocka_unit_test(detectable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
