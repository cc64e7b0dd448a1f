/* Sleeping while answers come. */
#ifndef SQUALL_PROBE_NAP_H
#define SQUALL_PROBE_NAP_H

#include "probe/engine.h"

/* Sleep until something is due if no answer must be read before. True: has slept, the loop must not wait in poll. */
bool sq_nap(struct sq_engine *p);
/* When the answer to R, which was read now, came (CLOCK_MONOTONIC). STAMP: the kernel's time of it, CLOCK_REALTIME. */
int64_t sq_arrived(struct sq_engine *p, const struct sq_request *r, int64_t stamp);

#endif
