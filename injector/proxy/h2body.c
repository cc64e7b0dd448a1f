/* Bodies of HTTP/2 that a rule changes, as frames of DATA. */
#include <stdlib.h>
#include <string.h>

#include "proxy/body.h"
#include "proxy/h2_priv.h"
#include "squall/json.h"

static void spared(const struct sq_h2 *h, unsigned slot)
{
    if (h->ops.spared)
        h->ops.spared(h->ops.arg, slot);
}

/* What was collected counts no more. */
static void uncount(struct sq_h2 *h, int lane, const struct body *b)
{
    h->collected[lane] -= b->got.n;
    if (h->ops.bodies)
        *h->ops.bodies -= b->got.n;
}

void sq_h2_body_free(struct sq_h2 *h, int lane, struct stream *s)
{
    struct body *b = s->body[lane];
    if (!b)
        return;
    uncount(h, lane, b);
    json_decref(b->patch);
    sq_out_free(&b->got);
    free(b);
    s->body[lane] = NULL;
}

static struct body *start(struct sq_h2 *h, int lane, struct stream *s, unsigned slot)
{
    struct body *b = calloc(1, sizeof(*b));
    if (!b) {
        h->broken = true;
        return NULL;
    }
    b->slot = slot;
    s->body[lane] = b;
    h->touched = true;
    return b;
}

static int64_t cut_length(const struct sq_head *head, int64_t cut)
{
    const struct sq_field *f = sq_head_field(head, "content-length");
    int64_t n = 0;
    if (!f || f->value.n == 0 || f->value.n > 18)
        return -1;
    for (size_t i = 0; i < f->value.n; i++) {
        if (f->value.p[i] < '0' || f->value.p[i] > '9')
            return -1;
        n = n * 10 + (f->value.p[i] - '0');
    }
    return n < cut ? n : cut;
}

void sq_h2_body_begin(struct sq_h2 *h, int lane, struct stream *s, const struct sq_head *head, bool end,
                      struct reframe *how)
{
    const struct sq_rules *r = h->ops.rules;
    const struct sq_rule *rule = sq_rules_first(r, sq_rules_side(r, s->call.hits, SQ_R_HTTP_BODY, lane == TO_DEP));
    bool none =
        s->call.connect || (lane == TO_CALLER && (s->call.no_body || head->status == 204 || head->status == 304));
    if (!rule || none || s->body[lane])
        return;
    unsigned slot = (unsigned)(rule - r->slot);
    json_t *replace = json_object_get(rule->http, "replace"), *patch = json_object_get(rule->http, "patch");
    int64_t cut = sq_json_int_or(rule->http, "truncate", -1);
    bool grpc = sq_head_is_grpc(head);
    bool encoded = sq_head_field(head, "content-encoding") && !sq_head_has(head, "content-encoding", "identity");
    struct body *b;
    if (json_is_string(replace)) {
        if (end && (lane == TO_DEP || grpc || json_string_length(replace) == 0))
            return;
        if (!start(h, lane, s, slot))
            return;
        s->body[lane]->mode = B_DROP;
        how->on = true;
        how->opens = end;
        how->text = replace;
        how->length = grpc ? -1 : (int64_t)json_string_length(replace);
    } else if (cut >= 0) {
        if (end || !(b = start(h, lane, s, slot)))
            return;
        b->mode = B_CUT;
        b->left = (uint64_t)cut;
        how->encoded = true;
        how->length = cut_length(head, cut);
        how->on = how->length >= 0;
    } else if (encoded || (lane == TO_DEP && sq_head_has(head, "expect", "100-continue"))) {
        return;
    } else if (end || grpc || !json_is_object(patch)) {
        if (json_is_object(patch))
            spared(h, slot);
    } else if ((b = start(h, lane, s, slot))) { /* its length is not known yet, and needs not be said */
        b->mode = B_COLLECT;
        b->patch = json_incref(patch);
        how->on = how->encoded = true;
        how->length = -1;
    }
}

/* What was collected goes on, patched when it is whole and can be. */
static void finish(struct sq_h2 *h, int lane, struct stream *s, bool whole, bool end)
{
    struct body *b = s->body[lane];
    char *made = whole && !b->got.failed ? sq_body_patch(b->got.p, b->got.n, b->patch) : NULL;
    json_t *text =
        made ? json_stringn_nocheck(made, strlen(made)) : json_stringn_nocheck(b->got.n ? b->got.p : "", b->got.n);
    if (!made)
        spared(h, b->slot);
    h->broken = h->broken || b->got.failed || !text;
    sq_h2_body_free(h, lane, s);
    free(made);
    if (text)
        sq_h2_say_text(h, lane, s, text, end, true);
    json_decref(text);
}

static void collect(struct sq_h2 *h, int lane, struct stream *s, const char *p, size_t n, bool end)
{
    struct body *b = s->body[lane];
    bool fits = b->got.n + n <= SQ_PATCH_MAX && h->collected[lane] + n <= SQ_H2_HELD &&
                (!h->ops.bodies || *h->ops.bodies + n <= SQ_BODIES_MAX);
    sq_out_put(&b->got, p, n);
    if (b->got.failed) {
        h->broken = true;
        return;
    }
    h->collected[lane] += n;
    if (h->ops.bodies)
        *h->ops.bodies += n;
    if (!fits || end)
        finish(h, lane, s, fits, end);
}

static void cut(struct sq_h2 *h, int lane, struct stream *s, const char *p, size_t n, bool end)
{
    struct sq_out o = {0};
    if (n == 0 && !end)
        return;
    sq_h2_frame(&o, DATA, end ? END_STREAM : 0, s->id, p, n);
    h->broken = h->broken || o.failed;
    if (!o.failed)
        sq_h2_pass(h, lane, s, o.p, o.n);
    sq_out_free(&o);
}

void sq_h2_body_data(struct sq_h2 *h, int lane, struct stream *s)
{
    const struct side *d = &h->side[lane];
    struct body *b = s->body[lane];
    const char *p = d->frame.p + 9;
    size_t n = d->frame.n - 9, whole = n, keep = 0;
    bool end = d->flags & END_STREAM;
    if (d->flags & PADDED) {
        size_t pad = n > 0 ? (unsigned char)*p : 0;
        if (n < 1 + pad) {
            h->broken = true; /* no frame of HTTP/2 */
            return;
        }
        p++;
        n -= 1 + pad;
    }
    if (b->mode == B_CUT) {
        keep = n < b->left ? n : (size_t)b->left;
        b->left -= keep;
    }
    sq_h2_give_back(h, lane, end ? 0 : s->id, (int64_t)(whole - keep));
    if (b->mode == B_CUT) {
        cut(h, lane, s, p, keep, end);
    } else if (b->mode == B_COLLECT) {
        collect(h, lane, s, p, n, end);
    } else if (end) {
        json_t *nothing = json_string("");
        h->broken = h->broken || !nothing;
        if (nothing)
            sq_h2_say_text(h, lane, s, nothing, true, false);
        json_decref(nothing);
    }
    (void)sq_h2_run(h, lane, s);
}

void sq_h2_body_end(struct sq_h2 *h, int lane, struct stream *s)
{
    if (s->body[lane] && s->body[lane]->mode == B_COLLECT)
        finish(h, lane, s, true, false);
}
