/* netem_enqueue and netem_dequeue as one function of the time of arrival. */
#include "packet/stage.h"

#include <stdlib.h>
#include <string.h>

#include "packet/models.h"

/* Nothing is due later: sums of what is asked for stay far from overflow. */
#define FAR (INT64_MAX / 4)

static void take_over(struct sq_pstage *s, struct sq_impair *take)
{
    const struct sq_impair *im = &s->im;
    s->im = *take;
    take->table = NULL;
    take->slot_table = NULL;
    s->limit = im->limit ? im->limit : sq_impair_limit(im);
    s->p = (struct sq_pstage_odds){
        .delay_corr = sq_odds(im->delay_corr),
        .loss = sq_odds(im->loss),
        .loss_corr = sq_odds(im->loss_corr),
        .dup = sq_odds(im->duplicate),
        .dup_corr = sq_odds(im->duplicate_corr),
        .corrupt = sq_odds(im->corrupt),
        .corrupt_corr = sq_odds(im->corrupt_corr),
        .reorder = sq_odds(im->reorder),
        .reorder_corr = sq_odds(im->reorder_corr),
    };
    if (im->loss_model == SQ_LOSS_STATE) {
        s->p.a1 = sq_odds(im->p13);
        s->p.a2 = sq_odds(im->p31);
        s->p.a3 = sq_odds(im->p32);
        s->p.a4 = sq_odds(im->p14);
        s->p.a5 = sq_odds(im->p23);
    } else if (im->loss_model == SQ_LOSS_GEMODEL) {
        s->p.a1 = sq_odds(im->ge_p);
        s->p.a2 = sq_odds(im->ge_r);
        s->p.a3 = sq_odds(im->ge_1h);
        s->p.a4 = sq_odds(im->ge_1k);
    }
    s->slot_packets_left = im->slot_packets ? im->slot_packets : UINT32_MAX;
    s->slot_bytes_left = im->slot_bytes ? im->slot_bytes : INT64_MAX;
}

void sq_pstage_init(struct sq_pstage *s, struct sq_impair *take, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    sq_rng_seed(&s->rng, seed);
    take_over(s, take);
}

void sq_pstage_clear(struct sq_pstage *s)
{
    free(s->im.table);
    free(s->im.slot_table);
    memset(s, 0, sizeof *s);
}

void sq_pstage_change(struct sq_pstage *s, struct sq_impair *take)
{
    enum sq_loss_model model = s->im.loss_model;
    free(s->im.table);
    free(s->im.slot_table);
    take_over(s, take);
    if (s->im.loss_model != model)
        s->loss_state = 0;
}

static void next_slot(struct sq_pstage *s, int64_t now)
{
    const struct sq_impair *im = &s->im;
    int64_t wait;
    if (im->slot_delay || im->slot_jitter)
        wait = sq_tabledist(&s->rng, im->slot_delay, im->slot_jitter, 0, NULL, im->slot_table);
    else if (im->slot_max > im->slot_min)
        wait = im->slot_min + (int64_t)sq_rng_below(&s->rng, (uint64_t)(im->slot_max - im->slot_min));
    else
        wait = im->slot_min;
    s->slot_next = now + wait;
    s->slot_packets_left = im->slot_packets ? im->slot_packets : UINT32_MAX;
    s->slot_bytes_left = im->slot_bytes ? im->slot_bytes : INT64_MAX;
}

/* When a packet that is ready at READY leaves. netem looks for the next slot when a packet comes, and again when it is
 * ready and the slot has passed. */
static int64_t in_slot(struct sq_pstage *s, int64_t now, int64_t ready, uint32_t len)
{
    if (s->slot_next < ready)
        next_slot(s, now);
    if (s->slot_next < ready && ready > now)
        next_slot(s, ready);
    int64_t due = s->slot_next > ready ? s->slot_next : ready;
    s->slot_packets_left--;
    s->slot_bytes_left -= len;
    if (s->slot_packets_left == 0 || s->slot_bytes_left <= 0)
        next_slot(s, due);
    return due < FAR ? due : FAR;
}

/* The delay, and with a rate: after the packet before, whose wait counts for the delay of this one. */
static int64_t in_time(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs)
{
    const struct sq_impair *im = &s->im;
    int64_t from = now;
    int64_t delay = sq_tabledist(&s->rng, im->delay, im->jitter, s->p.delay_corr, &s->delay_last, im->table);
    if (im->rate) {
        if (s->last_due > now) {
            delay -= s->last_due - now;
            delay = delay > 0 ? delay : 0;
            from = s->last_due;
        }
        delay += sq_packet_time(im, len, segs);
    }
    int64_t due = delay > 0 ? from + delay : from;
    due = due < FAR ? due : FAR;
    if (due > s->last_due)
        s->last_due = due;
    return due;
}

static bool reordered(struct sq_pstage *s)
{
    uint32_t gap = s->p.reorder && s->im.gap == 0 ? 1 : s->im.gap;
    return s->p.reorder && s->counter >= gap - 1 &&
           s->p.reorder >= sq_crandom(&s->rng, s->p.reorder_corr, &s->reorder_last);
}

static void pass(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs, bool ect, bool twice,
                 struct sq_verdict_packet *v)
{
    bool drop = sq_loss(s);
    *v = (struct sq_verdict_packet){.due = now};
    if (drop && s->im.ecn && ect) {
        v->mark = true;
        s->n.marked++;
    } else if (drop && twice) {
        twice = false; /* one of the two is lost */
    } else if (drop) {
        v->drop = true;
        s->n.dropped++;
        return;
    }
    if (s->p.corrupt && s->p.corrupt >= sq_crandom(&s->rng, s->p.corrupt_corr, &s->corrupt_last)) {
        v->corrupt = true;
        v->random = sq_rng_u64(&s->rng);
        s->n.corrupted++;
    }
    if (s->held >= s->limit) {
        v->drop = true;
        s->n.overlimit++;
        return;
    }
    v->duplicate = twice;
    s->n.duplicated += twice;
    if (reordered(s)) {
        s->counter = 0;
        s->n.reordered++;
        return; /* at once, before those that wait, whatever the slot */
    }
    s->counter++;
    v->due = in_time(s, now, len, segs);
    if (s->im.slot)
        v->due = in_slot(s, now, v->due, len);
}

void sq_pstage_pass(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs, bool ect,
                    struct sq_verdict_packet *v)
{
    bool twice = s->p.dup && s->p.dup >= sq_crandom(&s->rng, s->p.dup_corr, &s->dup_last);
    s->n.packets++;
    s->n.bytes += len;
    pass(s, now, len, segs, ect, twice, v);
}

void sq_pstage_pass_copy(struct sq_pstage *s, int64_t now, uint32_t len, uint32_t segs, bool ect,
                         struct sq_verdict_packet *v)
{
    pass(s, now, len, segs, ect, false, v);
}
