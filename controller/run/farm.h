/* The load of a run, wherever it is sent from: this process's probe, and one on each host of `from`, started by its
 * injector (run/agent.h). The functions are those of probe/probe.h, over all of them.
 *
 * Clocks: latencies are measured on the clock of the host that sends, start to end. Only which second of the run a
 * request belongs to depends on two clocks. How far a host's CLOCK_MONOTONIC is ahead is measured over its API (the
 * quickest of some questions; half its round trip is the error), before and after the load, and both go into the
 * evidence. */
#ifndef CONTROLLER_RUN_FARM_H
#define CONTROLLER_RUN_FARM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "probe/probe.h"
#include "squall/err.h"

struct sq_farm;

struct sq_farm_opts {
    uv_loop_t *loop;
    const json_t *hosts;      /* spec.hosts; NULL: none */
    struct sq_probe_opts opt; /* of all; `load` with every endpoint's `from` */
    int64_t lease_ns;
    /* From the loop. ERROR: a probe is lost, or was never begun: the run can't go on. */
    void (*failed)(void *arg, const char *error);
    void (*log)(void *arg, const char *type, json_t *rec); /* takes REC */
    void *arg;
};

/* OPT is copied, its JSON kept by reference. Resolves names, as sq_probe_create does. */
int sq_farm_new(const struct sq_farm_opts *o, struct sq_farm **out, struct sq_err *e);
json_t *sq_farm_places(struct sq_farm *f); /* as sq_probe_places, of every endpoint; new reference */
bool sq_farm_remote(const struct sq_farm *f);

/* Begin everywhere at the same moment; BEGUN(arg) once from the loop (with this host alone: from within) when all
 * have. What goes wrong is said by `failed`, or with this host alone by the result. */
int sq_farm_start(struct sq_farm *f, int64_t zero_ns, void (*begun)(void *arg), struct sq_err *e);
int64_t sq_farm_begin_ns(const struct sq_farm *f);
void sq_farm_stop(struct sq_farm *f, int64_t grace_ns);
/* Every sample is there, and other hosts have ended what was begun there. */
bool sq_farm_done(const struct sq_farm *f);
/* As sq_probe_next; samples of an endpoint with `from` say where: "from". All of one second come together. */
json_t *sq_farm_next(struct sq_farm *f);
/* As sq_probe_end, one record an endpoint; what each host did is in "hosts". */
json_t *sq_farm_end(struct sq_farm *f);
/* As sq_probe_window of all endpoints: the last seconds that every host has told of. */
int sq_farm_window(struct sq_farm *f, unsigned seconds, struct sq_probe_window *w);
void sq_farm_live(struct sq_farm *f, struct sq_probe_live *l);
/* What other hosts were not told, or did not answer: sentences; new reference. */
json_t *sq_farm_left(const struct sq_farm *f);
/* Ends the probe of this process at once and closes what is open; the loop must run until that is done. NULL is fine.
 */
void sq_farm_close(struct sq_farm *f);

#endif
