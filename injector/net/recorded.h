/* What was measured, as a distribution: HdrHistogram logs and the evidence of a run of Squall. */
#ifndef SQUALL_RECORDED_H
#define SQUALL_RECORDED_H

#include <stddef.h>
#include <stdint.h>

#include "net/dist.h"
#include "squall/err.h"

#define SQ_RECORDED_MAX ((size_t)64 << 20) /* bytes of a file: read and parsed within a second */
#define SQ_RECORDED_VALUES 400000          /* different ones */

struct sq_values {
    struct sq_value {
        int64_t ns;
        uint64_t count; /* > 0 */
    } * v;
    size_t n, cap;
};

void sq_values_clear(struct sq_values *v);
int sq_values_add(struct sq_values *v, int64_t ns, uint64_t count, struct sq_err *e);
/* An HdrHistogram log, format V2: lines [Tag=...,]start,length,max,base64 of a compressed histogram; all of them are
 * added up. UNIT: nanoseconds that 1 stands for. The middle of a bucket stands for its values. */
int sq_values_hlog(struct sq_values *v, const char *text, size_t len, int64_t unit, struct sq_err *e);
/* evidence.jsonl: the histograms `h` (from the planned send) of ENDPOINT's samples; of all endpoints when it is NULL.
 */
int sq_values_run(struct sq_values *v, const char *text, size_t len, const char *endpoint, struct sq_err *e);
/* A table of SQ_DIST_POINTS equally probable values, the middles of as many parts of the distribution, scaled as
 * iproute2's maketable does: (value - mean) / jitter * SQ_DIST_SCALE, cut at 16 bits, which is 4 jitters. *mean that is
 * 0 becomes the mean. *jitter that is 0 becomes the standard deviation, or more where the farthest point would be cut
 * otherwise; a given one is the deviation that the table is to have. maketable itself lets its last entry be the
 * largest number of 16 bits, whatever was measured; this does not. *out is NULL when all values are one. */
int sq_values_table(struct sq_values *v, int64_t *mean, int64_t *jitter, struct sq_dist_table **out, struct sq_err *e);

#endif
