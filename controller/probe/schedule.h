/* When requests are planned: the i-th one at the moment when the integral of the rate reaches i. Pure and exact:
 * computed from i alone, so no error adds up, however long a run is. With Poisson arrivals the integral between two
 * requests is exponentially distributed with mean 1 instead of 1. */
#ifndef SQUALL_PROBE_SCHEDULE_H
#define SQUALL_PROBE_SCHEDULE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"
#include "squall/rng.h"

#define SQ_STAGES_MAX 256
#define SQ_BASELINE_MAX 172800 /* seconds of a recorded baseline: two days */

/* Linear from `from` to `to` requests per second within `ns`; the last stage lasts for ever. */
struct sq_stage {
    double from, to;
    int64_t ns;         /* INT64_MAX: for ever */
    int64_t begin;      /* ns from the start */
    long double before; /* integral of the rate up to `begin` */
};

struct sq_schedule {
    size_t n, at;          /* stages, the one that `next` falls into */
    uint64_t next;         /* number of the next request */
    struct sq_stage *list; /* `stage`, or those of a recorded baseline */
    struct sq_stage stage[SQ_STAGES_MAX + 1];
    bool poisson;
    long double sum; /* poisson: the integral at which the next request is planned */
    struct sq_rng rng;
};

/* From an endpoint of spec.load: "executor" and what that takes, "arrivals". NAME: the endpoint's, to find it in a
 * recorded baseline. Clear it, whatever this returns. */
int sq_schedule_init(struct sq_schedule *s, const json_t *endpoint, const char *name, struct sq_err *e);
void sq_schedule_clear(struct sq_schedule *s);
/* Poisson arrivals: the same seed gives the same moments. Before the first sq_schedule_next. */
void sq_schedule_seed(struct sq_schedule *s, uint64_t seed);
/* ns from the start at which the next request is planned, and step on; INT64_MAX: never again. Never goes back. */
int64_t sq_schedule_next(struct sq_schedule *s);

#endif
