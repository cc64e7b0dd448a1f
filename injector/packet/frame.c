#include "packet/frame.h"

#include <netinet/in.h>
#include <string.h>

#define ETH 14u
#define VLANS 4 /* tags looked behind */
#define EXTENSIONS 8

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* The IP header's offset; 0: not IP. */
static uint32_t find_ip(const uint8_t *f, uint32_t len, uint8_t *ipv)
{
    uint32_t at = 12;
    *ipv = 0;
    for (int i = 0; i <= VLANS && at + 2 <= len; i++) {
        uint16_t type = be16(f + at);
        if (type == 0x8100 || type == 0x88a8) {
            at += 4;
            continue;
        }
        at += 2;
        if (type == 0x0800 && at + 20 <= len && f[at] >> 4 == 4 && (f[at] & 15) >= 5)
            *ipv = 4;
        else if (type == 0x86dd && at + 40 <= len && f[at] >> 4 == 6)
            *ipv = 6;
        return *ipv ? at : 0;
    }
    return 0;
}

/* Behind the IP header and its extensions; *PROTO: what is there. */
static uint32_t behind_ip(const uint8_t *f, uint32_t len, const struct sq_frame *fr, uint8_t *proto)
{
    if (fr->ipv == 4) {
        *proto = f[fr->l3 + 9];
        return fr->l3 + (f[fr->l3] & 15u) * 4;
    }
    uint32_t at = fr->l3 + 40u;
    *proto = f[fr->l3 + 6];
    for (int i = 0; i < EXTENSIONS && at + 8 <= len; i++) {
        if (*proto != IPPROTO_HOPOPTS && *proto != IPPROTO_ROUTING && *proto != IPPROTO_DSTOPTS &&
            *proto != IPPROTO_FRAGMENT)
            break;
        uint32_t ext = *proto == IPPROTO_FRAGMENT ? 8 : (f[at + 1] + 1u) * 8;
        *proto = f[at];
        at += ext;
    }
    return at;
}

/* Bytes of headers that each segment of a GSO packet has. */
static uint32_t headers(const struct virtio_net_hdr *vh, const uint8_t *f, uint32_t len, const struct sq_frame *fr)
{
    uint8_t proto = 0;
    uint32_t at = fr->ipv ? behind_ip(f, len, fr, &proto) : 0, end = 0;
    if (proto == IPPROTO_TCP && at + 20 <= len)
        end = at + (f[at + 12] >> 4) * 4u;
    else if (proto == IPPROTO_UDP)
        end = at + 8;
    else if (at == 0)
        end = vh->hdr_len;
    else
        end = at;
    return end < len ? end : len;
}

void sq_frame_look(const struct virtio_net_hdr *vh, const uint8_t *frame, uint32_t len, struct sq_frame *out)
{
    *out = (struct sq_frame){.wire = len, .segs = 1};
    out->l3 = (uint16_t)find_ip(frame, len, &out->ipv);
    if (out->ipv == 4)
        out->ect = (frame[out->l3 + 1] & 3) != 0;
    else if (out->ipv == 6)
        out->ect = (frame[out->l3 + 1] >> 4 & 3) != 0;
    if (vh->gso_type == VIRTIO_NET_HDR_GSO_NONE || vh->gso_size == 0)
        return;
    uint32_t head = headers(vh, frame, len, out);
    uint32_t segs = (len - head + vh->gso_size - 1) / vh->gso_size;
    if (segs <= 1)
        return;
    out->segs = segs;
    uint64_t wire = (uint64_t)len + (uint64_t)(segs - 1) * head;
    out->wire = wire < UINT32_MAX ? (uint32_t)wire : UINT32_MAX;
}

void sq_frame_mark(uint8_t *frame, uint32_t len, const struct sq_frame *f)
{
    if (!f->ect || f->l3 + 20u > len)
        return;
    uint8_t *ip = frame + f->l3;
    if (f->ipv == 6) {
        ip[1] |= 3 << 4;
        return;
    }
    /* RFC 1624: the new checksum from the old one and the changed word. */
    uint16_t old = be16(ip);
    ip[1] |= 3;
    uint32_t sum = (uint16_t)~be16(ip + 10) + (uint32_t)(uint16_t)~old + be16(ip);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ip[10] = (uint8_t)(~sum >> 8);
    ip[11] = (uint8_t)~sum;
}

/* The sum over everything from csum_start on, with what was put there of the pseudo header (virtio 1.1, 5.1.6.2). */
static bool complete(const struct virtio_net_hdr *vh, uint8_t *f, uint32_t len)
{
    uint32_t start = vh->csum_start, at = start + vh->csum_offset;
    if (start >= len || at + 2 > len)
        return false;
    uint64_t sum = 0;
    for (uint32_t i = start; i + 1 < len; i += 2)
        sum += be16(f + i);
    if ((len - start) & 1)
        sum += (uint64_t)f[len - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    uint16_t c = (uint16_t)~sum;
    c = c ? c : 0xffff; /* 0 would be "none" to UDP, and is the same number to all */
    f[at] = (uint8_t)(c >> 8);
    f[at + 1] = (uint8_t)c;
    return true;
}

bool sq_frame_corrupt(struct virtio_net_hdr *vh, uint8_t *frame, uint32_t len, uint64_t random)
{
    if (vh->gso_type != VIRTIO_NET_HDR_GSO_NONE || len <= ETH)
        return false;
    if (vh->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && !complete(vh, frame, len))
        return false;
    vh->flags = 0; /* nor "valid, as the network card said" */
    uint64_t bit = random % ((uint64_t)(len - ETH) * 8);
    frame[ETH + bit / 8] ^= (uint8_t)(1u << bit % 8);
    return true;
}

bool sq_frame_shift(struct virtio_net_hdr *vh, uint32_t skip, uint32_t len)
{
    if (vh->hdr_len >= skip)
        vh->hdr_len = (uint16_t)(vh->hdr_len - skip);
    if (vh->hdr_len > len)
        vh->hdr_len = (uint16_t)len;
    if (vh->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        if (vh->csum_start < skip + ETH)
            return false;
        vh->csum_start = (uint16_t)(vh->csum_start - skip);
        return (uint32_t)vh->csum_start + vh->csum_offset + 2 <= len;
    }
    return true;
}
