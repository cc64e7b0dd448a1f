#include "verify/counted.h"

#include <stdio.h>
#include <string.h>

#include "squall/callspec.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"

#define EDGE_NS (50 * SQ_MS) /* calls this near to the fault's begin or end may be on either side of it */

struct counts {
    uint64_t hit;
    uint64_t sure, most; /* calls that were counted: those well within the fault; all that may have been */
    uint64_t others;     /* marked with another fault, which may hide that this one hit them, too */
};

/* How many of N calls are hit. */
static uint64_t due(const json_t *target, uint64_t n)
{
    uint64_t first = (uint64_t)sq_json_int_or(target, "first", 0), every = (uint64_t)sq_json_int_or(target, "every", 1),
             after = (uint64_t)sq_json_int_or(target, "after", 0), hits;

    hits = n > after ? (n - after) / (every ? every : 1) : 0;
    return first && hits > first ? first : hits;
}

/* A stamp's rounding, and a call that was lost on its way here. */
static uint64_t slack(uint64_t n)
{
    return 1 + n / 50;
}

static struct counts count(const struct sq_ev_series *series, const struct sq_ev_step *s, uint16_t fault)
{
    struct sq_window w = s->win;
    int64_t ending = s->fault->reverted ? s->fault->ending_ns : w.to_ns;
    bool http = sq_is_http_fault(s->uses);
    struct counts c = {0};

    for (size_t i = 0; i < series->n; i++) {
        const struct sq_ev_call *call = &series->calls[i];
        int64_t end = call->t_ns + (int64_t)call->dur_us * 1000;
        bool in = end >= w.from_ns - EDGE_NS && call->t_ns < w.to_ns + EDGE_NS; /* under way counts, too */

        c.hit += call->fault == fault;
        c.most += in;
        if (call->fault != fault && call->fault != 0) {
            c.others += in;
            continue;
        }
        /* a connection that no request was sent on was counted only if it was judged when it was made */
        bool judged = call->kind == SQ_EV_REQUEST ||
                      (!http && (call->kind != SQ_EV_CONN || !series->has_requests || call->fault == fault));
        c.sure += judged && call->t_ns >= w.from_ns + EDGE_NS && call->t_ns < ending - EDGE_NS;
    }
    return c;
}

bool sq_counted_wrong(const struct sq_evidence *ev, const struct sq_ev_step *s, bool partly, char *why, size_t len)
{
    const json_t *target = s->fault->target;
    const struct sq_ev_series *series;
    size_t n = sq_ev_series(ev, s->edge, &series);
    char text[128];

    if (!sq_call_counts(target))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct counts c = count(&series[i], s, (uint16_t)(s->fault - ev->faults + 1));
        uint64_t most = due(target, c.most), least = partly ? 0 : due(target, c.sure);
        least -= c.others < least ? c.others : least;
        bool exact = most == (uint64_t)sq_json_int_or(target, "first", INT64_MAX);
        bool many = c.hit > most + (exact ? 0 : slack(most));

        if (!many && c.hit + slack(least) >= least)
            continue;
        (void)snprintf(why, len, "the fault hit %llu of %llu calls of %s, and was to hit %llu: %s",
                       (unsigned long long)c.hit, (unsigned long long)(many ? c.most : c.sure), series[i].instance,
                       (unsigned long long)(many ? most : least), sq_call_count_text(target, text, sizeof text));
        return true;
    }
    return false;
}
