/* The models of the packet backend against what netem's formulas and the analytic values say, with fixed seeds: a test
 * that passes once passes always. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "packet/models.h"
#include "packet/stage.h"

#define N 200000
#define MS INT64_C(1000000)
#define SEC INT64_C(1000000000)

static struct sq_pstage S;

static void begin(struct sq_impair im, uint64_t seed)
{
    sq_pstage_clear(&S);
    im.limit = im.limit ? im.limit : 1000;
    sq_pstage_init(&S, &im, seed);
}

static struct sq_verdict_packet pass_len(int64_t now, uint32_t len)
{
    struct sq_verdict_packet v;
    sq_pstage_pass(&S, now, len, 1, false, &v);
    assert_true(v.due >= now);
    return v;
}

static struct sq_verdict_packet pass_at(int64_t now)
{
    return pass_len(now, 1000);
}

/* Within 4 standard deviations of a binomial share. */
static void share(double got, double p, double n)
{
    double sd = sqrt(p * (1 - p) / n);
    if (fabs(got - p) > 4 * sd + 1e-9)
        fail_msg("share %.5f, not %.5f +- %.5f", got, p, 4 * sd);
}

static void near(double got, double want, double part)
{
    if (fabs(got - want) > fabs(want) * part)
        fail_msg("%.5f, not %.5f +- %.1f %%", got, want, part * 100);
}

/* ---- delay ---- */

static void delay_alone(void **state)
{
    (void)state;
    begin((struct sq_impair){.delay = 50 * MS}, 1);
    for (int64_t now = 0; now < SEC; now += MS)
        assert_int_equal(pass_at(now).due, now + 50 * MS);
    begin((struct sq_impair){.limit = 0}, 1);
    assert_int_equal(pass_at(5).due, 5); /* nothing: at once */
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int64_t *draws(size_t n, int64_t now)
{
    int64_t *d = calloc(n, sizeof *d);
    assert_non_null(d);
    for (size_t i = 0; i < n; i++)
        d[i] = pass_at(now).due - now;
    qsort(d, n, sizeof *d, by_value);
    return d;
}

/* Kolmogorov-Smirnov against the uniform distribution of FROM .. TO; 1.95/sqrt(n) is p = 0.001. */
static void ks_uniform(const int64_t *d, size_t n, double from, double to)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double f = ((double)d[i] - from) / (to - from);
        worst = fmax(worst, fmax(fabs(f - (double)i / (double)n), fabs(f - (double)(i + 1) / (double)n)));
    }
    if (worst > 1.95 / sqrt((double)n))
        fail_msg("not uniform: D = %.5f", worst);
}

static void jitter_uniform(void **state)
{
    (void)state;
    static const int64_t sigma[] = {1000, 5 * MS, 2500 * MS, 3600 * SEC};
    for (size_t k = 0; k < sizeof sigma / sizeof sigma[0]; k++) {
        begin((struct sq_impair){.delay = 3600 * SEC, .jitter = sigma[k]}, 10 + k);
        int64_t *d = draws(N, 1000);
        assert_true(d[0] >= 3600 * SEC - sigma[k] && d[N - 1] < 3600 * SEC + sigma[k]);
        ks_uniform(d, N, (double)(3600 * SEC - sigma[k]), (double)(3600 * SEC + sigma[k]));
        free(d);
    }
    begin((struct sq_impair){.jitter = 5 * MS}, 20); /* never into the past: half of it is 0 */
    int64_t *d = draws(N, 1000);
    size_t none = 0;
    while (d[none] == 0)
        none++;
    share((double)none / N, 0.5, N);
    free(d);
}

/* A table of a given shape, as tc's: sorted quantiles. */
static struct sq_dist_table *table_of(double (*quantile)(double))
{
    struct sq_dist_table *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->n = 4096;
    for (uint32_t i = 0; i < t->n; i++) {
        double q = quantile(((double)i + 0.5) / t->n) * SQ_DIST_SCALE;
        t->v[i] = (int16_t)fmax(-32768, fmin(32767, rint(q)));
    }
    return t;
}

static double q_logistic(double u) /* nearly normal: closed form */
{
    return log(u / (1 - u)) * sqrt(3) / M_PI;
}

static double q_pareto(double u)
{
    return (pow(1 - u, -1 / 3.0) - 1.5) / 0.866;
}

static double q_two(double u)
{
    return u < 0.25 ? -1 : 2;
}

/* Against the table itself: the share of draws below each of its values. */
static void ks_table(double (*quantile)(double), int64_t sigma, uint64_t seed)
{
    struct sq_dist_table *t = table_of(quantile);
    int64_t want[4096];
    for (int i = 0; i < 4096; i++) /* tabledist's own scaling, in wide arithmetic */
        want[i] = 3600 * SEC + (int64_t)floor((double)t->v[i] * (double)sigma / SQ_DIST_SCALE);
    begin((struct sq_impair){.delay = 3600 * SEC, .jitter = sigma, .dist = SQ_DIST_TABLE, .table = t}, seed);
    int64_t *d = draws(N, 0);
    double worst = 0;
    size_t k = 0;
    for (int i = 0; i < 4096; i++) {
        if (i + 1 < 4096 && want[i + 1] == want[i])
            continue;
        while (k < N && d[k] <= want[i] + 2)
            k++;
        worst = fmax(worst, fabs((double)k / N - (i + 1) / 4096.0));
    }
    if (worst > 1.95 / sqrt(N))
        fail_msg("not the table's shape: D = %.5f", worst);
    free(d);
}

static void jitter_tables(void **state)
{
    (void)state;
    ks_table(q_logistic, 5 * MS, 31);
    ks_table(q_pareto, 5 * MS, 32);
    ks_table(q_two, 5 * MS, 33);
    ks_table(q_logistic, 600 * SEC, 34); /* beyond netem's 32 bits */
}

/* get_crandom is a first-order filter: x = (1 - rho) u + rho x'. Mean 1/2, variance (1 - rho)/(1 + rho)/12, correlation
 * rho. */
static void correlation(void **state)
{
    (void)state;
    static const double rho[] = {0.1, 0.25, 0.5, 0.9};
    for (size_t k = 0; k < 4; k++) {
        struct sq_rng r;
        uint32_t last = 0;
        double sum = 0, sq = 0, cross = 0, before = 0.5;
        sq_rng_seed(&r, 40 + k);
        for (int i = 0; i < 200; i++)
            (void)sq_crandom(&r, sq_odds(rho[k] * 100), &last);
        for (int i = 0; i < N; i++) {
            double x = sq_crandom(&r, sq_odds(rho[k] * 100), &last) / 4294967296.0 - 0.5;
            sum += x;
            sq += x * x;
            cross += i ? x * before : 0;
            before = x;
        }
        assert_true(fabs(sum / N) < 4 * sqrt(1 / 12.0 / N));
        near(sq / N, (1 - rho[k]) / (1 + rho[k]) / 12, 0.05);
        assert_true(fabs(cross / sq - rho[k]) < 0.02);
    }
    struct sq_rng r = {{1, 2, 3, 4}};
    uint32_t last = 123;
    for (int i = 0; i < 1000; i++) /* 100 %: the first for ever, but for rounding */
        assert_true(sq_crandom(&r, UINT32_MAX, &last) == 123);
}

/* ---- loss ---- */

static void loss_random(void **state)
{
    (void)state;
    static const double p[] = {0.01, 1, 30, 99.9};
    for (size_t k = 0; k < 4; k++) {
        begin((struct sq_impair){.loss_model = SQ_LOSS_RANDOM, .loss = p[k]}, 50 + k);
        for (int i = 0; i < N; i++)
            assert_true(pass_at(i).due == i);
        assert_true(S.n.packets == N);
        share((double)S.n.dropped / N, p[k] / 100, N);
    }
    begin((struct sq_impair){.loss_model = SQ_LOSS_RANDOM, .loss = 100}, 1);
    for (int i = 0; i < 1000; i++)
        assert_true(pass_at(i).drop);
}

struct bursts {
    double loss, length; /* share of packets; mean run of losses */
};

static struct bursts bursts(struct sq_impair im, uint64_t seed)
{
    double lost = 0, runs = 0;
    bool before = false;
    begin(im, seed);
    for (int i = 0; i < 5 * N; i++) {
        bool drop = pass_at(i).drop;
        lost += drop;
        runs += drop && !before;
        before = drop;
    }
    return (struct bursts){lost / (5 * N), lost / runs};
}

/* Stationary distribution of the four states, by the balance equations (Salsano et al., "Definition of a general and
 * intuitive loss model", 2009). */
static void loss_4state(void **state)
{
    (void)state;
    const double p13 = 0.05, p31 = 0.3, p32 = 0.1, p23 = 0.2, p14 = 0.02;
    struct bursts b = bursts((struct sq_impair){.loss_model = SQ_LOSS_STATE,
                                                .p13 = 100 * p13,
                                                .p31 = 100 * p31,
                                                .p32 = 100 * p32,
                                                .p23 = 100 * p23,
                                                .p14 = 100 * p14},
                             60);
    double pi1 = 1 / (1 + p13 / p31 * (1 + p32 / p23) + p14), pi3 = pi1 * p13 / p31, pi4 = pi1 * p14;
    near(b.loss, pi3 + pi4, 0.03);
    /* Runs begin from 1 (to 3 or 4) and from 2 (to 3). */
    double pi2 = pi3 * p32 / p23;
    near(b.length, (pi3 + pi4) / (pi1 * (p13 + p14) + pi2 * p23), 0.03);
}

static void loss_gilbert_elliott(void **state)
{
    (void)state;
    const double p = 0.01, r = 0.1;
    struct bursts b =
        bursts((struct sq_impair){.loss_model = SQ_LOSS_GEMODEL, .ge_p = 100 * p, .ge_r = 100 * r, .ge_1h = 100}, 61);
    near(b.loss, p / (p + r), 0.05); /* Gilbert's simple case: bad loses all */
    near(b.length, 1 / r, 0.05);
    b = bursts(
        (struct sq_impair){.loss_model = SQ_LOSS_GEMODEL, .ge_p = 100 * p, .ge_r = 100 * r, .ge_1h = 70, .ge_1k = 2},
        62);
    near(b.loss, (p * 0.7 + r * 0.02) / (p + r), 0.05);
}

static void marks(void **state)
{
    (void)state;
    struct sq_verdict_packet v;
    begin((struct sq_impair){.loss_model = SQ_LOSS_RANDOM, .loss = 100, .ecn = true}, 1);
    sq_pstage_pass(&S, 0, 100, 1, true, &v);
    assert_true(v.mark && !v.drop && S.n.marked == 1);
    sq_pstage_pass(&S, 0, 100, 1, false, &v);
    assert_true(v.drop && !v.mark && S.n.dropped == 1);
}

/* ---- duplicate, corrupt, reorder ---- */

static void duplicates(void **state)
{
    (void)state;
    struct sq_verdict_packet v;
    uint64_t copies = 0;
    begin((struct sq_impair){.duplicate = 20, .loss_model = SQ_LOSS_RANDOM, .loss = 10}, 70);
    for (int i = 0; i < N; i++) {
        v = pass_at(i);
        if (v.duplicate) {
            sq_pstage_pass_copy(&S, i, 1000, 1, false, &v);
            assert_false(v.duplicate);
            copies += !v.drop;
        }
    }
    assert_int_equal(S.n.packets, N);
    /* A loss takes one of two; the copy may be lost, too. */
    share((double)S.n.duplicated / N, 0.2 * 0.9, N);
    share((double)copies / N, 0.2 * 0.9 * 0.9, N);
    begin((struct sq_impair){.corrupt = 3}, 71);
    uint64_t corrupt = 0;
    for (int i = 0; i < N; i++)
        corrupt += pass_at(i).corrupt;
    assert_int_equal(S.n.corrupted, corrupt);
    share((double)corrupt / N, 0.03, N);
}

static void reorders(void **state)
{
    (void)state;
    begin((struct sq_impair){.delay = 10 * MS, .reorder = 25}, 72);
    uint64_t at_once = 0;
    for (int64_t i = 0; i < N; i++)
        at_once += pass_at(i).due == i;
    share((double)at_once / N, 0.25, N);
    assert_int_equal(S.n.reordered, at_once);
    begin((struct sq_impair){.delay = 10 * MS, .reorder = 100, .gap = 5}, 73);
    for (int64_t i = 0; i < 1000; i++) /* 4 wait, the 5th goes */
        assert_int_equal(pass_at(i).due, i % 5 == 4 ? i : i + 10 * MS);
    begin((struct sq_impair){.delay = 10 * MS, .reorder = 50, .gap = 5}, 74);
    int64_t since = 0;
    double gaps = 0;
    for (int64_t i = 0; i < N; i++, since++)
        if (pass_at(i).due == i) {
            assert_true(since >= 4);
            gaps += 1;
            since = -1;
        }
    near(N / gaps, 6, 0.02); /* 4 that wait, then one of two on the mean */
}

/* ---- rate, slots, limit ---- */

static void rates(void **state)
{
    (void)state;
    begin((struct sq_impair){.rate = 125000}, 1); /* 1 Mbit/s: 1000 bytes take 8 ms */
    for (int i = 1; i <= 100; i++)
        assert_int_equal(pass_at(0).due, i * 8 * MS);
    assert_int_equal(pass_at(10 * SEC).due, 10 * SEC + 8 * MS); /* an idle link saves nothing up */
    begin((struct sq_impair){.rate = 125000, .delay = 20 * MS}, 1);
    assert_int_equal(pass_at(0).due, 28 * MS);
    assert_int_equal(pass_at(0).due, 36 * MS); /* waiting counts for the delay */
    assert_int_equal(pass_at(20 * MS).due, 20 * MS + 20 * MS + 8 * MS);
    struct sq_impair im = {.rate = 1000000000, .packet_overhead = 5, .cell_size = 48, .cell_overhead = 5};
    assert_int_equal(sq_packet_time(&im, 100, 1), 3 * 53); /* 105 bytes: 3 cells */
    assert_int_equal(sq_packet_time(&im, 91, 1), 2 * 53);
    assert_int_equal(sq_packet_time(&im, 92, 1), 3 * 53);
    assert_int_equal(sq_packet_time(&im, 200, 2), 6 * 53);
    im = (struct sq_impair){.rate = 1000000000, .packet_overhead = -50};
    assert_int_equal(sq_packet_time(&im, 100, 1), 50);
    assert_int_equal(sq_packet_time(&im, 40, 1), 0);
    im = (struct sq_impair){.rate = 3};
    assert_int_equal(sq_packet_time(&im, 1, 1), 333333333);
    im = (struct sq_impair){.rate = 20000000000}; /* 160 Gbit/s: more than 32 bits */
    assert_int_equal(sq_packet_time(&im, 65536, 1), 3276);
}

static void slots(void **state)
{
    (void)state;
    begin((struct sq_impair){.slot = true, .slot_min = 10 * MS, .slot_max = 10 * MS, .slot_packets = 3}, 1);
    int64_t want = 1000 + 10 * MS;
    for (int i = 0; i < 30; i++) {
        assert_int_equal(pass_at(1000).due, want);
        want += i % 3 == 2 ? 10 * MS : 0;
    }
    begin((struct sq_impair){.slot = true, .slot_min = 10 * MS, .slot_max = 10 * MS, .slot_bytes = 2500}, 1);
    assert_int_equal(pass_at(1000).due, 1000 + 10 * MS);
    assert_int_equal(pass_at(1000).due, 1000 + 10 * MS);
    assert_int_equal(pass_at(1000).due, 1000 + 10 * MS); /* the one that goes beyond still leaves */
    assert_int_equal(pass_at(1000).due, 1000 + 20 * MS);
    begin((struct sq_impair){.slot = true, .slot_min = 1 * MS, .slot_max = 9 * MS, .slot_packets = 1}, 5);
    int64_t *d = calloc(N, sizeof *d), last = 1000;
    assert_non_null(d);
    for (int i = 0; i < N; i++) {
        int64_t due = pass_at(1000).due;
        d[i] = due - last;
        last = due;
    }
    qsort(d, N, sizeof *d, by_value);
    assert_true(d[0] >= MS && d[N - 1] < 9 * MS);
    ks_uniform(d, N, MS, 9 * MS);
    free(d);
}

static void limits(void **state)
{
    (void)state;
    begin((struct sq_impair){.delay = MS, .limit = 10}, 1);
    for (S.held = 0; S.held < 10; S.held++)
        assert_false(pass_at(0).drop);
    assert_true(pass_at(0).drop && S.n.overlimit == 1 && S.n.dropped == 0);
    S.held = 9;
    assert_false(pass_at(0).drop);
    begin((struct sq_impair){.delay = MS}, 1);
    assert_true(S.limit >= 1000);
}

/* Everything at its end: no overflow (the sanitizers look), nothing due before it came. */
static void extremes(void **state)
{
    (void)state;
    struct sq_impair im = {.delay = SQ_IMPAIR_MAX_NS,
                           .jitter = SQ_IMPAIR_MAX_NS,
                           .delay_corr = 100,
                           .loss_model = SQ_LOSS_GEMODEL,
                           .ge_p = 100,
                           .ge_r = 100,
                           .ge_1k = 1,
                           .duplicate = 100,
                           .corrupt = 100,
                           .reorder = 1,
                           .gap = UINT32_MAX,
                           .rate = 1,
                           .packet_overhead = INT32_MAX,
                           .cell_size = 1,
                           .cell_overhead = INT32_MAX,
                           .slot = true,
                           .slot_delay = SQ_IMPAIR_MAX_NS,
                           .slot_jitter = SQ_IMPAIR_MAX_NS,
                           .slot_packets = 1,
                           .slot_bytes = 1,
                           .limit = UINT32_MAX};
    for (int k = 0; k < 2; k++) {
        struct sq_verdict_packet v;
        im.table = im.slot_table = NULL;
        if (k) {
            im.table = table_of(q_two);
            im.slot_table = table_of(q_two);
            memset(im.table->v, 0x80, sizeof im.table->v);
        }
        begin(im, 9);
        for (int64_t now = 0; now < 1000 * SEC; now += SEC) {
            sq_pstage_pass(&S, now, UINT32_MAX, UINT32_MAX, true, &v);
            assert_true(v.due >= now && v.due <= INT64_MAX / 2);
        }
    }
    im.table = im.slot_table = NULL;
    im.cell_overhead = im.packet_overhead = INT32_MIN;
    begin(im, 9);
    for (int64_t now = 0; now < 1000; now++)
        (void)pass_len(now, 1);
    begin((struct sq_impair){.delay = SQ_IMPAIR_MAX_NS}, 1);
    assert_int_equal(pass_at(5).due, 5 + SQ_IMPAIR_MAX_NS); /* no 32-bit time in the way */
}

static void same_seed(void **state)
{
    (void)state;
    const struct sq_impair im = {
        .delay = 20 * MS, .jitter = 5 * MS, .loss_model = SQ_LOSS_RANDOM, .loss = 10, .duplicate = 10, .reorder = 10};
    struct sq_verdict_packet a[500];
    for (int k = 0; k < 3; k++) {
        bool same = true;
        begin(im, k < 2 ? 99 : 98);
        for (int i = 0; i < 500; i++) {
            struct sq_verdict_packet v = pass_at(i);
            if (k == 0)
                a[i] = v;
            same = same && a[i].due == v.due && a[i].drop == v.drop && a[i].duplicate == v.duplicate;
        }
        assert_true(same == (k < 2));
    }
}

static void changes(void **state)
{
    (void)state;
    begin((struct sq_impair){.rate = 125000}, 1);
    (void)pass_at(0);
    struct sq_impair im = {.rate = 250000, .limit = 5};
    sq_pstage_change(&S, &im);
    assert_int_equal(pass_at(0).due, 8 * MS + 4 * MS); /* the link's state stays */
    assert_int_equal(S.n.packets, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delay_alone),
        cmocka_unit_test(jitter_uniform),
        cmocka_unit_test(jitter_tables),
        cmocka_unit_test(correlation),
        cmocka_unit_test(loss_random),
        cmocka_unit_test(loss_4state),
        cmocka_unit_test(loss_gilbert_elliott),
        cmocka_unit_test(marks),
        cmocka_unit_test(duplicates),
        cmocka_unit_test(reorders),
        cmocka_unit_test(rates),
        cmocka_unit_test(slots),
        cmocka_unit_test(limits),
        cmocka_unit_test(extremes),
        cmocka_unit_test(same_seed),
        cmocka_unit_test(changes),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    sq_pstage_clear(&S);
    return rc;
}
