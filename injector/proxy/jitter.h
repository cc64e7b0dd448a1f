/* The distribution of a latency's jitter, as a rule has it (wire.h): delay + jitter * table[random] / 8192, as netem's
 * (net/dist.h). */
#ifndef SQUALL_PROXY_JITTER_H
#define SQUALL_PROXY_JITTER_H

#include <jansson.h>
#include <stdint.h>

#include "squall/err.h"
#include "squall/rng.h"

#define SQ_JITTER_MAX 4096 /* numbers: as text 11 KiB of a message */
#define SQ_JITTER_SCALE 8192

struct sq_jitter {
    uint32_t n; /* > 0 */
    int16_t v[];
};

/* "table" of a rule, malloc'd; NULL: it has none. -EINVAL: what it has is no table. */
int sq_jitter_parse(const json_t *rule, struct sq_jitter **out, struct sq_err *e);
/* The N numbers as "table" of a rule. -E2BIG: too many. */
int sq_jitter_rule(const int16_t *v, uint32_t n, json_t *rule, struct sq_err *e);
/* What tells one table from another, for read-backs: "4096 numbers, 0123456789abcdef" (how many, FNV-1a). */
#define SQ_JITTER_SUM 48
const char *sq_jitter_sum(const struct sq_jitter *t, char buf[SQ_JITTER_SUM]);
/* At least 0; ns. */
int64_t sq_jitter_draw(const struct sq_jitter *t, struct sq_rng *rng, int64_t delay, int64_t jitter);

#endif
