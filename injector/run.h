/* Inside the engine: runs, their loans, their end. Only engine.c, run.c, loan.c, api*.c, snapshot.c and doctor.c look
 * in here; everybody else knows engine.h. */
#ifndef SQUALL_RUN_H
#define SQUALL_RUN_H

#include "engine.h"
#include "events.h"
#include "page.h"

#define SQ_LEASE_LEAST (500 * INT64_C(1000000))
#define SQ_LEASE_MOST (3600 * INT64_C(1000000000))
#define SQ_LEASE_DEFAULT "10s"
#define SQ_FAULTS_MOST 256u                         /* of one run at a time */
#define SQ_KEPT_NS (5 * INT64_C(1000000000))        /* an ended run can still be asked for its events and a snapshot */
#define SQ_GRACE_NS (3 * INT64_C(1000000000))       /* services at an asked-for end: SIGTERM, this long, SIGKILL */
#define SQ_GRACE_SHORT_NS (1 * INT64_C(1000000000)) /* at a lease's end or a halt */

/* One undo record that is in the journal. */
struct sq_loan {
    json_t *undo;
    unsigned slot;
    bool held; /* not taken back yet */
};

/* One fault, from its first journal write until nothing of it is left. */
struct sq_live {
    struct sq_fault f;
    struct sq_live *older;
    json_t *given; /* `with` as it was asked for: what a change is merged into */
    char step[128];
    struct sq_loan *loans; /* in the order of applying */
    size_t n_loans;
    bool active; /* false: taking back has begun */
};

typedef void sq_run_ended(void *arg, bool clean, const json_t *left);

struct sq_waiter {
    struct sq_waiter *next;
    sq_run_ended *done;
    void *arg;
};

struct sq_run {
    struct sq_run *next;
    struct sq_engine *eng;
    char id[24];
    char name[128];
    uid_t uid;
    uint64_t seed;
    uint64_t n_faults; /* so far: numbers the random choices */
    int64_t lease_ns;
    int64_t deadline; /* CLOCK_BOOTTIME */
    int slot;         /* in the shared page; -1: none any more */
    struct sq_live *newest;
    struct sq_events *events;
    json_t *named;    /* processes that its faults named: {"pid","start","instance"}, for snapshots */
    json_t *networks; /* other namespaces that its faults touch, as they were before: snapshot.c; NULL: none yet */
    enum { SQ_RUN_LIVE, SQ_RUN_ENDING, SQ_RUN_ENDED } state;
    json_t *probe; /* whose path network faults spare; may be NULL */
    json_t *left;  /* of its end */
    int64_t ended_at;
    struct sq_waiter *waiters;
};

struct sq_engine {
    struct sq_engine_opts o;
    char dir[256];
    char self[512];
    struct sq_intercept *intercept;
    struct sq_services *services;
    struct sq_packet_devices *packets;
    struct sq_run *runs;  /* live, ending, and ended less than SQ_KEPT_NS ago; newest first */
    struct sq_cuts *cuts; /* net/cut.c's; NULL: there is none */
    uint64_t n_runs, n_faults;
    uint64_t able; /* a bit for each fault kind, in the order of kinds.def, whose check has passed */
    void *netem;   /* of net/netem_shaper.c */
    uint32_t backends;
    int64_t looking;              /* of looking.c */
    struct sq_patience *patience; /* while an API request is carried out */
    uv_timer_t timer;
    bool stopping;
    bool lease_was_last; /* the run that ended last ended by its lease */
    int64_t idle_since;  /* CLOCK_MONOTONIC; 0: a run lives */
    int64_t retried_at;
    uint64_t listener[SQ_MAX_LISTENERS]; /* key by slot of sq_beat_page.seen; 0: free */
    void (*stopped)(void *arg);
    void *stopped_arg;
};

/* run.c */
int sq_run_new(struct sq_engine *eng, const struct sq_peer *peer, const json_t *def, struct sq_run **out,
               struct sq_err *e);
int sq_run_renew(struct sq_run *run, int64_t *expires_in_ns, struct sq_err *e);
/* Faults (last in, first out), edges, services. DONE (may be NULL) once, perhaps from within. BY: request, lease, halt,
 * end. An ended run answers at once. */
void sq_run_end(struct sq_run *run, const char *by, int64_t grace_ns, sq_run_ended *done, void *arg);
/* Leases that have passed, loans that would not go, runs to forget. Called ten times a second. */
void sq_runs_tick(struct sq_engine *eng);
void sq_run_free(struct sq_run *run);
bool sq_engine_busy(const struct sq_engine *eng); /* a run is live or ending */
/* Every fault of every run first, then the runs: the answer of POST /v1/halt. */
typedef void sq_halted(void *arg, json_t *answer);
void sq_engine_halt(struct sq_engine *eng, const char *by, sq_halted *done, void *arg);

/* loan.c */
int sq_loan_plan(struct sq_run *run, const struct sq_peer *peer, const json_t *def, json_t **answer, struct sq_err *e);
int sq_loan_apply(struct sq_run *run, const struct sq_peer *peer, const json_t *def, json_t **answer, struct sq_err *e);
int sq_loan_change(struct sq_run *run, const char *fault, const json_t *def, json_t **answer, struct sq_err *e);
int sq_loan_end(struct sq_run *run, const char *fault, const char *by, json_t **answer, struct sq_err *e);
/* All faults of the run, newest first; what stays is appended to LEFT. Returns how many faults were active. */
unsigned sq_loan_end_all(struct sq_run *run, const char *by, json_t *left);
/* Try again what would not go. */
void sq_loan_retry(struct sq_run *run);

#endif
