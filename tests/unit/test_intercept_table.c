/* Whose call is a connect: the compiled table against the definition of who wins, and the BPF hooks' search against the
 * supervisor's, on random destinations that overlap much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intercept/table.h"
#include "squall/cleanup.h"
#include "squall/rng.h"

#include "edge.skel.h"

#define TRIES 400
#define ASKED 300 /* of each table */

static struct sq_rng rng;

static uint32_t below(uint32_t n)
{
    return (uint32_t)sq_rng_below(&rng, n);
}

/* Few addresses, many prefix lengths: nearly all overlap. */
static struct in6_addr some_address(void)
{
    struct in6_addr a = {0};

    if (below(2)) {
        a.s6_addr[10] = a.s6_addr[11] = 0xff;
        a.s6_addr[12] = 10;
        a.s6_addr[15] = (uint8_t)below(8);
        a.s6_addr[13] = (uint8_t)(below(2) * 255);
    } else {
        a.s6_addr[0] = (uint8_t)(below(2) * 0xfd);
        a.s6_addr[7] = (uint8_t)(below(2) * 128);
        a.s6_addr[8] = (uint8_t)(below(2) * 255);
        a.s6_addr[15] = (uint8_t)below(4);
    }
    return a;
}

static bool covers(const struct sq_table_rule *r, const struct in6_addr *a)
{
    for (unsigned i = 0; i < r->bits; i++)
        if ((r->addr.s6_addr[i / 8] ^ a->s6_addr[i / 8]) & (128 >> i % 8))
            return false;
    return true;
}

static struct sq_table_rule some_rule(uint32_t n_edges)
{
    static const uint8_t some_bits[] = {0, 1, 64, 65, 72, 96, 104, 112, 120, 126, 127, 128, 128, 128};
    struct sq_table_rule r = {.addr = some_address(), .bits = some_bits[below(SQ_COUNT(some_bits))]};

    for (unsigned i = r.bits; i < 128; i++)
        r.addr.s6_addr[i / 8] = (uint8_t)(r.addr.s6_addr[i / 8] & ~(128 >> i % 8));
    r.from = (uint16_t)(1 + below(12));
    r.to = (uint16_t)(r.from + below(6));
    if (below(10) == 0)
        r.to = 65535;
    r.edge = (uint16_t)below(n_edges);
    r.order = r.edge;
    r.except = below(5) == 0;
    return r;
}

/* The definition (table.h), as it is written. */
static uint32_t wanted(const struct sq_table_rule *r, size_t n, const struct in6_addr *a, uint16_t port)
{
    const struct sq_table_rule *best = NULL;

    for (size_t i = 0; i < n; i++) {
        bool excepted = false;

        if (r[i].except || !covers(&r[i], a) || port < r[i].from || port > r[i].to)
            continue;
        for (size_t k = 0; k < n; k++)
            excepted |=
                r[k].except && r[k].edge == r[i].edge && covers(&r[k], a) && port >= r[k].from && port <= r[k].to;
        if (excepted)
            continue;
        if (!best || r[i].bits > best->bits ||
            (r[i].bits == best->bits && (r[i].to - r[i].from < best->to - best->from ||
                                         (r[i].to - r[i].from == best->to - best->from && r[i].order < best->order))))
            best = &r[i];
    }
    return best ? best->edge + 1u : 0;
}

static uint32_t by_bpf(struct edge *skel, const uint32_t addr[4], uint16_t port)
{
    struct sq_find_args args = {.port = htons(port)};
    LIBBPF_OPTS(bpf_test_run_opts, o, .ctx_in = &args, .ctx_size_in = sizeof(args));

    memcpy(args.addr, addr, sizeof(args.addr));
    assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(skel->progs.sq_find), &o), 0);
    return args.found;
}

/* The hooks' object with the search alone; NULL: not permitted here. */
static struct edge *load(void)
{
    struct edge *skel = edge__open();
    struct bpf_program *p;

    if (!skel) {
        fail_msg("cannot open the hooks' object");
        return NULL;
    }
    for (p = bpf_object__next_program(skel->obj, NULL); p; p = bpf_object__next_program(skel->obj, p))
        (void)bpf_program__set_autoload(p, p == skel->progs.sq_find);
    if (edge__load(skel) == 0)
        return skel;
    edge__destroy(skel);
    assert_int_not_equal(geteuid(), 0);
    return NULL;
}

static void same(void **state)
{
    static struct sq_tables tables;
    static struct sq_table made;
    struct sq_table_rule rules[64];
    struct edge *skel = load();
    size_t taken = 0;

    (void)state;
    sq_rng_seed(&rng, 20261121);
    for (int t = 0; t < TRIES; t++) {
        size_t n = below(SQ_COUNT(rules) + 1);

        for (size_t i = 0; i < n; i++)
            rules[i] = some_rule(1 + below(6));
        assert_int_equal(sq_table_build(rules, n, &made, NULL), 0);
        sq_tables_switch(&tables, &made);
        if (skel)
            sq_tables_switch(&skel->bss->tables, &made);
        for (int i = 0; i < ASKED; i++) {
            struct in6_addr a = some_address();
            uint16_t port = (uint16_t)(below(20) ? below(20) : 65535 - below(2));
            uint32_t addr[4], want = wanted(rules, n, &a, port);

            memcpy(addr, &a, sizeof(addr));
            assert_int_equal(sq_tables_find(&tables, addr, htons(port)), want);
            if (skel)
                assert_int_equal(by_bpf(skel, addr, port), want);
            taken += want != 0;
        }
    }
    assert_in_range(taken, TRIES * ASKED / 10, TRIES * ASKED * 9 / 10); /* else it would show little */
    if (skel)
        edge__destroy(skel);
}

static void many(void **state)
{
    static struct sq_tables tables;
    static struct sq_table made;
    cleanup_free struct sq_table_rule *rules = calloc(2000, sizeof(*rules));
    struct sq_err e = {0};
    uint32_t addr[4] = {0, 0, htonl(0xffff), 0};

    (void)state;
    for (uint32_t i = 0; i < 2000; i++) { /* every other address: no two can be one span */
        uint32_t v4 = htonl(0x0a000000 + 2 * i);

        rules[i] = (struct sq_table_rule){.bits = 128, .from = 80, .to = 80, .edge = 5};
        rules[i].addr.s6_addr[10] = rules[i].addr.s6_addr[11] = 0xff;
        memcpy(&rules[i].addr.s6_addr[12], &v4, 4);
    }
    assert_int_equal(sq_table_build(rules, 1000, &made, &e), 0);
    sq_tables_switch(&tables, &made);
    for (uint32_t i = 0; i < 2100; i++) {
        addr[3] = htonl(0x0a000000 + i);
        assert_int_equal(sq_tables_find(&tables, addr, htons(80)), i < 2000 && i % 2 == 0 ? 6 : 0);
        assert_int_equal(sq_tables_find(&tables, addr, htons(81)), 0);
    }
    assert_int_equal(sq_table_build(rules, 2000, &made, &e), -E2BIG);
    assert_int_equal(e.cls, SQ_C_INPUT);
    assert_true(strlen(e.hint) > 0);
}

/* Networks that overlap a thousandfold end with an error or a table, never with a squalld that hangs. */
static void thousandfold(void **state)
{
    static struct sq_table made;
    cleanup_free struct sq_table_rule *rules = calloc(4000, sizeof(*rules));
    int rc;

    (void)state;
    for (uint32_t i = 0; i < 4000; i++) {
        rules[i] = (struct sq_table_rule){.bits = (uint8_t)(i % 129), .from = 1, .to = (uint16_t)(2 + i), .edge = 1};
        rules[i].order = i;
    }
    rc = sq_table_build(rules, 4000, &made, NULL);
    assert_true(rc == 0 || rc == -E2BIG);
}

/* What was excepted of one edge may be another's; nothing at all is nobody's. */
static void exceptions(void **state)
{
    static struct sq_tables tables;
    static struct sq_table made;
    struct sq_table_rule rules[] = {
        {.bits = 104, .from = 1, .to = 65535, .edge = 0, .order = 1},
        {.bits = 128, .from = 22, .to = 22, .edge = 0, .except = true, .order = 1},
        {.bits = 120, .from = 22, .to = 22, .edge = 3, .order = 2},
    };
    uint32_t addr[4] = {0, 0, htonl(0xffff), htonl(0x0a000009)};

    (void)state;
    memset(&tables, 0, sizeof(tables));
    assert_int_equal(sq_tables_find(&tables, addr, htons(22)), 0);
    for (size_t i = 0; i < 3; i++) {
        rules[i].addr.s6_addr[10] = rules[i].addr.s6_addr[11] = 0xff;
        rules[i].addr.s6_addr[12] = 10;
        rules[i].addr.s6_addr[15] = i == 1 ? 9 : 0;
    }
    assert_int_equal(sq_table_build(rules, 2, &made, NULL), 0);
    sq_tables_switch(&tables, &made);
    assert_int_equal(sq_tables_find(&tables, addr, htons(22)), 0);
    assert_int_equal(sq_tables_find(&tables, addr, htons(23)), 1);
    addr[3] = htonl(0x0a00000a);
    assert_int_equal(sq_tables_find(&tables, addr, htons(22)), 1);
    addr[3] = htonl(0x0a000009);
    assert_int_equal(sq_table_build(rules, 3, &made, NULL), 0);
    sq_tables_switch(&tables, &made);
    assert_int_equal(sq_tables_find(&tables, addr, htons(22)), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same),
        cmocka_unit_test(many),
        cmocka_unit_test(thousandfold),
        cmocka_unit_test(exceptions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
