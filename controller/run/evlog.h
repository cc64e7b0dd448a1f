/* The writer of a run's evidence log (EVIDENCE.md). One writer a run, on the run loop; records are appended whole, in
 * the order of the calls. Space is reserved ahead of the log, so that after the disk is full there is still room for
 * the records that end the run properly. */
#ifndef CONTROLLER_RUN_EVIDENCE_H
#define CONTROLLER_RUN_EVIDENCE_H

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "squall/err.h"

struct sq_evidence;

/* Creates DIR/evidence.jsonl (must not exist: -EEXIST). T 0 of the log is START_NS (CLOCK_MONOTONIC). */
int sq_evidence_open(uv_loop_t *loop, const char *dir, int64_t start_ns, struct sq_evidence **out, struct sq_err *e);
/* Append REC (taken over) with "t" for the moment AT_NS and the given "type", which must not be in it. Buffered for at
 * most half a second. The first failure to write is kept: see sq_evidence_error. */
void sq_evidence_put(struct sq_evidence *ev, const char *type, int64_t at_ns, json_t *rec);
/* As above, and on disk soon (fdatasync in a worker thread): for fault events. */
void sq_evidence_put_durable(struct sq_evidence *ev, const char *type, int64_t at_ns, json_t *rec);
/* NULL: all well so far. The reserve may still take the last records when it is not. */
const struct sq_err *sq_evidence_error(const struct sq_evidence *ev);
/* Have it called once, from the loop, when writing fails for the first time. */
void sq_evidence_on_error(struct sq_evidence *ev, void (*fn)(void *arg), void *arg);
int64_t sq_evidence_start_ns(const struct sq_evidence *ev);
/* Write the rest, sync, close the file and free; blocks. The loop must still run once more for the timer's handle. */
int sq_evidence_close(struct sq_evidence *ev, struct sq_err *e);

#endif
