/* The packet backend as a shaper: Squall's own process in user space (packet/wire.h), for kernels without sch_netem. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "net/attach.h"
#include "net/clsact.h"
#include "net/loopback.h"
#include "net/packet_device.h"
#include "net/shaper.h"
#include "net/tap.h"
#include "patience.h"
#include "squall/json.h"

/* ---- can it be done here? ---- */

struct trial {
    struct sq_err *e;
    int rc;
    bool clsact;
    struct sq_classify_env env;
};

static void *try_all(void *arg)
{
    struct trial *t = arg;
    const struct sq_netns here = {.fd = -1}; /* the thread's own */
    struct sq_tap_opts to = {
        .name = "sqt1e", .alias = "squall trial", .mac = {2, 0, 0, 0, 0, 1}, .queue = 8, .ns = &here};
    struct sq_attach_opts o = {
        .ns = &here, .device = 1, .egress = true, .clsact = t->clsact, .heartbeat = -1, .env = &t->env};
    struct sq_attach *a = NULL;
    int fd = -1;

    if (unshare(CLONE_NEWNET) < 0) {
        t->rc = sq_err_cls(t->e, SQ_C_DENIED, -errno, "network faults need root (CAP_NET_ADMIN)");
        sq_err_hint(t->e, "run as root");
        return NULL;
    }
    t->rc = sq_tap_new(&to, &fd, &o.tap, t->e);
    t->rc = t->rc ? t->rc : sq_attach_new(&o, &a, t->e);
    sq_attach_free(a);
    if (fd >= 0)
        (void)close(fd);
    return NULL;
}

static int check(struct sq_engine *eng, struct sq_err *e)
{
    struct sq_packet_devices *ds = eng ? sq_engine_packets(eng) : NULL;
    struct trial t = {.e = e, .clsact = ds ? sq_packet_clsact(ds) : !sq_attach_has_tcx()};
    pthread_t thread;

    if (ds)
        t.env = *sq_packet_env(ds);
    else
        sq_classify_look(&t.env);
    if (eng)
        sq_patience_begin(sq_engine_patience(eng), SQ_PATIENCE_NS);
    if (pthread_create(&thread, NULL, try_all, &t) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    (void)pthread_join(thread, NULL);
    return t.rc;
}

static int plan(const struct sq_shape *s, json_t *notes, struct sq_err *e)
{
    struct sq_packet_devices *ds = sq_engine_packets(s->engine);
    int rc = sq_packet_may(ds, s, e);

    if (rc < 0)
        return rc;
    (void)json_array_append_new(
        notes,
        json_sprintf("%s: packets pass a process of Squall's (%s); marks and socket priorities don't survive that",
                     s->ifname, sq_packet_clsact(ds) ? "by clsact" : "by tcx"));
    return 0;
}

/* ---- one shape ---- */

struct before {
    const struct sq_shape *s;
    bool clsact, loopback, made;
    int lo_was[SQ_LOOPBACK_KNOBS];
};

static int look(void *arg, struct sq_err *e)
{
    struct before *b = arg;
    int rc = 0;

    b->loopback = strcmp(b->s->ifname, "lo") == 0;
    if (sq_packet_before(sq_engine_packets(b->s->engine), b->s->ns, b->s->ifindex, &b->made, b->lo_was))
        return 0;
    if (b->clsact) {
        rc = sq_clsact_there(b->s->ifindex, e);
        b->made = rc == 0;
    }
    if (rc >= 0 && b->loopback)
        rc = sq_loopback_read(b->lo_was, e);
    return rc < 0 ? rc : 0;
}

static int undo(struct sq_shape *s, json_t *record, struct sq_err *e)
{
    struct sq_packet_devices *ds = sq_engine_packets(s->engine);
    struct before b = {.s = s, .clsact = sq_packet_clsact(ds)};
    int rc = sq_netns_call(s->ns, look, &b, e);

    if (rc < 0)
        return rc;
    rc = json_object_set_new(record, "owner", json_string(sq_packet_owner(ds)));
    rc |= json_object_set_new(record, "fault", json_string(s->fault));
    rc |= json_object_set_new(record, "clsact_made", json_boolean(b.made));
    if (b.loopback)
        rc |= json_object_set_new(record, "lo", json_pack("[i,i]", b.lo_was[0], b.lo_was[1]));
    return rc ? sq_err(e, -ENOMEM, "out of memory") : 0;
}

static int apply(struct sq_shape *s, struct sq_err *e)
{
    return sq_packet_add(sq_engine_packets(s->engine), s, e);
}

static struct sq_packet_device *device_of(const struct sq_shape *s, struct sq_err *e)
{
    struct sq_packet_device *d = sq_packet_find(sq_engine_packets(s->engine), s->ns, s->ifindex);

    if (!d)
        (void)sq_err(e, -ENOENT, "the packet backend has no fault on %s any more", s->ifname);
    return d;
}

static int readback(struct sq_shape *s, json_t *out, struct sq_err *e)
{
    struct sq_packet_device *d = device_of(s, e);
    struct sq_packet_info i;
    int rc = d ? sq_packet_verify(d, s, e) : -ENOENT;

    if (rc < 0)
        return rc;
    sq_packet_info(d, &i);
    json_t *more = json_pack("{s:s,s:s,s:s,s:I,s:o}", "by", sq_packet_loss_alone(s->impair) ? "bpf" : "process",
                             "attach", i.clsact ? "clsact" : "tcx", "tap", i.tap[s->ingress], "pid", (json_int_t)i.pid,
                             "impair", sq_impair_json(s->impair));
    rc = more ? json_object_update(out, more) : -1;
    json_decref(more);
    return rc < 0 ? sq_err(e, -ENOMEM, "out of memory") : 0;
}

static int change(struct sq_shape *s, struct sq_err *e)
{
    struct sq_packet_device *d = device_of(s, e);

    return d ? sq_packet_change(d, s, e) : -ENOENT;
}

static int count(struct sq_shape *s, uint64_t *packets, uint64_t *bytes, struct sq_err *e)
{
    struct sq_packet_device *d = device_of(s, e);
    struct sq_classify_count n;
    int rc = d ? sq_packet_count(d, s, &n, e) : -ENOENT;

    if (rc < 0)
        return rc;
    *packets = n.packets;
    *bytes = n.bytes;
    return 0;
}

static void free_shape(struct sq_shape *s)
{
    (void)s;
}

/* ---- by record ---- */

static struct sq_packet_left left_of(const json_t *record)
{
    return (struct sq_packet_left){
        .owner = sq_json_str_or(record, "owner", "?"),
        .cookie = (uint64_t)sq_json_int_or(json_object_get(record, "netns"), "cookie", 0),
        .ifindex = (int)sq_json_int_or(record, "ifindex", 0),
        .clsact_made = sq_json_bool_or(record, "clsact_made", false),
    };
}

static int restore_loopback(const json_t *record, struct sq_err *e)
{
    const json_t *lo = json_object_get(record, "lo");
    const int was[SQ_LOOPBACK_KNOBS] = {(int)json_integer_value(json_array_get(lo, 0)),
                                        (int)json_integer_value(json_array_get(lo, 1))};

    return lo ? sq_loopback_write(was, e) : 0;
}

static int revert(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    struct sq_packet_left l = left_of(record);
    int rc;

    if (eng) {
        sq_packet_remove(sq_engine_packets(eng), record);
        return 0;
    }
    rc = sq_packet_take_back(&l, e);
    return rc < 0 ? rc : restore_loopback(record, e);
}

static int gone(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    struct sq_packet_left l = left_of(record);

    /* Rules that are out are out: what the device still holds belongs to no fault. */
    if (eng)
        return 0;
    return sq_packet_is_gone(&l, e);
}

const struct sq_shaper_ops sq_shaper_packet = {
    .name = "packet",
    .check = check,
    .plan = plan,
    .undo = undo,
    .apply = apply,
    .readback = readback,
    .change = change,
    .count = count,
    .revert = revert,
    .gone = gone,
    .free = free_shape,
};
