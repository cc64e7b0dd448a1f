/* Rules on HTTP/1.1 (head.h). While an edge has such rules, the head of each request is held until it is complete; then
 * it is passed on as it came, changed, or kept from the dependency, whose answer is given in its turn. Of answers only
 * those are held whose calls were hit. What cannot be judged (too long, no room, not parsed) is passed on as it came,
 * and counted (struct sq_rule, unjudged). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/body.h"
#include "proxy/head.h"
#include "proxy/px.h"
#include "squall/clock.h"
#include "squall/json.h"

#define LINGER (5 * INT64_C(1000000000)) /* for the caller to close, after an answer that says so */

enum mode {
    WEB_PASS,    /* as ever */
    WEB_HEAD,    /* its head is held */
    WEB_DROP,    /* the rest of the message goes nowhere */
    WEB_CUT,     /* of its body `left` bytes go on */
    WEB_COLLECT, /* its body is held to be patched */
};

struct side {
    enum mode mode;
    struct sq_out raw;  /* HEAD, COLLECT: the message as it came */
    struct sq_out body; /* CUT: what of it goes on; COLLECT: without its framing */
    size_t head_len;
    size_t accounted;
    uint64_t left;
    bool chunked;
    int slot; /* COLLECT: of the rule */
};

struct web {
    struct side side[2];
    bool closing;
};

static struct side *side_of(struct conn *c, int lane)
{
    return &c->web->side[lane];
}

static void account(struct conn *c, struct side *s)
{
    size_t now = s->raw.cap + s->body.cap;
    c->px->web_held = c->px->web_held - s->accounted + now;
    s->accounted = now;
}

static void let_go(struct conn *c, struct side *s)
{
    sq_out_free(&s->raw);
    sq_out_free(&s->body);
    account(c, s);
}

static void on_body(void *arg, bool up, const char *p, size_t len)
{
    struct conn *c = arg;
    struct side *s = c->web ? side_of(c, up ? UP : DOWN) : NULL;
    if (s && s->mode == WEB_CUT) {
        size_t some = len < s->left ? len : (size_t)s->left;
        sq_out_put(&s->body, p, some);
        s->left -= some;
    } else if (s && s->mode == WEB_COLLECT) {
        sq_out_put(&s->body, p, len);
    }
}

/* The call that the message on this lane belongs to. */
static struct sq_call *call_of(struct conn *c, int lane)
{
    struct sq_http *h = &c->http;
    if (lane == UP)
        return sq_http_at(h, h->n ? h->n - 1 : 0);
    return h->down_open ? sq_http_oldest(h) : sq_http_ended(h);
}

/* May close it. */
static void emit(struct conn *c, int lane, char *p, size_t len, int64_t now)
{
    struct sq_call *call = call_of(c, lane);
    uint32_t bh = call ? px_blackhole(c, call->hits) : 0;
    int64_t due = lane == DOWN && call ? px_due(c, call, now) : 0;
    if (!px_put(c, lane, p, len, due, bh, now) && lane == DOWN && call && c->state == PX_OPEN)
        call->cut = true;
}

/* As it came. */
static void release(struct conn *c, int lane, int64_t now)
{
    struct side *s = side_of(c, lane);
    struct sq_out raw = s->raw;
    bool held = s->mode == WEB_HEAD || s->mode == WEB_COLLECT;
    s->raw = (struct sq_out){0};
    s->mode = WEB_PASS;
    let_go(c, s);
    sq_http_watch(&c->http, lane == UP, false);
    if (held && raw.n > 0)
        emit(c, lane, raw.p, raw.n, now);
    sq_out_free(&raw);
}

static void spare(struct conn *c, int lane, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    for (unsigned i = 0; i < SQ_RULE_SLOTS; i++)
        if (r->http & (UINT32_C(1) << i))
            r->slot[i].unjudged++;
    release(c, lane, now);
}

static bool edits(const struct conn *c, const struct sq_call *call, bool request)
{
    const struct sq_rules *r = &c->edge->rules;
    return sq_rules_side(r, call->hits, SQ_R_HTTP_HEADER, request) ||
           sq_rules_side(r, call->hits, SQ_R_HTTP_BODY, request);
}

void px_web_begin(struct conn *c, int lane, int64_t now)
{
    struct sq_call *call = lane == DOWN ? sq_http_oldest(&c->http) : NULL;
    (void)now;
    if (call && call->fate) { /* it answers what it was not asked: that is the answer then */
        call->fate = SQ_FATE_NONE;
        free(call->own);
        call->own = NULL;
    }
    if (lane == DOWN && (!call || !call->hits || !edits(c, call, false)))
        return;
    if (!c->web && !(c->web = calloc(1, sizeof(*c->web))))
        return;
    side_of(c, lane)->mode = WEB_HEAD;
    c->http.body = on_body;
    c->http.body_arg = c;
    sq_http_watch(&c->http, lane == UP, true);
}

bool px_web_has(const struct conn *c, int lane)
{
    return c->web && c->web->side[lane].mode != WEB_PASS;
}

bool px_web_closing(const struct conn *c)
{
    return c->web && c->web->closing;
}

bool px_web_lingers(const struct conn *c)
{
    return px_web_closing(c) && !c->end[CALLER].eof;
}

/* The body of a message is taken in hand: HEAD is what goes before it. False: there is none, or it stays. */
static bool begin_body(struct conn *c, int lane, const struct sq_head *h, const struct sq_rule *rule,
                       struct sq_out *out)
{
    struct side *s = side_of(c, lane);
    const struct sq_field *length = sq_head_field(h, "content-length");
    const char *replace = sq_json_str_or(rule->http, "replace", NULL);
    int64_t cut = sq_json_int_or(rule->http, "truncate", -1);
    bool encoded = sq_head_field(h, "content-encoding") && !sq_head_has(h, "content-encoding", "identity");
    bool coded = sq_head_field(h, "transfer-encoding");
    s->chunked = sq_head_has(h, "transfer-encoding", "chunked"); /* else it lasts until the connection ends */
    if (replace) {
        sq_head_reframe(out, h, (int64_t)strlen(replace), false);
        sq_out_str(out, replace);
        s->mode = WEB_DROP;
    } else if (cut >= 0) {
        int64_t n = length && !coded ? (int64_t)strtoull(length->value.p, NULL, 10) : -1;
        if (n < 0)
            sq_out_put(out, s->raw.p, s->raw.n);
        else
            sq_head_reframe(out, h, n < cut ? n : cut, true);
        s->left = (uint64_t)cut;
        s->mode = WEB_CUT;
    } else if (encoded || sq_head_has(h, "expect", "100-continue")) {
        return false;
    } else {
        s->slot = (int)(rule - c->edge->rules.slot);
        s->mode = WEB_COLLECT;
    }
    return true;
}

static bool has_body(const struct sq_head *h, const struct sq_call *call, bool request)
{
    const struct sq_field *length = sq_head_field(h, "content-length");
    if (request)
        return sq_head_field(h, "transfer-encoding") || (length && !(length->value.n == 1 && *length->value.p == '0'));
    return !call->no_body && !call->connect && h->status / 100 != 1 && h->status != 204 && h->status != 304;
}

/* Held bytes are replaced by what the rules make of the head. */
static void rewrite(struct conn *c, int lane, struct sq_head *h, struct sq_call *call, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    struct side *s = side_of(c, lane);
    bool request = lane == UP;
    struct sq_out out = {0};
    if (sq_rules_side(r, call->hits, SQ_R_HTTP_HEADER, request)) {
        struct sq_out edited = {0};
        sq_head_edit(&edited, h, r, call->hits, request);
        sq_head_free(h);
        if (edited.failed || sq_head_parse(h, edited.p, edited.n, request) != 0) {
            sq_out_free(&edited);
            spare(c, lane, now);
            return;
        }
        sq_out_free(&s->raw);
        s->raw = edited; /* the head points into it */
        account(c, s);
    }
    s->head_len = s->raw.n;
    const struct sq_rule *body = sq_rules_first(r, sq_rules_side(r, call->hits, SQ_R_HTTP_BODY, request));
    if (!body || !has_body(h, call, request) || !begin_body(c, lane, h, body, &out) || out.failed) {
        sq_out_free(&out);
        release(c, lane, now);
        return;
    }
    if (s->mode == WEB_COLLECT)
        return;
    if (s->mode == WEB_DROP)
        sq_http_watch(&c->http, request, false);
    let_go(c, s);
    emit(c, lane, out.p, out.n, now);
    sq_out_free(&out);
}

static bool closes(const struct sq_head *h)
{
    return sq_head_has(h, "connection", "close") || sq_head_has(h, "expect", "100-continue") ||
           (h->old && !sq_head_has(h, "connection", "keep-alive")) ||
           (h->method.n == 7 && memcmp(h->method.p, "CONNECT", 7) == 0);
}

/* The request never reaches the dependency. True: it is decided. */
static bool decide(struct conn *c, const struct sq_head *h, struct sq_call *call)
{
    struct sq_rules *r = &c->edge->rules;
    const struct sq_rule *status = sq_rules_first(r, sq_rules_of(r, call->hits, SQ_R_HTTP_STATUS));
    struct sq_out own = {0};
    if (px_blackhole(c, call->hits))
        return false;
    if (sq_rules_of(r, call->hits, SQ_R_HTTP_ABORT)) {
        call->fate = SQ_FATE_RESET;
        call->ready = true;
    } else if (status) {
        call->closes = closes(h);
        sq_head_answer(&own, status, h, call->closes);
        if (own.failed) {
            sq_out_free(&own);
            return false;
        }
        call->fate = SQ_FATE_ANSWER;
        call->status = (uint16_t)sq_json_int_or(status->http, "status", 503);
        call->own = own.p;
        call->own_len = own.n;
        call->ready = sq_head_has(h, "expect", "100-continue"); /* else when its body was read */
    }
    return call->fate != SQ_FATE_NONE;
}

static void judge_request(struct conn *c, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    struct side *s = side_of(c, UP);
    struct sq_call *call = sq_http_newest(&c->http);
    struct sq_head h = {0};
    if (!call || s->raw.failed || sq_head_parse(&h, s->raw.p, s->raw.n, true) != 0) {
        spare(c, UP, now);
        return;
    }
    uint32_t among = sq_rules_matching(r, r->http, &h);
    uint32_t hits = among ? sq_rules_draw(r, among, c->caller, NULL) : 0;
    for (unsigned i = 0; hits && i < SQ_RULE_SLOTS; i++)
        r->slot[i].acts += hits >> i & 1;
    px_hit(c, call, hits, now);
    if (hits && decide(c, &h, call)) {
        s->mode = WEB_DROP;
        sq_http_watch(&c->http, true, false);
        let_go(c, s);
        px_web_turn(c, now);
    } else if (hits && !px_blackhole(c, call->hits) && edits(c, call, true)) {
        rewrite(c, UP, &h, call, now);
    } else {
        release(c, UP, now);
    }
    sq_head_free(&h);
}

static void judge_answer(struct conn *c, int64_t now)
{
    struct side *s = side_of(c, DOWN);
    struct sq_call *call = sq_http_oldest(&c->http);
    struct sq_head h = {0};
    if (!call || c->http.interim || c->http.switched || !edits(c, call, false)) {
        release(c, DOWN, now);
        return;
    }
    if (s->raw.failed || sq_head_parse(&h, s->raw.p, s->raw.n, false) != 0) {
        spare(c, DOWN, now);
        return;
    }
    rewrite(c, DOWN, &h, call, now);
    sq_head_free(&h);
}

/* The whole message is there: patch its body; what is no JSON goes on as it came. */
static void patch(struct conn *c, int lane, int64_t now)
{
    struct side *s = side_of(c, lane);
    struct sq_rule *rule = &c->edge->rules.slot[s->slot];
    const json_t *what = json_object_get(rule->http, "patch");
    char *text = sq_body_patch(s->body.p, s->body.n, what);
    struct sq_head h = {0};
    struct sq_out out = {0};
    bool whole = text && !s->raw.failed && !s->body.failed && sq_head_parse(&h, s->raw.p, s->head_len, lane == UP) == 0;
    if (whole) {
        sq_head_reframe(&out, &h, (int64_t)strlen(text), false);
        sq_out_str(&out, text);
    } else {
        rule->unjudged += what != NULL;
    }
    free(text);
    sq_head_free(&h);
    if (!whole || out.failed) {
        sq_out_free(&out);
        release(c, lane, now);
        return;
    }
    let_go(c, s);
    s->mode = WEB_PASS;
    emit(c, lane, out.p, out.n, now);
    sq_out_free(&out);
}

/* What of the body may go on, in the framing that its head announced. */
static void pass_cut(struct conn *c, int lane, bool end, int64_t now)
{
    struct side *s = side_of(c, lane);
    struct sq_out out = {0};
    char size[32];
    if (s->body.n > 0 && s->chunked) {
        (void)snprintf(size, sizeof(size), "%zx\r\n", s->body.n);
        sq_out_str(&out, size);
        sq_out_put(&out, s->body.p, s->body.n);
        sq_out_str(&out, "\r\n");
    } else {
        sq_out_put(&out, s->body.p, s->body.n);
    }
    if (end && s->chunked)
        sq_out_str(&out, "0\r\n\r\n");
    bool failed = out.failed || s->body.failed;
    s->body.n = 0;
    if (end)
        s->mode = WEB_PASS;
    if (failed)
        px_conn_close(c, SQ_OUT_FAILED, 0, true);
    else
        emit(c, lane, out.p, out.n, now);
    sq_out_free(&out);
}

static void message_end(struct conn *c, int lane, int64_t now)
{
    struct side *s = side_of(c, lane);
    struct sq_call *call = call_of(c, lane);
    if (s->mode == WEB_CUT) {
        pass_cut(c, lane, true, now);
    } else if (s->mode == WEB_COLLECT) {
        patch(c, lane, now);
    } else if (s->mode == WEB_HEAD) { /* never judged */
        release(c, lane, now);
    } else {
        s->mode = WEB_PASS;
        if (lane == UP && call && call->fate)
            call->ready = true;
    }
    if (c->state != PX_OPEN)
        return;
    let_go(c, s);
    if (lane == UP)
        px_web_turn(c, now);
}

void px_web_take(struct conn *c, int lane, char *p, size_t len, enum sq_http_ev ev, int64_t now)
{
    struct side *s = side_of(c, lane);
    if (s->mode == WEB_HEAD || s->mode == WEB_COLLECT) {
        size_t max = s->mode == WEB_HEAD ? SQ_HEAD_MAX : s->head_len + 2 * SQ_PATCH_MAX;
        sq_out_put(&s->raw, p, len);
        account(c, s);
        if (s->raw.failed) { /* bytes are lost */
            px_conn_close(c, SQ_OUT_FAILED, 0, true);
            return;
        }
        if (s->raw.n > max || s->body.n > SQ_PATCH_MAX || s->body.failed || c->px->web_held > SQ_BODIES_MAX) {
            spare(c, lane, now);
            return;
        }
    }
    if (ev == SQ_HTTP_HEAD && s->mode == WEB_HEAD) {
        if (lane == UP)
            judge_request(c, now);
        else
            judge_answer(c, now);
    } else if (ev == SQ_HTTP_END) {
        message_end(c, lane, now);
    } else if (s->mode == WEB_CUT) {
        pass_cut(c, lane, false, now);
    } else if (ev == SQ_HTTP_OPAQUE && (s->mode == WEB_HEAD || s->mode == WEB_COLLECT)) {
        release(c, lane, now);
    }
}

/* Our answer was the last one: the caller is told, and then the dependency. */
static void close_after(struct conn *c, int64_t now)
{
    c->web->closing = true;
    for (int i = 0; i < 2; i++) {
        if (c->lane[i].end != SQ_END_NONE)
            continue;
        c->lane[i].end = SQ_END_FIN;
        c->lane[i].end_due = c->lane[i].last_due;
    }
    c->deadline = (c->lane[DOWN].last_due > now ? c->lane[DOWN].last_due : now) + LINGER;
}

static void answer(struct conn *c, struct sq_call *call, int64_t now)
{
    int64_t due = px_due(c, call, now);
    if (due < c->lane[DOWN].last_due)
        due = c->lane[DOWN].last_due;
    if (due > now)
        call->held += due - now;
    call->ended = now;
    sq_http_own_answer(&c->http);
    bool whole = px_put(c, DOWN, call->own, call->own_len, due, px_blackhole(c, call->hits), now);
    if (c->state != PX_OPEN)
        return;
    call->cut = !whole;
    call->end_off = c->lane[DOWN].in;
    if (call->closes)
        close_after(c, now);
}

/* The call whose turn it is, when it is ours to answer. */
static struct sq_call *next_own(struct conn *c)
{
    struct sq_call *call = c->opaque || c->http.down_open ? NULL : sq_http_oldest(&c->http);
    return call && call->fate && call->ready ? call : NULL;
}

void px_web_turn(struct conn *c, int64_t now)
{
    struct sq_call *call;
    while (c->state == PX_OPEN && (call = next_own(c)) && call->fate == SQ_FATE_ANSWER)
        answer(c, call, now);
}

bool px_web_owes(struct conn *c)
{
    bool any = false;
    for (unsigned i = 0; i < c->http.n; i++)
        any = any || (sq_http_at(&c->http, i)->fate && !sq_http_at(&c->http, i)->done);
    return any;
}

bool px_web_doomed(struct conn *c)
{
    const struct sq_call *call = c->web ? next_own(c) : NULL;
    return call && call->fate == SQ_FATE_RESET;
}

bool px_web_reset(struct conn *c)
{
    struct sq_call *call = next_own(c);
    if (!call || call->fate != SQ_FATE_RESET || c->lane[DOWN].head || px_blackhole(c, call->hits))
        return false; /* earlier answers are not out, or it has to wait itself */
    px_conn_close(c, SQ_OUT_FAILED, 0, true);
    return true;
}

void px_web_opaque(struct conn *c)
{
    if (!c->web)
        return;
    bool broken = px_web_owes(c); /* its turn could not be told any more */
    for (int i = 0; i < 2; i++)
        broken = broken || c->web->side[i].mode == WEB_DROP || c->web->side[i].mode == WEB_CUT;
    if (broken) {
        px_conn_close(c, SQ_OUT_FAILED, 0, true);
        return;
    }
    for (int i = 0; i < 2 && c->state == PX_OPEN; i++)
        if (px_web_has(c, i))
            release(c, i, sq_mono_ns());
}

void px_web_free(struct conn *c)
{
    if (!c->web)
        return;
    for (int i = 0; i < 2; i++)
        let_go(c, &c->web->side[i]);
    free(c->web);
    c->web = NULL;
}
