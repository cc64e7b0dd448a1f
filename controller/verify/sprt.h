/* Wald's sequential probability ratio test on a share of bad requests: is it p0 (well) or p1 (sick)? It may be looked
 * at after every request: the chance of calling p0 sick stays below alpha, of calling p1 well below beta (Wald 1945;
 * errors are at most alpha / (1 - beta), and a little smaller than asked for because of overshoot). Pure functions.
 *
 * A watch goes on for ever: whenever the test says "well" the next one begins. So that watching for long doesn't make a
 * false alarm certain, test k of a watch gets alpha / (k (k + 1)): all of them together get alpha. */
#ifndef SQUALL_VERIFY_SPRT_H
#define SQUALL_VERIFY_SPRT_H

#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

enum sq_sprt_says { SQ_SPRT_GOES_ON, SQ_SPRT_SICK, SQ_SPRT_WELL };

struct sq_sprt {
    double per_bad, per_good; /* what one request adds to the log likelihood ratio: > 0, < 0 */
    double upper, lower;      /* sick from there on, well from there on */
    double llr;
    uint64_t n, bad; /* requests seen */
};

/* 0 < p0 < p1 < 1; 0 < alpha, beta < 0.5. -EINVAL (SQ_C_INPUT) otherwise. */
int sq_sprt_init(struct sq_sprt *s, double p0, double p1, double alpha, double beta, struct sq_err *e);
/* BAD requests and GOOD ones, in any order. Once it has said sick or well, begin anew. */
enum sq_sprt_says sq_sprt_add(struct sq_sprt *s, uint64_t bad, uint64_t good);

struct sq_sprt_watch {
    struct sq_sprt test; /* the one that goes on */
    double p0, p1, alpha, beta;
    uint64_t k;   /* its number, from 1 */
    uint64_t min; /* requests without which no test says sick */
};

int sq_sprt_watch_init(struct sq_sprt_watch *w, double p0, double p1, double alpha, double beta, uint64_t min,
                       struct sq_err *e);
/* True: sick (w->test has what was seen). */
bool sq_sprt_watch_add(struct sq_sprt_watch *w, uint64_t bad, uint64_t good);

#endif
