/* The timing wheel against a sorted list, and the pool of packets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "packet/pool.h"
#include "packet/wheel.h"
#include "squall/clock.h"
#include "squall/rng.h"

struct item {
    struct sq_held h;
    uint64_t order; /* of arrival */
};

static int by_due(const void *a, const void *b)
{
    const struct item *const *x = a, *const *y = b;
    if ((*x)->h.due != (*y)->h.due)
        return (*x)->h.due < (*y)->h.due ? -1 : 1;
    return (*x)->order < (*y)->order ? -1 : (*x)->order > (*y)->order;
}

/* How far ahead something is due: in the same tick, near, in any wheel, beyond the last. */
static int64_t ahead(struct sq_rng *r)
{
    static const unsigned bits[] = {3, 12, 14, 22, 24, 32, 34, 42, 44, 50};
    return (int64_t)(sq_rng_u64(r) >> (64 - bits[sq_rng_below(r, sizeof bits / sizeof bits[0])]));
}

/* N items in and out in random steps; a second run goes through a list that is sorted by due time and arrival. */
static void same_as_list(uint64_t seed, size_t n)
{
    struct sq_rng r;
    sq_rng_seed(&r, seed);
    int64_t now = (int64_t)sq_rng_below(&r, UINT64_C(1) << 50);
    struct sq_wheel *w = sq_wheel_new(now);
    struct item *items = calloc(n, sizeof *items), **list = calloc(n, sizeof *list);
    assert_true(w && items && list);
    size_t in = 0, from = 0, held = 0; /* list[from .. from + held) is sorted but for the latest */
    while (in < n || held) {
        size_t more = in < n ? 1 + sq_rng_below(&r, 8) : 0;
        for (; more && in < n; more--, in++, held++) {
            items[in].order = in;
            items[in].h.due = now - 20000 + (sq_rng_below(&r, 4) ? ahead(&r) : 20000);
            items[in].h.due = items[in].h.due > 0 ? items[in].h.due : 0;
            list[from + held] = &items[in];
            sq_wheel_add(w, &items[in].h);
        }
        qsort(list + from, held, sizeof(struct item *), by_due);
        assert_int_equal(sq_wheel_count(w), held);
        assert_int_equal(sq_wheel_next(w), held ? list[from]->h.due : INT64_MAX);
        if (held && sq_rng_below(&r, 3) == 0 && list[from]->h.due > now)
            now = list[from]->h.due;
        else
            now += ahead(&r) >> (in < n ? 20 : 2);
        for (size_t max = sq_rng_below(&r, 12); max; max--) {
            struct sq_held *h = sq_wheel_due(w, now);
            if (!held || list[from]->h.due > now) {
                assert_null(h);
                break;
            }
            assert_ptr_equal(h, &list[from]->h);
            from++;
            held--;
        }
    }
    free(list);
    free(items);
    sq_wheel_free(w);
}

static void order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++)
        same_as_list(seed, 400);
}

/* What was just taken out is put in again behind it: a second stage. */
static void again_at_once(void **state)
{
    (void)state;
    struct item a[3000];
    struct sq_wheel *w = sq_wheel_new(0);
    struct sq_rng r;
    sq_rng_seed(&r, 7);
    memset(a, 0, sizeof a);
    for (size_t i = 0; i < 3000; i++) {
        a[i].h.due = 1000000 + (int64_t)sq_rng_below(&r, 4000);
        sq_wheel_add(w, &a[i].h);
    }
    int64_t last = 0;
    unsigned out = 0;
    for (struct sq_held *h; (h = sq_wheel_due(w, 2000000)); out++) {
        assert_true(h->due >= last);
        last = h->due;
        if (out < 20000) {
            h->due += (int64_t)sq_rng_below(&r, 3000);
            sq_wheel_add(w, h);
        }
    }
    assert_int_equal(out, 23000);
    sq_wheel_free(w);
}

/* A million held, in whatever way they are spread: what one costs may not depend on how many there are. */
static double ns_each(size_t n, int how)
{
    struct item *items = calloc(n, sizeof *items);
    struct sq_rng r;
    sq_rng_seed(&r, 3);
    struct sq_wheel *w = sq_wheel_new(0);
    assert_true(w && items);
    int64_t begin = sq_mono_ns(), last = 0;
    for (size_t i = 0; i < n; i++) {
        items[i].h.due = how == 0   ? 50000000
                         : how == 1 ? 50000000 + (int64_t)i * 1000
                                    : (int64_t)(sq_rng_u64(&r) >> 30);
        sq_wheel_add(w, &items[i].h);
    }
    assert_int_equal(sq_wheel_count(w), n);
    size_t out = 0;
    for (struct sq_held *h; (h = sq_wheel_due(w, INT64_C(1) << 40)); out++) {
        assert_true(h->due >= last);
        last = h->due;
    }
    assert_int_equal(out, n);
    int64_t took = sq_mono_ns() - begin;
    sq_wheel_free(w);
    free(items);
    return (double)took / (double)n;
}

static void a_million(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        double small = ns_each(20000, how), large = ns_each(1000000, how);
        print_message("spread %d: %.0f ns each of 20,000, %.0f of 1,000,000\n", how, small, large);
        assert_true(large < 100000); /* a busy machine takes some microseconds; quadratic would be 500 */
    }
}

static void pool(void **state)
{
    (void)state;
    enum { N = 4000 };
    static struct {
        uint8_t *p;
        size_t len;
        uint8_t fill;
    } held[N];
    struct sq_pool *p = sq_pool_new((size_t)64 << 20);
    struct sq_rng r;
    sq_rng_seed(&r, 11);
    unsigned refused = 0;
    memset(held, 0, sizeof held);
    assert_non_null(p);
    assert_null(sq_pool_get(p, SQ_POOL_MAX + 1));
    for (int i = 0; i < 200000; i++) {
        size_t at = sq_rng_below(&r, N);
        if (held[at].p) {
            for (size_t k = 0; k < held[at].len; k += 97)
                assert_int_equal(held[at].p[k], held[at].fill);
            assert_int_equal(held[at].p[held[at].len - 1], held[at].fill);
            sq_pool_put(p, held[at].p);
            held[at].p = NULL;
            continue;
        }
        held[at].len = 1 + sq_rng_below(&r, sq_rng_below(&r, 10) ? 2000 : SQ_POOL_MAX);
        held[at].p = sq_pool_get(p, held[at].len);
        held[at].fill = (uint8_t)i;
        if (held[at].p)
            memset(held[at].p, held[at].fill, held[at].len);
        else
            refused++;
        assert_true((uintptr_t)held[at].p % 64 == 0);
        assert_true(sq_pool_resident(p) <= (size_t)64 << 20);
    }
    for (size_t i = 0; i < N; i++)
        if (held[i].p)
            sq_pool_put(p, held[i].p);
    assert_int_equal(refused, 0);
    assert_true(sq_pool_resident(p) <= (size_t)40 << 20); /* the rest was given back */
    sq_pool_free(p);
}

static void pool_bound(void **state)
{
    (void)state;
    struct sq_pool *p = sq_pool_new((size_t)16 << 20);
    void *all[100000];
    size_t n = 0;
    while (n < 100000 && (all[n] = sq_pool_get(p, 200)))
        n++;
    assert_in_range(n, 60000, 65536); /* 256 bytes each */
    assert_null(sq_pool_get(p, 60000));
    while (n)
        sq_pool_put(p, all[--n]);
    assert_non_null(sq_pool_get(p, 60000)); /* room of one size serves another */
    sq_pool_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order), cmocka_unit_test(again_at_once), cmocka_unit_test(a_million),
        cmocka_unit_test(pool),  cmocka_unit_test(pool_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
