/* The loop of the probe's thread. Each turn, before it sleeps: what timed out, what is due, which seconds are complete;
 * then one timerfd is set to the next moment that matters. Answers come as poll events in between (conn.c). */
#include "probe/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "probe/nap.h"
#include "squall/clock.h"
#include "squall/units.h"

#define BURST 256 /* requests issued for an endpoint before answers are read again */

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* --- requests --- */

static void min_of(int64_t *at, int64_t other)
{
    if (other < *at)
        *at = other;
}

static struct sq_request *request_new(struct sq_engine *p)
{
    struct sq_request *r = p->free_requests;

    if (!r) {
        struct sq_chunk *c;

        if (p->outstanding >= SQ_OUTSTANDING_MAX || !(c = malloc(sizeof *c)))
            return NULL;
        c->next = p->chunks;
        p->chunks = c;
        for (size_t i = 0; i < sizeof c->request / sizeof c->request[0]; i++) {
            c->request[i].next = p->free_requests;
            p->free_requests = &c->request[i];
        }
        r = p->free_requests;
    }
    p->free_requests = r->next;
    p->outstanding++;
    return r;
}

static void request_free(struct sq_endpoint *ep, struct sq_request *r)
{
    struct sq_engine *p = ep->probe;

    if (r->prev)
        r->prev->next = r->next;
    else
        ep->head = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        ep->tail = r->prev;
    r->next = p->free_requests;
    p->free_requests = r;
    p->outstanding--;
}

/* A user of a closed loop whose request got no answer pauses, so that a dead server is not hammered. */
#define PAUSE_NS (10 * SQ_MS)

static void user_free(struct sq_endpoint *ep, bool answered)
{
    struct sq_engine *p = ep->probe;

    if (!ep->closed || ep->ended)
        return;
    if (!answered && sq_follow_put(&ep->sessions, p->now + PAUSE_NS, NULL, 0))
        return;
    ep->free_users++;
    ep->next_planned = p->now;
    p->next_due = p->now;
}

/* What a session does after an answer. */
static void session_goes_on(struct sq_endpoint *ep, struct sq_session *s, size_t step, bool good, bool answered)
{
    struct sq_engine *p = ep->probe;
    int64_t at;

    if (good && step < ep->n_variants && !ep->ended) {
        at = p->now + ep->variant[step].think;
        if (sq_follow_put(&ep->sessions, at, s, step)) {
            min_of(&p->next_due, at);
            return;
        }
        ep->broken = "out of memory";
    }
    sq_session_end(&ep->sessions, s);
    user_free(ep, answered);
}

void sq_engine_finish(struct sq_endpoint *ep, struct sq_request *r, enum sq_bad bad, const struct sq_answer *a)
{
    struct sq_engine *p = ep->probe;
    int64_t end = r->arrived > 0 ? r->arrived : p->now, latency = end - r->planned;
    struct sq_session *session = r->session;
    size_t step = (size_t)(r->variant - ep->variant) + 1;

    if (session && bad == SQ_BAD_NONE && r->variant->captures.n > 0 && !sq_keep_done(&session->keep))
        bad = SQ_BAD_BODY; /* what the session goes on with was not there */
    sq_second_add(r->second, bad, latency, r->sent >= 0 ? end - r->sent : -1, a);
    sq_window_add(ep->window, (p->now - p->begin) / SQ_S, latency, bad != SQ_BAD_NONE);
    ep->done++;
    request_free(ep, r);
    if (session)
        session_goes_on(ep, session, step, bad == SQ_BAD_NONE, a != NULL);
    else
        user_free(ep, a != NULL);
}

static void note_lag(struct sq_endpoint *ep, int64_t lag)
{
    sq_hist_record(ep->lag, lag);
    if (lag > ep->max_lag)
        ep->max_lag = lag;
    if (lag > ep->probe->lag_over) {
        ep->lag_late++;
        ep->current->lag_late++;
    }
}

static const struct sq_variant *choose(struct sq_endpoint *ep)
{
    double x;
    size_t i = 0;

    if (ep->n_variants == 1 || ep->is_session)
        return ep->variant;
    x = sq_rng_double(&ep->rng) * ep->variant[ep->n_variants - 1].share;
    while (i + 1 < ep->n_variants && x >= ep->variant[i].share)
        i++;
    return &ep->variant[i];
}

/* A request that was planned for AT goes on its way, or waits; NULL: there is no room for it at all. */
static struct sq_request *issue_one(struct sq_endpoint *ep, int64_t at, const struct sq_variant *variant,
                                    struct sq_session *session)
{
    struct sq_engine *p = ep->probe;
    struct sq_request *r = request_new(p);

    ep->planned++;
    ep->current->planned++;
    note_lag(ep, p->now - at);
    if (!r) {
        ep->broken = "more requests were on the way than the probe can hold";
        return NULL;
    }
    memset(r, 0, sizeof *r);
    r->planned = at;
    r->picked = p->now;
    r->sent = -1;
    r->variant = variant;
    r->session = session;
    if (session)
        r->row = session->row;
    else if (ep->data.n_rows > 0)
        r->row = (ep->part + (ep->number - 1) * ep->parts) % ep->data.n_rows;
    r->second = ep->current;
    r->second->outstanding++;
    r->prev = ep->tail;
    if (ep->tail)
        ep->tail->next = r;
    else
        ep->head = r;
    ep->tail = r;
    sq_dispatch(ep, r);
    return r;
}

/* The next one of the schedule, or the first request of a user of a closed loop. */
static void issue_new(struct sq_endpoint *ep)
{
    struct sq_session *session = NULL;
    int64_t at = ep->next_planned;

    ep->number++;
    if (ep->is_session) {
        size_t row = ep->data.n_rows > 0 ? (ep->part + (ep->number - 1) * ep->parts) % ep->data.n_rows : 0;

        session = sq_session_begin(&ep->sessions, row);
        if (!session)
            ep->broken = "out of memory";
    }
    if (ep->closed) {
        ep->free_users--;
        ep->next_planned = ep->free_users > 0 ? ep->probe->now : SQ_NEVER;
    } else {
        ep->next_planned = SQ_NEVER; /* the caller steps on */
    }
    if (!issue_one(ep, at, choose(ep), session) && session)
        sq_session_end(&ep->sessions, session);
}

static void issue_follow(struct sq_endpoint *ep)
{
    struct sq_follow f = sq_follow_take(&ep->sessions);

    if (!f.session) { /* a user who paused */
        ep->free_users++;
        ep->next_planned = f.at;
        issue_new(ep);
        return;
    }
    if (!issue_one(ep, f.at, &ep->variant[f.step], f.session))
        sq_session_end(&ep->sessions, f.session);
}

/* --- a turn --- */

/* Step on to the next request of the schedule that is this thread's. */
static void step_on(struct sq_endpoint *ep)
{
    int64_t at = sq_schedule_next(&ep->schedule);

    for (size_t i = 1; i < ep->parts && at != INT64_MAX; i++)
        at = sq_schedule_next(&ep->schedule);
    ep->next_planned = at == INT64_MAX ? SQ_NEVER : ep->probe->begin + at;
}

static void issue(struct sq_endpoint *ep)
{
    struct sq_engine *p = ep->probe;
    int64_t at = sq_next_at(ep);

    for (int i = 0; i < BURST && !ep->ended && at <= p->now && at < p->stop_at; i++) {
        if (i > 0)
            p->now = sq_mono_ns(); /* sending takes its time */
        sq_roll(ep);
        if (at < ep->next_planned) {
            issue_follow(ep);
        } else {
            issue_new(ep);
            if (!ep->closed)
                step_on(ep);
        }
        at = sq_next_at(ep);
    }
    if (p->stop_at != SQ_NEVER && at >= p->stop_at)
        ep->ended = true;
}

void sq_engine_issue(struct sq_engine *p)
{
    int64_t due = SQ_NEVER;

    for (size_t i = 0; i < p->n_endpoints; i++) {
        struct sq_endpoint *ep = &p->endpoint[i];

        issue(ep);
    }
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (!p->endpoint[i].ended)
            min_of(&due, sq_next_at(&p->endpoint[i]));
    p->next_due = due;
}

/* All of an endpoint have the same timeout, so that the oldest is always the first to time out. */
static void expire(struct sq_endpoint *ep)
{
    const struct sq_engine *p = ep->probe;
    int64_t seen = p->nap.on ? p->nap.since : p->now; /* after a nap, answers have not been looked for since then */

    while (ep->head && ep->head->planned + ep->timeout <= seen) {
        struct sq_request *r = ep->head;

        sq_forget(ep, r);
        sq_engine_finish(ep, r, r->sent >= 0 ? SQ_BAD_TIMEOUT : SQ_BAD_UNSENT, NULL);
    }
    sq_pump(ep);
}

/* The grace after the stop is over: leave the rest out. */
static void cut(struct sq_endpoint *ep)
{
    while (ep->head) {
        struct sq_request *r = ep->head;

        sq_forget(ep, r);
        sq_session_end(&ep->sessions, r->session);
        r->second->outstanding--;
        request_free(ep, r);
    }
}

int64_t sq_engine_next_wake(const struct sq_engine *p)
{
    int64_t at = p->next_due;

    for (size_t i = 0; i < p->n_endpoints; i++) {
        const struct sq_endpoint *ep = &p->endpoint[i];

        if (ep->head)
            min_of(&at, ep->head->planned + ep->timeout);
        if (!ep->rolled && ep->current)
            min_of(&at, sq_second_end(p, ep->current));
        min_of(&at, ep->retry_at);
    }
    if (p->stop_at != SQ_NEVER)
        min_of(&at, p->cut_at);
    return at;
}

static void arm(struct sq_engine *p)
{
    int64_t at = p->nap.on ? SQ_NEVER : sq_engine_next_wake(p);
    struct itimerspec t = {{0, 0}, {0, 0}};

    /* Setting it also takes back an expiration that nobody has read; once fired it must be set again. */
    if (at == p->armed && at > p->now)
        return;
    p->armed = at;
    if (at != SQ_NEVER) {
        at = at > 1 ? at : 1;
        t.it_value.tv_sec = at / SQ_S;
        t.it_value.tv_nsec = at % SQ_S;
    }
    (void)timerfd_settime(p->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void publish(struct sq_engine *p)
{
    struct sq_probe_live l = {0};

    for (size_t i = 0; i < p->n_endpoints; i++) {
        const struct sq_endpoint *ep = &p->endpoint[i];

        l.open += ep->open;
        l.waiting += ep->waiting;
        l.planned += ep->planned;
        l.done += ep->done;
        l.lag_late += ep->lag_late;
        l.lag_void = l.lag_void || ep->broken || sq_lag_void(p, ep);
    }
    __atomic_store_n(&p->live.open, l.open, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.waiting, l.waiting, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.outstanding, p->outstanding, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.planned, l.planned, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.done, l.done, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.lag_late, l.lag_late, __ATOMIC_RELAXED);
    __atomic_store_n(&p->live.lag_void, l.lag_void, __ATOMIC_RELAXED);
}

static void wake(struct sq_engine *p)
{
    if (p->wake)
        p->wake(p->wake_arg);
}

static bool all_over(const struct sq_engine *p)
{
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (!p->endpoint[i].rolled || p->endpoint[i].first)
            return false;
    return true;
}

bool sq_engine_ordered(const struct sq_engine *p)
{
    return LOAD(p->quit) || LOAD(p->orders.stop_at) < p->stop_at || LOAD(p->orders.cut_at) < p->cut_at;
}

static void turn(uv_prepare_t *h)
{
    struct sq_engine *p = h->data;
    int64_t stop_at = LOAD(p->orders.stop_at), cut_at = LOAD(p->orders.cut_at);
    bool any = false;

    if (LOAD(p->quit)) {
        p->over = true;
        uv_stop(&p->loop);
        return;
    }
    p->now = sq_mono_ns();
    p->nap.since = p->nap.at;
    p->nap.at = p->now;
    min_of(&p->stop_at, stop_at);
    min_of(&p->cut_at, cut_at);
    for (size_t i = 0; i < p->n_endpoints; i++)
        expire(&p->endpoint[i]);
    sq_engine_issue(p);
    for (size_t i = 0; i < p->n_endpoints; i++) {
        struct sq_endpoint *ep = &p->endpoint[i];

        if (ep->current)
            sq_roll(ep);
        if (p->now >= p->cut_at && ep->ended)
            cut(ep);
        any = sq_emit(ep) || any;
    }
    publish(p);
    if (all_over(p)) {
        STORE(p->done, true);
        p->over = true;
        uv_stop(&p->loop);
        wake(p);
        return;
    }
    arm(p);
    if (any)
        wake(p);
}

static void on_timer(uv_poll_t *h, int status, int events)
{
    struct sq_engine *p = h->data;

    (void)status;
    (void)events;
    p->now = sq_mono_ns();
    p->armed = 0; /* has fired: set it again in any case */
    if (p->now >= p->next_due)
        sq_engine_issue(p);
}

static void on_order(uv_poll_t *h, int status, int events)
{
    uint64_t n;

    (void)status;
    (void)events;
    (void)!read(((struct sq_engine *)h->data)->order_fd, &n, sizeof n); /* the turn that follows reads the orders */
}

void sq_engine_order(struct sq_engine *p)
{
    uint64_t one = 1;

    (void)!write(p->order_fd, &one, sizeof one);
}

/* --- life --- */

int sq_engine_init(struct sq_engine *p, struct sq_err *e)
{
    int rc;

    p->buffer = malloc(SQ_READ_BUFFER);
    if (!p->buffer)
        return sq_err(e, -ENOMEM, "no memory");
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (!(p->endpoint[i].lag = sq_hist_new()))
            return sq_err(e, -ENOMEM, "no memory");
    if ((rc = uv_loop_init(&p->loop)) < 0)
        return sq_err_sys(e, rc, "the probe's event loop");
    p->loop_ready = true;
    p->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (p->timer_fd < 0)
        return sq_err_sys(e, -errno, "timerfd_create");
    p->order_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->order_fd < 0)
        return sq_err_sys(e, -errno, "eventfd");
    p->timer.data = p->order.data = p->prepare.data = p;
    if ((rc = uv_poll_init(&p->loop, &p->timer, p->timer_fd)) < 0 ||
        (rc = uv_poll_init(&p->loop, &p->order, p->order_fd)) < 0 ||
        (rc = uv_prepare_init(&p->loop, &p->prepare)) < 0 ||
        (rc = uv_poll_start(&p->timer, UV_READABLE, on_timer)) < 0 ||
        (rc = uv_poll_start(&p->order, UV_READABLE, on_order)) < 0 || (rc = uv_prepare_start(&p->prepare, turn)) < 0)
        return sq_err_sys(e, rc, "the probe's event loop");
    return 0;
}

static void first(struct sq_endpoint *ep)
{
    int64_t at = sq_schedule_next(&ep->schedule);

    ep->next_planned = at == INT64_MAX ? SQ_NEVER : ep->probe->begin + at;
}

void sq_engine_run(struct sq_engine *p)
{
    (void)prctl(PR_SET_TIMERSLACK, 1); /* without real-time priority sleeps end 50 us late */
    p->now = sq_mono_ns();
    for (size_t i = 0; i < p->n_endpoints; i++) {
        struct sq_endpoint *ep = &p->endpoint[i];
        if (ep->closed) {
            ep->free_users = ep->limit;
            ep->next_planned = p->begin;
        } else {
            for (size_t skip = 0; skip < ep->part; skip++)
                (void)sq_schedule_next(&ep->schedule);
            first(ep);
        }
        sq_second_open(ep, (p->begin - p->zero) / SQ_S);
        if (!ep->current)
            ep->ended = ep->rolled = true;
    }
    while (!p->over)
        (void)uv_run(&p->loop, sq_nap(p) ? UV_RUN_NOWAIT : UV_RUN_ONCE);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void free_seconds(struct sq_second *s)
{
    while (s) {
        struct sq_second *next = s->next;

        sq_second_free(s);
        s = next;
    }
}

void sq_engine_clear(struct sq_engine *p)
{
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (p->endpoint[i].driver)
            p->endpoint[i].driver->close_all(&p->endpoint[i]);
    if (p->loop_ready) {
        uv_walk(&p->loop, close_handle, NULL);
        (void)uv_run(&p->loop, UV_RUN_DEFAULT);
        (void)uv_loop_close(&p->loop);
    }
    if (p->timer_fd >= 0)
        (void)close(p->timer_fd);
    if (p->order_fd >= 0)
        (void)close(p->order_fd);
    for (size_t i = 0; i < p->n_endpoints; i++) {
        if (p->endpoint[i].driver)
            p->endpoint[i].driver->free_spare(&p->endpoint[i]);
        free_seconds(p->endpoint[i].first);
        sq_hist_free(p->endpoint[i].lag);
        p->endpoint[i].lag = NULL;
        p->endpoint[i].first = p->endpoint[i].current = NULL;
    }
    free_seconds(p->queue_head);
    p->queue_head = p->queue_tail = NULL;
    while (p->chunks) {
        struct sq_chunk *next = p->chunks->next;

        free(p->chunks);
        p->chunks = next;
    }
    free(p->buffer);
    p->buffer = NULL;
}
