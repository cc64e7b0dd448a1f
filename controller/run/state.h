/* The inside of the executor, shared by its files: executor.c (life of a run), setup.c (what comes before the load),
 * steps.c (load, steady state, steps), events.c (what the injector tells), finish.c (the way out). Not for others.
 *
 * The way in is a list of stages; each calls sq_run_next() when it is through. The way out begins with sq_run_end(),
 * from wherever the run is, and happens once; from then on the callbacks of the way in do nothing (run->ending). */
#ifndef CONTROLLER_RUN_STATE_H
#define CONTROLLER_RUN_STATE_H

#include <limits.h>

#include "probe/probe.h"
#include "run/abort.h"
#include "run/alerts.h"
#include "run/client.h"
#include "run/evlog.h"
#include "run/executor.h"
#include "run/farm.h"
#include "run/live.h"
#include "run/private.h"
#include "run/ready.h"
#include "run/slo.h"
#include "squall/hist.h"

#define SQ_MAX_FAULTS 1024u
#define SQ_MAX_READY 1024u
#define SQ_CALL_NS (15 * INT64_C(1000000000)) /* a request to the injector takes no longer, or it hangs */

/* A fault of ours at the injector. */
struct run_fault {
    char id[32], step[128];
    const char *uses; /* of the step */
    int64_t applied_ns, reverted_ns;
    bool deleting, reverted;
};

struct run_ready {
    struct run *run;
    struct sq_ready *check;
    char service[128], instance[160];
    pid_t pid;
    bool once; /* nobody starts it again when it ends */
};

struct run {
    const struct sq_execute_opts *o;
    struct sq_execute_result *res;
    const json_t *spec;
    uv_loop_t loop;
    struct sq_err err; /* why the run could not be made at all */

    /* the injector */
    struct sq_private *priv;
    struct sq_client *client;
    char socket[PATH_MAX];
    char id[64]; /* of the run at the injector; "" before */
    bool injector_dead;
    int log_fd;
    int64_t lease_ns, renewed_boot_ns;
    int64_t tick_boot_ns, still_ns; /* the last tick, and the longest time between two */
    bool renewing, polling;
    int64_t after; /* the next event */
    unsigned quiet_polls;
    json_t *doctor;

    /* the log */
    struct sq_evlog *log;
    int64_t start_ns;
    uint64_t seed;

    /* the way in */
    unsigned stage;
    size_t item; /* which edge, service or step the stage is at */
    struct run_ready ready[SQ_MAX_READY];
    size_t n_ready, ready_left;
    struct sq_farm *farm; /* all of the load; NULL: there is none */
    bool probe_on, load_over;
    int64_t longest_timeout_ns;
    struct run_fault faults[SQ_MAX_FAULTS];
    size_t n_faults;
    struct run_fault *fault;            /* of the current step */
    int64_t stage_from_ns, stage_to_ns; /* for the terminal: of what goes on now; 0: open */
    char stage_name[200];
    const char *phase; /* the open phase record; NULL: none */
    char phase_step[128];
    unsigned step_no, step_count;

    /* steady state, in whole seconds of the run */
    int64_t steady_from, steady_to;
    struct sq_hist *steady_hist;
    uint64_t steady_sent, steady_ok, steady_bad;
    int64_t *steady_seen; /* per endpoint: the last second that came in */
    bool steady_judging;

    /* handles */
    uv_timer_t timer; /* the stage's own */
    uv_timer_t renew; /* each third of the lease */
    uv_timer_t tick;  /* 200 ms: events, terminal, conditions */
    uv_timer_t limit; /* safety.max_duration */
    uv_signal_t sig[3];
    uv_async_t wake; /* from the probe's thread */
    bool handles_up;
    int64_t judged_sec; /* abort conditions were looked at in this second */
    struct sq_abort_watch *watch;
    struct sq_alerts *alerts; /* NULL: nobody asked for them */
    struct sq_slos *slos;     /* NULL: there are none */

    /* the way out */
    bool ending, deleted, hurry, draining, quitting, finished;
    char reason[16];
    char why[1024];
    bool halted; /* somebody took everything back */
    bool gone;   /* the injector says that the run has ended */
    bool clean;
    json_t *left;
    int64_t out_deadline;

    /* for the terminal */
    struct sq_live *live;
    double spark[SQ_PROGRESS_SPARK];
    bool spark_fault[SQ_PROGRESS_SPARK];
    unsigned spark_n;
    int64_t spark_sec;
};

/* executor.c */
void sq_run_next(struct run *r);
/* The run is over for REASON. Aborts name who (BY: signal, condition, lease, max_duration, halt), else BY is NULL. */
void sq_run_end(struct run *r, const char *reason, const char *by, const char *fmt, ...) SQ_PRINTF(4, 5);
/* The injector refused or did not answer: the run ends for that. WHAT: "the fault of step slow". */
void sq_run_failed(struct run *r, int status, const struct sq_err *e, const char *what);
/* True: nobody renewed the lease in time (this process was stopped, the host slept), and the run is aborted for that.
 */
bool sq_run_lease_over(struct run *r);
void sq_run_log(struct run *r, const char *type, json_t *rec); /* at this moment */
double sq_run_t(const struct run *r);
/* Requests on this run: PATH is appended to /v1/runs/<id>. */
void sq_run_ask(struct run *r, const char *method, const char *path, json_t *body, sq_client_done *done);
void sq_run_timer(struct run *r, int64_t at_ns, uv_timer_cb fn);
/* What goes on, for the terminal. */
void sq_run_stage(struct run *r, int64_t to_ns, const char *fmt, ...) SQ_PRINTF(3, 4);
void sq_run_phase(struct run *r, const char *phase, const char *step, json_t *more); /* begins; ends the open one */
void sq_run_phase_end(struct run *r, json_t *more);
void sq_run_left(struct run *r, const json_t *strings);
void sq_run_left_text(struct run *r, const char *fmt, ...) SQ_PRINTF(2, 3);

/* setup.c: stages */
void sq_stage_injector(struct run *r);
void sq_stage_info(struct run *r);
void sq_stage_doctor(struct run *r);
void sq_stage_create(struct run *r);
void sq_stage_before(struct run *r);
void sq_stage_selected(struct run *r); /* callers that run already */
void sq_stage_edges(struct run *r);
void sq_stage_services(struct run *r);

/* steps.c: stages, and what the probe wants */
void sq_stage_probe(struct run *r);
void sq_stage_steady(struct run *r);
void sq_stage_steps(struct run *r);
void sq_stage_tail(struct run *r);
int sq_run_probe_create(struct run *r, struct sq_err *e);
void sq_run_drain_probe(struct run *r);

/* events.c */
void sq_run_poll(struct run *r);
void sq_run_fault_record(struct run *r, const struct run_fault *f, const char *state, int64_t at_ns, json_t *more);
void sq_run_fault_reverted(struct run *r, struct run_fault *f, const char *by, const json_t *answer);

/* view.c: what the terminal is told */
void sq_run_view(struct run *r);

/* finish.c */
void sq_run_out(struct run *r);
void sq_run_snapshot_record(struct run *r, const char *when, const json_t *answer);

#endif
