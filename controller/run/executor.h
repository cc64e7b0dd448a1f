/* Executes a scenario: one state machine on one uv loop, which also renews the lease (the dead-man's switch proves that
 * this very loop lives). Everything that happens goes into the evidence log; judging it is verify's business. */
#ifndef CONTROLLER_RUN_EXECUTOR_H
#define CONTROLLER_RUN_EXECUTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "run/progress.h"
#include "squall/err.h"

struct sq_execute_opts {
    const json_t *scenario;                 /* normalized (SCENARIO.md), borrowed */
    const char *file;                       /* the scenario's path, for the record */
    const char *out;                        /* the run's folder; NULL: ./squall-runs/<run id> */
    const char *approved_by, *approved_why; /* --approve, --reason: both, or NULL */
    const char *injector;                   /* its socket; NULL: a private one */
    bool seeded;
    uint64_t seed;  /* when seeded, else drawn */
    bool keep_logs; /* keep what the private injector said even when all went well */
    struct sq_progress *progress;
};

struct sq_execute_result {
    char dir[4096]; /* the run's folder; "" when there is none (nothing was started) */
    char id[160];
    char reason[16]; /* as in the end record: completed, not_steady, aborted, infrastructure */
    char why[1024];
    bool clean;
    json_t *left; /* array of strings; owned by the caller */
};

/* Blocks until the run has ended and everything of it is taken back (or named in `left`). 0 when an evidence log with
 * an end record is there, whatever the run's outcome; -errno when not even that could be made. */
int sq_execute(const struct sq_execute_opts *o, struct sq_execute_result *res, struct sq_err *e);

#endif
