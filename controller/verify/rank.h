/* Two samples of runs, compared without assuming a distribution. Values must be finite. Pure.
 * Sources: Mann & Whitney 1947 (the exact distribution, ties by midranks: counted, not approximated); Hodges & Lehmann
 * 1963 with the interval of Moses; Holm 1979; van der Vaart, Asymptotic Statistics (efficiency 3/pi against Student's t
 * under normality). */
#ifndef SQUALL_VERIFY_RANK_H
#define SQUALL_VERIFY_RANK_H

#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

#define SQ_RANK_MAX 200 /* values a side */
#define SQ_RANK_EXACT_MAX                                                                                              \
    100 /* values of both sides together up to which p is exact; above: normal, ties corrected                         \
         */

enum sq_tail { SQ_TWO_SIDED, SQ_B_GREATER, SQ_B_LESS };

/* U of b (pairs with b > a, ties half) and its p. Two-sided: twice the smaller tail. */
struct sq_u {
    double u, p;
    bool exact;
};
int sq_u_test(const double *a, size_t n, const double *b, size_t m, enum sq_tail tail, struct sq_u *out,
              struct sq_err *e);

/* The median of all differences b - a, and the interval that the two-sided U test at 1 - conf does not reject;
 * has_bounds false: there are too few values for one (both bounds are infinite). */
struct sq_shift {
    double value, lower, upper;
    bool has_bounds;
};
int sq_hodges_lehmann(const double *a, size_t n, const double *b, size_t m, double conf, struct sq_shift *out,
                      struct sq_err *e);

/* Adjust n p-values in place for having looked n times (Holm). */
int sq_holm(double *p, size_t n, struct sq_err *e);

double sq_median(double *v, size_t n); /* sorts V; n > 0 */
/* Run-to-run spread: standard deviation over mean, as a share; 0 when n < 2 or the mean is 0. */
double sq_cv(const double *v, size_t n);
/* The smallest relative change that n against m runs of spread CV show in four of five attempts at significance P
 * (two-sided); infinite when that p can't be reached with so few. */
double sq_detectable(double cv, size_t n, size_t m, double p);
/* The smallest two-sided p that n against m values can have: 2 / C(n+m, n). */
double sq_u_least_p(size_t n, size_t m);
/* The standard normal distribution's quantile, 0 < p < 1. Source: Wichura 1988, AS 241. */
double sq_normal_quantile(double p);

#endif
