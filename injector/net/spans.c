#include "net/spans.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"

static int by_lo(const void *a, const void *b)
{
    const struct sq_span *x = a, *y = b;

    return x->lo != y->lo ? (x->lo > y->lo) - (x->lo < y->lo) : (x->hi > y->hi) - (x->hi < y->hi);
}

/* Sorted; what overlaps becomes one, with ADJACENT also what touches. */
static void merge(struct sq_spans *s, bool adjacent)
{
    size_t n = 0;

    if (s->n)
        qsort(s->v, s->n, sizeof *s->v, by_lo);
    for (size_t i = 0; i < s->n; i++) {
        struct sq_span *last = n ? &s->v[n - 1] : NULL;

        if (last && (s->v[i].lo <= last->hi || (adjacent && s->v[i].lo - 1 == last->hi)))
            last->hi = s->v[i].hi > last->hi ? s->v[i].hi : last->hi;
        else
            s->v[n++] = s->v[i];
    }
    s->n = n;
}

static sq_u128 number(const struct in6_addr *a)
{
    sq_u128 v = 0;

    for (int i = 0; i < 16; i++)
        v = v << 8 | a->s6_addr[i];
    return v;
}

static sq_u128 low_bits(unsigned n)
{
    return n >= 128 ? ~(sq_u128)0 : ((sq_u128)1 << n) - 1;
}

int sq_spans_make(const struct sq_prefix *p, size_t n, struct sq_spans *out, struct sq_err *e)
{
    out->n = 0;
    out->v = calloc(n + 1, sizeof *out->v);
    if (!out->v)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        bool v4 = p[i].len >= 96 && IN6_IS_ADDR_V4MAPPED(&p[i].addr);
        sq_u128 mask = low_bits(128u - p[i].len), lo = number(&p[i].addr) & ~mask, family = low_bits(v4 ? 32 : 128);

        if (v4 != out->v6)
            out->v[out->n++] = (struct sq_span){lo & family, (lo | mask) & family};
    }
    merge(out, false);
    return 0;
}

void sq_spans_clear(struct sq_spans *s)
{
    free(s->v);
    s->v = NULL;
    s->n = 0;
}

static const char *text(sq_u128 v, bool v6, char *buf, socklen_t len)
{
    unsigned char bytes[16];

    for (int i = 15; i >= 0; i--, v >>= 8)
        bytes[i] = (unsigned char)v;
    return inet_ntop(v6 ? AF_INET6 : AF_INET, v6 ? bytes : bytes + 12, buf, len);
}

json_t *sq_span_json(struct sq_span s, bool v6)
{
    char lo[INET6_ADDRSTRLEN], hi[INET6_ADDRSTRLEN];
    sq_u128 mask = s.lo ^ s.hi;
    int len = v6 ? 128 : 32;

    (void)text(s.lo, v6, lo, sizeof lo);
    if (s.lo == s.hi)
        return json_string(lo);
    if ((mask & (mask + 1)) == 0 && (s.lo & mask) == 0) {
        for (; mask; mask >>= 1)
            len--;
        return json_pack("{s:{s:s,s:i}}", "prefix", "addr", lo, "len", len);
    }
    return json_pack("{s:[s,s]}", "range", lo, text(s.hi, v6, hi, sizeof hi));
}

json_t *sq_spans_json(const struct sq_spans *s)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < s->n; i++)
        if (json_array_append_new(list, sq_span_json(s->v[i], s->v6)) < 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static int address(const json_t *j, bool v6, sq_u128 *out)
{
    struct in6_addr a = {0};

    if (!json_is_string(j) ||
        inet_pton(v6 ? AF_INET6 : AF_INET, json_string_value(j), v6 ? &a : (void *)&a.s6_addr[12]) != 1)
        return -EBADMSG;
    *out = number(&a);
    return 0;
}

static int parse_one(const json_t *j, bool v6, struct sq_span *out)
{
    const json_t *prefix = json_object_get(j, "prefix"), *range = json_object_get(j, "range");
    int64_t bits = v6 ? 128 : 32, len = sq_json_int_or(prefix, "len", -1);

    if (range)
        return address(json_array_get(range, 0), v6, &out->lo) < 0 ||
                       address(json_array_get(range, 1), v6, &out->hi) < 0
                   ? -EBADMSG
                   : 0;
    if (!prefix) {
        int r = address(j, v6, &out->lo);

        out->hi = out->lo;
        return r;
    }
    if (len < 0 || len > bits || address(json_object_get(prefix, "addr"), v6, &out->lo) < 0)
        return -EBADMSG;
    out->hi = out->lo | low_bits((unsigned)(bits - len));
    return 0;
}

int sq_spans_parse(const json_t *elements, struct sq_spans *out, struct sq_err *e)
{
    size_t i;
    const json_t *j;

    out->n = 0;
    out->v = calloc(json_array_size(elements) + 1, sizeof *out->v);
    if (!out->v)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(elements, i, j)
    {
        if (parse_one(j, out->v6, &out->v[out->n++]) < 0) {
            sq_spans_clear(out);
            return sq_err(e, -EBADMSG, "an element of a set can't be read");
        }
    }
    merge(out, false);
    return 0;
}

bool sq_spans_same(const struct sq_spans *a, const struct sq_spans *b)
{
    struct sq_spans x = {calloc(a->n + 1, sizeof *x.v), a->n, a->v6}, y = {calloc(b->n + 1, sizeof *y.v), b->n, b->v6};
    bool same = false;

    if (x.v && y.v) {
        if (a->n)
            memcpy(x.v, a->v, a->n * sizeof *x.v);
        if (b->n)
            memcpy(y.v, b->v, b->n * sizeof *y.v);
        merge(&x, true);
        merge(&y, true);
        same = x.n == y.n;
        for (size_t i = 0; same && i < x.n; i++)
            same = by_lo(&x.v[i], &y.v[i]) == 0;
    }
    sq_spans_clear(&x);
    sq_spans_clear(&y);
    return same;
}

bool sq_spans_has(const struct sq_spans *s, struct sq_span one)
{
    return s->n && bsearch(&one, s->v, s->n, sizeof one, by_lo);
}
