/* Header blocks of HTTP/2: read, judged, and passed on as they came or written anew. */
#include "proxy/h2_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"

static void start_delay(struct sq_h2 *h, struct stream *s)
{
    if (s->slow || s->call.delayed || s->head)
        return;
    int64_t delay = h->ops.delay(h->ops.arg, &s->call);
    if (delay <= 0)
        return;
    s->slow = h->touched = true;
    s->call.delay = delay;
    s->call.held += delay;
}

static const struct sq_rule *status_rule(const struct sq_h2 *h, const struct sq_call *call)
{
    uint32_t of = sq_rules_of(h->ops.rules, call->hits, SQ_R_HTTP_STATUS);
    return of ? &h->ops.rules->slot[__builtin_ctz(of)] : NULL;
}

/* The answer that the dependency is not asked for, as frames kept with the call until it is time. */
static void prepare(struct sq_h2 *h, struct stream *s, const struct sq_rule *rule, const struct sq_head *head)
{
    const char *body = sq_json_str_or(rule->http, "body", ""), *name;
    json_t *v;
    bool grpc = sq_head_is_grpc(head) && json_is_integer(json_object_get(rule->http, "grpc_status"));
    int status = grpc ? 200 : (int)sq_json_int_or(rule->http, "status", 503);
    bool none =
        grpc || status == 204 || status == 304 || (head->method.n == 4 && memcmp(head->method.p, "HEAD", 4) == 0);
    int64_t len = (int64_t)strlen(body);
    struct sq_out block = {0}, o = {0};
    char text[32];
    if (len > h->window || len > h->initial || len > FRAME_MAX) { /* the caller has no room for it */
        body = "";
        len = 0;
    }
    sq_h2_begin_block(&block);
    (void)snprintf(text, sizeof(text), "%d", status);
    sq_h2_field(&block, ":status", text);
    json_object_foreach(json_object_get(rule->http, "headers"), name, v)
        sq_h2_field(&block, name, json_string_value(v));
    if (grpc) {
        (void)snprintf(text, sizeof(text), "%d", (int)sq_json_int_or(rule->http, "grpc_status", 0));
        sq_h2_field(&block, "content-type", "application/grpc");
        sq_h2_field(&block, "grpc-status", text);
        sq_h2_percent_encoded(&block, "grpc-message", body);
        s->call.cut = sq_json_int_or(rule->http, "grpc_status", 0) != 0;
        s->call.ready = true; /* a stream of messages may have no end */
    } else if (status != 204 && status != 304) {
        (void)snprintf(text, sizeof(text), "%lld", (long long)len);
        sq_h2_field(&block, "content-length", text);
    }
    sq_h2_block_frames(&o, HEADERS, none || len == 0 ? END_STREAM : 0, s->id, NULL, &block);
    if (!none && len > 0)
        sq_h2_frame(&o, DATA, END_STREAM, s->id, body, (size_t)len);
    sq_out_free(&block);
    s->call.status = (uint16_t)status;
    s->call.own = o.p;
    s->call.own_len = o.n;
    h->broken = h->broken || o.failed;
}

/* Its turn, at once: streams wait for nobody. */
static void give_own(struct sq_h2 *h, struct stream *s)
{
    char *p = s->call.own;
    size_t n = s->call.own_len;
    s->call.own = NULL;
    start_delay(h, s);
    for (size_t at = 0; p && at + 9 <= n;) { /* frame by frame: DATA has its weight */
        const unsigned char *u = (const unsigned char *)p + at;
        size_t some = 9 + ((size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2]);
        h->owed += sq_h2_weight(p + at, some);
        sq_h2_answer_bytes(h, s, p + at, some);
        at += some;
    }
    free(p);
    s->down_done = true;
    sq_h2_maybe_over(h, s);
}

/* A new request. True: it goes to the dependency. */
static bool decide(struct sq_h2 *h, struct stream *s, const struct sq_head *head)
{
    h->ops.request(h->ops.arg, &s->call, head);
    const struct sq_rule *rule = status_rule(h, &s->call);
    s->call.no_body = head->method.n == 4 && memcmp(head->method.p, "HEAD", 4) == 0;
    if (sq_rules_of(h->ops.rules, s->call.hits, SQ_R_HTTP_ABORT)) {
        s->call.fate = SQ_FATE_RESET;
    } else if (rule) {
        s->call.fate = SQ_FATE_ANSWER;
        prepare(h, s, rule, head);
    } else {
        return true;
    }
    s->dropped = h->touched = true;
    return false;
}

void sq_h2_dropped_goes_on(struct sq_h2 *h, struct stream *s)
{
    if (s->call.fate == SQ_FATE_RESET) {
        sq_h2_reset_stream(h, s->id, INTERNAL_ERROR);
        sq_h2_tell(h, s, SQ_OUT_FAILED);
        sq_h2_drop(h, s);
    } else if (s->call.own && (s->call.ready || s->up_done)) {
        give_own(h, s);
    } else if (s->down_done) {
        sq_h2_maybe_over(h, s);
    } else if (s->told) { /* its edge was dropped meanwhile: nobody answers it */
        sq_h2_reset_stream(h, s->id, INTERNAL_ERROR);
        sq_h2_drop(h, s);
    }
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
            head->field[head->n++] =
                (struct sq_field){.name = {NULL, nv.namelen}, .value = {NULL, nv.valuelen}, .line = {NULL, 0}};
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

/* The block as literals, with the fields that rules set or remove. */
static void repack(struct sq_h2 *h, struct sq_out *o, const struct sq_head *head, uint32_t hits, bool request)
{
    const struct sq_rules *r = h->ops.rules;
    uint32_t edits = hits ? sq_rules_side(r, hits, SQ_R_HTTP_HEADER, request) : 0;
    sq_h2_begin_block(o);
    for (unsigned i = 0; i < head->n; i++) {
        const struct sq_field *f = &head->field[i];
        if (!edits || !sq_rules_edit_field(r, edits, request, f->name.p, f->name.n))
            sq_h2_literal(o, f->name, f->value);
    }
    for (unsigned i = 0; edits && i < r->n; i++) {
        const char *name;
        json_t *v;
        if (!(edits & (UINT32_C(1) << r->order[i])))
            continue;
        json_object_foreach(json_object_get(r->slot[r->order[i]].http, "set"), name,
                            v) if (!sq_rules_set_later(r, edits, i, name)) sq_h2_field(o, name, json_string_value(v));
    }
}

/* A header block goes on, as it came or written anew. */
static void pass_block(struct sq_h2 *h, int lane, struct stream *s, const struct sq_head *head, uint32_t hits)
{
    struct side *d = &h->side[lane];
    struct sq_out block = {0}, o = {0};
    if (h->touched) {
        repack(h, &block, head, hits, lane == TO_DEP);
        sq_h2_block_frames(&o, d->block_type, d->block_flags & END_STREAM, d->block_id,
                           d->block_type == PUSH_PROMISE ? &d->prefix : NULL, &block);
        h->broken = h->broken || o.failed;
    }
    char *p = h->touched ? o.p : d->raw.p;
    size_t n = h->touched ? o.n : d->raw.n;
    if (!h->broken && lane == TO_DEP)
        h->ops.out(h->ops.arg, lane, p, n);
    else if (!h->broken)
        sq_h2_answer_bytes(h, s, p, n);
    sq_out_free(&block);
    sq_out_free(&o);
}

static void request_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_DEP];
    struct stream *s = sq_h2_find(h, d->block_id);
    bool fresh = !s && (d->block_id & 1) && d->block_id > h->last;
    bool first = false;
    if (sq_h2_buried(h, d->block_id))
        return;
    if (fresh) {
        h->last = d->block_id;
        s = sq_h2_add(h, d->block_id);
        first = s != NULL;
    }
    if (s && (d->block_flags & END_STREAM))
        s->up_done = true;
    if (first && !decide(h, s, head)) {
        sq_h2_dropped_goes_on(h, s);
        return;
    }
    if (s && s->dropped) {
        sq_h2_dropped_goes_on(h, s);
        return;
    }
    if (first && sq_rules_side(h->ops.rules, s->call.hits, SQ_R_HTTP_HEADER, true))
        h->touched = true;
    pass_block(h, TO_DEP, s, head, first ? s->call.hits : 0);
    if (s && s->up_done && s->down_done && !s->head)
        sq_h2_drop(h, s);
}

static void answer_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_CALLER];
    struct stream *s = d->block_type == HEADERS ? sq_h2_find(h, d->block_id) : NULL;
    uint32_t hits = 0;
    if (s && !s->call.answer && head->status / 100 != 1) {
        s->call.answer = h->now;
        s->call.status = (uint16_t)(head->status >= 0 && head->status <= 999 ? head->status : 0);
        hits = s->call.hits;
        start_delay(h, s);
        if (hits && sq_rules_side(h->ops.rules, hits, SQ_R_HTTP_HEADER, false))
            h->touched = true;
    }
    pass_block(h, TO_CALLER, s, head, hits);
    if (s && (d->block_flags & END_STREAM)) {
        s->down_done = true;
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
