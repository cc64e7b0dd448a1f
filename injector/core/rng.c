/* xoshiro256** 1.0 and splitmix64, after Blackman and Vigna (public domain algorithms, https://prng.di.unimi.it/). */
#include "squall/rng.h"

#include <errno.h>
#include <sys/random.h>

#include "squall/clock.h"

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

void sq_rng_seed(struct sq_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        r->s[i] = splitmix(&seed);
}

uint64_t sq_rng_u64(struct sq_rng *r)
{
    uint64_t *s = r->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double sq_rng_double(struct sq_rng *r)
{
    return (double)(sq_rng_u64(r) >> 11) * 0x1.0p-53;
}

uint64_t sq_rng_below(struct sq_rng *r, uint64_t n)
{
    /* Lemire's multiply-and-reject: unbiased, nearly always one draw. */
    __extension__ unsigned __int128 m = (unsigned __int128)sq_rng_u64(r) * n;

    if ((uint64_t)m < n) {
        uint64_t floor = (0 - n) % n;

        while ((uint64_t)m < floor) {
            __extension__ unsigned __int128 again = (unsigned __int128)sq_rng_u64(r) * n;

            m = again;
        }
    }
    return (uint64_t)(m >> 64);
}

uint64_t sq_rng_entropy(void)
{
    uint64_t v = 0;

    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v)
        v = (uint64_t)sq_wall_ns() ^ (uint64_t)sq_mono_ns();
    return v;
}

void sq_rng_choose(struct sq_rng *r, size_t n, size_t k, size_t *out)
{
    size_t need = k;

    /* Knuth's selection sampling (TAOCP 3.4.2, S): ascending, one pass. */
    for (size_t i = 0; i < n && need > 0; i++) {
        if (sq_rng_below(r, n - i) < need)
            out[k - need--] = i;
    }
}
