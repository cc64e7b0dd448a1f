/* What all ways of travelling share: the queue of those that wait for a connection, and what a request carries. */
#include <string.h>

#include "probe/engine.h"
#include "squall/units.h"

#define LATE_NS SQ_MS

static void wait_push(struct sq_endpoint *ep, struct sq_request *r)
{
    r->wait_next = NULL;
    if (ep->wait_tail)
        ep->wait_tail->wait_next = r;
    else
        ep->wait_head = r;
    ep->wait_tail = r;
    ep->waiting++;
}

void sq_wait_unshift(struct sq_endpoint *ep, struct sq_request *r)
{
    r->wait_next = ep->wait_head;
    ep->wait_head = r;
    if (!ep->wait_tail)
        ep->wait_tail = r;
    ep->waiting++;
}

static struct sq_request *wait_shift(struct sq_endpoint *ep)
{
    struct sq_request *r = ep->wait_head;

    ep->wait_head = r->wait_next;
    if (!ep->wait_head)
        ep->wait_tail = NULL;
    ep->waiting--;
    return r;
}

void sq_dispatch(struct sq_endpoint *ep, struct sq_request *r)
{
    if (ep->wait_head || !ep->driver->room(ep))
        wait_push(ep, r);
    else
        ep->driver->take(ep, r);
}

void sq_pump(struct sq_endpoint *ep)
{
    if (!ep->wait_head) {
        ep->retry_at = SQ_NEVER;
        return;
    }
    if (ep->retry_at > ep->probe->now && ep->retry_at != SQ_NEVER && !ep->idle)
        return;
    ep->retry_at = SQ_NEVER;
    while (ep->wait_head && ep->retry_at == SQ_NEVER && ep->driver->room(ep))
        ep->driver->take(ep, wait_shift(ep));
}

void sq_forget(struct sq_endpoint *ep, struct sq_request *r)
{
    if (r->carrier)
        ep->driver->forget(ep, r);
    else if (ep->wait_head == r)
        (void)wait_shift(ep);
}

void sq_note_sent(struct sq_endpoint *ep, struct sq_request *r)
{
    if (r->sent >= 0)
        return;
    r->sent = ep->probe->now;
    ep->sent++;
    if (r->sent - r->picked > LATE_NS)
        r->second->late++;
}

static void hex(char *to, uint64_t v)
{
    for (int i = 15; i >= 0; i--, v >>= 4)
        to[i] = "0123456789abcdef"[v & 15];
}

void sq_trace_new(struct sq_engine *p, char *trace)
{
    /* An id of zeros would be invalid. */
    hex(p->trace + 19, sq_rng_u64(&p->rng) | 1);
    hex(p->trace + 36, sq_rng_u64(&p->rng) | 1);
    memcpy(trace, p->trace, SQ_TRACE_LEN);
}

const struct sq_values *sq_values_of(const struct sq_endpoint *ep, const struct sq_request *r, struct sq_values *v)
{
    v->column = ep->data.n_rows > 0 ? ep->data.value + r->row * ep->data.n_columns : NULL;
    v->session = r->session ? r->session->keep.value : NULL;
    return v;
}

struct sq_keep *sq_keep_of(const struct sq_request *r)
{
    struct sq_keep *k;

    if (!r->session || r->variant->captures.n == 0)
        return NULL;
    k = &r->session->keep;
    k->captures = &r->variant->captures;
    sq_buf_clear(&k->body);
    return k;
}

enum sq_bad sq_judge(const struct sq_answer *a)
{
    if (!a->matched.status_ok)
        return SQ_BAD_STATUS;
    return a->matched.body_ok ? SQ_BAD_NONE : SQ_BAD_BODY;
}
