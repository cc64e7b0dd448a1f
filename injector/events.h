/* What happened in a run, kept until its controller has fetched it: a ring of at most SQ_EVENTS_MOST events and
 * SQ_EVENTS_BYTES bytes. When it is full the oldest goes, and the next reader who would have got it is told how many.
 */
#ifndef SQUALL_EVENTS_H
#define SQUALL_EVENTS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define SQ_EVENTS_MOST 100000u
#define SQ_EVENTS_BYTES (64u * 1024 * 1024)
#define SQ_EVENTS_READ 1000u                    /* at most so many a time, */
#define SQ_EVENTS_READ_BYTES (8u * 1024 * 1024) /* and about so much text */

struct sq_events;

struct sq_events *sq_events_new(void); /* NULL: no memory */
void sq_events_free(struct sq_events *ev);
/* Takes OBJ; gives it its "seq" (from 1) and, unless it has one, "at" (CLOCK_MONOTONIC ns). */
void sq_events_add(struct sq_events *ev, json_t *obj);
/* {"events":[...],"next":N}: those with seq > AFTER; ask with after=N next time. malloc'd text; NULL: no memory. */
char *sq_events_read(struct sq_events *ev, uint64_t after, size_t *len);

#endif
