/* Inside the probe: what its thread works on. Nothing outside controller/probe includes this. */
#ifndef SQUALL_PROBE_ENGINE_H
#define SQUALL_PROBE_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "probe/probe.h"
#include "probe/proto.h"
#include "probe/sample.h"
#include "probe/schedule.h"
#include "probe/window.h"
#include "squall/rng.h"

#define SQ_ENDPOINTS_MAX 256
#define SQ_CONNECTIONS_MAX 60000
#define SQ_OUTSTANDING_MAX (1u << 20) /* requests on the way; more of them void the run */
#define SQ_READ_BUFFER 65536
#define SQ_NEVER INT64_MAX

struct sq_conn;
struct sq_probe;

struct sq_request {
    struct sq_request *next, *prev; /* all outstanding ones of the endpoint, in planned order; also the free list */
    struct sq_request *wait_next;   /* those that wait for a connection, in planned order */
    struct sq_second *second;
    struct sq_conn *conn;    /* NULL: waits */
    int64_t planned, picked; /* picked: when the loop got to it */
    int64_t sent;            /* when it got a connection; -1: not yet */
    size_t tries;            /* addresses tried */
    bool retried;
};

struct sq_chunk {
    struct sq_chunk *next;
    struct sq_request request[256];
};

struct sq_endpoint {
    struct sq_probe *probe;
    char *name;
    const struct sq_proto *proto;
    void *plan;
    bool repeatable;
    struct sq_place place;
    struct sq_rules rules;
    struct sq_schedule schedule;
    int64_t timeout;
    unsigned limit; /* connections */

    int64_t next_planned; /* CLOCK_MONOTONIC */
    bool ended;           /* no more requests will be planned */
    bool rolled;          /* and the last second is closed */
    struct sq_request *head, *tail, *wait_head, *wait_tail;
    struct sq_conn *all, *idle, *spare; /* every open one; idle ones, last used first; to be used again */
    unsigned open;
    size_t addr;      /* the address that worked last */
    int64_t retry_at; /* a Unix socket's backlog was full */
    struct sq_second *first, *current;
    struct sq_window_ring *window;

    uint64_t planned, sent, done, waiting, lag_late;
    int64_t max_lag;
    const char *broken; /* why its figures can't be used, apart from lag */
};

struct sq_probe {
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
    bool loop_ready, started;
    pthread_t thread;

    int64_t zero, begin;
    int64_t now;      /* as of the event at hand */
    int64_t armed;    /* what the timer is set to */
    int64_t next_due; /* the earliest planned request */
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

/* config.c: everything of an endpoint that the scenario says, names resolved. */
int sq_endpoint_init(struct sq_endpoint *ep, const char *name, const json_t *o, const json_t *matchers,
                     struct sq_err *e);
void sq_endpoint_clear(struct sq_endpoint *ep);

/* engine.c */
int sq_engine_init(struct sq_probe *p, struct sq_err *e);
void sq_engine_run(struct sq_probe *p);   /* in the probe's thread, until done or told to quit */
void sq_engine_order(struct sq_probe *p); /* from the caller's thread: look at what was ordered */
void sq_engine_clear(struct sq_probe *p); /* when nothing runs any more */
/* Issue what is due; conn.c calls it between answers, so that a full batch of them delays no send. */
void sq_engine_issue(struct sq_probe *p);
/* The request is over; gives it back. */
void sq_engine_finish(struct sq_endpoint *ep, struct sq_request *r, enum sq_bad bad, const struct sq_answer *a);
bool sq_lag_void(const struct sq_probe *p, const struct sq_endpoint *ep);

/* conn.c */
/* Put a request onto a connection, or at the end of those that wait for one. */
void sq_conn_dispatch(struct sq_endpoint *ep, struct sq_request *r);
/* Serve those that wait, as far as connections are free. */
void sq_conn_pump(struct sq_endpoint *ep);
/* Let go of a request that is over before its answer: closes its connection, or takes it from the queue's head. */
void sq_conn_forget(struct sq_endpoint *ep, struct sq_request *r);
void sq_conn_close_all(struct sq_endpoint *ep);
void sq_conn_free_spare(struct sq_endpoint *ep);

#endif
