/* Faults on the bytes of one direction of a connection: a chain of stages, one for each rule that hit it, in the
 * written order of enum sq_rule_kind (ARCHITECTURE.md):
 *
 *   read -> timeout, reset -> loss -> corrupt -> limit_data -> delay -> [queue: lane.h] -> slicer, bandwidth -> write
 *
 * and slow_close holds the end. Stages before the queue act once on what was read (a chunk: at most 64 KiB); those
 * behind it say when how many bytes may be written, so that a change of rate acts at once, on bytes that wait, too.
 * Parameters are read from the rule at each use. Pure: no sockets, no clock. Times: CLOCK_MONOTONIC ns. */
#ifndef SQUALL_PROXY_BYTES_H
#define SQUALL_PROXY_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/rules.h"

struct sq_stage {
    struct sq_rule *rule;   /* borrowed: of the edge, whose slots stay where they are */
    enum sq_rule_kind kind; /* the rule's; it is still known when the rule is gone */
    uint8_t slot;
    bool bad;       /* loss: the chunk before was lost */
    bool swallowed; /* timeout, reset: bytes are missing in the stream */
    int64_t clock;  /* slicer, bandwidth: when its next byte may begin; timeout, reset: when it began; 0: not yet */
    uint64_t n;     /* slicer: bytes left of the slice; limit: bytes that passed */
};

struct sq_stages {
    unsigned n;
    bool paced;    /* a slicer or a bandwidth */
    bool swallows; /* a timeout or a reset: nothing passes, no end either */
    struct sq_stage s[];
};

/* Make *ST hold exactly SLOTS of the rules; a stage that was there keeps its state. NULL: none. -ENOMEM: as before. */
int sq_stages_set(struct sq_stages **st, struct sq_rules *rules, uint32_t slots, int64_t now);
/* A chunk was read: change it in place. Returns how many of its first bytes go on. *due is moved back by delays;
 * *close: no more may pass. */
size_t sq_stages_take(struct sq_stages *st, char *p, size_t len, int64_t *due, bool *close, int64_t now);
/* The source has ended. */
void sq_stages_eof(struct sq_stages *st, int64_t now);
/* How many of LEN bytes that are due since DUE may be written now; 0: none before *AT (INT64_MAX: not for a time). */
size_t sq_stages_allow(struct sq_stages *st, int64_t due, size_t len, int64_t now, int64_t *at);
/* N of them were written; LAST: nothing waits behind them. */
void sq_stages_sent(struct sq_stages *st, int64_t due, size_t n, bool last);
/* The socket takes bytes again: the time that it did not is not made up for. */
void sq_stages_resume(struct sq_stages *st, int64_t now);
/* How long slow_close holds the end, counted from when it would be passed on. */
int64_t sq_stages_linger(struct sq_stages *st);
void sq_stages_lingered(struct sq_stages *st); /* it did */
/* When a timeout closes the connection or a reset resets it (*BY); INT64_MAX: never. */
int64_t sq_stages_fires(const struct sq_stages *st, const struct sq_stage **by);
/* Bytes that may wait: what a rate needs to be kept. */
size_t sq_stages_room(const struct sq_stages *st, size_t least, size_t most);
/* Did one of these slots, a timeout or a reset, swallow bytes? ANY: of a timeout it is enough that it was there. */
bool sq_stages_broke(const struct sq_stages *st, uint32_t slots, bool any);

#endif
