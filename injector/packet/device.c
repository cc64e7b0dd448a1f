#include "packet/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "packet/control.h"
#include "packet/frame.h"
#include "squall/clock.h"

/* Copied to a slot of their size; larger packets stay where they were read to. */
#define COPY_MAX 16384u

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)

struct packet {
    struct sq_held held;
    struct sq_mask todo; /* stages it has yet to pass */
    uint32_t off, len;   /* of virtio_net_hdr and frame in `data` */
    uint32_t gen;        /* of the stage that holds it */
    uint8_t stage, dir;
    uint8_t copies; /* how often its line was duplicated */
    uint8_t data[];
};

/* Many stages that duplicate everything would never end. */
#define COPIES_MAX 10

#define ROOM (SQ_POOL_MAX - (uint32_t)offsetof(struct packet, data))

/* ---- stages ---- */

static bool is_on(const struct sq_pdir *dir, unsigned bit)
{
    return dir->active.w[bit / 64] >> bit % 64 & 1;
}

/* A stage that corrupts needs complete checksums, a slow one packets of wire size. */
static void choose_offload(struct sq_pdir *dir)
{
    bool want = true;
    for (unsigned bit = 0; bit < SQ_CLASSIFY_FAULTS; bit++) {
        if (is_on(dir, bit) && sq_packet_plain_only(&dir->stage[bit].im))
            want = false;
    }
    if (dir->tap < 0 || want == dir->offload)
        return;
    if (ioctl(dir->tap, TUNSETOFFLOAD, want ? OFFLOADS | TUN_F_USO4 | TUN_F_USO6 : 0) == 0 ||
        (want && ioctl(dir->tap, TUNSETOFFLOAD, OFFLOADS) == 0)) /* before Linux 6.2 */
        dir->offload = want;
}

void sq_pdev_set(struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_impair *im, uint64_t seed)
{
    struct sq_pdir *x = &d->dir[dir];
    if (is_on(x, bit)) {
        sq_pstage_change(&x->stage[bit], im);
    } else {
        sq_pstage_init(&x->stage[bit], im, seed);
        x->gen[bit]++;
        x->active.w[bit / 64] |= UINT64_C(1) << bit % 64;
    }
    choose_offload(x);
}

void sq_pdev_del(struct sq_pdev *d, unsigned dir, unsigned bit)
{
    struct sq_pdir *x = &d->dir[dir];
    if (!is_on(x, bit))
        return;
    x->active.w[bit / 64] &= ~(UINT64_C(1) << bit % 64);
    sq_pstage_clear(&x->stage[bit]);
    choose_offload(x);
}

void sq_pdev_get(const struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_packet_got *out)
{
    const struct sq_pdir *x = &d->dir[dir];
    out->offload = x->offload;
    if (is_on(x, bit))
        sq_packet_got_fill(out, &x->stage[bit].im, x->stage[bit].limit);
}

void sq_pdev_stats(struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_packet_stats *out)
{
    const struct sq_pstage *s = &d->dir[dir].stage[bit];
    out->packets = s->n.packets;
    out->bytes = s->n.bytes;
    out->dropped = s->n.dropped;
    out->marked = s->n.marked;
    out->duplicated = s->n.duplicated;
    out->corrupted = s->n.corrupted;
    out->reordered = s->n.reordered;
    out->overlimit = s->n.overlimit;
    out->held = s->held;
}

/* ---- packets ---- */

static void drop(struct sq_pdev *d, struct packet *p)
{
    sq_pool_put(d->pool, p);
}

static struct packet *copy(struct sq_pdev *d, const struct packet *p)
{
    struct packet *c = sq_pool_get(d->pool, sizeof *c + p->len);
    if (!c)
        return NULL;
    *c = *p;
    c->off = 0;
    memcpy(c->data, p->data + p->off, p->len);
    return c;
}

/* The write is where the kernel carries the packet all the way to its receiver, or into the device's queue. */
static void write_back(struct sq_pdev *d, struct packet *p)
{
    struct sq_pdir *dir = &d->dir[p->dir];
    ssize_t n = -1;
    for (int tries = 0; dir->tap >= 0 && tries < 4; tries++) {
        n = write(dir->tap, p->data + p->off, p->len);
        if (n >= 0 || (errno != EAGAIN && errno != EINTR && errno != ENOBUFS))
            break;
        struct pollfd f = {.fd = dir->tap, .events = POLLOUT};
        (void)poll(&f, 1, 1); /* its send buffer is "unlimited": this is rare */
    }
    drop(d, p);
}

static void hold(struct sq_pdev *d, struct packet *p, unsigned bit, int64_t due)
{
    struct sq_pdir *dir = &d->dir[p->dir];
    p->stage = (uint8_t)bit;
    p->gen = dir->gen[bit];
    p->held.due = due;
    dir->stage[bit].held++;
    sq_wheel_add(d->wheel, &p->held);
}

static int next_stage(struct sq_pdir *dir, struct packet *p)
{
    for (unsigned w = 0; w < SQ_CLASSIFY_FAULTS / 64; w++) {
        uint64_t todo = p->todo.w[w] & dir->active.w[w];
        if (!todo)
            continue;
        int bit = __builtin_ctzll(todo);
        p->todo.w[w] = todo & (todo - 1);
        return (int)w * 64 + bit;
    }
    return -1;
}

static void through(struct sq_pdev *d, struct packet *p, int64_t at, int64_t now);

/* What the stage at BIT decided, of a packet that is there at AT. False: it is dropped, or held. */
static bool carry_out(struct sq_pdev *d, struct packet *p, unsigned bit, int64_t at, int64_t now, struct sq_frame *f,
                      const struct sq_verdict_packet *v)
{
    struct sq_pstage *s = &d->dir[p->dir].stage[bit];
    uint8_t *vh = p->data + p->off, *frame = vh + SQ_VNET_HDR;
    uint32_t len = p->len - SQ_VNET_HDR;
    if (v->drop) {
        drop(d, p);
        return false;
    }
    if (v->mark)
        sq_frame_mark(frame, len, f);
    struct packet *second = v->duplicate && p->copies < COPIES_MAX ? copy(d, p) : NULL;
    if (second)
        second->copies = ++p->copies;
    else if (v->duplicate)
        s->n.overlimit++;
    if (v->corrupt) {
        struct virtio_net_hdr h;
        memcpy(&h, vh, SQ_VNET_HDR);
        if (!sq_frame_corrupt(&h, frame, len, v->random))
            s->n.corrupted--;
        memcpy(vh, &h, SQ_VNET_HDR);
    }
    bool goes_on = v->due <= now;
    if (!goes_on)
        hold(d, p, bit, v->due);
    if (second) {
        struct sq_verdict_packet again;
        sq_pstage_pass_copy(s, at, f->wire, f->segs, f->ect, &again);
        if (carry_out(d, second, bit, at, now, f, &again))
            through(d, second, again.due, now);
    }
    return goes_on;
}

/* A packet that is at its next stage at AT (<= NOW): through all stages that don't hold it, and back to the TAP. A
 * duplicated packet doesn't duplicate again in the same stage, so this goes no deeper than there are stages. */
static void through(struct sq_pdev *d, struct packet *p, int64_t at, int64_t now)
{
    struct sq_pdir *dir = &d->dir[p->dir];
    struct sq_frame f;
    struct virtio_net_hdr h;
    struct sq_verdict_packet v;
    int bit = next_stage(dir, p);
    if (bit >= 0) {
        memcpy(&h, p->data + p->off, SQ_VNET_HDR);
        sq_frame_look(&h, p->data + p->off + SQ_VNET_HDR, p->len - SQ_VNET_HDR, &f);
    }
    for (; bit >= 0; bit = next_stage(dir, p)) {
        sq_pstage_pass(&dir->stage[bit], at, f.wire, f.segs, f.ect, &v);
        if (!carry_out(d, p, (unsigned)bit, at, now, &f, &v))
            return;
        at = v.due;
    }
    write_back(d, p);
}

/* ---- in ---- */

/* BUF is of a packet's `data`: N bytes were read there. The packet, untagged; NULL: not ours, or no room. */
static struct packet *take(struct sq_pdev *d, unsigned dir, struct packet *p, size_t n)
{
    struct virtio_net_hdr h;
    struct sq_mask mask;
    int skip = n > SQ_VNET_HDR ? sq_packet_untag(p->data + SQ_VNET_HDR, n - SQ_VNET_HDR, &mask) : -1;
    memcpy(&h, p->data, SQ_VNET_HDR);
    uint32_t len = skip > 0 ? (uint32_t)n - SQ_VNET_HDR - (uint32_t)skip : 0;
    if (len < 14 || !sq_frame_shift(&h, (uint32_t)skip, len))
        return NULL;
    p->todo = mask;
    p->dir = (uint8_t)dir;
    p->copies = 0;
    p->off = (uint32_t)skip;
    p->len = len + SQ_VNET_HDR;
    memcpy(p->data + p->off, &h, SQ_VNET_HDR);
    if (p->len <= COPY_MAX) {
        p = copy(d, p);
    } else {
        uint8_t *next = sq_pool_get(d->pool, SQ_POOL_MAX);
        if (next)
            d->spare = next;
        else
            p = NULL;
    }
    if (!p) {
        int bit = next_stage(&d->dir[dir], (struct packet *)(void *)d->spare);
        if (bit >= 0)
            d->dir[dir].stage[bit].n.overlimit++;
    }
    return p;
}

void sq_pdev_feed(struct sq_pdev *d, unsigned dir, const void *buf, size_t len, int64_t now)
{
    struct packet *p = (struct packet *)(void *)d->spare;
    if (len > ROOM)
        return;
    memcpy(p->data, buf, len);
    p = take(d, dir, p, len);
    if (p)
        through(d, p, now, now);
}

int sq_pdev_read(struct sq_pdev *d, unsigned dir, unsigned max)
{
    struct sq_pdir *x = &d->dir[dir];
    unsigned done = 0;
    while (done < max && x->tap >= 0) {
        struct packet *p = (struct packet *)(void *)d->spare;
        ssize_t n = read(x->tap, p->data, ROOM);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            int err = errno;
            (void)close(x->tap);
            x->tap = -1;
            return -err;
        }
        done++;
        int64_t now = sq_mono_ns();
        p = take(d, dir, p, (size_t)n);
        if (p)
            through(d, p, now, now);
    }
    return (int)done;
}

/* ---- out ---- */

unsigned sq_pdev_send(struct sq_pdev *d, int64_t now, unsigned max)
{
    unsigned done = 0;
    struct sq_held *h;
    while (done < max && (h = sq_wheel_due(d->wheel, now))) {
        struct packet *p = (struct packet *)(void *)h;
        struct sq_pdir *dir = &d->dir[p->dir];
        if (is_on(dir, p->stage) && p->gen == dir->gen[p->stage])
            dir->stage[p->stage].held--;
        through(d, p, h->due, now);
        if (++done % 8 == 0)
            now = sq_mono_ns();
    }
    return done;
}

int64_t sq_pdev_next(const struct sq_pdev *d)
{
    return sq_wheel_next(d->wheel);
}

/* ---- life ---- */

struct sq_pdev *sq_pdev_new(int64_t now, size_t pool_max)
{
    struct sq_pdev *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    for (unsigned i = 0; i < SQ_DIRECTIONS; i++)
        d->dir[i].tap = -1;
    d->pool = sq_pool_new(pool_max);
    d->wheel = sq_wheel_new(now);
    d->spare = d->pool ? sq_pool_get(d->pool, SQ_POOL_MAX) : NULL;
    if (d->spare && d->wheel)
        return d;
    sq_pdev_free(d);
    return NULL;
}

void sq_pdev_free(struct sq_pdev *d)
{
    for (unsigned i = 0; i < SQ_DIRECTIONS; i++) {
        for (unsigned bit = 0; bit < SQ_CLASSIFY_FAULTS; bit++)
            sq_pstage_clear(&d->dir[i].stage[bit]);
        if (d->dir[i].tap >= 0)
            (void)close(d->dir[i].tap);
    }
    sq_wheel_free(d->wheel);
    sq_pool_free(d->pool);
    free(d);
}

int sq_pdev_tap(struct sq_pdev *d, unsigned dir, int tap)
{
    int flags = fcntl(tap, F_GETFL);
    if (flags < 0 || fcntl(tap, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    d->dir[dir].tap = tap;
    d->dir[dir].offload = true; /* as it was made */
    choose_offload(&d->dir[dir]);
    return 0;
}
