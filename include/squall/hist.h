/* High dynamic range histogram: log-linear buckets, three significant digits, 1 ns to about 73 minutes (larger values
 * are clamped and counted as clamped). Bucket layout as HdrHistogram with lowest 1 and 3 digits: index(v) is stable and
 * part of the evidence format. Merging is exact; percentiles are never averaged. */
#ifndef SQUALL_HIST_H
#define SQUALL_HIST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

struct sq_hist; /* opaque, owned by the creator */

struct sq_hist *sq_hist_new(void); /* NULL: no memory */
void sq_hist_free(struct sq_hist *h);
void sq_hist_reset(struct sq_hist *h);
void sq_hist_record(struct sq_hist *h, int64_t ns); /* < 0 counts as 0 */
void sq_hist_add(struct sq_hist *into, const struct sq_hist *from);
uint64_t sq_hist_count(const struct sq_hist *h);
int64_t sq_hist_min(const struct sq_hist *h); /* 0 when empty */
int64_t sq_hist_max(const struct sq_hist *h);
double sq_hist_mean(const struct sq_hist *h);
/* Value at percentile p (0..100): the highest equivalent value of the bucket that holds the ceil(p% * n)-th; 0 when
 * empty. */
int64_t sq_hist_percentile(const struct sq_hist *h, double p);
/* The k-th smallest value (1-based), for order-statistic intervals. */
int64_t sq_hist_rank(const struct sq_hist *h, uint64_t k);
/* How many recorded values are <= ns (within bucket resolution). */
uint64_t sq_hist_count_le(const struct sq_hist *h, int64_t ns);
/* Sparse JSON: [index, count, index, count, ...], ascending. New reference, NULL: no memory. */
json_t *sq_hist_to_json(const struct sq_hist *h);
int sq_hist_add_json(struct sq_hist *h, const json_t *sparse, struct sq_err *e);
/* The same from its text without brackets, "index,count,...": decimal digits and commas, nothing else. */
int sq_hist_add_text(struct sq_hist *h, const char *text, size_t len, struct sq_err *e);

#endif
