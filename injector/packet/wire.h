/* Between squalld and its packet process (one for each device and network namespace that has a fault of this backend):
 * a SOCK_SEQPACKET pair, one message a packet. squalld (root) makes the TAPs, loads and attaches the BPF programs and
 * hands all descriptors over in START; it keeps none of the TAPs' and links' itself, only the maps it fills with rules.
 * The process then runs as nobody, without capabilities: it reads hostile packets. When it dies, TAPs and links go with
 * it and traffic flows directly again; when it hangs, the deadline in the heartbeat map passes and the programs let
 * packets pass.
 *
 * What a TAP gives: struct virtio_net_hdr (IFF_VNET_HDR), then the frame with the mask of its faults in it: see
 * sq_packet_untag. What is written back to the same TAP: virtio_net_hdr and the frame without the tag; the program at
 * the TAP's ingress sends it on to where it was going. The process turns the TAP's offloads off (TUNSETOFFLOAD 0, no
 * privilege needed) while a stage of that direction corrupts or is slower than SQ_PACKET_SLOW, and on again after. */
#ifndef SQUALL_PACKET_WIRE_H
#define SQUALL_PACKET_WIRE_H

#include <linux/types.h>
#include <stddef.h>
#include <stdint.h>

#include "net/classify.h"

#define SQ_PACKET_SLOW 12500000ull /* bytes/s: GSO packets of 64 KiB would be too large lumps */

/* Two forms, chosen by the redirecting program (packet/redirect.bpf.c):
 * - struct sq_packet_tag, then the frame: most. A VLAN tag that the kernel kept beside the packet is written by the TUN
 *   driver at offset 12, as if there was no sq_packet_tag: SQ_PACKET_VLAN tells of it.
 * - the frame's addresses, 8 VLAN tags (88a8), the rest: frames above SQ_PACKET_BIG that are not GSO, which
 *   bpf_skb_change_head refuses. The TCIs are the mask, its lowest 16 bits last. */
struct sq_packet_tag {
    uint32_t magic; /* SQ_PACKET_MAGIC, | SQ_PACKET_VLAN */
    uint32_t zero;
    struct sq_mask mask; /* of the faults that match: the stages to pass */
};
#define SQ_PACKET_MAGIC 0x7a1a5c00u
#define SQ_PACKET_VLAN 1u
#define SQ_PACKET_BIG 16000u
#define SQ_PACKET_BIG_TAG 32u

#ifndef __bpf__
#include <string.h>

/* Take the tag off what was read behind the virtio_net_hdr, in place: returns how many bytes of BUF to skip (the frame
 * is the rest), also what to subtract from the header's csum_start, and from its hdr_len when that is not less; or -1:
 * it is no frame of ours. */
static inline int sq_packet_untag(uint8_t *buf, size_t len, struct sq_mask *mask)
{
    const int skip = (int)sizeof(struct sq_packet_tag);
    uint32_t magic;

    if (len < sizeof(struct sq_packet_tag) + 14)
        return -1;
    memcpy(&magic, buf, sizeof magic);
    if (magic == SQ_PACKET_MAGIC) {
        memcpy(mask, buf + offsetof(struct sq_packet_tag, mask), sizeof *mask);
        return skip;
    }
    if (magic == (SQ_PACKET_MAGIC | SQ_PACKET_VLAN) && len >= sizeof(struct sq_packet_tag) + 18) {
        uint8_t vlan[4];

        memcpy(vlan, buf + 12, 4);
        memmove(buf + 4, buf, 12); /* the tag in one piece, in front of the addresses */
        memcpy(mask, buf + 4 + offsetof(struct sq_packet_tag, mask), sizeof *mask);
        memmove(buf + skip, buf + skip + 4, 12);
        memcpy(buf + skip + 12, vlan, 4);
        return skip;
    }
    if (len <= SQ_PACKET_BIG + SQ_PACKET_BIG_TAG)
        return -1;
    memset(mask, 0, sizeof *mask);
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *t = buf + 12 + 4 * i;

        if (t[0] != 0x88 || t[1] != 0xa8)
            return -1;
        mask->w[1] = mask->w[1] << 16 | mask->w[0] >> 48;
        mask->w[0] = mask->w[0] << 16 | (unsigned)(t[2] << 8 | t[3]);
    }
    memmove(buf + SQ_PACKET_BIG_TAG, buf, 12);
    return (int)SQ_PACKET_BIG_TAG;
}
#endif

enum sq_packet_op {
    SQ_PK_START, /* with descriptors: see struct sq_packet_start */
    SQ_PK_SET,   /* struct sq_packet_set + tables: a stage begins or changes */
    SQ_PK_DEL,   /* struct sq_packet_set without more: what the stage holds keeps its due time */
    SQ_PK_STATS, /* answered by struct sq_packet_stats; asked by tests and benchmarks */
    SQ_PK_GET,   /* struct sq_packet_set without more; answered by struct sq_packet_got (packet/control.h) */
    SQ_PK_END, /* set the heartbeat to 0: the programs let packets pass from then on; drain, then exit 0. The same when
                  the socket ends */
};

struct sq_packet_start {
    uint32_t op, n_links;
    uint32_t has_egress, has_ingress; /* which TAPs follow */
    /* SCM_RIGHTS, in this order: heartbeat map, [egress TAP], [ingress TAP], n_links link descriptors (held, not used)
     */
};
#define SQ_PACKET_LINKS_MAX 16

struct sq_packet_set {
    uint32_t op, bit;
    uint32_t ingress;
    uint32_t seq; /* echoed in the answer {seq, error} as two int32, for SET, DEL and START */
    uint64_t seed;
    /* SET: struct sq_impair follows as it is (pointers meaningless), then for `table` and `slot_table`, if not NULL in
     * the struct, uint32 n and n int16 each */
};

struct sq_packet_stats {
    uint32_t op, bit, ingress, seq;
    uint64_t packets, bytes, dropped, marked, duplicated, corrupted, reordered, overlimit, held;
};

/* The heartbeat: an array map, BPF_F_MMAPABLE, of one of these. `until`: CLOCK_MONOTONIC ns until which the process
 * vouches for itself. It moves it on by SQ_PACKET_ALIVE_NS at each turn of its loop (at least every 50 ms). `owner` is
 * a robust futex (set_robust_list(2)) with its thread id: when it dies, the kernel sets SQ_PACKET_DIED in it before
 * anything else, while its TAPs may wait for long until somebody else is done with the network's lock. */
struct sq_packet_beat {
    __u64 until;
    __u32 owner;
    __u32 zero;
};
#define SQ_PACKET_ALIVE_NS 300000000ull
#define SQ_PACKET_DIED 0x40000000u /* FUTEX_OWNER_DIED */

/* Main of the process: `squalld packet`, control socket on descriptor 3. */
int sq_packet_main(void);

#endif
