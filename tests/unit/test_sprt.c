/* The sequential test, by simulation of 100,000 runs against the figures of the reference: p0 = 0.1 %, p1 = 1 %, alpha
 * = beta = 1 %: false stop 0.4 %; median requests to stop 298 at 1 %, 54 at 5 %, 14 at 20 %, 2 at 100 %. The same
 * figures came out of a simulation in Python that shares nothing with this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "squall/rng.h"
#include "verify/sprt.h"

#define RUNS 100000

/* How many good requests come before the next bad one. */
static uint64_t until_bad(struct sq_rng *r, double p)
{
    return p >= 1.0 ? 0 : (uint64_t)floor(log(1.0 - sq_rng_double(r)) / log1p(-p));
}

static enum sq_sprt_says one_run(struct sq_rng *r, double p, uint64_t *n)
{
    struct sq_sprt s;
    enum sq_sprt_says says;

    assert_int_equal(sq_sprt_init(&s, 0.001, 0.01, 0.01, 0.01, NULL), 0);
    do { /* good ones can only end it as well, so that they may be added in one go */
        says = sq_sprt_add(&s, 0, until_bad(r, p));
        if (says == SQ_SPRT_GOES_ON)
            says = sq_sprt_add(&s, 1, 0);
    } while (says == SQ_SPRT_GOES_ON);
    *n = s.n;
    return says;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void figures(void **state)
{
    static const struct {
        double p, least, most; /* share of runs that stop */
        uint64_t median_least, median_most;
    } cases[] = {
        {0.001, 0.003, 0.0055, 0, UINT64_MAX},
        {0.01, 0.988, 0.993, 280, 315},
        {0.05, 0.999, 1.0, 52, 56},
        {0.20, 1.0, 1.0, 13, 15},
        {1.00, 1.0, 1.0, 2, 2},
    };
    uint64_t *stops = malloc(RUNS * sizeof *stops);
    struct sq_rng r;

    (void)state;
    assert_non_null(stops);
    sq_rng_seed(&r, 42);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = 0;

        for (int k = 0; k < RUNS; k++) {
            uint64_t requests;

            if (one_run(&r, cases[i].p, &requests) == SQ_SPRT_SICK)
                stops[n++] = requests;
        }
        double share = (double)n / RUNS;
        qsort(stops, n, sizeof *stops, by_value);
        print_message("at %g %%: %.3f %% stop, median %llu requests\n", 100 * cases[i].p, 100 * share,
                      n ? (unsigned long long)stops[n / 2] : 0ULL);
        assert_true(share >= cases[i].least && share <= cases[i].most);
        assert_true(n > 0 && stops[n / 2] >= cases[i].median_least && stops[n / 2] <= cases[i].median_most);
    }
    free(stops);
}

/* A watch over a long and healthy run: all of its tests together call it sick less often than alpha. Without spending
 * alpha, 100,000 requests (146 tests) would do so in four runs of ten. */
static void watch_for_long(void **state)
{
    struct sq_rng r;
    unsigned stopped = 0;

    (void)state;
    sq_rng_seed(&r, 7);
    for (int k = 0; k < 2000; k++) {
        struct sq_sprt_watch w;
        uint64_t seen = 0;

        assert_int_equal(sq_sprt_watch_init(&w, 0.001, 0.01, 0.01, 0.01, 0, NULL), 0);
        while (seen < 100000) {
            uint64_t good = until_bad(&r, 0.001), most = 200; /* as a run does: some at a time */

            seen += good + 1;
            for (; good > most; good -= most)
                (void)sq_sprt_watch_add(&w, 0, most);
            (void)sq_sprt_watch_add(&w, 0, good);
            if (sq_sprt_watch_add(&w, 1, 0)) {
                stopped++;
                break;
            }
        }
        assert_true(stopped || w.k > 50);
    }
    print_message("%u of 2000 healthy runs of 100,000 requests stopped\n", stopped);
    assert_true(stopped <= 20); /* 1 % */
}

static void min_requests(void **state)
{
    struct sq_sprt_watch w;

    (void)state;
    assert_int_equal(sq_sprt_watch_init(&w, 0.001, 0.01, 0.01, 0.01, 50, NULL), 0);
    assert_false(sq_sprt_watch_add(&w, 49, 0)); /* without it three failures would stop a gameday */
    assert_true(sq_sprt_watch_add(&w, 1, 0));
    assert_int_equal(sq_sprt_watch_init(&w, 0.001, 0.01, 0.01, 0.01, 0, NULL), 0);
    assert_false(sq_sprt_watch_add(&w, 2, 0)); /* alpha / 2: one more than a test alone */
    assert_true(sq_sprt_watch_add(&w, 1, 0));
    /* however long it went well, it wakes soon */
    assert_int_equal(sq_sprt_watch_init(&w, 0.001, 0.01, 0.01, 0.01, 0, NULL), 0);
    for (int i = 0; i < 1000; i++)
        assert_false(sq_sprt_watch_add(&w, 0, 1000));
    int n = 0;
    while (!sq_sprt_watch_add(&w, 1, 0))
        n++;
    assert_true(n < 15);
}

static void refused(void **state)
{
    static const double bad[][4] = {{0, .1, .01, .01},   {.1, .1, .01, .01}, {.2, .1, .01, .01}, {.1, 1, .01, .01},
                                    {.01, .1, 0, .01},   {.01, .1, .5, .01}, {.01, .1, .01, 0},  {.01, .1, .01, .7},
                                    {NAN, .1, .01, .01}, {.01, .1, NAN, .01}};
    struct sq_sprt s;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(sq_sprt_init(&s, bad[i][0], bad[i][1], bad[i][2], bad[i][3], NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures), cmocka_unit_test(watch_for_long),
                                       cmocka_unit_test(min_requests), cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
