#include "verify/rank.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"

#define POWER 0.8

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double sq_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2.0;
}

double sq_cv(const double *v, size_t n)
{
    double sum = 0, sq = 0;

    if (n < 2)
        return 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        sq += (v[i] - mean) * (v[i] - mean);
    return fabs(mean) > 0 ? sqrt(sq / (double)(n - 1)) / fabs(mean) : 0;
}

static double polynomial(const double *c, size_t n, double x)
{
    double r = c[n - 1];

    for (size_t i = n - 1; i > 0; i--)
        r = r * x + c[i - 1];
    return r;
}

double sq_normal_quantile(double p)
{
    static const double a[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                               1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                               3.3430575583588128105e4, 2.5090809287301226727e3};
    static const double b[] = {1.0,
                               4.2313330701600911252e1,
                               6.8718700749205790830e2,
                               5.3941960214247511077e3,
                               2.1213794301586595867e4,
                               3.9307895800092710610e4,
                               2.8729085735721942674e4,
                               5.2264952788528545610e3};
    static const double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                               3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                               2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[] = {1.0,
                               2.05319162663775882187e0,
                               1.67638483018380384940e0,
                               6.89767334985100004550e-1,
                               1.48103976427480074590e-1,
                               1.51986665636164571966e-2,
                               5.47593808499534494600e-4,
                               1.05075007164441684324e-9};
    static const double f[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                               2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                               2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double g[] = {1.0,
                               5.99832206555887937690e-1,
                               1.36929880922735805310e-1,
                               1.48753612908506148525e-2,
                               7.86869131145613259100e-4,
                               1.84631831751005468180e-5,
                               1.42151175831644588870e-7,
                               2.04426310338993978564e-15};
    double q = p - 0.5;

    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;

        return q * polynomial(a, 8, r) / polynomial(b, 8, r);
    }
    double r = sqrt(-log(q < 0 ? p : 1.0 - p)), x;
    if (r <= 5.0)
        x = polynomial(c, 8, r - 1.6) / polynomial(d, 8, r - 1.6);
    else
        x = polynomial(f, 8, r - 5.0) / polynomial(g, 8, r - 5.0);
    return q < 0 ? -x : x;
}

static double normal_cdf(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

/* --- the distribution of the rank sum --- */

/* Twice the midrank of each value of the pooled sample (whole numbers, so that ties can be counted exactly), in
 * ascending order; *sum_b: of those of B. */
struct pooled {
    size_t n, m, total;
    unsigned *rank2;
    unsigned long sum_b;
    double ties; /* sum of t^3 - t */
};

struct tagged {
    double v;
    bool b;
};

static int by_value(const void *a, const void *b)
{
    return ascending(&((const struct tagged *)a)->v, &((const struct tagged *)b)->v);
}

static int pool(const double *a, size_t n, const double *b, size_t m, struct pooled *out, struct sq_err *e)
{
    size_t total = n + m;
    cleanup_free struct tagged *all = calloc(total, sizeof *all);

    *out = (struct pooled){.n = n, .m = m, .total = total, .rank2 = calloc(total, sizeof *out->rank2)};
    if (!all || !out->rank2)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        all[i] = (struct tagged){a[i], false};
    for (size_t i = 0; i < m; i++)
        all[n + i] = (struct tagged){b[i], true};
    qsort(all, total, sizeof *all, by_value);
    for (size_t i = 0; i < total;) {
        size_t j = i + 1;

        while (j < total && all[j].v <= all[i].v)
            j++;
        for (size_t k = i; k < j; k++) {
            out->rank2[k] = (unsigned)(i + 1 + j);
            out->sum_b += all[k].b ? out->rank2[k] : 0;
        }
        out->ties += pow((double)(j - i), 3) - (double)(j - i);
        i = j;
    }
    return 0;
}

/* ways[s]: how many subsets of m of the pooled values have the doubled rank sum s. *width: number of sums. */
static int count_subsets(const struct pooled *p, double **ways, size_t *width, struct sq_err *e)
{
    size_t w = p->total * (p->total + 1) + 1;
    cleanup_free double *table = calloc((p->m + 1) * w, sizeof *table);

    *ways = calloc(w, sizeof **ways);
    *width = w;
    if (!table || !*ways)
        return sq_err(e, -ENOMEM, "out of memory");
    table[0] = 1;
    for (size_t i = 0; i < p->total; i++)
        for (size_t k = i + 1 < p->m ? i + 1 : p->m; k > 0; k--)
            for (size_t s = p->rank2[i]; s < w; s++)
                table[k * w + s] += table[(k - 1) * w + s - p->rank2[i]];
    memcpy(*ways, table + p->m * w, w * sizeof **ways);
    return 0;
}

static double tail_p(double below, double above, enum sq_tail tail)
{
    double p = 2.0 * fmin(below, above);

    if (tail == SQ_B_GREATER)
        return above;
    if (tail == SQ_B_LESS)
        return below;
    return p < 1.0 ? p : 1.0;
}

static int exact_p(const struct pooled *p, enum sq_tail tail, double *out, struct sq_err *e)
{
    cleanup_free double *ways = NULL;
    double below = 0, above = 0, all = 0;
    size_t w;
    int rc = count_subsets(p, &ways, &w, e);

    if (rc < 0)
        return rc;
    for (size_t s = 0; s < w; s++) {
        all += ways[s];
        below += s <= p->sum_b ? ways[s] : 0;
        above += s >= p->sum_b ? ways[s] : 0;
    }
    *out = tail_p(below / all, above / all, tail);
    return 0;
}

static double normal_p(const struct pooled *p, double u, enum sq_tail tail)
{
    double n = (double)p->n, m = (double)p->m, t = n + m;
    double sd = sqrt(n * m / 12.0 * (t + 1.0 - p->ties / (t * (t - 1.0))));
    double mean = n * m / 2.0;

    if (sd <= 0)
        return 1.0;
    return tail_p(normal_cdf((u - mean + 0.5) / sd), normal_cdf(-(u - mean - 0.5) / sd), tail);
}

static int check_sizes(size_t n, size_t m, struct sq_err *e)
{
    if (n == 0 || m == 0 || n > SQ_RANK_MAX || m > SQ_RANK_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%zu and %zu runs can't be compared: 1 to %d a side", n, m,
                          SQ_RANK_MAX);
    return 0;
}

int sq_u_test(const double *a, size_t n, const double *b, size_t m, enum sq_tail tail, struct sq_u *out,
              struct sq_err *e)
{
    struct pooled p = {0};
    int rc = check_sizes(n, m, e);

    if (rc == 0)
        rc = pool(a, n, b, m, &p, e);
    if (rc == 0) {
        out->u = (double)p.sum_b / 2.0 - (double)m * (double)(m + 1) / 2.0;
        out->exact = n + m <= SQ_RANK_EXACT_MAX;
        if (out->exact)
            rc = exact_p(&p, tail, &out->p, e);
        else
            out->p = normal_p(&p, out->u, tail);
    }
    free(p.rank2);
    return rc;
}

/* --- the shift --- */

/* The largest k with P(U <= k - 1) <= alpha / 2 without ties: the k-th smallest and largest differences bound the
 * shift. 0: there is none. */
static int shift_rank(size_t n, size_t m, double alpha, size_t *k, struct sq_err *e)
{
    *k = 0;
    if (n + m > SQ_RANK_EXACT_MAX) {
        double mean = (double)(n * m) / 2.0, sd = sqrt((double)(n * m) * (double)(n + m + 1) / 12.0);
        double r = floor(mean + sq_normal_quantile(alpha / 2.0) * sd);

        *k = r > 0 ? (size_t)r : 0;
        return 0;
    }
    struct pooled p = {.n = n, .m = m, .total = n + m, .rank2 = calloc(n + m, sizeof *p.rank2)};
    cleanup_free double *ways = NULL;
    double all = 0, below = 0;
    size_t w = 0, least = m * (m + 1); /* doubled rank sum of the lowest m */
    int rc = p.rank2 ? 0 : sq_err(e, -ENOMEM, "out of memory");

    for (size_t i = 0; rc == 0 && i < p.total; i++)
        p.rank2[i] = (unsigned)(2 * (i + 1));
    if (rc == 0)
        rc = count_subsets(&p, &ways, &w, e);
    for (size_t s = 0; rc == 0 && s < w; s++)
        all += ways[s];
    for (size_t s = least; rc == 0 && s < w; s += 2) {
        below += ways[s];
        if (below / all > alpha / 2.0)
            break;
        (*k)++;
    }
    free(p.rank2);
    return rc;
}

int sq_hodges_lehmann(const double *a, size_t n, const double *b, size_t m, double conf, struct sq_shift *out,
                      struct sq_err *e)
{
    int rc = check_sizes(n, m, e);
    size_t k = 0;

    if (rc < 0)
        return rc;
    cleanup_free double *d = calloc(n * m, sizeof *d);
    if (!d)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            d[i * m + j] = b[j] - a[i];
    out->value = sq_median(d, n * m); /* sorted from here on */
    rc = shift_rank(n, m, 1.0 - conf, &k, e);
    if (rc < 0)
        return rc;
    out->has_bounds = k > 0;
    out->lower = k ? d[k - 1] : -INFINITY;
    out->upper = k ? d[n * m - k] : INFINITY;
    return 0;
}

/* --- how many were looked at, how much could be seen --- */

struct indexed {
    double p;
    size_t at;
};

static int by_p(const void *a, const void *b)
{
    return ascending(&((const struct indexed *)a)->p, &((const struct indexed *)b)->p);
}

int sq_holm(double *p, size_t n, struct sq_err *e)
{
    cleanup_free struct indexed *order = calloc(n ? n : 1, sizeof *order);
    double most = 0;

    if (!order)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        order[i] = (struct indexed){p[i], i};
    qsort(order, n, sizeof *order, by_p);
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fmin(1.0, order[i].p * (double)(n - i)));
        p[order[i].at] = most;
    }
    return 0;
}

double sq_u_least_p(size_t n, size_t m)
{
    double ways = 1;

    for (size_t i = 1; i <= n; i++)
        ways *= (double)(m + i) / (double)i;
    return fmin(1.0, 2.0 / ways);
}

/* Student's t by its expansion around the normal (Abramowitz & Stegun 26.7.5): right to a percent from 6 degrees on. */
static double t_quantile(double p, double df)
{
    double z = sq_normal_quantile(p), z3 = z * z * z, z5 = z3 * z * z;

    return z + (z3 + z) / (4.0 * df) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * df * df);
}

double sq_detectable(double cv, size_t n, size_t m, double p)
{
    if (n == 0 || m == 0 || sq_u_least_p(n, m) > p)
        return INFINITY;
    double df = (double)(n + m - 2), both = 1.0 / (double)n + 1.0 / (double)m;
    /* The last factor is what the steps of the exact distribution cost small samples: fitted to simulations at n = 8 to
     * 20 and p = 0.0025 to 0.05 (test_rank.c repeats two of them). */
    return (t_quantile(1.0 - p / 2.0, df) + t_quantile(POWER, df)) * cv * sqrt(both * M_PI / 3.0) * (1.0 + 0.6 * both);
}
