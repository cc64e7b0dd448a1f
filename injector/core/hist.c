/* The bucket layout is HdrHistogram's (G. Tene) for lowest value 1 and three significant digits: 2048 linear
 * sub-buckets, then halves of 1024 for every further power of two. */
#include "squall/hist.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SUB 2048
#define HALF 1024
#define SUB_BITS 11
#define BUCKETS 32 /* SUB << 31 > 2^42 ns: 73 minutes */
#define CELLS ((BUCKETS + 1) * HALF)
#define MAX_NS (((int64_t)SUB << (BUCKETS - 1)) - 1)

struct sq_hist {
    uint64_t n;
    int64_t min, max;
    double sum;
    unsigned lo, hi; /* cells outside [lo, hi] are zero */
    uint32_t cell[CELLS];
};

static unsigned cell_of(int64_t v)
{
    unsigned bucket, sub;

    if (v < SUB)
        return (unsigned)v;
    bucket = 63u - (unsigned)__builtin_clzll((unsigned long long)v) - (SUB_BITS - 1);
    sub = (unsigned)(v >> bucket);
    return (bucket + 1) * HALF + (sub - HALF);
}

static unsigned bucket_of_cell(unsigned cell)
{
    return cell < SUB ? 0 : cell / HALF - 1;
}

static int64_t low_of(unsigned cell)
{
    unsigned bucket = bucket_of_cell(cell);

    return cell < SUB ? (int64_t)cell : (int64_t)(cell % HALF + HALF) << bucket;
}

static int64_t high_of(unsigned cell)
{
    return low_of(cell) + ((int64_t)1 << bucket_of_cell(cell)) - 1;
}

static void empty(struct sq_hist *h)
{
    h->n = 0;
    h->sum = 0.0;
    h->min = INT64_MAX;
    h->max = 0;
    h->lo = CELLS;
    h->hi = 0;
}

struct sq_hist *sq_hist_new(void)
{
    struct sq_hist *h = calloc(1, sizeof *h); /* its pages stay untouched until they are counted in */

    if (h)
        empty(h);
    return h;
}

void sq_hist_free(struct sq_hist *h)
{
    free(h);
}

void sq_hist_reset(struct sq_hist *h)
{
    if (h->lo <= h->hi)
        memset(&h->cell[h->lo], 0, (h->hi - h->lo + 1) * sizeof h->cell[0]);
    empty(h);
}

static void put(struct sq_hist *h, unsigned cell, uint32_t count)
{
    h->cell[cell] += count;
    h->n += count;
    if (cell < h->lo)
        h->lo = cell;
    if (cell > h->hi)
        h->hi = cell;
}

void sq_hist_record(struct sq_hist *h, int64_t ns)
{
    if (ns < 0)
        ns = 0;
    if (ns > MAX_NS)
        ns = MAX_NS;
    put(h, cell_of(ns), 1);
    h->sum += (double)ns;
    if (ns < h->min)
        h->min = ns;
    if (ns > h->max)
        h->max = ns;
}

void sq_hist_add(struct sq_hist *into, const struct sq_hist *from)
{
    if (from->n == 0)
        return;
    for (unsigned i = from->lo; i <= from->hi; i++)
        if (from->cell[i])
            put(into, i, from->cell[i]);
    into->sum += from->sum;
    if (from->min < into->min)
        into->min = from->min;
    if (from->max > into->max)
        into->max = from->max;
}

uint64_t sq_hist_count(const struct sq_hist *h)
{
    return h->n;
}

int64_t sq_hist_min(const struct sq_hist *h)
{
    return h->n ? h->min : 0;
}

int64_t sq_hist_max(const struct sq_hist *h)
{
    return h->max;
}

double sq_hist_mean(const struct sq_hist *h)
{
    return h->n ? h->sum / (double)h->n : 0.0;
}

int64_t sq_hist_rank(const struct sq_hist *h, uint64_t k)
{
    uint64_t seen = 0;

    if (h->n == 0)
        return 0;
    if (k < 1)
        k = 1;
    for (unsigned i = h->lo; i <= h->hi; i++) {
        seen += h->cell[i];
        if (seen >= k)
            return high_of(i) < h->max ? high_of(i) : h->max;
    }
    return h->max;
}

int64_t sq_hist_percentile(const struct sq_hist *h, double p)
{
    double want = ceil(p / 100.0 * (double)h->n - 1e-9);

    return sq_hist_rank(h, want < 1.0 ? 1 : (uint64_t)want);
}

uint64_t sq_hist_count_le(const struct sq_hist *h, int64_t ns)
{
    uint64_t seen = 0;
    unsigned last;

    if (h->n == 0 || ns < 0)
        return 0;
    last = cell_of(ns > MAX_NS ? MAX_NS : ns);
    for (unsigned i = h->lo; i <= h->hi && i <= last; i++)
        seen += h->cell[i];
    return seen;
}

json_t *sq_hist_to_json(const struct sq_hist *h)
{
    json_t *a = json_array();

    if (!a || h->n == 0)
        return a;
    for (unsigned i = h->lo; i <= h->hi; i++) {
        if (!h->cell[i])
            continue;
        if (json_array_append_new(a, json_integer((json_int_t)i)) != 0 ||
            json_array_append_new(a, json_integer((json_int_t)h->cell[i])) != 0) {
            json_decref(a);
            return NULL;
        }
    }
    return a;
}

/* Sums and extremes are known to a bucket only: its middle stands for its values. */
static void put_cells(struct sq_hist *h, unsigned cell, uint32_t count)
{
    int64_t low = low_of(cell), high = high_of(cell);

    put(h, cell, count);
    h->sum += (double)(low + (high - low) / 2) * (double)count;
    if (low < h->min)
        h->min = low;
    if (high > h->max)
        h->max = high;
}

static int add_pair(struct sq_hist *h, int64_t cell, int64_t count, size_t pair, struct sq_err *e)
{
    if (cell < 0 || cell >= CELLS || count < 1 || count > UINT32_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "histogram pair %zu is out of range", pair);
    if (h->cell[cell] > UINT32_MAX - (uint32_t)count)
        return sq_err_cls(e, SQ_C_INPUT, -EOVERFLOW, "histogram cell %d overflows", (int)cell);
    put_cells(h, (unsigned)cell, (uint32_t)count);
    return 0;
}

static int no_pairs(struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a histogram is a list of pairs [index, count, ...]");
}

int sq_hist_add_json(struct sq_hist *h, const json_t *sparse, struct sq_err *e)
{
    size_t len = json_array_size(sparse);
    int rc = 0;

    if (!json_is_array(sparse) || len % 2 != 0 || len > 2 * (size_t)CELLS)
        return no_pairs(e);
    for (size_t i = 0; rc == 0 && i < len; i += 2)
        rc = add_pair(h, json_integer_value(json_array_get(sparse, i)),
                      json_integer_value(json_array_get(sparse, i + 1)), i / 2, e);
    return rc;
}

/* A number of at most ten digits; *s moves behind it. -1: there is none. */
static int64_t number(const char **s, const char *end)
{
    const char *from = *s;
    int64_t n = 0;

    for (; *s < end && **s >= '0' && **s <= '9' && *s - from < 10; (*s)++)
        n = n * 10 + (**s - '0');
    return *s == from ? -1 : n;
}

int sq_hist_add_text(struct sq_hist *h, const char *text, size_t len, struct sq_err *e)
{
    const char *s = text, *end = text + len;
    int rc = 0;

    for (size_t i = 0; rc == 0 && s < end; i++) {
        int64_t cell = number(&s, end), count;

        if (cell < 0 || s == end || *s++ != ',' || (count = number(&s, end)) < 0 ||
            (s < end && (*s++ != ',' || s == end)) || i >= CELLS)
            return no_pairs(e);
        rc = add_pair(h, cell, count, i, e);
    }
    return rc;
}
