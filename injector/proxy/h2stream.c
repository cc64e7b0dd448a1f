/* The streams of one connection of HTTP/2, what of their answers waits, and the windows. */
#include "proxy/h2_priv.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct sq_h2 *sq_h2_new(const struct sq_h2_ops *ops)
{
    struct sq_h2 *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->ops = *ops;
    h->window = h->initial = WINDOW;
    for (int i = 0; i < 2; i++) {
        h->side[i].table = 4096;
        if (nghttp2_hd_inflate_new(&h->side[i].inf) != 0) {
            sq_h2_free(h);
            return NULL;
        }
    }
    return h;
}

void sq_h2_free_held(struct sq_h2 *h, struct stream *s)
{
    while (s->head) {
        struct held *next = s->head->next;
        h->held -= s->head->n;
        free(s->head);
        s->head = next;
    }
    s->tail = NULL;
}

void sq_h2_free(struct sq_h2 *h)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            sq_h2_free_held(h, s);
            free(s->call.own);
            free(s);
        }
    for (int i = 0; i < 2; i++) {
        struct side *d = &h->side[i];
        sq_out_free(&d->frame);
        sq_out_free(&d->raw);
        sq_out_free(&d->block);
        sq_out_free(&d->prefix);
        if (d->inf)
            nghttp2_hd_inflate_del(d->inf);
    }
    sq_out_free(&h->early);
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
    if (s->dropped)
        h->tomb[h->tombs++ % TOMBS] = s->id;
    sq_h2_free_held(h, s);
    free(s->call.own);
    free(s);
}

bool sq_h2_buried(const struct sq_h2 *h, uint32_t id)
{
    for (unsigned i = 0; i < TOMBS && i < h->tombs; i++)
        if (h->tomb[i] == id)
            return true;
    return false;
}

void sq_h2_tell(struct sq_h2 *h, struct stream *s, enum sq_call_outcome outcome)
{
    if (!s->told)
        h->ops.done(h->ops.arg, &s->call, outcome, h->now);
    s->told = true;
}

void sq_h2_hold(struct sq_h2 *h, struct stream *s, const char *p, size_t n, int64_t due)
{
    struct held *one = malloc(sizeof(*one) + n);
    if (!one) {
        h->broken = true;
        return;
    }
    *one = (struct held){.due = due, .n = n};
    memcpy(one->p, p, n);
    if (s->tail)
        s->tail->next = one;
    else
        s->head = one;
    s->tail = one;
    h->held += n;
}

/* The bytes of a frame that count for windows: all of DATA's payload. */
int64_t sq_h2_weight(const char *p, size_t n)
{
    return n >= 9 && p[3] == DATA ? (int64_t)n - 9 : 0;
}

void sq_h2_out_caller(struct sq_h2 *h, char *p, size_t n)
{
    if (h->greeted) {
        h->ops.out(h->ops.arg, TO_CALLER, p, n);
        return;
    }
    sq_out_put(&h->early, p, n);
    h->broken = h->broken || h->early.failed || h->early.n > BLOCK_MAX;
}

void sq_h2_greet(struct sq_h2 *h)
{
    h->greeted = true;
    if (h->early.n > 0)
        h->ops.out(h->ops.arg, TO_CALLER, h->early.p, h->early.n);
    sq_out_free(&h->early);
}

static void out_down(struct sq_h2 *h, char *p, size_t n)
{
    h->window -= sq_h2_weight(p, n);
    sq_h2_out_caller(h, p, n);
}

void sq_h2_window_update(struct sq_h2 *h, int lane, uint32_t id, int64_t n)
{
    struct sq_out o = {0};
    unsigned char p[4];
    if (n <= 0 || n > INT32_MAX)
        return;
    sq_h2_put32(p, (uint32_t)n);
    sq_h2_frame(&o, WINDOW_UPDATE, 0, id, (char *)p, sizeof(p));
    if (!o.failed && lane == TO_CALLER)
        sq_h2_out_caller(h, o.p, o.n);
    else if (!o.failed)
        h->ops.out(h->ops.arg, lane, o.p, o.n);
    sq_out_free(&o);
}

void sq_h2_reset_stream(struct sq_h2 *h, uint32_t id, uint32_t why)
{
    struct sq_out o = {0};
    unsigned char p[4];
    sq_h2_put32(p, why);
    sq_h2_frame(&o, RST_STREAM, 0, id, (char *)p, sizeof(p));
    if (!o.failed)
        sq_h2_out_caller(h, o.p, o.n);
    sq_out_free(&o);
}

/* Whole frames of an answer, one or (a header block) several that belong together. */
void sq_h2_answer_bytes(struct sq_h2 *h, struct stream *s, char *p, size_t n)
{
    if (s && (s->slow || s->head))
        sq_h2_hold(h, s, p, n, h->now + (s->slow ? s->call.delay : 0));
    else if (s && h->owed > 0 && sq_h2_weight(p, n) > h->window)
        sq_h2_hold(h, s, p, n, h->now);
    else
        out_down(h, p, n);
}

/* All of its bytes are out. */
void sq_h2_maybe_over(struct sq_h2 *h, struct stream *s)
{
    if (!s->down_done || s->head)
        return;
    bool failed = s->call.fate && (s->call.status >= 400 || s->call.cut);
    sq_h2_tell(h, s, failed ? SQ_OUT_FAILED : s->call.cut && !s->call.fate ? SQ_OUT_BROKEN : SQ_OUT_ANSWERED);
    if (s->dropped && !s->up_done)
        sq_h2_reset_stream(h, s->id, NO_ERROR); /* what it still sends is of no use (RFC 9113, 8.1) */
    if (s->up_done || s->dropped)
        sq_h2_drop(h, s);
}

void sq_h2_due(struct sq_h2 *h, int64_t now)
{
    h->now = now;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS && !h->broken; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            bool any = false;
            while (s->head && s->head->due <= now &&
                   (h->owed <= 0 || sq_h2_weight(s->head->p, s->head->n) <= h->window)) {
                struct held *one = s->head;
                s->head = one->next;
                if (!s->head)
                    s->tail = NULL;
                h->held -= one->n;
                out_down(h, one->p, one->n);
                free(one);
                any = true;
            }
            if (any)
                sq_h2_maybe_over(h, s);
        }
}

int64_t sq_h2_next(const struct sq_h2 *h)
{
    int64_t first = INT64_MAX;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            if (s->head && s->head->due < first && (h->owed <= 0 || sq_h2_weight(s->head->p, s->head->n) <= h->window))
                first = s->head->due;
    return first;
}

int64_t sq_h2_last(const struct sq_h2 *h)
{
    int64_t last = 0;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            if (s->tail && s->tail->due > last)
                last = s->tail->due;
    return last;
}

void sq_h2_end(struct sq_h2 *h, enum sq_call_outcome outcome, int64_t now)
{
    h->now = now;
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next) {
            free(s->call.own);
            s->call.own = NULL;
            sq_h2_tell(h, s, outcome);
        }
}

void sq_h2_release(struct sq_h2 *h, uint32_t gone)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next)
            s->call.hits &= ~gone;
}
