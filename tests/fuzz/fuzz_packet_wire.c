/* What a packet process is told (SET) and what it reads: frames from a TAP. Never a crash, never a packet that is kept
 * or lost count of, never one due before it came. No TAP: what would be written goes nowhere. A device is used for many
 * inputs, each of which must leave it empty.
 * Input: records of a byte that says what it is, 2 bytes of length, and so many bytes:
 * 0: a SET as it is; 1: a good SET with changes (2 bytes where, 8 bytes what); 2: DEL (a byte: bit); 3: what was read
 * from the TAP; 4: the same behind a good virtio_net_hdr and tag; 5: time passes (a byte: as a power of two). */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/impair.h"
#include "packet/control.h"
#include "packet/device.h"
#include "packet/frame.h"

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "violated: %s\n", #c);                                                               \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static int64_t now;

static void told(struct sq_pdev *d, const void *buf, size_t len)
{
    struct sq_packet_set h;
    struct sq_impair im;
    if (sq_packet_set_read(buf, len, &h, &im, NULL) != 0)
        return;
    MUST(h.bit < SQ_CLASSIFY_FAULTS && im.delay >= 0 && im.delay <= SQ_IMPAIR_MAX_NS);
    MUST(im.loss >= 0 && im.loss <= 100 && (!im.table || im.table->n <= SQ_DIST_MAX));
    im.limit = im.limit < 1000 ? im.limit : 1000; /* an input's memory */
    sq_pdev_set(d, h.ingress, h.bit, &im, h.seed);
}

static void changed(struct sq_pdev *d, const uint8_t *p, size_t len)
{
    struct sq_packet_set h = {.op = SQ_PK_SET};
    struct sq_impair im = {.delay = 1000000,
                           .jitter = 500000,
                           .loss_model = SQ_LOSS_RANDOM,
                           .loss = 1,
                           .corrupt = 50,
                           .duplicate = 20,
                           .rate = 1000000,
                           .limit = 100,
                           .ecn = true};
    size_t n;
    uint8_t *m = sq_packet_set_write(&h, &im, &n);
    MUST(m);
    for (; len >= 10; p += 10, len -= 10) {
        size_t at = (size_t)(p[0] << 8 | p[1]) % (n - 8);
        memcpy(m + at, p + 2, 8);
    }
    told(d, m, n);
    free(m);
}

static void tagged(struct sq_pdev *d, const uint8_t *p, size_t len)
{
    static uint8_t buf[70000];
    struct sq_packet_tag tag = {.magic = SQ_PACKET_MAGIC};
    if (len < 12)
        return;
    memcpy(buf, p, SQ_VNET_HDR); /* any virtio_net_hdr */
    tag.mask.w[0] = p[10];
    tag.mask.w[1] = p[11];
    memcpy(buf + SQ_VNET_HDR, &tag, sizeof tag);
    memcpy(buf + SQ_VNET_HDR + sizeof tag, p + 12, len - 12);
    sq_pdev_feed(d, p[10] & 1, buf, SQ_VNET_HDR + sizeof tag + len - 12, now);
}

static void record(struct sq_pdev *d, unsigned what, const uint8_t *p, size_t len)
{
    uint8_t *copy = malloc(len + 1); /* so that reading beyond it is seen */
    MUST(copy);
    memcpy(copy, p, len);
    if (what == 0)
        told(d, copy, len);
    else if (what == 1)
        changed(d, copy, len);
    else if (what == 2 && len)
        sq_pdev_del(d, copy[0] & 1, copy[0] >> 1);
    else if (what == 3)
        sq_pdev_feed(d, 0, copy, len, now);
    else if (what == 4)
        tagged(d, copy, len);
    else if (what == 5 && len)
        now += INT64_C(1) << copy[0] % 44;
    free(copy);
    for (int i = 0; i < 100 && sq_pdev_send(d, now, 7); i++)
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sq_pdev *d; /* of many inputs: what one leaves behind would be seen at its end */
    static unsigned inputs;
    if (d && inputs++ % 512 == 0) {
        sq_pdev_free(d);
        d = NULL;
    }
    if (!d) {
        now = 1000;
        d = sq_pdev_new(now, 0);
        MUST(d);
        for (unsigned i = 0; i < SQ_DIRECTIONS; i++)
            MUST(sq_pdev_tap(d, i, open("/dev/null", O_WRONLY | O_CLOEXEC)) == 0);
    }
    while (size >= 3) {
        size_t len = (size_t)(data[1] << 8 | data[2]);
        unsigned what = data[0] % 6;
        data += 3;
        size -= 3;
        len = len < size ? len : size;
        record(d, what, data, len);
        data += len;
        size -= len;
    }
    for (unsigned i = 0; i < SQ_DIRECTIONS; i++)
        for (unsigned bit = 0; bit < SQ_CLASSIFY_FAULTS; bit++)
            sq_pdev_del(d, i, bit);
    for (int64_t next; (next = sq_pdev_next(d)) != INT64_MAX;) {
        now = next > now ? next : now;
        (void)sq_pdev_send(d, now, 7);
    }
    for (unsigned i = 0; i < SQ_DIRECTIONS; i++)
        for (unsigned bit = 0; bit < SQ_CLASSIFY_FAULTS; bit++)
            MUST(d->dir[i].stage[bit].held == 0);
    MUST(sq_wheel_count(d->wheel) == 0 && sq_pool_resident(d->pool) <= (size_t)16 << 20);
    now += INT64_C(1) << 20;
    if (now > INT64_MAX / 4) /* far from what clocks say */
        inputs = 0;
    return 0;
}
