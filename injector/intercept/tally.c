/* The memory in which rules count their calls (proxy/count.h): a BPF map when there is BPF, else a memfd. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "page.h"

#define LEN (SQ_TALLIES * sizeof(struct sq_tally))

int sq_tally_open(struct sq_intercept *ic, struct sq_err *e)
{
    void *p;
    int rc = sq_page_new(LEN, &p, &ic->tallies_fd, e);

    if (rc < 0)
        return rc;
    ic->tallies = p;
    ic->tallies_len = LEN;
    return 0;
}

void sq_tally_close(struct sq_intercept *ic)
{
    if (ic->tallies)
        (void)munmap(ic->tallies, ic->tallies_len);
    if (ic->tallies_fd >= 0)
        (void)close(ic->tallies_fd);
    ic->tallies = NULL;
    ic->tallies_fd = -1;
}

int sq_tally_take(struct sq_intercept *ic, uint32_t *tally, struct sq_err *e)
{
    for (uint32_t i = 0; ic->tallies && i < SQ_RULE_TALLIES; i++) {
        if (ic->tally_used[i])
            continue;
        ic->tally_used[i] = true;
        memset(&ic->tallies[i], 0, sizeof(ic->tallies[i]));
        ic->tally_gone[i] = (struct sq_tally_cell){0};
        *tally = i;
        return 0;
    }
    return sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "there are %u faults on calls already, which is the most at one time",
                      SQ_RULE_TALLIES);
}

void sq_tally_give(struct sq_intercept *ic, uint32_t tally)
{
    if (tally < SQ_RULE_TALLIES)
        ic->tally_used[tally] = false;
}

/* Somebody else counts here from now on. */
static void wipe(struct sq_intercept *ic, uint32_t slot)
{
    for (uint32_t i = 0; ic->tallies && i < SQ_TALLIES; i++) {
        struct sq_tally_cell *cell = &ic->tallies[i].of[slot];

        if (i < SQ_RULE_TALLIES) {
            ic->tally_gone[i].seen += cell->seen;
            ic->tally_gone[i].hit += cell->hit;
        }
        memset(cell, 0, sizeof(*cell));
    }
}

uint32_t sq_tally_slot(struct sq_intercept *ic, const char *run, const char *instance)
{
    for (const struct sq_caller *c = ic->gone; c; c = c->next)
        if (strcmp(c->run, run) == 0 && strcmp(c->instance, instance) == 0 && !ic->caller[c->slot] &&
            ic->slot_last[c->slot] == c->id)
            return c->slot;
    for (uint32_t i = 0; i < SQ_CALLERS; i++) {
        uint32_t slot = (ic->next_slot + i) % SQ_CALLERS;

        if (ic->caller[slot])
            continue;
        ic->next_slot = slot + 1;
        wipe(ic, slot);
        return slot;
    }
    return SQ_CALLERS;
}

struct sq_tally_cell sq_tally_sum(const struct sq_intercept *ic, uint32_t tally)
{
    struct sq_tally_cell sum = {0};

    if (tally < SQ_RULE_TALLIES)
        sum = ic->tally_gone[tally];
    for (uint32_t i = 0; ic->tallies && tally < SQ_TALLIES && i < SQ_TALLY_CALLERS; i++) {
        sum.seen += ic->tallies[tally].of[i].seen;
        sum.hit += ic->tallies[tally].of[i].hit;
    }
    return sum;
}
