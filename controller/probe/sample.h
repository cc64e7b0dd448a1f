/* What is known about the requests of one endpoint that were planned in one second. */
#ifndef SQUALL_PROBE_SAMPLE_H
#define SQUALL_PROBE_SAMPLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "probe/match.h"
#include "probe/proto.h"
#include "squall/hist.h"

/* Why a request is not a good one; the names are EVIDENCE.md's. */
enum sq_bad {
    SQ_BAD_NONE = 0,
    SQ_BAD_STATUS,
    SQ_BAD_BODY,
    SQ_BAD_TIMEOUT,
    SQ_BAD_REFUSED,
    SQ_BAD_RESET,
    SQ_BAD_CONNECT,
    SQ_BAD_PROTOCOL,
    SQ_BAD_UNSENT,
    SQ_BAD_TLS,
    SQ_BAD_COUNT,
};

#define SQ_STATUS_MAX 1000

struct sq_second {
    struct sq_second *next;
    int64_t sec;
    uint64_t planned, outstanding; /* outstanding: not finished yet */
    bool closed;                   /* no more requests will be planned in it */
    uint64_t ok, bad[SQ_BAD_COUNT], late, lag_late, reconnects, bytes, answered;
    uint64_t match[SQ_MATCH_MAX], forbid[SQ_MATCH_MAX];
    struct sq_hist *h, *hs, *hok;
    const char *endpoint; /* borrowed */
    const struct sq_rules *rules;
    uint32_t status[SQ_STATUS_MAX];
};

struct sq_second *sq_second_new(const char *endpoint, const struct sq_rules *rules, int64_t sec); /* NULL: no memory */
void sq_second_free(struct sq_second *s);
/* A request finished: latency from the planned send, from the actual one (< 0: was never sent), and its answer (NULL:
 * none). */
void sq_second_add(struct sq_second *s, enum sq_bad bad, int64_t latency, int64_t service, const struct sq_answer *a);
/* The same second of the same endpoint, from another thread. */
void sq_second_merge(struct sq_second *into, const struct sq_second *from);
/* The `sample` record; new reference, NULL: no memory. */
json_t *sq_second_json(const struct sq_second *s);

#endif
