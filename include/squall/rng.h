/* Seeded random numbers (xoshiro256**, seeded by splitmix64): the same seed gives the same choices on every host. */
#ifndef SQUALL_RNG_H
#define SQUALL_RNG_H

#include <stddef.h>
#include <stdint.h>

struct sq_rng {
    uint64_t s[4];
};

void sq_rng_seed(struct sq_rng *r, uint64_t seed);
uint64_t sq_rng_u64(struct sq_rng *r);
double sq_rng_double(struct sq_rng *r);              /* [0, 1) */
uint64_t sq_rng_below(struct sq_rng *r, uint64_t n); /* [0, n), n >= 1, unbiased */
uint64_t sq_rng_entropy(void);                       /* from getrandom(2) */
/* Choose k of n without replacement into out[k], ascending indices. k <= n. */
void sq_rng_choose(struct sq_rng *r, size_t n, size_t k, size_t *out);

#endif
