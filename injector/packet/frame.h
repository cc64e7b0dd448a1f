/* What a packet process must know of a frame, and the changes it makes to one. Pure; frames are hostile. */
#ifndef SQUALL_FRAME_H
#define SQUALL_FRAME_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#define SQ_VNET_HDR 10u /* sizeof(struct virtio_net_hdr) */

struct sq_frame {
    uint32_t wire; /* bytes on the wire: a GSO packet's segments have a header each */
    uint32_t segs;
    uint16_t l3; /* offset of the IP header; 0: not IP */
    uint8_t ipv; /* 4, 6, or 0 */
    bool ect;    /* ECN-capable, or marked already */
};

/* FRAME of LEN bytes, an Ethernet header at least. VH: as read. */
void sq_frame_look(const struct virtio_net_hdr *vh, const uint8_t *frame, uint32_t len, struct sq_frame *out);
/* Set ECN CE; the IPv4 header's checksum is kept right. Only where `ect`. */
void sq_frame_mark(uint8_t *frame, uint32_t len, const struct sq_frame *f);
/* Flip one bit behind the Ethernet header. A checksum that is not complete yet is completed first, and whoever gets the
 * packet is told to check it. False: a GSO packet, or nothing behind the header; it is unharmed. */
bool sq_frame_corrupt(struct virtio_net_hdr *vh, uint8_t *frame, uint32_t len, uint64_t random);
/* The offsets in VH after SKIP bytes were taken off in front. False: they make no sense for LEN bytes. */
bool sq_frame_shift(struct virtio_net_hdr *vh, uint32_t skip, uint32_t len);

#endif
