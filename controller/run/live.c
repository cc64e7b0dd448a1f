#include "run/live.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SERIES 256u
#define SLOTS 1024 /* of 100 ms */
#define SLOT_MS 100
#define LAG_MS 500 /* calls are told that late at most: batches of 100 ms, a poll each 200 ms */
#define DUE 8.0    /* this many calls missing in a row is no chance: e^-8 */

struct series {
    char *edge, *instance;
    int64_t last_ms; /* start of the latest call; -1: none */
    int64_t total;
    double per_ms; /* in steady state; 0: unknown */
    bool silent, probing;
    int64_t slot_id[SLOTS]; /* which 100 ms the count is of */
    uint32_t slot[SLOTS];
};

struct sq_live {
    struct series *s[MAX_SERIES];
    unsigned n;
};

struct sq_live *sq_live_new(void)
{
    return calloc(1, sizeof(struct sq_live));
}

void sq_live_free(struct sq_live *l)
{
    if (!l)
        return;
    for (unsigned i = 0; i < l->n; i++) {
        free(l->s[i]->edge);
        free(l->s[i]->instance);
        free(l->s[i]);
    }
    free(l);
}

static struct series *series_of(struct sq_live *l, const char *edge, const char *instance)
{
    for (unsigned i = 0; i < l->n; i++)
        if (strcmp(l->s[i]->edge, edge) == 0 && strcmp(l->s[i]->instance, instance) == 0)
            return l->s[i];
    if (l->n == MAX_SERIES)
        return NULL;
    struct series *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->edge = strdup(edge);
    s->instance = strdup(instance);
    s->last_ms = -1;
    if (!s->edge || !s->instance) {
        free(s->edge);
        free(s->instance);
        free(s);
        return NULL;
    }
    l->s[l->n++] = s;
    return s;
}

static int64_t counted(const struct series *s, int64_t from_ms, int64_t to_ms)
{
    int64_t n = 0;
    for (int64_t id = from_ms / SLOT_MS; id < to_ms / SLOT_MS; id++)
        if (id >= 0 && s->slot_id[id % SLOTS] == id)
            n += s->slot[id % SLOTS];
    return n;
}

void sq_live_call(struct sq_live *l, const char *edge, const char *instance, int64_t t_ms)
{
    struct series *s = t_ms >= 0 ? series_of(l, edge, instance) : NULL;
    if (!s)
        return;
    int64_t id = t_ms / SLOT_MS;
    if (s->slot_id[id % SLOTS] != id) {
        s->slot_id[id % SLOTS] = id;
        s->slot[id % SLOTS] = 0;
    }
    s->slot[id % SLOTS]++;
    s->total++;
    if (s->silent && t_ms > s->last_ms) {
        s->silent = false;
        s->probing = true;
    }
    if (t_ms > s->last_ms)
        s->last_ms = t_ms;
}

void sq_live_steady(struct sq_live *l, int64_t from_ms, int64_t to_ms)
{
    if (to_ms - from_ms > (SLOTS - 50) * SLOT_MS) /* as far back as we remember */
        from_ms = to_ms - (SLOTS - 50) * SLOT_MS;
    for (unsigned i = 0; i < l->n && to_ms > from_ms; i++)
        l->s[i]->per_ms = (double)counted(l->s[i], from_ms, to_ms) / (double)(to_ms - from_ms);
}

static enum sq_live_state state_of(struct series *s, int64_t now_ms)
{
    double gap = (double)(now_ms - LAG_MS - s->last_ms);
    if (s->per_ms <= 0 || s->per_ms < DUE / 10000.0) /* it would take more than 10 s to tell */
        return SQ_LIVE_UNKNOWN;
    if (gap * s->per_ms >= DUE) {
        s->silent = true;
        s->probing = false;
        return SQ_LIVE_OPEN;
    }
    if (s->probing && (double)counted(s, now_ms - LAG_MS - 2000, now_ms - LAG_MS) < 0.6 * 2000 * s->per_ms)
        return SQ_LIVE_HALF_OPEN;
    s->probing = false;
    return SQ_LIVE_CLOSED;
}

enum sq_live_state sq_live_look(struct sq_live *l, const char *edge, int64_t now_ms, double *rate)
{
    enum sq_live_state worst = SQ_LIVE_UNKNOWN;
    *rate = 0;
    for (unsigned i = 0; i < l->n; i++) {
        struct series *s = l->s[i];
        if (strcmp(s->edge, edge) != 0)
            continue;
        enum sq_live_state st = state_of(s, now_ms);
        if (st > worst)
            worst = st;
        *rate += (double)counted(s, now_ms - LAG_MS - 2000, now_ms - LAG_MS) / 2.0;
    }
    return worst;
}
