/* Destinations to a table. Prefixes are nested or apart, never else: sorted, they are a tree in the order of a walk,
 * and the way from its root to where one stands is all that covers an address. */
#include "intercept/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/rules.h"
#include "squall/cleanup.h"

#define DEPTH 129           /* prefixes of 0 to 128 bits */
#define EFFORT 20000000u    /* comparisons: bounds what edges that overlap a thousandfold cost */
#define LISTS (SQ_SEGS * 2) /* of the hash of lists */

typedef unsigned __int128 u128;

struct list {
    uint16_t first, n;
};

/* One prefix on the way down. */
struct frame {
    u128 start, end;
    size_t rule, n; /* its own destinations */
    struct list list;
};

struct build {
    const struct sq_table_rule *rules;
    size_t n;
    struct sq_table *t;
    uint32_t n_segs;
    uint64_t effort;
    struct frame stack[DEPTH + 1];
    size_t depth;
    const struct sq_table_rule **active; /* room for all */
    uint32_t *bound;                     /* ports at which something begins; room for twice all */
    uint8_t *excepted;                   /* by edge */
    struct list known[LISTS];            /* n 0: free */
};

static u128 value(const struct in6_addr *a)
{
    u128 v = 0;

    for (size_t i = 0; i < 16; i++)
        v = v << 8 | a->s6_addr[i];
    return v;
}

static int by_prefix(const void *a, const void *b)
{
    const struct sq_table_rule *x = a, *y = b;
    int d = memcmp(&x->addr, &y->addr, sizeof(x->addr));

    return d ? d : (int)x->bits - (int)y->bits;
}

/* The winner first. */
static int by_rank(const void *a, const void *b)
{
    const struct sq_table_rule *x = *(const struct sq_table_rule *const *)a;
    const struct sq_table_rule *y = *(const struct sq_table_rule *const *)b;

    if (x->bits != y->bits)
        return (int)y->bits - (int)x->bits;
    if (x->to - x->from != y->to - y->from)
        return (x->to - x->from) - (y->to - y->from);
    return x->order < y->order ? -1 : x->order > y->order;
}

static int by_port(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static int too_much(struct sq_err *e)
{
    int rc = sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the edges of one caller have too many destinations");

    sq_err_hint(e, "together they may have about %u addresses and %u port ranges; write networks (10.0.0.0/8) instead",
                SQ_SPANS / 2 - 1, SQ_SEGS / 2);
    return rc;
}

/* Whose is PORT, among the N active? */
static uint16_t winner(struct build *b, size_t n, uint32_t port)
{
    uint16_t found = 0;

    memset(b->excepted, 0, SQ_EDGES);
    for (size_t i = 0; i < n; i++)
        if (b->active[i]->except && b->active[i]->from <= port && port <= b->active[i]->to)
            b->excepted[b->active[i]->edge] = 1;
    for (size_t i = 0; i < n && !found; i++) {
        const struct sq_table_rule *r = b->active[i];

        if (!r->except && r->from <= port && port <= r->to && !b->excepted[r->edge])
            found = (uint16_t)(r->edge + 1);
    }
    b->effort += 2 * n;
    return found;
}

/* The segments from FIRST on, unless the same were made before. */
static struct list intern(struct build *b, uint32_t first)
{
    struct list l = {(uint16_t)first, (uint16_t)(b->n_segs - first)};
    uint32_t h = 2166136261u;

    for (uint32_t i = first; i < b->n_segs; i++)
        h = ((h ^ b->t->seg[i].from) * 16777619u ^ b->t->seg[i].edge) * 16777619u;
    for (h %= LISTS; b->known[h].n; h = (h + 1) % LISTS)
        if (b->known[h].n == l.n &&
            memcmp(&b->t->seg[b->known[h].first], &b->t->seg[first], l.n * sizeof(struct sq_seg)) == 0) {
            b->n_segs = first;
            return b->known[h];
        }
    b->known[h] = l;
    return l;
}

/* What holds in the prefix on top of the stack. */
static int decide_ports(struct build *b, struct list *out, struct sq_err *e)
{
    uint32_t first = b->n_segs;
    size_t n = 0, bounds = 0;

    for (size_t d = 0; d < b->depth; d++)
        for (size_t i = 0; i < b->stack[d].n; i++)
            b->active[n++] = &b->rules[b->stack[d].rule + i];
    qsort(b->active, n, sizeof(*b->active), by_rank);
    b->bound[bounds++] = 0;
    for (size_t i = 0; i < n; i++) {
        b->bound[bounds++] = b->active[i]->from;
        b->bound[bounds++] = b->active[i]->to + 1u;
    }
    qsort(b->bound, bounds, sizeof(*b->bound), by_port);
    for (size_t i = 0; i < bounds; i++) {
        uint16_t edge;

        if (b->bound[i] > 65535 || (i > 0 && b->bound[i] == b->bound[i - 1]))
            continue;
        edge = winner(b, n, b->bound[i]);
        if (b->n_segs > first && b->t->seg[b->n_segs - 1].edge == edge)
            continue;
        if (b->n_segs == SQ_SEGS || b->effort > EFFORT)
            return too_much(e);
        b->t->seg[b->n_segs++] = (struct sq_seg){(uint16_t)b->bound[i], edge};
    }
    *out = intern(b, first);
    return 0;
}

static uint32_t top_of(uint32_t n)
{
    uint32_t top = 1;

    if (n < 2)
        return 0;
    while (top * 2 < n)
        top *= 2;
    return top;
}

static int emit(struct build *b, u128 at, const struct list *l, struct sq_err *e)
{
    struct sq_table *t = b->t;
    struct sq_span s = {.hi = (uint64_t)(at >> 64), .lo = (uint64_t)at, .first = l->first, .n = l->n};

    s.top = (uint16_t)top_of(l->n);
    if (t->n > 0 && t->span[t->n - 1].hi == s.hi && t->span[t->n - 1].lo == s.lo)
        t->n--; /* a longer prefix with the same beginning */
    if (t->n > 0 && t->span[t->n - 1].first == s.first && t->span[t->n - 1].n == s.n)
        return 0;
    if (t->n == SQ_SPANS)
        return too_much(e);
    t->span[t->n++] = s;
    return 0;
}

static int leave(struct build *b, struct sq_err *e)
{
    u128 end = b->stack[b->depth - 1].end;

    b->depth--;
    return end == ~(u128)0 ? 0 : emit(b, end + 1, &b->stack[b->depth - 1].list, e);
}

static int enter(struct build *b, size_t rule, size_t n, struct sq_err *e)
{
    const struct sq_table_rule *r = &b->rules[rule];
    struct frame *f = &b->stack[b->depth++];
    int rc;

    f->start = value(&r->addr);
    f->end = f->start | (r->bits == 0 ? ~(u128)0 : ((u128)1 << (128 - r->bits)) - 1);
    f->rule = rule;
    f->n = n;
    rc = decide_ports(b, &f->list, e);
    return rc ? rc : emit(b, f->start, &f->list, e);
}

static int walk(struct build *b, struct sq_err *e)
{
    struct frame *root = &b->stack[b->depth++];
    int rc;

    *root = (struct frame){.end = ~(u128)0};
    rc = decide_ports(b, &root->list, e);
    rc = rc ? rc : emit(b, 0, &root->list, e);
    for (size_t i = 0, n; rc == 0 && i < b->n; i += n) {
        for (n = 1; i + n < b->n && by_prefix(&b->rules[i], &b->rules[i + n]) == 0; n++)
            ;
        while (rc == 0 && b->depth > 1 && b->stack[b->depth - 1].end < value(&b->rules[i].addr))
            rc = leave(b, e);
        rc = rc ? rc : enter(b, i, n, e);
    }
    while (rc == 0 && b->depth > 1)
        rc = leave(b, e);
    return rc;
}

int sq_table_build(struct sq_table_rule *rules, size_t n, struct sq_table *out, struct sq_err *e)
{
    cleanup_free struct build *b = calloc(1, sizeof(*b));
    cleanup_free const struct sq_table_rule **active = calloc(n + 1, sizeof(const struct sq_table_rule *));
    cleanup_free uint32_t *bound = calloc(2 * n + 1, sizeof(*bound));
    uint8_t excepted[SQ_EDGES];
    int rc;

    if (!b || !active || !bound)
        return sq_err(e, -ENOMEM, "out of memory");
    qsort(rules, n, sizeof(*rules), by_prefix);
    memset(out, 0, sizeof(*out));
    b->rules = rules;
    b->n = n;
    b->t = out;
    b->active = active;
    b->bound = bound;
    b->excepted = excepted;
    rc = walk(b, e);
    if (rc < 0)
        return rc;
    out->top = top_of(out->n);
    for (uint32_t i = out->n; i < 2 * out->top; i++)
        out->span[i] = out->span[out->n - 1];
    return 0;
}

void sq_tables_switch(struct sq_tables *ts, const struct sq_table *t)
{
    uint32_t next = ts->epoch + 1;

    memcpy(&ts->t[next & 1], t, sizeof(*t));
    __atomic_store_n(&ts->epoch, next, __ATOMIC_SEQ_CST);
}

void sq_tables_clear(struct sq_tables *ts)
{
    uint32_t epoch = ts->epoch;

    memset(&ts->t[(epoch + 1) & 1], 0, sizeof ts->t[0]);
    __atomic_store_n(&ts->epoch, epoch + 1, __ATOMIC_RELEASE);
}
