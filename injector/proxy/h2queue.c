/* What goes on of one connection of HTTP/2 later than it came, and the windows (RFC 9113, 5.2). */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/h2_priv.h"

/* Is a frame passing, in pieces, that nothing may come between? */
static bool in_frame(const struct sq_h2 *h, int lane)
{
    const struct side *d = &h->side[lane];
    return d->fh_n == 9 && d->act == A_PASS && d->left > 0;
}

static bool ready(const struct sq_h2 *h, int lane)
{
    return (lane == TO_DEP || h->greeted) && !in_frame(h, lane);
}

/* The bytes of a frame that count for windows: all of DATA's payload. */
static int64_t weight_of(const char *p, size_t n)
{
    return n >= 9 && p[3] == DATA ? (int64_t)n - 9 : 0;
}

/* For DATA of others. Who sends it keeps to the windows; it does not know of what we put in. */
static int64_t room_of(const struct sq_h2 *h, int lane, const struct stream *s)
{
    int64_t room = h->flow[lane].owed > 0 ? h->flow[lane].room : INT64_MAX;
    int64_t mine = s && s != &h->others && s->flow[lane].owed > 0 ? h->initial[lane] + s->flow[lane].room : INT64_MAX;
    return room < mine ? room : mine;
}

bool sq_h2_has_room(const struct sq_h2 *h, int lane, const struct stream *s, int64_t weight)
{
    return weight <= 0 || weight <= room_of(h, lane, s);
}

void sq_h2_take_room(struct sq_h2 *h, int lane, struct stream *s, int64_t weight)
{
    h->flow[lane].room -= weight;
    if (s)
        s->flow[lane].room -= weight;
}

static void out(struct sq_h2 *h, int lane, struct stream *s, char *p, size_t n)
{
    sq_h2_take_room(h, lane, s, weight_of(p, n));
    h->ops.out(h->ops.arg, lane, p, n);
}

static struct held *hold(struct sq_h2 *h, int lane, struct stream *s, const char *p, size_t n)
{
    struct queue *q = &s->queue[lane];
    struct held *one = malloc(sizeof(*one) + n);
    if (!one) {
        h->broken = true;
        return NULL;
    }
    *one = (struct held){.due = h->now, .kind = H_BYTES, .n = n};
    if (lane == TO_CALLER)
        one->due = s->hole ? INT64_MAX : h->now + (s->slow ? s->call.delay : 0);
    if (n > 0)
        memcpy(one->p, p, n);
    if (q->tail)
        q->tail->next = one;
    else
        q->head = one;
    q->tail = one;
    h->held[lane] += n;
    h->waiting[lane]++;
    if (one->due > h->now && one->due < h->soonest)
        h->soonest = one->due;
    return one;
}

static void free_first(struct sq_h2 *h, int lane, struct stream *s)
{
    struct queue *q = &s->queue[lane];
    struct held *one = q->head;
    q->head = one->next;
    if (!q->head)
        q->tail = NULL;
    h->held[lane] -= one->n + (one->counted ? json_string_length(one->ref) : 0);
    h->waiting[lane]--;
    json_decref(one->ref);
    free(one);
}

int64_t sq_h2_discard(struct sq_h2 *h, int lane, struct stream *s)
{
    int64_t lost = 0;
    while (s->queue[lane].head) {
        const struct held *one = s->queue[lane].head;
        lost += one->kind == H_BYTES ? weight_of(one->p, one->n) : 0;
        free_first(h, lane, s);
    }
    return lost;
}

void sq_h2_pass(struct sq_h2 *h, int lane, struct stream *s, char *p, size_t n)
{
    struct stream *of = s ? s : &h->others;
    bool later = s && lane == TO_CALLER && (s->hole || s->slow);
    if (!later && !of->queue[lane].head && !ready(h, lane))
        h->unready[lane] = true;
    if (!later && !of->queue[lane].head && !sq_h2_has_room(h, lane, s, weight_of(p, n)))
        h->wake = true; /* a part of it may have */
    if (later || of->queue[lane].head || !ready(h, lane) || !sq_h2_has_room(h, lane, s, weight_of(p, n)))
        (void)hold(h, lane, of, p, n);
    else
        out(h, lane, of, p, n);
}

void sq_h2_say_head(struct sq_h2 *h, struct stream *s, json_t *says)
{
    struct held *one = hold(h, TO_CALLER, s, NULL, 0);
    if (!one)
        return;
    one->kind = H_ANSWER;
    one->ref = json_incref(says);
    h->wake = true;
}

void sq_h2_say_text(struct sq_h2 *h, int lane, struct stream *s, json_t *text, bool end, bool counted)
{
    struct held *one = hold(h, lane, s, NULL, 0);
    if (!one)
        return;
    one->kind = H_TEXT;
    one->ref = json_incref(text);
    one->end = end;
    one->counted = counted;
    h->held[lane] += counted ? json_string_length(text) : 0;
    h->wake = true;
}

/* As much of a text as there is room for. True: that was all. */
static bool say_text(struct sq_h2 *h, int lane, struct stream *s, struct held *one)
{
    const char *text = json_string_value(one->ref);
    size_t len = json_string_length(one->ref);
    bool first = true;
    while (first ? one->at < len || one->end : one->at < len) {
        size_t some = len - one->at < FRAME_MAX ? len - one->at : FRAME_MAX;
        int64_t mine = h->initial[lane] + s->flow[lane].room;
        int64_t room = h->flow[lane].room < mine ? h->flow[lane].room : mine;
        h->cramped[lane] = h->ops.room && !h->ops.room(h->ops.arg, lane);
        if (h->broken || h->cramped[lane] || (some > 0 && room <= 0))
            return false;
        some = (int64_t)some < room || some == 0 ? some : (size_t)room;
        struct sq_out o = {0};
        sq_h2_frame(&o, DATA, one->end && one->at + some == len ? END_STREAM : 0, s->id, text + one->at, some);
        h->broken = h->broken || o.failed;
        one->at += some;
        h->flow[lane].owed += (int64_t)some;
        s->flow[lane].owed += (int64_t)some;
        if (!o.failed)
            out(h, lane, s, o.p, o.n);
        sq_out_free(&o);
        first = false;
    }
    return true;
}

static bool say_head(struct sq_h2 *h, struct stream *s, const struct held *one)
{
    struct sq_out o = {0};
    h->cramped[TO_CALLER] = h->ops.room && !h->ops.room(h->ops.arg, TO_CALLER);
    if (h->cramped[TO_CALLER])
        return false;
    sq_h2_own_head(&o, s, one->ref);
    h->broken = h->broken || o.failed;
    if (!o.failed)
        out(h, TO_CALLER, s, o.p, o.n);
    sq_out_free(&o);
    return true;
}

/* A frame may be as large as the window that its sender knows of. Who has had nothing of it may give no credit: as much
 * goes on as there is room for, unless it is padded. */
static void say_part(struct sq_h2 *h, int lane, struct stream *s, struct held *one)
{
    int64_t room = room_of(h, lane, s);
    struct sq_out o = {0};
    if (room <= 0 || (one->p[4] & PADDED))
        return;
    size_t some = (size_t)room, left = one->n - 9 - some;
    sq_h2_frame(&o, DATA, 0, sq_h2_get32(one->p + 5), one->p + 9, some);
    h->broken = h->broken || o.failed;
    if (!o.failed)
        out(h, lane, s, o.p, o.n);
    sq_out_free(&o);
    memmove(one->p + 9, one->p + 9 + some, left);
    one->p[0] = (char)(left >> 16 & 255);
    one->p[1] = (char)(left >> 8 & 255);
    one->p[2] = (char)(left & 255);
    one->n -= some;
    h->held[lane] -= some;
}

static bool step(struct sq_h2 *h, int lane, struct stream *s, struct held *one)
{
    if (one->kind == H_TEXT)
        return say_text(h, lane, s, one);
    if (one->kind == H_ANSWER)
        return say_head(h, s, one);
    if (!sq_h2_has_room(h, lane, s, weight_of(one->p, one->n))) {
        say_part(h, lane, s, one);
        return false;
    }
    out(h, lane, s, one->p, one->n);
    return true;
}

bool sq_h2_run(struct sq_h2 *h, int lane, struct stream *s)
{
    struct queue *q = &s->queue[lane];
    bool any = false;
    while (q->head && q->head->due <= h->now && !h->broken) {
        if (!ready(h, lane)) {
            h->unready[lane] = true;
            return any;
        }
        if (!step(h, lane, s, q->head))
            return any;
        free_first(h, lane, s);
        any = true;
    }
    if (q->head && q->head->due > h->now && q->head->due < h->soonest)
        h->soonest = q->head->due;
    return any;
}

void sq_h2_due(struct sq_h2 *h, int64_t now)
{
    h->now = now;
    if (sq_h2_next(h) > now)
        return;
    h->wake = h->cramped[TO_DEP] = h->cramped[TO_CALLER] = false;
    h->soonest = INT64_MAX;
    for (int lane = 0; lane < 2; lane++)
        (void)sq_h2_run(h, lane, &h->others);
    for (unsigned b = 0; b < BUCKETS && !h->broken; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            if (s->released) {
                sq_h2_come_out(h, s);
                continue;
            }
            bool any = sq_h2_run(h, TO_DEP, s);
            if (sq_h2_run(h, TO_CALLER, s) || any)
                sq_h2_maybe_over(h, s);
        }
}

int64_t sq_h2_next(const struct sq_h2 *h)
{
    if (h->wake)
        return 0;
    for (int lane = 0; lane < 2; lane++)
        if (h->cramped[lane] && (!h->ops.room || h->ops.room(h->ops.arg, lane)))
            return 0;
    return h->soonest;
}

bool sq_h2_holds(const struct sq_h2 *h, int lane)
{
    return ready(h, lane) && (h->waiting[lane] > 0 || h->early[lane].n > 0);
}

bool sq_h2_full(const struct sq_h2 *h, int lane)
{
    /* The credit for what waits in one direction comes on the other one: were neither read, each would wait for ever.
     */
    size_t most = h->held[1 - lane] >= SQ_H2_HELD ? 2 * SQ_H2_HELD : SQ_H2_HELD;
    return h->held[lane] >= most;
}

/* A frame of ours that no window counts. */
static void control(struct sq_h2 *h, int lane, uint8_t type, uint32_t id, uint32_t v)
{
    struct sq_out o = {0};
    unsigned char p[4];
    sq_h2_put32(p, v);
    sq_h2_frame(&o, type, 0, id, (char *)p, sizeof(p));
    h->broken = h->broken || o.failed;
    if (!o.failed && ready(h, lane)) {
        h->ops.out(h->ops.arg, lane, o.p, o.n);
    } else if (!o.failed) {
        sq_out_put(&h->early[lane], o.p, o.n);
        h->broken = h->broken || h->early[lane].failed || h->early[lane].n > SQ_H2_HELD;
    }
    sq_out_free(&o);
}

void sq_h2_window_update(struct sq_h2 *h, int lane, uint32_t id, int64_t n)
{
    if (n > 0 && n <= INT32_MAX)
        control(h, lane, WINDOW_UPDATE, id, (uint32_t)n);
}

void sq_h2_reset_stream(struct sq_h2 *h, int lane, uint32_t id, uint32_t why)
{
    control(h, lane, RST_STREAM, id, why);
}

void sq_h2_give_back(struct sq_h2 *h, int lane, uint32_t id, int64_t n)
{
    sq_h2_window_update(h, 1 - lane, 0, n);
    if (id)
        sq_h2_window_update(h, 1 - lane, id, n);
}

void sq_h2_ready(struct sq_h2 *h, int lane)
{
    if (!ready(h, lane))
        return;
    h->wake = h->wake || h->unready[lane];
    h->unready[lane] = false;
    if (h->early[lane].n > 0) {
        h->ops.out(h->ops.arg, lane, h->early[lane].p, h->early[lane].n);
        sq_out_free(&h->early[lane]);
    }
}
