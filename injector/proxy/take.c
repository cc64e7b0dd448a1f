/* What was read is looked at: as HTTP/1, as HTTP/2, or as bytes; and is put, or handed to the rules on HTTP. */
#include <stddef.h>
#include <string.h>

#include "proxy/h2.h"
#include "proxy/px.h"
#include "squall/clock.h"

#define TLS_HANDSHAKE 0x16 /* RFC 8446, 5.1: the first byte of a ClientHello's record */

static void take_up(struct conn *c, char *p, size_t len, int64_t now);

static void become_h2(struct conn *c)
{
    if (!px_h2_begin(c)) {
        px_go_opaque(c);
        return;
    }
    c->opaque = true;
}

/* A server of HTTP/2 may speak first: SETTINGS, not an acknowledgement, of the connection (RFC 9113, 3.4). */
static bool like_settings(const char *p, size_t len)
{
    return len >= 9 && p[0] == 0 && p[1] == 0 && (unsigned char)p[2] % 6 == 0 && p[3] == 4 && p[4] == 0 &&
           memcmp(p + 5, "\0\0\0\0", 4) == 0;
}

/* How it begins: as HTTP/2 does? Bytes are held until that is known. Returns how many of LEN are dealt with. */
static size_t begin(struct conn *c, const char *p, size_t len, int64_t now)
{
    char preface[SQ_H2_PREFACE_LEN + 1] = SQ_H2_PREFACE;
    size_t held = c->preface, some = len < SQ_H2_PREFACE_LEN - held ? len : SQ_H2_PREFACE_LEN - held;
    bool like = memcmp(p, preface + held, some) == 0;
    if (like && held + some < SQ_H2_PREFACE_LEN) {
        c->preface = (uint8_t)(held + some);
        return len;
    }
    c->preface = PX_BEGUN;
    if (!like) {
        if (c->h2)
            px_h2_stop(c);
        take_up(c, preface, held, now);
        return 0;
    }
    if (!c->h2)
        become_h2(c);
    if (c->hits && sq_rules_of(&c->edge->rules, c->hits, SQ_R_ERROR))
        px_conn_close(c, SQ_OUT_FAILED, 0, true);
    else
        (void)px_put(c, UP, preface, SQ_H2_PREFACE_LEN, 0, px_blackhole(c, c->hits), now);
    return some;
}

/* Bytes from the caller. */
static void take_up(struct conn *c, char *p, size_t len, int64_t now)
{
    if (c->preface != PX_BEGUN && (!c->opaque || c->h2) && len > 0) {
        size_t some = begin(c, p, len, now);
        p += some;
        len -= some;
    }
    struct sq_http *h = &c->http;
    while ((len > 0 || h->headed) && c->state == PX_OPEN) {
        if (px_web_closing(c))
            return;
        if (c->opaque) {
            if (c->hits && sq_rules_of(&c->edge->rules, c->hits, SQ_R_ERROR))
                px_conn_close(c, SQ_OUT_FAILED, 0, true);
            else if (c->h2)
                px_h2_feed(c, UP, p, len, now);
            else
                (void)px_put(c, UP, p, len, 0, px_blackhole(c, c->hits), now);
            return;
        }
        struct sq_call *call = sq_http_newest(h);
        uint32_t bh = call ? px_blackhole(c, call->hits) : 0;
        enum sq_http_ev ev;
        size_t used = sq_http_up(h, p, len, &ev);
        if (px_web_has(c, UP))
            px_web_take(c, UP, p, used, ev, now);
        else
            (void)px_put(c, UP, p, used, 0, bh, now);
        if (c->state != PX_OPEN)
            return;
        p += used;
        len -= used;
        if (ev == SQ_HTTP_OPAQUE) {
            c->tls = len > 0 && *p == TLS_HANDSHAKE && sq_http_never(h);
            px_go_opaque(c);
        }
        if (ev != SQ_HTTP_BEGIN)
            continue;
        if (px_begin(c, sq_http_newest(h), now)) {
            if (len > 0)
                (void)sq_http_up(h, p, len, &ev); /* for its traceparent */
            px_conn_close(c, SQ_OUT_FAILED, 0, true);
            return;
        }
        if (c->edge->rules.http)
            px_web_begin(c, UP, now);
    }
}

int64_t px_due(struct conn *c, struct sq_call *call, int64_t now)
{
    int64_t delay = px_latency(c, call);
    if (delay <= 0)
        return 0;
    px_stamp(&c->end[DEP]);
    return now - c->late + delay;
}

static void begin_answer(struct conn *c, struct sq_call *call, int64_t due, int64_t now)
{
    if (!call->answer)
        call->answer = now;
    if (due < c->lane[DOWN].last_due)
        due = c->lane[DOWN].last_due;
    if (due > now - c->late) /* it may be over by now, and was waited for none the less */
        call->held += due - (now - c->late);
}

/* The caller is gone, and the dependency answers: as the caller's kernel would, with a reset, when all that the caller
 * had sent was passed on. */
static bool nobody_home(struct conn *c)
{
    if (!c->gone || !(c->end[CALLER].eof || c->deaf) || c->lane[UP].head)
        return false;
    px_conn_close(c, SQ_OUT_GAVE_UP, 0, true);
    return true;
}

/* Its answer goes nowhere: the call lasts until the connection ends. */
static bool swallowed(const struct conn *c)
{
    return c->lane[DOWN].stages && c->lane[DOWN].stages->swallows;
}

/* Bytes from the dependency. */
static void take_down(struct conn *c, char *p, size_t len, int64_t now)
{
    struct sq_http *h = &c->http;
    if (c->preface != PX_BEGUN && !c->opaque && c->lane[DOWN].in == 0 && like_settings(p, len))
        become_h2(c);
    while ((len > 0 || h->headed) && c->state == PX_OPEN) {
        if (px_web_closing(c) || px_web_doomed(c))
            return;
        if (c->h2) {
            if (!nobody_home(c))
                px_h2_feed(c, DOWN, p, len, now);
            return;
        }
        if (c->opaque) {
            int64_t when = px_due(c, NULL, now);
            if (!c->whole.answer)
                begin_answer(c, &c->whole, when, now);
            if (!nobody_home(c))
                px_put(c, DOWN, p, len, when, px_blackhole(c, c->hits), now);
            return;
        }
        struct sq_call *call = sq_http_oldest(h);
        int64_t due = call ? px_due(c, call, now) : 0;
        uint32_t bh = call ? px_blackhole(c, call->hits) : 0;
        enum sq_http_ev ev;
        size_t used = sq_http_down(h, p, len, &ev);
        if (px_web_has(c, DOWN))
            px_web_take(c, DOWN, p, used, ev, now);
        else if (!px_put(c, DOWN, p, used, due, bh, now) && call && c->state == PX_OPEN)
            call->cut = true;
        p += used;
        len -= used;
        if (c->state != PX_OPEN)
            return;
        if (ev == SQ_HTTP_BEGIN && sq_http_oldest(h))
            begin_answer(c, sq_http_oldest(h), px_due(c, sq_http_oldest(h), now), now);
        if (ev == SQ_HTTP_BEGIN && nobody_home(c))
            return;
        if (ev == SQ_HTTP_END && sq_http_ended(h)) {
            sq_http_ended(h)->end_off = swallowed(c) ? UINT64_MAX : c->lane[DOWN].in;
            sq_http_ended(h)->ended = now;
        }
        if (ev == SQ_HTTP_OPAQUE || h->opaque)
            px_go_opaque(c);
        else if (ev == SQ_HTTP_BEGIN && c->web)
            px_web_begin(c, DOWN, now);
        else if (ev == SQ_HTTP_END && c->web)
            px_web_turn(c, now);
    }
}

int64_t px_preface_due(const struct conn *c)
{
    return c->preface == 0 || c->preface == PX_BEGUN ? INT64_MAX : c->moved + PX_REST;
}

void px_no_preface(struct conn *c, int64_t now)
{
    char preface[SQ_H2_PREFACE_LEN + 1] = SQ_H2_PREFACE;
    size_t held = c->preface;
    if (held == 0 || held == PX_BEGUN)
        return;
    c->preface = PX_BEGUN;
    if (c->h2)
        px_h2_stop(c);
    if (c->state == PX_OPEN)
        take_up(c, preface, held, now);
}

void px_take(struct conn *c, int from, char *p, size_t len, int64_t now)
{
    if (from == CALLER)
        take_up(c, p, len, now);
    else
        take_down(c, p, len, now);
}

void px_take_end(struct conn *c, int from, enum sq_lane_end how)
{
    struct sq_lane *l = &c->lane[from];
    int64_t now = sq_mono_ns();
    c->end[from].eof = true;
    if (l->stages)
        sq_stages_eof(l->stages, now);
    if (c->h2 && c->state == PX_OPEN)
        px_h2_ends(c, from);
    if (l->end != SQ_END_NONE || c->state != PX_OPEN)
        return;
    l->end = how;
    l->end_due = l->last_due;
    if (from == UP) {
        px_no_preface(c, now);
        if (px_web_has(c, UP))
            px_web_take(c, UP, c->px->buf, 0, SQ_HTTP_OPAQUE, now);
        l->end_bh = l->tail ? l->tail->bh : 0;
        return;
    }
    struct sq_call *call = c->opaque ? NULL : sq_http_oldest(&c->http);
    if (call || c->opaque) {
        uint32_t hits = call ? call->hits : c->hits;
        int64_t due = px_due(c, call, now);
        l->end_due = due > l->end_due ? due : l->end_due;
        l->end_bh = px_blackhole(c, hits);
    }
    bool ended = sq_http_down_eof(&c->http);
    if (px_web_has(c, DOWN))
        px_web_take(c, DOWN, c->px->buf, 0, ended ? SQ_HTTP_END : SQ_HTTP_OPAQUE, now);
    if (c->state == PX_OPEN && ended && sq_http_ended(&c->http))
        sq_http_ended(&c->http)->end_off = l->in;
    if (c->state == PX_OPEN && ended && l->end_due < l->last_due)
        l->end_due = l->last_due;
}
