/* The classifier's program of the netem backend, loaded; and whether this kernel takes all that the backend needs. */
#ifndef SQUALL_NETEM_LOAD_H
#define SQUALL_NETEM_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

struct classid;
struct sq_engine;

/* The programs of one direction; BASE is the class of bit 0. Takes some 20 ms, and seconds where BPF is not compiled:
 * the loop waits, but the keeper sees us live. *OUT: for classid__destroy. */
int sq_netem_load(struct sq_engine *eng, uint32_t base, bool ingress, struct classid **out, struct sq_err *e);
/* Tries everything in a network namespace of its own. */
int sq_netem_check(struct sq_engine *eng, struct sq_err *e);

#endif
