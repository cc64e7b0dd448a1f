/* The frames of one connection of HTTP/2: which pass, which go nowhere, which are gathered first. */
#include "proxy/h2_priv.h"

#include <string.h>

/* Nothing can be followed any more. */
void sq_h2_lose(struct sq_h2 *h)
{
    if (h->touched) {
        h->broken = true;
        return;
    }
    h->blind = true;
    for (int i = 0; i < 2; i++) {
        struct side *d = &h->side[i];
        if (d->raw.n)
            h->ops.out(h->ops.arg, i, d->raw.p, d->raw.n);
        if (d->act == A_GATHER && d->frame.n)
            h->ops.out(h->ops.arg, i, d->frame.p, d->frame.n);
        else if (d->fh_n > 0 && d->fh_n < 9)
            h->ops.out(h->ops.arg, i, (char *)d->fh, d->fh_n);
        d->raw.n = d->frame.n = d->block.n = 0;
        d->fh_n = 0;
    }
}

static void on_settings(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane], *other = &h->side[1 - lane];
    for (size_t at = 9; !(d->flags & ACK) && at + 6 <= d->frame.n; at += 6) {
        const unsigned char *u = (const unsigned char *)d->frame.p + at;
        unsigned key = (unsigned)u[0] << 8 | u[1];
        uint32_t v = sq_h2_get32(d->frame.p + at + 2);
        /* A smaller table is announced by the encoder itself. */
        if (key == 1 && v > other->table) {
            other->table = v < TABLE_MAX ? v : TABLE_MAX;
            (void)nghttp2_hd_inflate_change_table_size(other->inf, other->table);
        } else if (key == 4) {
            h->initial[1 - lane] = v;
            h->wake = true;
        }
    }
}

/* Of the credit that goes on which is not for bytes of ours. False: nothing of it. */
static bool on_credit(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = d->id ? sq_h2_find(h, d->id) : NULL;
    struct flow *f = d->id ? s ? &s->flow[1 - lane] : NULL : &h->flow[1 - lane];
    bool pass = lane == TO_CALLER || !(s ? s->dropped : sq_h2_buried(h, d->id));
    if (d->frame.n < 13 || !f)
        return pass;
    int64_t n = sq_h2_get32(d->frame.p + 9) & 0x7fffffff;
    int64_t ours = n < f->owed ? n : f->owed;
    f->room += n;
    f->owed -= ours;
    h->wake = h->wake || h->waiting[1 - lane] > 0;
    if (ours > 0)
        sq_h2_put32((unsigned char *)d->frame.p + 9, (uint32_t)(n - ours));
    return pass && (n > ours || n == 0);
}

/* False: the frame goes nowhere, or waits. */
static bool on_reset(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = sq_h2_find(h, d->id);
    if (!s && lane == TO_CALLER) {
        sq_h2_pass(h, lane, NULL, d->frame.p, d->frame.n);
        return false;
    }
    if (!s)
        return !sq_h2_buried(h, d->id);
    sq_h2_give_back(h, TO_DEP, 0, sq_h2_discard(h, TO_DEP, s));
    sq_h2_body_free(h, TO_DEP, s);
    if (lane == TO_CALLER && (s->hole || s->queue[lane].head)) { /* behind what waits, which may be all of it */
        s->call.cut = s->call.cut || !s->done[TO_CALLER];
        s->done[TO_CALLER] = s->done[TO_DEP] = s->reset = true;
        sq_h2_pass(h, lane, s, d->frame.p, d->frame.n);
        return false;
    }
    sq_h2_give_back(h, TO_CALLER, 0, sq_h2_discard(h, TO_CALLER, s));
    bool pass = !s->dropped;
    sq_h2_tell(h, s, lane == TO_DEP ? SQ_OUT_GAVE_UP : s->done[TO_CALLER] ? SQ_OUT_ANSWERED : SQ_OUT_BROKEN);
    sq_h2_drop(h, s);
    return pass;
}

static void on_data(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = sq_h2_find(h, d->id);
    if (s && s->body[lane])
        sq_h2_body_data(h, lane, s);
    else
        sq_h2_pass(h, lane, s, d->frame.p, d->frame.n);
}

static void on_gathered(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    bool pass = true;
    if (d->frame.failed) {
        h->broken = true;
        return;
    }
    if (d->type == HEADERS || d->type == PUSH_PROMISE || d->type == CONTINUATION) {
        sq_h2_on_block(h, lane);
        return;
    }
    if (d->type == SETTINGS)
        on_settings(h, lane);
    else if (d->type == RST_STREAM)
        pass = on_reset(h, lane);
    else if (d->type == WINDOW_UPDATE)
        pass = on_credit(h, lane);
    if (d->type == DATA)
        on_data(h, lane);
    else if (pass)
        h->ops.out(h->ops.arg, lane, d->frame.p, d->frame.n);
    d->frame.n = 0;
    if (d->frame.cap > GATHER_MAX)
        sq_out_free(&d->frame);
    if (d->type == SETTINGS && lane == TO_CALLER)
        h->greeted = true;
}

static void end_of_data(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = sq_h2_find(h, d->id);
    bool end = d->flags & END_STREAM;
    if (lane == TO_DEP && d->act == A_DROP) { /* a black hole takes what its window holds */
        sq_h2_give_back(h, lane, s && !end && !s->hole ? d->id : 0, d->len);
        if (s && s->hole)
            s->eaten += d->len;
    }
    if (!s || !end)
        return;
    s->done[lane] = true;
    if (s->dropped && lane == TO_DEP)
        sq_h2_dropped_goes_on(h, s);
    else
        sq_h2_maybe_over(h, s);
}

static void frame_end(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    if (d->act == A_GATHER)
        on_gathered(h, lane);
    d->fh_n = 0;
    if (h->blind || h->broken)
        return;
    if (d->type == DATA)
        end_of_data(h, lane);
    sq_h2_ready(h, lane);
}

static enum act act_of(const struct sq_h2 *h, int lane, const struct stream *s)
{
    const struct side *d = &h->side[lane];
    switch (d->type) {
    case HEADERS:
    case PUSH_PROMISE:
    case CONTINUATION:
    case SETTINGS:
    case RST_STREAM:
    case WINDOW_UPDATE:
        return A_GATHER;
    case DATA:
        if (lane == TO_DEP && (s ? s->dropped || s->reset : sq_h2_buried(h, d->id)))
            return A_DROP;
        if (s && (s->body[lane] || (lane == TO_CALLER && (s->slow || s->hole))))
            return A_GATHER;
        return (s ? s : &h->others)->queue[lane].head || !sq_h2_has_room(h, lane, s, d->len) ? A_GATHER : A_PASS;
    default:
        return A_PASS;
    }
}

static void frame_begin(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    d->len = d->left = (uint32_t)d->fh[0] << 16 | (uint32_t)d->fh[1] << 8 | d->fh[2];
    d->type = d->fh[3];
    d->flags = d->fh[4];
    d->id = sq_h2_get32((const char *)d->fh + 5) & 0x7fffffff;
    struct stream *s = d->type == DATA ? sq_h2_find(h, d->id) : NULL;
    d->act = act_of(h, lane, s);
    if (d->act == A_GATHER) {
        d->frame.n = 0;
        sq_out_put(&d->frame, (const char *)d->fh, 9);
    }
    if (d->in_block != (d->type == CONTINUATION) || (d->in_block && d->id != d->block_id) ||
        (d->act == A_GATHER && d->type != DATA && d->len > GATHER_MAX)) {
        sq_h2_lose(h);
        if (h->blind && d->act == A_PASS)
            h->ops.out(h->ops.arg, lane, (char *)d->fh, 9);
        return;
    }
    if (d->act == A_GATHER && d->type == DATA && d->len > SQ_H2_HELD) {
        h->broken = true; /* more than may be held */
        return;
    }
    if (lane == TO_CALLER && !h->greeted && d->type != SETTINGS) { /* it does not keep to the order itself */
        h->greeted = true;
        d->fh_n = 0; /* nothing of this frame is out */
        sq_h2_ready(h, lane);
        d->fh_n = 9;
    }
    if (d->act == A_PASS) {
        if (d->type == DATA)
            sq_h2_take_room(h, lane, s, d->len);
        h->ops.out(h->ops.arg, lane, (char *)d->fh, 9);
    }
}

static size_t payload(struct sq_h2 *h, int lane, char *p, size_t len)
{
    struct side *d = &h->side[lane];
    size_t some = len < d->left ? len : d->left;
    if (d->act == A_PASS && some > 0)
        h->ops.out(h->ops.arg, lane, p, some);
    else if (d->act == A_GATHER)
        sq_out_put(&d->frame, p, some);
    d->left -= (uint32_t)some;
    if (d->left == 0)
        frame_end(h, lane);
    return some;
}

void sq_h2_feed(struct sq_h2 *h, int lane, char *p, size_t len, int64_t now)
{
    struct side *d = &h->side[lane];
    h->now = now;
    while (len > 0 && !h->broken && !h->blind) {
        size_t some = 0;
        if (d->fh_n < 9) {
            some = 9 - d->fh_n < len ? 9 - d->fh_n : len;
            memcpy(d->fh + d->fh_n, p, some);
            d->fh_n += (unsigned)some;
            if (d->fh_n == 9)
                frame_begin(h, lane);
            if (d->fh_n == 9 && d->left == 0 && !h->blind && !h->broken)
                (void)payload(h, lane, p, 0);
        } else {
            some = payload(h, lane, p, len);
        }
        p += some;
        len -= some;
    }
    if (h->blind && len > 0)
        h->ops.out(h->ops.arg, lane, p, len);
    else if (!h->blind && !h->broken)
        sq_h2_due(h, now);
}

void sq_h2_stop(struct sq_h2 *h)
{
    if (!h->blind)
        sq_h2_lose(h);
}

void sq_h2_ends(struct sq_h2 *h, int lane)
{
    const struct side *d = &h->side[lane];
    bool held = d->in_block || (d->fh_n > 0 && (d->fh_n < 9 || d->act == A_GATHER));
    if (held && !h->touched)
        sq_h2_stop(h);
}

void sq_h2_break(struct sq_h2 *h)
{
    h->broken = true;
}

bool sq_h2_broken(const struct sq_h2 *h)
{
    return h->broken;
}

bool sq_h2_blind(const struct sq_h2 *h)
{
    return h->blind;
}
