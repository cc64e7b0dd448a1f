/* The way out, the same from wherever the run was: take everything back, gather what is still to be known, leave.
 *
 * After a completed run the load ends first, so that its last requests meet a system that still stands; after anything
 * else the faults are taken back first, at once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "run/state.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define POLL_NS (20 * SQ_MS)
#define ABORT_GRACE SQ_S
#define HOSTS_WITHIN (10 * SQ_S) /* what other hosts may take to end their part of the load */
#define DRAIN_WITHIN (3 * SQ_S)
#define DEAD_WITHIN (5 * SQ_S)
#define QUIT_WITHIN (8 * SQ_S)

static void out_load(struct run *r);
static void out_delete(struct run *r);
static void out_events(struct run *r);
static void out_after(struct run *r);
static void out_quit(struct run *r);

static bool went_well(const struct run *r)
{
    return strcmp(r->reason, "completed") == 0 || strcmp(r->reason, "not_steady") == 0;
}

static void finish(struct run *r)
{
    r->finished = true;
    uv_stop(&r->loop);
}

void sq_run_out(struct run *r)
{
    uv_timer_stop(&r->timer);
    uv_timer_stop(&r->limit);
    for (size_t i = 0; i < r->n_ready; i++)
        sq_ready_cancel(SQ_TAKE(r->ready[i].check));
    sq_run_phase_end(r, NULL);
    r->step_no = 0;
    bool well = went_well(r);
    sq_run_stage(r, 0, "%s", well ? "finishing" : "taking everything back");
    if (r->probe_on) {
        sq_farm_stop(r->farm, well ? r->longest_timeout_ns + SQ_S : ABORT_GRACE);
        r->out_deadline = sq_mono_ns() + (well ? r->longest_timeout_ns + 2 * SQ_S : 2 * ABORT_GRACE) +
                          (sq_farm_remote(r->farm) ? HOSTS_WITHIN : 0);
    }
    if (well)
        out_load(r);
    else
        out_delete(r);
}

/* ---- the load ---- */

static void load_tick(uv_timer_t *t)
{
    out_load(t->data);
}

/* Its own word on how late it was is missing, and without it nothing that it measured is a proof. */
static void without_end(struct run *r)
{
    const char *name;
    json_t *v;
    json_object_foreach(json_object_get(r->spec, "load"), name, v)
        sq_run_log(r, "probe",
                   json_pack("{s:s, s:b, s:s}", "endpoint", name, "void", 1, "why",
                             "it did not end in time, so it never said how late it was"));
}

static void end_of_probe(struct run *r)
{
    sq_run_drain_probe(r);
    if (sq_farm_done(r->farm)) {
        cleanup_json json_t *ends = sq_farm_end(r->farm);
        size_t i;
        json_t *rec;
        json_array_foreach(ends, i, rec)
        {
            json_t *copy = json_copy(rec);
            json_object_del(copy, "type");
            sq_run_log(r, "probe", copy);
        }
    } else if (went_well(r)) {
        without_end(r);
    }
    cleanup_json json_t *left = sq_farm_left(r->farm);
    if (json_array_size(left))
        sq_run_left(r, left);
    r->load_over = true;
}

static void out_load(struct run *r)
{
    if (r->probe_on && !r->load_over) {
        sq_run_drain_probe(r);
        if (!sq_farm_done(r->farm) && sq_mono_ns() < r->out_deadline) {
            sq_run_timer(r, sq_mono_ns() + POLL_NS, load_tick);
            return;
        }
        end_of_probe(r);
    }
    if (r->deleted)
        out_events(r);
    else
        out_delete(r);
}

/* ---- the run at the injector ---- */

static void dead_end(struct run *r);

static void after_delete(struct run *r)
{
    r->deleted = true;
    if (r->probe_on && !r->load_over)
        out_load(r);
    else
        out_events(r);
}

static void run_deleted(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e && e->code == -ECANCELED)
        return;
    if (status == 0) {
        r->injector_dead = true;
        if (went_well(r)) {
            snprintf(r->reason, sizeof(r->reason), "infrastructure");
            snprintf(r->why, sizeof(r->why), "the injector did not answer at the end: %.700s", e ? e->msg : "");
        }
    } else if (status != 404 && e) { /* 404: it has ended by itself, and took everything back */
        sq_run_left_text(r, "the injector could not end the run: %s", e->msg);
    } else if (body && !sq_json_bool_or(body, "clean", true)) {
        sq_run_left(r, json_object_get(body, "left"));
        r->clean = false;
    }
    after_delete(r);
}

static void out_delete(struct run *r)
{
    if (!r->id[0] || r->injector_dead || !r->client) {
        after_delete(r);
        return;
    }
    r->deleted = true;
    sq_run_ask(r, "DELETE", "", NULL, run_deleted);
}

static void events_tick(uv_timer_t *t)
{
    out_events(t->data);
}

/* Until two polls in a row brought nothing new; the injector keeps the events of an ended run for 5 s. */
static void out_events(struct run *r)
{
    if (!r->draining) {
        r->draining = true;
        r->quiet_polls = 0;
        r->out_deadline = sq_mono_ns() + DRAIN_WITHIN;
    }
    if (!r->id[0] || r->injector_dead || !r->client || r->quiet_polls >= 2 || sq_mono_ns() > r->out_deadline) {
        out_after(r);
        return;
    }
    sq_run_poll(r);
    sq_run_timer(r, sq_mono_ns() + 2 * POLL_NS, events_tick);
}

/* ---- what is on the host now ---- */

void sq_run_snapshot_record(struct run *r, const char *when, const json_t *answer)
{
    json_t *state = json_object_get(answer, "state"), *unread = json_object_get(answer, "unread");
    json_t *rec = json_pack("{s:s}", "when", when);
    if (state) {
        json_object_set(rec, "state", state);
    } else {
        json_t *copy = json_copy((json_t *)(uintptr_t)answer);
        json_object_del(copy, "unread");
        json_object_set_new(rec, "state", copy ? copy : json_object());
    }
    if (unread)
        json_object_set(rec, "unread", unread);
    sq_run_log(r, "snapshot", rec);
}

/* Packet processes that still send on what they hold leave by themselves soon. */
static bool drains(const json_t *answer)
{
    const json_t *state = json_object_get(answer, "state"), *p;
    size_t i;
    json_array_foreach(json_object_get(state ? state : answer, "packets"), i, p)
    {
        if (strcmp(sq_json_str_or(p, "state", ""), "draining") == 0)
            return true;
    }
    return false;
}

static void got_after(void *arg, int status, json_t *body, const struct sq_err *e);

static void after_tick(uv_timer_t *t)
{
    sq_run_ask(t->data, "GET", "/snapshot", NULL, got_after);
}

static void got_after(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e && e->code == -ECANCELED)
        return;
    if (status == 200 && drains(body) && sq_mono_ns() < r->out_deadline) {
        sq_run_timer(r, sq_mono_ns() + 2 * POLL_NS, after_tick);
        return;
    }
    if (status == 200)
        sq_run_snapshot_record(r, "after", body);
    else
        sq_run_log(r, "warning", json_pack("{s:s}", "text", e ? e->msg : "no snapshot after the run"));
    out_quit(r);
}

static void out_after(struct run *r)
{
    r->out_deadline = sq_mono_ns() + DRAIN_WITHIN;
    if (!r->client || r->injector_dead || !r->id[0])
        out_quit(r);
    else
        sq_run_ask(r, "GET", "/snapshot", NULL, got_after); /* an ended run is kept for 5 s */
}

/* ---- the private injector ---- */

static void private_ended(void *arg, const json_t *left)
{
    struct run *r = arg;
    if (json_array_size(left))
        sq_run_left(r, left);
    if (r->injector_dead)
        dead_end(r);
    else
        finish(r);
}

static void told_to_quit(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    (void)body;
    if (e && e->code == -ECANCELED)
        return;
    if (status != 200) {
        sq_run_log(r, "warning", json_pack("{s:s}", "text", e ? e->msg : "the private injector was told to quit"));
        sq_private_term(r->priv);
    }
    sq_private_end(r->priv, QUIT_WITHIN, private_ended, r);
}

static void host_tick(uv_timer_t *t);

/* The host's injector died: its keeper holds the lock until everything is taken back. */
static void host_dead(struct run *r)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s", r->socket);
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
    if (!sq_private_alive(dir)) {
        dead_end(r);
    } else if (sq_mono_ns() > r->out_deadline) {
        sq_run_left_text(r, "the injector of %s does not answer, and neither it nor its keeper has ended", dir);
        finish(r);
    } else {
        sq_run_timer(r, sq_mono_ns() + 5 * POLL_NS, host_tick);
    }
}

static void host_tick(uv_timer_t *t)
{
    host_dead(t->data);
}

static void out_quit(struct run *r)
{
    if (r->quitting)
        return;
    r->quitting = true;
    r->out_deadline = sq_mono_ns() + r->lease_ns + DEAD_WITHIN;
    if (!r->priv) {
        if (r->injector_dead)
            host_dead(r);
        else
            finish(r);
        return;
    }
    if (r->injector_dead || !r->client) {
        sq_private_term(r->priv);
        sq_private_end(r->priv, DEAD_WITHIN, private_ended, r);
        return;
    }
    sq_client_call(r->client, "POST", "/v1/quit", NULL, 5 * SQ_S, told_to_quit, r);
}

/* The injector died, and so did its keeper: a sweep says whether anything is left, and takes it back. */
static void dead_end(struct run *r)
{
    char *said = NULL;
    struct sq_err e = {0};
    int rc = sq_private_sweep(&said, &e);
    if (rc)
        sq_run_left_text(r, "%s", e.msg);
    if (said)
        sq_run_log(r, "warning", json_pack("{s:s+}", "text", "after the injector's death: ", said));
    free(said);
    finish(r);
}
