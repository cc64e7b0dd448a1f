/* What a network fault does to a packet, for both backends: netem (net/netem.c encodes it) and packet (packet/ carries
 * it out). Parts combine; a part that is all zero is off. The meaning of each field is netem's (man tc-netem,
 * net/sched/sch_netem.c). Percentages are 0..100, times ns, rates bytes/s. */
#ifndef SQUALL_IMPAIR_H
#define SQUALL_IMPAIR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"
#include "squall/preset.h"
#include "squall/spec.h"

enum sq_dist { SQ_DIST_UNIFORM, SQ_DIST_NORMAL, SQ_DIST_PARETO, SQ_DIST_PARETONORMAL, SQ_DIST_TABLE };
enum sq_loss_model { SQ_LOSS_NONE, SQ_LOSS_RANDOM, SQ_LOSS_STATE, SQ_LOSS_GEMODEL };

/* A distribution table as netem takes it: value = mu + sigma * table[random] / 8192, with tc's own scaling. */
#define SQ_DIST_SCALE 8192
#define SQ_DIST_MAX 16384
struct sq_dist_table {
    uint32_t n;
    int16_t v[SQ_DIST_MAX];
};

struct sq_impair {
    int64_t delay, jitter; /* 0 .. SQ_IMPAIR_MAX_NS; jitter needs no delay, but never holds a packet less than 0 */
    double delay_corr;     /* of the jitter */
    enum sq_dist dist;     /* of the jitter */
    struct sq_dist_table *table; /* owned; of any dist but uniform. SQ_DIST_TABLE with NULL: the kernel doesn't tell */

    enum sq_loss_model loss_model;
    double loss, loss_corr;          /* random */
    double p13, p31, p32, p23, p14;  /* 4-state Markov */
    double ge_p, ge_r, ge_1h, ge_1k; /* Gilbert-Elliott: 1-h loss in bad, 1-k in good */
    bool ecn;                        /* mark instead of drop, where the packet allows it */

    double duplicate, duplicate_corr;
    double corrupt, corrupt_corr;
    double reorder, reorder_corr; /* needs a delay */
    uint32_t gap;                 /* every gap-th packet; 0: each (1) */

    uint64_t rate;           /* bytes/s; 0: no limit */
    int32_t packet_overhead; /* bytes, may be negative */
    uint32_t cell_size;      /* bytes; 0: none */
    int32_t cell_overhead;

    bool slot;
    int64_t slot_min, slot_max; /* ns between slots; or, with slot_dist: */
    enum sq_dist slot_dist;
    struct sq_dist_table *slot_table; /* owned */
    int64_t slot_delay, slot_jitter;
    uint32_t slot_packets, slot_bytes; /* at most so many in a slot; 0: no limit */

    uint32_t limit; /* packets held at most; 0: sized by sq_impair_limit */
    uint64_t seed;  /* of the generator (netem has one from Linux 6.6 on); 0: random */
};

#define SQ_IMPAIR_MAX_NS (INT64_C(3600) * 1000000000) /* an hour: beyond that it is a black hole */

/* The parameters of a network fault, as people write them: a fault's table begins with SQ_IMPAIR_DELAY(flags),
 * SQ_IMPAIR_LOSS(flags), SQ_IMPAIR_REST, where flags is 0 or SQ_REQUIRED. None has a default but `backend`: what is
 * absent comes from the preset, else it is off, so that `loss: 0%` beside a preset means none. */
#define SQ_IMPAIR_DELAY(flags)                                                                                         \
    {                                                                                                                  \
        "delay", SQ_P_DURATION, flags, NULL, NULL, "how long each packet is held, up to 1h"                            \
    }
#define SQ_IMPAIR_LOSS(flags)                                                                                          \
    {                                                                                                                  \
        "loss", SQ_P_PERCENT, flags, NULL, NULL, "what share of the packets is dropped at random"                      \
    }
#define SQ_IMPAIR_REST                                                                                                 \
    {"preset", SQ_P_STRING, 0,                                                                                         \
     NULL,     NULL,        "a whole path by name (squall explain presets); what is given beside it overrides it"},    \
        {"jitter", SQ_P_DURATION, 0, NULL, NULL, "the delay varies by so much (of a distribution: its deviation)"},    \
        {"correlation", SQ_P_PERCENT, 0, NULL, NULL, "how far a packet's jitter follows that of the one before"},      \
        {"distribution",                                                                                               \
         SQ_P_STRING,                                                                                                  \
         0,                                                                                                            \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         "of the jitter: uniform (when left out), normal, pareto, paretonormal, file:PATH (tc's .dist), hlog:PATH (a " \
         "recorded HdrHistogram log) or run:DIR#ENDPOINT (what a run of Squall measured)"},                            \
        {"loss_correlation", SQ_P_PERCENT, 0, NULL, NULL, "how far a loss follows the one before"},                    \
        {"loss_state",          SQ_P_MAP, 0, NULL, NULL, "4-state Markov loss: {p13, p31, p32, p23, p14}",             \
         sq_impair_state_params},                                                                                      \
        {"loss_gemodel", SQ_P_MAP, 0, NULL, NULL, "Gilbert-Elliott loss: {p, r, 1-h, 1-k}", sq_impair_gemodel_params}, \
        {"ecn", SQ_P_BOOL, 0, NULL, NULL, "mark packets that allow it instead of dropping them"},                      \
        {"duplicate", SQ_P_PERCENT, 0, NULL, NULL, "what share of the packets is sent twice"},                         \
        {"duplicate_correlation", SQ_P_PERCENT, 0, NULL, NULL, "how far that follows the one before"},                 \
        {"corrupt", SQ_P_PERCENT, 0, NULL, NULL, "what share of the packets gets one bit flipped"},                    \
        {"corrupt_correlation", SQ_P_PERCENT, 0, NULL, NULL, "how far that follows the one before"},                   \
        {"reorder", SQ_P_PERCENT, 0, NULL, NULL, "what share of the packets is sent at once; needs a delay"},          \
        {"reorder_correlation", SQ_P_PERCENT, 0, NULL, NULL, "how far that follows the one before"},                   \
        {"gap", SQ_P_INT, 0, NULL, NULL, "only every so many packets is a candidate for reordering (1: each)"},        \
        {"rate", SQ_P_STRING, 0, NULL, NULL, "bandwidth, as tc writes it: 10mbit, 1gbit, 125kbps"},                    \
        {"packet_overhead", SQ_P_INT, 0, NULL, NULL, "bytes added to (or taken from) each packet's length for rate"},  \
        {"cell_size", SQ_P_INT, 0, NULL, NULL, "rate counts in cells of so many bytes"},                               \
        {"cell_overhead", SQ_P_INT, 0, NULL, NULL, "bytes added to each cell"},                                        \
        {"slot",                                                                                                       \
         SQ_P_MAP,                                                                                                     \
         0,                                                                                                            \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         "packets leave in bursts: {min, max} or {distribution, delay, jitter}, and {packets, bytes}",                 \
         sq_impair_slot_params},                                                                                       \
        {"limit", SQ_P_INT, 0, NULL, NULL, "packets held at most; left out: so many that a delay never loses any"},    \
    {                                                                                                                  \
        "backend", SQ_P_ENUM, 0, "auto", "auto|netem|packet", "who does it: the kernel, or Squall in user space"       \
    }

/* From a fault's normalized `with`, the preset it names applied first (unknown keys are somebody else's and ignored).
 * Reads the distribution files named in it, by absolute path, with the calling thread's rights: call it through
 * sq_run_as(&fault->peer, ...). Zero impairment is -EINVAL ("nothing to do"), class SQ_C_INPUT. sq_impair_clear
 * afterwards, always. */
int sq_impair_read(const json_t *with, struct sq_impair *im, struct sq_err *e);
void sq_impair_clear(struct sq_impair *im);
/* A `distribution` as people write it: its table in *TABLE (malloc'd; NULL: uniform, or no jitter, or a recording of
 * one value). *MEAN and *JITTER that are 0 become the recording's own, where there is one. With the calling thread's
 * rights.
 */
int sq_dist_read(const char *s, enum sq_dist *d, struct sq_dist_table **table, int64_t *mean, int64_t *jitter,
                 struct sq_err *e);
/* What combines (a reorder without delay and such) and ranges; sq_impair_read calls it. */
int sq_impair_check(const struct sq_impair *im, struct sq_err *e);
/* im->limit, or where that is 0: packets that fit in the pipe, (delay + 4 jitters + a slot) times the packets a second:
 * those of 64 bytes at `rate`, at most (and without a rate) 10 Gbit/s of 1500 bytes; at least 1000, at most 2^22. A
 * delay must never become a hidden loss. */
#define SQ_IMPAIR_LIMIT_MAX (UINT32_C(1) << 22)
uint32_t sq_impair_limit(const struct sq_impair *im);
/* As JSON, normalized: what a read-back says ({"delay": ns, "loss": percent, "rate": bytes/s, ...}; parts that are off
 * are left out; "distribution": "not readable" when sq_netem_parse made IM). New reference. */
json_t *sq_impair_json(const struct sq_impair *im);

/* "10mbit", "125kbps" (units as tc's): bytes a second, at least 1. */
int sq_impair_rate(const char *s, uint64_t *rate, struct sq_err *e);

#endif
