/* Abort conditions (safety.abort_when): when what the probe sees says that the rehearsal has become an incident. */
#ifndef CONTROLLER_RUN_ABORT_H
#define CONTROLLER_RUN_ABORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "probe/probe.h"
#include "squall/err.h"

/* CONDITIONS: the normalized safety.abort_when ([{"metric":"error_rate|burn_rate|p50|p95|p99","over","for",
 * "min_requests","target"}], NULL: none); those with "sprt" are left to sq_abort_watch. LOOK gives the probe's window
 * of the last N seconds, all endpoints together. True when one of them holds; WHY says which and what was seen. A
 * condition holds when its window is complete (as many seconds as `for`) and has min_requests. */
typedef int sq_abort_look(void *arg, unsigned seconds, struct sq_probe_window *w);
bool sq_abort_due(const json_t *conditions, sq_abort_look *look, void *arg, char *why, size_t len);
/* The longest window that the conditions ask for, in seconds; 0: none. */
unsigned sq_abort_longest(const json_t *conditions);

/* The conditions with "sprt": {"p0","p1","alpha","beta"}, all percentages: sequential tests, which may be looked at
 * each second and stop as soon as chance is ruled out (verify/sprt.h). With burn_rate p0 and p1 are the shares of bad
 * requests at a burn rate of 1 and of "over". */
struct sq_abort_watch;
int sq_abort_watch_new(const json_t *conditions, struct sq_abort_watch **out, struct sq_err *e);
void sq_abort_watch_free(struct sq_abort_watch *w); /* NULL is fine */
/* What finished in the last SECONDS, which were not told before. True: one of them says stop; WHY says which. */
bool sq_abort_watch_due(struct sq_abort_watch *w, unsigned seconds, sq_abort_look *look, void *arg, char *why,
                        size_t len);

#endif
