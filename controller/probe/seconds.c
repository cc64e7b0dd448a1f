/* The seconds of an endpoint, from when the first request is planned in one until it is handed over. */
#include "probe/engine.h"
#include "squall/units.h"

int64_t sq_second_end(const struct sq_engine *p, const struct sq_second *s)
{
    return p->zero + (s->sec + 1) * SQ_S;
}

void sq_second_open(struct sq_endpoint *ep, int64_t sec)
{
    struct sq_second *s = sq_second_new(ep->name, &ep->variant[0].rules, sec);

    if (!s) {
        /* Out of memory: keep what there is going, and say that it can't be used. */
        ep->broken = "out of memory";
        if (ep->current) {
            ep->current->sec = sec;
            ep->current->closed = false;
        }
        return;
    }
    if (ep->current)
        ep->current->next = s;
    else
        ep->first = s;
    ep->current = s;
}

void sq_roll(struct sq_endpoint *ep)
{
    struct sq_engine *p = ep->probe;

    while (!ep->rolled) {
        int64_t end = sq_second_end(p, ep->current);

        if (ep->ended && p->stop_at <= end) {
            ep->current->closed = true;
            ep->rolled = true;
        } else if (p->now >= end && sq_next_at(ep) >= end) {
            ep->current->closed = true;
            sq_second_open(ep, ep->current->sec + 1);
        } else {
            return;
        }
    }
}

static void queue_push(struct sq_engine *p, struct sq_second *s)
{
    s->next = NULL;
    (void)pthread_mutex_lock(&p->lock);
    if (p->queue_tail)
        p->queue_tail->next = s;
    else
        p->queue_head = s;
    p->queue_tail = s;
    (void)pthread_mutex_unlock(&p->lock);
}

bool sq_emit(struct sq_endpoint *ep)
{
    bool any = false;

    while (ep->first && ep->first->closed && ep->first->outstanding == 0) {
        struct sq_second *s = ep->first;

        ep->first = s->next;
        if (ep->current == s)
            ep->current = NULL;
        if (s->planned == 0 && !ep->first && ep->rolled && ep->probe->stop_at <= ep->probe->zero + s->sec * SQ_S) {
            sq_second_free(s); /* stopped exactly at its beginning: it was never part of the load */
            continue;
        }
        queue_push(ep->probe, s);
        any = true;
    }
    return any;
}
