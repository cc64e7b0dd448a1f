/* The table of a caller by nftables: the compiled destinations as elements and as commands (intercept/nft_text.c). */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "intercept/nft_int.h"

static struct in6_addr mapped(uint32_t v4)
{
    struct in6_addr a = {0};

    a.s6_addr[10] = a.s6_addr[11] = 0xff;
    for (int i = 0; i < 4; i++)
        a.s6_addr[12 + i] = (uint8_t)(v4 >> (24 - 8 * i));
    return a;
}

struct fixture {
    struct sq_intercept ic;
    struct sq_caller c;
    struct sq_edge edge[2];
    struct sq_nat nat;
    struct sq_nat_edge of[2];
    struct sq_nat_table t;
};

static struct fixture *fixture(struct sq_table_rule *rules, size_t n)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sq_table *table = calloc(1, sizeof *table);

    f->c.ic = &f->ic;
    f->c.id = 257;
    f->nat.edge = f->of;
    f->nat.n_edges = 2;
    f->nat.level = 3;
    for (uint32_t i = 0; i < 2; i++) {
        f->edge[i].id = 10 + i;
        f->edge[i].slot = i;
        f->ic.edge[i] = &f->edge[i];
        f->of[i] = (struct sq_nat_edge){.id = 10 + i, .slot = i, .port = {(uint16_t)(4000 + i), (uint16_t)(6000 + i)}};
    }
    f->t.c = &f->c;
    f->t.nat = &f->nat;
    strcpy(f->t.name, "squall-x-edges-1");
    assert_int_equal(sq_table_build(rules, n, table, NULL), 0);
    assert_int_equal(sq_nat_elements(&f->t, table, NULL), 0);
    free(table);
    return f;
}

static void drop(struct fixture *f)
{
    sq_nat_table_clear(&f->t);
    free(f);
}

static void an_exception_and_a_longer_prefix_cut_a_network(void **state)
{
    struct sq_table_rule rules[] = {
        {.addr = mapped(0x0a000000), .bits = 96 + 8, .from = 80, .to = 90, .edge = 0, .order = 1},
        {.addr = mapped(0x0a000005), .bits = 128, .from = 85, .to = 85, .edge = 0, .except = true, .order = 1},
        {.addr = mapped(0x0a000009), .bits = 128, .from = 80, .to = 80, .edge = 1, .order = 2},
    };
    struct fixture *f = fixture(rules, 3);
    static const struct sq_nat_element want[] = {
        {.lo = 0x0a000000, .hi = 0x0a000004, .from = 80, .to = 90, .slot = 0},
        {.lo = 0x0a000005, .hi = 0x0a000005, .from = 80, .to = 84, .slot = 0},
        {.lo = 0x0a000005, .hi = 0x0a000005, .from = 86, .to = 90, .slot = 0},
        {.lo = 0x0a000006, .hi = 0x0a000008, .from = 80, .to = 90, .slot = 0},
        {.lo = 0x0a000009, .hi = 0x0a000009, .from = 80, .to = 80, .slot = 1},
        {.lo = 0x0a000009, .hi = 0x0a000009, .from = 81, .to = 90, .slot = 0},
        {.lo = 0x0a00000a, .hi = 0x0affffff, .from = 80, .to = 90, .slot = 0},
    };

    (void)state;
    assert_int_equal(f->t.n[0], 7);
    assert_int_equal(f->t.n[1], 0); /* IPv6 packets have no mapped addresses */
    for (size_t i = 0; i < 7; i++) {
        assert_true(f->t.el[0][i].lo == want[i].lo && f->t.el[0][i].hi == want[i].hi);
        assert_int_equal(f->t.el[0][i].from, want[i].from);
        assert_int_equal(f->t.el[0][i].to, want[i].to);
        assert_int_equal(f->t.el[0][i].slot, want[i].slot);
    }
    drop(f);
}

/* Everything, of both families; and an edge that has no listener is nobody's. */
static void everything_is_of_both_families(void **state)
{
    struct sq_table_rule rules[] = {{.bits = 0, .from = 1, .to = 65535, .edge = 0, .order = 1},
                                    {.addr = mapped(0xc0000201), .bits = 128, .from = 1, .to = 65535, .edge = 7}};
    struct fixture *f = fixture(rules, 2);

    (void)state;
    assert_int_equal(f->t.n[0], 2);
    assert_true(f->t.el[0][0].lo == 0 && f->t.el[0][0].hi == 0xc0000200);
    assert_true(f->t.el[0][1].lo == 0xc0000202 && f->t.el[0][1].hi == 0xffffffffu);
    assert_int_equal(f->t.n[1], 2);
    assert_true(f->t.el[1][0].lo == 0 && f->t.el[1][1].hi == ~(sq_nat_addr)0);
    drop(f);
}

static void a_share_of_connects_is_refused(void **state)
{
    struct sq_table_rule rules[] = {
        {.addr = mapped(0x0a000001), .bits = 128, .from = 80, .to = 80, .edge = 0, .order = 1},
        {.addr = mapped(0x0a000002), .bits = 128, .from = 80, .to = 80, .edge = 1, .order = 2}};
    struct fixture *f = fixture(rules, 2);
    char *text;

    (void)state;
    f->t.group = 2000;
    text = sq_nat_text(&f->t, 9);
    assert_non_null(strstr(text, "add element inet squall-x-edges-1 m4 { 10.0.0.1-10.0.0.1 . 80-80 : goto e0 }\n"));
    assert_non_null(strstr(text, "e1 meta nfproto ipv4 meta l4proto tcp redirect to :4001\n"));
    assert_non_null(strstr(text, "e1 meta nfproto ipv6 meta l4proto tcp redirect to :6001\n"));
    assert_non_null(strstr(text, "out socket cgroupv2 level 3 \"../../../proc/self/fd/9\" "
                                 "tcp flags & (fin | syn | rst | ack) == syn ip daddr"));
    assert_null(strstr(text, "reject"));
    free(text);
    f->edge[1].fault[0].rule = json_pack("{s:s,s:f}", "kind", "error", "percent", 12.5);
    f->edge[1].fault[0].number = 5;
    f->edge[0].fault[0].rule = json_pack("{s:s}", "kind", "latency");
    text = sq_nat_text(&f->t, 9);
    assert_non_null(strstr(text, "x1 meta l4proto tcp numgen random mod 1000000 < 125000 log prefix \"c257 e11 r5\" "
                                 "group 2000 reject with tcp reset\n"));
    assert_null(strstr(text, "chain inet squall-x-edges-1 x0"));
    assert_non_null(strstr(text, " f4 { 10.0.0.2-10.0.0.2 . 80-80 : goto x1 }\n"));
    assert_null(strstr(text, " f4 { 10.0.0.1"));
    free(text);
    json_decref(f->edge[0].fault[0].rule);
    json_decref(f->edge[1].fault[0].rule);
    drop(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_exception_and_a_longer_prefix_cut_a_network),
        cmocka_unit_test(everything_is_of_both_families),
        cmocka_unit_test(a_share_of_connects_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
