/* Faults are compared now and then with what is in the kernel. That takes as long as there is much in it: however many
 * faults with however many addresses, these looks together take at most a fifth of the loop's time. */
#ifndef SQUALL_LOOKING_H
#define SQUALL_LOOKING_H

#include <stdbool.h>
#include <stdint.h>

struct sq_engine;

/* Of one fault; all zero at first. */
struct sq_looking {
    int64_t begun, took, due; /* ns */
};

/* Is it time? At the earliest EVERY ns after the first call, then after each look. If so, the look has begun. */
bool sq_looking_begin(struct sq_looking *l, int64_t every);
/* The look is over; the keeper sees that squalld gets on. */
void sq_looking_end(struct sq_engine *eng, struct sq_looking *l, int64_t every);
/* There will be no more. */
void sq_looking_over(struct sq_engine *eng, struct sq_looking *l);

#endif
