/* Abort conditions (safety.abort_when): when what the probe sees says that the rehearsal has become an incident. */
#ifndef CONTROLLER_RUN_ABORT_H
#define CONTROLLER_RUN_ABORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "probe/probe.h"
#include "squall/err.h"

/* CONDITIONS: the normalized safety.abort_when ([{"metric":"error_rate|p50|p95|p99","over","for","min_requests"}],
 * NULL: none). LOOK gives the probe's window of the last N seconds, all endpoints together. True when one of them
 * holds; WHY says which and what was seen. A condition holds when its window is complete (as many seconds as `for`) and
 * has min_requests. */
typedef int sq_abort_look(void *arg, unsigned seconds, struct sq_probe_window *w);
bool sq_abort_due(const json_t *conditions, sq_abort_look *look, void *arg, char *why, size_t len);
/* The longest window that the conditions ask for, in seconds; 0: none. */
unsigned sq_abort_longest(const json_t *conditions);

#endif
