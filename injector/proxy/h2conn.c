/* HTTP/2 on connections: what h2.h says is done to the lanes, and told. Rules on calls and on HTTP see its requests;
 * only an error or a black hole that hits every call (`hits` of the connection) is one of the whole connection. To
 * rules on bytes it is one stream of bytes. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/h2.h"
#include "proxy/px.h"
#include "squall/clock.h"

#define ROOM SQ_LANE_DELAY /* bytes of a lane that was not written yet: then nothing of ours is put in */

struct px_h2 {
    struct sq_h2 *h;
    bool busy;      /* it is being fed: not to be freed */
    bool judged;    /* its connect was, */
    uint32_t first; /* with these hits, which its first request shares */
    uint32_t fresh; /* rules that begin now */
};

/* What a read made, in one piece: a frame a send would be dear. */
static void put_batch(struct conn *c, int lane)
{
    struct sq_out *o = &c->px->batch[lane];
    int64_t now = sq_mono_ns();
    size_t n = o->n;
    o->n = 0;
    if (n == 0 || c->state != PX_OPEN)
        return;
    int64_t due = lane == DOWN ? px_due(c, NULL, now) : 0; /* blind: there are no calls */
    (void)px_put(c, lane, o->p, n, due, px_blackhole(c, c->hits), now);
    if (o->cap > 4 * PX_BUF)
        sq_out_free(o);
    if (c->state != PX_OPEN)
        sq_h2_break(c->h2->h);
}

static void on_out(void *arg, int lane, char *p, size_t len)
{
    struct conn *c = arg;
    struct sq_out *o = &c->px->batch[lane];
    sq_out_put(o, p, len);
    if (o->failed) { /* bytes are missing */
        sq_out_free(o);
        sq_h2_break(c->h2->h);
    } else if (o->n >= PX_BUF) {
        put_batch(c, lane);
    }
}

static bool on_room(void *arg, int lane)
{
    const struct conn *c = arg;
    return c->lane[lane].held + c->px->batch[lane].n < ROOM;
}

static void on_spared(void *arg, unsigned slot)
{
    struct conn *c = arg;
    c->edge->rules.slot[slot].unjudged++;
}

/* No rule on calls or on HTTP was asked, and none can have hit it. */
static void on_unseen(void *arg)
{
    const struct conn *c = arg;
    px_not_judged(c, c->edge->rules.http | sq_rules_calls(&c->edge->rules));
}

static void read_trace(struct sq_call *call, const struct sq_head *h)
{
    const struct sq_field *f = sq_head_field(h, "traceparent");
    if (!f || f->value.n < 35)
        return;
    for (size_t i = 3; i < 35; i++)
        if (!memchr("0123456789abcdef", f->value.p[i], 16))
            return;
    memcpy(call->trace, f->value.p + 3, 32);
}

static void on_request(void *arg, struct sq_call *call, const struct sq_head *h)
{
    struct conn *c = arg;
    struct sq_rules *r = &c->edge->rules;
    int64_t now = sq_mono_ns();
    if (c->state != PX_OPEN)
        return;
    read_trace(call, h);
    uint32_t hits = px_begin_stream(c, call, c->h2->judged, c->h2->first, now);
    bool fails = sq_rules_of(r, hits, SQ_R_ERROR);
    uint32_t among = r->http && !fails ? sq_rules_matching(r, r->http, h) : 0;
    uint32_t web = among ? sq_rules_draw(r, among, c->caller, NULL) : 0;
    for (unsigned i = 0; web && i < SQ_RULE_SLOTS; i++)
        r->slot[i].acts += web >> i & 1;
    px_hit(c, call, hits | web, now);
    if (!call->fault)
        call->fault = sq_rules_fault(r, c->hits | c->shaped);
}

static int64_t on_delay(void *arg, struct sq_call *call)
{
    return px_latency(arg, call);
}

static void on_done(void *arg, struct sq_call *call, enum sq_call_outcome outcome, int64_t end)
{
    struct conn *c = arg;
    if (outcome == SQ_OUT_FAILED && !call->fault)
        call->fault = c->whole.fault ? c->whole.fault : sq_rules_fault(&c->edge->rules, c->hits);
    if (call->bh_since)
        call->held += end - call->bh_since;
    call->bh_since = 0;
    px_call(c, SQ_CALL_REQUEST, outcome, call->status, call, end);
}

bool px_h2_begin(struct conn *c)
{
    struct sq_h2_ops ops = {.arg = c,
                            .out = on_out,
                            .request = on_request,
                            .delay = on_delay,
                            .done = on_done,
                            .rules = &c->edge->rules,
                            .whole = &c->hits,
                            .room = on_room,
                            .spared = on_spared,
                            .unseen = on_unseen,
                            .bodies = &c->px->web_held};
    struct px_h2 *x = calloc(1, sizeof(*x));
    if (!x || !(x->h = sq_h2_new(&ops))) {
        free(x);
        return false;
    }
    c->h2 = x;
    x->judged = c->judged;
    x->first = c->hits;
    c->hits = sq_rules_sure(&c->edge->rules, UINT32_MAX, c->caller);
    if (!c->judged) /* it ends before a request of it is read: that is the call */
        (void)px_draw(c, sq_rules_of(&c->edge->rules, c->hits, SQ_R_ERROR));
    c->judged = true;
    px_hit(c, &c->whole, c->hits | c->shaped, sq_mono_ns());
    return true;
}

/* Nothing of it can be read any more: one stream of bytes. */
static void go_blind(struct conn *c)
{
    c->judged = !c->carried && c->h2->judged;
    c->hits = c->judged ? c->h2->first : 0;
    px_judge(c);
    px_not_judged(c, c->edge->rules.http);
}

/* After anything that may have written, and so may have closed the connection. */
static void settle(struct conn *c, struct px_h2 *x, bool was_blind)
{
    put_batch(c, UP);
    put_batch(c, DOWN);
    x->busy = false;
    if (c->state == PX_CLOSED) {
        sq_h2_free(x->h);
        free(x);
        c->h2 = NULL;
        return;
    }
    if (sq_h2_broken(x->h)) {
        px_conn_close(c, SQ_OUT_BROKEN, 0, true);
        return;
    }
    if (!was_blind && sq_h2_blind(x->h))
        go_blind(c);
}

void px_h2_feed(struct conn *c, int lane, char *p, size_t len, int64_t now)
{
    struct px_h2 *x = c->h2;
    bool blind = sq_h2_blind(x->h);
    x->busy = true;
    sq_h2_feed(x->h, lane, p, len, now);
    settle(c, x, blind);
}

void px_h2_stop(struct conn *c)
{
    struct px_h2 *x = c->h2;
    bool blind = sq_h2_blind(x->h);
    x->busy = true;
    sq_h2_stop(x->h);
    settle(c, x, blind);
}

void px_h2_ends(struct conn *c, int lane)
{
    struct px_h2 *x = c->h2;
    bool blind = sq_h2_blind(x->h);
    x->busy = true;
    sq_h2_ends(x->h, lane);
    settle(c, x, blind);
}

void px_h2_pump(struct conn *c, int64_t now)
{
    struct px_h2 *x = c->h2;
    if (c->state != PX_OPEN || x->busy || sq_h2_next(x->h) > now)
        return;
    x->busy = true;
    sq_h2_due(x->h, now);
    settle(c, x, sq_h2_blind(x->h));
}

bool px_h2_reads(const struct conn *c)
{
    return c->h2 && !sq_h2_blind(c->h2->h);
}

int64_t px_h2_next(const struct conn *c)
{
    return c->h2 ? sq_h2_next(c->h2->h) : INT64_MAX;
}

bool px_h2_holds(const struct conn *c, int lane)
{
    return c->h2 && sq_h2_holds(c->h2->h, lane);
}

bool px_h2_full(const struct conn *c, int lane)
{
    if (!c->h2)
        return false;
    /* Who does not read what we say to it, is not read either. */
    return sq_h2_full(c->h2->h, lane) || (px_h2_reads(c) && c->lane[1 - lane].held >= ROOM);
}

bool px_h2_waits(const struct conn *c)
{
    return c->h2 && sq_h2_open(c->h2->h) > 0;
}

void px_h2_end(struct conn *c, enum sq_call_outcome why, int64_t now)
{
    if (c->h2)
        sq_h2_end(c->h2->h, why == SQ_OUT_ANSWERED ? SQ_OUT_BROKEN : why, now);
}

static void catch_call(void *arg, struct sq_call *call, int64_t now)
{
    struct conn *c = arg;
    px_catch(c, call, c->h2->fresh, now);
}

void px_h2_changed(struct conn *c, uint32_t fresh, int64_t now)
{
    struct px_h2 *x = c->h2;
    if (!c->carried)
        x->judged = x->judged && !(fresh & sq_rules_calls(&c->edge->rules)); /* its connect was drawn under others */
    x->fresh = fresh;
    sq_h2_catch(x->h, catch_call, now);
}

void px_h2_release(struct conn *c, uint32_t gone, int64_t now)
{
    if (!c->h2)
        return;
    c->h2->first &= ~gone;
    sq_h2_release(c->h2->h, gone, now);
}

void px_h2_free(struct conn *c)
{
    if (!c->h2 || c->h2->busy)
        return;
    sq_h2_free(c->h2->h);
    free(c->h2);
    c->h2 = NULL;
}
