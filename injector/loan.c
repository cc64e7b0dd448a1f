/* The faults of a run: a fault is a loan. Its undo records are in the journal before the kernel is touched, and leave
 * it only when what they undo is known to be gone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "undo.h"

static void live_free(struct sq_live *l)
{
    if (!l)
        return;
    if (l->f.ops && l->f.ops->free)
        l->f.ops->free(&l->f);
    for (size_t i = 0; i < l->n_loans; i++)
        json_decref(l->loans[i].undo);
    free(l->loans);
    json_decref(l->f.target);
    json_decref(l->f.with);
    json_decref(l->f.hit);
    json_decref(l->given);
    free(l);
}

static void unlink_live(struct sq_run *run, struct sq_live *l)
{
    for (struct sq_live **p = &run->newest; *p; p = &(*p)->older)
        if (*p == l) {
            *p = l->older;
            return;
        }
}

static void fault_event(struct sq_live *l, const char *state, int64_t at, json_t *more)
{
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:O,s:O,s:O}", "type", "fault", "state", state, "fault", l->f.id, "uses",
                  l->f.spec->name, "step", l->step, "target", l->f.target, "with", l->f.with, "hit", l->f.hit);
    if (!o) {
        json_decref(more);
        return;
    }
    if (at)
        json_object_set_new(o, "at", json_integer(at));
    json_object_update(o, more);
    json_decref(more);
    sq_engine_event(l->f.engine, l->f.run->id, o);
}

/* `restart: after_fault` waits as long as a fault is on the instance. */
static void tell_services(struct sq_live *l, bool on)
{
    size_t i;
    json_t *h;
    if (l->f.spec->target != SQ_T_PROCESS)
        return;
    json_array_foreach(l->f.hit, i, h)
    {
        const char *instance = sq_json_str_or(h, "instance", "");
        if (instance[0] && sq_json_bool_or(h, "chosen", true))
            sq_service_fault(l->f.engine->services, l->f.run->id, instance, on);
    }
}

/* ---- from the request to the targets ---- */

static int find_kind(const char *uses, struct sq_fault *f, struct sq_err *e)
{
    const struct sq_fault_entry *k = sq_fault_kind_find(uses);
    if (k) {
        f->spec = k->spec;
        f->ops = k->ops;
        return 0;
    }
    const char *names[64];
    size_t n = 0, have;
    const struct sq_fault_entry *all = sq_fault_kinds(&have);
    while (n < have && n < SQ_COUNT(names)) {
        names[n] = all[n].spec->name;
        n++;
    }
    const char *near = sq_nearest(uses, names, n);
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "there is no fault kind '%.64s'", uses);
    if (near)
        sq_err_hint(e, "did you mean %s?", near);
    return -EINVAL;
}

static int normalize(struct sq_fault *f, const json_t *target, const json_t *with, struct sq_err *e)
{
    int rc = sq_spec_normalize("target", sq_target_params(f->spec->target), target, &f->target, e);
    return rc < 0 ? rc : sq_spec_normalize(f->spec->name, f->spec->with, with, &f->with, e);
}

/* What this host can do does not change while we live, and finding out is slow: a BPF program is loaded. */
static int check_kind(struct sq_engine *eng, const struct sq_fault_ops *ops, struct sq_err *e)
{
    size_t n, i = 0;
    const struct sq_fault_entry *kinds = sq_fault_kinds(&n);
    while (i < n && kinds[i].ops != ops)
        i++;
    uint64_t bit = UINT64_C(1) << (i % 64);
    if (!ops->check || (eng->able & bit))
        return 0;
    int rc = ops->check(eng, e);
    if (rc == 0)
        eng->able |= bit;
    return rc;
}

/* A fault that is known whom it would hit, and has touched nothing. *out is freed with live_free. */
static int prepare(struct sq_run *run, const struct sq_peer *peer, const json_t *def, struct sq_live **out,
                   struct sq_err *e)
{
    const char *uses = NULL;
    int rc = sq_json_str(def, "uses", &uses, e);
    if (rc < 0)
        return rc;
    struct sq_live *l = calloc(1, sizeof(*l));
    if (!l)
        return sq_err(e, -ENOMEM, "no memory");
    struct sq_fault *f = &l->f;
    f->run = run;
    f->engine = run->eng;
    f->peer = *peer;
    f->hit = json_array();
    const json_t *with = json_object_get(def, "with");
    l->given = with && !json_is_null(with) ? json_deep_copy(with) : json_object();
    const char *step = sq_json_str_or(def, "step", "");
    int cut = snprintf(l->step, sizeof(l->step), "%s", step);
    /* By the number within the run, so that the same seed and scenario choose the same on every injector. */
    sq_rng_seed(&f->rng, run->seed + (run->n_faults + 1) * UINT64_C(0x9e3779b97f4a7c15));
    rc = cut < (int)sizeof(l->step)
             ? 0
             : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a step's name has at most %zu bytes", sizeof(l->step) - 1);
    if (!rc)
        rc = find_kind(uses, f, e);
    if (!rc)
        rc = normalize(f, json_object_get(def, "target"), l->given, e);
    if (!rc)
        rc = check_kind(run->eng, f->ops, e);
    if (!rc && f->ops->resolve)
        rc = f->ops->resolve(f, e);
    if (rc < 0) {
        live_free(l);
        return sq_err_sys(e, rc, "%.64s", uses);
    }
    *out = l;
    return 0;
}

static void add_notes(const struct sq_live *l, json_t *notes)
{
    size_t i;
    const json_t *h;
    json_array_foreach(l->f.hit, i, h) if (json_is_array(json_object_get(h, "notes")))
        json_array_extend(notes, json_object_get(h, "notes"));
    if (l->f.spec->target != SQ_T_EDGE || strcmp(l->f.spec->name, "call/latency") != 0)
        return;
    const char *name = sq_json_str_or(l->f.target, "edge", "");
    const struct sq_edge *edge = sq_edge_find(l->f.engine->intercept, l->f.run->id, name);
    if (edge && !sq_edge_delays_connect(edge))
        json_array_append_new(notes,
                              json_string("the bytes of each answer are delayed, the connect is not: holding back "
                                          "a connect needs CAP_NET_RAW"));
}

int sq_loan_plan(struct sq_run *run, const struct sq_peer *peer, const json_t *def, json_t **answer, struct sq_err *e)
{
    struct sq_live *l = NULL;
    int rc = prepare(run, peer, def, &l, e);
    if (!l)
        return rc;
    cleanup_json json_t *notes = json_array();
    add_notes(l, notes);
    *answer = json_pack("{s:O,s:O}", "hit", l->f.hit, "notes", notes);
    live_free(l);
    return *answer ? 0 : sq_err(e, -ENOMEM, "no memory");
}

/* ---- taking back ---- */

static int end_one(struct sq_live *l, struct sq_loan *loan, struct sq_err *e)
{
    struct sq_engine *eng = l->f.engine;
    int rc = sq_undo(eng, l->f.spec->name, loan->undo, e);
    sq_engine_beat(eng);
    if (rc < 0)
        return sq_err_sys(e, rc, "not taken back");
    rc = sq_journal_release(eng->o.journal, loan->slot, e);
    if (rc < 0)
        return rc;
    loan->held = false;
    return 0;
}

/* Last in, first out. Returns how many records stay; LEFT (may be NULL) says which and why. */
static size_t take_back(struct sq_live *l, json_t *left)
{
    size_t stay = 0;
    for (size_t i = l->n_loans; i-- > 0;) {
        struct sq_err e = {0};
        if (!l->loans[i].held || end_one(l, &l->loans[i], &e) == 0)
            continue;
        stay++;
        if (left)
            json_array_append_new(left, json_sprintf("%s (%s): %s", l->f.id, l->f.spec->name, e.msg));
    }
    return stay;
}

/* Take an active fault back, say so (SAID, may be NULL, gets what the event says), and forget it if nothing of it
 * stays.
 */
static size_t end_live(struct sq_run *run, struct sq_live *l, const char *by, json_t *left, json_t *said)
{
    cleanup_json json_t *mine = json_array();
    json_t *felt = l->f.ops->felt ? l->f.ops->felt(&l->f) : NULL;
    l->active = false;
    int64_t began = sq_mono_ns();
    size_t stay = take_back(l, mine);
    tell_services(l, false);
    json_array_extend(left, mine);
    int64_t now = sq_mono_ns();
    json_t *more = json_pack("{s:s,s:b,s:O,s:I}", "by", by, "clean", stay == 0, "left", mine, "took_ns",
                             (json_int_t)(now - began));
    if (more && felt)
        json_object_update(more, felt);
    json_decref(felt);
    if (said && more) {
        json_object_set_new(said, "reverted_ns", json_integer(now));
        json_object_update(said, more);
    }
    fault_event(l, "reverted", now, more);
    if (stay == 0) {
        unlink_live(run, l);
        live_free(l);
    }
    return stay;
}

unsigned sq_loan_end_all(struct sq_run *run, const char *by, json_t *left)
{
    unsigned n = 0;
    struct sq_live *older;
    for (struct sq_live *l = run->newest; l; l = older) {
        older = l->older;
        if (l->active) {
            n++;
            (void)end_live(run, l, by, left, NULL);
        } else if (take_back(l, left) == 0) {
            unlink_live(run, l);
            live_free(l);
        }
    }
    return n;
}

void sq_loan_retry(struct sq_run *run)
{
    struct sq_live *older;
    for (struct sq_live *l = run->newest; l; l = older) {
        older = l->older;
        if (l->active || take_back(l, NULL) > 0)
            continue;
        fault_event(l, "reverted", sq_mono_ns(), json_pack("{s:s,s:b,s:[]}", "by", "end", "clean", 1, "left"));
        unlink_live(run, l);
        live_free(l);
    }
}

/* ---- applying ---- */

/* All undo records into the journal. On failure none is held: the kernel was not touched for any of them. */
static int hold(struct sq_live *l, struct sq_err *e)
{
    struct sq_fault *f = &l->f;
    cleanup_json json_t *records = json_array();
    int rc = records ? 0 : sq_err(e, -ENOMEM, "no memory");
    if (!rc && f->ops->undo)
        rc = f->ops->undo(f, records, e);
    if (rc < 0)
        return rc;
    l->loans = calloc(json_array_size(records) + 1, sizeof(*l->loans));
    if (!l->loans)
        return sq_err(e, -ENOMEM, "no memory");
    size_t i;
    json_t *undo;
    json_array_foreach(records, i, undo)
    {
        struct sq_loan *loan = &l->loans[l->n_loans];
        cleanup_json json_t *r =
            json_pack("{s:s,s:s,s:s,s:O}", "run", f->run->id, "fault", f->id, "kind", f->spec->name, "undo", undo);
        rc = r ? sq_journal_hold(f->engine->o.journal, r, &loan->slot, e) : sq_err(e, -ENOMEM, "no memory");
        if (rc < 0)
            break;
        loan->undo = json_incref(undo);
        loan->held = true;
        l->n_loans++;
        sq_engine_beat(f->engine);
    }
    while (rc < 0 && l->n_loans > 0) {
        struct sq_loan *loan = &l->loans[--l->n_loans];
        (void)sq_journal_release(f->engine->o.journal, loan->slot, NULL);
        json_decref(loan->undo);
    }
    return rc;
}

static void remember_named(struct sq_live *l)
{
    size_t i;
    json_t *h;
    if (l->f.spec->target != SQ_T_PROCESS)
        return;
    json_array_foreach(l->f.hit, i,
                       h) if (sq_json_bool_or(h, "chosen", true) && json_array_size(l->f.run->named) < 4096)
        json_array_append(l->f.run->named, h);
}

/* Journaled: touch the host, and look whether it is as asked. */
static int put_on(struct sq_live *l, json_t **readback, int64_t *applied, struct sq_err *e)
{
    struct sq_fault *f = &l->f;
    tell_services(l, true);
    int rc = f->ops->apply(f, e);
    *applied = sq_mono_ns();
    sq_engine_beat(f->engine);
    if (!rc && f->ops->readback) {
        rc = f->ops->readback(f, readback, e);
        if (rc < 0)
            sq_err_prefix(e, "applied, but not confirmed by reading it back");
    }
    return rc;
}

/* It failed half way: everything of it goes, or stays with the run and is tried again. */
static void give_up(struct sq_run *run, struct sq_live *l, const struct sq_err *why)
{
    cleanup_json json_t *left = json_array();
    l->active = false;
    size_t stay = take_back(l, left);
    tell_services(l, false);
    fault_event(l, "failed", sq_mono_ns(),
                json_pack("{s:s,s:b,s:O}", "error", why->msg, "clean", stay == 0, "left", left));
    if (stay == 0) {
        live_free(l);
        return;
    }
    l->older = run->newest;
    run->newest = l;
}

static unsigned count(const struct sq_run *run)
{
    unsigned n = 0;
    for (const struct sq_live *l = run->newest; l; l = l->older)
        n++;
    return n;
}

int sq_loan_apply(struct sq_run *run, const struct sq_peer *peer, const json_t *def, json_t **answer, struct sq_err *e)
{
    struct sq_live *l = NULL;
    cleanup_json json_t *readback = NULL;
    int64_t applied = 0;
    if (count(run) >= SQ_FAULTS_MOST)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "the run has %u faults already", SQ_FAULTS_MOST);
    int rc = prepare(run, peer, def, &l, e);
    if (!l)
        return rc;
    snprintf(l->f.id, sizeof(l->f.id), "f%llu", (unsigned long long)++run->eng->n_faults);
    run->n_faults++;
    rc = hold(l, e);
    if (rc < 0) {
        live_free(l);
        return sq_err_sys(e, rc, "%s", run->id);
    }
    remember_named(l);
    rc = put_on(l, &readback, &applied, e);
    if (rc < 0) {
        struct sq_err none = {0};
        sq_err_sys(e ? e : &none, rc, "%s", l->f.spec->name);
        give_up(run, l, e ? e : &none);
        return rc;
    }
    l->active = true;
    l->older = run->newest;
    run->newest = l;
    if (!readback)
        readback = json_object();
    fault_event(l, "applied", applied, json_pack("{s:s,s:O}", "by", "request", "readback", readback));
    *answer = json_pack("{s:s,s:O,s:O,s:I}", "fault", l->f.id, "hit", l->f.hit, "readback", readback, "applied_ns",
                        (json_int_t)applied);
    return *answer ? 0 : sq_err(e, -ENOMEM, "no memory");
}

/* ---- changing and ending on request ---- */

static struct sq_live *find(struct sq_run *run, const char *fault, struct sq_err *e)
{
    for (struct sq_live *l = run->newest; l; l = l->older)
        if (strcmp(l->f.id, fault) == 0)
            return l;
    sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "run %s has no fault %.32s", run->id, fault);
    return NULL;
}

int sq_loan_change(struct sq_run *run, const char *fault, const json_t *def, json_t **answer, struct sq_err *e)
{
    struct sq_live *l = find(run, fault, e);
    json_t *new_with = NULL;
    if (!l)
        return -ENOENT;
    struct sq_fault *f = &l->f;
    if (!l->active)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "fault %s is being taken back", f->id);
    if (!f->ops->change)
        return sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "%s can't be changed while it is active", f->spec->name);
    int rc = sq_json_obj(def, "with", &new_with, e);
    if (rc < 0)
        return rc;
    cleanup_json json_t *given = json_deep_copy(l->given), *with = NULL, *readback = NULL;
    if (!given || json_object_update(given, new_with) < 0)
        return sq_err(e, -ENOMEM, "no memory");
    rc = sq_spec_normalize(f->spec->name, f->spec->with, given, &with, e);
    if (!rc)
        rc = f->ops->change(f, with, e);
    int64_t at = sq_mono_ns();
    if (rc < 0)
        return sq_err_sys(e, rc, "%s", f->id);
    json_decref(f->with);
    f->with = SQ_TAKE(with);
    json_decref(l->given);
    l->given = SQ_TAKE(given);
    rc = f->ops->readback ? f->ops->readback(f, &readback, e) : 0;
    if (rc < 0) {
        sq_err_prefix(e, "changed, but not confirmed by reading it back");
        return rc;
    }
    if (!readback)
        readback = json_object();
    fault_event(l, "changed", at, json_pack("{s:s,s:O}", "by", "request", "readback", readback));
    *answer = json_pack("{s:s,s:O,s:I}", "fault", f->id, "readback", readback, "applied_ns", (json_int_t)at);
    return *answer ? 0 : sq_err(e, -ENOMEM, "no memory");
}

void sq_engine_fault_over(struct sq_fault *f, const char *by)
{
    cleanup_json json_t *answer = NULL;
    (void)sq_loan_end(f->run, f->id, by, &answer, NULL);
}

int sq_loan_end(struct sq_run *run, const char *fault, const char *by, json_t **answer, struct sq_err *e)
{
    struct sq_live *l = find(run, fault, e);
    if (!l)
        return -ENOENT;
    char id[sizeof(l->f.id)];
    memcpy(id, l->f.id, sizeof(id));
    cleanup_json json_t *left = json_array();
    *answer = json_pack("{s:s}", "fault", id);
    (void)end_live(run, l, by, left, *answer);
    return *answer ? 0 : sq_err(e, -ENOMEM, "no memory");
}
