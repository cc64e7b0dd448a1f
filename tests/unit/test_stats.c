/* Statistics against values from elsewhere: published Clopper-Pearson and Poisson tables, closed forms, and the sample
 * sizes of the rule of three. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "squall/units.h"
#include "verify/stats.h"

#define NEAR(a, b, eps) assert_true(fabs((a) - (b)) <= (eps))

static void special_functions(void **state)
{
    (void)state;
    NEAR(sq_beta_inc(1, 1, 0.3), 0.3, 1e-14);  /* uniform */
    NEAR(sq_beta_inc(2, 1, 0.3), 0.09, 1e-14); /* x^2 */
    NEAR(sq_beta_inc(1, 3, 0.2), 1 - 0.8 * 0.8 * 0.8, 1e-14);
    NEAR(sq_beta_inc(0.5, 0.5, 0.5), 0.5, 1e-14); /* arcsine law, symmetric */
    NEAR(sq_beta_inc(5e5, 5e5, 0.5), 0.5, 1e-9);
    NEAR(sq_gamma_inc(1, 2), 1 - exp(-2), 1e-14); /* exponential */
    NEAR(sq_gamma_inc(3, 1), 1 - exp(-1) * 2.5, 1e-14);
    NEAR(sq_gamma_inc(0.5, 1.0), erf(1.0), 1e-14);
    assert_true(sq_beta_inc(3, 4, 0) == 0 && sq_beta_inc(3, 4, 1) == 1 && sq_gamma_inc(3, 0) == 0);
}

/* Against plain summation. */
static void distributions(void **state)
{
    (void)state;
    double sum = 0, term = pow(0.7, 40);
    for (uint64_t k = 0; k <= 40; k++) {
        sum += term;
        NEAR(sq_binomial_cdf(k, 40, 0.3), sum, 1e-12);
        term *= (double)(40 - k) / ((double)k + 1) * 0.3 / 0.7;
    }
    sum = 0, term = exp(-7.5);
    for (uint64_t k = 0; k < 40; k++) {
        sum += term;
        NEAR(sq_poisson_cdf(k, 7.5), sum, 1e-12);
        term *= 7.5 / ((double)k + 1);
    }
}

/* Two-sided 95 % limits (0.975 each side) from the tables in Agresti & Coull / any textbook, and closed forms. */
static void clopper_pearson(void **state)
{
    (void)state;
    NEAR(sq_cp_lower(1, 10, 0.975), 0.0025286, 5e-7);
    NEAR(sq_cp_upper(1, 10, 0.975), 0.4450161, 5e-7);
    NEAR(sq_cp_lower(5, 10, 0.975), 0.1870860, 5e-7);
    NEAR(sq_cp_upper(5, 10, 0.975), 0.8129140, 5e-7);
    NEAR(sq_cp_upper(0, 10, 0.975), 0.3084971, 5e-7);
    NEAR(sq_cp_lower(10, 10, 0.975), 0.6915029, 5e-7);
    NEAR(sq_cp_upper(0, 59, 0.95), 1 - pow(0.05, 1.0 / 59), 1e-14);
    NEAR(sq_cp_lower(0, 10, 0.95), 0, 0);
    NEAR(sq_cp_upper(10, 10, 0.95), 1, 0);
    NEAR(sq_cp_lower(0, 0, 0.95), 0, 0);
    NEAR(sq_cp_upper(0, 0, 0.95), 1, 0);
    /* by definition: the limit is the p at which what was seen has a probability of 5 % */
    NEAR(sq_binomial_cdf(7, 14400, sq_cp_upper(7, 14400, 0.95)), 0.05, 1e-9);
    NEAR(1 - sq_binomial_cdf(6, 14400, sq_cp_lower(7, 14400, 0.95)), 0.05, 1e-9);
    NEAR(sq_cp_upper(500000, 1000000, 0.95), 0.5 + 1.6448536 * 0.0005, 2e-6); /* normal limit */
}

/* To prove less than 0.1 % at 95 %: 2,995 requests without a failure, 4,742 with one, 6,294 with two. */
static void requests_that_prove(void **state)
{
    const uint64_t need[] = {2995, 4742, 6294};

    (void)state;
    for (uint64_t k = 0; k < 3; k++) {
        assert_true(sq_cp_upper(k, need[k], 0.95) < 0.001);
        assert_false(sq_cp_upper(k, need[k] - 1, 0.95) < 0.001);
    }
    assert_true(sq_cp_upper(0, 3600, 0.95) < 0.001 && sq_cp_upper(1, 3600, 0.95) > 0.001);
    assert_true(sq_cp_upper(7, 14400, 0.95) < 0.001 && sq_cp_upper(8, 14400, 0.95) > 0.001);
    assert_int_equal(sq_trials_to_decide(0, 100, 0.001, 0.95), 2995);
    assert_int_equal(sq_trials_to_decide(0, 0, 0.05, 0.95), 59);
    assert_int_equal(sq_trials_to_decide(1, 1000, 0.001, 0.95), 0); /* exactly on the limit: never */
    uint64_t n = sq_trials_to_decide(5, 1000, 0.001, 0.95);         /* refuted already */
    assert_in_range(n, 2, 1000);
}

static void poisson_bounds(void **state)
{
    (void)state;
    /* Garwood's table, 95 % two-sided */
    NEAR(sq_poisson_upper(0, 0.975), 3.6889, 5e-5);
    NEAR(sq_poisson_lower(1, 0.975), 0.0253, 5e-5);
    NEAR(sq_poisson_upper(1, 0.975), 5.5716, 5e-5);
    NEAR(sq_poisson_lower(10, 0.975), 4.7954, 5e-5);
    NEAR(sq_poisson_upper(10, 0.975), 18.3904, 5e-5);
    NEAR(sq_poisson_upper(0, 0.95), -log(0.05), 1e-9);
    assert_true(sq_poisson_lower(0, 0.95) == 0);
}

/* A one-sided 95 % bound exists only from n = 59 (p95), 299 (p99), 2,995 (p99.9). */
static void ranks(void **state)
{
    (void)state;
    assert_int_equal(sq_rank_upper(58, 0.95, 0.95), 0);
    assert_int_equal(sq_rank_upper(59, 0.95, 0.95), 59);
    assert_int_equal(sq_rank_upper(298, 0.99, 0.95), 0);
    assert_int_equal(sq_rank_upper(299, 0.99, 0.95), 299);
    assert_int_equal(sq_rank_upper(2994, 0.999, 0.95), 0);
    assert_int_equal(sq_rank_upper(2995, 0.999, 0.95), 2995);
    /* the median of n = 10 at 0.975 each: the 2nd and the 9th value, a standard table's entry */
    assert_int_equal(sq_rank_lower(10, 0.5, 0.975), 2);
    assert_int_equal(sq_rank_upper(10, 0.5, 0.975), 9);
    assert_int_equal(sq_rank_lower(0, 0.5, 0.95), 0);
    assert_int_equal(sq_rank_upper(0, 0.5, 0.95), 0);
    for (uint64_t n = 59; n < 5000; n += 97) { /* by definition, and the next one would not do */
        uint64_t u = sq_rank_upper(n, 0.95, 0.95), l = sq_rank_lower(n, 0.95, 0.95);

        assert_true(sq_binomial_cdf(u - 1, n, 0.95) >= 0.95 && sq_binomial_cdf(u - 2, n, 0.95) < 0.95);
        assert_true(1 - sq_binomial_cdf(l - 1, n, 0.95) >= 0.95 && 1 - sq_binomial_cdf(l, n, 0.95) < 0.95);
    }
}

static void quantiles(void **state)
{
    struct sq_hist *h = sq_hist_new();
    struct sq_quantile q;

    (void)state;
    assert_non_null(h);
    for (int64_t i = 1; i <= 1000; i++)
        sq_hist_record(h, i * SQ_MS);
    sq_quantile_of(h, 95, 0.95, &q);
    assert_int_equal(q.n, 1000);
    assert_true(q.has_lower && q.has_upper && q.lower < q.value && q.value < q.upper);
    NEAR((double)q.value, 950e6, 1e6);
    NEAR((double)q.upper, 962e6, 3e6); /* 950 + 1.645 * sqrt(1000 * .95 * .05) */
    NEAR((double)q.lower, 939e6, 3e6);
    sq_hist_reset(h);
    sq_quantile_of(h, 95, 0.95, &q);
    assert_true(!q.has_lower && !q.has_upper && q.n == 0);
    sq_hist_free(h);
}

static void rate_ratio(void **state)
{
    (void)state;
    double lo = sq_rate_ratio_lower(600, 10, 600, 10, 0.95), hi = sq_rate_ratio_upper(600, 10, 600, 10, 0.95);

    assert_true(lo < 1 && hi > 1 && lo > 0.89 && hi < 1.11);
    NEAR(lo * hi, 1, 1e-9); /* symmetric */
    assert_true(isinf(sq_rate_ratio_upper(10, 1, 0, 1, 0.95)));
    NEAR(sq_rate_ratio_lower(300, 10, 600, 20, 0.95), sq_rate_ratio_lower(300, 20, 600, 40, 0.95), 1e-12);
    assert_true(sq_rate_ratio_lower(1800, 10, 600, 10, 0.95) > 2.7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(special_functions),   cmocka_unit_test(distributions),  cmocka_unit_test(clopper_pearson),
        cmocka_unit_test(requests_that_prove), cmocka_unit_test(poisson_bounds), cmocka_unit_test(ranks),
        cmocka_unit_test(quantiles),           cmocka_unit_test(rate_ratio),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
