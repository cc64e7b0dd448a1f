/* Burn rates: how many times as fast as it may an error budget is spent (1: all of it in just one window), and the
 * multi-window alerts that the SRE workbook makes of them (ch. 5, table 5-8; the ticket over 1 day as in sloth). Pure.
 */
#ifndef SQUALL_VERIFY_BURN_H
#define SQUALL_VERIFY_BURN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sq_burn_rule {
    const char *severity;    /* "page", "ticket" */
    double rate;             /* fires when both windows burn faster */
    int64_t longer, shorter; /* seconds */
    double share;            /* of a window of 30 days, percent: what is spent at that rate over the long window */
};
extern const struct sq_burn_rule sq_burn_rules[4];

struct sq_burn_state {
    bool fired, possible; /* possible: it fires if all in the run is bad and all before as it was */
    int64_t at, until;    /* seconds of the series at whose end it fired first, and last */
    int64_t secs;         /* how many seconds it fired in all */
    double worst;         /* the largest of min(long, short) seen */
};

/* good[i] of total[i] for n seconds, looked at at the end of each from the one with index BEFORE on. ALLOWED: share of
 * bad ones that the target leaves, > 0. What is before the first second counts as no traffic. *st for each rule. 0 or
 * -ENOMEM. */
int sq_burn(const double *good, const double *total, size_t n, size_t before, double allowed,
            struct sq_burn_state st[4]);

#endif
