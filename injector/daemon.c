#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "api.h"
#include "engine.h"
#include "metrics.h"
#include "run.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/paths.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "sweep.h"

#define BEAT_MS 100
#define BEAT_MOST_NS (200 * SQ_MS) /* see sq_watch_look */
#define IDLE_NS (10 * SQ_S)        /* a private injector without a run */
#define LAST_ANSWERS_MS 200        /* between the end of everything and the closing of the API */

struct daemon {
    const struct sq_daemon_opts *o;
    uv_loop_t loop;
    struct sq_engine *eng;
    struct sq_api *api;
    struct sq_toxi_server *toxi;
    struct sq_metrics_server *metrics;
    uv_timer_t beat;
    uv_poll_t keeper;
    uv_signal_t sig[3];
    struct sq_watch watch;
    int64_t stopped; /* when everything was taken back; 0: not yet */
    bool ending;
    bool alone; /* the keeper is dead */
    int status;
};

static void say(const char *what)
{
    (void)fprintf(stderr, "squalld: %s\n", what);
}

/* ---- the end ---- */

static void api_closed(void *arg)
{
    (void)arg; /* the last handle: uv_run returns */
}

static void watch_keeper(struct daemon *d, int64_t now);

/* Not before the keeper has shown that it lives: it has the directory to remove, and a stopped one would stay for ever
 * with nobody left to see it. */
static void close_rest(uv_timer_t *t)
{
    struct daemon *d = t->data;
    sq_engine_beat(d->eng);
    watch_keeper(d, sq_mono_ns());
    if (!d->alone && SQ_GET(d->o->page->keeper_beat) <= d->stopped)
        return;
    sq_api_free(SQ_TAKE(d->api), api_closed, d);
    uv_close((uv_handle_t *)&d->beat, NULL);
    uv_close((uv_handle_t *)&d->keeper, NULL);
    for (size_t i = 0; i < SQ_COUNT(d->sig); i++)
        uv_close((uv_handle_t *)&d->sig[i], NULL);
}

static void engine_stopped(void *arg)
{
    struct daemon *d = arg;
    if (sq_journal_held(d->o->journal) > 0)
        d->status = SQ_UNCLEAN; /* and not orderly: the keeper tries again */
    else
        SQ_PUT(d->o->page->orderly, 1);
    d->stopped = sq_mono_ns();
    /* Who waits for an answer (DELETE, halt) still gets it. */
    uv_timer_start(&d->beat, close_rest, LAST_ANSWERS_MS, BEAT_MS);
}

static void end(struct daemon *d, int status)
{
    if (d->ending)
        return;
    d->ending = true;
    d->status = status;
    sq_api_quiesce(d->api);
    sq_toxi_server_free(SQ_TAKE(d->toxi));
    sq_metrics_server_free(SQ_TAKE(d->metrics));
    sq_engine_stop(d->eng, engine_stopped, d);
}

static void on_quit(void *arg)
{
    end(arg, SQ_PASS);
}

static void on_signal(uv_signal_t *s, int signum)
{
    (void)signum;
    end(s->data, SQ_PASS);
}

/* Without a keeper no fault may live: nobody would take it back if we were killed, too. */
static void keeper_lost(struct daemon *d, const char *why)
{
    d->alone = true;
    if (d->ending)
        return;
    say(why);
    end(d, SQ_INFRA);
}

static void on_keeper(uv_poll_t *p, int status, int events)
{
    struct daemon *d = p->data;
    char byte;
    (void)events;
    if (status == 0 && recv(d->o->keeper_fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
        return;
    uv_poll_stop(p);
    keeper_lost(d, "the keeper is dead: taking everything back and ending");
}

/* ---- time ---- */

static void watch_keeper(struct daemon *d, int64_t now)
{
    if (sq_watch_look(&d->watch, SQ_GET(d->o->page->keeper_beat), now, BEAT_MOST_NS) < SQ_STALE_NS)
        return;
    d->watch.stale = 0;
    if (getppid() == d->o->keeper)
        (void)kill(d->o->keeper, SIGKILL); /* our parent still: the number is its own */
    keeper_lost(d, "the keeper hangs: ending it, taking everything back");
}

/* A private injector is for one controller: without it, or when it let its lease pass, there is nothing to stay for. */
static void watch_idle(struct daemon *d, int64_t now)
{
    int64_t since = d->eng->idle_since;
    if (!d->o->is_private || since == 0)
        return;
    if (d->eng->lease_was_last || now - since > IDLE_NS)
        end(d, SQ_PASS);
}

static void on_beat(uv_timer_t *t)
{
    struct daemon *d = t->data;
    int64_t now = sq_mono_ns();
    sq_engine_beat(d->eng);
    watch_keeper(d, now);
    watch_idle(d, now);
}

/* ---- the beginning ---- */

/* Whole or not at all: others read it to find us. */
static int write_info(const struct daemon *d, struct sq_err *e)
{
    char path[PATH_MAX], tmp[PATH_MAX + 8];
    struct sq_proc me = {0}, keeper = {0};
    int rc = sq_path_join(path, sizeof(path), d->o->dir, "info.json", e);
    if (rc < 0)
        return rc;
    (void)sq_proc_read(getpid(), &me, NULL);
    (void)sq_proc_read(d->o->keeper, &keeper, NULL);
    const char *slash = strrchr(d->o->dir, '/');
    json_t *o = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:b,s:s}", "id", slash ? slash + 1 : d->o->dir, "pid",
                          (json_int_t)getpid(), "start", (json_int_t)me.start, "keeper", (json_int_t)d->o->keeper,
                          "keeper_start", (json_int_t)keeper.start, "uid", (json_int_t)geteuid(), "private",
                          d->o->is_private, "boot_id", sq_boot_id());
    (void)snprintf(tmp, sizeof(tmp), "%s.new", path);
    rc = o && json_dump_file(o, tmp, JSON_COMPACT) == 0 && rename(tmp, path) == 0 ? 0 : -errno;
    json_decref(o);
    return rc < 0 ? sq_err_sys(e, rc, "cannot write %s", path) : 0;
}

static int start(struct daemon *d, struct sq_err *e)
{
    char path[PATH_MAX];
    struct sq_engine_opts eo = {
        .loop = &d->loop,
        .dir = d->o->dir,
        .self = d->o->self,
        .is_private = d->o->is_private,
        .journal = d->o->journal,
        .page = d->o->page,
        .beats = d->o->beats,
        .beat_fd = d->o->beat_fd,
        .keeper_fd = d->o->keeper_fd,
        .quit = on_quit,
        .arg = d,
    };
    int rc = sq_path_join(path, sizeof(path), d->o->dir, "api.sock", e);
    if (!rc)
        rc = sq_engine_new(&eo, &d->eng, e);
    if (!rc)
        rc = write_info(d, e);
    if (!rc)
        rc = sq_api_new(&d->loop, d->eng, path, d->o->group, &d->api, e);
    if (!rc && d->o->toxi)
        rc = sq_toxi_server_new(&d->loop, d->o->self, d->o->toxi, sq_engine_patience(d->eng), &d->toxi, e);
    if (!rc && d->o->metrics)
        rc = sq_metrics_server_new(&d->loop, d->eng, d->o->metrics, &d->metrics, e);
    return rc;
}

static void start_watching(struct daemon *d)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < SQ_COUNT(d->sig); i++) {
        uv_signal_init(&d->loop, &d->sig[i]);
        d->sig[i].data = d;
        uv_signal_start(&d->sig[i], on_signal, signals[i]);
    }
    uv_timer_init(&d->loop, &d->beat);
    d->beat.data = d;
    uv_timer_start(&d->beat, on_beat, 0, BEAT_MS);
    uv_poll_init(&d->loop, &d->keeper, d->o->keeper_fd);
    d->keeper.data = d;
    uv_poll_start(&d->keeper, UV_READABLE | UV_DISCONNECT, on_keeper);
}

/* What the keeper does last, when there is none. */
static void leave_alone(const struct sq_daemon_opts *o)
{
    const char *slash = strrchr(o->dir, '/');
    if (sq_sweep_cgroups(slash ? slash + 1 : o->dir, NULL) == 0)
        (void)sq_sweep_remove(o->dir, NULL);
}

int sq_daemon_run(const struct sq_daemon_opts *o)
{
    struct daemon *d = calloc(1, sizeof(*d));
    struct sq_err e = {0};
    if (!d || uv_loop_init(&d->loop) < 0) {
        say("no memory");
        free(d);
        return SQ_INFRA;
    }
    d->o = o;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_NAME, "squalld");
    if (start(d, &e) < 0) {
        (void)fprintf(stderr, "squalld: %s%s%s\n", e.msg, e.hint[0] ? "; " : "", e.hint);
        _exit((int)sq_exit_of(&e)); /* half started parts end with the process */
    }
    start_watching(d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    int status = d->status;
    if (d->alone && status != SQ_UNCLEAN)
        leave_alone(o);
    sq_engine_free(d->eng);
    uv_loop_close(&d->loop);
    free(d);
    return status;
}
