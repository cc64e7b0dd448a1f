/* An SLO of the scenario (spec.slos) and what its indicator saw, second by second: from our own probe's samples or from
 * the `metric` records of a Prometheus. Pure. */
#ifndef SQUALL_VERIFY_SLO_SERIES_H
#define SQUALL_VERIFY_SLO_SERIES_H

#include "verify/result.h"

#define SQ_SLO_BEFORE 259200 /* seconds before the run that burn rates look at: 3 days */

struct sq_slo {
    const char *name, *endpoint, *source; /* endpoint: "" unless of our own probe; source: "probe", "prometheus" */
    double target;                        /* share that must be good, 0 < target < 1 */
    int64_t window_ns;
    int64_t below;       /* ns; 0: none */
    bool failed_ignored; /* latency alone counts, failed requests have one, too */
    int64_t slice;       /* seconds of a time slice; 0: occurrences are counted */
    double slice_target; /* share */
    const json_t *def, *indicator;
};

/* -EINVAL (SQ_C_INPUT): the scenario has no such SLO. */
int sq_slo_find(const struct sq_evidence *ev, const char *name, struct sq_slo *out, struct sq_err *e);

/* good[i] of total[i] in the second first + i; the first `before` of the n are before the run. */
struct sq_slo_series {
    int64_t first;
    size_t before, n;
    double *good, *total;
    bool *gap;            /* seconds without data that there should be; NULL: there are none */
    const char *unit;     /* "requests", "requests (by their rate)", "polls", "slices" */
    bool counted;         /* good and total are counts, so that an interval can be given */
    bool history;         /* the time before the run was measured; false: it is taken as clean, at the run's own rate */
    const char *unusable; /* why nothing can be said; NULL */
    char why[256];        /* why there are gaps: the first one's reason; also what `unusable` points to */
};
int sq_slo_series(const struct sq_evidence *ev, const struct sq_slo *slo, struct sq_slo_series *out, struct sq_err *e);
void sq_slo_series_free(struct sq_slo_series *s);

struct sq_slo_sum {
    double good, total;
    uint64_t gaps; /* seconds */
};
/* Of the seconds [from, to) of the run, as far as they are in the series. */
struct sq_slo_sum sq_slo_sum(const struct sq_slo_series *s, int64_t from, int64_t to);

/* slo_metric.c: fills good, total, gap, unit, counted, history of a series whose times are set. */
int sq_slo_from_metrics(const struct sq_evidence *ev, const struct sq_slo *slo, struct sq_slo_series *s,
                        struct sq_err *e);

/* The values of one look at T1 (seconds), after those at T0 (BEFORE NULL: there were none): how many were good of how
 * many since. What is wrong with them, NULL: nothing. */
const char *sq_slo_metric(const json_t *indicator, double t0, const double before[2], double t1, const double now[2],
                          double *good, double *total);

/* slo_share.c: is the share of good ones over the SECONDS [first[i], end[i]) of n stretches at least the target? */
int sq_slo_judge(const struct sq_evidence *ev, const struct sq_slo *slo, const struct sq_ev_step *only,
                 const struct sq_window *secs, size_t n, double conf, json_t *results, struct sq_err *e);

/* slo_table.c: one row for each SLO of the scenario (EVIDENCE.md, verdict.json "slos"); new reference. */
int sq_slo_table(const struct sq_evidence *ev, json_t **rows, struct sq_err *e);

#endif
