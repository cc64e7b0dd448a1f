/* Whose call is a connect: the destinations of all edges of one caller, compiled to a table that the BPF hooks and the
 * seccomp supervisor search with the same code, so that both decide alike. All addresses are IPv6 (IPv4 as
 * ::ffff:a.b.c.d), cut into spans in which everything is decided by the port alone.
 *
 * The search has no branches that depend on addresses: the kernel's verifier would follow each of them. */
#ifndef SQUALL_INTERCEPT_TABLE_H
#define SQUALL_INTERCEPT_TABLE_H

#include <stdint.h>

#define SQ_SPANS 2048u /* powers of two */
#define SQ_SEGS 4096u
#define SQ_SPAN_STEPS 11
#define SQ_SEG_STEPS 12

/* From this address on, to the next span's. */
struct sq_span {
    uint64_t hi, lo; /* host byte order */
    uint16_t first;  /* of its segments */
    uint16_t n;
    uint16_t top; /* the first step of a search among N: the highest power of two below it; 0: there is one */
    uint16_t pad;
};

/* From this port on, to the next segment's. The first one of a span begins at port 0. */
struct sq_seg {
    uint16_t from;
    uint16_t edge; /* slot + 1; 0: nobody's */
};

struct sq_table {
    uint32_t n;   /* spans; those behind them, up to a power of two, repeat the last */
    uint32_t top; /* the first step of a search among them; 0: there is one, or none: nobody's */
    struct sq_span span[SQ_SPANS];
    struct sq_seg seg[SQ_SEGS];
};

/* Switched whole while it is read: the writer fills t[(epoch + 1) & 1], then stores epoch + 1; a reader whose table was
 * written meanwhile sees another epoch afterwards. */
struct sq_tables {
    uint32_t epoch;
    uint32_t pad;
    struct sq_table t[2];
};

struct sq_find_args { /* of the test program in edge.bpf.c */
    uint32_t addr[4], port, found;
};

#define SQ_HIDE(x) __asm__ volatile("" : "+r"(x)) /* the compiler would make a branch of it */

/* 1 when (hi, lo) <= (k_hi, k_lo), else 0. */
static __attribute__((always_inline)) inline uint64_t sq_le128(uint64_t hi, uint64_t lo, uint64_t k_hi, uint64_t k_lo)
{
    uint64_t x = hi ^ k_hi, below, same, lo_above;

    below = (~hi & k_hi) | (~x & (hi - k_hi)); /* the sign bit: hi < k_hi */
    SQ_HIDE(below);
    lo_above = (~k_lo & lo) | (~(lo ^ k_lo) & (k_lo - lo)); /* k_lo < lo */
    SQ_HIDE(lo_above);
    same = ~(x | (0 - x)); /* hi == k_hi */
    SQ_HIDE(same);
    return (below | (same & ~lo_above)) >> 63;
}

/* 1 when a <= b, else 0; both below 2^63. */
static __attribute__((always_inline)) inline uint64_t sq_le(uint64_t a, uint64_t b)
{
    uint64_t d = b - a;

    SQ_HIDE(d);
    return (d >> 63) ^ 1;
}

/* The edge's slot + 1; 0: nobody's. PORT in host byte order. */
static __attribute__((always_inline)) inline uint32_t sq_table_find(const struct sq_table *t, uint64_t hi, uint64_t lo,
                                                                    uint16_t port)
{
    uint64_t pos = 0, step = t->top, first, n;
    const struct sq_span *s;

    for (int i = 0; i < SQ_SPAN_STEPS; i++) {
        if (step == 0)
            break;
        s = &t->span[(pos + step) & (SQ_SPANS - 1)];
        pos += step & (0 - sq_le128(s->hi, s->lo, hi, lo));
        pos &= SQ_SPANS - 1;
        step >>= 1;
    }
    s = &t->span[pos & (SQ_SPANS - 1)];
    first = s->first;
    n = s->n;
    step = s->top;
    pos = 0;
    for (int i = 0; i < SQ_SEG_STEPS; i++) {
        uint64_t next = pos + step;

        if (step == 0)
            break;
        pos += step & (0 - (sq_le(next + 1, n) & sq_le(t->seg[(first + next) & (SQ_SEGS - 1)].from, port)));
        pos &= SQ_SEGS - 1;
        step >>= 1;
    }
    return t->seg[(first + pos) & (SQ_SEGS - 1)].edge;
}

static __attribute__((always_inline)) inline uint64_t sq_be64(uint32_t a, uint32_t b)
{
    return (uint64_t)__builtin_bswap32(a) << 32 | __builtin_bswap32(b);
}

/* ADDR and PORT in network byte order, as a sockaddr has them. */
static __attribute__((always_inline)) inline uint32_t sq_table_at(const struct sq_table *t, const uint32_t addr[4],
                                                                  uint16_t port)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t hi = sq_be64(addr[0], addr[1]), lo = sq_be64(addr[2], addr[3]);
    uint16_t host = __builtin_bswap16(port);
#else
    uint64_t hi = (uint64_t)addr[0] << 32 | addr[1], lo = (uint64_t)addr[2] << 32 | addr[3];
    uint16_t host = port;
#endif
    return sq_table_find(t, hi, lo, host);
}

/* The same, of tables that may be switched meanwhile. */
static __attribute__((always_inline)) inline uint32_t sq_tables_find(const struct sq_tables *ts, const uint32_t addr[4],
                                                                     uint16_t port)
{
    uint32_t found = 0;

    for (int i = 0; i < 3; i++) { /* the table is switched every few seconds, a search takes a microsecond */
        uint32_t epoch = *(const volatile uint32_t *)&ts->epoch;

        found = sq_table_at(&ts->t[epoch & 1], addr, port);
        if (*(const volatile uint32_t *)&ts->epoch == epoch)
            break;
    }
    return found;
}

#ifndef __bpf__

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

/* One destination of one edge. */
struct sq_table_rule {
    struct in6_addr addr; /* masked */
    uint8_t bits;
    uint16_t from, to; /* ports, host byte order */
    uint16_t edge;     /* slot; below SQ_EDGES */
    bool except;       /* never this edge's */
    uint32_t order;    /* the edge that was declared first has the lowest */
};

/* Of all destinations that cover an address and port, and whose edge does not except it, the one with the most address
 * bits wins; of those the one with the fewest ports; of those the edge that was declared first. Sorts RULES.
 * -E2BIG (SQ_C_INPUT): more than a table can hold. */
int sq_table_build(struct sq_table_rule *rules, size_t n, struct sq_table *out, struct sq_err *e);
void sq_tables_switch(struct sq_tables *ts, const struct sq_table *t); /* T comes into force, at once for all readers */
void sq_tables_clear(struct sq_tables *ts);                            /* nothing is anybody's */

#endif

#endif
