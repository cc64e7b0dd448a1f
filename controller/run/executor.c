#include "run/executor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "run/abort.h"
#include "run/state.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/rng.h"
#include "squall/units.h"
#include "squall/version.h"
#include "store/runs.h"

#define TICK_MS 200

static void stage_slos(struct run *r);

static void (*const stages[])(struct run *) = {
    sq_stage_injector, sq_stage_info,  sq_stage_doctor,   sq_stage_create, sq_stage_before,
    sq_stage_selected, sq_stage_edges, sq_stage_services, stage_slos,      sq_stage_probe,
    sq_stage_steady,   sq_stage_steps, sq_stage_tail,
};

void sq_run_next(struct run *r)
{
    if (r->ending)
        return;
    r->item = 0;
    if (r->stage < SQ_COUNT(stages))
        stages[r->stage++](r);
    else
        sq_run_end(r, "completed", NULL, "every step was done");
}

double sq_run_t(const struct run *r)
{
    return (double)(sq_mono_ns() - r->start_ns) / 1e9;
}

void sq_run_log(struct run *r, const char *type, json_t *rec)
{
    if (r->log)
        sq_evlog_put(r->log, type, sq_mono_ns(), rec);
    else
        json_decref(rec);
}

void sq_run_ask(struct run *r, const char *method, const char *path, json_t *body, sq_client_done *done)
{
    char full[160];
    snprintf(full, sizeof(full), "/v1/runs/%s%s", r->id, path);
    sq_client_call(r->client, method, full, body, SQ_CALL_NS, done, r);
}

void sq_run_timer(struct run *r, int64_t at_ns, uv_timer_cb fn)
{
    int64_t left = at_ns - sq_mono_ns();
    uv_update_time(&r->loop);
    uv_timer_start(&r->timer, fn, left > 0 ? (uint64_t)((left + SQ_MS - 1) / SQ_MS) : 0, 0);
}

void sq_run_stage(struct run *r, int64_t to_ns, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->stage_name, sizeof(r->stage_name), fmt, ap);
    va_end(ap);
    r->stage_from_ns = sq_mono_ns();
    r->stage_to_ns = to_ns;
    sq_run_view(r);
}

void sq_run_phase_end(struct run *r, json_t *more)
{
    cleanup_json json_t *extra = more;
    if (!r->phase)
        return;
    json_t *rec = json_pack("{s:s, s:s}", "phase", r->phase, "state", "end");
    if (r->phase_step[0])
        json_object_set_new(rec, "step", json_string(r->phase_step));
    if (extra)
        json_object_update(rec, extra);
    sq_run_log(r, "phase", rec);
    r->phase = NULL;
}

void sq_run_phase(struct run *r, const char *phase, const char *step, json_t *more)
{
    cleanup_json json_t *extra = more;
    sq_run_phase_end(r, NULL);
    r->phase = phase;
    snprintf(r->phase_step, sizeof(r->phase_step), "%s", step ? step : "");
    json_t *rec = json_pack("{s:s, s:s}", "phase", phase, "state", "begin");
    if (step)
        json_object_set_new(rec, "step", json_string(step));
    if (extra)
        json_object_update(rec, extra);
    sq_run_log(r, "phase", rec);
}

void sq_run_left(struct run *r, const json_t *strings)
{
    size_t i;
    json_t *s;
    json_array_foreach(strings, i, s)
    {
        r->clean = false;
        json_array_append(r->left, s);
    }
}

void sq_run_left_text(struct run *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    r->clean = false;
    json_array_append_new(r->left, json_string(text));
}

void sq_run_end(struct run *r, const char *reason, const char *by, const char *fmt, ...)
{
    if (r->ending)
        return;
    r->ending = true;
    snprintf(r->reason, sizeof(r->reason), "%s", reason);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->why, sizeof(r->why), fmt, ap);
    va_end(ap);
    if (by)
        sq_run_log(r, "abort", json_pack("{s:s, s:s}", "by", by, "why", r->why));
    bool well = strcmp(reason, "completed") == 0;
    if (!well)
        sq_progress_event(r->o->progress, SQ_TONE_BAD, sq_run_t(r), "%s: %s", reason, r->why);
    sq_run_out(r);
}

/* The loop stood still for longer than the time between the last renewal and the lease's end. */
static bool stood_still(struct run *r)
{
    int64_t now = sq_boot_ns();
    if (r->tick_boot_ns && now - r->tick_boot_ns > r->still_ns)
        r->still_ns = now - r->tick_boot_ns;
    return r->still_ns > r->lease_ns / 2;
}

bool sq_run_lease_over(struct run *r)
{
    int64_t silent = sq_boot_ns() - r->renewed_boot_ns;
    if (!r->id[0] || silent <= r->lease_ns || !stood_still(r))
        return false;
    sq_run_end(r, "aborted", "lease", "the lease ended: this controller did not renew it for %.1f s",
               (double)silent / 1e9);
    return true;
}

void sq_run_failed(struct run *r, int status, const struct sq_err *e, const char *what)
{
    char hint[400] = "";
    if (r->ending || (e && e->code == -ECANCELED))
        return;
    if (e && e->hint[0])
        snprintf(hint, sizeof(hint), " (%s)", e->hint);
    if (status == 0) {
        r->injector_dead = e && e->code != -ETIMEDOUT;
        if (!sq_run_lease_over(r))
            sq_run_end(r, "infrastructure", NULL, "%s: %s%s", what, e ? e->msg : "the injector does not answer",
                       r->id[0] ? "; its keeper takes everything back" : hint);
    } else if (status != 404 || !sq_run_lease_over(r)) {
        sq_run_end(r, "infrastructure", NULL, "%s: %s%s", what, e ? e->msg : "refused", hint);
    }
}

/* ---- timers ---- */

static void renewed(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    (void)body;
    r->renewing = false;
    if (r->ending || (e && e->code == -ECANCELED))
        return;
    if (status == 200) {
        r->renewed_boot_ns = sq_boot_ns();
        return;
    }
    if (status == 404) { /* ended by its lease or by a halt: its last events say so */
        r->gone = true;
        sq_run_poll(r);
    } else if (status == 0 && e->code == -ETIMEDOUT && sq_boot_ns() - r->renewed_boot_ns <= r->lease_ns) {
        sq_progress_event(r->o->progress, SQ_TONE_BAD, sq_run_t(r), "the injector did not answer a renewal in time");
    } else {
        sq_run_failed(r, status, e, "renewing the lease");
    }
}

static void on_renew(uv_timer_t *t)
{
    struct run *r = t->data;
    char path[96];
    if (r->renewing || r->deleted || r->injector_dead || !r->id[0])
        return;
    r->renewing = true;
    snprintf(path, sizeof(path), "/v1/runs/%s/renew", r->id);
    sq_client_call(r->client, "POST", path, NULL, r->lease_ns, renewed, r);
}

static int look(void *arg, unsigned seconds, struct sq_probe_window *w)
{
    struct run *r = arg;
    return sq_farm_window(r->farm, seconds, w);
}

static void check_conditions(struct run *r)
{
    char why[256];
    int64_t sec = (sq_mono_ns() - r->start_ns) / SQ_S;
    if (r->ending || sec == r->judged_sec)
        return;
    int64_t passed = sec - r->judged_sec;
    r->judged_sec = sec;
    if (sq_slos_due(r->slos, why, sizeof(why))) {
        sq_run_end(r, "aborted", "condition", "%s", why);
        return;
    }
    if (!r->probe_on)
        return;
    const json_t *conditions = json_object_get(json_object_get(r->spec, "safety"), "abort_when");
    if (sq_abort_due(conditions, look, r, why, sizeof(why)) ||
        sq_abort_watch_due(r->watch, passed > 60 ? 60 : (unsigned)passed, look, r, why, sizeof(why)))
        sq_run_end(r, "aborted", "condition", "%s", why);
}

static void on_tick(uv_timer_t *t)
{
    struct run *r = t->data;
    (void)stood_still(r);
    r->tick_boot_ns = sq_boot_ns();
    if (r->id[0] && !r->ending)
        sq_run_poll(r);
    check_conditions(r);
    sq_run_view(r);
}

static void on_limit(uv_timer_t *t)
{
    sq_run_end(t->data, "aborted", "max_duration", "the run took longer than safety.max_duration");
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct run *r = s->data;
    if (r->ending) {
        /* The second time: don't wait for anything. The injector takes back what is left when the lease ends. */
        if (!r->hurry && !r->finished) {
            r->hurry = true;
            sq_run_left_text(r, "not waited for: the injector takes back what is left within its lease (%.0f s)",
                             (double)r->lease_ns / 1e9);
            uv_stop(&r->loop);
        }
        return;
    }
    sq_progress_event(r->o->progress, SQ_TONE_BAD, sq_run_t(r), "%s: taking the faults back (again: leave at once)",
                      sq_signal_name(signum));
    sq_run_end(r, "aborted", "signal", "%s", sq_signal_name(signum));
}

static void on_wake(uv_async_t *a)
{
    sq_run_drain_probe(a->data);
}

static void log_failed(void *arg)
{
    struct run *r = arg;
    const struct sq_err *e = sq_evlog_error(r->log);
    if (e)
        sq_run_end(r, "infrastructure", NULL, "%s", e->msg);
}

/* ---- the folder and the log ---- */

static int no_folder(const char *path, struct sq_err *e)
{
    int rc = sq_err_sys(e, -errno, "cannot make the folder %s", path);
    sq_err_hint(e, "--out DIR says where a run is kept");
    return rc;
}

static int make_dirs(const char *path, struct sq_err *e)
{
    char p[PATH_MAX];
    if ((size_t)snprintf(p, sizeof(p), "%s", path) >= sizeof(p))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the path of the run's folder is too long: %s", path);
    for (char *s = p + 1; *s; s++) {
        if (*s != '/')
            continue;
        *s = '\0';
        if (mkdir(p, 0755) && errno != EEXIST)
            return no_folder(p, e);
        *s = '/';
    }
    return mkdir(p, 0755) && errno != EEXIST ? no_folder(p, e) : 0;
}

static void run_id(struct run *r, const char *name)
{
    char stamp[32], safe[64];
    time_t now = (time_t)(sq_wall_ns() / SQ_S);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm);
    size_t n = 0;
    for (; n < sizeof(safe) - 1 && name[n]; n++) {
        char c = name[n];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                  (c == '.' && n);
        safe[n] = ok ? c : '-';
    }
    safe[n] = '\0';
    snprintf(r->res->id, sizeof(r->res->id), "%s-%s-%04x", stamp, safe, (unsigned)(sq_rng_entropy() & 0xffff));
}

static int open_log(struct run *r, struct sq_err *e)
{
    const json_t *meta = json_object_get(r->o->scenario, "metadata");
    const char *name = sq_json_str_or(meta, "name", "run");
    char host[256] = "", iso[40];
    run_id(r, name);
    int n = r->o->out ? snprintf(r->res->dir, sizeof(r->res->dir), "%s", r->o->out)
                      : snprintf(r->res->dir, sizeof(r->res->dir), "squall-runs/%s", r->res->id);
    if (n < 0 || (size_t)n >= sizeof(r->res->dir))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the path of the run's folder is too long");
    int rc = make_dirs(r->res->dir, e);
    if (rc)
        return rc;
    r->start_ns = sq_mono_ns();
    rc = sq_evlog_open(&r->loop, r->res->dir, r->start_ns, &r->log, e);
    if (rc)
        return rc;
    gethostname(host, sizeof(host) - 1);
    json_t *rec =
        json_pack("{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:I, s:s, s:O}", "v", 1, "id", r->res->id, "name", name, "start",
                  sq_wall_iso(iso, sizeof(iso)), "start_mono_ns", (json_int_t)r->start_ns, "squall", SQUALL_VERSION,
                  "host", host, "seed", (json_int_t)r->seed, "file", r->o->file, "scenario", r->o->scenario);
    if (!rec)
        return sq_err(e, -EINVAL, "the run record cannot be made: a name is not UTF-8");
    sq_evlog_put_durable(r->log, "run", r->start_ns, rec);
    sq_evlog_on_error(r->log, log_failed, r);
    if (r->o->approved_by)
        sq_run_log(r, "approval",
                   json_pack("{s:s, s:s, s:s}", "by", r->o->approved_by, "reason", r->o->approved_why, "until",
                             "the end of this run"));
    return 0;
}

/* ---- alerts ---- */

/* What comes from outside must not drive the terminal. */
static void printable(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
}

static void got_alert(void *arg, const char *type, json_t *rec)
{
    struct run *r = arg;
    if (strcmp(type, "alert") == 0) {
        char name[80];
        bool resolved = strcmp(sq_json_str_or(rec, "status", ""), "resolved") == 0;
        snprintf(name, sizeof(name), "%s", sq_json_str_or(rec, "name", ""));
        printable(name);
        sq_progress_event(r->o->progress, resolved ? SQ_TONE_GOOD : SQ_TONE_BAD, sq_run_t(r), "alert %s %s", name,
                          resolved ? "resolved" : "firing");
    }
    sq_run_log(r, type, rec);
}

static int open_alerts(struct run *r, struct sq_err *e)
{
    const char *listen = sq_json_str_or(json_object_get(r->spec, "alerts"), "listen", NULL);
    int rc = listen ? sq_alerts_open(&r->loop, listen, got_alert, r, &r->alerts, e) : 0;
    if (!rc && listen)
        sq_run_log(r, "alerts", json_pack("{s:s, s:s}", "state", "listening", "listen", listen));
    return rc;
}

/* ---- SLOs ---- */

static void got_metric(void *arg, const char *type, json_t *rec)
{
    struct run *r = arg;
    double asked = sq_json_num_or(rec, "asked", -1);
    int64_t at = asked >= 0 ? r->start_ns + (int64_t)(asked * 1e9) : sq_mono_ns();
    json_object_del(rec, "asked");
    if (r->log)
        sq_evlog_put(r->log, type, at, rec); /* what was so when it was asked */
    else
        json_decref(rec);
}

static void stage_slos(struct run *r)
{
    sq_slos_start(r->slos);
    sq_run_next(r);
}

/* ---- other runs ---- */

/* What the checks regression and trend look at must be in the evidence: a verdict is made from nothing else. */
static int log_history(struct run *r, const char *set, const char *path, struct sq_err *e)
{
    cleanup_json json_t *runs = json_array();
    cleanup_json json_t *left_out = json_array();
    const char *window = sq_json_str_or(json_object_get(r->spec, "compare"), "window", NULL);
    if (!path)
        return 0;
    int rc = sq_runs_read(path, window, runs, left_out, e);
    if (rc == 0)
        sq_run_log(r, "history",
                   json_pack("{s:s, s:s, s:O, s:O}", "set", set, "path", path, "runs", runs, "left_out", left_out));
    return rc;
}

static int log_histories(struct run *r, struct sq_err *e)
{
    const json_t *compare = json_object_get(r->spec, "compare");
    const char *candidate = sq_json_str_or(compare, "candidate", NULL);
    int rc = log_history(r, "base", sq_json_str_or(compare, "baseline", NULL), e);
    /* The first run of a build has no earlier ones. */
    return rc || (candidate && access(candidate, F_OK) != 0) ? rc : log_history(r, "now", candidate, e);
}

/* ---- life ---- */

static void start_handles(struct run *r)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    uv_timer_init(&r->loop, &r->timer);
    uv_timer_init(&r->loop, &r->renew);
    uv_timer_init(&r->loop, &r->tick);
    uv_timer_init(&r->loop, &r->limit);
    uv_async_init(&r->loop, &r->wake, on_wake);
    r->timer.data = r->renew.data = r->tick.data = r->limit.data = r->wake.data = r;
    for (size_t i = 0; i < SQ_COUNT(signals); i++) {
        uv_signal_init(&r->loop, &r->sig[i]);
        r->sig[i].data = r;
        uv_signal_start(&r->sig[i], on_signal, signals[i]);
    }
    r->handles_up = true;
    r->lease_ns = sq_json_int_or(json_object_get(r->spec, "safety"), "lease", 10 * SQ_S);
    int64_t limit = sq_json_int_or(json_object_get(r->spec, "safety"), "max_duration", 0);
    if (limit > 0)
        uv_timer_start(&r->limit, on_limit, (uint64_t)(limit / SQ_MS), 0);
    uv_timer_start(&r->renew, on_renew, (uint64_t)(r->lease_ns / 3 / SQ_MS), (uint64_t)(r->lease_ns / 3 / SQ_MS));
    uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
}

static void close_one(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (h->type == UV_TIMER || h->type == UV_SIGNAL || h->type == UV_ASYNC)
        if (!uv_is_closing(h))
            uv_close(h, NULL);
}

static void stop_handles(struct run *r)
{
    if (!r->handles_up)
        return;
    uv_handle_t *all[] = {(uv_handle_t *)&r->timer,  (uv_handle_t *)&r->renew, (uv_handle_t *)&r->tick,
                          (uv_handle_t *)&r->limit,  (uv_handle_t *)&r->wake,  (uv_handle_t *)&r->sig[0],
                          (uv_handle_t *)&r->sig[1], (uv_handle_t *)&r->sig[2]};
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        close_one(all[i], NULL);
}

/* What the private injector said: of interest when something went wrong, or when it is asked for. */
static void drop_log(const struct run *r)
{
    char path[PATH_MAX];
    struct stat st;
    bool well = r->clean && (strcmp(r->reason, "completed") == 0 || strcmp(r->reason, "not_steady") == 0);
    if (r->log_fd < 0 || sq_path_join(path, sizeof(path), r->res->dir, "squalld.log", NULL))
        return;
    if ((fstat(r->log_fd, &st) == 0 && st.st_size == 0) || (well && !r->o->keep_logs))
        (void)unlink(path);
}

/* Everything is said and done, or the person does not want to wait: the last record, and close what is open. */
static void wind_up(struct run *r)
{
    for (size_t i = 0; i < r->n_ready; i++)
        sq_ready_cancel(SQ_TAKE(r->ready[i].check));
    sq_farm_close(SQ_TAKE(r->farm));
    if (r->log) {
        sq_run_phase_end(r, NULL);
        sq_run_log(
            r, "end",
            json_pack("{s:s, s:s, s:b, s:O}", "reason", r->reason, "why", r->why, "clean", r->clean, "left", r->left));
    }
    stop_handles(r);
    sq_alerts_close(SQ_TAKE(r->alerts));
    sq_slos_close(SQ_TAKE(r->slos));
    sq_client_close(SQ_TAKE(r->client), NULL, NULL);
    sq_private_free(SQ_TAKE(r->priv));
    struct sq_err e = {0};
    if (sq_evlog_close(SQ_TAKE(r->log), &e))
        sq_progress_event(r->o->progress, SQ_TONE_BAD, -1, "%s", e.msg);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    uv_loop_close(&r->loop);
}

static void report(struct run *r)
{
    snprintf(r->res->reason, sizeof(r->res->reason), "%s", r->reason);
    snprintf(r->res->why, sizeof(r->res->why), "%s", r->why);
    drop_log(r);
    r->res->clean = r->clean;
    r->res->left = json_incref(r->left);
}

static void destroy(struct run *r)
{
    if (r->log_fd >= 0)
        close(r->log_fd);
    sq_hist_free(r->steady_hist);
    free(r->steady_seen);
    sq_live_free(r->live);
    sq_abort_watch_free(r->watch);
    json_decref(r->left);
    json_decref(r->doctor);
    free(r);
}

int sq_execute(const struct sq_execute_opts *o, struct sq_execute_result *res, struct sq_err *e)
{
    struct run *r = calloc(1, sizeof(*r));
    if (!r)
        return sq_err(e, -ENOMEM, "no memory");
    r->o = o;
    r->res = res;
    r->spec = json_object_get(o->scenario, "spec");
    /* 53 bits at most: JSON readers that know only doubles must see the same number. */
    r->seed = (o->seeded ? o->seed : sq_rng_entropy() >> 11) & INT64_MAX;
    r->log_fd = -1;
    r->clean = true;
    r->left = json_array();
    r->live = sq_live_new();
    r->steady_hist = sq_hist_new();
    int rc = r->left && r->live && r->steady_hist ? 0 : sq_err(e, -ENOMEM, "no memory");
    if (!rc && (rc = uv_loop_init(&r->loop)))
        sq_err(e, rc, "no event loop: %s", uv_strerror(rc));
    if (rc) {
        destroy(r);
        return rc;
    }
    rc = open_log(r, e);
    if (!rc)
        rc = log_histories(r, e);
    if (!rc)
        rc = sq_run_probe_create(r, e);
    if (!rc)
        rc = sq_abort_watch_new(json_object_get(json_object_get(r->spec, "safety"), "abort_when"), &r->watch, e);
    if (!rc)
        rc = open_alerts(r, e);
    if (!rc)
        rc = sq_slos_new(&r->loop, r->spec, r->start_ns, got_metric, r, &r->slos, e);
    if (!rc) {
        start_handles(r);
        sq_run_next(r);
        uv_run(&r->loop, UV_RUN_DEFAULT); /* until finish.c or an impatient signal stops it */
    } else {
        snprintf(r->reason, sizeof(r->reason), "infrastructure");
        snprintf(r->why, sizeof(r->why), "%s", e ? e->msg : "");
    }
    wind_up(r);
    report(r);
    destroy(r);
    return rc;
}
