/* The BPF classifier as the kernel runs it (BPF_PROG_TEST_RUN): thousands of packets against random rules, compared
 * with the matcher of classifier_model.h. Needs root. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/classifier.h"
#include "squall/cleanup.h"
#include "squall/rng.h"

#include "classid.skel.h"
#include "classifier_model.h"

/* ---- ranges ---- */

static void test_ranges(void **state)
{
    (void)state;
    sq_rng_seed(&rng, 7);
    for (int round = 0; round < 400; round++) {
        struct sq_range_prefix p[SQ_RANGE_PREFIXES];
        uint16_t a = (uint16_t)draw(65536), b = (uint16_t)(round % 2 ? draw(65536) : a + draw(300));
        struct sq_range r = {a < b ? a : b, a < b ? b : a};
        static uint8_t covered[65536];

        if (round < 4) /* the ends of the world, and the worst case */
            r = (struct sq_range[]){{0, 65535}, {1, 65534}, {65535, 65535}, {1, 1}}[round];
        unsigned n = sq_range_prefixes(r, p);
        assert_in_range(n, 1, SQ_RANGE_PREFIXES);
        memset(covered, 0, sizeof covered);
        for (unsigned i = 0; i < n; i++) {
            uint32_t size = 1u << (16 - p[i].len);

            assert_int_equal(p[i].port % size, 0);
            for (uint32_t k = 0; k < size; k++)
                covered[p[i].port + k]++;
        }
        for (uint32_t port = 0; port < 65536; port++)
            assert_int_equal(covered[port], port >= r.from && port <= r.to);
    }
}

/* ---- the program ---- */

struct rig {
    struct classid *skel;
    struct sq_classifier *c;
    bool egress, l3;
};

static bool rig_up(struct rig *r, bool egress, bool l3)
{
    if (geteuid() != 0) {
        print_message("needs root\n");
        return false;
    }
    struct sq_classify_env env;
    *r = (struct rig){.skel = classid__open(), .egress = egress, .l3 = l3};
    assert_non_null(r->skel);
    sq_classify_look(&env);
    if (getenv("SQT_FEW")) /* as on a kernel without callbacks */
        env.callback = 0;
    memcpy((void *)(uintptr_t)&r->skel->rodata->sq_classify_env, &env, sizeof env);
    assert_int_equal(classid__load(r->skel), 0);
    struct sq_classify_maps maps = {
        .env = env,
        .rules = bpf_map__fd(r->skel->maps.rules),
        .n_rules = bpf_map__fd(r->skel->maps.n_rules),
        .prefixes = bpf_map__fd(r->skel->maps.prefixes),
        .ports = bpf_map__fd(r->skel->maps.ports),
        .counts = bpf_map__fd(r->skel->maps.counts),
        .l3 = l3,
    };
    assert_int_equal(sq_classifier_new(&maps, egress, &r->c, NULL), 0);
    return true;
}

static void rig_down(struct rig *r)
{
    sq_classifier_free(r->c);
    classid__destroy(r->skel);
}

static int run_bytes(const struct rig *r, const uint8_t *b, size_t len)
{
    uint8_t out[512];
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = b, .data_size_in = (uint32_t)len, .data_out = out,
                .data_size_out = sizeof out, .repeat = 1);

    int rc = bpf_prog_test_run_opts(
        bpf_program__fd(r->egress ? r->skel->progs.sq_classid_egress : r->skel->progs.sq_classid_ingress), &o);
    if (rc == -EINVAL) /* too short for a test run */
        return -2;
    assert_int_equal(rc, 0);
    return o.retval == 0 ? -1 : (int)(o.retval - SQ_CLASSID(0));
}

/* The fault that the packet is for; -1: none. */
static int run(const struct rig *r, const struct packet *p)
{
    uint8_t b[512];

    return run_bytes(r, b, put_packet(b, p, r->l3));
}

static size_t entries(struct bpf_map *map)
{
    uint8_t key[32], next[32];
    size_t n = 0;
    void *prev = NULL;

    while (bpf_map_get_next_key(bpf_map__fd(map), prev, next) == 0) {
        memcpy(key, next, sizeof key);
        prev = key;
        n++;
    }
    return n;
}

/* ---- random faults, random packets ---- */

struct faults {
    struct sq_match m[SQ_CLASSIFY_FAULTS];
    bool on[SQ_CLASSIFY_FAULTS];
    int n;
};

static int expected(const struct faults *f, const struct packet *p, bool egress)
{
    for (int i = 0; i < SQ_CLASSIFY_FAULTS; i++)
        if (f->on[i] && means(&f->m[i], p, egress))
            return i;
    return -1;
}

static void add(struct rig *r, struct faults *f)
{
    struct sq_match m = some_match();
    struct sq_err e = {0};
    int bit = sq_classifier_add(r->c, &m, &e);

    if (bit < 0) {
        sq_match_clear(&m);
        return;
    }
    assert_false(f->on[bit]);
    for (int i = 0; i < bit; i++)
        assert_true(f->on[i]); /* the lowest that was free */
    f->m[bit] = m;
    f->on[bit] = true;
    f->n++;
}

static void drop(struct rig *r, struct faults *f, int bit)
{
    sq_classifier_remove(r->c, bit);
    sq_match_clear(&f->m[bit]);
    f->on[bit] = false;
    f->n--;
}

static void change(struct rig *r, struct faults *f, int bit)
{
    struct sq_match m = some_match();

    if (draw(2)) { /* the same groups with other elements: names that were resolved anew */
        sq_match_clear(&m);
        m = (struct sq_match){.n_match = f->m[bit].n_match, .n_except = f->m[bit].n_except};
        m.match = calloc(m.n_match + 1, sizeof *m.match);
        m.except = calloc(m.n_except + 1, sizeof *m.except);
        for (size_t i = 0; i < m.n_match + m.n_except; i++) {
            struct sq_group *to = i < m.n_match ? &m.match[i] : &m.except[i - m.n_match];
            const struct sq_group *from = i < m.n_match ? &f->m[bit].match[i] : &f->m[bit].except[i - m.n_match];

            *to = (struct sq_group){.protocol = from->protocol, .dscp = from->dscp, .vlan = from->vlan};
            if (from->n_host)
                some_hosts(to);
            if (from->n_port)
                some_ranges(&to->port, &to->n_port);
            if (from->n_local_port)
                some_ranges(&to->local_port, &to->n_local_port);
        }
    }
    if (sq_classifier_change(r->c, bit, &m, NULL) < 0) {
        sq_match_clear(&m);
        return;
    }
    sq_match_clear(&f->m[bit]);
    f->m[bit] = m;
}

static void matrix(bool egress, bool l3, uint64_t seed)
{
    struct rig r;
    static struct faults f;
    unsigned checked = 0, hit = 0, high = 0;

    if (!rig_up(&r, egress, l3))
        skip();
    sq_rng_seed(&rng, seed);
    memset(&f, 0, sizeof f);
    for (int round = 0; round < 300; round++) {
        int bit = (int)draw(SQ_CLASSIFY_FAULTS);
        /* Few, then many, then few again. */
        int want = round < 100 ? 3 : round < 200 ? SQ_CLASSIFY_FAULTS : 5;

        if (f.n < want)
            add(&r, &f);
        for (int i = 0; f.n > want && i < SQ_CLASSIFY_FAULTS; i++)
            if (f.on[i] && draw(2))
                drop(&r, &f, i);
        if (f.on[bit] && draw(2))
            change(&r, &f, bit);
        else if (f.on[bit])
            drop(&r, &f, bit);
        for (int i = 0; i < 40; i++) {
            struct packet p = some_packet();
            int got, want_bit;

            if (l3) {
                p.tags = 0;
                if (!p.family)
                    continue;
            }
            got = run(&r, &p);
            want_bit = expected(&f, &p, egress);
            if (got != want_bit)
                print_error("seed %lu round %d packet %d: fault %d, expected %d\n", (unsigned long)seed, round, i, got,
                            want_bit);
            assert_int_equal(got, want_bit);
            checked++;
            hit += got >= 0;
            high += got >= 20;
            if (p.fragment == FIRST && p.has_ports) { /* its next one goes the same way */
                struct packet later = p;

                later.fragment = LATER;
                later.options = p.family == 4 ? 0 : p.options;
                assert_int_equal(run(&r, &later), want_bit);
            }
        }
        for (int i = 0; i < SQ_CLASSIFY_FAULTS; i++) {
            struct sq_err e = {0};

            if (!f.on[i])
                continue;
            if (!sq_classifier_same(r.c, i, &f.m[i], &e))
                print_error("%s\n", e.msg);
            assert_int_equal(e.code, 0);
        }
    }
    assert_true(checked > 9000 && hit > checked / 10 && hit < checked);
    print_message("%u packets, %u of them matched, %u only fault 20 or later\n", checked, hit, high);
    for (int i = 0; i < SQ_CLASSIFY_FAULTS; i++)
        if (f.on[i])
            drop(&r, &f, i);
    assert_int_equal(entries(r.skel->maps.prefixes), 0);
    assert_int_equal(entries(r.skel->maps.ports), 0);
    struct packet p = some_packet();
    assert_int_equal(run(&r, &p), -1);
    rig_down(&r);
}

static void test_egress(void **state)
{
    (void)state;
    matrix(true, false, 11);
}

static void test_ingress(void **state)
{
    (void)state;
    matrix(false, false, 12);
}

/* What is no packet at all, or not all of one. */
static void test_garbage(void **state)
{
    struct rig r;
    struct sq_group tcp = {.protocol = IPPROTO_TCP, .dscp = -1, .vlan = -1};
    struct sq_match m = {.match = &tcp, .n_match = 1};

    (void)state;
    if (!rig_up(&r, true, false))
        skip();
    sq_rng_seed(&rng, 13);
    assert_int_equal(sq_classifier_add(r.c, &m, NULL), 0);
    for (int i = 0; i < 3000; i++) {
        struct packet p = some_packet();
        uint8_t b[512];
        size_t len = put_packet(b, &p, false);

        for (unsigned k = draw(6); k > 0; k--)
            b[12 + draw((uint32_t)len - 12)] = (uint8_t)draw(256);
        len = 15 + draw((uint32_t)len - 14);
        (void)run_bytes(&r, b, len); /* whatever it says, it says something */
    }
    struct packet p = {.family = 4, .protocol = IPPROTO_TCP, .src = some_address(4), .dst = some_address(4)};
    uint8_t b[512];
    size_t len = put_packet(b, &p, false);
    assert_int_equal(run_bytes(&r, b, len), 0);
    assert_true(run_bytes(&r, b, 33) < 0); /* one byte short of an IPv4 header */
    rig_down(&r);
}

static void test_counts(void **state)
{
    struct rig r;
    struct sq_match all = {0};
    struct sq_classify_count n;

    (void)state;
    if (!rig_up(&r, true, false))
        skip();
    assert_int_equal(sq_classifier_add(r.c, &all, NULL), 0);
    sq_rng_seed(&rng, 14);
    uint64_t bytes = 0;
    for (int i = 0; i < 50; i++) {
        struct packet p = some_packet();
        uint8_t b[512];
        size_t len = put_packet(b, &p, false);

        bytes += len;
        assert_int_equal(run_bytes(&r, b, len), 0);
    }
    assert_int_equal(sq_classifier_count(r.c, 0, &n, NULL), 0);
    assert_int_equal(n.packets, 50);
    assert_int_equal(n.bytes, bytes);
    sq_classifier_remove(r.c, 0);
    assert_int_equal(sq_classifier_add(r.c, &all, NULL), 0);
    assert_int_equal(sq_classifier_count(r.c, 0, &n, NULL), 0);
    assert_int_equal(n.packets, 0);
    rig_down(&r);
}

/* A difference between what was asked and what the kernel has is seen, whatever it is. */
static void test_same_sees(void **state)
{
    struct rig r;
    struct sq_prefix host = {.addr = some_address(4), .len = 128};
    struct sq_range port = {80, 90};
    struct sq_group g = {
        .host = &host, .n_host = 1, .port = &port, .n_port = 1, .protocol = IPPROTO_TCP, .dscp = -1, .vlan = -1};
    struct sq_match m = {.match = &g, .n_match = 1}, other = m;
    uint32_t zero = 0;

    (void)state;
    if (!rig_up(&r, true, false))
        skip();
    assert_int_equal(sq_classifier_add(r.c, &m, NULL), 0);
    assert_true(sq_classifier_same(r.c, 0, &m, NULL));
    other.n_match = 0;
    assert_false(sq_classifier_same(r.c, 0, &other, NULL));
    port.to = 91;
    assert_false(sq_classifier_same(r.c, 0, &m, NULL));
    port.to = 90;
    host.len = 127;
    assert_false(sq_classifier_same(r.c, 0, &m, NULL));
    host.len = 128;

    struct sq_rule rule;
    int rules = bpf_map__fd(r.skel->maps.rules);
    assert_int_equal(bpf_map_lookup_elem(rules, &zero, &rule), 0);
    rule.flags = 0;
    assert_int_equal(bpf_map_update_elem(rules, &zero, &rule, 0), 0);
    assert_false(sq_classifier_same(r.c, 0, &m, NULL));
    rule.flags = SQ_RULE_ON;
    assert_int_equal(bpf_map_update_elem(rules, &zero, &rule, 0), 0);
    assert_true(sq_classifier_same(r.c, 0, &m, NULL));

    struct sq_port_key key;
    assert_int_equal(bpf_map_get_next_key(bpf_map__fd(r.skel->maps.ports), NULL, &key), 0);
    assert_int_equal(bpf_map_delete_elem(bpf_map__fd(r.skel->maps.ports), &key), 0);
    assert_false(sq_classifier_same(r.c, 0, &m, NULL));

    struct sq_classify_head head = {0};
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(r.skel->maps.n_rules), &zero, &head, 0), 0);
    assert_false(sq_classifier_same(r.c, 0, &m, NULL));
    rig_down(&r);
}

/* A name that was not resolved must not mean everybody. */
static void test_unresolved(void **state)
{
    struct rig r;
    char *name = (char[]){"db.stg"};
    struct sq_group g = {.name = &name, .n_name = 1, .dscp = -1, .vlan = -1};
    struct sq_match m = {.match = &g, .n_match = 1};
    struct sq_err e = {0};

    (void)state;
    if (!rig_up(&r, true, false))
        skip();
    assert_int_equal(sq_classifier_add(r.c, &m, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "db.stg"));
    struct packet p = some_packet();
    assert_int_equal(run(&r, &p), -1);
    rig_down(&r);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* 100 faults of 1,000 entries each: to add and to remove one costs what its own entries cost, however many there are.
 */
static void test_many(void **state)
{
    struct rig r;
    enum { FAULTS = 100, ENTRIES = 1000 };
    static struct sq_prefix host[FAULTS][ENTRIES];
    static struct sq_group g[FAULTS];
    double begin, first = 0, last = 0, total, removed;

    (void)state;
    if (!rig_up(&r, true, false))
        skip();
    sq_rng_seed(&rng, 15);
    for (int i = 0; i < FAULTS; i++) {
        for (int k = 0; k < ENTRIES; k++) {
            host[i][k] = (struct sq_prefix){.addr = some_address(4), .len = 128};
            host[i][k].addr.s6_addr[12] = 11;
            (void)put16(&host[i][k].addr.s6_addr[13], draw(65536));
            host[i][k].addr.s6_addr[15] = (uint8_t)draw(256);
        }
        g[i] = (struct sq_group){.host = host[i], .n_host = ENTRIES, .dscp = -1, .vlan = -1};
    }
    begin = now();
    for (int i = 0; i < FAULTS; i++) {
        struct sq_match m = {.match = &g[i], .n_match = 1};
        double one = now();

        assert_int_equal(sq_classifier_add(r.c, &m, NULL), i);
        *(i < FAULTS / 2 ? &first : &last) += now() - one;
    }
    total = now() - begin;
    struct packet p = {.family = 4, .protocol = IPPROTO_TCP, .src = some_address(4), .dst = host[FAULTS - 1][7].addr};
    assert_true(run(&r, &p) >= 0);
    begin = now();
    for (int i = 0; i < FAULTS; i++)
        sq_classifier_remove(r.c, i);
    removed = now() - begin;
    print_message("%d faults of %d addresses: added in %.0f ms (first half %.0f, second %.0f), removed in %.0f ms\n",
                  FAULTS, ENTRIES, total * 1e3, first * 1e3, last * 1e3, removed * 1e3);
    assert_true(total < 30 && removed < 30); /* tenths of a second here; seconds in user-mode Linux */
    assert_true(last < 4 * first + 0.5);
    assert_int_equal(entries(r.skel->maps.prefixes), 0);
    rig_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),     cmocka_unit_test(test_egress), cmocka_unit_test(test_ingress),
        cmocka_unit_test(test_garbage),    cmocka_unit_test(test_counts), cmocka_unit_test(test_same_sees),
        cmocka_unit_test(test_unresolved), cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
