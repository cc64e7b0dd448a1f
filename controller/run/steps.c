/* The load, the steady state, the steps and the tail. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "run/abort.h"
#include "run/state.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "squall/units.h"

#define TIMEOUT_NS (5 * SQ_S) /* of a request that names none */

/* ---- the probe ---- */

/* What `fallback` checks want counted. */
static json_t *matchers(const json_t *verify)
{
    json_t *out = json_array();
    size_t i;
    json_t *c;
    json_array_foreach(verify, i, c)
    {
        if (strcmp(sq_json_str_or(c, "check", ""), "fallback") != 0)
            continue;
        json_t *m = json_pack("{s:o}", "id", json_sprintf("%zu", i));
        static const char *const same[] = {"endpoint", "match", "forbid"};
        for (size_t k = 0; k < SQ_COUNT(same); k++)
            if (json_object_get(c, same[k]))
                json_object_set(m, same[k], json_object_get(c, same[k]));
        if (json_object_get(c, "id"))
            json_object_set(m, "id", json_object_get(c, "id"));
        json_array_append_new(out, m);
    }
    return out;
}

static void wake(void *arg)
{
    struct run *r = arg;
    uv_async_send(&r->wake);
}

static void load_lost(void *arg, const char *why)
{
    sq_run_end(arg, "infrastructure", NULL, "%s", why);
}

static void load_tells(void *arg, const char *type, json_t *rec)
{
    sq_run_log(arg, type, rec);
}

int sq_run_probe_create(struct run *r, struct sq_err *e)
{
    json_t *load = json_object_get(r->spec, "load");
    size_t n = json_object_size(load);
    if (n == 0)
        return 0;
    const char *key;
    json_t *v;
    json_object_foreach(load, key, v)
    {
        int64_t t = sq_json_int_or(json_object_get(v, "request"), "timeout", TIMEOUT_NS);
        if (t > r->longest_timeout_ns)
            r->longest_timeout_ns = t;
    }
    r->steady_seen = calloc(n, sizeof(*r->steady_seen));
    cleanup_json json_t *m = matchers(json_object_get(r->spec, "verify"));
    if (!r->steady_seen || !m)
        return sq_err(e, -ENOMEM, "no memory");
    unsigned window = sq_abort_longest(json_object_get(json_object_get(r->spec, "safety"), "abort_when"));
    struct sq_probe_opts opt = {
        .load = load,
        .lateness = json_object_get(r->spec, "lateness"),
        .matchers = m,
        .run_id = r->res->id,
        .seed = r->seed,
        .window_s = window > 60 ? window : 60,
        .wake = wake,
        .wake_arg = r,
    };
    struct sq_farm_opts o = {
        .loop = &r->loop,
        .hosts = json_object_get(r->spec, "hosts"),
        .opt = opt,
        .lease_ns = sq_json_int_or(json_object_get(r->spec, "safety"), "lease", 10 * SQ_S),
        .failed = load_lost,
        .log = load_tells,
        .arg = r,
    };
    /* Also of one that could not be made something may be open. */
    return sq_farm_new(&o, &r->farm, e);
}

static void load_begun(void *arg)
{
    sq_run_next(arg);
}

void sq_stage_probe(struct run *r)
{
    struct sq_err e = {0};
    if (!r->farm) {
        sq_run_next(r);
        return;
    }
    if (sq_farm_remote(r->farm))
        sq_run_stage(r, 0, "starting the probes of other hosts");
    r->probe_on = true;
    if (sq_farm_start(r->farm, r->start_ns, load_begun, &e)) {
        r->probe_on = false;
        sq_run_end(r, "infrastructure", NULL, "the probe does not start: %s", e.msg);
    }
}

/* ---- steady state ---- */

static bool holds(const char *op, double seen, double limit)
{
    if (strcmp(op, "<") == 0)
        return seen < limit;
    if (strcmp(op, "<=") == 0)
        return seen <= limit;
    if (strcmp(op, ">") == 0)
        return seen > limit;
    return seen >= limit;
}

static bool judge_one(struct run *r, const json_t *th, char *text, size_t len)
{
    const char *metric = sq_json_str_or(th, "metric", ""), *op = sq_json_str_or(th, "op", "<");
    double limit = sq_json_num_or(th, "value", 0), p = sq_json_num_or(th, "p", 0), seen = 0;
    char a[32], b[32];
    bool some = r->steady_ok + r->steady_bad > 0;
    if (strcmp(metric, "p") == 0) {
        seen = (double)sq_hist_percentile(r->steady_hist, p);
        snprintf(text, len, "p(%g) was %s, wanted %s %s", p, sq_fmt_duration((int64_t)seen, a, sizeof(a)), op,
                 sq_fmt_duration((int64_t)limit, b, sizeof(b)));
    } else if (strcmp(metric, "error_rate") == 0) {
        seen = some ? 100.0 * (double)r->steady_bad / (double)(r->steady_ok + r->steady_bad) : 0;
        snprintf(text, len, "error_rate was %.3g %%, wanted %s %.3g %%", seen, op, limit);
    } else {
        seen = (double)r->steady_sent / (double)(r->steady_to - r->steady_from);
        snprintf(text, len, "sent_rate was %.1f/s, wanted %s %.1f/s", seen, op, limit);
    }
    return some && holds(op, seen, limit);
}

static void judge_steady(struct run *r)
{
    const json_t *thresholds = json_object_get(json_object_get(r->spec, "steady_state"), "thresholds");
    char why[800] = "", one[160];
    size_t used = 0, i;
    bool met = true;
    json_t *th;
    r->steady_judging = false;
    uv_timer_stop(&r->timer);
    json_array_foreach(thresholds, i, th)
    {
        bool ok = judge_one(r, th, one, sizeof(one));
        if (ok)
            continue;
        met = false;
        used += (size_t)snprintf(why + used, sizeof(why) - used, "%s%s", used ? "; " : "", one);
        if (used >= sizeof(why))
            break;
    }
    sq_run_phase_end(r, json_pack("{s:b, s:s}", "met", met, "why", why));
    sq_live_steady(r->live, r->steady_from * 1000, r->steady_to * 1000);
    if (!met) {
        sq_run_end(r, "not_steady", NULL, "the steady state was not met, so nothing was injected: %s", why);
        return;
    }
    sq_progress_event(r->o->progress, SQ_TONE_GOOD, sq_run_t(r), "steady state met");
    sq_run_next(r);
}

static void steady_late(uv_timer_t *t)
{
    judge_steady(t->data);
}

/* Has every endpoint's last steady second come in? */
static bool steady_complete(const struct run *r)
{
    size_t n = json_object_size(json_object_get(r->spec, "load"));
    for (size_t i = 0; i < n; i++)
        if (r->steady_seen[i] < r->steady_to - 1)
            return false;
    return true;
}

static void steady_over(uv_timer_t *t)
{
    struct run *r = t->data;
    r->steady_judging = true;
    sq_run_drain_probe(r);
    if (!r->steady_judging)
        return;
    /* Requests of the last second may still be on their way. */
    sq_run_timer(r, sq_mono_ns() + r->longest_timeout_ns + 2 * SQ_S, steady_late);
}

void sq_stage_steady(struct run *r)
{
    const json_t *steady = json_object_get(r->spec, "steady_state");
    int64_t length = sq_json_int_or(steady, "for", 0);
    if (!r->farm || length <= 0) {
        sq_run_next(r);
        return;
    }
    int64_t begin = sq_farm_begin_ns(r->farm) - r->start_ns;
    r->steady_from = (begin + SQ_S - 1) / SQ_S;
    r->steady_to = r->steady_from + (length + SQ_S - 1) / SQ_S;
    int64_t to_ns = r->start_ns + r->steady_to * SQ_S;
    sq_run_stage(r, to_ns, "steady state");
    sq_run_phase(r, "steady", NULL, NULL);
    sq_run_timer(r, to_ns, steady_over);
}

static size_t endpoint_index(const struct run *r, const char *name)
{
    size_t i = 0;
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(r->spec, "load"), key, v)
    {
        if (strcmp(key, name) == 0)
            return i;
        i++;
    }
    return SIZE_MAX;
}

static void steady_take(struct run *r, const json_t *sample)
{
    int64_t sec = sq_json_int_or(sample, "sec", -1);
    size_t i = endpoint_index(r, sq_json_str_or(sample, "endpoint", ""));
    if (i == SIZE_MAX)
        return;
    if (sec > r->steady_seen[i])
        r->steady_seen[i] = sec;
    if (sec < r->steady_from || sec >= r->steady_to)
        return;
    r->steady_sent += (uint64_t)sq_json_int_or(sample, "sent", 0);
    r->steady_ok += (uint64_t)sq_json_int_or(sample, "ok", 0);
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(sample, "bad"), key, v)
    {
        r->steady_bad += (uint64_t)json_integer_value(v);
    }
    sq_hist_add_json(r->steady_hist, json_object_get(sample, "h"), NULL);
}

void sq_run_drain_probe(struct run *r)
{
    json_t *sample;
    while (r->farm && (sample = sq_farm_next(r->farm))) {
        steady_take(r, sample);
        sq_slos_sample(r->slos, sample);
        json_object_del(sample, "type");
        sq_run_log(r, "sample", sample);
    }
    if (r->steady_judging && !r->ending && steady_complete(r))
        judge_steady(r);
}

/* ---- steps ---- */

static void next_step(struct run *r);

static void step_done(uv_timer_t *t)
{
    struct run *r = t->data;
    sq_run_phase_end(r, NULL);
    r->fault = NULL;
    r->item++;
    next_step(r);
}

static void settle(struct run *r)
{
    const json_t *step = json_array_get(json_object_get(r->spec, "steps"), r->item);
    int64_t to = sq_mono_ns() + sq_json_int_or(step, "settle", 0);
    sq_run_stage(r, to, "settling after %s", r->fault->step);
    sq_run_timer(r, to, step_done);
}

static void taken_back(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e && e->code == -ECANCELED)
        return;
    if (e) {
        char what[200];
        snprintf(what, sizeof(what), "taking back the fault of step %.140s", r->fault ? r->fault->step : "?");
        sq_run_failed(r, status, e, what);
        return;
    }
    if (!r->fault)
        return;
    sq_run_fault_reverted(r, r->fault, "request", body);
    if (r->ending)
        return;
    if (!sq_json_bool_or(body, "clean", true)) {
        sq_run_left(r, json_object_get(body, "left"));
        sq_run_end(r, "infrastructure", NULL, "the fault of step %s could not be taken back", r->fault->step);
        return;
    }
    settle(r);
}

static void duration_over(uv_timer_t *t)
{
    struct run *r = t->data;
    char path[64];
    r->fault->deleting = true;
    snprintf(path, sizeof(path), "/faults/%s", r->fault->id);
    sq_run_ask(r, "DELETE", path, NULL, taken_back);
}

/* "process/pause on payments.1 (pid 123)", from what the injector says that it hit. */
static void describe_hit(const json_t *body, char *buf, size_t len)
{
    size_t i, used = 0, more = 0;
    json_t *h;
    buf[0] = '\0';
    json_array_foreach(json_object_get(body, "hit"), i, h)
    {
        char one[128] = "";
        if (!sq_json_bool_or(h, "chosen", true))
            continue;
        const char *instance = sq_json_str_or(h, "instance", ""), *edge = sq_json_str_or(h, "edge", "");
        const char *counts = sq_json_str_or(h, "counts", ""); /* of a call fault: which of the calls */
        int64_t pid = sq_json_int_or(h, "pid", 0);
        bool network = sq_network_hit_text(h, one, sizeof(one));
        if (!network && pid)
            snprintf(one, sizeof(one), "%.80s%spid %lld", instance, *instance ? " " : "", (long long)pid);
        else if (!network)
            snprintf(one, sizeof(one), "%.70s%s%.50s", *edge ? edge : instance, *counts ? ": " : "", counts);
        if (used + strlen(one) + 24 >= len)
            more++;
        else
            used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? ", " : "", one);
    }
    if (more)
        snprintf(buf + used, len - used, " and %zu more", more);
}

static void applied(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    const json_t *step = json_array_get(json_object_get(r->spec, "steps"), r->item);
    const char *id = sq_json_str_or(step, "id", "?");
    if (e && e->code == -ECANCELED)
        return;
    if (e) {
        char what[200];
        sq_run_log(r, "fault",
                   json_pack("{s:s, s:s, s:s, s:s}", "state", "failed", "step", id, "uses",
                             sq_json_str_or(step, "uses", ""), "error", e->msg));
        snprintf(what, sizeof(what), "the fault of step %.150s", id);
        sq_run_failed(r, status, e, what);
        return;
    }
    if (r->n_faults == SQ_MAX_FAULTS) {
        sq_run_end(r, "infrastructure", NULL, "more than %u faults in one run", SQ_MAX_FAULTS);
        return;
    }
    struct run_fault *f = &r->faults[r->n_faults++];
    snprintf(f->id, sizeof(f->id), "%s", sq_json_str_or(body, "fault", ""));
    snprintf(f->step, sizeof(f->step), "%s", id);
    f->uses = sq_json_str_or(step, "uses", "");
    f->applied_ns = sq_json_int_or(body, "applied_ns", sq_mono_ns());
    json_t *more = json_object();
    static const char *const from_step[] = {"target", "with"}, *const from_body[] = {"hit", "readback"};
    for (size_t i = 0; i < 2; i++) {
        if (json_object_get(step, from_step[i]))
            json_object_set(more, from_step[i], json_object_get(step, from_step[i]));
        if (json_object_get(body, from_body[i]))
            json_object_set(more, from_body[i], json_object_get(body, from_body[i]));
    }
    sq_run_fault_record(r, f, "applied", f->applied_ns, more);
    r->fault = f;
    if (r->ending) /* it arrived on the way out: the end of the run takes it back */
        return;
    char hit[256];
    int64_t to = f->applied_ns + sq_json_int_or(step, "duration", 0);
    describe_hit(body, hit, sizeof(hit));
    sq_progress_event(r->o->progress, SQ_TONE_FAULT, (double)(f->applied_ns - r->start_ns) / 1e9, "%s: %s on %s", id,
                      f->uses, hit);
    const char *name = sq_json_str_or(step, "name", NULL);
    bool named = name && strcmp(name, id) != 0;
    sq_run_stage(r, to, "%s%s%s", id, named ? ": " : "", named ? name : "");
    sq_run_timer(r, to, duration_over);
}

/* The injector knows only the services that it started: an existing one is named by how it is selected. */
static json_t *target_of(struct run *r, const json_t *step)
{
    const json_t *target = json_object_get(step, "target");
    json_t *out = target ? json_copy((json_t *)(uintptr_t)target) : json_object();
    const json_t *def = json_object_get(json_object_get(r->spec, "services"), sq_json_str_or(target, "service", ""));
    json_t *select = json_object_get(def, "select");
    if (select) {
        json_object_del(out, "service");
        json_object_del(out, "instance");
        json_object_update(out, select);
    }
    return out;
}

static void next_step(struct run *r)
{
    const json_t *steps = json_object_get(r->spec, "steps"), *step = json_array_get(steps, r->item);
    if (r->ending)
        return;
    r->step_count = (unsigned)json_array_size(steps);
    r->step_no = (unsigned)r->item + 1;
    if (!step) {
        r->step_no = 0;
        sq_run_next(r);
        return;
    }
    const char *id = sq_json_str_or(step, "id", "?");
    int64_t wait = sq_json_int_or(step, "wait", -1);
    if (wait >= 0) {
        int64_t to = sq_mono_ns() + wait;
        sq_run_phase(r, "wait", id, NULL);
        sq_run_stage(r, to, "%s: wait", id);
        sq_progress_event(r->o->progress, SQ_TONE_DIM, sq_run_t(r), "%s: wait %.3g s", id, (double)wait / 1e9);
        sq_run_timer(r, to, step_done);
        return;
    }
    json_t *body = json_pack("{s:s, s:s, s:o}", "step", id, "uses", sq_json_str_or(step, "uses", ""), "target",
                             target_of(r, step));
    if (json_object_get(step, "with"))
        json_object_set(body, "with", json_object_get(step, "with"));
    sq_run_phase(r, "step", id, NULL);
    sq_run_stage(r, 0, "%s: applying %s", id, sq_json_str_or(step, "uses", ""));
    sq_run_ask(r, "POST", "/faults", body, applied);
}

void sq_stage_steps(struct run *r)
{
    next_step(r);
}

/* ---- the tail: what the checks still want to see after the last fault ---- */

static int64_t wanted_after(const struct run *r, const char *last)
{
    int64_t want = 0;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(r->spec, "verify"), i, c)
    {
        const char *check = sq_json_str_or(c, "check", ""),
                   *step = sq_json_str_or(c, "step", sq_json_str_or(c, "after", "*"));
        int64_t ns = 0;
        if (strcmp(step, last) != 0 && strcmp(step, "*") != 0)
            continue;
        if (strcmp(check, "recovered") == 0)
            ns = sq_json_int_or(c, "within", 0) + sq_json_int_or(c, "hold", 0);
        else if (strcmp(check, "circuit_breaker") == 0)
            ns = sq_json_int_or(json_object_get(c, "expect"), "closes_within", 0) + 3 * SQ_S; /* time to see it flow */
        if (ns > want)
            want = ns;
    }
    return want ? want + SQ_S : 0; /* whole seconds are judged */
}

static void tail_over(uv_timer_t *t)
{
    struct run *r = t->data;
    sq_run_phase_end(r, NULL);
    sq_run_next(r);
}

void sq_stage_tail(struct run *r)
{
    const struct run_fault *last = r->n_faults ? &r->faults[r->n_faults - 1] : NULL;
    int64_t to = last ? last->reverted_ns + wanted_after(r, last->step) : 0;
    if (!r->farm || to <= sq_mono_ns()) {
        sq_run_next(r);
        return;
    }
    sq_run_phase(r, "tail", NULL, NULL);
    sq_run_stage(r, to, "watching the recovery");
    sq_run_timer(r, to, tail_over);
}
