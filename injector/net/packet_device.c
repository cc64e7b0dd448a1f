/* The faults on the packet backend's devices. */
#include "net/packet_device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "journal.h"
#include "net/clsact.h"
#include "net/packet_priv.h"
#include "net/tap.h"
#include "packet/control.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

#define TICK_MS 100
#define DRAIN_SOON_MS 100            /* most an end waits for what is held; what takes longer goes on by itself */
#define DRAIN_NS (60 * SQ_S)         /* and this long at most */
#define LEFT_TO_ITSELF_NS (1 * SQ_S) /* a process whose squalld is dead: to send on what it holds */

/* ---- all of them ---- */

int sq_packet_devices_new(struct sq_engine *eng, struct sq_packet_devices **out, struct sq_err *e)
{
    struct sq_packet_devices *ds = calloc(1, sizeof *ds);
    struct sq_proc self = {0};
    const char *mode = getenv("SQUALL_PACKET_ATTACH"); /* for tests: "clsact" on a kernel that has tcx */

    if (!ds)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)sq_proc_read(getpid(), &self, NULL);
    ds->eng = eng;
    ds->clsact = (mode && strcmp(mode, "clsact") == 0) || !sq_attach_has_tcx();
    (void)snprintf(ds->owner, sizeof ds->owner, "%d.%" PRIu64, (int)getpid(), self.start);
    if (uv_timer_init(sq_engine_loop(eng), &ds->timer) < 0) {
        free(ds);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    ds->timer.data = ds;
    ds->home.fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC); /* -1: without namespaces there is no elsewhere */
    *out = ds;
    return 0;
}

const char *sq_packet_owner(const struct sq_packet_devices *ds)
{
    return ds->owner;
}

bool sq_packet_clsact(const struct sq_packet_devices *ds)
{
    return ds->clsact;
}

const struct sq_classify_env *sq_packet_env(struct sq_packet_devices *ds)
{
    if (!ds->looked)
        sq_classify_look(&ds->env);
    ds->looked = true;
    return &ds->env;
}

static struct sq_packet_device *find(struct sq_packet_devices *ds, uint64_t cookie, uint64_t ino, int ifindex)
{
    for (struct sq_packet_device *d = ds->list; d; d = d->next)
        if (d->state != SQ_PD_DRAINING && d->ifindex == ifindex && d->cookie == cookie && (cookie || d->ino == ino))
            return d;
    return NULL;
}

struct sq_packet_device *sq_packet_find(struct sq_packet_devices *ds, const struct sq_netns *ns, int ifindex)
{
    return ds ? find(ds, ns->cookie, ns->ino, ifindex) : NULL;
}

bool sq_packet_before(struct sq_packet_devices *ds, const struct sq_netns *ns, int ifindex, bool *clsact_made,
                      int lo_was[2])
{
    for (struct sq_packet_device *d = ds->list; d; d = d->next) {
        if (d->ifindex != ifindex || d->cookie != ns->cookie || d->ino != ns->ino || !d->noted)
            continue;
        *clsact_made = d->clsact_made;
        memcpy(lo_was, d->lo_was, sizeof d->lo_was);
        return true;
    }
    return false;
}

void sq_packet_info(const struct sq_packet_device *d, struct sq_packet_info *out)
{
    *out = (struct sq_packet_info){.pid = d->process.pid, .clsact = d->ds->clsact};
    memcpy(out->tap, d->tap, sizeof out->tap);
}

json_t *sq_packet_snapshot(const struct sq_packet_devices *ds)
{
    static const char *const state[] = {[SQ_PD_LIVE] = "live", [SQ_PD_DRAINING] = "draining", [SQ_PD_DEAD] = "dead"};
    json_t *list = json_array();

    for (const struct sq_packet_device *d = ds ? ds->list : NULL; list && d; d = d->next)
        (void)json_array_append_new(list, json_pack("{s:I,s:s,s:s,s:s,s:[s,s]}", "pid", (json_int_t)d->process.pid,
                                                    "interface", d->ifname, "namespace", d->ns_name, "state",
                                                    state[d->state], "taps", d->tap[EGRESS], d->tap[INGRESS]));
    return list;
}

static int bit_of(const struct sq_packet_device *d, const char *fault, bool ingress)
{
    for (int i = 0; i < SQ_CLASSIFY_FAULTS; i++)
        if (strcmp(d->slot[ingress][i].fault, fault) == 0)
            return i;
    return -ENOENT;
}

/* ---- one fault ---- */

bool sq_packet_loss_alone(const struct sq_impair *im)
{
    return im->loss_model == SQ_LOSS_RANDOM && im->loss_corr == 0 && !im->ecn && im->delay == 0 && im->jitter == 0 &&
           im->duplicate == 0 && im->corrupt == 0 && im->reorder == 0 && im->rate == 0 && !im->slot;
}

static int hangs(const struct sq_packet_device *d, struct sq_err *e)
{
    if ((int64_t)*d->beat > sq_mono_ns())
        return 0;
    return sq_err(e, -EBADE, "the packet process of %s is dead or hangs: packets pass without it", d->ifname);
}

/* The parameters into force: the new way first, then the old one is shut. */
static int put(struct sq_packet_device *d, int bit, const struct sq_shape *s, struct sq_err *e)
{
    struct sq_packet_slot *slot = &d->slot[s->ingress][bit];
    int rc;

    if (sq_packet_loss_alone(s->impair)) {
        rc = sq_attach_loss(d->attach[s->ingress], bit, s->impair->loss, e);
        if (rc == 0 && slot->stage)
            rc = sq_packet_process_del(&d->process, (unsigned)bit, s->ingress, e);
        slot->stage = slot->stage && rc < 0;
        return rc;
    }
    rc = hangs(d, e);
    rc = rc ? rc : sq_packet_process_set(&d->process, (unsigned)bit, s->ingress, s->impair, e);
    if (rc == 0)
        rc = sq_attach_loss(d->attach[s->ingress], bit, -1, e);
    slot->stage = slot->stage || rc == 0;
    return rc;
}

static void take_out(struct sq_packet_device *d, int bit, bool ingress)
{
    struct sq_packet_slot *slot = &d->slot[ingress][bit];

    sq_classifier_remove(d->rules[ingress], bit);
    (void)sq_attach_loss(d->attach[ingress], bit, -1, NULL);
    if (slot->stage && d->state == SQ_PD_LIVE)
        (void)sq_packet_process_del(&d->process, (unsigned)bit, ingress, NULL);
    *slot = (struct sq_packet_slot){0};
    d->n_faults--;
}

/* The last fault's undo record goes with it, but what it names stays until the device has drained: owed by a record of
 * the device's own. */
static void owe(struct sq_packet_device *d, const json_t *undo)
{
    cleanup_json json_t *r =
        json_pack("{s:s,s:s,s:s,s:O}", "run", "", "fault", d->ifname, "kind", "network/impair", "undo", undo);

    d->owed = r && sq_journal_hold(sq_engine_journal(d->ds->eng), r, &d->debt, NULL) == 0;
}

/* Without faults: the programs let everything pass already. UNDO: of the last fault; NULL: it was never there. */
static void finish(struct sq_packet_device *d, const json_t *undo)
{
    struct pollfd p = {.fd = d->process.pidfd, .events = POLLIN};

    if (d->state == SQ_PD_LIVE) {
        sq_packet_process_end(&d->process);
        if (!d->loopback) /* its packets could not return without the sysctls */
            sq_packet_detach(d);
        if (poll(&p, 1, DRAIN_SOON_MS) == 0) {
            d->state = SQ_PD_DRAINING;
            d->drain_until = sq_mono_ns() + DRAIN_NS;
            if (d->noted && undo)
                owe(d, undo);
            return;
        }
    }
    sq_packet_drop(d);
}

static int dead(const struct sq_packet_device *d, struct sq_err *e)
{
    return sq_err(e, -EPIPE, "the packet backend works no more on %s: %s; traffic flows without faults", d->ifname,
                  d->why);
}

/* NULL: E says why. */
static struct sq_packet_device *need(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e)
{
    struct sq_packet_device *d = sq_packet_find(ds, s->ns, s->ifindex);

    if (d && d->state == SQ_PD_DEAD) {
        (void)dead(d, e);
        return NULL;
    }
    if (d)
        return d;
    d = sq_packet_make(ds, s, e);
    if (d) {
        d->next = ds->list;
        ds->list = d;
        (void)uv_timer_start(&ds->timer, sq_packet_look, TICK_MS, TICK_MS);
    }
    return d;
}

struct adding {
    struct sq_packet_devices *ds;
    const struct sq_shape *s;
};

static int add(void *arg, struct sq_err *e)
{
    const struct adding *a = arg;
    const struct sq_shape *s = a->s;
    struct sq_packet_device *d = need(a->ds, s, e);
    int bit, rc;

    if (!d)
        return e->code;
    /* Until its stage is there the process passes on at once what has this bit. */
    bit = sq_classifier_add(d->rules[s->ingress], s->match, e);
    rc = bit;
    if (bit >= 0) {
        (void)snprintf(d->slot[s->ingress][bit].fault, sizeof d->slot[0][0].fault, "%s", s->fault);
        d->n_faults++;
        rc = put(d, bit, s, e);
        if (rc < 0)
            take_out(d, bit, s->ingress);
    }
    if (d->n_faults == 0)
        finish(d, NULL);
    return rc < 0 ? rc : 0;
}

/* The caller may be in the target's namespace. A socket made there, or a process, would keep it alive. */
int sq_packet_add(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e)
{
    struct adding a = {ds, s};

    return sq_netns_call(&ds->home, add, &a, e);
}

int sq_packet_change(struct sq_packet_device *d, const struct sq_shape *s, struct sq_err *e)
{
    int bit = bit_of(d, s->fault, s->ingress), rc;

    if (d->state == SQ_PD_DEAD)
        return dead(d, e);
    if (bit < 0)
        return sq_err(e, bit, "there is no fault %s on %s", s->fault, d->ifname);
    rc = sq_classifier_change(d->rules[s->ingress], bit, s->match, e);
    return rc < 0 ? rc : put(d, bit, s, e);
}

void sq_packet_remove(struct sq_packet_devices *ds, const json_t *undo)
{
    const json_t *ns = json_object_get(undo, "netns");
    bool ingress = sq_json_bool_or(undo, "ingress", false);
    struct sq_packet_device *d =
        ds ? find(ds, (uint64_t)sq_json_int_or(ns, "cookie", 0), (uint64_t)sq_json_int_or(ns, "ino", 0),
                  (int)sq_json_int_or(undo, "ifindex", 0))
           : NULL;
    int bit = d ? bit_of(d, sq_json_str_or(undo, "fault", ""), ingress) : -ENOENT;

    if (bit < 0)
        return;
    take_out(d, bit, ingress);
    if (d->n_faults == 0)
        finish(d, undo);
}

/* ---- asking ---- */

struct holds {
    const struct sq_attach *a;
    const char *tap;
    int offload; /* as the process says; -1: it was not asked */
};

static int holds(void *arg, struct sq_err *e)
{
    const struct holds *h = arg;
    bool on;
    int rc = sq_attach_holds(h->a, e);

    if (rc < 0 || h->offload < 0)
        return rc;
    rc = sq_tap_offload(h->tap, &on, e);
    if (rc == 0 && on != h->offload)
        rc = sq_err(e, -EBADE, "%s has its offloads %s, and the packet process wants them %s", h->tap,
                    on ? "on" : "off", on ? "off" : "on");
    return rc;
}

/* By value, what the process carries out. */
static int verify_stage(struct sq_packet_device *d, int bit, const struct sq_shape *s, int *offload, struct sq_err *e)
{
    const struct sq_packet_slot *slot = &d->slot[s->ingress][bit];
    struct sq_packet_got got;
    const char *what;
    int rc;

    *offload = -1;
    if (slot->stage == sq_packet_loss_alone(s->impair))
        return sq_err(e, -EBADE, "the fault %s is carried out %s", s->fault,
                      slot->stage ? "by the packet process, not in BPF" : "in BPF, not by the packet process");
    rc = slot->stage ? sq_packet_process_get(&d->process, (unsigned)bit, s->ingress, &got, e) : 0;
    if (rc < 0 || !slot->stage)
        return rc;
    what = sq_packet_differs(&got, s->impair);
    if (what)
        return sq_err(e, -EBADE, "the packet process of %s has another %s than was asked for", d->ifname, what);
    *offload = got.offload != 0;
    return 0;
}

static int verify_loss(struct sq_packet_device *d, int bit, const struct sq_shape *s, struct sq_err *e)
{
    double percent = -1;
    int rc = sq_attach_loss_read(d->attach[s->ingress], bit, &percent, e);

    if (rc < 0)
        return rc;
    if (sq_packet_loss_alone(s->impair) ? fabs(percent - s->impair->loss) > 1e-6 : percent >= 0)
        return sq_err(e, -EBADE, "the BPF program loses %g%% instead of %g%%", percent < 0 ? 0 : percent,
                      s->impair->loss);
    return 0;
}

int sq_packet_verify(struct sq_packet_device *d, const struct sq_shape *s, struct sq_err *e)
{
    struct holds h = {.a = d->attach[s->ingress], .tap = d->tap[s->ingress]};
    int bit = bit_of(d, s->fault, s->ingress), rc;

    if (bit < 0)
        return sq_err(e, bit, "there is no fault %s on %s", s->fault, d->ifname);
    if (d->state == SQ_PD_DEAD)
        return dead(d, e);
    if (!sq_packet_process_alive(&d->process))
        return sq_err(e, -EPIPE, "the packet process of %s is dead", d->ifname);
    if (!sq_attach_has(h.a, SQ_REDIRECT_TARGET))
        return sq_err(e, -ENODEV, "the interface %s is gone", d->ifname);
    if (!sq_attach_has(h.a, SQ_REDIRECT_TAP))
        return sq_err(e, -EBADE, "our TAP %s is gone", d->tap[s->ingress]);
    rc = hangs(d, e);
    rc = rc ? rc : verify_stage(d, bit, s, &h.offload, e);
    rc = rc ? rc : sq_netns_call(s->ns, holds, &h, e);
    if (rc < 0)
        return rc;
    if (!sq_classifier_same(d->rules[s->ingress], bit, s->match, e))
        return -EBADE;
    return verify_loss(d, bit, s, e);
}

int sq_packet_count(struct sq_packet_device *d, const struct sq_shape *s, struct sq_classify_count *out,
                    struct sq_err *e)
{
    int bit = bit_of(d, s->fault, s->ingress);

    return bit < 0 ? sq_err(e, bit, "there is no fault %s on %s", s->fault, d->ifname)
                   : sq_classifier_count(d->rules[s->ingress], bit, out, e);
}

/* ---- by record alone ---- */

static int each_tap(const struct sq_packet_left *l, int (*fn)(const char *, const char *, struct sq_err *),
                    struct sq_err *e)
{
    char name[16], alias[128];
    int n = 0;

    sq_packet_alias(alias, sizeof alias, l->owner);
    for (unsigned i = 0; i < 2 * SQ_PACKET_TAPS; i++) {
        int rc;

        sq_packet_tap_name(name, sizeof name, l->ifindex, i & 1, i / 2);
        rc = fn(name, alias, e);
        if (rc < 0)
            return rc;
        n += rc;
    }
    return n;
}

/* It has let go by itself: its socket has ended. First it may send on what it holds. */
int sq_packet_take_back(const struct sq_packet_left *l, struct sq_err *e)
{
    int64_t until = sq_mono_ns() + LEFT_TO_ITSELF_NS;
    char name[128];
    int rc;

    sq_packet_process_name(name, sizeof name, l->owner, l->cookie, l->ifindex);
    while (sq_packet_process_count(name, false) > 0 && sq_mono_ns() < until)
        (void)poll(NULL, 0, 5);
    for (int i = 0; i < 40 && sq_packet_process_count(name, true) > 0; i++)
        (void)poll(NULL, 0, 5);
    rc = each_tap(l, sq_tap_del, e);
    return rc < 0 ? rc : sq_clsact_clean(l->ifindex, l->clsact_made, e);
}

int sq_packet_is_gone(const struct sq_packet_left *l, struct sq_err *e)
{
    char name[128];
    int rc;

    sq_packet_process_name(name, sizeof name, l->owner, l->cookie, l->ifindex);
    if (sq_packet_process_count(name, false) > 0)
        return sq_err(e, -EBUSY, "a packet process still runs (%s)", name);
    rc = each_tap(l, sq_tap_there, e);
    if (rc != 0)
        return rc < 0 ? rc : sq_err(e, -EBUSY, "a TAP of the packet backend is still there");
    for (int egress = 0; egress < 2; egress++) {
        rc = sq_clsact_has(l->ifindex, egress, e);
        if (rc != 0)
            return rc < 0 ? rc : sq_err(e, -EBUSY, "our filter is still on interface %d", l->ifindex);
    }
    return 0;
}
