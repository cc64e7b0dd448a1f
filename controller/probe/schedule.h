/* When requests are planned: the i-th one at the moment when the integral of the rate reaches i. Pure and exact:
 * computed from i alone, so no error adds up, however long a run is. */
#ifndef SQUALL_PROBE_SCHEDULE_H
#define SQUALL_PROBE_SCHEDULE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_STAGES_MAX 256

/* Linear from `from` to `to` requests per second within `ns`; the last stage lasts for ever. */
struct sq_stage {
    double from, to;
    int64_t ns;         /* INT64_MAX: for ever */
    int64_t begin;      /* ns from the start */
    long double before; /* integral of the rate up to `begin` */
};

struct sq_schedule {
    size_t n, at;  /* stages, the one that `next` falls into */
    uint64_t next; /* number of the next request */
    struct sq_stage stage[SQ_STAGES_MAX + 1];
};

/* From an endpoint of spec.load: "executor" and what that takes. */
int sq_schedule_init(struct sq_schedule *s, const json_t *endpoint, struct sq_err *e);
/* ns from the start at which the next request is planned, and step on; INT64_MAX: never again. Never goes back. */
int64_t sq_schedule_next(struct sq_schedule *s);

#endif
