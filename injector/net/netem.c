#include "net/netem.h"

#include <errno.h>
#include <linux/pkt_sched.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/units.h"

#define PACKETS_PER_S 1500000 /* 1 Gbit/s of 84-byte packets on the wire */

uint32_t sq_netem_limit(const struct sq_netem *n)
{
    double held = (double)(n->delay + n->jitter) / (double)SQ_S * PACKETS_PER_S;

    if (n->limit)
        return n->limit;
    return held < 10000 ? 10000 : held > 20e6 ? 20000000u : (uint32_t)held;
}

static uint32_t ticks(int64_t ns)
{
    return (uint32_t)(ns / SQ_NETEM_TICK);
}

/* tc's rounding: 0..100 % on 0..2^32-1 (iproute2 tc/q_netem.c, get_percent). */
static uint32_t probability(double percent)
{
    return (uint32_t)rint(percent / 100.0 * (double)UINT32_MAX);
}

static double percent_of(uint32_t probability32)
{
    return (double)probability32 / (double)UINT32_MAX * 100.0;
}

int sq_netem_put(struct nl_msg *msg, const struct sq_netem *n, bool change, struct sq_err *e)
{
    struct tc_netem_qopt q = {
        .latency = ticks(n->delay),
        .limit = sq_netem_limit(n),
        .loss = probability(n->loss),
        .jitter = ticks(n->jitter),
    };
    struct tc_netem_corr corr = {.delay_corr = probability(n->correlation)};
    struct nlattr *options;

    if (n->delay < 0 || n->delay > SQ_NETEM_MAX_NS || n->jitter < 0 || n->jitter > SQ_NETEM_MAX_NS)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "netem takes delays and jitters of 0 to 270 s");
    if (nla_put_string(msg, TCA_KIND, "netem") < 0)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    options = nla_nest_start(msg, TCA_OPTIONS);
    if (!options || nlmsg_append(msg, &q, sizeof q, NLMSG_ALIGNTO) < 0 ||
        ((change || corr.delay_corr) && nla_put(msg, TCA_NETEM_CORR, sizeof corr, &corr) < 0))
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    nla_nest_end(msg, options);
    return 0;
}

int sq_netem_parse(const struct nlattr *options, struct sq_netem *n, struct sq_err *e)
{
    struct nlattr *tb[TCA_NETEM_MAX + 1];
    struct tc_netem_qopt q;
    int len = options ? nla_len(options) : 0;

    memset(n, 0, sizeof *n);
    if (len < (int)sizeof q)
        return sq_err(e, -EBADMSG, "the kernel's answer holds no netem parameters");
    memcpy(&q, nla_data(options), sizeof q);
    /* The nested attributes follow the fixed structure (net/sched/sch_netem.c, netem_dump). */
    if (nla_parse(tb, TCA_NETEM_MAX, (struct nlattr *)(void *)((char *)nla_data(options) + NLMSG_ALIGN(sizeof q)),
                  len - (int)NLMSG_ALIGN(sizeof q), NULL) < 0)
        return sq_err(e, -EBADMSG, "the kernel's netem attributes cannot be parsed");
    n->delay = (int64_t)q.latency * SQ_NETEM_TICK;
    n->jitter = (int64_t)q.jitter * SQ_NETEM_TICK;
    n->limit = q.limit;
    n->loss = percent_of(q.loss);
    if (tb[TCA_NETEM_LATENCY64] && nla_len(tb[TCA_NETEM_LATENCY64]) >= 8)
        n->delay = (int64_t)nla_get_u64(tb[TCA_NETEM_LATENCY64]);
    if (tb[TCA_NETEM_JITTER64] && nla_len(tb[TCA_NETEM_JITTER64]) >= 8)
        n->jitter = (int64_t)nla_get_u64(tb[TCA_NETEM_JITTER64]);
    if (tb[TCA_NETEM_CORR] && nla_len(tb[TCA_NETEM_CORR]) >= (int)sizeof(struct tc_netem_corr)) {
        struct tc_netem_corr corr;

        memcpy(&corr, nla_data(tb[TCA_NETEM_CORR]), sizeof corr);
        n->correlation = percent_of(corr.delay_corr);
    }
    return 0;
}

static bool near_ns(int64_t asked, int64_t got)
{
    return llabs(asked - got) < SQ_NETEM_TICK;
}

static bool near_percent(double asked, double got)
{
    return fabs(asked - got) < 1e-7;
}

bool sq_netem_same(const struct sq_netem *asked, const struct sq_netem *got, struct sq_err *e)
{
    if (!near_ns(asked->delay, got->delay))
        sq_err(e, -EBADE, "the kernel has a delay of %lld ns, %lld ns were asked", (long long)got->delay,
               (long long)asked->delay);
    else if (!near_ns(asked->jitter, got->jitter))
        sq_err(e, -EBADE, "the kernel has a jitter of %lld ns, %lld ns were asked", (long long)got->jitter,
               (long long)asked->jitter);
    else if (!near_percent(asked->correlation, got->correlation))
        sq_err(e, -EBADE, "the kernel has a correlation of %.6f %%, %.6f %% were asked", got->correlation,
               asked->correlation);
    else if (!near_percent(asked->loss, got->loss))
        sq_err(e, -EBADE, "the kernel has a loss of %.6f %%, %.6f %% were asked", got->loss, asked->loss);
    else if (sq_netem_limit(asked) != got->limit)
        sq_err(e, -EBADE, "the kernel has a limit of %u packets, %u were asked", got->limit, sq_netem_limit(asked));
    else
        return true;
    return false;
}
