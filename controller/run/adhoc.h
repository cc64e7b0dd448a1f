/* One load without a rehearsal around it: the probe's engine, a clock, and what it measured. Needs no injector, but
 * those of the other hosts that it is sent from. */
#ifndef CONTROLLER_RUN_ADHOC_H
#define CONTROLLER_RUN_ADHOC_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "probe/probe.h"
#include "squall/err.h"
#include "squall/hist.h"

/* The wait of the recorded scenario in which the load is judged. */
#define SQ_ADHOC_STEP "load"

/* What was measured so far; sums over all seconds that are complete. */
struct sq_adhoc_sums {
    struct sq_hist *h, *hs, *hok; /* latency from the planned send, service time, latency of good answers; ns */
    uint64_t planned, sent, ok, bad_n, late, lag_late, reconnects, bytes;
    json_t *bad, *status; /* {reason: n}, {"200": n} */
};

struct sq_adhoc_view {
    struct sq_probe_window last; /* of the last 3 whole seconds */
    struct sq_probe_live live;
    int64_t elapsed_ns, total_ns; /* since the first planned request; < 0: it has not begun */
    bool ending;                  /* nothing more is planned; the last answers are waited for */
};

struct sq_adhoc_opts {
    const json_t *scenario; /* normalized: spec.load, spec.hosts, spec.lateness, one step: the wait SQ_ADHOC_STEP, whole
                               seconds */
    const char *file;       /* for the record */
    const char *out;        /* folder of the evidence (EVIDENCE.md); NULL: none is kept */
    uint64_t seed;
    /* Ten times a second, and once for every complete second of every endpoint, in order. May be NULL. */
    void (*tick)(void *arg, const struct sq_adhoc_view *v);
    void (*second)(void *arg, const json_t *sample);
    void *arg;
};

struct sq_adhoc {
    struct sq_adhoc_sums sums;
    json_t *ends;     /* the `probe` records */
    json_t *left;     /* what other hosts did not answer: sentences; empty when all is well */
    json_t *verdict;  /* verdict.json of EVIDENCE.md, over the whole load */
    int64_t ran_ns;   /* how long requests were planned */
    bool interrupted; /* by a signal: SIGINT, SIGTERM, SIGHUP */
    char id[160];
};

/* Blocks until the load is over, its last request answered or timed out. The first signal ends it early, the second at
 * once. 0 with *out to be freed, -errno when it could not be carried out. Memory: three histograms, whatever the
 * length. */
int sq_adhoc_run(const struct sq_adhoc_opts *o, struct sq_adhoc **out, struct sq_err *e);
void sq_adhoc_free(struct sq_adhoc *a);

#endif
