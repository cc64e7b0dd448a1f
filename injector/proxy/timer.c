#include "proxy/timer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "squall/clock.h"

#define EARLY_MOST (150 * INT64_C(1000)) /* ns: what is waited for awake, at most */

static void put(struct sq_timers *ts, size_t i, struct sq_timer *t)
{
    ts->heap[i] = t;
    t->at = i + 1;
}

static void up(struct sq_timers *ts, size_t i, struct sq_timer *t)
{
    while (i > 0 && ts->heap[(i - 1) / 2]->due > t->due) {
        put(ts, i, ts->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    put(ts, i, t);
}

static void down(struct sq_timers *ts, size_t i, struct sq_timer *t)
{
    for (size_t c = 2 * i + 1; c < ts->n; c = 2 * i + 1) {
        if (c + 1 < ts->n && ts->heap[c + 1]->due < ts->heap[c]->due)
            c++;
        if (ts->heap[c]->due >= t->due)
            break;
        put(ts, i, ts->heap[c]);
        i = c;
    }
    put(ts, i, t);
}

static void sift(struct sq_timers *ts, size_t i, struct sq_timer *t)
{
    if (i > 0 && ts->heap[(i - 1) / 2]->due > t->due)
        up(ts, i, t);
    else
        down(ts, i, t);
}

static void program(struct sq_timers *ts)
{
    int64_t due = ts->n ? ts->heap[0]->due : 0;
    if (due == ts->armed || ts->fd < 0)
        return;
    /* One that is early costs a wake-up, so nothing is done when the next one is later than what is set. */
    if (ts->armed && (due == 0 || due > ts->armed))
        return;
    int64_t at = due > ts->early ? due - ts->early : 1;
    struct itimerspec its = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    if (timerfd_settime(ts->fd, TFD_TIMER_ABSTIME, &its, NULL) == 0)
        ts->armed = due;
    ts->wake = at;
}

/* A sleep of the kernel's ends late, by 50 to 150 us on a virtual machine whose processor went idle, by 5 on others:
 * the next one ends so much earlier, and what is left is waited for awake. */
static void learn(struct sq_timers *ts, int64_t now)
{
    int64_t over = now - ts->wake;
    over = over < 0 ? 0 : over;
    over = over < EARLY_MOST ? over : EARLY_MOST;
    ts->early += (over - ts->early) / 8;
}

/* What is due at NOW or so soon that it is not worth a sleep. */
static bool reach(int64_t due, int64_t *now)
{
    if (due > *now + EARLY_MOST)
        return false;
    while (due > *now)
        *now = sq_mono_ns();
    return true;
}

static void on_tick(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct sq_timers *ts = poll->data;
    uint64_t ticks;
    int64_t now = sq_mono_ns();
    if (read(ts->fd, &ticks, sizeof(ticks)) > 0)
        learn(ts, now);
    ts->armed = 0;
    if (ts->n && reach(ts->heap[0]->due, &now)) {
        while (ts->n && ts->heap[0]->due <= now) {
            struct sq_timer *t = ts->heap[0];
            sq_timer_stop(ts, t);
            t->fn(t);
        }
    }
    program(ts);
}

int sq_timers_init(struct sq_timers *ts, uv_loop_t *loop)
{
    memset(ts, 0, sizeof(*ts));
    ts->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ts->fd < 0)
        return -errno;
    int rc = uv_poll_init(loop, &ts->poll, ts->fd);
    if (rc == 0) {
        ts->poll.data = ts;
        rc = uv_poll_start(&ts->poll, UV_READABLE, on_tick);
    }
    if (rc == 0)
        uv_unref((uv_handle_t *)&ts->poll);
    return rc;
}

void sq_timers_close(struct sq_timers *ts)
{
    uv_close((uv_handle_t *)&ts->poll, NULL);
    (void)close(ts->fd);
    ts->fd = -1;
    free(ts->heap);
    ts->heap = NULL;
    ts->n = ts->cap = 0;
}

int sq_timer_set(struct sq_timers *ts, struct sq_timer *t, int64_t due, sq_timer_fn *fn)
{
    t->fn = fn;
    if (t->at) {
        t->due = due;
        sift(ts, t->at - 1, t);
        program(ts);
        return 0;
    }
    if (ts->n == ts->cap) {
        size_t cap = ts->cap ? ts->cap * 2 : 64;
        struct sq_timer **heap = realloc(ts->heap, cap * sizeof(struct sq_timer *));
        if (!heap)
            return -ENOMEM;
        ts->heap = heap;
        ts->cap = cap;
    }
    t->due = due;
    up(ts, ts->n++, t);
    program(ts);
    return 0;
}

void sq_timer_stop(struct sq_timers *ts, struct sq_timer *t)
{
    if (!t->at)
        return;
    size_t i = t->at - 1;
    t->at = 0;
    struct sq_timer *last = ts->heap[--ts->n];
    if (last != t)
        sift(ts, i, last);
}
