/* Some work takes seconds on a busy host (the kernel verifies BPF programs), and squalld's loop can't beat meanwhile. A
 * thread beats for it then, for a bounded time: work without an end is a hang all the same, and a process that is
 * stopped has its thread stopped with it. Leases are enforced by the keeper whatever happens here. */
#ifndef SQUALL_PATIENCE_H
#define SQUALL_PATIENCE_H

#include <stdint.h>

#include "squall/err.h"
#include "squall/units.h"

#define SQ_PATIENCE_NS (10 * SQ_S) /* a request, or one step of it that began anew: what takes longer is a hang */

struct sq_patience;

/* BEAT is borrowed, and written with CLOCK_MONOTONIC ns (page.h). */
int sq_patience_new(volatile int64_t *beat, struct sq_patience **out, struct sq_err *e);
void sq_patience_free(struct sq_patience *p); /* NULL: nothing */
/* Begun again it lasts MOST_NS from then on; one end ends it. NULL: nothing. */
void sq_patience_begin(struct sq_patience *p, int64_t most_ns);
void sq_patience_end(struct sq_patience *p);

#endif
