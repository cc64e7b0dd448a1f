/* The BPF classifier as the kernel runs it (BPF_PROG_TEST_RUN): thousands of packets against random rules, compared
 * with a matcher that is written from the description of the packets rather than from their bytes. Needs root. */
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
#include "squall/netspec.h"
#include "squall/rng.h"

#include "classid.skel.h"

static struct sq_rng rng;

static uint32_t draw(uint32_t n)
{
    return (uint32_t)(sq_rng_below(&rng, n));
}

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

/* ---- packets ---- */

struct packet {
    int family; /* 4, 6; 0: ARP */
    int tags;   /* in the frame */
    uint16_t vlan[2];
    struct in6_addr src, dst;
    uint8_t protocol, dscp;
    uint16_t sport, dport;
    enum { WHOLE, FIRST, LATER } fragment;
    uint32_t id;
    int options;    /* IPv4: words; IPv6: extension headers */
    bool has_ports; /* what a matcher may know */
};

static const uint8_t protocols[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_ICMP, IPPROTO_GRE};
static const uint16_t some_ports[] = {22, 80, 443, 1023, 1024, 5432, 8000, 8050, 8100, 65535};

static struct in6_addr some_address(int family)
{
    struct in6_addr a = {0};

    if (family == 4) {
        a.s6_addr[10] = a.s6_addr[11] = 0xff;
        a.s6_addr[12] = 10;
        a.s6_addr[13] = (uint8_t)draw(2);
        a.s6_addr[14] = (uint8_t)draw(3);
        a.s6_addr[15] = (uint8_t)draw(4);
    } else {
        a.s6_addr[0] = 0x20;
        a.s6_addr[1] = 0x01;
        a.s6_addr[7] = (uint8_t)draw(3);
        a.s6_addr[15] = (uint8_t)draw(4);
    }
    return a;
}

static struct packet some_packet(void)
{
    struct packet p = {.family = (int[]){4, 4, 4, 6, 6, 0}[draw(6)], .tags = (int[]){0, 0, 1, 2}[draw(4)]};

    for (int i = 0; i < p.tags; i++)
        p.vlan[i] = (uint16_t)(1 + draw(4));
    if (!p.family)
        return p;
    p.src = some_address(p.family);
    p.dst = some_address(p.family);
    p.protocol = protocols[draw(5)];
    if (p.protocol == IPPROTO_ICMP && p.family == 6)
        p.protocol = IPPROTO_ICMPV6;
    p.dscp = (uint8_t)(uint8_t[]){0, 46, 63}[draw(3)];
    p.sport = some_ports[draw(SQ_COUNT(some_ports))];
    p.dport = some_ports[draw(SQ_COUNT(some_ports))];
    p.options = draw(2) ? 0 : (int)draw(p.family == 4 ? 11 : 4);
    p.fragment = draw(4) ? WHOLE : draw(2) ? FIRST : LATER;
    p.id = p.family == 4 ? draw(65536) : draw(UINT32_MAX);
    p.has_ports =
        p.fragment != LATER && (p.protocol == IPPROTO_TCP || p.protocol == IPPROTO_UDP || p.protocol == IPPROTO_SCTP);
    return p;
}

static size_t put16(uint8_t *b, unsigned v)
{
    b[0] = (uint8_t)(v >> 8);
    b[1] = (uint8_t)v;
    return 2;
}

static size_t put_ipv4(uint8_t *b, const struct packet *p)
{
    size_t head = 20 + 4 * (size_t)p->options;

    memset(b, 1, head); /* options: no operation */
    b[0] = (uint8_t)(0x40 | head / 4);
    b[1] = (uint8_t)(p->dscp << 2 | 1);
    (void)put16(b + 2, (unsigned)head + 24);
    (void)put16(b + 4, p->id);
    (void)put16(b + 6, p->fragment == FIRST ? 0x2000 : p->fragment == LATER ? 0x2000 | 185 : 0x4000);
    b[8] = 64;
    b[9] = p->protocol;
    memcpy(b + 12, &p->src.s6_addr[12], 4);
    memcpy(b + 16, &p->dst.s6_addr[12], 4);
    return head;
}

static size_t put_ipv6(uint8_t *b, const struct packet *p)
{
    static const uint8_t kinds[] = {IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS};
    size_t at = 40;
    uint8_t *next = &b[6];

    memset(b, 0, 40);
    b[0] = (uint8_t)(0x60 | p->dscp >> 2);
    b[1] = (uint8_t)(p->dscp << 6 | 0x1f);
    b[7] = 64;
    memcpy(b + 8, &p->src, 16);
    memcpy(b + 24, &p->dst, 16);
    for (int i = 0; i < p->options; i++) {
        size_t len = 8 + 8 * ((size_t)i % 2);

        *next = kinds[i % 3];
        memset(b + at, 0, len);
        b[at + 1] = (uint8_t)(len / 8 - 1);
        next = &b[at];
        at += len;
    }
    if (p->fragment != WHOLE) {
        *next = IPPROTO_FRAGMENT;
        b[at + 1] = 0;
        (void)put16(b + at + 2, (p->fragment == LATER ? 185u << 3 : 0) | 1);
        (void)put16(b + at + 4, p->id >> 16);
        (void)put16(b + at + 6, p->id & 0xffff);
        next = &b[at];
        at += 8;
    }
    *next = p->protocol;
    (void)put16(b + 4, (unsigned)at - 40 + 24);
    return at;
}

static size_t put_packet(uint8_t *b, const struct packet *p, bool l3)
{
    size_t at = l3 ? 0 : 12;

    memset(b, 2, 12);
    if (!l3) {
        for (int i = 0; i < p->tags; i++) {
            at += put16(b + at, p->tags == 2 && i == 0 ? 0x88a8 : 0x8100);
            at += put16(b + at, 0x2000u | p->vlan[i]);
        }
        at += put16(b + at, p->family == 4 ? 0x0800 : p->family == 6 ? 0x86dd : 0x0806);
    }
    if (p->family)
        at += p->family == 4 ? put_ipv4(b + at, p) : put_ipv6(b + at, p);
    memset(b + at, 0x5a, 24); /* in a later fragment: no ports, though they may look like some */
    if (p->fragment != LATER) {
        (void)put16(b + at, p->sport);
        (void)put16(b + at + 2, p->dport);
    }
    return at + 24;
}

/* ---- the other matcher ---- */

static bool in_prefix(const struct sq_prefix *p, const struct in6_addr *a)
{
    for (unsigned i = 0; i < p->len; i++)
        if ((p->addr.s6_addr[i / 8] ^ a->s6_addr[i / 8]) & 0x80 >> i % 8)
            return false;
    return true;
}

static bool in_ranges(const struct sq_range *r, size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++)
        if (port >= r[i].from && port <= r[i].to)
            return true;
    return false;
}

static bool group_means(const struct sq_group *g, const struct packet *p, bool egress)
{
    const struct in6_addr *other = egress ? &p->dst : &p->src;
    bool found = g->n_host == 0;

    if (!g->n_host && !g->n_port && !g->n_local_port && !g->protocol && g->dscp < 0 && g->vlan < 0)
        return true;
    if (!p->family)
        return false;
    for (size_t i = 0; i < g->n_host; i++)
        found |= in_prefix(&g->host[i], other);
    if (!found)
        return false;
    if (g->protocol && g->protocol != (p->protocol == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->protocol))
        return false;
    if (g->dscp >= 0 && g->dscp != p->dscp)
        return false;
    if (g->vlan >= 0 && !(p->tags > 0 && p->vlan[0] == g->vlan) && !(p->tags > 1 && p->vlan[1] == g->vlan))
        return false;
    if (g->n_port && !(p->has_ports && in_ranges(g->port, g->n_port, egress ? p->dport : p->sport)))
        return false;
    return !g->n_local_port ||
           (p->has_ports && in_ranges(g->local_port, g->n_local_port, egress ? p->sport : p->dport));
}

static bool means(const struct sq_match *m, const struct packet *p, bool egress)
{
    bool yes = m->n_match == 0;

    for (size_t i = 0; i < m->n_match; i++)
        yes |= group_means(&m->match[i], p, egress);
    for (size_t i = 0; i < m->n_except; i++)
        yes &= !group_means(&m->except[i], p, egress);
    return yes;
}

/* ---- random rules ---- */

static void some_ranges(struct sq_range **r, size_t *n)
{
    *n = 1 + draw(3);
    *r = calloc(*n, sizeof **r);
    for (size_t i = 0; i < *n; i++) {
        uint16_t a = some_ports[draw(SQ_COUNT(some_ports))], b = some_ports[draw(SQ_COUNT(some_ports))];

        (*r)[i] = draw(2) ? (struct sq_range){a, a} : (struct sq_range){a < b ? a : b, a < b ? b : a};
    }
}

static void some_hosts(struct sq_group *g)
{
    g->n_host = 1 + draw(4);
    g->host = calloc(g->n_host, sizeof *g->host);
    for (size_t i = 0; i < g->n_host; i++) {
        int family = draw(2) ? 4 : 6;
        struct sq_prefix *p = &g->host[i];

        p->addr = some_address(family);
        p->len = (uint8_t)(family == 4 ? 96 + draw(33) : draw(129));
        for (unsigned b = p->len; b < 128; b++)
            p->addr.s6_addr[b / 8] &= (uint8_t) ~(0x80 >> b % 8);
        if (family == 4 && p->len < 96 + 8 && draw(4)) /* few that mean everybody */
            p->len = 128, p->addr = some_address(4);
    }
}

static void some_group(struct sq_group *g)
{
    *g = (struct sq_group){.dscp = -1, .vlan = -1};
    if (draw(2))
        some_hosts(g);
    if (!draw(3))
        some_ranges(&g->port, &g->n_port);
    if (!draw(5))
        some_ranges(&g->local_port, &g->n_local_port);
    if (!draw(3))
        g->protocol = protocols[draw(5)];
    if (!draw(5))
        g->dscp = (int16_t)(int16_t[]){0, 46, 63}[draw(3)];
    if (!draw(5))
        g->vlan = (int16_t)(1 + draw(4));
}

static struct sq_match some_match(void)
{
    struct sq_match m = {.n_match = draw(40) ? 1 + draw(3) : 0, .n_except = draw(3)};

    m.match = calloc(m.n_match + 1, sizeof *m.match);
    m.except = calloc(m.n_except + 1, sizeof *m.except);
    for (size_t i = 0; i < m.n_match; i++)
        some_group(&m.match[i]);
    for (size_t i = 0; i < m.n_except; i++)
        some_group(&m.except[i]);
    return m;
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
