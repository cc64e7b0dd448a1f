/* When held packets are due: a hierarchical timing wheel of 8 us ticks, O(1) in and out, packets of one tick in exact
 * order of their due times and, at the same time, of arrival. Bounded: the packets themselves are the caller's. */
#ifndef SQUALL_WHEEL_H
#define SQUALL_WHEEL_H

#include <stdint.h>

struct sq_held {
    int64_t due; /* ns, CLOCK_MONOTONIC, >= 0; the caller's; the rest is the wheel's */
    struct sq_held *next, *child;
    uint64_t seq;
};
struct sq_wheel;

struct sq_wheel *sq_wheel_new(int64_t now); /* NULL: no memory */
void sq_wheel_free(struct sq_wheel *w);     /* the packets are not touched */
void sq_wheel_add(struct sq_wheel *w, struct sq_held *h);
/* The next packet that is due at NOW, taken out; NULL: none. */
struct sq_held *sq_wheel_due(struct sq_wheel *w, int64_t now);
/* When to look again, ns; INT64_MAX: it is empty. Exact, not the tick's. */
int64_t sq_wheel_next(const struct sq_wheel *w);
uint64_t sq_wheel_count(const struct sq_wheel *w);

#endif
