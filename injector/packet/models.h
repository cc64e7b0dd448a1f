/* netem's random models (net/sched/sch_netem.c: get_crandom, tabledist, loss_4state, loss_gilb_ell, packet_time_ns), on
 * a generator of our own and in 64 bits. */
#ifndef SQUALL_MODELS_H
#define SQUALL_MODELS_H

#include <stdbool.h>
#include <stdint.h>

#include "packet/stage.h"

/* PERCENT 0..100 as a share of 2^32 - 1, as tc rounds it. */
uint32_t sq_odds(double percent);
/* The next number of a generator whose numbers follow each other by CORR; *LAST is its memory. */
uint32_t sq_crandom(struct sq_rng *r, uint32_t corr, uint32_t *last);
/* A value of the distribution: MU +- SIGMA uniformly where TABLE is NULL. SIGMA >= 0; may be negative. */
int64_t sq_tabledist(struct sq_rng *r, int64_t mu, int64_t sigma, uint32_t corr, uint32_t *last,
                     const struct sq_dist_table *table);
/* Is this packet lost? */
bool sq_loss(struct sq_pstage *s);
/* How long the packet takes at im->rate, ns; overhead and cells are counted for each of SEGS segments. */
int64_t sq_packet_time(const struct sq_impair *im, uint32_t len, uint32_t segs);

#endif
