/* Shared by the service_*.c files only: the state of instances, and what the files ask of each other. */
#ifndef SQUALL_SERVICE_INT_H
#define SQUALL_SERVICE_INT_H

#include <sys/resource.h>
#include <uv.h>

#include "engine.h"
#include "service.h"
#include "service_tree.h"
#include "squall/units.h"

#define SVC_NAME 72
#define SVC_RUN 32
#define SVC_TAIL 4096             /* bytes of output kept for the event "exited" */
#define SVC_LOG_MAX (1024 * 1024) /* bytes of output kept in the log file of an instance */
#define SVC_LAUNCH_NS (10 * SQ_S) /* a launch that takes longer has failed */

/* ---- service_watch.c: libuv handles that free themselves ---- */

typedef void watch_fn(void *owner);
struct watch {
    union {
        uv_handle_t any;
        uv_poll_t poll;
        uv_timer_t timer;
    } h;
    struct sq_services *s;
    void *owner;
    watch_fn *fn;
    int fd; /* owned: closed with the watch; -1 for timers */
};
/* Call fn(owner) when FD (owned from now on, closed on error too) is readable or at its end. NULL: no memory. */
struct watch *watch_fd(struct sq_services *s, int fd, watch_fn *fn, void *owner);
struct watch *watch_timer(struct sq_services *s, int64_t after_ns, int64_t every_ns, watch_fn *fn, void *owner);
void watch_end(struct watch **w); /* NULL: nothing */

/* ---- service_def.c: what a service is ---- */

enum restart { RESTART_NEVER, RESTART_ALWAYS, RESTART_AFTER_FAULT };

struct svc_def {
    unsigned refs;
    char name[SVC_NAME - 8];
    size_t instances;
    int port; /* 0: none */
    char *cwd;
    enum restart restart;
    json_t *command; /* array of strings */
    json_t *env;     /* object of strings */
};
int svc_def_parse(const json_t *in, struct svc_def **out, struct sq_err *e);
void svc_def_unref(struct svc_def *d);
/* ${instance} and ${port} replaced; new references. ENV: "K=V" strings, the peer's minimal environment below. */
json_t *svc_def_argv(const struct svc_def *d, int index);
json_t *svc_def_env(const struct svc_def *d, int index, const struct sq_peer *peer, const char *mark);
char *svc_def_cwd(const struct svc_def *d, int index); /* malloc'd */

/* ---- instances ---- */

enum svc_state {
    SVC_LAUNCHING, /* the launcher runs, the command not yet */
    SVC_RUNNING,
    SVC_EXITED, /* and maybe to be restarted */
};

struct svc;
typedef void svc_launched(struct svc *i, const struct sq_err *e); /* e->code 0: the command runs. Must not free I */

struct svc {
    struct svc *next;
    struct sq_services *s;
    struct svc_def *def; /* NULL: exec'd */
    char run[SVC_RUN];
    char service[SVC_NAME - 8];
    char name[SVC_NAME]; /* "checkout.0" */
    int index;
    struct sq_peer peer;
    bool is_exec;

    enum svc_state state;
    bool told;   /* its event "stopped" is out */
    bool ending; /* a stop is at work: no restarts */
    struct sq_tree tree;
    char home[SQ_CGROUP_MAX]; /* exec'd: the cgroup it came from */
    unsigned slot;
    bool held;

    /* launch */
    svc_launched *launched;
    void *launched_arg;
    struct sq_arming arming;
    bool armed, has_listener, went;
    struct watch *chan, *exit, *limit;

    /* life */
    int faults;          /* active on it */
    int64_t fault_until; /* an exit before this still counts as the fault's work */
    bool due;            /* after_fault: to be started when the last fault on it ends */
    bool reaped;
    struct watch *again; /* the next look at an instance that exited: is its tree gone, is it time to restart? */
    int64_t settle_until;
    int64_t backoff_ns, up_since;
    int restarts;
    int exit_code, exit_signal;
    bool has_exit;

    /* output */
    struct watch *out;
    int log;
    size_t logged;
    char tail[SVC_TAIL];
    size_t tail_len;         /* bytes ever written; the ring holds the last SVC_TAIL of them */
    struct svc_lines *lines; /* a probe's: its output is records; NULL: not a probe */
};

struct svc_stop;
struct svc_exec;

struct sq_services {
    struct sq_engine *eng;
    uv_loop_t *loop;
    char injector[64];
    struct svc *all;
    struct svc_stop *stops;
    struct svc_exec *exec;
    struct rlimit limits[RLIM_NLIMITS]; /* what squalld inherited */
    unsigned handles;                   /* open uv handles */
    bool freeing;
    void (*freed)(void *arg);
    void *freed_arg;
};

/* service.c */
struct svc *svc_new(struct sq_services *s, const char *run, const char *service, int index, const struct sq_peer *peer);
void svc_drop(struct svc *i); /* unlink, close all of its handles, free; its record and cgroup are the caller's */
void svc_event(const struct svc *i, const char *state, json_t *more); /* takes MORE, may be NULL */
int svc_record(struct svc *i, struct sq_err *e);                      /* hold or update its undo record */
void svc_disarm(struct svc *i);
/* sq_service_start; PROBE: what it prints is records. */
void svc_start(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def, bool probe,
               sq_service_done *done, void *arg);
/* No instance of it is left: out of the list, disarmed, cgroup removed, record released. -errno: something is left. */
int svc_retire(struct svc *i, struct sq_err *e);

/* service_launch.c: squalld's side of launch.h */
/* Journal, cgroup, arm, spawn, order. Calls i->launched later, once, unless it returns -errno (nothing is left then but
 * maybe a launcher that is about to leave; its exit is watched). */
int svc_launch(struct svc *i, svc_launched *fn, struct sq_err *e);
/* The launcher's socket is there (owned): send the order and go on as svc_launch does. */
int svc_handshake(struct svc *i, int sock, json_t *order, struct sq_err *e);
void svc_launch_cancel(struct svc *i);

/* service_life.c */
void svc_exited(void *svc); /* its pidfd became readable */
void svc_reap(struct svc *i);
void svc_fault(struct svc *i, bool on);

/* service_output.c */
int svc_output(struct svc *i, int *fd, struct sq_err *e); /* a new pipe for its output: *fd is the end to write to */
void svc_output_drain(struct svc *i);                     /* what is there now, without waiting */
void svc_output_end(struct svc *i, bool forget);          /* forget: the log file too */
json_t *svc_tail(const struct svc *i);                    /* its last lines; new reference */

/* service_probe.c */
int svc_lines_begin(struct svc *i); /* I is a probe; -ENOMEM */
void svc_lines_end(struct svc *i);
bool svc_lines_take(struct svc *i, const char *data, size_t n); /* true: it was records, not text for people */

/* service_exec.c */
void svc_exec_forget_run(struct sq_services *s, const char *run);
/* The run ends: the command lives on, out of our cgroup, and I is forgotten. -errno: not yet, I stays. */
int svc_exec_left(struct svc *i, struct sq_err *e);
void svc_exec_free(struct sq_services *s);

#endif
