/* The parts put together, and their orderly end. */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper.h"
#include "net/packet_device.h"
#include "patience.h"
#include "run.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/fds.h"

#define TICK_MS 100

uv_loop_t *sq_engine_loop(struct sq_engine *eng)
{
    return eng->o.loop;
}

struct sq_journal *sq_engine_journal(struct sq_engine *eng)
{
    return eng->o.journal;
}

struct sq_intercept *sq_engine_intercept(struct sq_engine *eng)
{
    return eng->intercept;
}

struct sq_services *sq_engine_services(struct sq_engine *eng)
{
    return eng->services;
}

struct sq_cuts **sq_engine_cuts(struct sq_engine *eng)
{
    return &eng->cuts;
}

const char *sq_engine_dir(struct sq_engine *eng)
{
    return eng->dir;
}

const char *sq_engine_self(struct sq_engine *eng)
{
    return eng->self;
}

void **sq_engine_netem(struct sq_engine *eng)
{
    return &eng->netem;
}

int64_t *sq_engine_looking(struct sq_engine *eng)
{
    return &eng->looking;
}

uint32_t *sq_engine_backends(struct sq_engine *eng)
{
    return &eng->backends;
}

const json_t *sq_engine_probe(const struct sq_run *run)
{
    return run->probe;
}

struct sq_packet_devices *sq_engine_packets(struct sq_engine *eng)
{
    return eng->packets;
}

const char *sq_engine_run_of(struct sq_engine *eng, const char *fault)
{
    for (const struct sq_run *r = eng->runs; r; r = r->next)
        for (const struct sq_live *l = r->newest; l; l = l->older)
            if (strcmp(l->f.id, fault) == 0)
                return r->id;
    return NULL;
}

struct sq_patience *sq_engine_patience(struct sq_engine *eng)
{
    return eng->patience;
}

void sq_engine_beat(struct sq_engine *eng)
{
    SQ_PUT(eng->o.page->squalld_beat, sq_mono_ns());
}

void sq_engine_event(struct sq_engine *eng, const char *run_id, json_t *obj)
{
    if (!obj)
        return;
    if (run_id && run_id[0]) {
        struct sq_run *run = sq_run_find(eng, run_id);
        if (run)
            sq_events_add(run->events, json_incref(obj));
    } else {
        for (struct sq_run *r = eng->runs; r; r = r->next) {
            json_t *copy = r->state == SQ_RUN_ENDED ? NULL : json_copy(obj);
            if (copy)
                sq_events_add(r->events, copy);
        }
    }
    json_decref(obj);
}

/* ---- what the keeper must hold ---- */

static int listener_slot(const struct sq_engine *eng, uint64_t key)
{
    for (int i = 0; i < SQ_MAX_LISTENERS; i++)
        if (eng->listener[i] == key)
            return i;
    return -1;
}

/* Not sent when the keeper does not read: then it hangs, and squalld is about to end it and itself. */
static void send_keeper(int sock, const struct sq_keeper_msg *m, const int *fds, size_t n)
{
    (void)sq_fds_send(sock, m, sizeof(*m), fds, n, MSG_DONTWAIT);
}

void sq_engine_listener(struct sq_engine *eng, uint64_t key, int fd, int door)
{
    cleanup_close int mine = fd;
    int slot = listener_slot(eng, key);
    if (key == 0 || eng->o.keeper_fd < 0 || (slot < 0 && mine < 0))
        return;
    if (mine < 0) {
        struct sq_keeper_msg m = {.key = key, .slot = (uint32_t)slot, .add = 0};
        send_keeper(eng->o.keeper_fd, &m, NULL, 0);
        eng->listener[slot] = 0;
        SQ_PUT(eng->o.beats->seen[slot], 0);
        return;
    }
    if (slot < 0)
        slot = listener_slot(eng, 0);
    if (slot < 0) {
        sq_engine_event(
            eng, NULL,
            json_pack("{s:s,s:s}", "type", "warning", "text",
                      "more intercepted processes than the keeper can hold: were squalld killed, calls of the "
                      "newest would fail"));
        return;
    }
    eng->listener[slot] = key;
    SQ_PUT(eng->o.beats->seen[slot], 0);
    struct sq_keeper_msg m = {.key = key, .slot = (uint32_t)slot, .add = 1};
    send_keeper(eng->o.keeper_fd, &m, (int[]){mine, door}, door < 0 ? 1 : 2);
}

static void on_listener(void *arg, uint64_t key, int fd, int door)
{
    sq_engine_listener(arg, key, fd, door);
}

static volatile uint64_t *on_seen(void *arg, uint64_t key)
{
    struct sq_engine *eng = arg;
    int slot = key ? listener_slot(eng, key) : -1;
    return slot < 0 ? NULL : &eng->o.beats->seen[slot];
}

static void on_event(void *arg, const char *run_id, json_t *obj)
{
    sq_engine_event(arg, run_id, obj);
}

static void on_proxy(void *arg, pid_t pid, uint64_t start)
{
    struct sq_engine *eng = arg;
    struct sq_page *p = eng->o.page;
    /* In this order the keeper never takes the old one's heartbeat for the new one's. */
    SQ_PUT(p->proxy_pid, 0);
    SQ_PUT(p->proxy_start, start);
    SQ_PUT(eng->o.beats->proxy_beat, sq_mono_ns());
    SQ_PUT(p->proxy_pid, pid);
    sq_engine_event(
        eng, NULL,
        json_pack("{s:s,s:s,s:I}", "type", "proxy", "state", pid ? "started" : "died", "pid", (json_int_t)pid));
}

/* ---- beginning and end ---- */

static void on_timer(uv_timer_t *t)
{
    sq_runs_tick(t->data);
}

static int start_parts(struct sq_engine *eng, struct sq_err *e)
{
    struct sq_intercept_opts io = {
        .loop = eng->o.loop,
        .patience = eng->patience,
        .dir = eng->dir,
        .self = eng->self,
        .event = on_event,
        .arg = eng,
        .proxy_changed = on_proxy,
        .listener = on_listener,
        .seen = on_seen,
        .held = eng->o.beats->held,
        .proxy_beat = &eng->o.beats->proxy_beat,
        .beat_fd = eng->o.beat_fd,
        .beat_offset = offsetof(struct sq_beat_page, proxy_beat),
    };
    int rc = sq_intercept_new(&io, &eng->intercept, e);
    rc = rc < 0 ? rc : sq_packet_devices_new(eng, &eng->packets, e);
    return rc < 0 ? rc : sq_services_new(eng, &eng->services, e);
}

int sq_engine_new(const struct sq_engine_opts *o, struct sq_engine **out, struct sq_err *e)
{
    struct sq_engine *eng = calloc(1, sizeof(*eng));
    if (!eng)
        return sq_err(e, -ENOMEM, "no memory");
    eng->o = *o;
    int n = snprintf(eng->dir, sizeof(eng->dir), "%s", o->dir),
        m = snprintf(eng->self, sizeof(eng->self), "%s", o->self);
    if (n < 0 || (size_t)n >= sizeof(eng->dir) || m < 0 || (size_t)m >= sizeof(eng->self)) {
        free(eng);
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "path too long: %s", o->dir);
    }
    eng->o.dir = eng->dir;
    eng->o.self = eng->self;
    eng->idle_since = sq_mono_ns();
    int rc = sq_patience_new(&o->page->squalld_beat, &eng->patience, e);
    rc = rc < 0 ? rc : start_parts(eng, e);
    if (rc < 0) {
        /* Whoever fails to start one ends the process: what is half open goes with it. */
        free(eng);
        return rc;
    }
    uv_timer_init(o->loop, &eng->timer);
    eng->timer.data = eng;
    uv_timer_start(&eng->timer, on_timer, TICK_MS, TICK_MS);
    *out = eng;
    return 0;
}

static void timer_closed(uv_handle_t *h)
{
    struct sq_engine *eng = h->data;
    eng->stopped(eng->stopped_arg);
}

static void intercept_freed(void *arg)
{
    struct sq_engine *eng = arg;
    eng->intercept = NULL;
    uv_close((uv_handle_t *)&eng->timer, timer_closed);
}

static void packets_freed(void *arg)
{
    struct sq_engine *eng = arg;
    eng->packets = NULL;
    sq_intercept_free(eng->intercept, intercept_freed, eng);
}

static void services_freed(void *arg)
{
    struct sq_engine *eng = arg;
    eng->services = NULL;
    sq_packet_devices_free(eng->packets, packets_freed, eng);
}

static void all_ended(void *arg, json_t *answer)
{
    struct sq_engine *eng = arg;
    json_decref(answer);
    sq_services_free(eng->services, services_freed, eng);
}

void sq_engine_stop(struct sq_engine *eng, void (*done)(void *arg), void *arg)
{
    if (eng->stopping)
        return;
    eng->stopping = true;
    eng->stopped = done;
    eng->stopped_arg = arg;
    sq_engine_halt(eng, "end", all_ended, eng);
}

void sq_engine_free(struct sq_engine *eng)
{
    if (!eng)
        return;
    while (eng->runs) {
        struct sq_run *next = eng->runs->next;
        sq_run_free(eng->runs); /* loans that stay are the journal's, the keeper takes them */
        eng->runs = next;
    }
    sq_patience_free(eng->patience);
    free(eng);
}
