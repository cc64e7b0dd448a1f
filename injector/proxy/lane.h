/* One direction of a connection: the bytes that were read and could not, or must not yet, be written. Empty most of the
 * time, and then without memory of its own. */
#ifndef SQUALL_PROXY_LANE_H
#define SQUALL_PROXY_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/bytes.h"

#define SQ_LANE_HIGH (64 * 1024) /* stop reading above this */
#define SQ_LANE_DELAY                                                                                                  \
    (1024 * 1024) /* and above this while a latency holds bytes, so that a delay is no bandwidth limit */

enum sq_lane_end { SQ_END_NONE, SQ_END_FIN, SQ_END_RST, SQ_END_CLOSE /* by a limit */ };

struct sq_chunk {
    struct sq_chunk *next;
    int64_t due; /* not written before */
    uint32_t bh; /* the black holes (rule slots) that hold it */
    uint32_t off, len;
    char data[];
};

struct sq_lane {
    struct sq_chunk *head, *tail;
    size_t held;          /* bytes of memory in chunks */
    int64_t last_due;     /* of the last bytes put: due times never go back */
    uint64_t in, out;     /* bytes put and written since the connection began */
    enum sq_lane_end end; /* what follows the bytes */
    int64_t end_due;
    uint32_t end_bh;
    bool blocked;             /* the socket took no more */
    struct sq_stages *stages; /* faults on bytes; NULL: none. Owned */
    int64_t paced;            /* they let no byte pass before */
    int64_t lingers;          /* since then the end waits for nothing but slow_close; 0: not yet */
};

void sq_lane_clear(struct sq_lane *l); /* of bytes */
/* Take bytes. When nothing is before them and nothing holds them they go straight to FD (-1: not connected yet), and
 * only the rest is copied. 0, -ENOMEM, or -errno of the write (the bytes are lost then: so is the socket). */
int sq_lane_put(struct sq_lane *l, int fd, const char *p, size_t len, int64_t due, uint32_t bh, int64_t now);
/* Write what is due. 0 or -errno of the write. */
int sq_lane_flush(struct sq_lane *l, int fd, int64_t now);
/* Faults on bytes see what is put from now on, and the pace of what is written. SLOTS: all that are on. 0 or -ENOMEM.
 */
int sq_lane_stages(struct sq_lane *l, struct sq_rules *rules, uint32_t slots, int64_t now);
/* When is the next byte or the end due? INT64_MAX: nothing waits, or not for a time. */
int64_t sq_lane_next(const struct sq_lane *l);
bool sq_lane_full(const struct sq_lane *l, int64_t now);
/* All bytes are out, and the end is due. */
bool sq_lane_at_end(struct sq_lane *l, int64_t now);
/* These black holes are over: what only they held is due now. True when something was. */
bool sq_lane_release(struct sq_lane *l, uint32_t gone, int64_t now);

#endif
