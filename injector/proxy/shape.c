/* Rules on bytes (bytes.h) on connections: drawn once for each, when it is accepted or when the rule comes. */
#include <stdlib.h>
#include <sys/socket.h>

#include "proxy/px.h"

#define DISCARD_MAX (4 * 1024 * 1024)

static uint32_t of_stream(const struct sq_rules *r, uint32_t slots, int lane)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < SQ_RULE_SLOTS; i++)
        if ((slots & (UINT32_C(1) << i)) && r->slot[i].stream == (uint8_t)lane)
            out |= UINT32_C(1) << i;
    return out;
}

static void set_stages(struct conn *c, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    for (int i = 0; i < 2; i++)
        if (sq_lane_stages(&c->lane[i], r, of_stream(r, c->shaped & r->bytes & r->mask, i), now) != 0)
            c->shaped = 0; /* no memory: it is spared */
}

void px_shape_new(struct conn *c)
{
    struct sq_rules *r = &c->edge->rules;
    uint32_t bytes = r->bytes & r->mask;
    if (!bytes)
        return;
    c->shaped = sq_rules_draw(r, bytes, c->caller, NULL);
    set_stages(c, c->accepted);
}

bool px_shape_changed(struct conn *c, uint32_t gone, uint32_t fresh, int64_t now)
{
    struct sq_rules *r = &c->edge->rules;
    uint32_t bytes = fresh & r->bytes;
    bool broke = sq_stages_broke(c->lane[UP].stages, gone, c->edge->plain) ||
                 sq_stages_broke(c->lane[DOWN].stages, gone, c->edge->plain);
    if (broke)
        return true;
    c->shaped &= ~gone;
    if (bytes)
        c->shaped |= sq_rules_draw(r, bytes, c->caller, NULL);
    if (c->shaped || c->lane[UP].stages || c->lane[DOWN].stages)
        set_stages(c, now);
    return false;
}

size_t px_shape_take(struct conn *c, int lane, char *p, size_t len, int64_t *due, int64_t now)
{
    struct sq_lane *l = &c->lane[lane];
    bool close = false;
    int64_t came = now - c->late;
    if (*due < came)
        *due = came;
    len = sq_stages_take(l->stages, p, len, due, &close, now);
    if (*due > now)
        px_stamp(&c->end[lane == UP ? CALLER : DEP]);
    if (close && l->end == SQ_END_NONE) {
        l->end = SQ_END_CLOSE;
        l->end_due = *due > l->last_due ? *due : l->last_due;
    }
    return len;
}

static int64_t next_of(const struct conn *c, const struct sq_stage **by)
{
    int64_t first = INT64_MAX;
    for (int i = 0; i < 2; i++) {
        const struct sq_stage *stage = NULL;
        int64_t at = c->lane[i].stages ? sq_stages_fires(c->lane[i].stages, &stage) : INT64_MAX;
        if (at >= first)
            continue;
        first = at;
        *by = stage;
    }
    return first;
}

int64_t px_shape_next(const struct conn *c)
{
    const struct sq_stage *by;
    return next_of(c, &by);
}

bool px_shape_fire(struct conn *c, int64_t now)
{
    const struct sq_stage *by = NULL;
    if (next_of(c, &by) > now)
        return false;
    by->rule->acts += !by->swallowed;
    c->whole.fault = by->rule->fault;
    if (by->kind == SQ_R_RESET)
        px_conn_close(c, SQ_OUT_FAILED, 0, true);
    else
        px_shape_end(c);
    return true;
}

void px_shape_end(struct conn *c)
{
    for (int i = 0; i < 2 && !c->local; i++) {
        ssize_t n = 1;
        for (size_t all = 0; c->end[i].fd >= 0 && n > 0 && all < DISCARD_MAX; all += (size_t)n)
            n = recv(c->end[i].fd, NULL, DISCARD_MAX, MSG_DONTWAIT | MSG_TRUNC);
    }
    px_conn_close(c, SQ_OUT_FAILED, 0, false);
}
