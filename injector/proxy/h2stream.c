/* The streams of one connection of HTTP/2. */
#include <limits.h>
#include <stdlib.h>

#include "proxy/h2_priv.h"

struct sq_h2 *sq_h2_new(const struct sq_h2_ops *ops)
{
    struct sq_h2 *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->ops = *ops;
    h->soonest = INT64_MAX;
    for (int i = 0; i < 2; i++) {
        h->flow[i].room = h->initial[i] = WINDOW;
        h->side[i].table = 4096;
        if (nghttp2_hd_inflate_new(&h->side[i].inf) != 0) {
            sq_h2_free(h);
            return NULL;
        }
    }
    return h;
}

static void empty(struct sq_h2 *h, struct stream *s)
{
    for (int i = 0; i < 2; i++) {
        (void)sq_h2_discard(h, i, s);
        sq_h2_body_free(h, i, s);
    }
    json_decref(s->answer);
    s->answer = NULL;
}

void sq_h2_free(struct sq_h2 *h)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            empty(h, s);
            free(s);
        }
    empty(h, &h->others);
    for (int i = 0; i < 2; i++) {
        struct side *d = &h->side[i];
        sq_out_free(&d->frame);
        sq_out_free(&d->raw);
        sq_out_free(&d->block);
        sq_out_free(&d->prefix);
        sq_out_free(&h->early[i]);
        if (d->inf)
            nghttp2_hd_inflate_del(d->inf);
    }
    free(h);
}

struct stream *sq_h2_find(const struct sq_h2 *h, uint32_t id)
{
    struct stream *s = h->bucket[id / 2 % BUCKETS];
    while (s && s->id != id)
        s = s->next;
    return s;
}

struct stream *sq_h2_add(struct sq_h2 *h, uint32_t id)
{
    struct stream *s = h->n < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;
    if (!s)
        return NULL;
    s->id = id;
    s->call.start = h->now;
    s->next = h->bucket[id / 2 % BUCKETS];
    h->bucket[id / 2 % BUCKETS] = s;
    h->n++;
    return s;
}

void sq_h2_drop(struct sq_h2 *h, struct stream *s)
{
    struct stream **at = &h->bucket[s->id / 2 % BUCKETS];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    h->n--;
    empty(h, s);
    free(s);
}

bool sq_h2_buried(const struct sq_h2 *h, uint32_t id)
{
    bool over = h->touched && (id & 1) && id <= h->last && !sq_h2_find(h, id);
    return over && (id < h->unseen[0] || id > h->unseen[1]);
}

void sq_h2_tell(struct sq_h2 *h, struct stream *s, enum sq_call_outcome outcome)
{
    if (!s->told)
        h->ops.done(h->ops.arg, &s->call, outcome, h->now);
    s->told = true;
}

void sq_h2_maybe_over(struct sq_h2 *h, struct stream *s)
{
    if (!s->done[TO_CALLER] || s->queue[TO_CALLER].head)
        return;
    bool failed = s->call.fate && (s->call.status >= 400 || s->call.cut);
    sq_h2_tell(h, s, failed ? SQ_OUT_FAILED : s->call.cut && !s->call.fate ? SQ_OUT_BROKEN : SQ_OUT_ANSWERED);
    if (s->dropped && !s->done[TO_DEP])
        sq_h2_reset_stream(h, TO_CALLER, s->id, NO_ERROR); /* what it still sends is of no use (RFC 9113, 8.1) */
    if (s->dropped || (s->done[TO_DEP] && !s->queue[TO_DEP].head))
        sq_h2_drop(h, s);
}

void sq_h2_come_out(struct sq_h2 *h, struct stream *s)
{
    s->released = false;
    if (s->dropped && s->call.fate == SQ_FATE_NONE) {
        /* The dependency never saw it, and can't any more: its number may be too low (RFC 9113, 5.1.1). This says that
         * it may be tried again (8.7). */
        sq_h2_reset_stream(h, TO_CALLER, s->id, REFUSED_STREAM);
        sq_h2_tell(h, s, SQ_OUT_FAILED);
        sq_h2_drop(h, s);
        return;
    }
    if (!s->done[TO_DEP]) /* it is answered when all of it was read */
        sq_h2_window_update(h, TO_CALLER, s->id, s->eaten);
    s->eaten = 0;
    for (struct held *one = s->queue[TO_CALLER].head; one; one = one->next)
        one->due = one->due == INT64_MAX ? h->now : one->due;
    (void)sq_h2_run(h, TO_DEP, s);
    (void)sq_h2_run(h, TO_CALLER, s);
    sq_h2_maybe_over(h, s);
}

unsigned sq_h2_open(const struct sq_h2 *h)
{
    return h->n;
}

void sq_h2_end(struct sq_h2 *h, enum sq_call_outcome outcome, int64_t now)
{
    h->now = now;
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next) {
            json_decref(s->answer);
            s->answer = NULL;
            sq_h2_tell(h, s, outcome);
        }
}

static bool in_hole(const struct sq_h2 *h, const struct stream *s)
{
    uint32_t whole = h->ops.whole ? *h->ops.whole : 0;
    return sq_rules_of(h->ops.rules, s->call.hits & ~whole, SQ_R_BLACKHOLE);
}

void sq_h2_catch(struct sq_h2 *h, void (*hit)(void *arg, struct sq_call *call, int64_t now), int64_t now)
{
    h->now = now;
    for (unsigned b = 0; b < BUCKETS && !h->blind; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next) {
            if (s->told || s->done[TO_CALLER] || s->call.fate == SQ_FATE_RESET)
                continue;
            hit(h->ops.arg, &s->call, now);
            if (!in_hole(h, s))
                continue;
            s->hole = h->touched = true;
            s->released = false;
        }
}

void sq_h2_release(struct sq_h2 *h, uint32_t gone, int64_t now)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next) {
            s->call.hits &= ~gone;
            if (s->call.bh_since && !sq_rules_of(h->ops.rules, s->call.hits, SQ_R_BLACKHOLE)) {
                s->call.held += now - s->call.bh_since;
                s->call.bh_since = 0;
            }
            if (s->hole && !in_hole(h, s)) {
                s->hole = false;
                s->released = h->wake = true;
            }
        }
}
