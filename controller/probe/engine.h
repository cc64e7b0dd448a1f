/* Inside the probe: what its thread works on. Nothing outside controller/probe includes this. */
#ifndef SQUALL_PROBE_ENGINE_H
#define SQUALL_PROBE_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "probe/data.h"
#include "probe/probe.h"
#include "probe/proto.h"
#include "probe/sample.h"
#include "probe/schedule.h"
#include "probe/session.h"
#include "probe/tls.h"
#include "probe/window.h"
#include "squall/rng.h"

#define SQ_ENDPOINTS_MAX 256
#define SQ_CONNECTIONS_MAX 60000
#define SQ_OUTSTANDING_MAX (1u << 20) /* requests on the way; more of them void the run */
#define SQ_READ_BUFFER 65536
#define SQ_THREADS_MAX 64
#define SQ_VARIANTS_MAX 64 /* requests of a mix, steps of a session */
#define SQ_NEVER INT64_MAX

struct sq_conn;
struct sq_muxed;
struct sq_process;
struct sq_engine;
struct sq_endpoint;
struct sq_request;

/* How requests travel: conn.c, mux.c and command.c each have one. All run in the engine's thread. */
struct sq_driver {
    bool (*room)(const struct sq_endpoint *ep);                   /* could one more be taken now? */
    void (*take)(struct sq_endpoint *ep, struct sq_request *r);   /* it is on its way, or has failed already */
    void (*forget)(struct sq_endpoint *ep, struct sq_request *r); /* one that was taken is over before its answer */
    void (*close_all)(struct sq_endpoint *ep);
    void (*free_spare)(struct sq_endpoint *ep); /* when the loop has ended */
};
extern const struct sq_driver sq_driver_conn, sq_driver_mux, sq_driver_command;

struct sq_request {
    struct sq_request *next, *prev; /* all outstanding ones of the endpoint, in planned order; also the free list */
    struct sq_request *wait_next;   /* those that wait for a connection, in planned order */
    struct sq_request *mux_next, *mux_prev; /* those on one connection */
    struct sq_second *second;
    void *carrier; /* the driver's: what it is on; NULL: waits */
    const struct sq_variant *variant;
    struct sq_session *session; /* NULL: not part of one */
    size_t row;                 /* of the endpoint's data */
    int64_t planned, picked;    /* picked: when the loop got to it */
    int64_t sent;               /* when it got a connection; -1: not yet */
    int64_t arrived;            /* when the kernel got its answer; 0: when it is over for the probe */
    size_t tries;               /* addresses tried */
    bool retried;
};

struct sq_chunk {
    struct sq_chunk *next;
    struct sq_request request[256];
};

/* One of the requests that an endpoint sends: the only one, one of a mix, or a step of a session. */
struct sq_variant {
    void *plan;
    struct sq_rules rules;
    struct sq_captures captures;
    double share;  /* of a mix: the sum of the weights up to and with this one */
    int64_t think; /* of a session: after the answer before it */
    bool repeatable;
};

struct sq_endpoint {
    struct sq_engine *probe;
    char *name;
    const struct sq_proto *proto;
    const struct sq_driver *driver;
    struct sq_variant *variant;
    size_t n_variants;
    bool is_session;
    struct sq_place place;
    struct sq_tls *tls;
    struct sq_data data;
    struct sq_sessions sessions;
    struct sq_schedule schedule;
    struct sq_rng rng; /* which of a mix */
    int64_t timeout;
    unsigned limit;      /* connections */
    unsigned streams;    /* at most on one of them */
    bool keep_alive;     /* else each request has its own connection */
    bool closed;         /* a closed loop: `limit` users, each sends when its last request is over */
    unsigned free_users; /* of a closed loop */
    size_t part, parts;  /* this thread has every parts-th request, from number `part` on */
    uint64_t number;     /* of the next new request */

    int64_t next_planned; /* CLOCK_MONOTONIC */
    bool ended;           /* no more requests will be planned */
    bool rolled;          /* and the last second is closed */
    struct sq_request *head, *tail, *wait_head, *wait_tail;
    struct sq_conn *all, *idle, *spare; /* every open one; idle ones, last used first; to be used again */
    struct sq_muxed *muxed, *full;      /* those with room for more, and those without */
    struct sq_process *processes;
    unsigned open;
    size_t addr;          /* the address that worked last */
    int64_t retry_at;     /* a Unix socket's backlog was full */
    int64_t pieces_until; /* answers came in several pieces: until then they are read as they come */
    struct sq_second *first, *current;
    struct sq_window_ring *window;

    uint64_t planned, sent, done, waiting, lag_late;
    int64_t max_lag;
    struct sq_hist *lag; /* from planned until the loop got to it */
    const char *broken;  /* why its figures can't be used, apart from lag */
};

/* One thread of the probe. */
struct sq_engine {
    struct sq_endpoint *endpoint;
    size_t n_endpoints;
    int64_t lag_over;
    double lag_share; /* percent */
    unsigned window_s;
    void (*wake)(void *arg);
    void *wake_arg;
    char trace[SQ_TRACE_LEN + 1];
    struct sq_rng rng;

    uv_loop_t loop;
    uv_poll_t timer;
    uv_prepare_t prepare;
    uv_poll_t order;
    /* Orders come by an eventfd: uv_async_send can be interrupted between its two steps by the very thread it wakes,
     * and that one, at a real-time priority on the same core, would then spin for the second step for ever. */
    int timer_fd, order_fd;
    bool loop_ready, started, over;
    pthread_t thread;

    int64_t zero, begin;
    int64_t now;           /* as of the event at hand */
    int64_t armed;         /* what the timer is set to */
    int64_t next_due;      /* the earliest planned request */
    struct {               /* nap.c */
        bool on;           /* this turn does not wait in poll */
        bool stamps;       /* the kernel does say when answers come */
        bool answered;     /* answers came in the last turn */
        uint64_t done;     /* requests until then */
        int64_t since, at; /* when the turn before this one began, and this one: what is read now came after `since` */
    } nap;
    unsigned prompt; /* connections whose next event must be seen at once */
    struct sq_request *free_requests;
    struct sq_chunk *chunks;
    uint64_t outstanding;
    char *buffer; /* SQ_READ_BUFFER */

    int64_t stop_at, cut_at; /* SQ_NEVER: not asked for */

    /* Shared with the caller's thread; atomics. */
    struct {
        int64_t stop_at, cut_at;
    } orders;
    bool quit, done;
    struct sq_probe_live live;

    pthread_mutex_t lock; /* the queue */
    struct sq_second *queue_head, *queue_tail;
};

/* probe.c: thread number K's; for tests. */
struct sq_engine *sq_probe_engine(struct sq_probe *p, size_t k);

/* config.c: everything of an endpoint that the scenario says, names resolved. PART: this thread's number, of those that
 * share the endpoint (`threads`). */
int sq_endpoint_init(struct sq_endpoint *ep, const char *name, const json_t *o, const json_t *matchers, size_t part,
                     uint64_t seed, struct sq_err *e);
unsigned sq_endpoint_threads(const json_t *o);
void sq_endpoint_clear(struct sq_endpoint *ep);

/* engine.c */
int sq_engine_init(struct sq_engine *p, struct sq_err *e);
void sq_engine_run(struct sq_engine *p);   /* in the probe's thread, until done or told to quit */
void sq_engine_order(struct sq_engine *p); /* from the caller's thread: look at what was ordered */
void sq_engine_clear(struct sq_engine *p); /* when nothing runs any more */
/* Issue what is due; conn.c calls it between answers, so that a full batch of them delays no send. */
void sq_engine_issue(struct sq_engine *p);
/* Was something ordered that the next turn has to see? */
bool sq_engine_ordered(const struct sq_engine *p);
/* The request is over; gives it back. */
void sq_engine_finish(struct sq_endpoint *ep, struct sq_request *r, enum sq_bad bad, const struct sq_answer *a);
int64_t sq_engine_next_wake(const struct sq_engine *p);
bool sq_lag_void(const struct sq_engine *p, const struct sq_endpoint *ep);

/* When the next request of the endpoint is planned: a new one, or one that goes on. */
static inline int64_t sq_next_at(const struct sq_endpoint *ep)
{
    int64_t follow = sq_follow_next(&ep->sessions);

    return follow < ep->next_planned ? follow : ep->next_planned;
}

/* seconds.c */
void sq_second_open(struct sq_endpoint *ep, int64_t sec);
int64_t sq_second_end(const struct sq_engine *p, const struct sq_second *s); /* CLOCK_MONOTONIC */
/* Open the second that the next request belongs to. */
void sq_roll(struct sq_endpoint *ep);
/* Hand over the seconds that are complete, in order; true: there were some. */
bool sq_emit(struct sq_endpoint *ep);

/* dispatch.c */
/* Send a request, or put it at the end of those that wait for a connection. */
void sq_dispatch(struct sq_endpoint *ep, struct sq_request *r);
/* Serve those that wait, as far as there is room. */
void sq_pump(struct sq_endpoint *ep);
/* Let go of a request that is over before its answer. */
void sq_forget(struct sq_endpoint *ep, struct sq_request *r);
/* Back to the front: it was planned before all that wait. */
void sq_wait_unshift(struct sq_endpoint *ep, struct sq_request *r);
/* It got its connection: that is its actual send, connecting is part of the service. */
void sq_note_sent(struct sq_endpoint *ep, struct sq_request *r);
/* A new trace context, SQ_TRACE_LEN bytes. */
void sq_trace_new(struct sq_engine *p, char *trace);
/* What goes into its holes; *v lives as long as the request. */
const struct sq_values *sq_values_of(const struct sq_endpoint *ep, const struct sq_request *r, struct sq_values *v);
/* Where what is kept of its answer goes, emptied; NULL: nothing is. */
struct sq_keep *sq_keep_of(const struct sq_request *r);
/* Good, or why not. */
enum sq_bad sq_judge(const struct sq_answer *a);

#endif
