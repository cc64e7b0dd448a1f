/* What evidence.c and evidence_read.c share. Nobody else includes this. */
#ifndef SQUALL_VERIFY_EVIDENCE_PRIVATE_H
#define SQUALL_VERIFY_EVIDENCE_PRIVATE_H

#include "verify/evidence.h"

struct sq_ev_private {
    json_t *keep;      /* array: every record that is not a sample or a list of calls */
    json_t *names;     /* object whose keys are the interned strings */
    json_t *endpoints; /* name -> index */
    json_t *series;    /* edge US instance -> index */
    json_t *faults;    /* id -> index */
    size_t n_calls, n_samples, lines;
    size_t cap_endpoints, cap_series, cap_faults, cap_phases, cap_events;
};

/* A string that lives as long as EV; NULL: no memory. */
const char *sq_ev_intern(struct sq_evidence *ev, const char *s);
/* Make room for one more element of SIZE bytes. */
int sq_ev_grow(void **array, size_t *cap, size_t n, size_t size, struct sq_err *e);
/* One line without its newline. Returns 0 (also for lines it counts as damaged) or a fatal -errno. LAST: it has no
 * newline, so it may be torn. */
int sq_ev_line(struct sq_evidence *ev, const char *line, size_t len, bool last, struct sq_err *e);
/* All lines are in: sort, connect steps and faults. */
int sq_ev_finish(struct sq_evidence *ev, struct sq_err *e);
struct sq_evidence *sq_ev_new(struct sq_err *e);

#endif
