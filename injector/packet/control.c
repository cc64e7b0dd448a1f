#include "packet/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

static int read_table(const uint8_t **at, size_t *left, struct sq_dist_table **out)
{
    uint32_t n;
    if (*left < sizeof n)
        return -EBADMSG;
    memcpy(&n, *at, sizeof n);
    *at += sizeof n;
    *left -= sizeof n;
    if (n == 0 || n > SQ_DIST_MAX || *left < n * sizeof(int16_t))
        return -EBADMSG;
    struct sq_dist_table *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->n = n;
    memcpy(t->v, *at, n * sizeof(int16_t));
    *at += n * sizeof(int16_t);
    *left -= n * sizeof(int16_t);
    *out = t;
    return 0;
}

static size_t table_size(const struct sq_dist_table *t)
{
    return t ? sizeof t->n + t->n * sizeof(int16_t) : 0;
}

static uint8_t *write_table(uint8_t *at, const struct sq_dist_table *t)
{
    if (!t)
        return at;
    memcpy(at, &t->n, sizeof t->n);
    memcpy(at + sizeof t->n, t->v, t->n * sizeof(int16_t));
    return at + table_size(t);
}

/* ---- numbers ---- */

static bool percents(const struct sq_impair *im)
{
    const double all[] = {
        im->delay_corr, im->loss,         im->loss_corr, im->p13,         im->p31,   im->p32,       im->p23,
        im->p14,        im->ge_p,         im->ge_r,      im->ge_1h,       im->ge_1k, im->duplicate, im->duplicate_corr,
        im->corrupt,    im->corrupt_corr, im->reorder,   im->reorder_corr};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!(all[i] >= 0 && all[i] <= 100))
            return false;
    return true;
}

static bool times(const struct sq_impair *im)
{
    const int64_t all[] = {im->delay, im->jitter, im->slot_min, im->slot_max, im->slot_delay, im->slot_jitter};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] < 0 || all[i] > SQ_IMPAIR_MAX_NS)
            return false;
    return im->slot_min <= im->slot_max || im->slot_max == 0;
}

/* A byte or a number that is none of its type's values is undefined before it is even looked at. */
static bool well_formed(const uint8_t *im)
{
    unsigned dist, slot_dist, model;
    memcpy(&dist, im + offsetof(struct sq_impair, dist), sizeof dist);
    memcpy(&slot_dist, im + offsetof(struct sq_impair, slot_dist), sizeof slot_dist);
    memcpy(&model, im + offsetof(struct sq_impair, loss_model), sizeof model);
    return dist <= SQ_DIST_TABLE && slot_dist <= SQ_DIST_TABLE && model <= SQ_LOSS_GEMODEL &&
           im[offsetof(struct sq_impair, ecn)] <= 1 && im[offsetof(struct sq_impair, slot)] <= 1;
}

int sq_packet_set_read(const void *buf, size_t len, struct sq_packet_set *head, struct sq_impair *im, struct sq_err *e)
{
    const uint8_t *at = buf;
    memset(im, 0, sizeof *im);
    if (len < sizeof *head + sizeof *im || !well_formed(at + sizeof *head))
        return sq_err(e, -EBADMSG, "a stage's message of %zu bytes makes no sense", len);
    memcpy(head, at, sizeof *head);
    memcpy(im, at + sizeof *head, sizeof *im);
    bool table = im->table != NULL, slot_table = im->slot_table != NULL;
    im->table = im->slot_table = NULL;
    if (head->bit >= SQ_CLASSIFY_FAULTS || head->ingress > 1)
        return sq_err(e, -EBADMSG, "there is no stage %u in direction %u", head->bit, head->ingress);
    if (!percents(im) || !times(im))
        return sq_err(e, -EBADMSG, "a number of stage %u is out of range", head->bit);
    at += sizeof *head + sizeof *im;
    len -= sizeof *head + sizeof *im;
    int rc = table ? read_table(&at, &len, &im->table) : 0;
    if (!rc && slot_table)
        rc = read_table(&at, &len, &im->slot_table);
    if (!rc && len)
        rc = -EBADMSG;
    if (rc < 0) {
        free(im->table);
        free(im->slot_table);
        im->table = im->slot_table = NULL;
        return sq_err(e, rc, "a distribution of stage %u is cut", head->bit);
    }
    return 0;
}

void *sq_packet_set_write(const struct sq_packet_set *head, const struct sq_impair *im, size_t *len)
{
    *len = sizeof *head + sizeof *im + table_size(im->table) + table_size(im->slot_table);
    uint8_t *buf = calloc(1, *len);
    if (!buf)
        return NULL;
    memcpy(buf, head, sizeof *head);
    memcpy(buf + sizeof *head, im, sizeof *im);
    (void)write_table(write_table(buf + sizeof *head + sizeof *im, im->table), im->slot_table);
    return buf;
}

/* ---- read back ---- */

/* FNV-1a. */
static uint64_t table_sum(const struct sq_dist_table *t)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; t && i < t->n; i++)
        sum = (sum ^ (uint16_t)t->v[i]) * UINT64_C(0x100000001b3);
    return sum;
}

void sq_packet_got_fill(struct sq_packet_got *got, const struct sq_impair *im, uint32_t limit)
{
    got->on = 1;
    got->n_table = im->table ? im->table->n : 0;
    got->n_slot_table = im->slot_table ? im->slot_table->n : 0;
    got->table_sum = table_sum(im->table);
    got->slot_table_sum = table_sum(im->slot_table);
    got->im = *im;
    got->im.table = got->im.slot_table = NULL;
    got->im.limit = limit;
}

bool sq_packet_plain_only(const struct sq_impair *im)
{
    return im->corrupt > 0 || (im->rate && im->rate < SQ_PACKET_SLOW);
}

#define FIELD(name)                                                                                                    \
    {                                                                                                                  \
#name, offsetof(struct sq_impair, name), sizeof(((struct sq_impair *)NULL)->name)                              \
    }
static const struct {
    const char *name;
    size_t at, len;
} FIELDS[] = {
    FIELD(delay),
    FIELD(jitter),
    FIELD(delay_corr),
    FIELD(dist),
    FIELD(loss_model),
    FIELD(loss),
    FIELD(loss_corr),
    FIELD(p13),
    FIELD(p31),
    FIELD(p32),
    FIELD(p23),
    FIELD(p14),
    FIELD(ge_p),
    FIELD(ge_r),
    FIELD(ge_1h),
    FIELD(ge_1k),
    FIELD(ecn),
    FIELD(duplicate),
    FIELD(duplicate_corr),
    FIELD(corrupt),
    FIELD(corrupt_corr),
    FIELD(reorder),
    FIELD(reorder_corr),
    FIELD(gap),
    FIELD(rate),
    FIELD(packet_overhead),
    FIELD(cell_size),
    FIELD(cell_overhead),
    FIELD(slot),
    FIELD(slot_min),
    FIELD(slot_max),
    FIELD(slot_dist),
    FIELD(slot_delay),
    FIELD(slot_jitter),
    FIELD(slot_packets),
    FIELD(slot_bytes),
    FIELD(limit),
    FIELD(seed),
};

const char *sq_packet_differs(const struct sq_packet_got *got, const struct sq_impair *asked)
{
    struct sq_packet_got want = {0};
    if (!got->on)
        return "stage";
    sq_packet_got_fill(&want, asked, asked->limit ? asked->limit : sq_impair_limit(asked));
    for (size_t i = 0; i < sizeof FIELDS / sizeof FIELDS[0]; i++)
        if (memcmp((const char *)&got->im + FIELDS[i].at, (const char *)&want.im + FIELDS[i].at, FIELDS[i].len) != 0)
            return FIELDS[i].name;
    if (got->n_table != want.n_table || got->table_sum != want.table_sum)
        return "distribution";
    if (got->n_slot_table != want.n_slot_table || got->slot_table_sum != want.slot_table_sum)
        return "slot distribution";
    return sq_packet_plain_only(asked) && got->offload ? "offload" : NULL;
}
