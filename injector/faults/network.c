#ifndef SQ_SPEC_ONLY

#include "faults/network_priv.h"

#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "net/permit.h"
#include "net/route.h"
#include "runas.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

#define RESOLVE_POLL_MS 100

/* ---- inside the namespace ---- */

struct inside {
    struct sq_fault *f;
    sq_netfault_fn *fn;
    void *arg;
};

static int call_inside(void *arg, struct sq_err *e)
{
    const struct inside *i = arg;

    return i->fn(i->f, i->arg, e);
}

int sq_netfault_inside(struct sq_fault *f, sq_netfault_fn *fn, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    struct inside i = {f, fn, arg};
    int r = sq_netns_find(n->ns_record, &n->ns, e);

    if (r < 0)
        return r;
    r = sq_netns_call(&n->ns, call_inside, &i, e);
    sq_netns_close(&n->ns);
    return r;
}

/* ---- backends ---- */

static const struct sq_shaper_ops *const backends[] = {&sq_shaper_netem, &sq_shaper_packet};

static const struct sq_shaper_ops *backend_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(backends); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

int sq_netfault_backend_check(struct sq_engine *eng, const char *name, struct sq_err *e)
{
    const struct sq_shaper_ops *b = backend_find(name);
    uint32_t *able = sq_engine_backends(eng);
    uint32_t bit = b == &sq_shaper_netem ? 1 : 2;

    if (!b)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "there is no backend %.32s", name);
    if (*able & bit)
        return 0;
    int r = b->check(eng, e);
    if (r == 0) /* what works does not cease to; what doesn't may (a module is loaded) */
        *able |= bit;
    return r;
}

int sq_netfault_check(struct sq_engine *eng, struct sq_err *e)
{
    struct sq_err a = {0}, b = {0};

    if (sq_netfault_backend_check(eng, "netem", &a) == 0 || sq_netfault_backend_check(eng, "packet", &b) == 0)
        return 0;
    sq_err_cls(e, a.cls, a.code, "netem: %.300s; packet: %.300s", a.msg, b.msg);
    sq_err_hint(e, "%s", a.hint[0] ? a.hint : b.hint);
    return a.code;
}

static int plan_all(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    int r = 0;

    for (size_t i = 0; i < n->n && r == 0; i++)
        r = n->ops->plan(&n->shape[i], arg, e);
    return r;
}

static int try_backend(struct sq_fault *f, const struct sq_shaper_ops *ops, json_t *notes, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    int r = sq_netfault_backend_check(f->engine, ops->name, e);

    n->ops = ops;
    return r < 0 ? r : sq_netfault_inside(f, plan_all, notes, e);
}

/* netem where it can, else our own; and why, for people. What somebody else's configuration forbids netem may still be
 * possible for packet, which leaves the queues alone. */
static int choose_backend(struct sq_fault *f, json_t *notes, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    const char *asked = sq_json_str_or(f->with, "backend", "auto");
    size_t before = json_array_size(notes);
    struct sq_err a = {0}, b = {0};

    if (strcmp(asked, "auto") != 0) {
        (void)snprintf(n->why, sizeof n->why, "asked for");
        const struct sq_shaper_ops *ops = backend_find(asked);
        return ops ? try_backend(f, ops, notes, e)
                   : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "there is no backend %.32s", asked);
    }
    if (try_backend(f, &sq_shaper_netem, notes, &a) == 0) {
        (void)snprintf(n->why, sizeof n->why, "the kernel has it");
        return 0;
    }
    while (json_array_size(notes) > before) /* netem's own; what is spared stays said */
        json_array_remove(notes, json_array_size(notes) - 1);
    if (a.cls != SQ_C_INPUT && a.cls != SQ_C_NOTFOUND && try_backend(f, &sq_shaper_packet, notes, &b) == 0) {
        (void)snprintf(n->why, sizeof n->why, "netem: %.300s", a.msg);
        json_array_append_new(notes, json_sprintf("by the packet backend (%s)", n->why));
        return 0;
    }
    sq_err_cls(e, a.cls, a.code, "%s%s%.300s", a.msg, b.code ? "; packet: " : "", b.msg);
    sq_err_hint(e, "%s", a.hint[0] ? a.hint : b.hint);
    return a.code;
}

/* ---- the interface ---- */

struct where {
    json_t *notes;
    const char *name;
};

static int find_interface(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    const struct where *w = arg;

    if (strcmp(w->name, "auto") == 0) {
        n->ifindex = sq_route_interface(&n->match, e);
        if (n->ifindex < 0)
            return n->ifindex;
    } else {
        n->ifindex = (int)if_nametoindex(w->name);
    }
    if (n->ifindex <= 0 || !if_indextoname((unsigned)n->ifindex, n->ifname))
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENODEV, "there is no network interface \"%.32s\"", w->name);
    if (!sq_json_bool_or(f->target, "spare_control", true))
        return 0;
    return sq_match_spare(&n->match, sq_engine_probe(f->run), w->notes, e);
}

/* ---- from the request to the targets ---- */

struct reading {
    const json_t *with;
    struct sq_impair *im;
    struct sq_err *e;
};

static int read_impair(void *arg)
{
    const struct reading *r = arg;

    return sq_impair_read(r->with, r->im, r->e);
}

static int impair_of(struct sq_fault *f, const json_t *with, struct sq_impair *im, struct sq_err *e)
{
    struct reading r = {with, im, e};

    return sq_run_as(&f->peer, read_impair, &r, e);
}

/* Resolving may take seconds: meanwhile the keeper must see us live. */
static int resolve_names(struct sq_fault *f, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    struct sq_resolving *w = NULL;
    int fd = -1, r;

    if (!sq_match_named(&n->match))
        return 0;
    r = sq_resolving_begin(&n->match, &n->ns, &w, &fd, e);
    while (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        (void)poll(&p, 1, RESOLVE_POLL_MS);
        sq_engine_beat(f->engine);
        r = sq_resolving_end(w, &n->match, NULL, e);
        if (r != -EAGAIN)
            break;
        r = 0;
    }
    sq_resolving_free(w);
    return r;
}

static void make_shapes(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;
    const char *direction = sq_json_str_or(f->target, "direction", "egress");

    for (int ingress = 0; ingress < 2; ingress++) {
        if ((strcmp(direction, "egress") == 0 && ingress) || (strcmp(direction, "ingress") == 0 && !ingress))
            continue;
        struct sq_shape *s = &n->shape[n->n++];
        s->engine = f->engine;
        s->ns = &n->ns;
        s->ifindex = n->ifindex;
        (void)snprintf(s->ifname, sizeof s->ifname, "%s", n->ifname);
        s->ingress = ingress;
        s->insert = strcmp(sq_json_str_or(f->target, "insert", "no"), "classful") == 0;
        s->impair = &n->impair;
        s->match = &n->match;
    }
}

static int fill_hit(struct sq_fault *f, json_t *notes, struct sq_err *e)
{
    const struct sq_netfault *n = f->priv;
    char text[512];

    (void)sq_match_text(&n->match, text, sizeof text);
    for (size_t i = 0; i < n->n; i++) {
        json_t *h = json_pack("{s:s,s:i,s:s,s:s,s:s,s:s}", "interface", n->ifname, "ifindex", n->ifindex, "direction",
                              n->shape[i].ingress ? "ingress" : "egress", "backend", n->ops->name, "why", n->why,
                              "match", text);
        if (!h)
            return sq_err(e, -ENOMEM, "out of memory");
        const char *ns = sq_json_str_or(f->target, "namespace", NULL);
        if (ns)
            json_object_set_new(h, "namespace", json_string(ns));
        if (i == 0 && json_array_size(notes) > 0)
            json_object_set(h, "notes", notes);
        json_array_append_new(f->hit, h);
    }
    return 0;
}

static int resolve_all(struct sq_fault *f, json_t *notes, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    struct where w = {notes, sq_json_str_or(f->target, "interface", "auto")};
    int r = sq_netns_open_for(&f->peer, sq_json_str_or(f->target, "namespace", NULL), &n->ns, e);

    if (r == 0)
        r = impair_of(f, f->with, &n->impair, e);
    if (r == 0)
        r = sq_match_read(f->target, &n->match, e);
    if (r < 0) {
        sq_netns_close(&n->ns);
        return r;
    }
    n->ns_record = sq_netns_record(&n->ns);
    r = n->ns_record ? resolve_names(f, e) : sq_err(e, -ENOMEM, "out of memory");
    sq_netns_close(&n->ns);
    if (r == 0)
        r = sq_match_of(f, &n->match, NULL, notes, e);
    if (r == 0)
        r = sq_netfault_inside(f, find_interface, &w, e);
    if (r < 0)
        return r;
    make_shapes(f);
    r = choose_backend(f, notes, e);
    return r < 0 ? r : fill_hit(f, notes, e);
}

int sq_netfault_resolve(struct sq_fault *f, struct sq_err *e)
{
    cleanup_json json_t *notes = json_array();
    struct sq_netfault *n = calloc(1, sizeof *n);

    f->priv = n;
    if (!n || !notes)
        return sq_err(e, -ENOMEM, "out of memory");
    n->ns.fd = -1;
    return resolve_all(f, notes, e);
}

/* ---- applying ---- */

static int undo_inside(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    int r = 0;

    for (size_t i = 0; i < n->n && r == 0; i++) {
        struct sq_shape *s = &n->shape[i];
        json_t *o = json_pack("{s:s,s:s,s:O,s:i,s:s,s:b}", "backend", n->ops->name, "boot", sq_boot_id(), "netns",
                              n->ns_record, "ifindex", n->ifindex, "interface", n->ifname, "ingress", s->ingress);
        (void)snprintf(s->fault, sizeof s->fault, "%s", f->id);
        r = o ? n->ops->undo(s, o, e) : sq_err(e, -ENOMEM, "out of memory");
        if (r < 0)
            json_decref(o);
        else
            json_array_append_new(arg, o);
    }
    return r;
}

int sq_netfault_undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    const struct sq_netfault *n = f->priv;
    const char *ns = sq_json_str_or(f->target, "namespace", NULL);

    if (ns)
        sq_run_touches(f->run, n->ns_record, ns);
    return sq_netfault_inside(f, undo_inside, records, e);
}

static int apply_inside(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    int r = 0;

    (void)arg;
    for (size_t i = 0; i < n->n && r == 0; i++)
        r = n->ops->apply(&n->shape[i], e);
    return r;
}

int sq_netfault_apply(struct sq_fault *f, struct sq_err *e)
{
    int r = sq_netfault_inside(f, apply_inside, NULL, e);

    return r < 0 ? r : sq_netwatch_begin(f, e);
}

/* ---- reading back ---- */

static int count_inside(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    uint64_t *sum = arg, packets = 0, bytes = 0;
    int r = 0;

    for (size_t i = 0; i < n->n && r == 0; i++) {
        r = n->ops->count(&n->shape[i], &packets, &bytes, e);
        sum[0] += packets;
        sum[1] += bytes;
    }
    return r;
}

static int readback_inside(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    json_t *shapes = json_object_get(arg, "shapes");
    int r = 0;

    for (size_t i = 0; i < n->n && r == 0; i++) {
        json_t *o = json_pack("{s:s}", "direction", n->shape[i].ingress ? "ingress" : "egress");
        r = o ? n->ops->readback(&n->shape[i], o, e) : sq_err(e, -ENOMEM, "out of memory");
        if (r < 0)
            json_decref(o);
        else
            json_array_append_new(shapes, o);
    }
    if (r == 0) {
        const json_t *first = json_object_get(json_array_get(shapes, 0), "impair");
        if (first)
            json_object_update_missing(arg, (json_t *)(uintptr_t)(const void *)first);
    }
    return r;
}

int sq_netfault_readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    const struct sq_netfault *n = f->priv;
    uint64_t sum[2] = {0};
    char text[512];
    cleanup_json json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:[]}", "backend", n->ops->name, "why", n->why, "interface",
                                       n->ifname, "match", sq_match_text(&n->match, text, sizeof text), "shapes");
    int r = o ? sq_netfault_inside(f, readback_inside, o, e) : sq_err(e, -ENOMEM, "out of memory");

    if (r == 0)
        r = sq_netfault_inside(f, count_inside, sum, e);
    if (r < 0)
        return r;
    json_object_set_new(o, "packets", json_integer((json_int_t)sum[0]));
    json_object_set_new(o, "bytes", json_integer((json_int_t)sum[1]));
    *out = SQ_TAKE(o);
    return 0;
}

json_t *sq_netfault_felt(struct sq_fault *f)
{
    uint64_t sum[2] = {0};

    if (sq_netfault_inside(f, count_inside, sum, NULL) < 0)
        return NULL;
    return json_pack("{s:I,s:I}", "packets", (json_int_t)sum[0], "bytes", (json_int_t)sum[1]);
}

/* ---- changing ---- */

int sq_netfault_change_inside(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    int r = 0;

    (void)arg;
    for (size_t i = 0; i < n->n && r == 0; i++)
        r = n->ops->change(&n->shape[i], e);
    return r;
}

int sq_netfault_change(struct sq_fault *f, json_t *with, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    const char *backend = sq_json_str_or(with, "backend", "auto");
    struct sq_impair old = n->impair, new = {0};
    int r = impair_of(f, with, &new, e);

    if (r == 0 && strcmp(backend, "auto") != 0 && strcmp(backend, n->ops->name) != 0)
        r = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the backend of an active fault stays as it is (%s)", n->ops->name);
    if (r < 0) {
        sq_impair_clear(&new);
        return r;
    }
    n->impair = new;
    r = sq_netfault_inside(f, sq_netfault_change_inside, NULL, e);
    if (r < 0) {
        n->impair = old;
        (void)sq_netfault_inside(f, sq_netfault_change_inside, NULL, NULL);
        sq_impair_clear(&new);
        return r;
    }
    sq_impair_clear(&old);
    return 0;
}

/* ---- taking back ---- */

struct taking_back {
    struct sq_engine *eng;
    const json_t *undo;
    int (*fn)(struct sq_engine *eng, const json_t *record, struct sq_err *e);
};

static int take_back_inside(void *arg, struct sq_err *e)
{
    const struct taking_back *t = arg;

    return t->fn(t->eng, t->undo, e);
}

static int by_record(struct sq_engine *eng, const json_t *undo, bool revert, struct sq_err *e)
{
    const struct sq_shaper_ops *ops = backend_find(sq_json_str_or(undo, "backend", ""));
    struct taking_back t = {eng, undo, !ops ? NULL : revert ? ops->revert : ops->gone};
    struct sq_netns ns = {.fd = -1};

    if (!ops)
        return sq_err(e, -ENOSYS, "this squalld does not know the backend of the undo record");
    if (strcmp(sq_json_str_or(undo, "boot", ""), sq_boot_id()) != 0)
        return 0; /* no network outlives a boot */
    struct sq_err why = {0};
    int r = sq_netns_find(json_object_get(undo, "netns"), &ns, &why);
    if (r == -ENOENT)
        return 0; /* what was in it went with it */
    if (r < 0)
        return sq_err_cls(e, why.cls, r, "%s", why.msg);
    r = sq_netns_call(&ns, take_back_inside, &t, e);
    sq_netns_close(&ns);
    return r;
}

int sq_netfault_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    return by_record(eng, undo, true, e);
}

int sq_netfault_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    return by_record(eng, undo, false, e);
}

void sq_netfault_free(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;

    if (!n)
        return;
    sq_netwatch_end(f);
    for (size_t i = 0; i < n->n; i++)
        if (n->ops && n->ops->free)
            n->ops->free(&n->shape[i]);
    sq_impair_clear(&n->impair);
    sq_match_clear(&n->match);
    json_decref(n->ns_record);
    free(n);
    f->priv = NULL;
}

#endif
