/* What the rules of an edge do to its connections and calls. */
#include "proxy/px.h"
#include "squall/clock.h"

uint32_t px_blackhole(const struct conn *c, uint32_t hits)
{
    return hits ? sq_rules_of(&c->edge->rules, hits, SQ_R_BLACKHOLE) : 0;
}

/* The delay of the bytes of an answer: drawn once per call, so that an answer's bytes stay together; for a connection
 * without calls, per read. */
int64_t px_latency(struct conn *c, struct sq_call *call)
{
    struct sq_rules *r = &c->edge->rules;
    uint32_t hits = call ? call->hits : c->hits;
    if (!hits || !(sq_rules_of(r, hits, SQ_R_LATENCY) | sq_rules_of(r, hits, SQ_R_HTTP_DELAY)))
        return 0;
    if (!call)
        return sq_rules_delay(r, hits);
    if (!call->delayed) {
        call->delay = sq_rules_delay(r, hits);
        call->delayed = true;
    }
    return call->delay;
}

uint32_t px_draw(struct conn *c, uint32_t among)
{
    return among ? sq_rules_draw(&c->edge->rules, among, c->caller, &c->drawn) : 0;
}

void px_hit(struct conn *c, struct sq_call *call, uint32_t hits, int64_t now)
{
    if (!hits)
        return;
    call->hits |= hits;
    call->fault = sq_rules_fault(&c->edge->rules, call->hits);
    if (!call->bh_since && px_blackhole(c, call->hits))
        call->bh_since = now;
}

void px_judge(struct conn *c)
{
    if (!c->judged)
        c->hits = px_draw(c, sq_rules_calls(&c->edge->rules));
    c->judged = true;
    px_hit(c, &c->whole, c->hits | c->shaped, sq_mono_ns());
}

uint32_t px_begin_stream(struct conn *c, struct sq_call *call, bool judged, uint32_t first, int64_t now)
{
    call->start = now;
    if (!c->carried && c->held_by && c->flow_ns && now - c->accepted < 250 * INT64_C(1000000)) {
        call->start = c->flow_ns; /* it waited for this connect, */
        call->held = c->whole.held;
        call->fault = c->held_by; /* which may be over */
    }
    uint32_t hits = judged && !c->carried ? first : px_draw(c, sq_rules_calls(&c->edge->rules));
    c->carried = true;
    c->drawn = (struct sq_drawn){0}; /* only the first one shares the connect's draw */
    call->drawn = true;
    return hits & c->edge->rules.mask;
}

bool px_begin(struct conn *c, struct sq_call *call, int64_t now)
{
    uint32_t hits = px_begin_stream(c, call, c->judged, c->hits, now);
    c->hits = hits;
    c->judged = true; /* should it turn out not to be HTTP, this was the draw of the connection */
    px_hit(c, call, hits | c->shaped, now);
    return hits && sq_rules_of(&c->edge->rules, hits, SQ_R_ERROR);
}

void px_not_judged(const struct conn *c, uint32_t slots)
{
    struct sq_rules *r = &c->edge->rules;
    for (unsigned i = 0; slots && i < SQ_RULE_SLOTS; i++) {
        if (!(slots & (UINT32_C(1) << i)))
            continue;
        r->slot[i].unjudged += !c->tls;
        r->slot[i].tls += c->tls;
    }
}

/* What was read is not HTTP, or not any more. */
void px_go_opaque(struct conn *c)
{
    if (c->opaque)
        return;
    px_web_opaque(c);
    if (c->state == PX_CLOSED)
        return;
    c->opaque = true;
    if (sq_http_never(&c->http))
        c->carried = false;
    px_judge(c);
    px_not_judged(c, c->edge->rules.http);
    px_no_preface(c, sq_mono_ns()); /* the dependency may have shown it, while the caller's first bytes were held */
}

static void release_call(struct conn *c, struct sq_call *call, uint32_t gone, int64_t now)
{
    call->hits &= ~gone;
    if (call->bh_since && !px_blackhole(c, call->hits)) {
        call->held += now - call->bh_since;
        call->bh_since = 0;
    }
}

static void take_back(struct conn *c, uint32_t gone, int64_t now)
{
    c->hits &= ~gone;
    px_h2_release(c, gone, now);
    release_call(c, &c->whole, gone, now);
    for (unsigned i = 0; i < c->http.n; i++)
        release_call(c, sq_http_at(&c->http, i), gone, now);
    (void)sq_lane_release(&c->lane[UP], gone, now);
    (void)sq_lane_release(&c->lane[DOWN], gone, now);
}

/* New rules and a call that is under way: a latency delays an answer that has not begun, a black hole swallows what is
 * left of any; an error waits for the next request. */
void px_catch(struct conn *c, struct sq_call *call, uint32_t fresh, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    uint32_t among = sq_rules_of(r, fresh, SQ_R_BLACKHOLE) | (call->answer ? 0 : sq_rules_of(r, fresh, SQ_R_LATENCY));
    /* Those on bytes: drawn already, for the connection. */
    px_hit(c, call, (among ? sq_rules_draw(r, among, c->caller, NULL) : 0) | (c->shaped & fresh), now);
}

static void catch_calls(struct conn *c, uint32_t fresh, int64_t now)
{
    for (unsigned i = 0; i < c->http.n; i++) {
        struct sq_call *call = sq_http_at(&c->http, i);
        if (!call->done)
            px_catch(c, call, fresh, now);
    }
}

/* True: reset it now. */
static bool catch_conn(struct conn *c, uint32_t fresh, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    if (!c->opaque) {
        if (fresh & sq_rules_calls(r))
            c->judged = c->judged && c->carried; /* its connect was drawn under other rules */
        catch_calls(c, fresh, now);
        uint32_t sure = sq_rules_certain(r, fresh, c->caller, SQ_R_ERROR);
        if (!sure || c->http.n > 0)
            return false;
        c->whole.fault = sq_rules_fault(r, sure);
        return true;
    }
    uint32_t hits;
    if (px_h2_reads(c)) {
        hits = sq_rules_sure(r, fresh, c->caller);
        c->hits |= hits;
        (void)px_draw(c, sq_rules_of(r, hits, SQ_R_ERROR)); /* one call, whatever it carries */
        px_h2_changed(c, fresh, now);
    } else {
        px_not_judged(c, fresh & r->http);
        hits = sq_rules_draw(r, fresh & sq_rules_calls(r), c->caller, NULL);
        c->hits |= hits;
    }
    c->judged = true;
    px_hit(c, &c->whole, hits | (c->shaped & fresh), now);
    bool idle = !c->lane[UP].head && !c->lane[DOWN].head && now - c->moved >= PX_REST;
    return idle && sq_rules_of(r, hits, SQ_R_ERROR);
}

void px_rules_changed(struct edge *e, uint32_t gone, uint32_t fresh)
{
    int64_t now = sq_mono_ns();
    struct conn *next;
    px_udp_rules(e, gone, fresh);
    px_dnstcp_rules(e, gone, fresh);
    for (struct conn *c = TAILQ_FIRST(&e->conns); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (gone)
            take_back(c, gone, now);
        if (px_shape_changed(c, gone, fresh, now)) {
            px_shape_end(c);
            continue;
        }
        if (fresh && catch_conn(c, fresh, now))
            px_conn_close(c, SQ_OUT_FAILED, 0, true);
        else
            px_pump(c);
    }
}
