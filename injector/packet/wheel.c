/* Three wheels of 1024 slots: 8 us (8.4 ms around), 8.4 ms (8.6 s), 8.6 s (2.4 h), and a list for what is later.
 * Windows are aligned: a slot of an outer wheel is spread over the inner one when time enters it, so everything in an
 * inner wheel is due before everything in an outer one. What is due in the present tick is in a pairing heap. */
#include "packet/wheel.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TICK_BITS 13 /* 8.192 us */
#define SLOT_BITS 10
#define SLOTS (1u << SLOT_BITS)
#define LEVELS 3

struct slot {
    struct sq_held *head, *tail;
    int64_t min;
};

struct sq_wheel {
    uint64_t tick; /* the present one: what is due in it, or was before it, is in the heap */
    uint64_t seq, count;
    struct sq_held *heap;
    struct slot late; /* beyond the outermost wheel's window */
    uint64_t used[LEVELS][SLOTS / 64];
    struct slot slot[LEVELS][SLOTS];
};

struct sq_wheel *sq_wheel_new(int64_t now)
{
    struct sq_wheel *w = calloc(1, sizeof *w);
    if (w)
        w->tick = now > 0 ? (uint64_t)now >> TICK_BITS : 0;
    return w;
}

void sq_wheel_free(struct sq_wheel *w)
{
    free(w);
}

/* ---- the heap: smallest due time, then first come; a node's children are linked by `next` ---- */

static bool before(const struct sq_held *a, const struct sq_held *b)
{
    return a->due != b->due ? a->due < b->due : a->seq < b->seq;
}

static struct sq_held *meld(struct sq_held *a, struct sq_held *b)
{
    if (!a || !b)
        return a ? a : b;
    if (before(b, a)) {
        struct sq_held *t = a;
        a = b;
        b = t;
    }
    b->next = a->child;
    a->child = b;
    return a;
}

static struct sq_held *pop(struct sq_wheel *w)
{
    struct sq_held *top = w->heap, *pairs = NULL, *rest = NULL;
    for (struct sq_held *c = top->child; c;) { /* pairs, from the left, stacked */
        struct sq_held *a = c, *b = c->next;
        c = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) { /* and together, from the right */
        struct sq_held *a = pairs;
        pairs = a->next;
        a->next = NULL;
        rest = meld(a, rest);
    }
    w->heap = rest;
    top->next = top->child = NULL;
    w->count--;
    return top;
}

/* ---- slots ---- */

static void append(struct slot *s, struct sq_held *h)
{
    h->next = NULL;
    if (!s->head)
        s->head = h;
    else
        s->tail->next = h;
    if (!s->tail || h->due < s->min)
        s->min = h->due;
    s->tail = h;
}

static void place(struct sq_wheel *w, struct sq_held *h)
{
    uint64_t tick = h->due > 0 ? (uint64_t)h->due >> TICK_BITS : 0;
    if (tick <= w->tick) {
        h->next = h->child = NULL;
        w->heap = meld(w->heap, h);
        return;
    }
    for (unsigned l = 0; l < LEVELS; l++) {
        unsigned above = SLOT_BITS * (l + 1);
        if (tick >> above != w->tick >> above)
            continue;
        unsigned i = (unsigned)(tick >> (SLOT_BITS * l)) & (SLOTS - 1);
        append(&w->slot[l][i], h);
        w->used[l][i / 64] |= UINT64_C(1) << i % 64;
        return;
    }
    append(&w->late, h);
}

void sq_wheel_add(struct sq_wheel *w, struct sq_held *h)
{
    h->seq = w->seq++;
    h->child = NULL;
    w->count++;
    place(w, h);
}

static void spread(struct sq_wheel *w, struct slot *s)
{
    struct sq_held *h = s->head;
    *s = (struct slot){0};
    while (h) {
        struct sq_held *next = h->next;
        place(w, h);
        h = next;
    }
}

/* The first used slot of a level behind the present one; -1: none. */
static int first_used(const struct sq_wheel *w, unsigned l)
{
    unsigned i = ((unsigned)(w->tick >> (SLOT_BITS * l)) & (SLOTS - 1)) + 1;
    if (i == SLOTS)
        return -1;
    uint64_t word = w->used[l][i / 64] & ~UINT64_C(0) << i % 64;
    for (unsigned at = i / 64;;) {
        if (word)
            return (int)(at * 64) + __builtin_ctzll(word);
        if (++at == SLOTS / 64)
            return -1;
        word = w->used[l][at];
    }
}

/* Where time must go next: the start of the first used slot. False: nothing waits outside the heap. */
static bool next_stop(const struct sq_wheel *w, uint64_t *tick, int64_t *due)
{
    for (unsigned l = 0; l < LEVELS; l++) {
        int i = first_used(w, l);
        if (i < 0)
            continue;
        unsigned at = SLOT_BITS * l, above = at + SLOT_BITS;
        *tick = w->tick >> above << above | (uint64_t)i << at;
        *due = w->slot[l][i].min;
        return true;
    }
    if (!w->late.head)
        return false;
    *tick = ((w->tick >> (SLOT_BITS * LEVELS)) + 1) << (SLOT_BITS * LEVELS);
    *due = w->late.min;
    return true;
}

static void enter(struct sq_wheel *w, uint64_t tick)
{
    uint64_t was = w->tick;
    w->tick = tick;
    if (tick >> SLOT_BITS * LEVELS != was >> SLOT_BITS * LEVELS)
        spread(w, &w->late);
    for (unsigned l = LEVELS; l-- > 0;) {
        if (tick >> SLOT_BITS * l == was >> SLOT_BITS * l)
            continue;
        unsigned i = (unsigned)(tick >> SLOT_BITS * l) & (SLOTS - 1);
        if (!(w->used[l][i / 64] >> i % 64 & 1))
            continue;
        w->used[l][i / 64] &= ~(UINT64_C(1) << i % 64);
        spread(w, &w->slot[l][i]);
    }
}

struct sq_held *sq_wheel_due(struct sq_wheel *w, int64_t now)
{
    uint64_t present = now > 0 ? (uint64_t)now >> TICK_BITS : 0;
    for (;;) {
        uint64_t stop;
        int64_t due;
        if (w->heap && w->heap->due <= now)
            return pop(w);
        if (w->tick >= present)
            return NULL;
        enter(w, next_stop(w, &stop, &due) && stop < present ? stop : present);
    }
}

int64_t sq_wheel_next(const struct sq_wheel *w)
{
    uint64_t stop;
    int64_t due;
    if (w->heap)
        return w->heap->due;
    return next_stop(w, &stop, &due) ? due : INT64_MAX;
}

uint64_t sq_wheel_count(const struct sq_wheel *w)
{
    return w->count;
}
