/* HTTP/2 on connections: what h2.h says is done to the lanes, and told. To rules on calls and bytes such a connection
 * is one stream of bytes, as any that is not HTTP/1; rules on HTTP see its requests. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/h2.h"
#include "proxy/px.h"
#include "squall/clock.h"

struct px_h2 {
    struct sq_h2 *h;
    bool busy;     /* it is being fed: not to be freed */
    int64_t later; /* by so much what was written last to the caller is delayed by the connection's own rules */
};

static void on_out(void *arg, int lane, char *p, size_t len)
{
    struct conn *c = arg;
    int64_t now = sq_mono_ns();
    if (c->state != PX_OPEN)
        return;
    int64_t due = lane == DOWN ? px_due(c, NULL, now) : 0;
    if (lane == DOWN)
        c->h2->later = due > now ? due - now : 0;
    (void)px_put(c, lane, p, len, due, px_blackhole(c, c->hits), now);
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
    uint32_t among = r->http ? sq_rules_matching(r, r->http, h) : 0;
    uint32_t bodies = among ? sq_rules_of(r, among, SQ_R_HTTP_BODY) : 0; /* those are for HTTP/1 */
    uint32_t hits = among & ~bodies ? sq_rules_draw(r, among & ~bodies, c->caller, NULL) : 0;
    c->carried = true;
    read_trace(call, h);
    for (unsigned i = 0; among && i < SQ_RULE_SLOTS; i++) {
        r->slot[i].acts += hits >> i & 1;
        r->slot[i].unjudged += bodies >> i & 1;
    }
    px_hit(c, call, hits, sq_mono_ns());
    if (!hits)
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
    if (c->h2)
        call->held += c->h2->later;
    px_call(c, SQ_CALL_REQUEST, outcome, call->status, call, end + (c->h2 ? c->h2->later : 0));
}

bool px_h2_begin(struct conn *c)
{
    struct sq_h2_ops ops = {
        .arg = c, .out = on_out, .request = on_request, .delay = on_delay, .done = on_done, .rules = &c->edge->rules};
    struct px_h2 *x = calloc(1, sizeof(*x));
    if (!x || !(x->h = sq_h2_new(&ops))) {
        free(x);
        return false;
    }
    c->h2 = x;
    return true;
}

/* After anything that may have written, and so may have closed the connection. */
static void settle(struct conn *c, struct px_h2 *x, bool was_blind)
{
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
        px_not_judged(c, c->edge->rules.http);
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

int64_t px_h2_last(const struct conn *c)
{
    return c->h2 ? sq_h2_last(c->h2->h) : 0;
}

bool px_h2_full(const struct conn *c)
{
    return c->h2 && sq_h2_full(c->h2->h);
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

void px_h2_release(struct conn *c, uint32_t gone)
{
    if (c->h2)
        sq_h2_release(c->h2->h, gone);
}

void px_h2_free(struct conn *c)
{
    if (!c->h2 || c->h2->busy)
        return;
    sq_h2_free(c->h2->h);
    free(c->h2);
    c->h2 = NULL;
}
