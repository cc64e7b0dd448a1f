/* Faults on bytes: what each stage does to a chunk, in which order, and when how much may be written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/bytes.h"
#include "squall/json.h"
#include "squall/units.h"

#define NOW (1000 * SQ_S)

struct bench {
    struct sq_names names;
    struct sq_rules rules;
    struct sq_stages *st;
};

static struct bench *with(const char *rules)
{
    struct bench *b = calloc(1, sizeof(*b));
    json_t *all = json_loads(rules, 0, NULL);
    uint32_t gone, fresh;
    assert_non_null(b);
    assert_non_null(all);
    b->rules.names = &b->names;
    assert_int_equal(sq_rules_replace(&b->rules, 1, all, &gone, &fresh, NULL), 0);
    assert_int_equal(sq_stages_set(&b->st, &b->rules, b->rules.mask, NOW), 0);
    json_decref(all);
    return b;
}

static void done(struct bench *b)
{
    free(b->st);
    sq_names_free(&b->names);
    free(b);
}

static struct sq_rule *rule(struct bench *b, unsigned i)
{
    return &b->rules.slot[b->rules.order[i]];
}

static size_t take(struct bench *b, size_t len, int64_t *due, bool *end)
{
    char buf[65536];
    memset(buf, 'x', sizeof(buf));
    *due = NOW;
    *end = false;
    return sq_stages_take(b->st, buf, len, due, end, NOW);
}

/* Write LEN bytes that are all due now, waking up when told to; returns how long it took. */
static int64_t drain(struct bench *b, size_t len, int64_t late)
{
    int64_t now = NOW, at = 0;
    for (unsigned i = 0; len > 0 && i < 10000000; i++) {
        size_t n = sq_stages_allow(b->st, NOW, len, now, &at);
        assert_true(n <= len);
        if (n == 0) {
            assert_true(at > now && at < INT64_MAX);
            now = at + late;
            continue;
        }
        sq_stages_sent(b->st, NOW, n, n == len);
        len -= n;
    }
    assert_int_equal(len, 0);
    return now - NOW;
}

static void near(int64_t took, double want, double share)
{
    if (fabs((double)took - want) > want * share)
        fail_msg("%lld ns instead of %.0f", (long long)took, want);
}

static void test_rates(void **state)
{
    static const double rates[] = {1e3, 1e5, 1.25e6, 1e8};
    (void)state;
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        char text[128];
        (void)snprintf(text, sizeof(text), "[{\"fault\":\"a\",\"kind\":\"bandwidth\",\"rate\":%f}]", rates[i]);
        struct bench *b = with(text);
        near(drain(b, (size_t)(2 * rates[i]), 0), 2e9, 0.02);
        done(b);
        b = with(text); /* waking up a millisecond late loses nothing */
        near(drain(b, (size_t)(2 * rates[i]), SQ_MS), 2e9, 0.02);
        done(b);
    }
    struct bench *none = with("[{\"fault\":\"a\",\"kind\":\"bandwidth\",\"rate\":0}]");
    int64_t at = 0;
    assert_int_equal(sq_stages_allow(none->st, NOW, 10, NOW + SQ_S, &at), 0);
    assert_true(at == INT64_MAX);
    done(none);
}

static void test_slices(void **state)
{
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"slicer\",\"size\":1000,\"variation\":300,\"delay\":1000000}]");
    int64_t took = drain(b, 2000000, 0);
    near(took, 2e9, 0.02); /* 2,000 slices on average */
    assert_in_range(rule(b, 0)->acts, 1940, 2060);
    assert_int_equal(rule(b, 0)->acted, 2000000);
    done(b);
}

/* The slower of both counts. */
static void test_slicer_and_bandwidth(void **state)
{
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"bandwidth\",\"rate\":500000},"
                           "{\"fault\":\"b\",\"kind\":\"slicer\",\"size\":1000,\"delay\":1000000}]");
    near(drain(b, 1000000, 0), 2e9, 0.03);
    done(b);
}

static void test_limit(void **state)
{
    bool end;
    int64_t due;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"limit_data\",\"size\":100}]");
    assert_int_equal(take(b, 60, &due, &end), 60);
    assert_false(end);
    assert_int_equal(take(b, 60, &due, &end), 40);
    assert_true(end);
    assert_int_equal(rule(b, 0)->acted, 20);
    done(b);
}

static void test_delay(void **state)
{
    bool end;
    int64_t due, least = INT64_MAX, most = 0;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"delay\",\"delay\":50000000,\"jitter\":20000000}]");
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(take(b, 10, &due, &end), 10);
        least = due < least ? due : least;
        most = due > most ? due : most;
    }
    assert_in_range(least - NOW, 30 * SQ_MS, 31 * SQ_MS);
    assert_in_range(most - NOW, 69 * SQ_MS, 70 * SQ_MS);
    done(b);
}

/* As Toxiproxy means its correlation (see toxiproxy_toxic.c), and as netem does. */
static void test_loss(void **state)
{
    bool end, was = false;
    int64_t due;
    unsigned lost = 0, after = 0, both = 0;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"loss\",\"share\":0.2,\"correlation\":0.5}]");
    for (int i = 0; i < 100000; i++) {
        bool gone = take(b, 10, &due, &end) == 0;
        after += was;
        both += was && gone;
        lost += gone;
        was = gone;
    }
    /* 0.1 after a chunk that passed, 0.6 after a lost one: a share of 0.1 / (1 - 0.6 + 0.1) */
    assert_in_range(lost, 19000, 21000);
    assert_in_range(100 * both / after, 58, 62);
    assert_int_equal(rule(b, 0)->acts, lost);
    done(b);
}

static void test_corrupt(void **state)
{
    bool end = false;
    int64_t due = NOW;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"corrupt\",\"share\":1}]");
    for (int k = 0; k < 1000; k++) {
        char p[7] = {0};
        int bits = 0;
        assert_int_equal(sq_stages_take(b->st, p, sizeof(p), &due, &end, NOW), sizeof(p));
        for (size_t i = 0; i < sizeof(p); i++)
            bits += __builtin_popcount((unsigned char)p[i]);
        assert_int_equal(bits, 1);
    }
    done(b);
}

/* However they were told: a reset comes before a loss, a limit before a delay. */
static void test_order(void **state)
{
    bool end;
    int64_t due;
    const struct sq_stage *by = NULL;
    (void)state;
    struct bench *b =
        with("[{\"fault\":\"a\",\"kind\":\"loss\",\"share\":1},{\"fault\":\"b\",\"kind\":\"reset\",\"delay\":5}]");
    assert_true(sq_stages_fires(b->st, &by) == INT64_MAX);
    assert_int_equal(take(b, 10, &due, &end), 0);
    assert_int_equal(take(b, 10, &due, &end), 0);
    assert_int_equal(rule(b, 0)->acts, 0);
    assert_int_equal(rule(b, 1)->acts, 1); /* once a connection */
    assert_int_equal(rule(b, 1)->acted, 20);
    assert_true(sq_stages_fires(b->st, &by) == NOW + 5 && by->kind == SQ_R_RESET);
    assert_true(sq_stages_broke(b->st, b->rules.mask, false));
    done(b);
    b = with("[{\"fault\":\"a\",\"kind\":\"delay\",\"delay\":7},{\"fault\":\"b\",\"kind\":\"limit_data\",\"size\":4}]");
    assert_int_equal(take(b, 10, &due, &end), 4);
    assert_true(end && due == NOW + 7);
    assert_int_equal(rule(b, 0)->acted, 4);
    done(b);
}

static void test_timeout(void **state)
{
    const struct sq_stage *by = NULL;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"timeout\",\"delay\":9}]");
    assert_true(sq_stages_fires(b->st, &by) == NOW + 9 && by->kind == SQ_R_TIMEOUT); /* from its begin */
    assert_false(sq_stages_broke(b->st, b->rules.mask, false));
    assert_true(sq_stages_broke(b->st, b->rules.mask, true));
    done(b);
    b = with("[{\"fault\":\"a\",\"kind\":\"timeout\",\"delay\":0}]");
    assert_true(sq_stages_fires(b->st, &by) == INT64_MAX); /* never */
    done(b);
}

/* Other rules come and go: what a stage has counted stays. */
static void test_state_kept(void **state)
{
    bool end;
    int64_t due;
    uint32_t gone, fresh;
    (void)state;
    struct bench *b = with("[{\"fault\":\"a\",\"kind\":\"limit_data\",\"size\":100}]");
    assert_int_equal(take(b, 60, &due, &end), 60);
    json_t *all = json_loads(
        "[{\"fault\":\"b\",\"kind\":\"delay\",\"delay\":1},{\"fault\":\"a\",\"kind\":\"limit_data\",\"size\":80}]", 0,
        NULL);
    assert_int_equal(sq_rules_replace(&b->rules, 2, all, &gone, &fresh, NULL), 0);
    assert_int_equal(sq_stages_set(&b->st, &b->rules, b->rules.mask, NOW), 0);
    assert_int_equal(take(b, 60, &due, &end), 20); /* 80 by now, of which 60 have passed */
    assert_true(end && due == NOW + 1);
    json_decref(all);
    done(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),      cmocka_unit_test(test_slices), cmocka_unit_test(test_slicer_and_bandwidth),
        cmocka_unit_test(test_limit),      cmocka_unit_test(test_delay),  cmocka_unit_test(test_loss),
        cmocka_unit_test(test_corrupt),    cmocka_unit_test(test_order),  cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_state_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
