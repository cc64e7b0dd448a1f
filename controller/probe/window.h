/* The last seconds of an endpoint, by the second in which a request finished: written by the probe's thread, read by
 * the run loop's without a lock. A histogram with 64 buckets for each power of two: within 1.6 %. */
#ifndef SQUALL_PROBE_WINDOW_H
#define SQUALL_PROBE_WINDOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define SQ_WINDOW_CELLS 2560 /* up to 2^45 ns: ten hours */

struct sq_window_slot {
    int64_t sec; /* which second this is; -1: none yet */
    uint64_t n, bad;
    int64_t max;
    uint32_t cell[SQ_WINDOW_CELLS];
};

struct sq_window_ring;

struct sq_window_ring *sq_window_new(unsigned seconds); /* NULL: no memory */
void sq_window_free(struct sq_window_ring *w);
void sq_window_add(struct sq_window_ring *w, int64_t sec, int64_t latency, bool bad);
/* Add the seconds [from, to) that are still there to *sum (zeroed by the caller at first). */
void sq_window_sum(const struct sq_window_ring *w, int64_t from, int64_t to, struct sq_window_slot *sum);
/* {"n","bad","max","c":[cell,count,...]}; new reference, NULL: no memory. */
json_t *sq_window_slot_json(const struct sq_window_slot *s);
/* What another probe finished in second SEC, by such an object (from outside: what does not fit is left out). */
void sq_window_put(struct sq_window_ring *w, int64_t sec, const json_t *slot);
int64_t sq_window_percentile(const struct sq_window_slot *sum, double p); /* 0 when empty */

#endif
