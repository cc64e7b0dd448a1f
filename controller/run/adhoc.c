#include "run/adhoc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "run/evlog.h"
#include "run/farm.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/rng.h"
#include "squall/units.h"
#include "squall/version.h"
#include "verify/evidence.h"
#include "verify/verdict.h"

#define TICK_MS 100
#define GRACE SQ_S /* after a signal */
#define LIVE_SECONDS 3
#define LEASE (10 * SQ_S) /* of other hosts' probes */
#define HURRY (2 * SQ_S)  /* after a second signal, for other hosts to say that they ended */

struct job {
    const struct sq_adhoc_opts *o;
    struct sq_adhoc *a;
    const json_t *spec;
    json_t *load;
    struct sq_farm *farm;
    struct sq_evlog *log;
    uv_loop_t loop;
    uv_timer_t tick, end;
    uv_signal_t sig[3];
    /* start_ns: second 0 of the record; begin_ns: 0, or when the first request is planned; stopped_ns: 0, or when
     * planning ended */
    int64_t start_ns, begin_ns, total_ns, stopped_ns, give_up_ns;
    unsigned signals;
    bool broken; /* the log could not be written */
    struct sq_err lost;
};

/* --- sums --- */

static void add_counts(json_t *into, const json_t *from)
{
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)from, name, v)
    {
        (void)json_object_set_new(into, name, json_integer(sq_json_int_or(into, name, 0) + json_integer_value(v)));
    }
}

static uint64_t count_of(const json_t *o, const char *key)
{
    int64_t n = sq_json_int_or(o, key, 0);

    return n > 0 ? (uint64_t)n : 0;
}

static int add_sample(struct sq_adhoc_sums *s, const json_t *sample, struct sq_err *e)
{
    const json_t *bad = json_object_get(sample, "bad");
    const char *why;
    json_t *v;
    int rc;

    s->planned += count_of(sample, "planned");
    s->sent += count_of(sample, "sent");
    s->ok += count_of(sample, "ok");
    s->late += count_of(sample, "late");
    s->lag_late += count_of(sample, "lag_late");
    s->reconnects += count_of(sample, "reconnects");
    s->bytes += count_of(sample, "bytes");
    json_object_foreach((json_t *)(uintptr_t)bad, why, v)
    {
        s->bad_n += (uint64_t)json_integer_value(v);
    }
    add_counts(s->bad, bad);
    add_counts(s->status, json_object_get(sample, "status"));
    if ((rc = sq_hist_add_json(s->h, json_object_get(sample, "h"), e)) < 0 ||
        (rc = sq_hist_add_json(s->hs, json_object_get(sample, "hs"), e)) < 0)
        return rc;
    return sq_hist_add_json(s->hok, json_object_get(sample, "hok"), e);
}

static void put(const struct job *j, const char *type, int64_t at, json_t *rec)
{
    if (j->log)
        sq_evlog_put(j->log, type, at, rec);
    else
        json_decref(rec);
}

static json_t *phase_record(const char *state)
{
    return json_pack("{s:s,s:s,s:s}", "phase", "wait", "state", state, "step", SQ_ADHOC_STEP);
}

static void drain(struct job *j)
{
    json_t *s;

    while ((s = sq_farm_next(j->farm))) {
        (void)add_sample(&j->a->sums, s, NULL); /* ours: never damaged */
        if (j->o->second)
            j->o->second(j->o->arg, s);
        (void)json_object_del(s, "type");
        put(j, "sample", sq_mono_ns(), s);
    }
}

/* --- the loop --- */

static void stop(struct job *j, int64_t grace_ns)
{
    if (!j->stopped_ns)
        j->stopped_ns = sq_mono_ns();
    sq_farm_stop(j->farm, grace_ns);
}

static void on_end(uv_timer_t *t)
{
    stop(t->data, -1);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct job *j = s->data;

    (void)signum;
    j->a->interrupted = j->a->interrupted || !j->stopped_ns;
    if (j->signals > 0)
        j->give_up_ns = sq_mono_ns() + HURRY;
    stop(j, j->signals++ == 0 ? GRACE : 0);
}

static void on_tick(uv_timer_t *t)
{
    struct job *j = t->data;
    struct sq_adhoc_view v = {.total_ns = j->total_ns, .ending = j->stopped_ns != 0};
    bool done = sq_farm_done(j->farm); /* before the last look: nothing comes after it */

    drain(j);
    v.elapsed_ns = j->begin_ns ? (j->stopped_ns ? j->stopped_ns : sq_mono_ns()) - j->begin_ns : -1;
    v.elapsed_ns = v.elapsed_ns > j->total_ns ? j->total_ns : v.elapsed_ns;
    (void)sq_farm_window(j->farm, LIVE_SECONDS, &v.last);
    sq_farm_live(j->farm, &v.live);
    if (j->o->tick)
        j->o->tick(j->o->arg, &v);
    if (j->log && sq_evlog_error(j->log) && !j->broken) {
        j->broken = true;
        stop(j, 0);
    }
    if (done || (j->give_up_ns && sq_mono_ns() > j->give_up_ns))
        uv_stop(&j->loop);
}

static void open_handles(struct job *j)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    (void)uv_timer_init(&j->loop, &j->tick);
    (void)uv_timer_init(&j->loop, &j->end);
    j->tick.data = j->end.data = j;
    (void)uv_timer_start(&j->tick, on_tick, TICK_MS, TICK_MS);
    for (size_t i = 0; i < SQ_COUNT(signals); i++) {
        (void)uv_signal_init(&j->loop, &j->sig[i]);
        j->sig[i].data = j;
        (void)uv_signal_start(&j->sig[i], on_signal, signals[i]);
    }
}

static void close_handles(struct job *j)
{
    uv_close((uv_handle_t *)&j->tick, NULL);
    uv_close((uv_handle_t *)&j->end, NULL);
    for (size_t i = 0; i < SQ_COUNT(j->sig); i++)
        uv_close((uv_handle_t *)&j->sig[i], NULL);
}

/* --- what is sent --- */

/* The load with its end in the schedule itself, so that exactly what belongs to the time is sent. */
static json_t *with_end(const json_t *load, int64_t total_ns)
{
    json_t *out = json_deep_copy(load), *ep;
    const char *name;

    json_object_foreach(out, name, ep)
    {
        const char *executor = sq_json_str_or(ep, "executor", "");
        json_t *stages = json_object_get(ep, "stages");

        if (strcmp(executor, "constant-arrival-rate") == 0) {
            double rate = sq_json_num_or(ep, "rate", 0);

            (void)json_object_set_new(ep, "executor", json_string("ramping-arrival-rate"));
            (void)json_object_set_new(ep, "start", json_real(rate));
            (void)json_object_set_new(
                ep, "stages",
                json_pack("[{s:I,s:f},{s:i,s:i}]", "for", (json_int_t)total_ns, "to", rate, "for", 0, "to", 0));
        } else if (strcmp(executor, "ramping-arrival-rate") == 0) {
            (void)json_array_append_new(stages, json_pack("{s:i,s:i}", "for", 0, "to", 0));
        }
    }
    return out;
}

static void make_id(struct job *j)
{
    char stamp[32] = "";
    time_t now = (time_t)(sq_wall_ns() / SQ_S);
    struct tm tm;

    if (localtime_r(&now, &tm))
        (void)strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    (void)snprintf(j->a->id, sizeof j->a->id, "%s-%.63s-%04x", stamp,
                   sq_json_str_or(json_object_get(j->o->scenario, "metadata"), "name", "probe"),
                   (unsigned)(sq_rng_entropy() & 0xffff));
}

static void put_phase(struct job *j, const char *state, int64_t at)
{
    put(j, "phase", at, phase_record(state));
}

/* Every host that sends has begun, or will at that moment. */
static void begun(void *arg)
{
    struct job *j = arg;
    int64_t left;

    j->begin_ns = sq_farm_begin_ns(j->farm);
    left = j->begin_ns + j->total_ns - sq_mono_ns();
    if (sq_farm_remote(j->farm))
        put_phase(j, "begin", j->begin_ns);
    else
        j->start_ns = j->begin_ns;
    uv_update_time(&j->loop); /* whole milliseconds, rounded down: a timer of its may come one early */
    (void)uv_timer_start(&j->end, on_end, left > 0 ? (uint64_t)(left / SQ_MS + 2) : 0, 0);
}

static void lost(void *arg, const char *error)
{
    struct job *j = arg;

    if (!j->lost.code)
        (void)sq_err_cls(&j->lost, SQ_C_UNSUPPORTED, -EIO, "%s", error);
    stop(j, 0);
}

static void told(void *arg, const char *type, json_t *rec)
{
    put(arg, type, sq_mono_ns(), rec);
}

static void nothing(void *arg)
{
    (void)arg; /* every tick looks for samples */
}

static int make_farm(struct job *j, struct sq_err *e)
{
    struct sq_farm_opts o = {.loop = &j->loop,
                             .hosts = json_object_get(j->spec, "hosts"),
                             .opt = {.load = j->load,
                                     .lateness = json_object_get(j->spec, "lateness"),
                                     .run_id = j->a->id,
                                     .seed = j->o->seed,
                                     .window_s = LIVE_SECONDS + 1,
                                     .wake = nothing},
                             .lease_ns = LEASE,
                             .failed = lost,
                             .log = told,
                             .arg = j};

    j->load = with_end(json_object_get(j->spec, "load"), j->total_ns);
    if (!j->load)
        return sq_err(e, -ENOMEM, "no memory");
    o.opt.load = j->load;
    return sq_farm_new(&o, &j->farm, e);
}

/* --- the record --- */

static json_t *run_record(const struct job *j)
{
    char host[256] = "", iso[40];

    (void)gethostname(host, sizeof host - 1);
    return json_pack("{s:i,s:s,s:s,s:s,s:I,s:s,s:s,s:I,s:s,s:O}", "v", 1, "id", j->a->id, "name",
                     sq_json_str_or(json_object_get(j->o->scenario, "metadata"), "name", "probe"), "start",
                     sq_wall_iso_at(sq_wall_ns() - (sq_mono_ns() - j->start_ns), iso, sizeof iso), "start_mono_ns",
                     (json_int_t)j->start_ns, "squall", SQUALL_VERSION, "host", host, "seed", (json_int_t)j->o->seed,
                     "file", j->o->file, "scenario", j->o->scenario);
}

static json_t *end_record(const struct sq_adhoc *a)
{
    return json_pack("{s:s,s:s,s:b,s:[]}", "reason", a->interrupted ? "aborted" : "completed", "why",
                     a->interrupted ? "a signal ended it early" : "the load was sent", "clean", 1, "left");
}

static int make_dirs(const char *path, struct sq_err *e)
{
    cleanup_free char *p = strdup(path);

    for (char *s = p ? p + 1 : NULL; s && *s; s++) {
        if (*s != '/')
            continue;
        *s = '\0';
        if (mkdir(p, 0755) < 0 && errno != EEXIST)
            return sq_err_sys(e, -errno, "cannot make the folder %s", p);
        *s = '/';
    }
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return sq_err_sys(e, -errno, "cannot make the folder %s", path);
    if (faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) < 0)
        return sq_err_sys(e, -errno, "cannot write in %s", path);
    return 0;
}

/* Whatever is wrong with the folder is said before anything is sent. */
static int check_out(const char *dir, struct sq_err *e)
{
    char path[PATH_MAX];
    int rc = make_dirs(dir, e);

    if (rc < 0 || (rc = sq_path_join(path, sizeof path, dir, "evidence.jsonl", e)) < 0)
        return rc;
    if (access(path, F_OK) == 0) {
        (void)sq_err_cls(e, SQ_C_INPUT, -EEXIST, "%s has the evidence of a run already", dir);
        sq_err_hint(e, "name another folder: evidence is never written over");
        return -EEXIST;
    }
    return 0;
}

static int open_log(struct job *j, struct sq_err *e)
{
    json_t *rec;
    int rc;

    if (!j->o->out)
        return 0;
    if ((rc = sq_evlog_open(&j->loop, j->o->out, j->start_ns, &j->log, e)) < 0)
        return rc;
    rec = run_record(j);
    if (!rec)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "what was asked for is not UTF-8");
    put(j, "run", j->start_ns, rec);
    return 0;
}

/* Whole seconds are judged: when the load ends early, those that are over. */
static int64_t judged_ns(const struct sq_adhoc *a)
{
    return a->ran_ns / SQ_S * SQ_S;
}

static void close_log(struct job *j)
{
    const json_t *rec;
    size_t i;

    if (!j->log)
        return;
    put_phase(j, "end", j->begin_ns + judged_ns(j->a));
    json_array_foreach(j->a->ends, i, rec)
    {
        json_t *copy = json_copy((json_t *)(uintptr_t)rec);

        (void)json_object_del(copy, "type");
        put(j, "probe", sq_mono_ns(), copy);
    }
    put(j, "end", sq_mono_ns(), end_record(j->a));
}

/* --- the verdict --- */

static void line(json_t *rec, const char *type, double t, char **text, size_t *len)
{
    cleanup_json json_t *own = rec;
    cleanup_free char *one = NULL;
    char *more;
    size_t n;

    (void)json_object_set_new(own, "type", json_string(type));
    (void)json_object_set_new(own, "t", json_real(t));
    if (!own || !*text || !(one = json_dumps(own, JSON_COMPACT)))
        return;
    n = strlen(one);
    if (!(more = realloc(*text, *len + n + 2)))
        return;
    memcpy(more + *len, one, n);
    memcpy(more + *len + n, "\n", 2);
    *text = more;
    *len += n + 1;
}

static json_t *merged(const struct sq_adhoc_sums *s, const char *endpoint)
{
    return json_pack("{s:i,s:s,s:I,s:I,s:I,s:O,s:O,s:I,s:I,s:o,s:o,s:o}", "sec", 0, "endpoint", endpoint, "planned",
                     (json_int_t)s->planned, "sent", (json_int_t)s->sent, "ok", (json_int_t)s->ok, "bad", s->bad,
                     "status", s->status, "late", (json_int_t)s->late, "lag_late", (json_int_t)s->lag_late, "h",
                     sq_hist_to_json(s->h), "hs", sq_hist_to_json(s->hs), "hok", sq_hist_to_json(s->hok));
}

/* The checks see all seconds as one: their sums are the same, and no second has to be kept. (Of a load that was cut
 * short the last, broken second counts too.) */
static int judge(struct job *j, struct sq_err *e)
{
    struct sq_adhoc *a = j->a;
    const char *endpoint = json_object_iter_key(json_object_iter(json_object_get(j->spec, "load")));
    cleanup_free char *text = strdup("");
    struct sq_evidence *ev = NULL;
    double to = (double)judged_ns(a) / 1e9;
    size_t len = 0, i;
    const json_t *rec;
    int rc;

    line(run_record(j), "run", 0, &text, &len);
    line(phase_record("begin"), "phase", 0, &text, &len);
    line(merged(&a->sums, endpoint), "sample", 0, &text, &len);
    line(phase_record("end"), "phase", to, &text, &len);
    json_array_foreach(a->ends, i, rec)
    {
        line(json_copy((json_t *)(uintptr_t)rec), "probe", to, &text, &len);
    }
    line(end_record(a), "end", to, &text, &len);
    rc = text ? sq_evidence_parse(text, len, &ev, e) : sq_err(e, -ENOMEM, "no memory");
    if (rc == 0)
        rc = sq_verify(ev, &a->verdict, e);
    sq_evidence_free(ev);
    return rc;
}

/* --- life --- */

/* A load of this process alone begins at second 0 of its record, which is then a whole one. Other hosts are told of
 * second 0 first, and need a moment. */
static int begin(struct job *j, struct sq_err *e)
{
    int rc;

    if (sq_farm_remote(j->farm)) {
        j->start_ns = sq_mono_ns();
        rc = open_log(j, e);
        return rc < 0 ? rc : sq_farm_start(j->farm, j->start_ns, begun, e);
    }
    /* A zero that lies ahead is moved to the very start. */
    if ((rc = sq_farm_start(j->farm, INT64_MAX, begun, e)) == 0 && (rc = open_log(j, e)) == 0)
        put_phase(j, "begin", j->begin_ns);
    return rc;
}

static int go(struct job *j, struct sq_err *e)
{
    struct sq_adhoc *a = j->a;
    int rc = begin(j, e);

    if (rc == 0) {
        (void)uv_run(&j->loop, UV_RUN_DEFAULT);
        drain(j);
    }
    if (rc == 0 && (!j->begin_ns || j->lost.code)) {
        if (!j->lost.code)
            (void)sq_err_cls(&j->lost, SQ_C_INTERNAL, -ECANCELED, "interrupted before the load began");
        *e = j->lost;
        rc = j->lost.code;
    }
    if (rc < 0)
        return rc;
    a->ends = sq_farm_end(j->farm);
    a->left = sq_farm_left(j->farm);
    a->ran_ns = j->stopped_ns - j->begin_ns;
    a->ran_ns = a->ran_ns > j->total_ns ? j->total_ns : a->ran_ns < 0 ? 0 : a->ran_ns;
    close_log(j);
    return judge(j, e);
}

int sq_adhoc_run(const struct sq_adhoc_opts *o, struct sq_adhoc **out, struct sq_err *e)
{
    struct sq_adhoc *a = calloc(1, sizeof *a);
    struct job j = {.o = o, .a = a, .spec = json_object_get(o->scenario, "spec")};
    struct sq_err closing = {0};
    int rc = a ? 0 : sq_err(e, -ENOMEM, "no memory");

    if (rc < 0)
        return rc;
    a->sums = (struct sq_adhoc_sums){
        .h = sq_hist_new(), .hs = sq_hist_new(), .hok = sq_hist_new(), .bad = json_object(), .status = json_object()};
    j.total_ns = sq_json_int_or(json_array_get(json_object_get(j.spec, "steps"), 0), "wait", 0);
    make_id(&j);
    if (!a->sums.h || !a->sums.hs || !a->sums.hok || !a->sums.bad || !a->sums.status)
        rc = sq_err(e, -ENOMEM, "no memory");
    else if (!o->out || (rc = check_out(o->out, e)) == 0)
        rc = uv_loop_init(&j.loop) == 0 ? 0 : sq_err(e, -ENOMEM, "no event loop");
    if (rc == 0) {
        open_handles(&j);
        rc = make_farm(&j, e);
        rc = rc < 0 ? rc : go(&j, e);
        close_handles(&j);
        if (j.log && sq_evlog_close(j.log, &closing) < 0 && rc == 0) {
            rc = closing.code;
            if (e)
                *e = closing;
        }
        sq_farm_close(j.farm);
        (void)uv_run(&j.loop, UV_RUN_DEFAULT);
        (void)uv_loop_close(&j.loop);
        json_decref(j.load);
    }
    if (rc < 0)
        sq_adhoc_free(a);
    else
        *out = a;
    return rc;
}

void sq_adhoc_free(struct sq_adhoc *a)
{
    if (!a)
        return;
    sq_hist_free(a->sums.h);
    sq_hist_free(a->sums.hs);
    sq_hist_free(a->sums.hok);
    json_decref(a->sums.bad);
    json_decref(a->sums.status);
    json_decref(a->ends);
    json_decref(a->left);
    json_decref(a->verdict);
    free(a);
}
