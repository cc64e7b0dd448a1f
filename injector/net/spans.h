/* Addresses as sorted intervals that don't overlap: the form of nftables' interval sets. One family a list: IPv4 in the
 * low 32 bits, or IPv6. */
#ifndef SQUALL_SPANS_H
#define SQUALL_SPANS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "net/match.h"
#include "squall/err.h"

__extension__ typedef unsigned __int128 sq_u128;

struct sq_span {
    sq_u128 lo, hi; /* inclusive */
};
struct sq_spans {
    struct sq_span *v; /* owned */
    size_t n;
    bool v6;
};

/* Those of P[N] that are of the family of OUT (out->v6 is set by the caller). Overlapping ones become one, adjacent
 * ones stay apart, so that a host that comes or goes is an element that comes or goes. */
int sq_spans_make(const struct sq_prefix *p, size_t n, struct sq_spans *out, struct sq_err *e);
void sq_spans_clear(struct sq_spans *s);
/* The elements of a set as libnftables' JSON: "10.0.0.1", {"prefix":...}, {"range":[...]}. New reference. */
json_t *sq_spans_json(const struct sq_spans *s);
json_t *sq_span_json(struct sq_span s, bool v6);
/* And back, in any order, adjacent ones apart or not. */
int sq_spans_parse(const json_t *elements, struct sq_spans *out, struct sq_err *e);
/* Do both cover the same addresses? */
bool sq_spans_same(const struct sq_spans *a, const struct sq_spans *b);
/* Is S, exactly, one of them? */
bool sq_spans_has(const struct sq_spans *s, struct sq_span one);

#endif
