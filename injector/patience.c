#include "patience.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>

#include "page.h"
#include "squall/clock.h"
#include "squall/units.h"

struct sq_patience {
    volatile int64_t *beat;
    volatile int64_t until; /* 0: nothing takes long now */
    pthread_t thread;
    sem_t end;
};

static void *beat_for_it(void *arg)
{
    struct sq_patience *p = arg;
    int rc;

    do {
        int64_t now = sq_mono_ns(), next = now + SQ_BEAT_NS;
        struct timespec t = {next / SQ_S, next % SQ_S};

        if (now < SQ_GET(p->until))
            SQ_PUT(*p->beat, now);
        rc = sem_clockwait(&p->end, CLOCK_MONOTONIC, &t);
    } while (rc < 0);
    return NULL;
}

int sq_patience_new(volatile int64_t *beat, struct sq_patience **out, struct sq_err *e)
{
    struct sq_patience *p = calloc(1, sizeof *p);
    sigset_t all, before;

    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->beat = beat;
    (void)sem_init(&p->end, 0, 0);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    int rc = -pthread_create(&p->thread, NULL, beat_for_it, p);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc < 0) {
        (void)sem_destroy(&p->end);
        free(p);
        return sq_err_sys(e, rc, "cannot start a thread");
    }
    *out = p;
    return 0;
}

void sq_patience_free(struct sq_patience *p)
{
    if (!p)
        return;
    (void)sem_post(&p->end);
    (void)pthread_join(p->thread, NULL);
    (void)sem_destroy(&p->end);
    free(p);
}

void sq_patience_begin(struct sq_patience *p, int64_t most_ns)
{
    if (p)
        SQ_PUT(p->until, sq_mono_ns() + most_ns);
}

void sq_patience_end(struct sq_patience *p)
{
    if (p)
        SQ_PUT(p->until, 0);
}
