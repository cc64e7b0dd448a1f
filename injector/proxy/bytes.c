#include "proxy/bytes.h"

#include <errno.h>
#include <stdlib.h>

#include "squall/units.h"

#define QUANTUM_NS (5 * SQ_MS)     /* bandwidth: one write is worth so much time at least, */
#define QUANTUM_MIN 64.0           /* or so many bytes, */
#define QUANTUM_LONG (100 * SQ_MS) /* but not so much time */
#define CREDIT (2 * SQ_MS)         /* what may be made up for when bytes come late */
#define LAG (100 * SQ_MS)          /* and when we are late */

static const struct sq_stage *find(const struct sq_stages *st, uint8_t slot)
{
    for (unsigned i = 0; st && i < st->n; i++)
        if (st->s[i].slot == slot)
            return &st->s[i];
    return NULL;
}

/* Behind those of the same kind: in the order of the rules. */
static void insert(struct sq_stages *st, const struct sq_stage *s)
{
    unsigned i = st->n++;
    for (; i > 0 && st->s[i - 1].kind > s->kind; i--)
        st->s[i] = st->s[i - 1];
    st->s[i] = *s;
    st->paced = st->paced || s->kind == SQ_R_SLICER || s->kind == SQ_R_BANDWIDTH;
    st->swallows = st->swallows || s->kind == SQ_R_TIMEOUT || s->kind == SQ_R_RESET;
}

int sq_stages_set(struct sq_stages **st, struct sq_rules *rules, uint32_t slots, int64_t now)
{
    struct sq_stages *old = *st, *next = NULL;
    unsigned n = (unsigned)__builtin_popcount(slots & rules->mask);
    if (n > 0) {
        next = calloc(1, sizeof(*next) + n * sizeof(next->s[0]));
        if (!next)
            return -ENOMEM;
    }
    for (unsigned i = 0; next && i < rules->n; i++) {
        uint8_t slot = rules->order[i];
        if (!(slots & (UINT32_C(1) << slot)))
            continue;
        const struct sq_stage *was = find(old, slot);
        struct sq_stage s = {.rule = &rules->slot[slot], .kind = rules->slot[slot].kind, .slot = slot};
        if (was)
            s = *was;
        else if (s.kind == SQ_R_TIMEOUT)
            s.clock = now;
        insert(next, &s);
    }
    free(old);
    *st = next;
    return 0;
}

static void acted(struct sq_rule *r, size_t bytes)
{
    r->acts++;
    r->acted += bytes;
}

static bool lose(struct sq_stage *s)
{
    struct sq_rule *r = s->rule;
    double p = r->share;
    /* As netem does it: the more they are correlated, the more this chunk fares as the one before. */
    if (r->corr > 0)
        p = p * (1 - r->corr) + (s->bad ? r->corr : 0);
    s->bad = p >= 1 || sq_rng_double(&r->rng) < p;
    return s->bad;
}

static void corrupt(struct sq_rule *r, char *p, size_t len)
{
    if (r->share < 1 && sq_rng_double(&r->rng) >= r->share)
        return;
    size_t at = (size_t)sq_rng_below(&r->rng, len);
    p[at] = (char)((unsigned char)p[at] ^ (1u << sq_rng_below(&r->rng, 8)));
    acted(r, 1);
}

static size_t limit(struct sq_stage *s, size_t len, bool *close)
{
    uint64_t most = (uint64_t)s->rule->size, left = s->n < most ? most - s->n : 0;
    if (len >= left) {
        acted(s->rule, len - (size_t)left);
        *close = true;
        len = (size_t)left;
    }
    s->n += len;
    return len;
}

static int64_t delay_of(struct sq_rule *r)
{
    int64_t d = r->delay;
    if (r->jitter > 0)
        d += (int64_t)((sq_rng_double(&r->rng) * 2 - 1) * (double)r->jitter);
    return d > 0 ? d : 0;
}

static void swallow(struct sq_stage *s, size_t len, int64_t now)
{
    if (s->clock == 0)
        s->clock = now;
    s->rule->acts += !s->swallowed; /* once for a connection */
    s->rule->acted += len;
    s->swallowed = true;
}

size_t sq_stages_take(struct sq_stages *st, char *p, size_t len, int64_t *due, bool *close, int64_t now)
{
    for (unsigned i = 0; i < st->n && len > 0; i++) {
        struct sq_stage *s = &st->s[i];
        switch (s->kind) {
        case SQ_R_TIMEOUT:
        case SQ_R_RESET:
            swallow(s, len, now);
            return 0;
        case SQ_R_LOSS:
            if (lose(s)) {
                acted(s->rule, len);
                return 0;
            }
            break;
        case SQ_R_CORRUPT:
            corrupt(s->rule, p, len);
            break;
        case SQ_R_LIMIT:
            len = limit(s, len, close);
            break;
        case SQ_R_DELAY:
            *due += delay_of(s->rule);
            acted(s->rule, len);
            break;
        case SQ_R_LATENCY:
        case SQ_R_ERROR:
        case SQ_R_BLACKHOLE:
        case SQ_R_HTTP_STATUS:
        case SQ_R_HTTP_DELAY:
        case SQ_R_HTTP_ABORT:
        case SQ_R_HTTP_HEADER:
        case SQ_R_HTTP_BODY:
        case SQ_R_SLICER:
        case SQ_R_BANDWIDTH:
        case SQ_R_SLOW_CLOSE:
        case SQ_R_NOOP:
        case SQ_R_DUPLICATE:
        case SQ_R_DNS:
            break;
        }
    }
    return len;
}

void sq_stages_eof(struct sq_stages *st, int64_t now)
{
    for (unsigned i = 0; i < st->n; i++)
        if (st->s[i].kind == SQ_R_RESET && st->s[i].clock == 0)
            st->s[i].clock = now;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* When the transmission of the next byte begins. */
static int64_t bandwidth_start(const struct sq_stage *s, int64_t due)
{
    return later(s->clock, due - CREDIT);
}

static size_t bandwidth_allow(struct sq_stage *s, int64_t due, size_t len, int64_t now, int64_t *at)
{
    double rate = s->rule->rate;
    if (rate <= 0) {
        *at = INT64_MAX;
        return 0;
    }
    s->clock = later(s->clock, now - LAG);
    int64_t start = bandwidth_start(s, due);
    double quantum = rate * (double)QUANTUM_NS / (double)SQ_S;
    if (quantum < QUANTUM_MIN)
        quantum = QUANTUM_MIN;
    if (quantum > rate * (double)QUANTUM_LONG / (double)SQ_S)
        quantum = rate * (double)QUANTUM_LONG / (double)SQ_S;
    if (quantum < 1)
        quantum = 1;
    double want = quantum < (double)len ? quantum : (double)len;
    int64_t ready = start + (int64_t)(want * (double)SQ_S / rate);
    if (now < ready) {
        *at = later(*at, ready);
        return 0;
    }
    double done = (double)(now - start) * rate / (double)SQ_S;
    return done >= (double)len ? len : done < want ? (size_t)want : (size_t)done;
}

static size_t slicer_allow(struct sq_stage *s, int64_t due, size_t len, int64_t now, int64_t *at)
{
    struct sq_rule *r = s->rule;
    s->clock = later(s->clock, now - LAG);
    int64_t start = later(s->clock, due);
    if (now < start) {
        *at = later(*at, start);
        return 0;
    }
    if (s->n == 0) {
        int64_t vary = r->vary < r->size ? r->vary : r->size;
        int64_t size = r->size - vary + (vary > 0 ? (int64_t)sq_rng_below(&r->rng, 2 * (uint64_t)vary + 1) : 0);
        s->n = size > 0 ? (uint64_t)size : 1;
    }
    return s->n < len ? (size_t)s->n : len;
}

size_t sq_stages_allow(struct sq_stages *st, int64_t due, size_t len, int64_t now, int64_t *at)
{
    size_t most = len;
    *at = 0;
    for (unsigned i = 0; i < st->n && most > 0; i++) {
        struct sq_stage *s = &st->s[i];
        if (s->kind == SQ_R_SLICER)
            most = slicer_allow(s, due, most, now, at);
        else if (s->kind == SQ_R_BANDWIDTH)
            most = bandwidth_allow(s, due, most, now, at);
    }
    return most;
}

static void slicer_sent(struct sq_stage *s, int64_t due, size_t n, bool last)
{
    s->n -= n < s->n ? n : s->n;
    if (s->n > 0 && !last)
        return;
    s->n = 0;
    s->clock = later(s->clock, due) + s->rule->delay;
    acted(s->rule, 0);
}

void sq_stages_sent(struct sq_stages *st, int64_t due, size_t n, bool last)
{
    for (unsigned i = 0; i < st->n; i++) {
        struct sq_stage *s = &st->s[i];
        if (s->kind == SQ_R_SLICER) {
            slicer_sent(s, due, n, last);
            s->rule->acted += n;
        } else if (s->kind == SQ_R_BANDWIDTH && s->rule->rate > 0) {
            s->clock = bandwidth_start(s, due) + (int64_t)((double)n * (double)SQ_S / s->rule->rate);
            acted(s->rule, n);
        }
    }
}

void sq_stages_resume(struct sq_stages *st, int64_t now)
{
    for (unsigned i = 0; i < st->n; i++)
        if (st->s[i].kind == SQ_R_SLICER || st->s[i].kind == SQ_R_BANDWIDTH)
            st->s[i].clock = later(st->s[i].clock, now - CREDIT);
}

int64_t sq_stages_linger(struct sq_stages *st)
{
    int64_t sum = 0;
    for (unsigned i = 0; i < st->n; i++)
        if (st->s[i].kind == SQ_R_SLOW_CLOSE)
            sum += st->s[i].rule->delay;
    return sum;
}

void sq_stages_lingered(struct sq_stages *st)
{
    for (unsigned i = 0; i < st->n; i++)
        if (st->s[i].kind == SQ_R_SLOW_CLOSE)
            acted(st->s[i].rule, 0);
}

int64_t sq_stages_fires(const struct sq_stages *st, const struct sq_stage **by)
{
    int64_t first = INT64_MAX;
    for (unsigned i = 0; i < st->n && st->swallows; i++) {
        const struct sq_stage *s = &st->s[i];
        bool is_reset = s->kind == SQ_R_RESET;
        /* A timeout of 0 never ends by itself; a reset of 0 is one at once. */
        if (!(is_reset ? s->clock > 0 : s->kind == SQ_R_TIMEOUT && s->rule->delay > 0))
            continue;
        if (s->clock + s->rule->delay >= first)
            continue;
        first = s->clock + s->rule->delay;
        *by = s;
    }
    return first;
}

size_t sq_stages_room(const struct sq_stages *st, size_t least, size_t most)
{
    double room = (double)least;
    for (unsigned i = 0; i < st->n; i++) {
        double ten_ms = st->s[i].kind == SQ_R_BANDWIDTH ? st->s[i].rule->rate / 100.0 : 0;
        room = ten_ms > room ? ten_ms : room;
    }
    return room < (double)most ? (size_t)room : most;
}

bool sq_stages_broke(const struct sq_stages *st, uint32_t slots, bool any)
{
    for (unsigned i = 0; st && i < st->n; i++) {
        const struct sq_stage *s = &st->s[i];
        if ((slots & (UINT32_C(1) << s->slot)) && (s->swallowed || (any && s->kind == SQ_R_TIMEOUT)))
            return true;
    }
    return false;
}
