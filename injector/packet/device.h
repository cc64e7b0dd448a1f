/* The data path of a packet process: what two TAPs give passes the stages of its mask, is held, and is written back
 * when it is due. No allocation per packet beyond the pool's. Times are CLOCK_MONOTONIC ns. */
#ifndef SQUALL_DEVICE_H
#define SQUALL_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "packet/pool.h"
#include "packet/stage.h"
#include "packet/wheel.h"
#include "packet/wire.h"

enum { SQ_EGRESS, SQ_INGRESS, SQ_DIRECTIONS };

struct sq_packet_got;

struct sq_pdir {
    int tap;      /* -1: none; owned */
    bool offload; /* GSO and partial checksums are let in */
    struct sq_mask active;
    uint32_t gen[SQ_CLASSIFY_FAULTS]; /* how often a stage began at a bit: what is held may be of an earlier one */
    struct sq_pstage stage[SQ_CLASSIFY_FAULTS];
};

struct sq_pdev {
    struct sq_pool *pool;
    struct sq_wheel *wheel;
    uint8_t *spare; /* where the next packet is read to */
    struct sq_pdir dir[SQ_DIRECTIONS];
};

/* POOL_MAX: bytes of packets held at most. NULL: no memory. */
struct sq_pdev *sq_pdev_new(int64_t now, size_t pool_max);
void sq_pdev_free(struct sq_pdev *d); /* what is held is lost; closes the TAPs */
/* Takes TAP over, makes it non-blocking. */
int sq_pdev_tap(struct sq_pdev *d, unsigned dir, int tap);

/* A stage begins at BIT, or changes. Takes IM's tables over. */
void sq_pdev_set(struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_impair *im, uint64_t seed);
void sq_pdev_del(struct sq_pdev *d, unsigned dir, unsigned bit);
/* What it carries out there (OUT is zeroed before, but for its head). */
void sq_pdev_get(const struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_packet_got *out);
void sq_pdev_stats(struct sq_pdev *d, unsigned dir, unsigned bit, struct sq_packet_stats *out);

/* Read up to MAX packets: how many, 0: none waits; -errno: the TAP is gone (and closed). */
int sq_pdev_read(struct sq_pdev *d, unsigned dir, unsigned max);
/* Pass on up to MAX of what is due at NOW: how many. */
unsigned sq_pdev_send(struct sq_pdev *d, int64_t now, unsigned max);
int64_t sq_pdev_next(const struct sq_pdev *d); /* when to look again; INT64_MAX: nothing is held */

/* For tests: as if LEN bytes at BUF (virtio_net_hdr, tag, frame) had been read at NOW. */
void sq_pdev_feed(struct sq_pdev *d, unsigned dir, const void *buf, size_t len, int64_t now);

#endif
