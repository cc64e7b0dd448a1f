/* Random packets, random rules, and a matcher that is written from the description of the packets rather than from
 * their bytes: what the classifier is compared with. */
#ifndef SQUALL_TEST_CLASSIFIER_MODEL_H
#define SQUALL_TEST_CLASSIFIER_MODEL_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/match.h"
#include "squall/netspec.h"
#include "squall/rng.h"

static struct sq_rng rng;

static uint32_t draw(uint32_t n)
{
    return (uint32_t)(sq_rng_below(&rng, n));
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

#endif
