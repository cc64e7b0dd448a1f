/* The proxy's life: privileges dropped, loop run, and the end: when squalld is gone or says quit, everything passes
 * through without faults, and the process leaves when its last connection has closed. That has no time limit: those
 * connections belong to applications that know nothing of the experiment, and ending it must not reset them. */
#include "proxy/proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/maker.h"
#include "proxy/px.h"
#include "squall/clock.h"
#include "unprivileged.h"

#define WIRE_FD 3
#define BEAT_MS 250
#define CALLS_MS 50
#define STATS_MS 1000
#define REDIRECTED (1 * INT64_C(1000000000)) /* connects that were on their way here when squalld died */
#define FILES_MAX 1048576

static void raise_files(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    rlim_t hard = r.rlim_max;
    if (geteuid() == 0 && hard < FILES_MAX) {
        struct rlimit more = {.rlim_cur = FILES_MAX, .rlim_max = FILES_MAX};
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            return;
    }
    r.rlim_cur = hard < FILES_MAX ? hard : FILES_MAX;
    (void)setrlimit(RLIMIT_NOFILE, &r);
}

static void on_beat(uv_timer_t *t)
{
    struct px *px = t->data;
    if (px->beat)
        *px->beat = sq_mono_ns();
}

static void close_listeners(struct px *px)
{
    struct edge *next;
    for (struct edge *e = TAILQ_FIRST(&px->edges); e; e = next) {
        next = TAILQ_NEXT(e, link);
        px_edge_unlisten(e);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct px *px = t->data;
    px_calls_flush(px);
    px_wire_flush(px);
    px_nft_look(px, sq_mono_ns());
    if (px->drain_at && px_hold_waits(px))
        px->drain_at = sq_mono_ns() + REDIRECTED; /* a held SYN is a connect that will come yet */
    if (px->drain_at && px->drain_at <= sq_mono_ns()) {
        px->drain_at = 0;
        close_listeners(px);
        px_maybe_leave(px);
    }
    if (px->draining)
        px_maybe_leave(px);
}

static void on_stats(uv_timer_t *t)
{
    struct px *px = t->data;
    px_send_stats(px);
}

static void clear_rules(struct px *px)
{
    struct edge *next;
    for (struct edge *e = TAILQ_FIRST(&px->edges); e; e = next) {
        next = TAILQ_NEXT(e, link);
        uint32_t gone = e->rules.mask;
        sq_rules_none(&e->rules);
        px_rules_changed(e, gone, 0);
    }
    px_hold_rules(px);
}

/* They are nobody's fault to be taken back, and nobody could change them any more. */
static void drop_plain(struct px *px)
{
    struct edge *next;
    for (struct edge *e = TAILQ_FIRST(&px->edges); e; e = next) {
        next = TAILQ_NEXT(e, link);
        if (e->plain)
            px_plain_drop(e);
    }
}

static void leave_udp(struct px *px)
{
    struct edge *e;
    TAILQ_FOREACH(e, &px->edges, link)
    {
        px_udp_leave(e);
    }
}

void px_drain(struct px *px)
{
    if (px->draining)
        return;
    px->draining = true;
    px->drain_at =
        sq_mono_ns() + REDIRECTED; /* first: ending faults may close the last connection, and we must not leave */
    px_spaces_leave(px);
    drop_plain(px);
    px_callers_drop(px); /* new calls go direct */
    clear_rules(px);
    leave_udp(px);
    px_calls_flush(px);
}

void px_orphaned(struct px *px)
{
    px_wire_close(px);
    while (!TAILQ_EMPTY(&px->pending))
        px_conn_upstream(px, TAILQ_FIRST(&px->pending)->req, -1, ECONNREFUSED);
    px_drain(px);
    px_notify_start(px);
    px_maybe_leave(px);
}

void px_maybe_leave(struct px *px)
{
    if (px->draining && !px->drain_at && px->open == 0 && px->nft_keep < 0 && !(px->answering && px_notify_any(px)))
        uv_stop(&px->loop);
}

static int start(struct px *px)
{
    TAILQ_INIT(&px->edges);
    TAILQ_INIT(&px->callers);
    TAILQ_INIT(&px->pending);
    TAILQ_INIT(&px->listeners);
    px->wire.fd = -1;
    TAILQ_INIT(&px->spaces);
    px_space_home(px);
    px->nft_keep = -1;
    px->buf = malloc(PX_BUF);
    px->out = malloc(PX_BUF);
    if (!px->buf || !px->out || uv_loop_init(&px->loop) != 0)
        return -ENOMEM;
    int rc = sq_timers_init(&px->timers, &px->loop);
    if (rc == 0)
        rc = px_wire_open(px, WIRE_FD);
    uv_timer_init(&px->loop, &px->tick);
    uv_timer_init(&px->loop, &px->beat_timer);
    uv_timer_init(&px->loop, &px->stats_timer);
    px->tick.data = px->beat_timer.data = px->stats_timer.data = px;
    uv_timer_start(&px->tick, on_tick, CALLS_MS, CALLS_MS);
    uv_timer_start(&px->beat_timer, on_beat, 0, BEAT_MS);
    uv_timer_start(&px->stats_timer, on_stats, STATS_MS, STATS_MS);
    return rc;
}

/* Closing the last connection of a dropped edge frees it. */
static void end_edge(struct edge *e)
{
    struct conn *next;
    if (e->plain && e->counted)
        px_plain_drop(e);
    else if (e->counted)
        px_edge_drop(e);
    else
        for (struct conn *c = TAILQ_FIRST(&e->conns); c; c = next) {
            next = TAILQ_NEXT(c, link);
            px_conn_close(c, SQ_OUT_OPEN, 0, false);
        }
}

static void stop(struct px *px)
{
    px_udp_close(px);
    px_dnstcp_close(px);
    px_calls_flush(px);
    px_wire_flush(px);
    while (!TAILQ_EMPTY(&px->edges))
        end_edge(TAILQ_FIRST(&px->edges));
    px_callers_drop(px);
    px_notify_close(px);
    px_spaces_close(px);
    px_wire_close(px);
    uv_close((uv_handle_t *)&px->tick, NULL);
    uv_close((uv_handle_t *)&px->beat_timer, NULL);
    uv_close((uv_handle_t *)&px->stats_timer, NULL);
    sq_timers_close(&px->timers);
    while (uv_run(&px->loop, UV_RUN_DEFAULT) != 0)
        ; /* a uv_stop of before ends it early */
    (void)uv_loop_close(&px->loop);
    if (px->beat_page)
        (void)munmap(px->beat_page, px->beat_len);
    sq_names_free(&px->names);
    free(px->wire.calls);
    sq_out_free(&px->batch[UP]);
    sq_out_free(&px->batch[DOWN]);
    free(px->buf);
    free(px->out);
}

int sq_proxy_main(int argc, char **argv)
{
    bool plain = argc > 1 && strcmp(argv[1], "plain") == 0, maker = argc > 1 && strcmp(argv[1], "sockets") == 0;
    int type = 0;
    socklen_t n = sizeof(type);
    if (getsockopt(WIRE_FD, SOL_SOCKET, SO_TYPE, &type, &n) != 0 || type != SOCK_SEQPACKET) {
        (void)fprintf(stderr, "squalld proxy: descriptor 3 must be squalld's socket; it is not started by hand\n");
        return 2;
    }
    (void)prctl(PR_SET_NAME, maker ? "squall-sockets" : plain ? "squall-plain" : "squall-proxy", 0, 0, 0);
    (void)fcntl(WIRE_FD, F_SETFD, FD_CLOEXEC);
    (void)signal(SIGPIPE, SIG_IGN);
    raise_files();
    int rc = sq_unprivileged();
    if (maker)
        return rc < 0 ? 5 : px_maker_run(WIRE_FD);
    struct px *px = rc == 0 ? calloc(1, sizeof(*px)) : NULL;
    if (px)
        rc = start(px);
    if (!px || rc < 0) {
        (void)fprintf(stderr, "squalld proxy: cannot start: %s\n", strerror(rc < 0 ? -rc : ENOMEM));
        return 5;
    }
    (void)uv_run(&px->loop, UV_RUN_DEFAULT);
    stop(px);
    free(px);
    return 0;
}
