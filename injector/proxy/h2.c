/* The frames of one connection of HTTP/2: which pass, which go nowhere, which are gathered first. */
#include "proxy/h2_priv.h"

#include <string.h>

/* Nothing can be followed any more. */
void sq_h2_lose(struct sq_h2 *h)
{
    bool dropped = false;
    for (unsigned b = 0; b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            dropped = dropped || s->dropped || s->head;
    if (h->touched || dropped) {
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
        } else if (key == 4 && lane == TO_DEP) {
            h->initial = v;
        }
    }
}

/* Of the caller's credit that part goes on which is not for bytes of ours. False: nothing of it. */
static bool on_credit(struct sq_h2 *h)
{
    struct side *d = &h->side[TO_DEP];
    struct stream *s = d->id ? sq_h2_find(h, d->id) : NULL;
    if (d->frame.n < 13)
        return true;
    if (d->id)
        return !(s && s->dropped) && !sq_h2_buried(h, d->id);
    int64_t n = sq_h2_get32(d->frame.p + 9) & 0x7fffffff;
    int64_t ours = n < h->owed ? n : h->owed;
    h->window += n;
    h->owed -= ours;
    if (ours > 0)
        sq_h2_put32((unsigned char *)d->frame.p + 9, (uint32_t)(n - ours));
    return n > ours || n == 0;
}

/* False: the frame goes nowhere. */
static bool on_reset(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = sq_h2_find(h, d->id);
    int64_t lost = 0;
    if (!s)
        return lane == TO_CALLER || !sq_h2_buried(h, d->id);
    if (lane == TO_CALLER && s->head) { /* behind what waits */
        s->down_done = s->up_done = true;
        s->call.cut = true;
        sq_h2_hold(h, s, d->frame.p, d->frame.n, h->now + (s->slow ? s->call.delay : 0));
        return false;
    }
    for (const struct held *one = s->head; one; one = one->next)
        lost += sq_h2_weight(one->p, one->n);
    if (s->dropped) {
        h->owed -= lost;
        lost = 0;
    }
    bool pass = !s->dropped;
    sq_h2_tell(h, s, lane == TO_DEP ? SQ_OUT_GAVE_UP : s->down_done ? SQ_OUT_ANSWERED : SQ_OUT_BROKEN);
    if (lane == TO_DEP)
        s->up_done = true;
    sq_h2_drop(h, s);
    sq_h2_window_update(h, TO_DEP, 0, lost);
    return pass;
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
    else if (d->type == WINDOW_UPDATE && lane == TO_DEP)
        pass = on_credit(h);
    if (d->type == DATA) {
        struct stream *s = sq_h2_find(h, d->id);
        sq_h2_answer_bytes(h, s, d->frame.p, d->frame.n);
    } else if (pass) {
        h->ops.out(h->ops.arg, lane, d->frame.p, d->frame.n);
    }
    d->frame.n = 0;
    if (d->type == SETTINGS && lane == TO_CALLER && !h->greeted)
        sq_h2_greet(h);
    if (d->type == WINDOW_UPDATE && lane == TO_DEP)
        sq_h2_due(h, h->now);
}

static void frame_end(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    if (d->act == A_GATHER)
        on_gathered(h, lane);
    d->fh_n = 0;
    if (d->type != DATA || h->blind || h->broken)
        return;
    struct stream *s = sq_h2_find(h, d->id);
    if (lane == TO_DEP && d->act == A_DROP && d->len > 0) {
        sq_h2_window_update(h, TO_CALLER, 0, d->len);
        if (s && !(d->flags & END_STREAM))
            sq_h2_window_update(h, TO_CALLER, d->id, d->len);
    }
    if (!s || !(d->flags & END_STREAM))
        return;
    if (lane == TO_CALLER) {
        s->down_done = true;
        sq_h2_maybe_over(h, s);
        return;
    }
    s->up_done = true;
    if (s->dropped)
        sq_h2_dropped_goes_on(h, s);
    else if (s->down_done && !s->head)
        sq_h2_drop(h, s);
}

static enum act act_of(const struct sq_h2 *h, int lane)
{
    const struct side *d = &h->side[lane];
    const struct stream *s;
    switch (d->type) {
    case HEADERS:
    case PUSH_PROMISE:
    case CONTINUATION:
    case SETTINGS:
    case RST_STREAM:
    case WINDOW_UPDATE:
        return A_GATHER;
    case DATA:
        s = sq_h2_find(h, d->id);
        if (lane == TO_DEP)
            return (s && s->dropped) || sq_h2_buried(h, d->id) ? A_DROP : A_PASS;
        return s && (s->slow || s->head || (h->owed > 0 && (int64_t)d->len > h->window)) ? A_GATHER : A_PASS;
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
    d->act = act_of(h, lane);
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
    if (lane == TO_CALLER && !h->greeted && d->type != SETTINGS)
        sq_h2_greet(h); /* it does not keep to the order itself */
    if (d->act == A_PASS) {
        if (lane == TO_CALLER && d->type == DATA)
            h->window -= d->len;
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
}

void sq_h2_stop(struct sq_h2 *h)
{
    if (!h->blind)
        sq_h2_lose(h);
}

bool sq_h2_full(const struct sq_h2 *h)
{
    return h->held >= SQ_H2_HELD;
}

bool sq_h2_broken(const struct sq_h2 *h)
{
    return h->broken;
}

bool sq_h2_blind(const struct sq_h2 *h)
{
    return h->blind;
}

unsigned sq_h2_open(const struct sq_h2 *h)
{
    return h->n;
}
