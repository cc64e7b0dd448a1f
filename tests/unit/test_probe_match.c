/* The streaming search against memmem(3), on texts full of near misses, cut at every place; and windows against exact
 * counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/match.h"
#include "probe/window.h"
#include "squall/rng.h"
#include "squall/units.h"

static void random_text(struct sq_rng *rng, char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s[i] = (char)('a' + sq_rng_below(rng, 2));
    s[n] = 0;
}

static void test_search(void **state)
{
    struct sq_rng rng;
    struct sq_rules r;
    struct sq_match_state m;
    struct sq_matched out;
    char needle[16], text[64], json[64];
    unsigned found = 0;

    (void)state;
    sq_rng_seed(&rng, 7);
    for (int i = 0; i < 20000; i++) {
        size_t n = 1 + sq_rng_below(&rng, 8), len = sq_rng_below(&rng, 60), at = 0;
        json_t *expect;
        bool truth;

        random_text(&rng, needle, n);
        random_text(&rng, text, len);
        truth = memmem(text, len, needle, n) != NULL;
        found += truth;
        (void)snprintf(json, sizeof json, "{\"body\":\"%s\"}", needle);
        expect = json_loads(json, 0, NULL);
        assert_int_equal(sq_rules_init(&r, "e", expect, NULL, NULL), 0);
        json_decref(expect);
        sq_match_begin(&r, &m);
        while (at < len) {
            size_t piece = 1 + sq_rng_below(&rng, 9);

            piece = piece < len - at ? piece : len - at;
            sq_match_body(&r, &m, text + at, piece);
            at += piece;
        }
        sq_match_end(&r, &m, 200, &out);
        if (out.body_ok != truth)
            print_error("%s in %s\n", needle, text);
        assert_int_equal(out.body_ok, truth);
        assert_int_equal(m.bytes, len);
        sq_rules_clear(&r);
    }
    assert_true(found > 4000 && found < 19000); /* both outcomes were tried */
}

static bool header_matches(const char *want, const char *name, const char *value)
{
    json_t *m = json_pack("[{s:s, s:{s:s}}]", "id", "x", "match", "header", want);
    struct sq_rules r;
    struct sq_match_state s;
    struct sq_matched out;

    assert_int_equal(sq_rules_init(&r, "e", NULL, m, NULL), 0);
    json_decref(m);
    sq_match_begin(&r, &s);
    sq_match_header(&r, &s, name, value, strlen(value));
    sq_match_end(&r, &s, 200, &out);
    sq_rules_clear(&r);
    return out.match == 1;
}

static void test_headers(void **state)
{
    (void)state;
    assert_true(header_matches("X-Degraded", "x-degraded", ""));
    assert_true(header_matches("x-degraded: 1", "X-DEGRADED", "1 "));
    assert_false(header_matches("x-degraded: 1", "x-degraded", "10"));
    assert_false(header_matches("x-degraded", "x-degrade", "1"));
    assert_true(header_matches("content-type: text/html", "Content-Type", "text/html; charset=utf-8"));
    assert_true(header_matches("cache-control:max-age=0", "cache-control", "no-store ,max-age=0"));
    assert_true(header_matches("a: b, c", "a", "b, c"));
    assert_false(header_matches("a: b", "a", ""));
}

static void test_window(void **state)
{
    struct sq_window_ring *w = sq_window_new(5);
    struct sq_window_slot *sum = calloc(1, sizeof *sum);

    (void)state;
    for (int64_t sec = 0; sec < 9; sec++)
        for (int64_t i = 1; i <= 1000; i++)
            sq_window_add(w, sec, i * SQ_MS, i > 990);
    sq_window_sum(w, 4, 9, sum);
    assert_int_equal(sum->n, 5000);
    assert_int_equal(sum->bad, 50);
    assert_int_equal(sum->max, 1000 * SQ_MS);
    for (int p = 5; p <= 100; p += 5) {
        int64_t got = sq_window_percentile(sum, p), truth = 10 * p * SQ_MS;

        assert_true(got >= truth && got <= truth + truth / 64 + 1);
    }
    memset(sum, 0, sizeof *sum);
    sq_window_sum(w, 0, 2, sum); /* long overwritten */
    assert_int_equal(sum->n, 0);
    assert_int_equal(sq_window_percentile(sum, 99), 0);
    sq_window_add(w, 20, INT64_MAX, false);
    sq_window_add(w, 20, 0, false);
    sq_window_sum(w, 0, 21, sum);
    assert_int_equal(sum->max, INT64_MAX);
    free(sum);
    sq_window_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
