/* What an answer is held against: the endpoint's `expect`, and the matchers of `fallback` checks. Bodies are searched
 * as they arrive, in pieces of any size; nothing is kept of them. */
#ifndef SQUALL_PROBE_MATCH_H
#define SQUALL_PROBE_MATCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_MATCH_MAX 64                   /* needles, headers and matchers of an endpoint: one bit each */
#define SQ_MATCH_BODY ((uint64_t)1 << 20) /* how much of a body is searched */
#define SQ_MATCH_NEEDLE 4096              /* longest needle */
#define SQ_MATCH_NAME 128                 /* longest header name that is looked for, with the final 0 */
#define SQ_MATCH_VALUE 1024               /* how much of a header's value is compared */

struct sq_statuses {
    bool any; /* not given: every status */
    uint64_t bit[16];
};

/* Which conditions a `match` or a `forbid` names. */
struct sq_cond {
    bool given;
    struct sq_statuses status;
    uint64_t headers, needles; /* bits */
    bool empty;
};

struct sq_needle {
    unsigned char *text;
    uint32_t len;
    uint32_t *fail; /* Knuth-Morris-Pratt: where to go on after a mismatch */
};

struct sq_header {
    char *name;  /* lower case */
    char *value; /* NULL: any */
};

struct sq_matcher {
    char *id;
    struct sq_cond match, forbid;
};

struct sq_rules {
    struct sq_statuses expect;
    bool expect_status; /* was it given? */
    int expect_needle;  /* -1: none */
    size_t n_needles, n_headers, n_matchers;
    struct sq_needle needle[SQ_MATCH_MAX];
    struct sq_header header[SQ_MATCH_MAX];
    struct sq_matcher matcher[SQ_MATCH_MAX];
};

/* One answer on its way. */
struct sq_match_state {
    uint64_t needles, headers; /* found so far */
    uint64_t bytes;            /* of the body */
    uint32_t pos[SQ_MATCH_MAX];
};

/* The outcome for an answer: bit i belongs to matcher i. */
struct sq_matched {
    bool status_ok, body_ok;
    uint64_t match, forbid;
};

/* expect: the endpoint's (NULL: status 200-399); matchers: as in probe.h, those of other endpoints are passed over. */
int sq_rules_init(struct sq_rules *r, const char *endpoint, const json_t *expect, const json_t *matchers,
                  struct sq_err *e);
/* When no status is given: these are good instead of 200-399. */
void sq_rules_default(struct sq_rules *r, unsigned from, unsigned to);
void sq_rules_clear(struct sq_rules *r);

void sq_match_begin(const struct sq_rules *r, struct sq_match_state *m);
void sq_match_header(const struct sq_rules *r, struct sq_match_state *m, const char *name, const char *value,
                     size_t len);
void sq_match_body(const struct sq_rules *r, struct sq_match_state *m, const char *data, size_t len);
void sq_match_end(const struct sq_rules *r, const struct sq_match_state *m, int status, struct sq_matched *out);

#endif
