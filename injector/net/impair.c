#include "net/impair.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "net/dist.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define SMALLEST 64                         /* bytes of a packet */
#define FASTEST (10e9 / 8 / 1500)           /* packets a second where no rate is given, and at most */
#define RATE_MAX UINT64_C(1000000000000000) /* bytes/s; beyond that netem's own arithmetic ends */
#define OVERHEAD_MAX 65535
/* A packet's length must stay above 0: netem's time for it would wrap to centuries (packet_time_ns). The smallest there
 * is has an IPv4 header and nothing else. */
#define OVERHEAD_MIN (-19)

void sq_impair_clear(struct sq_impair *im)
{
    free(im->table);
    free(im->slot_table);
    memset(im, 0, sizeof *im);
}

static int input(struct sq_err *e, const char *what)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s", what);
}

static int check_percents(const struct sq_impair *im, struct sq_err *e)
{
    const struct {
        const char *name;
        double v;
    } all[] = {
        {"correlation", im->delay_corr},
        {"loss", im->loss},
        {"loss_correlation", im->loss_corr},
        {"loss_state: p13", im->p13},
        {"loss_state: p31", im->p31},
        {"loss_state: p32", im->p32},
        {"loss_state: p23", im->p23},
        {"loss_state: p14", im->p14},
        {"loss_gemodel: p", im->ge_p},
        {"loss_gemodel: r", im->ge_r},
        {"loss_gemodel: 1-h", im->ge_1h},
        {"loss_gemodel: 1-k", im->ge_1k},
        {"duplicate", im->duplicate},
        {"duplicate_correlation", im->duplicate_corr},
        {"corrupt", im->corrupt},
        {"corrupt_correlation", im->corrupt_corr},
        {"reorder", im->reorder},
        {"reorder_correlation", im->reorder_corr},
    };

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (!(all[i].v >= 0 && all[i].v <= 100))
            return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"%s\" must be 0%% to 100%%", all[i].name);
    return 0;
}

static int check_times(const struct sq_impair *im, struct sq_err *e)
{
    const struct {
        const char *name;
        int64_t v;
    } all[] = {
        {"delay", im->delay},        {"jitter", im->jitter},          {"slot: min", im->slot_min},
        {"slot: max", im->slot_max}, {"slot: delay", im->slot_delay}, {"slot: jitter", im->slot_jitter},
    };

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (all[i].v < 0 || all[i].v > SQ_IMPAIR_MAX_NS)
            return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"%s\" must be at most 1h: beyond that it is a black hole",
                              all[i].name);
    if (im->delay_corr > 0 && im->jitter == 0)
        return input(e, "\"correlation\" is that of the jitter: give a \"jitter\", too");
    if (im->dist != SQ_DIST_UNIFORM && im->jitter == 0)
        return input(e, "\"distribution\" is that of the jitter: give a \"jitter\", too");
    return 0;
}

static int check_loss(const struct sq_impair *im, struct sq_err *e)
{
    if (im->loss_corr > 0 && im->loss_model != SQ_LOSS_RANDOM)
        return input(e, "\"loss_correlation\" needs a \"loss\"");
    if (im->ecn && im->loss_model == SQ_LOSS_NONE)
        return input(e, "\"ecn\" marks what would be lost: give a \"loss\", \"loss_state\" or \"loss_gemodel\", too");
    if (im->duplicate_corr > 0 && im->duplicate <= 0)
        return input(e, "\"duplicate_correlation\" needs a \"duplicate\"");
    if (im->corrupt_corr > 0 && im->corrupt <= 0)
        return input(e, "\"corrupt_correlation\" needs a \"corrupt\"");
    if (im->reorder_corr > 0 && im->reorder <= 0)
        return input(e, "\"reorder_correlation\" needs a \"reorder\"");
    if (im->reorder > 0 && im->delay == 0)
        return input(e, "\"reorder\" sends packets ahead of those that are held: give a \"delay\", too");
    if (im->gap > 0 && im->reorder <= 0)
        return input(e, "\"gap\" needs a \"reorder\"");
    return 0;
}

static int check_rate(const struct sq_impair *im, struct sq_err *e)
{
    if (im->rate > RATE_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"rate\" must be at most 8000tbit");
    if (!im->rate && (im->packet_overhead || im->cell_size || im->cell_overhead))
        return input(e, "\"packet_overhead\", \"cell_size\" and \"cell_overhead\" count for a \"rate\": give one, too");
    if (im->packet_overhead < OVERHEAD_MIN || im->packet_overhead > OVERHEAD_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"packet_overhead\" must be %d to %d bytes", OVERHEAD_MIN,
                          OVERHEAD_MAX);
    if (im->cell_size > OVERHEAD_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"cell_size\" must be at most %d bytes", OVERHEAD_MAX);
    if (im->cell_overhead && !im->cell_size)
        return input(e, "\"cell_overhead\" needs a \"cell_size\"");
    if (im->cell_overhead > OVERHEAD_MAX ||
        (int64_t)im->cell_overhead + (int64_t)im->cell_size < (im->cell_size ? 1 : 0))
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"cell_overhead\" must leave something of a cell, and be at most %d",
                          OVERHEAD_MAX);
    return 0;
}

static int check_slot(const struct sq_impair *im, struct sq_err *e)
{
    if (!im->slot)
        return 0;
    if (im->slot_jitter > 0 && im->slot_max > 0)
        return input(e, "\"slot\" takes either min and max, or distribution, delay and jitter");
    if (im->slot_jitter == 0 && (im->slot_delay > 0 || im->slot_dist != SQ_DIST_UNIFORM))
        return input(e, "\"slot\" with a distribution needs a jitter");
    if (im->slot_jitter == 0 && im->slot_max == 0)
        return input(e, "\"slot\" needs the time between two slots: min (and max)");
    if (im->slot_max < im->slot_min)
        return input(e, "\"slot\": max is less than min");
    if (im->slot_packets > INT32_MAX || im->slot_bytes > INT32_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"slot\": packets and bytes must be at most %d", INT32_MAX);
    return 0;
}

static bool does_nothing(const struct sq_impair *im)
{
    return !im->delay && !im->jitter && im->loss_model == SQ_LOSS_NONE && im->duplicate <= 0 && im->corrupt <= 0 &&
           !im->rate && !im->slot;
}

int sq_impair_check(const struct sq_impair *im, struct sq_err *e)
{
    int r = check_percents(im, e);

    if (r == 0)
        r = check_times(im, e);
    if (r == 0)
        r = check_loss(im, e);
    if (r == 0)
        r = check_rate(im, e);
    if (r == 0)
        r = check_slot(im, e);
    if (r == 0 && im->limit > SQ_IMPAIR_LIMIT_MAX)
        r = sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"limit\" must be at most %u packets", SQ_IMPAIR_LIMIT_MAX);
    if (r == 0 && does_nothing(im)) {
        r = input(e, "nothing to do: every part of this network fault is zero");
        sq_err_hint(e, "give at least one of delay, jitter, loss, duplicate, corrupt, rate, slot or preset");
    }
    return r;
}

uint32_t sq_impair_limit(const struct sq_impair *im)
{
    double most = im->slot_jitter ? (double)im->slot_delay + 4.0 * (double)im->slot_jitter : (double)im->slot_max;
    double held = ((double)im->delay + 4.0 * (double)im->jitter + (im->slot ? most : 0)) / (double)SQ_S;
    double pps = im->rate ? fmin((double)im->rate / SMALLEST, FASTEST) : FASTEST;
    double packets = ceil(held * pps);

    if (im->limit)
        return im->limit;
    return packets < 1000 ? 1000 : packets > SQ_IMPAIR_LIMIT_MAX ? SQ_IMPAIR_LIMIT_MAX : (uint32_t)packets;
}

static void put_ns(json_t *o, const char *key, int64_t ns)
{
    if (ns)
        (void)json_object_set_new(o, key, json_integer(ns));
}

static void put_percent(json_t *o, const char *key, double v)
{
    if (v > 0)
        (void)json_object_set_new(o, key, json_real(v));
}

static void put_dist(json_t *o, enum sq_dist d, const struct sq_dist_table *t)
{
    if (d != SQ_DIST_UNIFORM)
        (void)json_object_set_new(o, "distribution",
                                  json_string(d == SQ_DIST_TABLE && !t ? "not readable" : sq_dist_name(d)));
}

static void put_loss(json_t *o, const struct sq_impair *im)
{
    json_t *m = json_object();

    if (im->loss_model == SQ_LOSS_RANDOM) {
        put_percent(o, "loss", im->loss);
        put_percent(o, "loss_correlation", im->loss_corr);
    } else if (im->loss_model == SQ_LOSS_STATE) {
        (void)json_object_set(o, "loss_state", m);
        (void)json_object_set_new(m, "p13", json_real(im->p13));
        (void)json_object_set_new(m, "p31", json_real(im->p31));
        (void)json_object_set_new(m, "p32", json_real(im->p32));
        (void)json_object_set_new(m, "p23", json_real(im->p23));
        (void)json_object_set_new(m, "p14", json_real(im->p14));
    } else if (im->loss_model == SQ_LOSS_GEMODEL) {
        (void)json_object_set(o, "loss_gemodel", m);
        (void)json_object_set_new(m, "p", json_real(im->ge_p));
        (void)json_object_set_new(m, "r", json_real(im->ge_r));
        (void)json_object_set_new(m, "1-h", json_real(im->ge_1h));
        (void)json_object_set_new(m, "1-k", json_real(im->ge_1k));
    }
    json_decref(m);
    if (im->ecn)
        (void)json_object_set_new(o, "ecn", json_true());
}

static void put_slot(json_t *o, const struct sq_impair *im)
{
    json_t *m = json_object();

    if (im->slot) {
        (void)json_object_set(o, "slot", m);
        put_ns(m, "min", im->slot_min);
        put_ns(m, "max", im->slot_max);
        put_dist(m, im->slot_dist, im->slot_table);
        put_ns(m, "delay", im->slot_delay);
        put_ns(m, "jitter", im->slot_jitter);
        put_ns(m, "packets", im->slot_packets);
        put_ns(m, "bytes", im->slot_bytes);
    }
    json_decref(m);
}

json_t *sq_impair_json(const struct sq_impair *im)
{
    json_t *o = json_object();

    put_ns(o, "delay", im->delay);
    put_ns(o, "jitter", im->jitter);
    put_percent(o, "correlation", im->delay_corr);
    put_dist(o, im->dist, im->table);
    put_loss(o, im);
    put_percent(o, "duplicate", im->duplicate);
    put_percent(o, "duplicate_correlation", im->duplicate_corr);
    put_percent(o, "corrupt", im->corrupt);
    put_percent(o, "corrupt_correlation", im->corrupt_corr);
    put_percent(o, "reorder", im->reorder);
    put_percent(o, "reorder_correlation", im->reorder_corr);
    put_ns(o, "gap", im->gap);
    put_ns(o, "rate", (int64_t)im->rate);
    put_ns(o, "packet_overhead", im->packet_overhead);
    put_ns(o, "cell_size", im->cell_size);
    put_ns(o, "cell_overhead", im->cell_overhead);
    put_slot(o, im);
    put_ns(o, "limit", sq_impair_limit(im));
    return o;
}
