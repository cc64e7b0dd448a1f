/* Header blocks of HTTP/2: read, judged, and passed on as they came or written anew. */
#include "proxy/h2_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"

void sq_h2_start_delay(struct sq_h2 *h, struct stream *s)
{
    if (s->slow || s->call.delayed || s->queue[TO_CALLER].head)
        return;
    int64_t delay = h->ops.delay(h->ops.arg, &s->call);
    if (delay <= 0)
        return;
    s->slow = h->touched = true;
    s->call.delay = delay;
    s->call.held += delay;
}

/* A new request. True: it goes to the dependency. */
static bool decide(struct sq_h2 *h, struct stream *s, const struct sq_head *head)
{
    const struct sq_rules *r = h->ops.rules;
    h->ops.request(h->ops.arg, &s->call, head);
    uint32_t hits = s->call.hits, holes = hits & ~(h->ops.whole ? *h->ops.whole : 0);
    const struct sq_rule *status = hits ? sq_rules_first(r, sq_rules_of(r, hits, SQ_R_HTTP_STATUS)) : NULL;
    s->call.no_body = head->method.n == 4 && memcmp(head->method.p, "HEAD", 4) == 0;
    s->call.connect = head->method.n == 7 && memcmp(head->method.p, "CONNECT", 7) == 0;
    if (!hits)
        return true;
    if (sq_rules_of(r, hits, SQ_R_ERROR) | sq_rules_of(r, holes, SQ_R_BLACKHOLE)) {
        s->hole = !sq_rules_of(r, hits, SQ_R_ERROR);
        s->call.fate = s->hole ? SQ_FATE_NONE : SQ_FATE_RESET;
    } else if (sq_rules_of(r, hits, SQ_R_BLACKHOLE)) { /* of the whole connection: it waits with the rest */
        return true;
    } else if (sq_rules_of(r, hits, SQ_R_HTTP_ABORT)) {
        s->call.fate = SQ_FATE_RESET;
    } else if (status) {
        s->call.fate = SQ_FATE_ANSWER;
        sq_h2_prepare(s, status, head);
    } else {
        return true;
    }
    s->dropped = h->touched = true;
    return false;
}

static bool unpack(struct side *d, struct sq_out *text, struct sq_head *head, size_t *off)
{
    const uint8_t *in = d->block.n ? (const uint8_t *)d->block.p : (const uint8_t *)"";
    size_t left = d->block.n;
    bool ok = true;
    while (ok) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd2(d->inf, &nv, &flags, in, left, 1);
        if (n < 0)
            return false;
        in += n;
        left -= (size_t)n;
        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
            ok = head->n < SQ_HEAD_FIELDS && text->n + nv.namelen + nv.valuelen <= UNPACKED_MAX;
            if (!ok)
                break;
            off[head->n] = text->n;
            head->field[head->n++] = (struct sq_field){.name = {NULL, nv.namelen},
                                                       .value = {NULL, nv.valuelen},
                                                       .secret = nv.flags & NGHTTP2_NV_FLAG_NO_INDEX};
            sq_out_put(text, (const char *)nv.name, nv.namelen);
            sq_out_put(text, (const char *)nv.value, nv.valuelen);
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) {
            (void)nghttp2_hd_inflate_end_headers(d->inf);
            break;
        }
        if (left == 0 && !(flags & NGHTTP2_HD_INFLATE_EMIT))
            break;
    }
    return ok && !text->failed;
}

static bool is_field(const struct sq_field *f, const char *name)
{
    return f->name.n == strlen(name) && memcmp(f->name.p, name, f->name.n) == 0;
}

/* What the block says: method, path and status beside the fields. */
static void read_pseudo(struct sq_head *head)
{
    head->path = (struct sq_text){"", 0};
    for (unsigned i = 0; i < head->n; i++) {
        const struct sq_field *f = &head->field[i];
        if (is_field(f, ":method"))
            head->method = f->value;
        else if (is_field(f, ":path"))
            head->path = f->value;
        else if (is_field(f, ":status") && f->value.n == 3)
            head->status = (f->value.p[0] - '0') * 100 + (f->value.p[1] - '0') * 10 + (f->value.p[2] - '0');
    }
}

/* The block as literals, with the fields that rules set or remove, and a length that is another one. */
static void repack(struct sq_h2 *h, struct sq_out *o, const struct sq_head *head, uint32_t hits, bool request,
                   const struct reframe *how)
{
    const struct sq_rules *r = h->ops.rules;
    uint32_t edits = hits ? sq_rules_side(r, hits, SQ_R_HTTP_HEADER, request) : 0;
    char text[32];
    sq_h2_begin_block(o);
    for (unsigned i = 0; i < head->n; i++) {
        const struct sq_field *f = &head->field[i];
        if ((!edits || !sq_rules_edit_field(r, edits, request, f->name.p, f->name.n)) &&
            (!how->on || !sq_head_frames(f->name.p, f->name.n, how->encoded)))
            sq_h2_literal(o, f->name, f->value, f->secret);
    }
    for (unsigned i = 0; edits && i < r->n; i++) {
        const char *name;
        json_t *v;
        if (!(edits & (UINT32_C(1) << r->order[i])))
            continue;
        json_object_foreach(json_object_get(r->slot[r->order[i]].http, "set"), name,
                            v) if (!sq_rules_set_later(r, edits, i, name)) sq_h2_field(o, name, json_string_value(v));
    }
    (void)snprintf(text, sizeof(text), "%lld", (long long)how->length);
    if (how->on && how->length >= 0)
        sq_h2_field(o, "content-length", text);
}

/* A header block goes on, as it came or written anew. HITS: rules that edit it. */
static void pass_block(struct sq_h2 *h, int lane, struct stream *s, const struct sq_head *head, uint32_t hits,
                       const struct reframe *how)
{
    struct side *d = &h->side[lane];
    struct sq_out block = {0}, o = {0};
    if (h->touched) {
        repack(h, &block, head, hits, lane == TO_DEP, how);
        sq_h2_block_frames(&o, d->block_type, how->opens ? 0 : d->block_flags & END_STREAM, d->block_id,
                           d->block_type == PUSH_PROMISE ? &d->prefix : NULL, &block);
        h->broken = h->broken || o.failed;
    }
    char *p = h->touched ? o.p : d->raw.p;
    size_t n = h->touched ? o.n : d->raw.n;
    if (!h->broken && how->fresh && !s)
        h->ops.out(h->ops.arg, lane, p, n);
    else if (!h->broken)
        sq_h2_pass(h, lane, s, p, n);
    if (!h->broken && how->text)
        sq_h2_say_text(h, lane, s, how->text, how->opens, false);
    sq_out_free(&block);
    sq_out_free(&o);
}

/* There is no room for another stream: it is passed on, and no rule hits it. */
static void unseen(struct sq_h2 *h, uint32_t id)
{
    h->unseen[0] = h->unseen[0] ? h->unseen[0] : id;
    h->unseen[1] = id;
    if (h->ops.unseen)
        h->ops.unseen(h->ops.arg);
}

static void request_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_DEP];
    struct stream *s = sq_h2_find(h, d->block_id);
    struct reframe how = {0};
    bool first = false, end = d->block_flags & END_STREAM;
    if (sq_h2_buried(h, d->block_id))
        return;
    if (!s && (d->block_id & 1) && d->block_id > h->last) {
        h->last = d->block_id;
        how.fresh = true;
        s = sq_h2_add(h, d->block_id);
        first = s != NULL;
        if (!s)
            unseen(h, d->block_id);
    }
    if (s && end)
        s->done[TO_DEP] = true;
    if ((first && !decide(h, s, head)) || (s && s->dropped)) {
        sq_h2_dropped_goes_on(h, s);
        return;
    }
    if (first && sq_rules_side(h->ops.rules, s->call.hits, SQ_R_HTTP_HEADER, true))
        h->touched = true;
    if (first && s->call.hits)
        sq_h2_body_begin(h, TO_DEP, s, head, end, &how);
    else if (s && !first)
        sq_h2_body_end(h, TO_DEP, s);
    pass_block(h, TO_DEP, s, head, first ? s->call.hits : 0, &how);
    if (s && end)
        sq_h2_maybe_over(h, s);
}

static void answer_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_CALLER];
    struct stream *s = d->block_type == HEADERS ? sq_h2_find(h, d->block_id) : NULL;
    struct reframe how = {0};
    uint32_t hits = 0;
    bool end = d->block_flags & END_STREAM;
    if (s && s->call.answer) {
        sq_h2_body_end(h, TO_CALLER, s);
    } else if (s && head->status / 100 != 1) {
        s->call.answer = h->now;
        s->call.status = (uint16_t)(head->status >= 0 && head->status <= 999 ? head->status : 0);
        hits = s->call.hits;
        sq_h2_start_delay(h, s);
        if (hits && sq_rules_side(h->ops.rules, hits, SQ_R_HTTP_HEADER, false))
            h->touched = true;
        if (hits)
            sq_h2_body_begin(h, TO_CALLER, s, head, end, &how);
    }
    pass_block(h, TO_CALLER, s, head, hits, &how);
    if (s && end) {
        s->done[TO_CALLER] = true;
        (void)sq_h2_run(h, TO_CALLER, s);
        sq_h2_maybe_over(h, s);
    }
}

static void end_of_block(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct sq_out text = {0};
    size_t off[SQ_HEAD_FIELDS];
    struct sq_head head = {.field = h->field};
    d->in_block = false;
    if (d->block.failed || d->raw.failed || !unpack(d, &text, &head, off)) {
        sq_h2_lose(h);
    } else {
        const char *base = text.p ? text.p : "";
        for (unsigned i = 0; i < head.n; i++) {
            head.field[i].name.p = base + off[i];
            head.field[i].value.p = base + off[i] + head.field[i].name.n;
        }
        read_pseudo(&head);
        if (lane == TO_DEP)
            request_block(h, &head);
        else
            answer_block(h, &head);
    }
    sq_out_free(&text);
    d->raw.n = d->block.n = 0;
    if (d->raw.cap > BLOCK_KEPT) {
        sq_out_free(&d->raw);
        sq_out_free(&d->block);
        sq_out_free(&d->frame);
    }
}

/* A frame with a piece of a header block. */
void sq_h2_on_block(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    char *p = d->frame.p + 9;
    size_t n = d->frame.n - 9, pad = 0;
    if (d->type != CONTINUATION) {
        d->block.n = d->raw.n = d->prefix.n = 0;
        d->block_id = d->id;
        d->block_type = d->type;
        d->block_flags = d->flags;
        size_t skip = (d->flags & PADDED ? 1u : 0u) + (d->type == PUSH_PROMISE ? 4u : 0u) +
                      (d->type == HEADERS && (d->flags & WITH_PRIORITY) ? 5u : 0u);
        pad = d->flags & PADDED && n > 0 ? (unsigned char)*p : 0;
        if (n < skip + pad) {
            sq_h2_lose(h);
            return;
        }
        if (d->type == PUSH_PROMISE)
            sq_out_put(&d->prefix, p + (d->flags & PADDED ? 1 : 0), 4);
        p += skip;
        n -= skip + pad;
    }
    sq_out_put(&d->block, p, n);
    sq_out_put(&d->raw, d->frame.p, d->frame.n);
    d->frame.n = 0;
    d->in_block = true;
    if (d->raw.n > BLOCK_MAX || d->raw.failed || d->block.failed)
        sq_h2_lose(h);
    else if (d->flags & END_HEADERS)
        end_of_block(h, lane);
}
