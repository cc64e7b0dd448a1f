#include "proxy/dgram.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/dnsmsg.h"

void px_dgram_report(const struct px_flow_calls *f, const struct px_asked *call, enum sq_call_outcome outcome,
                     int status, int64_t answer, int64_t end)
{
    struct sq_call c = {.start = call->start, .held = call->held, .answer = answer, .fault = call->fault};
    px_call_raw(f->edge->px, f->edge, f->caller, SQ_CALL_REQUEST, outcome, status, &c, end);
}

static void forget(struct px_flow_calls *f, unsigned i)
{
    f->n--;
    memmove(&f->asked[i], &f->asked[i + 1], (f->n - i) * sizeof(f->asked[0]));
}

static struct px_asked *remember(struct px_flow_calls *f, const struct px_asked *call, int64_t now)
{
    if (f->n == f->cap && f->cap < PX_ASKED_MAX) {
        unsigned cap = f->cap ? f->cap * 4 : 4;
        void *p = realloc(f->asked, cap * sizeof(f->asked[0]));
        if (p) {
            f->asked = p;
            f->cap = cap;
        }
    }
    if (f->n == f->cap && f->n > 0) {
        px_dgram_report(f, &f->asked[0], SQ_OUT_NONE, 0, 0, now);
        forget(f, 0);
    }
    if (f->n == f->cap) {
        px_dgram_report(f, call, SQ_OUT_NONE, 0, 0, now); /* no memory: nobody will know what answers it */
        return NULL;
    }
    f->asked[f->n] = *call;
    return &f->asked[f->n++];
}

static bool on_stream(const struct sq_rule *r, int stream)
{
    return r->stream == SQ_STREAM_BOTH || r->stream == stream;
}

/* What the rules that hit it do to one message on its way UP or DOWN, but for those of DNS. */
static void judge(struct sq_rules *r, uint32_t hits, int stream, size_t len, struct px_verdict *v)
{
    for (unsigned i = 0; i < r->n; i++) {
        struct sq_rule *one = &r->slot[r->order[i]];
        if (!(hits & (UINT32_C(1) << r->order[i])))
            continue;
        if (one->kind == SQ_R_BLACKHOLE)
            v->drop = true;
        if (!on_stream(one, stream))
            continue;
        bool acts = (one->kind == SQ_R_LOSS || one->kind == SQ_R_DUPLICATE) && sq_rng_double(&one->rng) < one->share;
        if (one->kind == SQ_R_LATENCY)
            v->delay += sq_rule_delay(one);
        if (acts) {
            v->drop |= one->kind == SQ_R_LOSS;
            v->twice |= one->kind == SQ_R_DUPLICATE;
            one->acts++;
            one->acted += len;
        }
    }
    v->delay = v->delay > 0 ? v->delay : 0;
}

/* The rules that this message may be hit by: one of DNS only by the names that it is for. */
static uint32_t candidates(const struct sq_rules *r, bool asks, const struct sq_dns_question *q)
{
    uint32_t among = r->mask;
    for (unsigned i = 0; i < r->n; i++) {
        const struct sq_rule *one = &r->slot[r->order[i]];
        if (one->kind == SQ_R_DNS && !(asks && sq_dns_concerns(one->dns, q)))
            among &= ~(UINT32_C(1) << r->order[i]);
    }
    return among;
}

/* The first of the rules of DNS that hit it acts. */
static void judge_dns(struct px_flow_calls *f, uint32_t *hits, const struct sq_dns_question *q, const uint8_t *p,
                      size_t len, bool tcp, struct px_verdict *v)
{
    struct sq_rules *r = &f->edge->rules;
    bool taken = false;
    for (unsigned i = 0; i < r->n; i++) {
        uint32_t bit = UINT32_C(1) << r->order[i];
        struct sq_rule *one = &r->slot[r->order[i]];
        if (one->kind != SQ_R_DNS || !(*hits & bit))
            continue;
        if (taken) {
            *hits &= ~bit;
            continue;
        }
        taken = true;
        one->acts++;
        one->acted += len;
        v->delay += sq_rule_delay(one);
        v->drop |= sq_dns_swallows(one->dns);
        v->answer = sq_dns_answer(one->dns, q, p, tcp, (uint8_t *)f->edge->px->out, PX_BUF);
    }
}

static uint16_t dns_id(const uint8_t *p, size_t len)
{
    if (len < 2)
        return 0;
    return (uint16_t)(p[0] << 8 | p[1]);
}

struct px_verdict px_dgram_up(struct px_flow_calls *f, const uint8_t *p, size_t len, bool tcp, int64_t now)
{
    struct sq_rules *r = &f->edge->rules;
    struct px_verdict v = {0};
    struct sq_dns_question q;
    bool asks = r->mask && f->edge->protocol == PX_DNS && sq_dns_question(p, len, &q) == 0;
    uint32_t hits = r->mask ? sq_rules_draw(r, candidates(r, asks, &q), f->caller, NULL) : 0;
    if (hits && asks)
        judge_dns(f, &hits, &q, p, len, tcp, &v);
    if (hits)
        judge(r, hits, UP, len, &v);
    struct px_asked call = {.start = now,
                            .held = v.delay,
                            .hits = hits,
                            .fault = hits ? sq_rules_fault(r, hits) : 0,
                            .id = f->edge->protocol == PX_DNS ? dns_id(p, len) : 0};
    f->hits = hits;
    if (v.answer && !v.drop) {
        struct px_verdict back = {0};
        judge(r, hits, DOWN, v.answer, &back); /* it comes back as an answer would */
        v.drop = back.drop;
        v.twice = back.twice;
        v.delay += back.delay;
        call.held = v.delay;
        call.answered = true;
        v.call = call;
        v.ended = !v.drop;
        v.status = sq_dns_rcode((const uint8_t *)f->edge->px->out, v.answer);
    }
    if (!v.ended)
        (void)remember(f, &call, now);
    return v;
}

struct px_verdict px_dgram_down(struct px_flow_calls *f, const uint8_t *p, size_t len)
{
    struct sq_rules *r = &f->edge->rules;
    bool dns = f->edge->protocol == PX_DNS;
    struct px_verdict v = {0};
    unsigned i = 0;
    while (dns && i < f->n && f->asked[i].id != dns_id(p, len))
        i++;
    uint32_t hits = (i < f->n ? f->asked[i].hits : f->hits) & r->mask;
    if (hits)
        judge(r, hits, DOWN, len, &v);
    if (i == f->n || v.drop)
        return v;
    v.call = f->asked[i];
    v.call.held += v.delay;
    v.ended = true;
    v.status = dns ? sq_dns_rcode(p, len) : 0;
    forget(f, i);
    return v;
}

void px_dgram_end(struct px_flow_calls *f, enum sq_call_outcome outcome, int64_t now)
{
    for (unsigned i = 0; i < f->n; i++)
        px_dgram_report(f, &f->asked[i], outcome, 0, 0, now);
    f->n = 0;
}

void px_dgram_expire(struct px_flow_calls *f, bool all, int64_t now)
{
    unsigned i = 0;
    while (i < f->n && (all || f->asked[i].start + PX_ANSWER <= now)) {
        px_dgram_report(f, &f->asked[i], SQ_OUT_NONE, 0, 0, now);
        i++;
    }
    f->n -= i;
    if (i > 0 && f->n > 0)
        memmove(&f->asked[0], &f->asked[i], f->n * sizeof(f->asked[0]));
}

/* A call that is under way keeps what it was counted for, but nothing more is done to it by a rule that has ended. A
 * new one that hits every call hits what comes back on the flow from now on. */
void px_dgram_rules(struct px_flow_calls *f, uint32_t gone, uint32_t fresh)
{
    static const enum sq_rule_kind kinds[] = {SQ_R_LATENCY, SQ_R_BLACKHOLE, SQ_R_LOSS, SQ_R_DUPLICATE};
    f->hits &= ~gone;
    for (unsigned i = 0; i < f->n; i++)
        f->asked[i].hits &= ~gone;
    for (size_t i = 0; fresh && i < sizeof(kinds) / sizeof(kinds[0]); i++)
        f->hits |= sq_rules_certain(&f->edge->rules, fresh, f->caller, kinds[i]);
}

void px_dgram_free(struct px_flow_calls *f)
{
    free(f->asked);
    f->asked = NULL;
    f->n = f->cap = 0;
}
