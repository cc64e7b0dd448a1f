/* The writer of a run's evidence log (EVIDENCE.md). One writer a run, on the run loop; records are appended whole, in
 * the order of the calls. Space is reserved ahead of the log, so that after the disk is full there is still room for
 * the records that end the run properly. */
#ifndef CONTROLLER_RUN_EVLOG_H
#define CONTROLLER_RUN_EVLOG_H

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "squall/err.h"

struct sq_evlog;

/* Creates DIR/evidence.jsonl (must not exist: -EEXIST). T 0 of the log is START_NS (CLOCK_MONOTONIC). */
int sq_evlog_open(uv_loop_t *loop, const char *dir, int64_t start_ns, struct sq_evlog **out, struct sq_err *e);
/* Append REC (taken over) with "t" for the moment AT_NS and the given "type", which must not be in it. Buffered for at
 * most half a second. The first failure to write is kept: see sq_evlog_error. */
void sq_evlog_put(struct sq_evlog *ev, const char *type, int64_t at_ns, json_t *rec);
/* As above, and on disk soon (fdatasync in a worker thread): for fault events. */
void sq_evlog_put_durable(struct sq_evlog *ev, const char *type, int64_t at_ns, json_t *rec);
/* NULL: all well so far. The reserve may still take the last records when it is not. */
const struct sq_err *sq_evlog_error(const struct sq_evlog *ev);
/* Have it called once, from the loop, when writing fails for the first time. */
void sq_evlog_on_error(struct sq_evlog *ev, void (*fn)(void *arg), void *arg);
/* Write the rest, sync, close the file and free; blocks. The loop must still run once more for the timer's handle. */
int sq_evlog_close(struct sq_evlog *ev, struct sq_err *e);

#endif
