/* Timers of nanosecond due times on one timerfd: libuv's own are milliseconds, and a 1 ms latency must not become 2. */
#ifndef SQUALL_PROXY_TIMER_H
#define SQUALL_PROXY_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct sq_timer; /* embed one in what has the timer; zeroed: not armed */
typedef void sq_timer_fn(struct sq_timer *t);
struct sq_timer {
    int64_t due; /* CLOCK_MONOTONIC ns */
    size_t at;   /* place in the heap + 1; 0: not armed */
    sq_timer_fn *fn;
};

struct sq_timers {
    struct sq_timer **heap; /* by due time */
    size_t n, cap;
    int fd;
    int64_t armed; /* due time that the timerfd is set for; 0: nothing */
    int64_t wake;  /* what it was set to: so much before */
    int64_t early; /* as sleeps end late, ns */
    uv_poll_t poll;
};

int sq_timers_init(struct sq_timers *ts, uv_loop_t *loop); /* 0 or -errno */
void sq_timers_close(struct sq_timers *ts);                /* the memory must outlive the loop's next turn */
/* Arm or move T. It fires once, at or after DUE, never from inside this call. -ENOMEM: it is not armed. */
int sq_timer_set(struct sq_timers *ts, struct sq_timer *t, int64_t due, sq_timer_fn *fn);
void sq_timer_stop(struct sq_timers *ts, struct sq_timer *t);

#endif
