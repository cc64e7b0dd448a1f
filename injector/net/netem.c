#include "net/netem.h"

#include <errno.h>
#include <linux/pkt_sched.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "net/dist.h"
#include "squall/cleanup.h"

#define PRNG_SEED (TCA_NETEM_SLOT_DIST + 1) /* TCA_NETEM_PRNG_SEED, Linux 6.6; older kernels ignore it */
#define TYPES (PRNG_SEED + 1)

static uint32_t ticks(int64_t ns)
{
    return ns / SQ_NETEM_TICK > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / SQ_NETEM_TICK);
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

/* A reorder without a gap means each packet: tc and the kernel say 1. */
static uint32_t gap_of(const struct sq_impair *im)
{
    return im->reorder > 0 && im->gap == 0 ? 1 : im->gap;
}

static bool put(struct nl_msg *msg, int type, size_t len, const void *data)
{
    return nla_put(msg, type, (int)len, data) == 0;
}

static bool put_correlations(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    const struct tc_netem_corr corr = {
        .delay_corr = probability(im->delay_corr),
        .loss_corr = probability(im->loss_corr),
        .dup_corr = probability(im->duplicate_corr),
    };
    const struct tc_netem_reorder reorder = {probability(im->reorder), probability(im->reorder_corr)};
    bool any = im->delay_corr > 0 || im->loss_corr > 0 || im->duplicate_corr > 0 || im->reorder_corr > 0 ||
               im->corrupt_corr > 0; /* tc sends it for the last two as well */

    return (!(any || change) || put(msg, TCA_NETEM_CORR, sizeof corr, &corr)) &&
           (!(im->reorder > 0 || change) || put(msg, TCA_NETEM_REORDER, sizeof reorder, &reorder));
}

static bool put_corrupt(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    const struct tc_netem_corrupt corrupt = {probability(im->corrupt), probability(im->corrupt_corr)};
    const uint32_t ecn = im->ecn;

    return (!(im->ecn || change) || put(msg, TCA_NETEM_ECN, sizeof ecn, &ecn)) &&
           (!(im->corrupt > 0 || change) || put(msg, TCA_NETEM_CORRUPT, sizeof corrupt, &corrupt));
}

static bool put_slot(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    struct tc_netem_slot slot = {0};

    if (im->slot) {
        slot.min_delay = im->slot_min;
        slot.max_delay = im->slot_max;
        slot.max_packets = (int32_t)im->slot_packets;
        slot.max_bytes = (int32_t)im->slot_bytes;
        slot.dist_delay = im->slot_delay;
        slot.dist_jitter = im->slot_jitter;
    }
    return !(im->slot || change) || put(msg, TCA_NETEM_SLOT, sizeof slot, &slot);
}

/* The kernel goes back to random loss when there is none (netem_change). */
static bool put_loss_model(struct nl_msg *msg, const struct sq_impair *im)
{
    const struct tc_netem_gimodel gi = {
        .p13 = probability(im->p13),
        .p31 = probability(im->p31),
        .p32 = probability(im->p32),
        .p14 = probability(im->p14),
        .p23 = probability(im->p23),
    };
    /* People say 1-h, the kernel h. */
    const struct tc_netem_gemodel ge = {
        .p = probability(im->ge_p),
        .r = probability(im->ge_r),
        .h = UINT32_MAX - probability(im->ge_1h),
        .k1 = probability(im->ge_1k),
    };
    struct nlattr *nest;

    if (im->loss_model != SQ_LOSS_STATE && im->loss_model != SQ_LOSS_GEMODEL)
        return true;
    nest = nla_nest_start(msg, TCA_NETEM_LOSS | NLA_F_NESTED);
    return nest &&
           (im->loss_model == SQ_LOSS_STATE ? put(msg, NETEM_LOSS_GI, sizeof gi, &gi)
                                            : put(msg, NETEM_LOSS_GE, sizeof ge, &ge)) &&
           nla_nest_end(msg, nest) == 0;
}

static bool put_rate(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    const struct tc_netem_rate rate = {
        .rate = im->rate > UINT32_MAX ? UINT32_MAX : (uint32_t)im->rate,
        .packet_overhead = im->packet_overhead,
        .cell_size = im->cell_size,
        .cell_overhead = im->cell_overhead,
    };

    return (im->rate <= UINT32_MAX || put(msg, TCA_NETEM_RATE64, sizeof im->rate, &im->rate)) &&
           (!(im->rate || change) || put(msg, TCA_NETEM_RATE, sizeof rate, &rate));
}

/* A netem keeps its table when a change sends none: what was normal is made uniform by a table that is. */
static int put_table(struct nl_msg *msg, int type, const struct sq_dist_table *table, bool uniform, struct sq_err *e)
{
    cleanup_free struct sq_dist_table *own = NULL;

    if (!table && uniform) {
        int r = sq_dist_uniform(&own, e);

        if (r < 0)
            return r;
        table = own;
    }
    if (table && !put(msg, type, table->n * sizeof table->v[0], table->v))
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    return 0;
}

static bool put_wide(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    return (!(im->seed || change) || put(msg, PRNG_SEED, sizeof im->seed, &im->seed)) &&
           (!(im->delay || change) || put(msg, TCA_NETEM_LATENCY64, sizeof im->delay, &im->delay)) &&
           (!(im->jitter || change) || put(msg, TCA_NETEM_JITTER64, sizeof im->jitter, &im->jitter));
}

static int put_options(struct nl_msg *msg, const struct sq_impair *im, bool change, struct sq_err *e)
{
    const struct tc_netem_qopt q = {
        .latency = ticks(im->delay),
        .limit = sq_impair_limit(im),
        .loss = im->loss_model == SQ_LOSS_RANDOM ? probability(im->loss) : 0,
        .gap = gap_of(im),
        .duplicate = probability(im->duplicate),
        .jitter = ticks(im->jitter),
    };
    int r;

    if (nlmsg_append(msg, (void *)(uintptr_t)&q, sizeof q, NLMSG_ALIGNTO) < 0 || !put_correlations(msg, im, change) ||
        !put_corrupt(msg, im, change) || !put_slot(msg, im, change) || !put_loss_model(msg, im) ||
        !put_rate(msg, im, change))
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    r = put_table(msg, TCA_NETEM_DELAY_DIST, im->table, change && im->jitter > 0, e);
    if (r == 0)
        r = put_table(msg, TCA_NETEM_SLOT_DIST, im->slot_table, change && im->slot && im->slot_jitter > 0, e);
    if (r == 0 && !put_wide(msg, im, change))
        r = sq_err(e, -EMSGSIZE, "the netlink message is too small");
    return r;
}

/* What netem can't, though it is well-formed. */
static int check(const struct sq_impair *im, struct sq_err *e)
{
    if (im->jitter > SQ_NETEM_JITTER_MAX || (im->slot && im->slot_jitter > SQ_NETEM_JITTER_MAX)) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -ERANGE, "netem's jitter ends at 2.147 s");
        sq_err_hint(e, "choose a smaller one, or backend: packet");
        return -ERANGE;
    }
    if ((im->dist != SQ_DIST_UNIFORM && !im->table) || (im->slot_dist != SQ_DIST_UNIFORM && !im->slot_table))
        return sq_err(e, -EINVAL, "a distribution without its table can't be given to netem");
    return 0;
}

int sq_netem_put(struct nl_msg *msg, const struct sq_impair *im, bool change, struct sq_err *e)
{
    struct nlattr *options;
    int r = sq_impair_check(im, e);

    if (r == 0)
        r = check(im, e);
    if (r < 0)
        return r;
    if (nla_put_string(msg, TCA_KIND, "netem") < 0)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    options = nla_nest_start(msg, TCA_OPTIONS);
    if (!options)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    r = put_options(msg, im, change, e);
    if (r == 0 && nla_nest_end(msg, options) < 0)
        r = sq_err_cls(e, SQ_C_UNSUPPORTED, -EMSGSIZE, "two such large distribution tables do not fit in one message");
    return r;
}

/* Copies an attribute that is at least as long as the structure. */
static bool get(struct nlattr **tb, int type, void *into, size_t len)
{
    if (!tb[type] || nla_len(tb[type]) < (int)len)
        return false;
    memcpy(into, nla_data(tb[type]), len);
    return true;
}

static void parse_loss(struct nlattr **tb, struct sq_impair *im)
{
    struct nlattr *models[NETEM_LOSS_MAX + 1];
    struct tc_netem_gimodel gi;
    struct tc_netem_gemodel ge;

    if (!tb[TCA_NETEM_LOSS] || nla_parse_nested(models, NETEM_LOSS_MAX, tb[TCA_NETEM_LOSS], NULL) < 0)
        return;
    if (get(models, NETEM_LOSS_GI, &gi, sizeof gi)) {
        im->loss_model = SQ_LOSS_STATE;
        im->p13 = percent_of(gi.p13);
        im->p31 = percent_of(gi.p31);
        im->p32 = percent_of(gi.p32);
        im->p14 = percent_of(gi.p14);
        im->p23 = percent_of(gi.p23);
    } else if (get(models, NETEM_LOSS_GE, &ge, sizeof ge)) {
        im->loss_model = SQ_LOSS_GEMODEL;
        im->ge_p = percent_of(ge.p);
        im->ge_r = percent_of(ge.r);
        im->ge_1h = percent_of(UINT32_MAX - ge.h);
        im->ge_1k = percent_of(ge.k1);
    }
}

static void parse_probabilities(struct nlattr **tb, struct sq_impair *im)
{
    struct tc_netem_corr corr;
    struct tc_netem_reorder reorder;
    struct tc_netem_corrupt corrupt;
    uint32_t ecn;

    if (get(tb, TCA_NETEM_CORR, &corr, sizeof corr)) {
        im->delay_corr = percent_of(corr.delay_corr);
        im->loss_corr = percent_of(corr.loss_corr);
        im->duplicate_corr = percent_of(corr.dup_corr);
    }
    if (get(tb, TCA_NETEM_REORDER, &reorder, sizeof reorder)) {
        im->reorder = percent_of(reorder.probability);
        im->reorder_corr = percent_of(reorder.correlation);
    }
    if (get(tb, TCA_NETEM_CORRUPT, &corrupt, sizeof corrupt)) {
        im->corrupt = percent_of(corrupt.probability);
        im->corrupt_corr = percent_of(corrupt.correlation);
    }
    im->ecn = get(tb, TCA_NETEM_ECN, &ecn, sizeof ecn) && ecn;
}

static void parse_rate(struct nlattr **tb, struct sq_impair *im)
{
    struct tc_netem_rate rate;

    if (get(tb, TCA_NETEM_RATE, &rate, sizeof rate)) {
        im->rate = rate.rate;
        im->packet_overhead = rate.packet_overhead;
        im->cell_size = rate.cell_size;
        im->cell_overhead = rate.cell_overhead;
    }
    (void)get(tb, TCA_NETEM_RATE64, &im->rate, sizeof im->rate);
}

static void parse_slot(struct nlattr **tb, struct sq_impair *im)
{
    struct tc_netem_slot slot;

    if (!get(tb, TCA_NETEM_SLOT, &slot, sizeof slot) || !(slot.min_delay | slot.max_delay | slot.dist_jitter))
        return;
    im->slot = true;
    im->slot_min = slot.min_delay;
    im->slot_max = slot.max_delay;
    im->slot_packets = (uint32_t)slot.max_packets;
    im->slot_bytes = (uint32_t)slot.max_bytes;
    im->slot_delay = slot.dist_delay;
    im->slot_jitter = slot.dist_jitter;
    im->slot_dist = slot.dist_jitter ? SQ_DIST_TABLE : SQ_DIST_UNIFORM;
}

int sq_netem_parse(const struct nlattr *options, struct sq_impair *im, struct sq_err *e)
{
    struct nlattr *tb[TYPES];
    struct tc_netem_qopt q;
    int len = options ? nla_len(options) : 0;

    memset(im, 0, sizeof *im);
    if (len < (int)sizeof q)
        return sq_err(e, -EBADMSG, "the kernel's answer holds no netem parameters");
    memcpy(&q, nla_data(options), sizeof q);
    /* The nested attributes follow the fixed structure (net/sched/sch_netem.c, netem_dump). */
    if (nla_parse(tb, TYPES - 1, (struct nlattr *)(void *)((char *)nla_data(options) + NLMSG_ALIGN(sizeof q)),
                  len - (int)NLMSG_ALIGN(sizeof q), NULL) < 0)
        return sq_err(e, -EBADMSG, "the kernel's netem attributes cannot be parsed");
    im->delay = (int64_t)q.latency * SQ_NETEM_TICK;
    im->jitter = (int64_t)q.jitter * SQ_NETEM_TICK;
    im->limit = q.limit;
    im->gap = q.gap;
    im->duplicate = percent_of(q.duplicate);
    im->loss = percent_of(q.loss);
    im->loss_model = q.loss ? SQ_LOSS_RANDOM : SQ_LOSS_NONE;
    (void)get(tb, TCA_NETEM_LATENCY64, &im->delay, sizeof im->delay);
    (void)get(tb, TCA_NETEM_JITTER64, &im->jitter, sizeof im->jitter);
    (void)get(tb, PRNG_SEED, &im->seed, sizeof im->seed);
    im->dist = im->jitter ? SQ_DIST_TABLE : SQ_DIST_UNIFORM;
    parse_probabilities(tb, im);
    parse_loss(tb, im);
    parse_rate(tb, im);
    parse_slot(tb, im);
    return 0;
}

static bool same_percents(const struct sq_impair *a, const struct sq_impair *g, struct sq_err *e)
{
    bool random = a->loss_model == SQ_LOSS_RANDOM, state = a->loss_model == SQ_LOSS_STATE;
    bool gemodel = a->loss_model == SQ_LOSS_GEMODEL;
    const struct {
        const char *name;
        double asked, got;
        bool counts;
    } all[] = {
        {"correlation", a->delay_corr, g->delay_corr, true},
        {"loss", a->loss, g->loss, random},
        {"loss_correlation", a->loss_corr, g->loss_corr, true},
        {"p13", a->p13, g->p13, state},
        {"p31", a->p31, g->p31, state},
        {"p32", a->p32, g->p32, state},
        {"p23", a->p23, g->p23, state},
        {"p14", a->p14, g->p14, state},
        {"p", a->ge_p, g->ge_p, gemodel},
        {"r", a->ge_r, g->ge_r, gemodel},
        {"1-h", a->ge_1h, g->ge_1h, gemodel},
        {"1-k", a->ge_1k, g->ge_1k, gemodel},
        {"duplicate", a->duplicate, g->duplicate, true},
        {"duplicate_correlation", a->duplicate_corr, g->duplicate_corr, true},
        {"corrupt", a->corrupt, g->corrupt, true},
        {"corrupt_correlation", a->corrupt_corr, g->corrupt_corr, true},
        {"reorder", a->reorder, g->reorder, true},
        {"reorder_correlation", a->reorder_corr, g->reorder_corr, true},
    };

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (all[i].counts && probability(all[i].asked) != probability(all[i].got)) {
            sq_err(e, -EBADE, "the kernel has %s %.9g %%, %.9g %% were asked", all[i].name, all[i].got, all[i].asked);
            return false;
        }
    return true;
}

/* Does random loss that rounds to nothing count as none, as it does in the kernel? */
static enum sq_loss_model model_of(const struct sq_impair *im)
{
    return im->loss_model == SQ_LOSS_RANDOM && probability(im->loss) == 0 ? SQ_LOSS_NONE : im->loss_model;
}

static bool same_numbers(const struct sq_impair *a, const struct sq_impair *g, struct sq_err *e)
{
    const struct {
        const char *name;
        int64_t asked, got, within;
    } all[] = {
        {"a delay (ns) of", a->delay, g->delay, SQ_NETEM_TICK - 1},
        {"a jitter (ns) of", a->jitter, g->jitter, SQ_NETEM_TICK - 1},
        {"a limit (packets) of", sq_impair_limit(a), g->limit, 0},
        {"a loss model of number", model_of(a), model_of(g), 0},
        {"an ecn of", a->ecn, g->ecn, 0},
        {"a gap of", gap_of(a), g->gap, 0},
        {"a rate (bytes/s) of", (int64_t)a->rate, (int64_t)g->rate, 0},
        {"a packet_overhead of", a->packet_overhead, g->packet_overhead, 0},
        {"a cell_size of", a->cell_size, g->cell_size, 0},
        {"a cell_overhead of", a->cell_overhead, g->cell_overhead, 0},
        {"a slot:", a->slot, g->slot, 0},
        {"a slot: min (ns) of", a->slot_min, g->slot_min, 0},
        {"a slot: max (ns) of", a->slot_max, g->slot_max, 0},
        {"a slot: delay (ns) of", a->slot_delay, g->slot_delay, 0},
        {"a slot: jitter (ns) of", a->slot_jitter, g->slot_jitter, 0},
        {"a slot: packets of", a->slot_packets, g->slot_packets, 0},
        {"a slot: bytes of", a->slot_bytes, g->slot_bytes, 0},
    };

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (llabs(all[i].asked - all[i].got) > all[i].within) {
            sq_err(e, -EBADE, "the kernel has %s %lld, %lld was asked", all[i].name, (long long)all[i].got,
                   (long long)all[i].asked);
            return false;
        }
    return true;
}

bool sq_netem_same(const struct sq_impair *asked, const struct sq_impair *got, struct sq_err *e)
{
    if (!same_numbers(asked, got, e) || !same_percents(asked, got, e))
        return false;
    /* A kernel without a seed of its own tells none. */
    if (asked->seed && got->seed && asked->seed != got->seed) {
        sq_err(e, -EBADE, "the kernel has another seed than was asked");
        return false;
    }
    return true;
}
