/* The statistics behind the verdicts: exact, distribution-free intervals. Confidence is one-sided, 0.5 < conf < 1: a
 * lower and an upper bound at 95 % each make a two-sided interval at 90 %. All functions are pure and bounded in time.
 * Sources: Clopper & Pearson 1934; Hahn & Meeker, Statistical Intervals, 5.2 (order statistics); Numerical Recipes 6.2,
 * 6.4 (incomplete gamma and beta functions by continued fraction, modified Lentz). */
#ifndef SQUALL_VERIFY_STATS_H
#define SQUALL_VERIFY_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "squall/hist.h"

/* Regularized incomplete beta function I_x(a, b), a and b > 0, and incomplete gamma P(a, x), a > 0, x >= 0. */
double sq_beta_inc(double a, double b, double x);
double sq_gamma_inc(double a, double x);

/* P(X <= k) of a binomial with n trials and probability p, of a Poisson with mean mu. */
double sq_binomial_cdf(uint64_t k, uint64_t n, double p);
double sq_poisson_cdf(uint64_t k, double mu);

/* Bounds of a proportion of which k in n were seen (k <= n). n = 0: 0 and 1. */
double sq_cp_lower(uint64_t k, uint64_t n, double conf);
double sq_cp_upper(uint64_t k, uint64_t n, double conf);

/* Bounds of the mean of a Poisson of which k was seen. */
double sq_poisson_lower(uint64_t k, double conf);
double sq_poisson_upper(uint64_t k, double conf);

/* Ranks (1-based) of the order statistics of n values that bound the p-quantile (0 < p < 1): the k-th smallest is a
 * bound at that confidence. 0: none of the n is. */
uint64_t sq_rank_lower(uint64_t n, double p, double conf);
uint64_t sq_rank_upper(uint64_t n, double p, double conf);

/* A percentile p (0 < p < 100) of H with its bounds; has_* false: too few values for that bound. */
struct sq_quantile {
    uint64_t n;
    int64_t value, lower, upper;
    bool has_lower, has_upper;
};
void sq_quantile_of(const struct sq_hist *h, double p, double conf, struct sq_quantile *out);

/* How many trials decide whether a proportion is below LIMIT, if the share of k in n stays as it is: the smallest n' at
 * which its upper bound is below the limit, or its lower bound above it. 0: more than 10^9, or never. */
uint64_t sq_trials_to_decide(uint64_t k, uint64_t n, double limit, double conf);

/* Bounds of the ratio (c1 / w1) / (c0 / w0) of two Poisson rates: c events seen in exposure w (> 0). Conditional exact.
 * Upper is infinite when c0 is 0. */
double sq_rate_ratio_lower(uint64_t c1, double w1, uint64_t c0, double w0, double conf);
double sq_rate_ratio_upper(uint64_t c1, double w1, uint64_t c0, double w0, double conf);

/* Silence is proven when this many calls were expected and none came: e^-14 < 10^-6. */
#define SQ_SILENCE 14.0

#endif
