/* A run: the holder of a lease. However it ends (asked for, lease passed, halt, squalld's own end), it ends the same
 * way: its faults last in first out, then its edges, then its services. */
#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/match.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define RETRY_NS SQ_S

const char *sq_run_id(const struct sq_run *run)
{
    return run->id;
}

uint64_t sq_run_seed(const struct sq_run *run)
{
    return run->seed;
}

struct sq_run *sq_run_find(struct sq_engine *eng, const char *run_id)
{
    for (struct sq_run *r = eng->runs; r; r = r->next)
        if (strcmp(r->id, run_id) == 0)
            return r;
    return NULL;
}

bool sq_engine_busy(const struct sq_engine *eng)
{
    for (const struct sq_run *r = eng->runs; r; r = r->next)
        if (r->state != SQ_RUN_ENDED)
            return true;
    return false;
}

void sq_run_free(struct sq_run *run)
{
    if (!run)
        return;
    sq_events_free(run->events);
    json_decref(run->named);
    json_decref(run->networks);
    json_decref(run->probe);
    json_decref(run->left);
    free(run);
}

/* ---- the lease ---- */

/* As people write it, or in nanoseconds as programs do. */
static int parse_lease(const json_t *def, int64_t *ns, struct sq_err *e)
{
    const json_t *v = json_object_get(def, "lease");
    const char *text = v ? json_string_value(v) : SQ_LEASE_DEFAULT;
    int rc = 0;
    if (json_is_integer(v))
        *ns = json_integer_value(v);
    else if (!text)
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"lease\" must be a duration such as \"10s\"");
    else if ((rc = sq_parse_duration(text, ns, e)) < 0)
        sq_err_prefix(e, "lease");
    if (rc == 0 && (*ns < SQ_LEASE_LEAST || *ns > SQ_LEASE_MOST))
        rc = sq_err_cls(e, SQ_C_INPUT, -ERANGE, "a lease is between 500ms and 1h");
    return rc;
}

static void set_deadline(struct sq_run *run)
{
    run->deadline = sq_boot_ns() + run->lease_ns;
    if (run->slot >= 0)
        SQ_PUT(run->eng->o.page->lease[run->slot], run->deadline);
}

/* Its faults are back: the keeper need not watch this lease any more. */
static void drop_lease(struct sq_run *run)
{
    if (run->slot >= 0)
        SQ_PUT(run->eng->o.page->lease[run->slot], 0);
    run->slot = -1;
}

static int free_slot(const struct sq_engine *eng)
{
    bool used[SQ_MAX_RUNS] = {false};
    for (const struct sq_run *r = eng->runs; r; r = r->next)
        if (r->slot >= 0)
            used[r->slot] = true;
    for (int i = 0; i < SQ_MAX_RUNS; i++)
        if (!used[i])
            return i;
    return -1;
}

int sq_run_renew(struct sq_run *run, int64_t *expires_in_ns, struct sq_err *e)
{
    if (run->state != SQ_RUN_LIVE || sq_boot_ns() >= run->deadline) {
        sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "the lease of run %s has ended", run->id);
        return -ENOENT;
    }
    set_deadline(run);
    *expires_in_ns = run->lease_ns;
    return 0;
}

/* ---- the beginning ---- */

static int seed_of(const json_t *def, uint64_t *seed, struct sq_err *e)
{
    const json_t *v = json_object_get(def, "seed");
    if (v && !json_is_integer(v))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"seed\" must be an integer");
    /* 53 bits at most: it goes through JSON readers that know only doubles. */
    *seed = v ? (uint64_t)json_integer_value(v) : sq_rng_entropy() >> 11;
    return 0;
}

int sq_run_new(struct sq_engine *eng, const struct sq_peer *peer, const json_t *def, struct sq_run **out,
               struct sq_err *e)
{
    int64_t lease = 0;
    uint64_t seed = 0;
    int rc = parse_lease(def, &lease, e);
    if (!rc)
        rc = seed_of(def, &seed, e);
    if (rc < 0)
        return rc;
    cleanup_json json_t *probe = sq_match_probe(json_object_get(def, "probe"), e);
    if (!probe)
        return e ? e->code : -EINVAL;
    if (eng->stopping)
        return sq_err_cls(e, SQ_C_CONFLICT, -ESHUTDOWN, "the injector is ending");
    int slot = free_slot(eng);
    if (slot < 0)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "%d runs already", SQ_MAX_RUNS);
    struct sq_run *run = calloc(1, sizeof(*run));
    if (!run)
        return sq_err(e, -ENOMEM, "no memory");
    run->eng = eng;
    run->events = sq_events_new();
    run->named = json_array();
    run->left = json_array();
    if (!run->events || !run->named || !run->left) {
        sq_run_free(run);
        return sq_err(e, -ENOMEM, "no memory");
    }
    snprintf(run->id, sizeof(run->id), "r%llu", (unsigned long long)++eng->n_runs);
    snprintf(run->name, sizeof(run->name), "%s", sq_json_str_or(def, "name", ""));
    run->probe = SQ_TAKE(probe);
    run->uid = peer->uid;
    run->seed = seed;
    run->lease_ns = lease;
    run->slot = slot;
    set_deadline(run);
    run->next = eng->runs;
    eng->runs = run;
    eng->idle_since = 0;
    *out = run;
    return 0;
}

/* ---- the end ---- */

static void ended(struct sq_run *run)
{
    struct sq_engine *eng = run->eng;
    run->state = SQ_RUN_ENDED;
    run->ended_at = sq_mono_ns();
    drop_lease(run);
    if (!sq_engine_busy(eng))
        eng->idle_since = run->ended_at;
    struct sq_waiter *w = run->waiters;
    run->waiters = NULL;
    while (w) {
        struct sq_waiter *next = w->next;
        w->done(w->arg, json_array_size(run->left) == 0, run->left);
        free(w);
        w = next;
    }
}

static void services_ended(void *arg, json_t *answer, const struct sq_err *e)
{
    struct sq_run *run = arg;
    const json_t *left = json_object_get(answer, "left");
    if (e && e->code)
        json_array_append_new(run->left, json_sprintf("services of %s: %s", run->id, e->msg));
    else if (json_is_array(left))
        json_array_extend(run->left, json_object_get(answer, "left"));
    json_decref(answer);
    ended(run);
}

static void wait_for(struct sq_run *run, sq_run_ended *done, void *arg)
{
    struct sq_waiter *w = done ? calloc(1, sizeof(*w)) : NULL;
    if (!w) {
        if (done)
            done(arg, false, run->left); /* no memory to wait: nobody knows, so it is not clean */
        return;
    }
    w->done = done;
    w->arg = arg;
    w->next = run->waiters;
    run->waiters = w;
}

void sq_run_end(struct sq_run *run, const char *by, int64_t grace_ns, sq_run_ended *done, void *arg)
{
    struct sq_engine *eng = run->eng;
    struct sq_err e = {0};
    if (run->state == SQ_RUN_ENDED) {
        if (done)
            done(arg, json_array_size(run->left) == 0, run->left);
        return;
    }
    wait_for(run, done, arg);
    if (run->state == SQ_RUN_ENDING)
        return;
    run->state = SQ_RUN_ENDING;
    if (strcmp(by, "request") != 0) /* who asks for the end knows of it */
        sq_engine_event(eng, run->id, json_pack("{s:s,s:s,s:s}", "type", "lease", "state", "ended", "by", by));
    eng->lease_was_last = strcmp(by, "lease") == 0;
    (void)sq_loan_end_all(run, by, run->left);
    drop_lease(run);
    if (sq_edge_drop_run(eng->intercept, run->id, &e) < 0)
        json_array_append_new(run->left, json_sprintf("edges of %s: %s", run->id, e.msg));
    sq_engine_beat(eng);
    sq_service_stop(eng->services, run->id, NULL, grace_ns, services_ended, run);
}

/* ---- time ---- */

void sq_runs_tick(struct sq_engine *eng)
{
    int64_t boot = sq_boot_ns(), now = sq_mono_ns();
    bool retry = now - eng->retried_at >= RETRY_NS;
    for (struct sq_run *r = eng->runs; r; r = r->next) {
        if (r->state == SQ_RUN_LIVE && boot >= r->deadline)
            sq_run_end(r, "lease", SQ_GRACE_SHORT_NS, NULL, NULL);
        if (retry)
            sq_loan_retry(r);
    }
    if (retry)
        eng->retried_at = now;
    for (struct sq_run **p = &eng->runs; *p;) {
        struct sq_run *r = *p;
        if (r->state == SQ_RUN_ENDED && !r->newest && now - r->ended_at >= SQ_KEPT_NS) {
            *p = r->next;
            sq_run_free(r);
        } else {
            p = &r->next;
        }
    }
}

/* ---- all of them ---- */

struct halt {
    unsigned runs, faults, pending;
    json_t *left;
    sq_halted *done;
    void *arg;
};

static void halt_part(struct halt *h)
{
    if (--h->pending > 0)
        return;
    json_t *answer = json_pack("{s:I,s:I,s:b,s:O}", "runs", (json_int_t)h->runs, "faults", (json_int_t)h->faults,
                               "clean", json_array_size(h->left) == 0, "left", h->left);
    json_decref(h->left);
    h->done(h->arg, answer);
    free(h);
}

static void halt_ended(void *arg, bool clean, const json_t *left)
{
    struct halt *h = arg;
    size_t i;
    json_t *s;
    (void)clean;
    json_array_foreach(left, i, s) json_array_append(h->left, s);
    halt_part(h);
}

void sq_engine_halt(struct sq_engine *eng, const char *by, sq_halted *done, void *arg)
{
    struct halt *h = calloc(1, sizeof(*h));
    cleanup_json json_t *quiet = json_array(); /* what stays here is tried again, and then told, by sq_run_end */
    if (!h || !quiet) {
        free(h);
        done(arg, NULL);
        return;
    }
    *h = (struct halt){.pending = 1, .left = json_array(), .done = done, .arg = arg};
    /* The faults of all runs before the services of any: people who halt want those gone. */
    for (struct sq_run *r = eng->runs; r; r = r->next)
        h->faults += sq_loan_end_all(r, by, quiet);
    for (struct sq_run *r = eng->runs; r; r = r->next) {
        if (r->state == SQ_RUN_ENDED && !r->newest)
            continue;
        h->runs += r->state == SQ_RUN_LIVE;
        h->pending++;
        sq_run_end(r, by, SQ_GRACE_SHORT_NS, halt_ended, h);
    }
    halt_part(h);
}
