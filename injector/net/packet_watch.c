/* What happens to the packet backend's devices by itself: a process dies or hangs, an interface or its namespace goes,
 * a drained process leaves. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "net/packet_priv.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/proc.h"
#include "squall/units.h"

#define CLOSING_NS (3 * SQ_S) /* what drains when squalld leaves */
#define LOOK_MOST_NS (200 * SQ_MS)

void sq_packet_drop(struct sq_packet_device *d)
{
    for (struct sq_packet_device **p = &d->ds->list; *p; p = &(*p)->next) {
        if (*p == d) {
            *p = d->next;
            break;
        }
    }
    sq_packet_unmake(d);
}

/* To each run with a fault there, once. DIED: the run can't go on, as when the proxy died. */
static void tell_runs(const struct sq_packet_device *d, bool died)
{
    const char *told[64] = {0};
    size_t n = 0;

    for (int i = 0; i < DIRECTIONS * SQ_CLASSIFY_FAULTS; i++) {
        const char *fault = d->slot[i / SQ_CLASSIFY_FAULTS][i % SQ_CLASSIFY_FAULTS].fault;
        const char *run = fault[0] ? sq_engine_run_of(d->ds->eng, fault) : NULL;
        bool known = !run;

        for (size_t k = 0; k < n && !known; k++)
            known = strcmp(told[k], run) == 0;
        if (known || n == SQ_COUNT(told))
            continue;
        told[n++] = run;
        sq_engine_event(d->ds->eng, run,
                        json_pack("{s:s,s:o}", "type", "warning", "text",
                                  json_sprintf("network faults on %s act no more: %s", d->ifname, d->why)));
        if (died)
            sq_engine_event(d->ds->eng, run,
                            json_pack("{s:s,s:s,s:I,s:s,s:s}", "type", "packet", "state", "died", "pid",
                                      (json_int_t)d->process.pid, "interface", d->ifname, "why", d->why));
    }
}

/* Its faults stay until they are taken back, and say that they are not in force. Links and TAPs are gone already. */
static void lose(struct sq_packet_device *d, bool died)
{
    d->state = SQ_PD_DEAD;
    sq_packet_detach(d);
    tell_runs(d, died);
    sq_packet_process_end(&d->process);
}

static void look_at_process(struct sq_packet_device *d, int64_t now)
{
    if (!sq_packet_process_alive(&d->process)) {
        pid_t pid = d->process.pid;
        char why[64];

        sq_packet_process_close(&d->process, why, sizeof why);
        d->process.pid = pid;
        (void)snprintf(d->why, sizeof d->why, "the packet process is dead (%s)", why);
        lose(d, true);
    } else if (sq_watch_look(&d->watch, (int64_t)*d->beat, now, LOOK_MOST_NS) >= SQ_STALE_NS) {
        d->watch.stale = 0;
        (void)sq_pidfd_signal(d->process.pidfd, SIGKILL); /* its death is seen next */
    }
}

static void look_at_device(struct sq_packet_device *d)
{
    if (d->state != SQ_PD_LIVE || sq_attach_has(d->attach[EGRESS], SQ_REDIRECT_TARGET))
        return;
    (void)snprintf(d->why, sizeof d->why, "the interface or its network namespace is gone");
    lose(d, false);
}

static void closed(uv_handle_t *h)
{
    struct sq_packet_devices *ds = h->data;
    void (*done)(void *arg) = ds->done;
    void *arg = ds->arg;

    if (ds->home.fd >= 0)
        (void)close(ds->home.fd);
    free(ds);
    done(arg);
}

void sq_packet_look(uv_timer_t *t)
{
    struct sq_packet_devices *ds = t->data;
    int64_t now = sq_mono_ns();
    struct sq_packet_device *next;

    for (struct sq_packet_device *d = ds->list; d; d = next) {
        next = d->next;
        if (d->state == SQ_PD_LIVE) {
            look_at_device(d);
            if (d->state == SQ_PD_LIVE)
                look_at_process(d, now);
        } else if (d->state == SQ_PD_DRAINING && (!sq_packet_process_alive(&d->process) || now > d->drain_until)) {
            sq_packet_drop(d);
        } else if (d->state == SQ_PD_DEAD && d->process.pidfd >= 0 && !sq_packet_process_alive(&d->process)) {
            char how[64];

            sq_packet_process_close(&d->process, how, sizeof how); /* reaped; `why` is told already */
        }
    }
    if (ds->list)
        return;
    (void)uv_timer_stop(t);
    if (ds->closing)
        uv_close((uv_handle_t *)t, closed);
}

void sq_packet_devices_free(struct sq_packet_devices *ds, void (*done)(void *arg), void *arg)
{
    int64_t until = sq_mono_ns() + CLOSING_NS;

    if (!ds) {
        done(arg);
        return;
    }
    ds->closing = true;
    ds->done = done;
    ds->arg = arg;
    for (struct sq_packet_device *d = ds->list; d; d = d->next) {
        if (d->state == SQ_PD_LIVE)
            sq_packet_process_end(&d->process);
        d->state = SQ_PD_DRAINING;
        if (!d->drain_until || d->drain_until > until)
            d->drain_until = until;
    }
    (void)uv_timer_start(&ds->timer, sq_packet_look, 0, 50);
}
