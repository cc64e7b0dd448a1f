/* netem's netlink encoding of struct sq_impair, as a pure function: libnl's own netem object lacks rate, slots, loss
 * models and 64-bit times, wraps delays from 275 s on, and reads 1 us back as 0. Source: linux/pkt_sched.h,
 * net/sched/sch_netem.c, iproute2's tc/q_netem.c (golden tests compare the bytes).
 *
 * The bytes are those that tc sends, with TCA_NETEM_LATENCY64 and JITTER64 (nanoseconds) behind them: tc 6.1 knows
 * microseconds and 274 s only. Where tc itself errs, this does not follow: `duplicate P C` alone loses C there. */
#ifndef SQUALL_NETEM_H
#define SQUALL_NETEM_H

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/impair.h"
#include "squall/err.h"

/* The kernel counts in ticks of 64 ns where 32 bits are used (before Linux 4.15). */
#define SQ_NETEM_TICK 64
/* netem_change() silently cuts longer jitters, get_slot() those of slots (Linux 5.10 on; before, tabledist() fails). */
#define SQ_NETEM_JITTER_MAX INT64_C(2147483647)
/* Allocate so much for a message with tables: nlmsg_alloc_size(SQ_NETEM_MSG). A netlink attribute holds 64 KiB. */
#define SQ_NETEM_MSG 67000

/* Append TCA_KIND and TCA_OPTIONS. CHANGE: for a netem that exists, which keeps what a message leaves out, so that
 * zeros are sent too (and a uniform distribution as a table). -EMSGSIZE when the message is too small, -ERANGE
 * (SQ_C_UNSUPPORTED) for what netem can't do, -EINVAL for an IM that came from a read-back. */
int sq_netem_put(struct nl_msg *msg, const struct sq_impair *im, bool change, struct sq_err *e);
/* From TCA_OPTIONS of a dump. Tables are not dumped by the kernel: a jitter's distribution reads as SQ_DIST_TABLE
 * without a table. Nothing to clear. -EBADMSG when it is no netem. */
int sq_netem_parse(const struct nlattr *options, struct sq_impair *im, struct sq_err *e);
/* Is GOT (parsed) what ASKED becomes in the kernel? Times to one tick, all else exactly, probabilities as the 32 bits
 * that netem keeps; distributions can't be read. Fills E with the first difference. */
bool sq_netem_same(const struct sq_impair *asked, const struct sq_impair *got, struct sq_err *e);

#endif
