#include "net/recorded.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "squall/base64.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define TIME_LIMIT SQ_S          /* squalld's loop waits meanwhile; its keeper for at most 2 s */
#define HISTOGRAM_MAX (1u << 20) /* bytes of one histogram in a log: 9 for each of 100,000 buckets */
#define LINE_MAX_RUN (2u << 20)  /* bytes of a sample in evidence: JSON takes 20 times its text in memory */
#define COUNT_MAX (UINT64_C(1) << 53)

void sq_values_clear(struct sq_values *v)
{
    free(v->v);
    memset(v, 0, sizeof *v);
}

static int by_ns(const void *a, const void *b)
{
    const struct sq_value *x = a, *y = b;

    return (x->ns > y->ns) - (x->ns < y->ns);
}

/* Sorted, each value once. */
static void compact(struct sq_values *v)
{
    size_t n = 0;

    if (v->n == 0)
        return;
    qsort(v->v, v->n, sizeof v->v[0], by_ns);
    for (size_t i = 1; i < v->n; i++) {
        uint64_t sum;

        if (v->v[i].ns == v->v[n].ns)
            v->v[n].count = __builtin_add_overflow(v->v[n].count, v->v[i].count, &sum) ? UINT64_MAX : sum;
        else
            v->v[++n] = v->v[i];
    }
    v->n = n + 1;
}

static int grow(struct sq_values *v, struct sq_err *e)
{
    size_t cap = v->cap ? 2 * v->cap : 4096;
    struct sq_value *p;

    compact(v);
    if (v->n < v->cap / 2)
        return 0;
    if (v->n >= SQ_RECORDED_VALUES)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "more than %d different values", SQ_RECORDED_VALUES);
    p = realloc(v->v, cap * sizeof v->v[0]);
    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    v->v = p;
    v->cap = cap;
    return 0;
}

int sq_values_add(struct sq_values *v, int64_t ns, uint64_t count, struct sq_err *e)
{
    int r = v->n == v->cap ? grow(v, e) : 0;

    if (r < 0)
        return r;
    if (ns < 0 || ns > SQ_IMPAIR_MAX_NS)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "a value of %lld ns is more than an hour", (long long)ns);
    if (count < 1 || count > COUNT_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "a count is out of range");
    v->v[v->n++] = (struct sq_value){ns, count};
    return 0;
}

/* HdrHistogram's buckets: the middle of cell INDEX where 2^SUB_BITS linear ones begin at 2^UNIT; -1 beyond 2^62. */
static int64_t middle_of(uint64_t index, unsigned sub_bits, unsigned unit)
{
    uint64_t half = UINT64_C(1) << (sub_bits - 1);
    uint64_t bucket = index < 2 * half ? 0 : index / half - 1;
    uint64_t sub = index < 2 * half ? index : index % half + half;
    uint64_t shift = bucket + unit;

    if (shift + sub_bits > 61)
        return -1;
    return (int64_t)((sub << shift) + ((UINT64_C(1) << shift) >> 1));
}

static int too_long(int64_t began, struct sq_err *e)
{
    if (sq_mono_ns() - began < TIME_LIMIT)
        return 0;
    sq_err_cls(e, SQ_C_INPUT, -ETIME, "reading it takes more than a second");
    sq_err_hint(e, "give a shorter recording");
    return -ETIME;
}

/* --- HdrHistogram logs ---------------------------------------------------------------------------------------- */

static int bad_log(unsigned line, const char *why, struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "line %u: %s", line, why);
}

static uint32_t be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* ZigZag LEB128 of at most 9 bytes, the ninth with 8 bits. */
static bool zigzag(const unsigned char **p, const unsigned char *end, int64_t *v)
{
    uint64_t u = 0;

    for (unsigned i = 0; i < 9; i++) {
        unsigned char b;

        if (*p == end)
            return false;
        b = *(*p)++;
        u |= (uint64_t)(i == 8 ? b : b & 0x7f) << (7 * i);
        if (!(b & 0x80))
            break;
    }
    *v = (int64_t)(u >> 1) ^ -(int64_t)(u & 1);
    return true;
}

#define HEADER 40
#define V2 0x1c849313u
#define V2_COMPRESSED 0x1c849314u

/* One histogram (HdrHistogram's EncodableHistogram, V2): header, then counts; -n stands for n zeros. The header's
 * normalizing offset says how its owner kept the counts in memory, not how they are written (JavaScript's is 1). */
static int histogram(struct sq_values *v, const unsigned char *p, size_t len, int64_t unit, unsigned line,
                     struct sq_err *e)
{
    const unsigned char *at = p + HEADER, *end = p + len;
    uint64_t index = 0, lowest;
    unsigned sub_bits, unit_bits;
    uint32_t digits;

    if (len < HEADER || be32(p) != V2 || be32(p + 4) != len - HEADER)
        return bad_log(line, "this histogram is not in format V2", e);
    digits = be32(p + 12);
    lowest = (uint64_t)be32(p + 16) << 32 | be32(p + 20);
    if (digits < 1 || digits > 5 || lowest < 1 || lowest > (UINT64_C(1) << 40))
        return bad_log(line, "this histogram's parameters are out of range", e);
    sub_bits = (unsigned)ceil(log2(2 * pow(10, digits)));
    unit_bits = 63u - (unsigned)__builtin_clzll(lowest);
    while (at < end) {
        int64_t count, value;
        int r;

        if (!zigzag(&at, end, &count) || (count < 0 && count < -INT32_MAX) || index > UINT32_MAX)
            return bad_log(line, "this histogram's counts are broken", e);
        if (count <= 0) {
            index += count < 0 ? (uint64_t)-count : 1;
            continue;
        }
        value = middle_of(index++, sub_bits, unit_bits);
        if (value < 0 || value > SQ_IMPAIR_MAX_NS / unit)
            return bad_log(line, "this histogram holds a value of more than an hour", e);
        r = sq_values_add(v, value * unit, (uint64_t)count, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int inflated(struct sq_values *v, const unsigned char *bin, size_t len, int64_t unit, unsigned line,
                    struct sq_err *e)
{
    cleanup_free unsigned char *plain = NULL;
    uLongf n = HISTOGRAM_MAX;

    if (len < 8 || be32(bin) != V2_COMPRESSED || be32(bin + 4) > len - 8)
        return bad_log(line, "this is no compressed histogram in format V2", e);
    plain = malloc(HISTOGRAM_MAX);
    if (!plain)
        return sq_err(e, -ENOMEM, "out of memory");
    if (uncompress(plain, &n, bin + 8, be32(bin + 4)) != Z_OK)
        return bad_log(line, "this histogram can't be decompressed", e);
    return histogram(v, plain, n, unit, line, e);
}

/* The histogram is what is behind the last comma. */
static int log_line(struct sq_values *v, const char *text, size_t len, int64_t unit, unsigned line, struct sq_err *e)
{
    const char *comma = memrchr(text, ',', len);
    const char *code = comma ? comma + 1 : text;
    size_t n = (size_t)(text + len - code);
    cleanup_free unsigned char *bin = malloc(n + 1);

    if (!bin)
        return sq_err(e, -ENOMEM, "out of memory");
    return inflated(v, bin, sq_base64_decode(code, n, bin), unit, line, e);
}

int sq_values_hlog(struct sq_values *v, const char *text, size_t len, int64_t unit, struct sq_err *e)
{
    const char *end = text + len;
    int64_t began = sq_mono_ns();
    unsigned line = 1;

    for (const char *next; text < end; text = next, line++) {
        const char *nl = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((nl ? nl : end) - text);
        int r;

        next = nl ? nl + 1 : end;
        if (n > 0 && text[n - 1] == '\r')
            n--;
        if (n == 0 || text[0] == '#' || text[0] == '"') /* comments, column names */
            continue;
        r = log_line(v, text, n, unit, line, e);
        if (r == 0)
            r = too_long(began, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- evidence of a run ---------------------------------------------------------------------------------------- */

static int sparse(struct sq_values *v, const json_t *h, struct sq_err *e)
{
    for (size_t i = 0; i + 1 < json_array_size(h); i += 2) {
        json_int_t index = json_integer_value(json_array_get(h, i));
        json_int_t count = json_integer_value(json_array_get(h, i + 1));
        /* include/squall/hist.h: lowest 1, three digits */
        int64_t ns = index < 0 ? -1 : middle_of((uint64_t)index, 11, 0);
        int r;

        if (ns < 0 || count < 1 || count > UINT32_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "a histogram is out of range");
        r = sq_values_add(v, ns < SQ_IMPAIR_MAX_NS ? ns : SQ_IMPAIR_MAX_NS, (uint64_t)count, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A line that can't be parsed (or is far longer than any sample) is left out, as `squall verify` does. */
static int evidence_line(struct sq_values *v, const char *text, size_t len, const char *endpoint, struct sq_err *e)
{
    cleanup_json json_t *o = NULL;

    if (len > LINE_MAX_RUN || !memmem(text, len, "\"sample\"", 8) || sq_json_parse(text, len, &o, NULL) < 0 ||
        strcmp(sq_json_str_or(o, "type", ""), "sample") != 0 ||
        (endpoint && strcmp(sq_json_str_or(o, "endpoint", ""), endpoint) != 0))
        return 0;
    return sparse(v, json_object_get(o, "h"), e);
}

int sq_values_run(struct sq_values *v, const char *text, size_t len, const char *endpoint, struct sq_err *e)
{
    const char *end = text + len;
    int64_t began = sq_mono_ns();

    for (const char *next; text < end; text = next) {
        const char *nl = memchr(text, '\n', (size_t)(end - text));
        int r;

        next = nl ? nl + 1 : end;
        r = evidence_line(v, text, (size_t)((nl ? nl : end) - text), endpoint, e);
        if (r == 0)
            r = too_long(began, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- tables --------------------------------------------------------------------------------------------------- */

static void moments(const struct sq_values *v, double *mean, double *sigma)
{
    double n = 0, sum = 0, squares = 0;

    for (size_t i = 0; i < v->n; i++) {
        n += (double)v->v[i].count;
        sum += (double)v->v[i].ns * (double)v->v[i].count;
    }
    *mean = sum / n;
    for (size_t i = 0; i < v->n; i++)
        squares += pow((double)v->v[i].ns - *mean, 2) * (double)v->v[i].count;
    *sigma = n > 1 ? sqrt(squares / (n - 1)) : 0;
}

/* Walks the middles of SQ_DIST_POINTS equally probable parts, upwards. */
struct walk {
    const struct sq_values *v;
    double total, seen;
    size_t at;
};

static struct walk walk(const struct sq_values *v)
{
    struct walk w = {.v = v};

    for (size_t i = 0; i < v->n; i++)
        w.total += (double)v->v[i].count;
    return w;
}

static double point(struct walk *w, size_t i)
{
    double want = ((double)i + 0.5) / SQ_DIST_POINTS * w->total;

    while (w->at + 1 < w->v->n && w->seen + (double)w->v->v[w->at].count < want)
        w->seen += (double)w->v->v[w->at++].count;
    return (double)w->v->v[w->at].ns;
}

static int tabulate(const struct sq_values *v, double mu, double unit, struct sq_dist_table **out, struct sq_err *e)
{
    struct sq_dist_table *t = calloc(1, sizeof *t);
    struct walk w = walk(v);

    if (!t)
        return sq_err(e, -ENOMEM, "out of memory");
    for (t->n = 0; t->n < SQ_DIST_POINTS; t->n++) {
        double x = rint((point(&w, t->n) - mu) / unit * SQ_DIST_SCALE);

        t->v[t->n] = (int16_t)fmax(INT16_MIN, fmin(INT16_MAX, x));
    }
    *out = t;
    return 0;
}

int sq_values_table(struct sq_values *v, int64_t *mean, int64_t *jitter, struct sq_dist_table **out, struct sq_err *e)
{
    double mu, sigma, unit, far;
    struct walk w;

    *out = NULL;
    compact(v);
    if (v->n == 0)
        return sq_err_cls(e, SQ_C_INPUT, -ENODATA, "nothing was recorded there");
    moments(v, &mu, &sigma);
    if (*mean == 0)
        *mean = llround(mu);
    if (sigma < 1) /* ns */
        return 0;
    w = walk(v);
    far = mu - point(&w, 0);
    far = fmax(far, point(&w, SQ_DIST_POINTS - 1) - mu);
    unit = *jitter ? sigma : ceil(fmax(sigma, far * SQ_DIST_SCALE / INT16_MAX));
    if (*jitter == 0)
        *jitter = (int64_t)unit;
    return tabulate(v, mu, unit, out, e);
}
