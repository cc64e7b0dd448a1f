/* The backend that is the kernel's: HTB with one netem a fault (net/tree.h says how it looks), chosen by a BPF
 * classifier. What came in passes an ifb with the same tree.
 *
 * Several Squalls may share a device: each has a slot of its own, found when its first fault comes, and whoever takes
 * the last class of all back removes the tree. The kernel alone says who is still there, so that keeper and sweep, who
 * have only records, do the same. A namespace is locked while its configuration is changed. */
#include "net/shaper.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "net/classifier.h"
/* after what it is made of */
#include "classid.skel.h"
#include "net/lock.h"
#include "net/netem.h"
#include "net/netem_load.h"
#include "net/tree.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define LOCK_MS 2000
#define LOCK_UNDO_MS 1000 /* squalld's heart may stand still for two seconds */

/* The classifier of one device and direction. */
struct device {
    struct device *next;
    uint64_t cookie;
    int ifindex;
    bool ingress;
    uint32_t root; /* handle of the qdisc that our classes hang below */
    unsigned slot;
    uint16_t pref; /* of our filter there */
    unsigned users;
    struct classid *skel;
    struct sq_classifier *classifier;
};

struct priv {
    struct device *dev;
    int bit;
    bool clsact; /* we shall make it */
};

static struct device **devices(struct sq_engine *eng)
{
    return (struct device **)sq_engine_netem(eng);
}

static bool foreign(const struct device *d)
{
    return d->root != SQ_TREE_HANDLE;
}

static uint32_t classid_of(const struct device *d, int bit)
{
    return d->root | (foreign(d) ? SQ_TREE_FOREIGN : 0) | sq_tree_minor(d->slot, (unsigned)bit);
}

static void filter_name(char *buf, size_t len)
{
    (void)snprintf(buf, len, "squall-%d", (int)getpid());
}

/* ---- is something in the way? ---- */

static bool takes_class(const struct sq_tree *t)
{
    return strcmp(t->kind, "htb") == 0;
}

static int plan_root(const struct sq_shape *s, const struct sq_tree *t, json_t *notes, struct sq_err *e)
{
    if (t->handle == 0 || t->handle == SQ_TREE_HANDLE) {
        if (t->handle == 0 && strcmp(t->kind, "mq") == 0 && notes)
            json_array_append_new(notes,
                                  json_sprintf("%s has several transmit queues: while a fault is on it they share "
                                               "one lock",
                                               s->ifname));
        return 0;
    }
    if (s->insert && takes_class(t)) {
        if (notes)
            json_array_append_new(notes, json_sprintf("below %s %x: of somebody else, which stays: what matches is not "
                                                      "subject to its limits while the fault is on",
                                                      t->kind, t->handle >> 16));
        return 0;
    }
    sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "%s has a root qdisc that is not the kernel's default: %s %x:", s->ifname,
               t->kind, t->handle >> 16);
    if (takes_class(t))
        sq_err_hint(e,
                    "Squall replaces only the kernel's default; say insert: classful to work below it, or name another "
                    "interface, or say backend: packet");
    else
        sq_err_hint(e,
                    "Squall replaces only the kernel's default, and %s takes no class of ours; name another interface, "
                    "or say backend: packet",
                    t->kind);
    return -EEXIST;
}

static int netem_plan(const struct sq_shape *s, json_t *notes, struct sq_err *e)
{
    struct sq_tree t;
    struct sq_tree_filter f;
    int r = sq_tree_look(s->ifindex, &t, e);

    if (r < 0)
        return r;
    if (!s->ingress)
        return plan_root(s, &t, notes, e);
    if (t.ingress[0] && strcmp(t.ingress, "clsact") != 0 && strcmp(t.ingress, "ingress") != 0) {
        sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "%s has an ingress qdisc that Squall does not know: %s", s->ifname,
                   t.ingress);
        return -EEXIST;
    }
    r = sq_ifb_find(s->ifindex, NULL, e);
    if (r < 0)
        return r;
    r = sq_tree_filter_find(s->ifindex, SQ_TREE_INGRESS, SQ_TREE_PREF_INGRESS, &f, e);
    if (r < 0 && r != -ENOENT)
        return r;
    if (f.others && notes)
        json_array_append_new(notes, json_sprintf("%s has %u filters of others at its ingress: packets whose way they "
                                                  "decide never reach the fault",
                                                  s->ifname, f.others));
    return 0;
}

/* ---- the device's classifier ---- */

static void device_put(struct sq_engine *eng, struct device *d)
{
    if (!d || --d->users > 0)
        return;
    for (struct device **p = devices(eng); *p; p = &(*p)->next)
        if (*p == d) {
            *p = d->next;
            break;
        }
    sq_classifier_free(d->classifier);
    classid__destroy(d->skel);
    free(d);
}

/* A slot that nobody has: no filter, no class. Below a foreign root the preference is what is free before theirs. */
static int find_slot(const struct sq_shape *s, struct device *d, struct sq_err *e)
{
    int dev = s->ingress ? sq_ifb_find(s->ifindex, NULL, e) : s->ifindex;
    struct sq_tree_filter f;
    struct sq_tree_classes c;

    if (dev < 0)
        return dev;
    for (d->slot = 1; d->slot <= SQ_TREE_SLOTS; d->slot++) {
        d->pref = (uint16_t)d->slot;
        if (dev == 0)
            return 0;
        int r = sq_tree_filter_find(dev, d->root, d->pref, &f, e);
        if (r < 0 && r != -ENOENT)
            return r;
        if (foreign(d) && f.others && f.least <= d->pref)
            return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                              "the filters of %s begin with preference %u: there is no room before them", s->ifname,
                              f.least);
        if (r == 0)
            continue;
        r = sq_tree_classes(dev, classid_of(d, 0), &c, e);
        if (r < 0)
            return r;
        if (c.foreign)
            return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                              "%s has classes of somebody else where ours would be: %x:c000 on", s->ifname,
                              d->root >> 16);
        if (c.slot == 0)
            return 0;
    }
    return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "%u other Squalls have faults on %s", SQ_TREE_SLOTS, s->ifname);
}

static int new_device(const struct sq_shape *s, struct device **out, struct sq_err *e)
{
    struct device *d = calloc(1, sizeof *d);
    struct sq_tree t;
    int r = d ? sq_tree_look(s->ifindex, &t, e) : sq_err(e, -ENOMEM, "out of memory");

    if (r == 0) {
        d->cookie = s->ns->cookie;
        d->ifindex = s->ifindex;
        d->ingress = s->ingress;
        d->root = s->ingress || t.handle == 0 ? SQ_TREE_HANDLE : t.handle;
        r = find_slot(s, d, e);
    }
    if (r == 0)
        r = sq_netem_load(s->engine, classid_of(d, 0), d->ingress, &d->skel, e);
    if (r == 0) {
        struct sq_classify_maps m = {
            .rules = bpf_map__fd(d->skel->maps.rules),
            .n_rules = bpf_map__fd(d->skel->maps.n_rules),
            .prefixes = bpf_map__fd(d->skel->maps.prefixes),
            .ports = bpf_map__fd(d->skel->maps.ports),
            .counts = bpf_map__fd(d->skel->maps.counts),
            .env = sq_classify_env_of(&d->skel->rodata->sq_classify_env),
        };
        r = sq_classifier_new(&m, !s->ingress, &d->classifier, e);
    }
    if (r < 0) {
        if (d)
            classid__destroy(d->skel);
        free(d);
        return r;
    }
    *out = d;
    return 0;
}

static int device_get(const struct sq_shape *s, struct device **out, struct sq_err *e)
{
    struct device **all = devices(s->engine);

    for (struct device *d = *all; d; d = d->next)
        if (d->cookie == s->ns->cookie && d->ifindex == s->ifindex && d->ingress == s->ingress) {
            d->users++;
            *out = d;
            return 0;
        }
    int r = new_device(s, out, e);
    if (r < 0)
        return r;
    (*out)->users = 1;
    (*out)->next = *all;
    *all = *out;
    return 0;
}

/* ---- applying ---- */

static int netem_undo(struct sq_shape *s, json_t *record, struct sq_err *e)
{
    struct priv *p = calloc(1, sizeof *p);
    char name[64];

    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    s->priv = p;
    p->bit = -1;
    int r = netem_plan(s, NULL, e);
    if (r == 0)
        r = device_get(s, &p->dev, e);
    if (r < 0)
        return r;
    /* The rules may count from here on: without a class, what matches passes as everything else. */
    p->bit = sq_classifier_add(p->dev->classifier, s->match, e);
    if (p->bit < 0)
        return p->bit;
    filter_name(name, sizeof name);
    json_t *mine = json_pack("{s:I,s:i,s:i,s:i,s:s}", "root", (json_int_t)p->dev->root, "slot", (int)p->dev->slot,
                             "bit", p->bit, "pref", (int)p->dev->pref, "filter", name);
    r = mine && json_object_update(record, mine) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
    json_decref(mine);
    return r;
}

/* The filter of our slot; -EEXIST when the slot has become another Squall's meanwhile. */
static int own_filter(int dev, uint32_t parent, uint16_t pref, int prog, int redirect, struct sq_err *e)
{
    struct sq_tree_filter f;
    char name[64];

    filter_name(name, sizeof name);
    int r = sq_tree_filter_find(dev, parent, pref, &f, e);
    if (r == -ENOENT)
        return sq_tree_filter_add(dev, parent, pref, prog, name, redirect, e);
    if (r == 0 && strcmp(f.name, name) != 0)
        r = sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "another Squall was faster on interface %d: try again", dev);
    return r;
}

/* clsact, ifb: everything but the filter that sends packets there. The ifb's index. */
static int begin_ingress(const struct sq_shape *s, struct sq_err *e)
{
    struct sq_tree t;
    int ifb = sq_ifb_find(s->ifindex, NULL, e), r;

    if (ifb == 0) {
        r = sq_tree_look(s->ifindex, &t, e);
        if (r < 0)
            return r;
        /* The ifb says that clsact is ours: it is made first and removed last. */
        ifb = sq_ifb_add(s->ifindex, !t.ingress[0], e);
    }
    if (ifb < 0)
        return ifb;
    r = sq_tree_look(s->ifindex, &t, e);
    if (r == 0 && !t.ingress[0])
        r = sq_tree_clsact_add(s->ifindex, e);
    return r < 0 ? r : ifb;
}

static int apply_locked(struct sq_shape *s, struct sq_err *e)
{
    struct priv *p = s->priv;
    struct device *d = p->dev;
    struct sq_tree t;
    int dev = s->ingress ? begin_ingress(s, e) : s->ifindex;
    int prog = bpf_program__fd(s->ingress ? d->skel->progs.sq_classid_ingress : d->skel->progs.sq_classid_egress);

    if (dev < 0)
        return dev;
    int r = sq_tree_look(dev, &t, e);
    if (r == 0 && !foreign(d))
        r = sq_tree_root_add(dev, t.queue, e);
    if (r == 0)
        r = own_filter(dev, d->root, d->pref, prog, 0, e);
    uint32_t classid = classid_of(d, p->bit);
    if (r == 0)
        r = sq_tree_class_add(dev, classid, e);
    if (r == 0)
        r = sq_tree_netem_put(dev, classid, sq_tree_leaf(d->slot, (unsigned)p->bit), s->impair, false, e);
    if (r == 0 && s->ingress)
        r = own_filter(s->ifindex, SQ_TREE_INGRESS, (uint16_t)(SQ_TREE_PREF_INGRESS + d->slot),
                       bpf_program__fd(d->skel->progs.sq_match_ingress), dev, e);
    return r;
}

static int netem_apply(struct sq_shape *s, struct sq_err *e)
{
    cleanup_close int lock = sq_net_lock(LOCK_MS, e);

    return lock < 0 ? lock : apply_locked(s, e);
}

/* ---- looking and changing ---- */

static int device_now(const struct sq_shape *s, struct sq_err *e)
{
    int dev = s->ingress ? sq_ifb_find(s->ifindex, NULL, e) : s->ifindex;

    return dev ? dev : sq_err(e, -EBADE, "our ifb of %s is gone", s->ifname);
}

static int same_filter(int dev, uint32_t parent, uint16_t pref, int prog_fd, struct sq_err *e)
{
    struct bpf_prog_info info;
    uint32_t len = sizeof info;
    struct sq_tree_filter f;

    memset(&info, 0, sizeof info);
    if (bpf_obj_get_info_by_fd(prog_fd, &info, &len) < 0)
        return sq_err_sys(e, -errno, "cannot look at our program");
    int r = sq_tree_filter_find(dev, parent, pref, &f, e);
    if (r == -ENOENT || (r == 0 && f.prog != info.id))
        return sq_err(e, -EBADE, "our classifier is not at %x: of interface %d any more", parent >> 16, dev);
    return r;
}

static int netem_readback(struct sq_shape *s, json_t *out, struct sq_err *e)
{
    const struct priv *p = s->priv;
    const struct device *d = p->dev;
    struct sq_tree_netem n;
    char handle[32], class[32];
    uint32_t classid = classid_of(d, p->bit), leaf = sq_tree_leaf(d->slot, (unsigned)p->bit);
    int dev = device_now(s, e);

    if (dev < 0)
        return dev;
    int r = sq_tree_netem_read(dev, classid, leaf, &n, e);
    if (r == 0 && (!sq_netem_same(s->impair, &n.im, e) || !sq_classifier_same(d->classifier, p->bit, s->match, e)))
        r = -EBADE;
    if (r == 0)
        r = same_filter(
            dev, d->root, d->pref,
            bpf_program__fd(s->ingress ? d->skel->progs.sq_classid_ingress : d->skel->progs.sq_classid_egress), e);
    if (r == 0 && s->ingress)
        r = same_filter(s->ifindex, SQ_TREE_INGRESS, (uint16_t)(SQ_TREE_PREF_INGRESS + d->slot),
                        bpf_program__fd(d->skel->progs.sq_match_ingress), e);
    if (r < 0)
        return r;
    (void)snprintf(handle, sizeof handle, "%x:", leaf >> 16);
    (void)snprintf(class, sizeof class, "%x:%x", classid >> 16, classid & 0xffff);
    json_t *mine = json_pack("{s:s,s:s,s:o,s:I,s:I}", "handle", handle, "class", class, "impair", sq_impair_json(&n.im),
                             "held", (json_int_t)n.held, "dropped", (json_int_t)n.dropped);
    r = mine && json_object_update(out, mine) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
    json_decref(mine);
    return r;
}

static int netem_change(struct sq_shape *s, struct sq_err *e)
{
    struct priv *p = s->priv;
    const struct device *d = p->dev;
    int dev = device_now(s, e);

    if (dev < 0)
        return dev;
    int r = sq_classifier_change(d->classifier, p->bit, s->match, e);
    if (r == 0)
        r = sq_tree_netem_put(dev, classid_of(d, p->bit), sq_tree_leaf(d->slot, (unsigned)p->bit), s->impair, true, e);
    return r;
}

static int netem_count(struct sq_shape *s, uint64_t *packets, uint64_t *bytes, struct sq_err *e)
{
    const struct priv *p = s->priv;
    struct sq_classify_count c;
    int r = sq_classifier_count(p->dev->classifier, p->bit, &c, e);

    if (r == 0) {
        *packets = c.packets;
        *bytes = c.bytes;
    }
    return r;
}

/* ---- taking back, by record ---- */

struct record {
    int ifindex, dev;
    bool ingress;
    uint32_t root, classid;
    unsigned slot, bit;
    uint16_t pref;
    const char *filter;
};

static int read_record(const json_t *o, struct record *r, struct sq_err *e)
{
    int64_t root = sq_json_int_or(o, "root", 0), slot = sq_json_int_or(o, "slot", 0),
            bit = sq_json_int_or(o, "bit", -1), pref = sq_json_int_or(o, "pref", 0);

    r->ifindex = (int)sq_json_int_or(o, "ifindex", 0);
    r->ingress = sq_json_bool_or(o, "ingress", false);
    r->filter = sq_json_str_or(o, "filter", "");
    if (r->ifindex <= 0 || root <= 0 || root > UINT32_MAX || slot < 1 || slot > SQ_TREE_SLOTS || bit < 0 ||
        bit >= SQ_CLASSIFY_FAULTS || pref < 1 || pref > UINT16_MAX)
        return sq_err(e, -EINVAL, "the undo record of a netem is damaged");
    r->root = (uint32_t)root;
    r->slot = (unsigned)slot;
    r->bit = (unsigned)bit;
    r->pref = (uint16_t)pref;
    r->classid = r->root | (r->root != SQ_TREE_HANDLE ? SQ_TREE_FOREIGN : 0) | sq_tree_minor(r->slot, r->bit);
    /* Where the tree is; 0: nowhere any more (it ended with its device). */
    r->dev = r->ingress ? sq_ifb_find(r->ifindex, NULL, e) : r->ifindex;
    if (r->dev == -EEXIST) /* a device of somebody else has the name: ours is gone */
        sq_err_clear(e), r->dev = 0;
    return r->dev < 0 ? r->dev : 0;
}

/* Is the slot's filter our injector's? Nobody's also counts: then no class of the slot is anybody else's. */
static int slot_is_ours(const struct record *w, int dev, uint32_t parent, uint16_t pref, bool *ours, struct sq_err *e)
{
    struct sq_tree_filter f;
    int r = sq_tree_filter_find(dev, parent, pref, &f, e);

    if (r < 0 && r != -ENOENT)
        return r;
    *ours = r == -ENOENT || strcmp(f.name, w->filter) == 0;
    return 0;
}

/* Nobody has a fault on what came in by the device any more. */
static int end_ingress(const struct record *w, struct sq_err *e)
{
    struct sq_tree_filter f;
    bool clsact = false;
    int ifb = sq_ifb_find(w->ifindex, &clsact, e), r = 0;

    if (ifb <= 0)
        return ifb;
    if (clsact) {
        r = sq_tree_filter_find(w->ifindex, SQ_TREE_INGRESS, 1, &f, e);
        unsigned others = f.others;
        if (r == 0 || r == -ENOENT)
            r = sq_tree_filter_find(w->ifindex, SQ_TREE_INGRESS + 1, 1, &f, e); /* egress of clsact */
        if (r == 0 || r == -ENOENT)
            r = others + f.others ? 0 : sq_tree_clsact_del(w->ifindex, e);
    }
    return r < 0 ? r : sq_ifb_del(ifb, e);
}

static int end_slot(const struct record *w, struct sq_tree_classes *c, struct sq_err *e)
{
    int r = 0;

    /* Nothing may be sent to an ifb that has no queue for it, or is gone. */
    if (w->ingress)
        r = sq_tree_filter_del(w->ifindex, SQ_TREE_INGRESS, (uint16_t)(SQ_TREE_PREF_INGRESS + w->slot), e);
    if (r == 0)
        r = sq_tree_filter_del(w->dev, w->root, w->pref, e);
    if (r < 0 || c->others > 0 || w->root != SQ_TREE_HANDLE)
        return r;
    return w->ingress ? end_ingress(w, e) : sq_tree_root_del(w->dev, e);
}

static int revert_locked(const struct record *w, struct sq_err *e)
{
    struct sq_tree_classes c;
    struct sq_tree t;
    bool ours = false;
    int r = sq_tree_look(w->dev, &t, e);

    if (r < 0)
        return r;
    if (w->root == SQ_TREE_HANDLE && t.handle == 0 && w->ingress)
        return end_slot(w, &(struct sq_tree_classes){0}, e); /* killed between the ifb and its tree */
    if (t.handle != w->root)
        return 0; /* never made, or somebody has replaced it, and ours went with it */
    r = slot_is_ours(w, w->dev, w->root, w->pref, &ours, e);
    if (r < 0 || !ours)
        return r;
    r = sq_tree_class_del(w->dev, w->classid, e);
    if (r == 0)
        r = sq_tree_classes(w->dev, w->classid, &c, e);
    return r < 0 || c.slot > 0 ? r : end_slot(w, &c, e);
}

static int netem_revert(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    struct record w;
    char name[IF_NAMESIZE];
    int r = read_record(record, &w, e);

    (void)eng; /* the rules of a live injector are without effect when the class is gone; netem_free removes them */
    if (r < 0)
        return r;
    if (!if_indextoname((unsigned)w.ifindex, name)) {
        /* The device took its tree along; our ifb of it stays. */
        return w.ingress && w.dev ? sq_ifb_del(w.dev, e) : 0;
    }
    if (!w.dev)
        return 0;
    cleanup_close int lock = sq_net_lock(LOCK_UNDO_MS, NULL);
    (void)lock; /* without it, too: whoever holds it so long must not keep the fault alive */
    return revert_locked(&w, e);
}

static int netem_gone(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    struct sq_tree_classes c;
    struct record w;
    struct sq_tree t;
    char name[IF_NAMESIZE];
    bool ours = false;
    int r = read_record(record, &w, e);

    (void)eng;
    if (r < 0 || !w.dev)
        return r;
    if (!if_indextoname((unsigned)w.ifindex, name))
        return w.ingress ? sq_err(e, -EBUSY, "our ifb of the interface that was %d is still there", w.ifindex) : 0;
    r = sq_tree_look(w.dev, &t, e);
    if (r < 0 || t.handle != w.root)
        return r;
    r = slot_is_ours(&w, w.dev, w.root, w.pref, &ours, e);
    if (r == 0 && ours)
        r = sq_tree_classes(w.dev, w.classid, &c, e);
    if (r == 0 && ours && (c.it || (c.slot + c.others == 0 && w.root == SQ_TREE_HANDLE)))
        r = sq_err(e, -EBUSY, "our %s is still on interface %s", c.it ? "netem" : "tree", name);
    return r;
}

static void netem_free(struct sq_shape *s)
{
    struct priv *p = s->priv;

    if (!p)
        return;
    if (p->dev && p->bit >= 0)
        sq_classifier_remove(p->dev->classifier, p->bit);
    device_put(s->engine, p->dev);
    free(p);
    s->priv = NULL;
}

const struct sq_shaper_ops sq_shaper_netem = {
    .name = "netem",
    .check = sq_netem_check,
    .plan = netem_plan,
    .undo = netem_undo,
    .apply = netem_apply,
    .readback = netem_readback,
    .change = netem_change,
    .count = netem_count,
    .revert = netem_revert,
    .gone = netem_gone,
    .free = netem_free,
};
