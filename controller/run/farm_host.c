#include "run/farm_host.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define CALL_NS (10 * SQ_S)
#define POLL_MS 200
#define QUESTIONS 9
#define PUNCTUAL (20 * SQ_MS) /* an agent begins at most so much later (or earlier) than it was told */

static void ask(struct sq_farm_host *h, const char *method, const char *path, json_t *body, sq_client_done *done)
{
    char full[160];

    (void)snprintf(full, sizeof full, "/v1/runs/%s%s", h->run, path);
    sq_client_call(h->client, method, full, body, CALL_NS, done, h);
}

/* ---- the end of its run ---- */

static void deleted(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;

    (void)body;
    if (e && e->code == -ECANCELED)
        return;
    if (e && status != 404 && !h->lost[0]) /* 404: it has ended by itself */
        (void)snprintf(h->lost, sizeof h->lost, "host %.80s: its run was not ended: %.300s", h->name, e->msg);
    h->gone = true;
}

static void drop_run(struct sq_farm_host *h)
{
    if (h->deleting)
        return;
    h->deleting = true;
    if (h->run[0])
        ask(h, "DELETE", "", NULL, deleted);
    else
        h->gone = true;
}

static void SQ_PRINTF(2, 3) lose(struct sq_farm_host *h, const char *fmt, ...)
{
    char why[400];
    va_list ap;

    if (h->lost[0])
        return;
    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    (void)snprintf(h->lost, sizeof h->lost, "the probe on host %.80s: %s", h->name, why);
    h->over = true;
    drop_run(h);
    sq_farm_lost(h);
}

/* ---- its clock ---- */

static void next_question(struct sq_farm_host *h);

static void clock_known(struct sq_farm_host *h)
{
    sq_farm_log(h->farm, "clock",
                json_pack("{s:s,s:s,s:I,s:I}", "host", h->name, "when", h->over ? "after" : "before", "ahead_ns",
                          (json_int_t)h->offset_ns, "error_ns", (json_int_t)h->error_ns));
    if (h->over) {
        drop_run(h);
        return;
    }
    h->ready = true;
    sq_farm_ready(h->farm);
}

static void told_clock(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;
    int64_t now = sq_mono_ns(), theirs = sq_json_int_or(body, "mono_ns", -1), error = (now - h->asked_ns) / 2;

    if (e && e->code == -ECANCELED)
        return;
    if (status != 200 || theirs < 0) {
        if (h->over)
            drop_run(h);
        else
            lose(h, "its injector does not tell its clock: %s", e ? e->msg : "no mono_ns");
        return;
    }
    if (h->questions == QUESTIONS || error < h->error_ns) {
        h->error_ns = error;
        h->offset_ns = theirs - (h->asked_ns + error);
    }
    if (--h->questions > 0)
        next_question(h);
    else
        clock_known(h);
}

static void next_question(struct sq_farm_host *h)
{
    h->asked_ns = sq_mono_ns();
    sq_client_call(h->client, "GET", "/v1/info", NULL, CALL_NS, told_clock, h);
}

static void ask_clock(struct sq_farm_host *h)
{
    h->questions = QUESTIONS;
    next_question(h);
}

/* ---- what the agent says ---- */

static void take_begun(struct sq_farm_host *h, const json_t *o)
{
    int64_t late = sq_json_int_or(o, "begin_ns", 0) - h->offset_ns - sq_farm_begin_ns(h->farm);
    char text[32];

    if (late > PUNCTUAL || late < -PUNCTUAL) {
        lose(h, "it began %s off: what the hosts send would not be one load (is that host busy?)",
             sq_fmt_duration(late < 0 ? -late : late, text, sizeof text));
        return;
    }
    h->begun = true;
    sq_farm_begun(h->farm);
}

static uint64_t count(const json_t *o, const char *key)
{
    int64_t n = sq_json_int_or(o, key, 0);

    return n > 0 ? (uint64_t)n : 0;
}

static void take_finished(struct sq_farm_host *h, const json_t *o)
{
    const json_t *l = json_object_get(o, "live");
    int64_t sec = sq_json_int_or(o, "sec", -1);

    if (sec != h->seconds)
        return;
    sq_window_put(h->window, sec, json_object_get(o, "w"));
    h->seconds = sec + 1;
    h->live = (struct sq_probe_live){count(l, "open"),
                                     count(l, "waiting"),
                                     count(l, "outstanding"),
                                     count(l, "planned"),
                                     count(l, "done"),
                                     count(l, "lag_late"),
                                     sq_json_bool_or(l, "lag_void", false)};
}

static void take_end(struct sq_farm_host *h, const json_t *o)
{
    if (h->over)
        return;
    h->ends = json_incref(json_object_get(o, "probes"));
    h->over = true;
    ask_clock(h);
}

static void take_record(struct sq_farm_host *h, json_t *o)
{
    const char *type = sq_json_str_or(o, "type", "");

    if (strcmp(type, "sample") == 0)
        sq_farm_take(h, o);
    else if (strcmp(type, "finished") == 0)
        take_finished(h, o);
    else if (strcmp(type, "begun") == 0)
        take_begun(h, o);
    else if (strcmp(type, "end") == 0)
        take_end(h, o);
    else if (strcmp(type, "failed") == 0)
        lose(h, "%.200s%s%.150s", sq_json_str_or(o, "message", "it failed"), *sq_json_str_or(o, "hint", "") ? "; " : "",
             sq_json_str_or(o, "hint", ""));
}

static void take_exit(struct sq_farm_host *h, const json_t *ev)
{
    const char *tail = sq_json_str_or(ev, "tail", "");

    lose(h, "it ended by itself (status %d, signal %d)%s%.200s", (int)sq_json_int_or(ev, "exit", 0),
         (int)sq_json_int_or(ev, "signal", 0), *tail ? ": " : "", tail);
}

static void take_event(struct sq_farm_host *h, const json_t *ev)
{
    const char *type = sq_json_str_or(ev, "type", ""), *state = sq_json_str_or(ev, "state", "");

    if (strcmp(type, "probe") == 0 && !h->lost[0])
        take_record(h, json_object_get(ev, "record"));
    else if (strcmp(type, "service") == 0 && strcmp(state, "exited") == 0 && !h->over)
        take_exit(h, ev);
    else if (strcmp(type, "lease") == 0 && !h->over)
        lose(h, "its run was ended there: %.100s", sq_json_str_or(ev, "by", "?"));
    else if (strcmp(type, "warning") == 0)
        sq_farm_log(h->farm, "warning",
                    json_pack("{s:o}", "text", json_sprintf("host %s: %s", h->name, sq_json_str_or(ev, "text", ""))));
}

static void poll_now(struct sq_farm_host *h);

static void polled(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;
    json_t *ev;
    size_t i;

    if (e && e->code == -ECANCELED)
        return;
    h->asking = false;
    if (e) {
        if (status != 0 || e->code != -ETIMEDOUT)
            lose(h, "its injector does not tell what it does: %s", e->msg);
        return;
    }
    h->after = sq_json_int_or(body, "next", h->after);
    json_array_foreach(json_object_get(body, "events"), i, ev)
    {
        take_event(h, ev);
    }
    if (json_array_size(json_object_get(body, "events")) > 0 && !h->over)
        poll_now(h);
}

static void poll_now(struct sq_farm_host *h)
{
    char path[64];

    if (h->asking || h->over || h->deleting)
        return;
    h->asking = true;
    (void)snprintf(path, sizeof path, "/events?after=%lld", (long long)h->after);
    ask(h, "GET", path, NULL, polled);
}

static void on_poll(uv_timer_t *t)
{
    struct sq_farm_host *h = t->data;

    poll_now(h);
}

/* ---- begin and end ---- */

static void renewed(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;

    (void)body;
    if (e && e->code != -ECANCELED && e->code != -ETIMEDOUT && !h->over)
        lose(h, "its lease was not renewed: %s (%d)", e->msg, status);
}

static void on_renew(uv_timer_t *t)
{
    struct sq_farm_host *h = t->data;

    if (h->run[0] && !h->deleting)
        ask(h, "POST", "/renew", NULL, renewed);
}

static void created(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;

    (void)status;
    if (e && e->code == -ECANCELED)
        return;
    if (e) {
        lose(h, "its injector (%.200s): %s", sq_client_socket(h->client), e->msg);
        return;
    }
    (void)snprintf(h->run, sizeof h->run, "%s", sq_json_str_or(body, "run", ""));
    if (h->stop || h->over) { /* it was not waited for */
        h->over = true;
        h->deleting = h->gone = false;
        drop_run(h);
        return;
    }
    ask_clock(h);
}

int sq_farm_host_open(struct sq_farm_host *h, const char *socket, unsigned window_s, struct sq_err *e)
{
    uv_loop_t *loop = sq_farm_options(h->farm)->loop;

    h->window = sq_window_new(window_s + 8); /* hosts tell of a second at different times */
    if (!h->window)
        return sq_err(e, -ENOMEM, "no memory");
    (void)uv_timer_init(loop, &h->renew);
    (void)uv_timer_init(loop, &h->poll);
    h->renew.data = h->poll.data = h;
    h->timers = true;
    return sq_client_new(loop, socket, &h->client, e);
}

void sq_farm_host_begin(struct sq_farm_host *h)
{
    const struct sq_farm_opts *o = sq_farm_options(h->farm);
    uint64_t third = (uint64_t)(o->lease_ns / 3 / SQ_MS);

    (void)uv_timer_start(&h->renew, on_renew, third, third);
    sq_client_call(h->client, "POST", "/v1/runs",
                   json_pack("{s:s,s:I,s:I}", "name", o->opt.run_id, "lease", (json_int_t)o->lease_ns, "seed",
                             (json_int_t)o->opt.seed),
                   CALL_NS, created, h);
}

static void sending(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;

    (void)status;
    (void)body;
    if (e && e->code != -ECANCELED)
        lose(h, "%s%s%.150s", e->msg, e->hint[0] ? "; " : "", e->hint);
}

void sq_farm_host_send(struct sq_farm_host *h, json_t *order)
{
    (void)json_object_set_new(order, "zero_ns", json_integer(sq_farm_zero_ns(h->farm) + h->offset_ns));
    (void)json_object_set_new(order, "begin_ns", json_integer(sq_farm_begin_ns(h->farm) + h->offset_ns));
    ask(h, "POST", "/probe", order, sending);
    (void)uv_timer_start(&h->poll, on_poll, POLL_MS, POLL_MS);
}

static void told_stop(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_farm_host *h = arg;

    (void)body;
    if (e && e->code != -ECANCELED && status != 404)
        lose(h, "it was not stopped: %s", e->msg);
}

void sq_farm_host_stop(struct sq_farm_host *h, bool now)
{
    if (h->over || (h->stop && h->hurry >= now))
        return;
    h->stop = true;
    h->hurry = now;
    if (h->begun) {
        ask(h, "POST", "/probe/stop", json_pack("{s:b}", "now", now), told_stop);
        return;
    }
    h->over = true; /* nothing was sent yet */
    drop_run(h);
}

static void timer_closed(uv_handle_t *t)
{
    struct sq_farm_host *h = t->data;

    sq_farm_closed(h->farm);
}

static void client_closed(void *arg)
{
    sq_farm_closed(arg);
}

unsigned sq_farm_host_close(struct sq_farm_host *h)
{
    unsigned n = h->timers ? 2 : 0;

    if (h->timers) {
        uv_close((uv_handle_t *)&h->renew, timer_closed);
        uv_close((uv_handle_t *)&h->poll, timer_closed);
    }
    if (h->client)
        sq_client_close(SQ_TAKE(h->client), client_closed, h->farm);
    else
        return n;
    return n + 1;
}

void sq_farm_host_clear(struct sq_farm_host *h)
{
    sq_window_free(h->window);
    json_decref(h->ends);
    json_decref(h->load);
}
