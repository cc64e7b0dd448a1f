/* Partitions as rules: intervals of addresses, what is compared, what moves. No kernel: that is tests/live/24-*. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/partition.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"

static struct sq_spans spans(bool v6, size_t n, const char *const *texts)
{
    struct sq_prefix p[16];
    struct sq_spans s = {.v6 = v6};

    for (size_t i = 0; i < n; i++)
        assert_int_equal(sq_parse_network(texts[i], &p[i].addr, &p[i].len, NULL), 0);
    assert_int_equal(sq_spans_make(p, n, &s, NULL), 0);
    return s;
}
#define SPANS(v6, ...)                                                                                                 \
    spans(v6, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *const[]){__VA_ARGS__})

static void assert_elements(struct sq_spans s, const char *want)
{
    cleanup_json json_t *j = sq_spans_json(&s);
    cleanup_free char *text = json_dumps(j, JSON_COMPACT);
    struct sq_spans back = {.v6 = s.v6};

    assert_string_equal(text, want);
    assert_int_equal(sq_spans_parse(j, &back, NULL), 0);
    assert_true(sq_spans_same(&s, &back));
    sq_spans_clear(&back);
    sq_spans_clear(&s);
}

static void addresses_become_intervals(void **state)
{
    (void)state;
    assert_elements(SPANS(false, "10.1.0.0/16", "10.0.0.0/8", "::1", "192.0.2.1"),
                    "[{\"prefix\":{\"addr\":\"10.0.0.0\",\"len\":8}},\"192.0.2.1\"]");
    assert_elements(SPANS(true, "10.1.0.0/16", "2001:db8::/32", "2001:db8::1", "::1"),
                    "[\"::1\",{\"prefix\":{\"addr\":\"2001:db8::\",\"len\":32}}]");
    assert_elements(SPANS(false, "10.0.0.2", "10.0.0.3"), "[\"10.0.0.2\",\"10.0.0.3\"]");
    assert_elements(SPANS(false, "0.0.0.0/0"), "[{\"prefix\":{\"addr\":\"0.0.0.0\",\"len\":0}}]");
    assert_elements(SPANS(true, "::/0"), "[{\"prefix\":{\"addr\":\"::\",\"len\":0}}]");
    assert_elements(SPANS(false, "255.255.255.255", "255.255.255.254"), "[\"255.255.255.254\",\"255.255.255.255\"]");
}

static void the_same_whatever_the_pieces(void **state)
{
    struct sq_spans a = SPANS(false, "10.0.0.0/24"), b = SPANS(false, "10.0.0.128/25", "10.0.0.0/25"),
                    c = SPANS(false, "10.0.0.0/25", "10.0.0.129");
    cleanup_json json_t *range = json_pack("[{s:[s,s]}]", "range", "10.0.0.0", "10.0.0.255");
    cleanup_json json_t *bad = json_pack("[{s:{s:s,s:i}}]", "prefix", "addr", "10.0.0.0", "len", 33);
    struct sq_spans d = {0};

    (void)state;
    assert_true(sq_spans_same(&a, &b));
    assert_false(sq_spans_same(&a, &c));
    assert_int_equal(sq_spans_parse(range, &d, NULL), 0);
    assert_true(sq_spans_same(&a, &d));
    sq_spans_clear(&d);
    assert_int_equal(sq_spans_parse(bad, &d, NULL), -EBADMSG);
    sq_spans_clear(&a);
    sq_spans_clear(&b);
    sq_spans_clear(&c);
}

static struct sq_partition partition(const char *how, const char *direction)
{
    struct sq_partition p = {.family = "inet", .table = "t", .self = true};
    cleanup_json json_t *with =
        json_pack("{s:s,s:s,s:[s,s,s]}", "how", how, "direction", direction, "port", "81-90", "5432", "80");

    assert_int_equal(sq_partition_with(&p, with, NULL), 0);
    p.a[0] = (struct sq_spans){.v6 = false};
    p.a[1] = (struct sq_spans){.v6 = true};
    p.b[0] = SPANS(false, "10.0.0.1", "10.0.0.9");
    p.b[1] = (struct sq_spans){.v6 = true};
    return p;
}

/* What libnftables would list for the commands that fill the table. */
static json_t *listing(const struct sq_partition *p)
{
    cleanup_json json_t *commands = sq_partition_fill(p);
    json_t *objects = json_array(), *command;
    size_t i;

    json_array_foreach(json_object_get(commands, "nftables"), i, command)
        json_array_append(objects, json_object_get(command, "add"));
    return objects;
}

static json_t *nth_rule(json_t *objects, const char *chain, size_t n)
{
    json_t *o;
    size_t i;

    json_array_foreach(objects, i, o)
    {
        json_t *rule = json_object_get(o, "rule");

        if (rule && strcmp(sq_json_str_or(rule, "chain", ""), chain) == 0 && n-- == 0)
            return rule;
    }
    return NULL;
}

static void each_difference_is_seen(void **state)
{
    struct sq_partition p = partition("reject-rst", "both"), q = partition("reject-icmp", "both"),
                        one = partition("reject-rst", "out");
    cleanup_json json_t *objects = listing(&p);
    struct sq_err e = {0};

    (void)state;
    assert_int_equal(p.n_port, 2); /* 80 and 81-90 are one range */
    assert_int_equal(sq_partition_compare(&p, objects, NULL, &e), 0);
    assert_int_equal(sq_partition_compare(&q, objects, NULL, &e), -EBADE);
    assert_int_equal(sq_partition_compare(&one, objects, NULL, NULL), -EBADE);
    for (size_t i = 0; i < json_array_size(objects); i++) { /* each object, gone */
        cleanup_json json_t *less = json_deep_copy(objects);

        if (json_object_get(json_array_get(objects, i), "counter") ||
            (json_object_get(json_array_get(objects, i), "chain") &&
             !json_object_get(json_object_get(json_array_get(objects, i), "chain"), "hook")))
            continue; /* a cut chain is its rules, a counter is in them */
        json_array_remove(less, i);
        assert_int_equal(sq_partition_compare(&p, less, NULL, NULL), -EBADE);
    }
    json_object_set_new(nth_rule(objects, "cut_out", 0), "expr", json_pack("[{s:n}]", "accept"));
    sq_err_clear(&e);
    assert_int_equal(sq_partition_compare(&p, objects, NULL, &e), -EBADE);
    assert_non_null(strstr(e.msg, "cut_out"));
    sq_partition_clear(&p);
    sq_partition_clear(&q);
    sq_partition_clear(&one);
}

static void only_what_moved_is_sent(void **state)
{
    struct sq_partition p = partition("drop", "both"), q = partition("drop", "both");
    json_t *commands = NULL;

    (void)state;
    assert_int_equal(sq_partition_move(&p, &q, &commands, NULL), 0);
    assert_null(commands);
    sq_spans_clear(&q.b[0]);
    q.b[0] = SPANS(false, "10.0.0.9", "10.0.0.10");
    assert_int_equal(sq_partition_move(&p, &q, &commands, NULL), 0);
    {
        cleanup_free char *text = json_dumps(commands, JSON_COMPACT);

        assert_string_equal(text,
                            "{\"nftables\":[{\"delete\":{\"element\":{\"family\":\"inet\",\"table\":\"t\",\"name\":"
                            "\"b4\",\"elem\":[\"10.0.0.1\"]}}},{\"add\":{\"element\":{\"family\":\"inet\","
                            "\"table\":\"t\",\"name\":\"b4\",\"elem\":[\"10.0.0.10\"]}}}]}");
    }
    json_decref(commands);
    sq_partition_clear(&p);
    sq_partition_clear(&q);
}

static void what_is_wrong_is_said(void **state)
{
    static const struct {
        const char *between, *and, *where;
    } bad[] = {{"self", "self", "and/0"},
               {"self", "10.0.0.0/33", "and/0"},
               {"10.0.0.1/8", "10.0.0.1", "between/0"},
               {"self", "a b", "and/0"}};
    char where[64];

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(bad); i++) {
        cleanup_json json_t *t = json_pack("{s:[s],s:[s]}", "between", bad[i].between, "and", bad[i].and);
        struct sq_err e = {0};

        assert_int_equal(sq_partition_check(t, where, sizeof where, &e), -EINVAL);
        assert_string_equal(where, bad[i].where);
        assert_int_equal(e.cls, SQ_C_INPUT);
        assert_true(e.msg[0] && e.hint[0]);
    }
}

static void what_was_hit_is_said(void **state)
{
    static const struct {
        const char *hit, *want;
    } cases[] = {
        {"{\"interface\":\"eth0\",\"direction\":\"egress\",\"backend\":\"packet\"}", "eth0 egress by packet"},
        {"{\"between\":[\"self\"],\"and\":[\"10.0.0.0/8\",\"db\"]}", "between self and 10.0.0.0/8, db"},
        {"{\"between\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"and\":[]}", "between a, b, c ... and"},
        {"{\"pid\":1}", NULL},
        {"{\"between\":1,\"and\":2}", NULL},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(cases); i++) {
        cleanup_json json_t *hit = json_loads(cases[i].hit, 0, NULL);
        char text[200] = "", small[8];

        assert_int_equal(sq_network_hit_text(hit, text, sizeof text), cases[i].want != NULL);
        if (cases[i].want)
            assert_string_equal(text, cases[i].want);
        (void)sq_network_hit_text(hit, small, sizeof small);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_become_intervals), cmocka_unit_test(the_same_whatever_the_pieces),
        cmocka_unit_test(each_difference_is_seen),    cmocka_unit_test(only_what_moved_is_sent),
        cmocka_unit_test(what_is_wrong_is_said),      cmocka_unit_test(what_was_hit_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
