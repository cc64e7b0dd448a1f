/* Rules: parsing, slots, draws, composition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/dist.h"
#include "proxy/rules.h"
#include "squall/base64.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static struct sq_names names;

static struct sq_rules *make(void)
{
    struct sq_rules *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->names = &names;
    return r;
}

static int set(struct sq_rules *r, const char *text, uint32_t *gone, uint32_t *fresh)
{
    struct sq_err e = {0};
    uint32_t g = 0, f = 0;
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    int rc = sq_rules_replace(r, 1, j, gone ? gone : &g, fresh ? fresh : &f, &e);
    json_decref(j);
    assert_int_equal(rc, e.code);
    return rc;
}

#define LATENCY                                                                                                        \
    "{\"fault\":\"f1\",\"kind\":\"latency\",\"percent\":30.0,\"delay\":1000000,\"jitter\":100000,\"seed\":5,"          \
    "\"number\":9}"
#define HOLE "{\"fault\":\"f2\",\"kind\":\"blackhole\",\"percent\":100.0}"
#define ERROR "{\"fault\":\"f3\",\"kind\":\"error\",\"percent\":100.0,\"errno\":111,\"callers\":[4,5]}"

static void slots(void **state)
{
    (void)state;
    struct sq_rules *r = make();
    uint32_t gone, fresh;
    assert_int_equal(set(r, "[" LATENCY "]", &gone, &fresh), 0);
    uint32_t latency = r->mask;
    assert_true(gone == 0 && fresh == latency && latency);
    assert_int_equal(set(r, "[" HOLE "," LATENCY "]", &gone, &fresh), 0);
    assert_true(gone == 0 && (fresh & latency) == 0 && fresh);
    uint32_t hole = fresh;
    assert_int_equal(set(r, "[" ERROR "," LATENCY "]", &gone, &fresh), 0);
    assert_true(gone == hole && fresh && !(fresh & (hole | latency)));
    /* another percent is another rule: what it hit is drawn anew */
    assert_int_equal(set(r, "[{\"fault\":\"f1\",\"kind\":\"latency\",\"percent\":31.0,\"seed\":5}]", &gone, &fresh), 0);
    assert_true((gone & latency) && !(fresh & latency));
    /* another delay is not */
    uint32_t before = r->mask;
    assert_int_equal(
        set(r, "[{\"fault\":\"f1\",\"kind\":\"latency\",\"percent\":31.0,\"seed\":5,\"delay\":7}]", &gone, &fresh), 0);
    assert_true(gone == 0 && fresh == 0 && r->mask == before);
    assert_int_equal(sq_rules_delay(r, r->mask), 7);
    assert_int_equal(set(r, "[]", &gone, &fresh), 0);
    assert_true(gone == before && r->mask == 0);
    free(r);
}

/* Sixteen rules replaced by sixteen others: no slot is given twice. */
static void full(void **state)
{
    (void)state;
    struct sq_rules *r = make();
    for (int round = 0; round < 3; round++) {
        json_t *a = json_array();
        for (int i = 0; i < SQ_RULES_MAX; i++) {
            char id[8] = {'r', (char)('a' + round), (char)('a' + i), 0};
            json_array_append_new(a, json_pack("{s:s,s:s}", "fault", id, "kind", "error"));
        }
        uint32_t before = r->mask, gone, fresh;
        assert_int_equal(sq_rules_replace(r, 1, a, &gone, &fresh, NULL), 0);
        assert_int_equal(__builtin_popcount(r->mask), SQ_RULES_MAX);
        assert_true(gone == before && fresh == r->mask && !(before & r->mask));
        json_array_append_new(a, json_pack("{s:s,s:s}", "fault", "x", "kind", "error"));
        assert_true(sq_rules_replace(r, 1, a, &gone, &fresh, NULL) < 0);
        json_decref(a);
    }
    free(r);
}

static void bad(void **state)
{
    (void)state;
    static const char *const BAD[] = {
        "{}",
        "[1]",
        "[{}]",
        "[{\"fault\":\"f\",\"kind\":\"nothing\"}]",
        "[{\"fault\":\"\",\"kind\":\"error\"}]",
        "[{\"fault\":\"a b\",\"kind\":\"error\"}]",
        "[{\"fault\":7,\"kind\":\"error\"}]",
        "[{\"fault\":\"0123456789012345678901234567890123456789\",\"kind\":\"error\"}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"percent\":-1}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"percent\":100.1}]",
        "[{\"fault\":\"f\",\"kind\":\"latency\",\"delay\":-5}]",
        "[{\"fault\":\"f\",\"kind\":\"latency\",\"delay\":9223372036854775807}]",
        "[{\"fault\":\"f\",\"kind\":\"latency\",\"jitter\":9223372036854775807}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"callers\":[]}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"first\":-1}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"every\":4294967296}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"after\":1000000001}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"tally\":-1}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"callers\":[-1]}]",
        "[{\"fault\":\"f\",\"kind\":\"error\",\"callers\":\"a\"}]",
        "[" LATENCY ",{\"fault\":\"f\"}]",
    };
    struct sq_rules *r = make();
    assert_int_equal(set(r, "[" HOLE "]", NULL, NULL), 0);
    uint32_t mask = r->mask;
    for (unsigned i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        assert_true(set(r, BAD[i], NULL, NULL) < 0);
        assert_true(r->mask == mask && r->n == 1);
    }
    free(r);
}

static void draws(void **state)
{
    (void)state;
    struct sq_rules *a = make(), *b = make();
    set(a, "[" LATENCY "]", NULL, NULL);
    set(b, "[" LATENCY "]", NULL, NULL);
    int hits = 0, n = 20000;
    for (int i = 0; i < n; i++) {
        uint32_t x = sq_rules_draw(a, a->mask, 1, NULL), y = sq_rules_draw(b, b->mask, 1, NULL);
        assert_int_equal(x, y);
        hits += x != 0;
    }
    assert_true(abs(hits - n * 3 / 10) < 300); /* 4.6 sigma */
    const struct sq_drawn spared = {.rule = {8, 9}}, drawn = {.rule = {8, 9}, .hits = 2};
    for (int i = 0; i < 30; i++) /* what was drawn stands */
        assert_true(sq_rules_draw(a, a->mask, 1, &spared) == 0 && sq_rules_draw(a, a->mask, 1, &drawn) == a->mask);
    assert_int_equal(sq_rules_draw(a, 0, 1, &drawn), 0);
    set(a, "[" ERROR "]", NULL, NULL);
    assert_true(sq_rules_draw(a, a->mask, 4, &spared) == a->mask); /* it was not drawn */
    assert_int_equal(sq_rules_draw(a, a->mask, 6, &drawn), 0);
    assert_true(sq_rules_certain(a, a->mask, 5, SQ_R_ERROR) && !sq_rules_certain(a, a->mask, 6, SQ_R_ERROR));
    set(a, "[{\"fault\":\"z\",\"kind\":\"error\",\"percent\":0}]", NULL, NULL);
    assert_int_equal(sq_rules_draw(a, a->mask, 1, NULL), 0);
    free(a);
    free(b);
}

/* The ticket decides: against the words of the definition, taken literally. */
static void numbers(void **state)
{
    static const struct sq_nth nths[] = {{3, 0, 0}, {0, 2, 0}, {0, 0, 5}, {2, 3, 4}, {1, 1, 0}, {1, 7, 0}, {0, 1, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof(nths) / sizeof(nths[0]); i++) {
        const struct sq_nth *w = &nths[i];
        uint32_t left = w->first ? w->first : UINT32_MAX, turn = 0;
        for (uint32_t call = 1; call <= 100; call++) {
            bool want = call > w->after && ++turn % (w->every ? w->every : 1) == 0 && left > 0 && left--;
            assert_int_equal(sq_nth_hits(w, call - 1), want);
        }
        assert_int_equal(sq_nth_any(w), i < 6);
    }
    assert_true(sq_nth_hits(&(struct sq_nth){0, 1000000000, 1000000000}, 1999999999));
    assert_false(sq_nth_hits(&(struct sq_nth){0, 1000000000, 1000000000}, 2000000000));
    struct sq_tally_cell cell = {0};
    const struct sq_nth two = {.first = 2};
    int hits = 0;
    for (int i = 0; i < 10; i++)
        hits += sq_nth_take(&two, &cell);
    assert_true(hits == 2 && cell.seen == 10 && cell.hit == 2);
    assert_false(sq_nth_take(&two, NULL)); /* nothing to count in: it could not be exact */
    assert_true(sq_nth_take(&(struct sq_nth){0}, NULL));
}

/* In a proxy: by caller, in memory that is not its own; replaced rules count on; an error comes before what it spares.
 */
static void counted(void **state)
{
    (void)state;
    struct sq_tally *tallies = calloc(SQ_TALLIES, sizeof(*tallies));
    struct sq_rules *r = make();
    uint32_t gone, fresh;
    int hits = 0;
    r->tallies = &tallies;
    set(r, "[{\"fault\":\"a\",\"kind\":\"error\",\"first\":3,\"tally\":255,\"number\":1}]", NULL, NULL);
    for (int i = 0; i < 10; i++)
        hits += (sq_rules_draw(r, r->mask, 1 + 256, NULL) != 0) + (sq_rules_draw(r, r->mask, 2, NULL) != 0);
    assert_int_equal(hits, 6);
    assert_true(tallies[255].of[1].seen == 10 && tallies[255].of[1].hit == 3 && tallies[255].of[2].hit == 3);
    assert_int_equal(sq_rules_certain(r, r->mask, 1, SQ_R_ERROR), 0);
    set(r,
        "[{\"fault\":\"a\",\"kind\":\"error\",\"first\":3,\"tally\":255,\"number\":1,\"errno\":5},"
        "{\"fault\":\"b\",\"kind\":\"latency\",\"tally\":7,\"number\":2}]",
        &gone, &fresh);
    assert_true(gone == 0 && sq_rules_draw(r, r->mask, 1, NULL) == fresh);
    assert_true(sq_rules_draw(r, r->mask, 9, NULL) == (r->mask & ~fresh) && tallies[7].of[9].seen == 0);
    json_t *j = sq_rules_json(r);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(j, 0), "first")), 3);
    json_decref(j);
    r->tallies = NULL;
    assert_int_equal(sq_rules_draw(r, r->mask & ~fresh, 1, NULL), 0);
    free(tallies);
    free(r);
}

static void composition(void **state)
{
    (void)state;
    struct sq_rules *r = make();
    set(r, "[" LATENCY "," HOLE "," ERROR "]", NULL, NULL);
    uint32_t all = r->mask;
    assert_string_equal(sq_name_of(&names, sq_rules_fault(r, all)), "f3");
    assert_string_equal(sq_name_of(&names, sq_rules_fault(r, all & ~sq_rules_of(r, all, SQ_R_ERROR))), "f2");
    assert_string_equal(sq_name_of(&names, sq_rules_fault(r, sq_rules_of(r, all, SQ_R_LATENCY))), "f1");
    assert_string_equal(sq_name_of(&names, sq_rules_fault(r, 0)), "");
    set(r, "[" LATENCY ",{\"fault\":\"g\",\"kind\":\"latency\",\"delay\":5000000}]", NULL, NULL);
    int64_t low = INT64_MAX, high = 0;
    for (int i = 0; i < 5000; i++) {
        int64_t d = sq_rules_delay(r, r->mask);
        low = d < low ? d : low;
        high = d > high ? d : high;
    }
    assert_true(low >= 5900000 && low < 5902000 && high <= 6100000 && high > 6098000);
    set(r, "[{\"fault\":\"g\",\"kind\":\"latency\",\"delay\":10,\"jitter\":1000}]", NULL, NULL);
    for (int i = 0; i < 1000; i++)
        assert_true(sq_rules_delay(r, r->mask) >= 0);
    free(r);
}

static void readback(void **state)
{
    (void)state;
    struct sq_rules *r = make();
    set(r, "[" ERROR "," LATENCY "]", NULL, NULL);
    json_t *j = sq_rules_json(r);
    uint32_t gone, fresh;
    assert_int_equal(json_array_size(j), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(j, 0), "fault")), "f3");
    assert_int_equal(json_array_size(json_object_get(json_array_get(j, 0), "callers")), 2);
    assert_int_equal(sq_rules_replace(r, 2, j, &gone, &fresh, NULL), 0);
    assert_true(gone == 0 && fresh == 0);
    json_decref(j);
    free(r);
}

static json_t *with_table(const int16_t *v, uint32_t n, int64_t delay, int64_t jitter)
{
    json_t *rule = json_pack("{s:s,s:s,s:I,s:I,s:i}", "fault", "f", "kind", "latency", "delay", (json_int_t)delay,
                             "jitter", (json_int_t)jitter, "seed", 7);
    assert_int_equal(sq_jitter_rule(v, n, rule, NULL), 0);
    return json_pack("[o]", rule);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int by_entry(const void *a, const void *b)
{
    return *(const int16_t *)a - *(const int16_t *)b;
}

#define DRAWN 20000
#define MS INT64_C(1000000)

/* 20,000 draws have the table's quantiles (within 4.5 sigma of a rank), the same ones for the same seed. */
static void distributed(void **state)
{
    static const enum sq_dist all[] = {SQ_DIST_NORMAL, SQ_DIST_PARETO, SQ_DIST_PARETONORMAL};
    (void)state;
    for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++) {
        cleanup_free struct sq_dist_table *t = NULL;
        cleanup_free int64_t *got = calloc(DRAWN, sizeof(*got));
        struct sq_rules *r = make(), *again = make();
        uint32_t gone, fresh;
        assert_int_equal(sq_dist_named(all[k], &t, NULL), 0);
        cleanup_json json_t *rules = with_table(t->v, t->n, 500 * MS, 20 * MS);
        assert_int_equal(sq_rules_replace(r, 1, rules, &gone, &fresh, NULL), 0);
        assert_int_equal(sq_rules_replace(again, 1, rules, &gone, &fresh, NULL), 0);
        for (int i = 0; i < DRAWN; i++) {
            got[i] = sq_rules_delay(r, r->mask);
            assert_int_equal(got[i], sq_rules_delay(again, again->mask));
        }
        qsort(got, DRAWN, sizeof(*got), by_value);
        qsort(t->v, t->n, sizeof(t->v[0]), by_entry);
        for (int p = 1; p < 100; p++) {
            /* sqrt(0.25 / 20,000) is 0.0035 */
            int low = (int)((p / 100.0 - 0.016) * t->n), high = (int)((p / 100.0 + 0.016) * t->n);
            int64_t at = got[p * DRAWN / 100];
            assert_true(at >= 500 * MS + 20 * MS * t->v[low < 0 ? 0 : low] / 8192 - 1);
            assert_true(at <= 500 * MS + 20 * MS * t->v[high >= (int)t->n ? (int)t->n - 1 : high] / 8192 + 1);
        }
        sq_rules_none(r);
        sq_rules_none(again);
        free(r);
        free(again);
    }
}

/* Never below 0, nor beyond 64 bits; two latencies add up, and one does not shorten the other. */
static void extremes(void **state)
{
    static const int16_t low[] = {INT16_MIN}, high[] = {INT16_MAX};
    const int64_t most = 100 * INT64_C(86400) * 1000000000;
    (void)state;
    struct sq_rules *r = make();
    uint32_t gone, fresh;
    cleanup_json json_t *a = with_table(low, 1, 10 * MS, 20 * MS);
    assert_int_equal(sq_rules_replace(r, 1, a, &gone, &fresh, NULL), 0);
    assert_int_equal(sq_rules_delay(r, r->mask), 0);
    (void)json_array_append_new(a, json_loads("{\"fault\":\"g\",\"kind\":\"latency\",\"delay\":5}", 0, NULL));
    assert_int_equal(sq_rules_replace(r, 1, a, &gone, &fresh, NULL), 0);
    assert_int_equal(sq_rules_delay(r, r->mask), 5);
    cleanup_json json_t *b = with_table(high, 1, most, most);
    assert_int_equal(sq_rules_replace(r, 1, b, &gone, &fresh, NULL), 0);
    assert_true(sq_rules_delay(r, r->mask) > 4 * most);
    sq_rules_none(r);
    free(r);
}

/* A change of parameters keeps the slot, whatever its table; what is in force is told by its sum. */
static void table_readback(void **state)
{
    static const int16_t v[] = {-8192, 0, 8192}, w[] = {-8192, 1, 8192};
    (void)state;
    struct sq_rules *r = make();
    uint32_t gone, fresh;
    cleanup_json json_t *a = with_table(v, 3, 10, 5), *b = with_table(w, 3, 10, 5);
    assert_int_equal(sq_rules_replace(r, 1, a, &gone, &fresh, NULL), 0);
    cleanup_json json_t *first = sq_rules_json(r);
    assert_int_equal(sq_rules_replace(r, 2, b, &gone, &fresh, NULL), 0);
    assert_true(gone == 0 && fresh == 0);
    cleanup_json json_t *second = sq_rules_json(r);
    const char *x = json_string_value(json_object_get(json_array_get(first, 0), "table_sum"));
    const char *y = json_string_value(json_object_get(json_array_get(second, 0), "table_sum"));
    assert_true(strncmp(x, "3 numbers, ", 11) == 0 && strncmp(y, "3 numbers, ", 11) == 0);
    assert_string_not_equal(x, y);
    assert_null(json_object_get(json_array_get(first, 0), "table"));
    assert_int_equal(set(r, "[{\"fault\":\"f\",\"kind\":\"latency\",\"delay\":10,\"seed\":7}]", &gone, &fresh), 0);
    cleanup_json json_t *none = sq_rules_json(r);
    assert_true(gone == 0 && fresh == 0 && !json_object_get(json_array_get(none, 0), "table_sum"));
    sq_rules_none(r);
    free(r);
}

/* A table that is none changes nothing. */
static void bad_tables(void **state)
{
    static const char *const BAD[] = {"7",        "null",     "[1,2]",    "\"\"",         "\"AAA\"",
                                      "\"AA==\"", "\"AAAA\"", "\"A?A=\"", "\"AAA=AAA=\"", "\"AAAAAA\"",
                                      "\"====\"", "\"A===\"", "\"AAA \""};
    static const int16_t good[] = {1, 2};
    (void)state;
    struct sq_rules *r = make();
    uint32_t gone, fresh;
    cleanup_json json_t *a = with_table(good, 2, 10, 5);
    assert_int_equal(sq_rules_replace(r, 1, a, &gone, &fresh, NULL), 0);
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        char text[200];
        (void)snprintf(text, sizeof(text), "[{\"fault\":\"f\",\"kind\":\"latency\",\"table\":%s}]", BAD[i]);
        assert_int_equal(set(r, text, NULL, NULL), -EINVAL);
        assert_true(r->n == 1 && r->slot[r->order[0]].table && r->slot[r->order[0]].table->n == 2);
    }
    /* One number too many: neither sent nor taken. */
    cleanup_free int16_t *many = calloc(SQ_JITTER_MAX + 1, sizeof(*many));
    cleanup_free char *text = malloc(SQ_BASE64_LEN((SQ_JITTER_MAX + 1) * sizeof(*many)) + 1);
    cleanup_json json_t *o = json_object();
    assert_int_equal(sq_jitter_rule(many, SQ_JITTER_MAX + 1, o, NULL), -E2BIG);
    assert_int_equal(sq_jitter_rule(many, 0, o, NULL), -E2BIG);
    sq_base64_encode((const unsigned char *)many, (SQ_JITTER_MAX + 1) * sizeof(*many), text);
    cleanup_json json_t *b = json_pack("[{s:s,s:s,s:s}]", "fault", "f", "kind", "latency", "table", text);
    assert_int_equal(sq_rules_replace(r, 3, b, &gone, &fresh, NULL), -EINVAL);
    cleanup_json json_t *c = with_table(many, SQ_JITTER_MAX, 10, 5);
    assert_int_equal(sq_rules_replace(r, 3, c, &gone, &fresh, NULL), 0);
    assert_int_equal(r->slot[r->order[0]].table->n, SQ_JITTER_MAX);
    sq_rules_none(r);
    free(r);
}

static void base64(void **state)
{
    static const char *const pairs[][2] = {{"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"\xff\xef\xfe", "/+/+"}}; /* RFC 4648, section 10 */
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        size_t n = strlen(pairs[i][0]);
        char text[16];
        unsigned char back[16];
        sq_base64_encode((const unsigned char *)pairs[i][0], n, text);
        assert_string_equal(text, pairs[i][1]);
        assert_int_equal(sq_base64_decode(text, strlen(text), back), n);
        assert_memory_equal(back, pairs[i][0], n);
    }
}

static int tidy(void **state)
{
    (void)state;
    sq_names_free(&names);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots),    cmocka_unit_test(full),           cmocka_unit_test(bad),
        cmocka_unit_test(draws),    cmocka_unit_test(composition),    cmocka_unit_test(readback),
        cmocka_unit_test(numbers),  cmocka_unit_test(counted),        cmocka_unit_test(distributed),
        cmocka_unit_test(extremes), cmocka_unit_test(table_readback), cmocka_unit_test(bad_tables),
        cmocka_unit_test(base64),
    };
    return cmocka_run_group_tests(tests, NULL, tidy);
}
