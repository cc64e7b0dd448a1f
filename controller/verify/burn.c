#include "verify/burn.h"

#include <errno.h>
#include <stdlib.h>

#include "squall/cleanup.h"

const struct sq_burn_rule sq_burn_rules[4] = {
    {"page", 14.4, 3600, 300, 2},
    {"page", 6, 6 * 3600, 1800, 5},
    {"ticket", 3, 86400, 7200, 10},
    {"ticket", 1, 3 * 86400, 6 * 3600, 10},
};

/* Sums of what came before index i. */
struct sums {
    double *bad, *total;
};

static double burn_of(double bad, double total, double allowed)
{
    return total > 0 ? bad / total / allowed : 0;
}

/* Over the W seconds up to and with second i. */
static double rate_at(const struct sums *s, size_t i, int64_t w, double allowed)
{
    size_t from = i + 1 > (size_t)w ? i + 1 - (size_t)w : 0;

    return burn_of(s->bad[i + 1] - s->bad[from], s->total[i + 1] - s->total[from], allowed);
}

/* The same with everything from index BEFORE on being bad. */
static double worst_at(const struct sums *s, size_t i, size_t before, int64_t w, double allowed)
{
    size_t from = i + 1 > (size_t)w ? i + 1 - (size_t)w : 0, run = from > before ? from : before;
    double bad = s->total[i + 1] - s->total[run] + (from < before ? s->bad[before] - s->bad[from] : 0);

    return burn_of(bad, s->total[i + 1] - s->total[from], allowed);
}

static double lesser(double a, double b)
{
    return a < b ? a : b;
}

static void follow(const struct sums *s, size_t n, size_t before, double allowed, const struct sq_burn_rule *r,
                   struct sq_burn_state *st)
{
    *st = (struct sq_burn_state){0};
    for (size_t i = before; i < n; i++) {
        double rate = lesser(rate_at(s, i, r->longer, allowed), rate_at(s, i, r->shorter, allowed));

        st->worst = rate > st->worst ? rate : st->worst;
        if (!st->possible)
            st->possible = lesser(worst_at(s, i, before, r->longer, allowed),
                                  worst_at(s, i, before, r->shorter, allowed)) > r->rate;
        if (!(rate > r->rate))
            continue;
        if (!st->fired)
            st->at = (int64_t)(i - before);
        st->fired = true;
        st->until = (int64_t)(i - before);
        st->secs++;
    }
}

int sq_burn(const double *good, const double *total, size_t n, size_t before, double allowed,
            struct sq_burn_state st[4])
{
    cleanup_free double *bad_sums = calloc(n + 1, sizeof *bad_sums);
    cleanup_free double *total_sums = calloc(n + 1, sizeof *total_sums);
    struct sums s = {bad_sums, total_sums};

    if (!bad_sums || !total_sums)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        s.bad[i + 1] = s.bad[i] + (total[i] > good[i] ? total[i] - good[i] : 0);
        s.total[i + 1] = s.total[i] + total[i];
    }
    for (size_t k = 0; k < 4; k++)
        follow(&s, n, before, allowed, &sq_burn_rules[k], &st[k]);
    return 0;
}
