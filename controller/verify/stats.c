#include "verify/stats.h"

#include <float.h>
#include <math.h>

#define MAX_ITER 1000000
#define TINY 1e-300
#define MAX_TRIALS UINT64_C(1000000000)

static double log_gamma(double x)
{
    int sign; /* lgamma() would write the global signgam */

    return lgamma_r(x, &sign);
}

/* The continued fraction of the incomplete beta function; converges in O(sqrt(max(a, b))) steps for x < (a+1)/(a+b+2).
 */
static double beta_fraction(double a, double b, double x)
{
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);

    d = 1.0 / (fabs(d) < TINY ? TINY : d);
    double h = d;
    for (int i = 1; i <= MAX_ITER; i++) {
        double m = i, even = m * (b - m) * x / ((a - 1.0 + 2.0 * m) * (a + 2.0 * m));

        d = 1.0 + even * d;
        c = 1.0 + even / c;
        d = 1.0 / (fabs(d) < TINY ? TINY : d);
        c = fabs(c) < TINY ? TINY : c;
        h *= d * c;

        double odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 1.0 + 2.0 * m));
        d = 1.0 + odd * d;
        c = 1.0 + odd / c;
        d = 1.0 / (fabs(d) < TINY ? TINY : d);
        c = fabs(c) < TINY ? TINY : c;
        double step = d * c;
        h *= step;
        if (fabs(step - 1.0) < 4.0 * DBL_EPSILON)
            break;
    }
    return h;
}

double sq_beta_inc(double a, double b, double x)
{
    if (x <= 0.0)
        return 0.0;
    if (x >= 1.0)
        return 1.0;
    double front = exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1.0) / (a + b + 2.0))
        return front * beta_fraction(a, b, x) / a;
    return 1.0 - front * beta_fraction(b, a, 1.0 - x) / b;
}

static double gamma_series(double a, double x)
{
    double term = 1.0 / a, sum = term;

    for (int i = 1; i <= MAX_ITER; i++) {
        term *= x / (a + i);
        sum += term;
        if (term < sum * DBL_EPSILON)
            break;
    }
    return sum * exp(-x + a * log(x) - log_gamma(a));
}

static double gamma_fraction(double a, double x) /* Q(a, x) */
{
    double b = x + 1.0 - a, c = 1.0 / TINY, d = 1.0 / b, h = d;

    for (int i = 1; i <= MAX_ITER; i++) {
        double an = -i * (i - a);

        b += 2.0;
        d = an * d + b;
        d = fabs(d) < TINY ? TINY : d;
        c = b + an / c;
        c = fabs(c) < TINY ? TINY : c;
        d = 1.0 / d;
        h *= d * c;
        if (fabs(d * c - 1.0) < 4.0 * DBL_EPSILON)
            break;
    }
    return h * exp(-x + a * log(x) - log_gamma(a));
}

double sq_gamma_inc(double a, double x)
{
    if (x <= 0.0)
        return 0.0;
    return x < a + 1.0 ? gamma_series(a, x) : 1.0 - gamma_fraction(a, x);
}

double sq_binomial_cdf(uint64_t k, uint64_t n, double p)
{
    if (k >= n)
        return 1.0;
    return sq_beta_inc((double)(n - k), (double)k + 1.0, 1.0 - p);
}

double sq_poisson_cdf(uint64_t k, double mu)
{
    return mu <= 0.0 ? 1.0 : 1.0 - sq_gamma_inc((double)k + 1.0, mu);
}

/* The x in [0, 1] at which the increasing I_x(a, b) reaches target. */
static double beta_inverse(double a, double b, double target)
{
    double lo = 0.0, hi = 1.0;

    for (int i = 0; i < 200 && hi - lo > 1e-15 * hi; i++) {
        double mid = 0.5 * (lo + hi);

        if (sq_beta_inc(a, b, mid) < target)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

double sq_cp_lower(uint64_t k, uint64_t n, double conf)
{
    if (n == 0 || k == 0)
        return 0.0;
    if (k >= n)
        return pow(1.0 - conf, 1.0 / (double)n);
    return beta_inverse((double)k, (double)(n - k) + 1.0, 1.0 - conf);
}

double sq_cp_upper(uint64_t k, uint64_t n, double conf)
{
    if (n == 0 || k >= n)
        return 1.0;
    if (k == 0)
        return -expm1(log1p(-conf) / (double)n);
    return beta_inverse((double)k + 1.0, (double)(n - k), conf);
}

static double gamma_inverse(double a, double target)
{
    double lo = 0.0, hi = a + 10.0;

    while (sq_gamma_inc(a, hi) < target && hi < 1e18)
        hi *= 2.0;
    for (int i = 0; i < 200 && hi - lo > 1e-14 * hi; i++) {
        double mid = 0.5 * (lo + hi);

        if (sq_gamma_inc(a, mid) < target)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

double sq_poisson_lower(uint64_t k, double conf)
{
    return k == 0 ? 0.0 : gamma_inverse((double)k, 1.0 - conf);
}

double sq_poisson_upper(uint64_t k, double conf)
{
    return gamma_inverse((double)k + 1.0, conf);
}

/* P(X_(r) >= q_p) = P(Bin(n, p) <= r - 1) grows with r: the smallest r that is sure enough. */
uint64_t sq_rank_upper(uint64_t n, double p, double conf)
{
    uint64_t lo = 1, hi = n;

    if (n == 0 || -expm1((double)n * log(p)) < conf) /* r = n: 1 - p^n */
        return 0;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;

        if (sq_binomial_cdf(mid - 1, n, p) >= conf)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* P(X_(r) <= q_p) = P(Bin(n, p) >= r) falls with r: the largest r that is sure enough. */
uint64_t sq_rank_lower(uint64_t n, double p, double conf)
{
    uint64_t lo = 0, hi = n;

    while (lo < hi) {
        uint64_t mid = hi - (hi - lo) / 2;

        if (1.0 - sq_binomial_cdf(mid - 1, n, p) >= conf)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

void sq_quantile_of(const struct sq_hist *h, double p, double conf, struct sq_quantile *out)
{
    uint64_t n = sq_hist_count(h);
    uint64_t lower = sq_rank_lower(n, p / 100.0, conf), upper = sq_rank_upper(n, p / 100.0, conf);

    *out = (struct sq_quantile){.n = n, .value = sq_hist_percentile(h, p)};
    if (lower > 0) {
        out->has_lower = true;
        out->lower = sq_hist_rank(h, lower);
    }
    if (upper > 0) {
        out->has_upper = true;
        out->upper = sq_hist_rank(h, upper);
    }
}

static bool decided(double share, uint64_t n, double limit, double conf)
{
    uint64_t k = (uint64_t)llround(share * (double)n);

    k = k > n ? n : k;
    return sq_cp_upper(k, n, conf) < limit || sq_cp_lower(k, n, conf) > limit;
}

uint64_t sq_trials_to_decide(uint64_t k, uint64_t n, double limit, double conf)
{
    double share = n ? (double)k / (double)n : 0.0;
    uint64_t hi = n ? n : 1;

    while (!decided(share, hi, limit, conf)) {
        hi *= 2;
        if (hi > MAX_TRIALS)
            return 0;
    }
    uint64_t lo = hi / 2;
    while (lo + 1 < hi) { /* nearly monotone: rounding of k makes small steps, which don't matter to a person */
        uint64_t mid = lo + (hi - lo) / 2;

        if (decided(share, mid, limit, conf))
            hi = mid;
        else
            lo = mid;
    }
    return hi;
}

static double odds(double p)
{
    return p >= 1.0 ? INFINITY : p / (1.0 - p);
}

double sq_rate_ratio_lower(uint64_t c1, double w1, uint64_t c0, double w0, double conf)
{
    return odds(sq_cp_lower(c1, c1 + c0, conf)) * w0 / w1;
}

double sq_rate_ratio_upper(uint64_t c1, double w1, uint64_t c0, double w0, double conf)
{
    return odds(sq_cp_upper(c1, c1 + c0, conf)) * w0 / w1;
}
