#include "packet/models.h"

#include <math.h>

enum { GAP_TX = 0, BURST_TX, BURST_LOST, GAP_LOST }; /* 4-state; the first is the generators' start, too */
enum { GOOD = 0, BAD };

uint32_t sq_odds(double percent)
{
    if (!(percent > 0))
        return 0;
    return percent >= 100 ? UINT32_MAX : (uint32_t)rint(percent / 100 * UINT32_MAX);
}

static uint32_t random32(struct sq_rng *r)
{
    return (uint32_t)(sq_rng_u64(r) >> 32);
}

uint32_t sq_crandom(struct sq_rng *r, uint32_t corr, uint32_t *last)
{
    uint32_t value = random32(r);
    if (corr == 0)
        return value;
    /* A weighted mean of two numbers below 2^32, the weights sum up to 2^32: no overflow. */
    uint64_t rho = (uint64_t)corr + 1;
    *last = (uint32_t)((value * ((UINT64_C(1) << 32) - rho) + *last * rho) >> 32);
    return *last;
}

/* netem takes the remainder by 2 sigma, which fits its 32-bit sigma; above that, and where nothing correlates, the
 * product is taken: it is unbiased for any width. */
static int64_t uniform(struct sq_rng *r, uint64_t width, uint32_t corr, uint32_t *last)
{
    if (corr == 0)
        return (int64_t)sq_rng_below(r, width);
    uint64_t rnd = sq_crandom(r, corr, last);
    if (width <= UINT32_MAX)
        return (int64_t)(rnd % width);
    __extension__ unsigned __int128 m = (unsigned __int128)(rnd << 32 | random32(r)) * width;
    return (int64_t)(uint64_t)(m >> 64);
}

int64_t sq_tabledist(struct sq_rng *r, int64_t mu, int64_t sigma, uint32_t corr, uint32_t *last,
                     const struct sq_dist_table *table)
{
    if (sigma <= 0)
        return mu;
    if (!table || table->n == 0)
        return mu - sigma + uniform(r, 2 * (uint64_t)sigma, corr, last);
    int64_t t = table->v[sq_crandom(r, corr, last) % table->n];
    int64_t x = sigma % SQ_DIST_SCALE * t;
    x += x >= 0 ? SQ_DIST_SCALE / 2 : -SQ_DIST_SCALE / 2;
    return x / SQ_DIST_SCALE + sigma / SQ_DIST_SCALE * t + mu;
}

/* 1: gap, received; 2: burst, received; 3: burst, lost; 4: gap, lost. The packet has the fate of the state entered. */
static bool loss_4state(struct sq_pstage *s)
{
    uint64_t rnd = random32(&s->rng);
    const struct sq_pstage_odds *p = &s->p;
    switch (s->loss_state) {
    case GAP_TX:
        if (rnd < p->a4)
            s->loss_state = GAP_LOST;
        else if (rnd < (uint64_t)p->a1 + p->a4)
            s->loss_state = BURST_LOST;
        break;
    case BURST_TX:
        if (rnd < p->a5)
            s->loss_state = BURST_LOST;
        break;
    case BURST_LOST:
        if (rnd < p->a3)
            s->loss_state = BURST_TX;
        else if (rnd < (uint64_t)p->a2 + p->a3)
            s->loss_state = GAP_TX;
        break;
    default:
        s->loss_state = GAP_TX;
    }
    return s->loss_state == BURST_LOST || s->loss_state == GAP_LOST;
}

/* a1 = p, a2 = r, a3 = 1-h, a4 = 1-k. The packet has the fate of the state before the step. */
static bool loss_gilbert(struct sq_pstage *s)
{
    bool bad = s->loss_state == BAD;
    if (random32(&s->rng) < (bad ? s->p.a2 : s->p.a1))
        s->loss_state = bad ? GOOD : BAD;
    uint32_t odds = bad ? s->p.a3 : s->p.a4;
    return odds && odds >= random32(&s->rng);
}

bool sq_loss(struct sq_pstage *s)
{
    switch (s->im.loss_model) {
    case SQ_LOSS_RANDOM:
        return s->p.loss && s->p.loss >= sq_crandom(&s->rng, s->p.loss_corr, &s->loss_last);
    case SQ_LOSS_STATE:
        return loss_4state(s);
    case SQ_LOSS_GEMODEL:
        return loss_gilbert(s);
    case SQ_LOSS_NONE:
    default:
        return false;
    }
}

/* 128 bits: lengths, overheads and cells at their ends don't fit 64. */
__extension__ typedef __int128 wide;

int64_t sq_packet_time(const struct sq_impair *im, uint32_t len, uint32_t segs)
{
    wide n = segs ? segs : 1;
    wide bytes = len + n * im->packet_overhead;
    bytes = bytes > 0 ? bytes : 0;
    if (im->cell_size) {
        wide each = (bytes + n - 1) / n; /* of a segment */
        wide cells = n * ((each + im->cell_size - 1) / im->cell_size);
        wide cell = (wide)im->cell_size + im->cell_overhead;
        bytes = cells * (cell > 0 ? cell : 0);
    }
    if (bytes > INT64_MAX)
        return INT64_MAX / 4;
    wide ns = bytes * 1000000000 / im->rate;
    return ns > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)ns;
}
