/* A loop that sleeps in poll wakes twice for each request: when it is due, and when its answer comes. Sleep and wake
 * cost as much as the reading does. Where the kernel says when an answer came (SO_TIMESTAMPNS, socket(7)), it need not
 * be read at once: the loop sleeps until the next request is due, reads what came meanwhile without waiting, and counts
 * it by the kernel's time. Only while nothing depends on an answer but its own figures. */
#include "probe/nap.h"

#include <time.h>

#include "squall/clock.h"
#include "squall/units.h"

#define NAP_MAX (500 * SQ_US) /* longer pauses are slept in poll: their wake-ups are few */
/* So long, and while so many requests are sent, answers may lie there: a look at eight of them costs little more than
 * one at a single one. It takes as many connections, for those that lie there keep theirs busy. */
#define LOOK_NS SQ_MS
#define LOOK_SENDS 8
/* In a closed loop every answer is awaited, by its user. But a crowd of them keeps a server busy even if each waits a
 * moment longer, and saves both sides a wake-up for each answer. Its latency is what the user waited, nap included:
 * stamps would cost every packet of the host more than they save. While answers come only. */
#define CROWD 32
#define CROWD_NAP (70 * SQ_US)

/* Does anything wait for an answer of this endpoint? */
static bool awaited(const struct sq_engine *p, const struct sq_endpoint *ep)
{
    return ep->head && (ep->wait_head || ep->is_session || ep->driver != &sq_driver_conn || p->now < ep->pieces_until ||
                        (ep->closed ? ep->limit - ep->free_users < CROWD || !p->nap.answered : !p->nap.stamps));
}

static bool crowded(const struct sq_engine *p)
{
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (p->endpoint[i].closed && p->endpoint[i].head)
            return true;
    return false;
}

/* Did any answer come since this was asked last? */
static bool answered(struct sq_engine *p)
{
    uint64_t done = 0, before = p->nap.done;

    for (size_t i = 0; i < p->n_endpoints; i++)
        done += p->endpoint[i].done;
    p->nap.done = done;
    return done != before;
}

/* Sleeps until something is due if no answer must be read before; false: has not slept. */
static bool sleep_on(struct sq_engine *p)
{
    struct timespec t;
    int64_t until;

    if (p->prompt > 0)
        return false;
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (awaited(p, &p->endpoint[i]))
            return false;
    until = sq_engine_next_wake(p);
    p->now = sq_mono_ns();
    if (crowded(p))
        until = until < p->now + CROWD_NAP ? until : p->now + CROWD_NAP;
    if (until > p->now + NAP_MAX)
        return false;
    if (until > p->now) {
        t.tv_sec = until / SQ_S;
        t.tv_nsec = until % SQ_S;
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        p->now = sq_mono_ns();
    }
    return true;
}

/* Can what is due now be sent without a look at the answers? */
static bool unseen(const struct sq_engine *p)
{
    if (p->now < p->next_due || p->now >= p->nap.at + LOOK_NS || sq_engine_ordered(p))
        return false;
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (p->endpoint[i].closed || (sq_next_at(&p->endpoint[i]) <= p->now && !p->endpoint[i].idle))
            return false;
    return true;
}

bool sq_nap(struct sq_engine *p)
{
    p->nap.on = false;
    p->nap.answered = answered(p);
    for (int i = 0; sleep_on(p); i++) {
        p->nap.on = true;
        if (i == LOOK_SENDS || !unseen(p))
            break;
        sq_engine_issue(p);
    }
    return p->nap.on;
}

int64_t sq_arrived(struct sq_engine *p, const struct sq_request *r, int64_t stamp)
{
    /* By its age, so that the two clocks need agree only as long as a nap lasts; a step of the wall clock in just that
     * time is caught by what is certain: it came after the poll before, and after its request. The wall clock is read
     * first: what holds the process up between the two makes an answer later than it was, never earlier. */
    int64_t age = sq_wall_ns() - stamp, at = sq_mono_ns() - age;
    int64_t from = p->nap.since > r->sent ? p->nap.since : r->sent;

    at = at > from ? at : from;
    return at < p->now ? at : p->now;
}
