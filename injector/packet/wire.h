/* Between squalld and its packet process (one for each device and network namespace that has a fault of this backend):
 * a SOCK_SEQPACKET pair, one message a packet. squalld (root) makes the TAPs, loads and attaches the BPF programs and
 * hands all descriptors over in START; it keeps none of the TAPs' and links' itself, only the maps it fills with rules.
 * The process then runs as nobody, without capabilities: it reads hostile packets. When it dies, TAPs and links go with
 * it and traffic flows directly again; when it hangs, the deadline in the heartbeat map passes and the programs let
 * packets pass.
 *
 * What a TAP gives: struct virtio_net_hdr (IFF_VNET_HDR), then struct sq_packet_tag (put in front of the frame by the
 * redirecting program), then the Ethernet frame. What is written back to the same TAP: virtio_net_hdr and the frame
 * without the tag; the program at the TAP's ingress sends it on to where it was going. */
#ifndef SQUALL_PACKET_WIRE_H
#define SQUALL_PACKET_WIRE_H

#include <stdint.h>

#include "net/classify.h"

struct sq_packet_tag {
    struct sq_mask mask; /* of the faults that match: the stages to pass */
};

enum sq_packet_op {
    SQ_PK_START, /* with descriptors: see struct sq_packet_start */
    SQ_PK_SET,   /* struct sq_packet_set + tables: a stage begins or changes */
    SQ_PK_DEL,   /* struct sq_packet_set without more: what the stage holds keeps its due time */
    SQ_PK_STATS, /* answered by struct sq_packet_stats */
    SQ_PK_END,   /* the programs are detached already: drain, then exit 0 */
};

struct sq_packet_start {
    uint32_t op, n_links;
    uint32_t has_egress, has_ingress; /* which TAPs follow */
    /* SCM_RIGHTS, in this order: heartbeat map, [egress TAP], [ingress TAP], n_links link descriptors (held, not used)
     */
};

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
    uint64_t late_ns_max; /* of this device: how late a packet was sent on at most since the last time asked */
};

/* The heartbeat: an array map, BPF_F_MMAPABLE, one uint64: CLOCK_MONOTONIC ns until which the process vouches for
 * itself. It moves it on by SQ_PACKET_ALIVE_NS at each turn of its loop (at least every 50 ms). */
#define SQ_PACKET_ALIVE_NS 300000000ull

/* Main of the process: `squalld packet`, control socket on descriptor 3. */
int sq_packet_main(void);

#endif
