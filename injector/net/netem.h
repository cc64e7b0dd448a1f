/* netem's parameters and their encoding, as a pure function: libnl's own netem object lacks rate, slots, loss models
 * and 64-bit times, wraps delays from 275 s on, and reads 1 us back as 0. Source: linux/pkt_sched.h,
 * net/sched/sch_netem.c, iproute2's tc (golden tests compare the bytes). */
#ifndef SQUALL_NETEM_H
#define SQUALL_NETEM_H

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

struct sq_netem {
    int64_t delay, jitter; /* ns, 0 .. SQ_NETEM_MAX_NS; jitter needs a delay */
    double correlation;    /* percent 0..100, of the jitter; needs a jitter */
    double loss;           /* percent 0..100 */
    uint32_t limit;        /* packets; 0: sized by sq_netem_limit */
};

#define SQ_NETEM_MAX_NS (INT64_C(270) * 1000000000) /* the kernel's 32-bit field ends at 274.8 s */
/* The kernel keeps times in ticks of 64 ns where 32 bits are used. */
#define SQ_NETEM_TICK 64

/* Packets that fit the delay at 1 Gbit/s of small packets, so that a delay never turns into hidden loss. */
uint32_t sq_netem_limit(const struct sq_netem *n);
/* Append TCA_KIND and TCA_OPTIONS. CHANGE: for a netem that exists, which keeps what a message leaves out, so that
 * zeros are sent too. -EMSGSIZE when the message is too small. */
int sq_netem_put(struct nl_msg *msg, const struct sq_netem *n, bool change, struct sq_err *e);
/* From TCA_OPTIONS of a dump. -EBADMSG when it is no netem. */
int sq_netem_parse(const struct nlattr *options, struct sq_netem *n, struct sq_err *e);
/* Is GOT what ASKED becomes in the kernel (to one tick, and one part in 2^31 of a probability)? Fills E with the first
 * difference. */
bool sq_netem_same(const struct sq_netem *asked, const struct sq_netem *got, struct sq_err *e);

#endif
