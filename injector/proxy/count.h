/* Count expressions of rules: which of the calls that a rule would hit, it does hit. Shared by the connect hooks (BPF),
 * the seccomp supervisor and the proxy: each call takes a ticket from one counter in memory that all of them see, and
 * the ticket alone decides. So it is exact whoever decides, on however many CPUs. */
#ifndef SQUALL_PROXY_COUNT_H
#define SQUALL_PROXY_COUNT_H

#include <stdbool.h>
#include <stdint.h>

#define SQ_RULE_TALLIES 256u /* rules at once, of all edges; */
#define SQ_EDGE_TALLIES 256u /* behind them, one for each edge by its slot: `seen` are its connects */
#define SQ_TALLIES (SQ_RULE_TALLIES + SQ_EDGE_TALLIES)
#define SQ_TALLY_CALLERS 256u /* a caller's number ends with its cell: number % SQ_TALLY_CALLERS */
#define SQ_TALLY_NONE UINT32_MAX
#define SQ_COUNT_MAX 1000000000u

/* Skip the first `after`, of the rest take each `every`-th (0: each), at most `first` of them (0: no limit). */
struct sq_nth {
    uint32_t first, every, after;
};

/* Of one rule and one caller. `seen`: calls that it would hit (percent was drawn before); `hit`: those it did. */
struct sq_tally_cell {
    uint64_t seen, hit;
};

struct sq_tally {
    struct sq_tally_cell of[SQ_TALLY_CALLERS];
};

static __attribute__((always_inline)) inline bool sq_nth_any(const struct sq_nth *c)
{
    return c->first || c->every > 1 || c->after;
}

/* Is the call with this ticket (0 for the first) hit? */
static __attribute__((always_inline)) inline bool sq_nth_hits(const struct sq_nth *c, uint64_t ticket)
{
    uint64_t n = ticket + 1;

    if (n <= c->after)
        return false;
    n -= c->after;
    if (c->every > 1) {
        if (n % c->every != 0)
            return false;
        n /= c->every;
    }
    return c->first == 0 || n <= c->first;
}

/* A call that the rule would hit takes its ticket. CELL is NULL where there is no memory to count in: then a rule that
 * counts hits nobody, for it could not be exact. */
static __attribute__((always_inline)) inline bool sq_nth_take(const struct sq_nth *c, struct sq_tally_cell *cell)
{
    if (!cell)
        return !sq_nth_any(c);
    if (!sq_nth_hits(c, __sync_fetch_and_add(&cell->seen, 1)))
        return false;
    __sync_fetch_and_add(&cell->hit, 1);
    return true;
}

#endif
