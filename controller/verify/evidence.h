/* The evidence of one run in memory: everything that checks and reports may look at (EVIDENCE.md). Pure data once read:
 * all fields are read-only for everyone but evidence*.c, all pointers live as long as the struct sq_evidence.
 * Times are nanoseconds since the run began. Windows are half-open: [from_ns, to_ns). */
#ifndef SQUALL_VERIFY_EVIDENCE_H
#define SQUALL_VERIFY_EVIDENCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"
#include "squall/hist.h"
#include "verify/cells.h"

/* Bounds on what is read; more is an error that says so. */
#define SQ_EV_MAX_BYTES ((size_t)4 * 1024 * 1024 * 1024)
#define SQ_EV_MAX_LINE (32u * 1024 * 1024)
#define SQ_EV_MAX_CALLS (16u * 1024 * 1024)
#define SQ_EV_MAX_SAMPLES 1000000u
#define SQ_EV_MAX_EVENTS 1000000u
#define SQ_EV_MAX_SECONDS (31 * 86400) /* times beyond this are damage */
#define SQ_EV_MAX_NAMES 4096u          /* endpoints, edge + instance pairs, faults: of each */

struct sq_window {
    int64_t from_ns, to_ns;
};

/* As enum sq_call_kind and sq_call_outcome of the proxy; the numbers are part of the evidence format. */
enum sq_ev_kind { SQ_EV_REQUEST = 0, SQ_EV_CONNECT = 1, SQ_EV_CONN = 2 };
enum sq_ev_outcome {
    SQ_EV_ANSWERED = 0,
    SQ_EV_FAILED = 1,
    SQ_EV_GAVE_UP = 2,
    SQ_EV_REFUSED = 3,
    SQ_EV_BROKEN = 4,
    SQ_EV_OPEN = 5,
    SQ_EV_NONE = 6,
};

struct sq_ev_call {
    int64_t t_ns;          /* its start, to 10 ms */
    uint32_t dur_us;       /* saturates at 71 minutes, as the next */
    uint32_t held_us;      /* delay that we added */
    uint16_t fault;        /* index + 1 into faults; 0: none */
    uint16_t status;       /* HTTP; 0: none */
    uint8_t kind, outcome; /* enum sq_ev_kind, enum sq_ev_outcome */
    bool traced;
    uint8_t trace[16];
};

/* The calls of one caller instance on one edge, sorted by time. */
struct sq_ev_series {
    const char *edge, *instance;
    struct sq_ev_call *calls;
    size_t n, cap;
    bool has_requests; /* a call of kind request is among them */
};

/* One fault, as the injector stamped it. */
struct sq_ev_fault {
    const char *id, *step, *uses;
    bool applied, reverted, failed;
    struct sq_window win;                         /* applied .. reverted; while not reverted: .. end of the log */
    const json_t *target, *with, *hit, *readback; /* as applied (the latest `changed` wins for with and readback) */
    int64_t ending_ns;  /* taking back began; it ended somewhere between this and win.to_ns. Valid when reverted */
    bool clean;         /* of the reverted record; true when it has none */
    const json_t *left; /* array or NULL */
    const char *error;  /* of the failed record; "" */
    size_t changes;     /* how many `changed` records */
};

/* A step of the scenario that has a fault or waits. */
struct sq_ev_step {
    const char *id, *name, *uses; /* uses: "" for a wait */
    const char *edge;             /* of its target; "" */
    const json_t *def;            /* from the scenario */
    struct sq_ev_fault *fault;    /* NULL: none was applied (or even tried) */
    bool ran;                     /* its fault was applied, or its wait began */
    struct sq_window win;         /* the fault's window; of a wait its phase. Valid when ran */
    int64_t until_ns; /* the end of what may be seen as its recovery: next fault applied, or the load's end */
};

struct sq_ev_phase {
    const char *phase, *step; /* step: "" */
    struct sq_window win;     /* to_ns: end of the log when it has no end */
    bool ended;
    bool met; /* of the steady phase */
    const char *why;
};

/* One second of one endpoint. `text` is the record itself; parse it with sq_ev_second_json. */
struct sq_ev_second {
    int64_t sec;
    uint64_t sent, ok, bad, late, lag_late; /* bad: all reasons */
    const char *text;
    size_t text_len;
    struct sq_cells cells[SQ_CELLS_COUNT]; /* its histograms in the text; valid when */
    bool outlined;
};

struct sq_ev_endpoint {
    const char *name;
    struct sq_ev_second *secs; /* sorted by sec; several records of one second are allowed and add up */
    size_t n, cap;
    bool has_probe; /* a `probe` record is there: */
    bool is_void;
    const char *void_why;
    const json_t *probe; /* the record; NULL */
};

struct sq_ev_event {
    int64_t t_ns;
    size_t line; /* of the log */
    const char *type;
    const json_t *obj; /* the whole record */
};

struct sq_evidence {
    const json_t *run; /* the run record */
    const char *id, *name, *start, *host, *squall;
    uint64_t seed;
    const json_t *scenario; /* as in the run record; {} when absent */
    const json_t *spec;     /* scenario.spec, or the scenario itself when it has none */

    struct sq_ev_step *steps; /* in the scenario's order */
    size_t n_steps;
    struct sq_ev_fault *faults; /* in the order of first mention: one that is only mentioned by calls is neither
                                 applied nor failed */
    size_t n_faults;
    struct sq_ev_phase *phases; /* in the log's order */
    size_t n_phases;
    struct sq_ev_endpoint *endpoints;
    size_t n_endpoints;
    struct sq_ev_series *series; /* sorted by edge, then instance */
    size_t n_series;
    struct sq_ev_event *events; /* everything but samples and calls, sorted by time */
    size_t n_events;

    struct sq_window load; /* from the first to the end of the last second that has samples; empty: no load */
    int64_t last_ns;       /* the latest time in the log */
    bool ended;            /* there is an end record: */
    const char *end_reason, *end_why; /* "" when absent */
    bool end_clean;
    const json_t *end;            /* the record; NULL */
    const json_t *before, *after; /* snapshot states; NULL when not taken */
    const json_t *before_rec, *after_rec;
    bool torn;                    /* the last line was cut off (and left out): */
    size_t torn_line;             /* its number */
    size_t damaged, damaged_line; /* lines within that could not be read; the first one's number */

    struct sq_ev_private *priv;
};

/* Read DIR/evidence.jsonl. -ENOENT and class SQ_C_NOTFOUND when there is none; -EINVAL (SQ_C_INPUT) when it is not an
 * evidence log (no readable run record) or breaks a bound. Owner: the caller, sq_evidence_free. */
int sq_evidence_read(const char *dir, struct sq_evidence **out, struct sq_err *e);
/* The same from memory. */
int sq_evidence_parse(const char *text, size_t len, struct sq_evidence **out, struct sq_err *e);
void sq_evidence_free(struct sq_evidence *ev);

/* NULL when there is none. */
const struct sq_ev_step *sq_ev_step(const struct sq_evidence *ev, const char *id);
const struct sq_ev_endpoint *sq_ev_endpoint(const struct sq_evidence *ev, const char *name);
/* The first steady phase; NULL: none. */
const struct sq_ev_phase *sq_ev_steady(const struct sq_evidence *ev);
/* The series of an edge: consecutive in ev->series; returns how many and the first one. */
size_t sq_ev_series(const struct sq_evidence *ev, const char *edge, const struct sq_ev_series **first);

/* The calls that start in WIN: indices [*from, *to) of s->calls. Returns how many. O(log n). */
size_t sq_ev_calls_in(const struct sq_ev_series *s, struct sq_window win, size_t *from, size_t *to);
/* Whole seconds inside WIN as [*first, *end): false when there is none. */
bool sq_window_secs(struct sq_window win, int64_t *first, int64_t *end);

/* Sums over the seconds [first, end) of one endpoint (NULL: of all). */
struct sq_ev_sums {
    uint64_t sent, ok, bad, late, lag_late;
    uint64_t n;    /* requests decided: ok + bad */
    uint64_t secs; /* distinct seconds with a record of this endpoint, of all endpoints: the most of any */
};
void sq_ev_sum(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
               struct sq_ev_sums *out);
/* Merge the histograms WHICH ("h", "hs", "hok") of those seconds into H (which is not reset). */
int sq_ev_hist(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
               const char *which, struct sq_hist *h, struct sq_err *e);
/* The whole record of a second; new reference. */
int sq_ev_second_json(const struct sq_ev_second *s, json_t **out, struct sq_err *e);

#endif
