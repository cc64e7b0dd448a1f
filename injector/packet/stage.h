/* One fault of the packet backend as a pure function of time: what happens to a packet that arrives at NOW. No I/O, no
 * clock, no allocation. The models are netem's (net/sched/sch_netem.c), from the same parameters, with a seeded
 * generator. A packet that several faults match passes their stages in the order of their bits; the due time of one is
 * the arrival at the next. */
#ifndef SQUALL_STAGE_H
#define SQUALL_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "net/impair.h"
#include "squall/rng.h"

struct sq_stage_counts {
    uint64_t packets, bytes, dropped, marked, duplicated, corrupted, reordered, overlimit;
};

/* Probabilities and correlations as netem takes them: shares of 2^32 - 1. */
struct sq_pstage_odds {
    uint32_t delay_corr, loss, loss_corr, dup, dup_corr, corrupt, corrupt_corr, reorder, reorder_corr;
    uint32_t a1, a2, a3, a4, a5; /* the loss models' */
};

/* Opaque to callers; embedded, so that a device has its stages in one array. */
struct sq_pstage {
    struct sq_impair im; /* tables owned */
    struct sq_pstage_odds p;
    uint32_t limit;
    struct sq_rng rng;
    uint32_t delay_last, loss_last, dup_last, corrupt_last, reorder_last; /* correlated generators' memory */
    uint32_t counter;                                                     /* since the last reordered packet */
    int loss_state;
    int64_t last_due; /* the latest of all so far, before slots: for rate */
    int64_t slot_next;
    uint32_t slot_packets_left;
    int64_t slot_bytes_left;
    uint32_t held; /* packets now held for this stage (kept by the device), against the limit */
    struct sq_stage_counts n;
};

struct sq_verdict_packet {
    bool drop, mark; /* mark: set ECN CE (only if the packet is ECN-capable; the device tells by `ect`) */
    bool corrupt;
    bool duplicate;  /* a second copy passes the stage, too: sq_pstage_pass_copy */
    uint64_t random; /* which bit to flip */
    int64_t due;     /* ns; >= now */
};

void sq_pstage_init(struct sq_pstage *s, struct sq_impair *take, uint64_t seed); /* takes over the tables */
void sq_pstage_clear(struct sq_pstage *s);
/* New parameters for a stage at work: the generators' memory and the link's state stay. */
void sq_pstage_change(struct sq_pstage *s, struct sq_impair *take);
/* LEN: bytes on the wire (of a GSO packet: all of it, with the headers of its SEGS segments). ECT: it may be marked. */
void sq_pstage_pass(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs, bool ect,
                    struct sq_verdict_packet *v);
/* The same for the second copy of a duplicated packet: it is not counted as arrived, and never duplicated again. */
void sq_pstage_pass_copy(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs, bool ect,
                         struct sq_verdict_packet *v);

#endif
