/* Services of all runs: the list of instances, their undo records, and what the API asks. Launching is in
 * service_launch.c, exits and restarts in service_life.c, ending in service_stop.c, `exec` in service_exec.c. */
#include "service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

/* What this process was started with, before main() makes room for many descriptors: what a service gets. Never changed
 * afterwards. */
static struct rlimit inherited[RLIM_NLIMITS];
__attribute__((constructor)) static void remember_limits(void)
{
    for (int k = 0; k < RLIM_NLIMITS; k++)
        if (getrlimit((__rlimit_resource_t)k, &inherited[k]) < 0)
            inherited[k] = (struct rlimit){RLIM_INFINITY, RLIM_INFINITY};
}

int sq_services_new(struct sq_engine *eng, struct sq_services **out, struct sq_err *e)
{
    struct sq_services *s = calloc(1, sizeof *s);
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    s->eng = eng;
    s->loop = sq_engine_loop(eng);
    const char *dir = sq_engine_dir(eng), *base = strrchr(dir, '/');
    (void)snprintf(s->injector, sizeof s->injector, "%s", base ? base + 1 : dir);
    memcpy(s->limits, inherited, sizeof s->limits);
    *out = s;
    return 0;
}

void sq_services_free(struct sq_services *s, void (*done)(void *arg), void *arg)
{
    svc_exec_free(s);
    while (s->all)
        svc_drop(s->all);
    s->freeing = true;
    s->freed = done;
    s->freed_arg = arg;
    if (s->handles)
        return; /* the last closed handle frees it */
    free(s);
    if (done)
        done(arg);
}

/* ---- instances ---- */

struct svc *svc_new(struct sq_services *s, const char *run, const char *service, int index, const struct sq_peer *peer)
{
    struct svc *i = calloc(1, sizeof *i);
    if (!i)
        return NULL;
    i->s = s;
    i->index = index;
    i->peer = *peer;
    i->log = -1;
    i->reaped = true;
    (void)snprintf(i->run, sizeof i->run, "%s", run);
    (void)snprintf(i->service, sizeof i->service, "%s", service);
    (void)snprintf(i->name, sizeof i->name, "%s.%d", i->service, index);
    (void)snprintf(i->tree.mark, sizeof i->tree.mark, "%s/%s@%s", i->run, i->name, s->injector);
    struct svc **end = &s->all;
    while (*end)
        end = &(*end)->next;
    *end = i;
    return i;
}

void svc_drop(struct svc *i)
{
    for (struct svc **p = &i->s->all; *p; p = &(*p)->next)
        if (*p == i) {
            *p = i->next;
            break;
        }
    watch_end(&i->chan);
    watch_end(&i->limit);
    watch_end(&i->exit);
    watch_end(&i->again);
    svc_output_end(i, true);
    svc_lines_end(i);
    free(i->arming.filter);
    svc_def_unref(i->def);
    free(i);
}

void svc_event(const struct svc *i, const char *state, json_t *more)
{
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:i}", "type", "service", "state", state, "service", i->service, "instance",
                          i->name, "pid", (int)i->tree.pid);
    if (o && more)
        json_object_update(o, more);
    json_decref(more);
    if (o)
        sq_engine_event(i->s->eng, i->run, o);
}

int svc_record(struct svc *i, struct sq_err *e)
{
    const struct sq_tree *t = &i->tree;
    json_t *undo = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:I,s:i}", "boot", sq_boot_id(), "injector", i->s->injector,
                             "run", i->run, "instance", i->name, "mark", t->mark, "pid", (int)t->pid, "start",
                             (json_int_t)t->start, "sid", (int)t->sid);
    if (undo)
        json_object_set_new(undo, "cgroup", t->cgroup[0] ? json_string(t->cgroup) : json_null());
    if (undo && i->is_exec) {
        json_object_set_new(undo, "exec", json_true());
        json_object_set_new(undo, "home", json_string(i->home));
    }
    cleanup_json json_t *rec =
        json_pack("{s:s,s:s,s:s,s:o}", "run", i->run, "service", i->name, "kind", "service", "undo", undo);
    if (!undo || !rec)
        return sq_err(e, -ENOMEM, "out of memory");
    struct sq_journal *j = sq_engine_journal(i->s->eng);
    int r = i->held ? sq_journal_update(j, i->slot, rec, e) : sq_journal_hold(j, rec, &i->slot, e);
    i->held |= r == 0;
    return r;
}

void svc_disarm(struct svc *i)
{
    if (i->armed)
        sq_intercept_disarm(sq_engine_intercept(i->s->eng), i->run, i->name);
    i->armed = false;
}

int svc_retire(struct svc *i, struct sq_err *e)
{
    if (i->exit && !i->has_exit)
        svc_exited(i);
    svc_disarm(i);
    int r = i->tree.cgroup[0] ? sq_cgroup_remove(i->tree.cgroup, e) : 0;
    if (r < 0)
        return r;
    svc_reap(i);
    if (i->held)
        r = sq_journal_release(sq_engine_journal(i->s->eng), i->slot, e);
    if (r < 0)
        return r;
    i->held = false;
    svc_drop(i);
    return 0;
}

/* ---- start ---- */

struct start {
    struct sq_services *s;
    struct svc_def *def;
    char run[SVC_RUN];
    size_t pending;
    struct sq_err err;
    struct watch *soon;
    bool probe;
    sq_service_done *done;
    void *arg;
};

static bool of(const struct svc *i, const char *run, const char *service)
{
    return strcmp(i->run, run) == 0 && (!service || strcmp(i->service, service) == 0);
}

static void start_answer(void *p)
{
    struct start *st = p;
    json_t *answer = NULL;
    watch_end(&st->soon);
    if (!st->err.code) {
        json_t *list = json_array();
        for (const struct svc *i = st->s->all; i; i = i->next)
            if (of(i, st->run, st->def->name))
                json_array_append_new(list, json_pack("{s:s,s:i,s:s?}", "name", i->name, "pid", (int)i->tree.pid,
                                                      "cgroup", i->tree.cgroup[0] ? i->tree.cgroup : NULL));
        answer = json_pack("{s:o}", "instances", list);
    }
    st->done(st->arg, answer, st->err.code ? &st->err : NULL);
    svc_def_unref(st->def);
    free(st);
}

static void start_undone(void *p, json_t *answer, const struct sq_err *e)
{
    (void)e;
    json_decref(answer);
    start_answer(p);
}

/* Never from within sq_service_start: the caller is not ready for its answer there. */
static void start_settled(void *p)
{
    struct start *st = p;
    watch_end(&st->soon);
    if (st->err.code && st->def)
        sq_service_stop(st->s, st->run, st->def->name, 0, start_undone, st);
    else
        start_answer(st);
}

static void start_one_done(struct svc *i, const struct sq_err *e)
{
    struct start *st = i->launched_arg;
    if (e->code && !st->err.code)
        st->err = *e;
    if (!e->code)
        svc_event(i, "started", NULL);
    if (--st->pending == 0)
        st->soon = watch_timer(st->s, 0, 0, start_settled, st);
}

/* Nothing of ours is there under this name: only the answer is due. */
static void start_refused(struct start *st)
{
    svc_def_unref(st->def);
    st->def = NULL;
    st->soon = watch_timer(st->s, 0, 0, start_settled, st);
}

static int start_all(struct start *st, const struct sq_peer *peer)
{
    for (const struct svc *i = st->s->all; i; i = i->next)
        if (of(i, st->run, st->def->name))
            return sq_err_cls(&st->err, SQ_C_CONFLICT, -EEXIST, "this run has a service \"%s\" already", st->def->name);
    st->pending = st->def->instances + 1; /* ours, so that none settles it while others are still being started */
    for (size_t k = 0; k < st->def->instances; k++) {
        struct svc *i = st->err.code ? NULL : svc_new(st->s, st->run, st->def->name, (int)k, peer);
        int r = i ? 0 : sq_err(&st->err, -ENOMEM, "out of memory");
        if (i) {
            i->def = st->def;
            st->def->refs++;
            i->launched_arg = st;
            r = st->probe && svc_lines_begin(i) < 0 ? sq_err(&st->err, -ENOMEM, "out of memory")
                                                    : svc_launch(i, start_one_done, &st->err);
        }
        if (r < 0)
            st->pending--;
    }
    if (--st->pending == 0)
        st->soon = watch_timer(st->s, 0, 0, start_settled, st);
    return 0;
}

void svc_start(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def, bool probe,
               sq_service_done *done, void *arg)
{
    struct start *st = calloc(1, sizeof *st);
    if (!st) {
        struct sq_err e = {0};
        sq_err(&e, -ENOMEM, "out of memory");
        done(arg, NULL, &e);
        return;
    }
    st->s = s;
    st->probe = probe;
    st->done = done;
    st->arg = arg;
    (void)snprintf(st->run, sizeof st->run, "%s", sq_run_id(run));
    if (svc_def_parse(def, &st->def, &st->err) < 0 || start_all(st, peer) < 0)
        start_refused(st);
}

void sq_service_start(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def,
                      sq_service_done *done, void *arg)
{
    svc_start(s, run, peer, def, false, done, arg);
}

/* ---- questions ---- */

static const char *state_of(const struct svc *i)
{
    struct sq_proc p;
    bool frozen = false;
    if (i->state == SVC_EXITED)
        return "exited";
    if (i->tree.cgroup[0] && sq_cgroup_frozen(i->tree.cgroup, &frozen, NULL) == 0 && frozen)
        return "stopped";
    return sq_proc_read(i->tree.pid, &p, NULL) == 0 && p.start == i->tree.start && p.state == 'T' ? "stopped"
                                                                                                  : "running";
}

json_t *sq_service_list(struct sq_services *s, const char *run_id)
{
    json_t *list = json_array();
    for (const struct svc *i = s->all; i; i = i->next) {
        if (!of(i, run_id, NULL))
            continue;
        json_t *o = json_pack("{s:s,s:s,s:i,s:s,s:i}", "name", i->name, "service", i->service, "pid", (int)i->tree.pid,
                              "state", state_of(i), "restarts", i->restarts);
        json_object_set_new(o, "exit", i->has_exit && !i->exit_signal ? json_integer(i->exit_code) : json_null());
        if (i->exit_signal)
            json_object_set_new(o, "signal", json_integer(i->exit_signal));
        json_array_append_new(list, o);
    }
    return json_pack("{s:o}", "instances", list);
}

int sq_service_each(struct sq_services *s, const char *run_id, const char *service,
                    int (*fn)(const char *instance, pid_t pid, uint64_t start, const char *cgroup, void *arg),
                    void *arg)
{
    int r = 0;
    for (struct svc *i = s->all, *next; i && r == 0; i = next) {
        next = i->next;
        if (of(i, run_id, service) && i->state == SVC_RUNNING)
            r = fn(i->name, i->tree.pid, i->tree.start, i->tree.cgroup[0] ? i->tree.cgroup : NULL, arg);
    }
    return r;
}

void sq_service_fault(struct sq_services *s, const char *run_id, const char *instance, bool on)
{
    for (struct svc *i = s->all; i; i = i->next)
        if (of(i, run_id, NULL) && strcmp(i->name, instance) == 0) {
            svc_fault(i, on);
            return;
        }
}
