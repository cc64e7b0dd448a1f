/* The way of a packet through the packet process, for one direction of one device: the device's program puts the mask
 * of the faults that match in the packet and sends it to our TAP, the TAP's program sends what the process writes there
 * on to where it was going. Loaded once for each direction. It fails open: packets pass as if it was not there when the
 * TAP or the process's heartbeat is gone. Both attachments are served, tcx and clsact (direct action): TCX_NEXT is
 * TC_ACT_UNSPEC, so that everybody else's programs still run. */
#include "packet/redirect.h"
#include "net/classify.bpf.h"
#include "packet/wire.h"

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#define NEXT TC_ACT_UNSPEC
#define NOWHERE 0x7fffffff /* no such interface: a drop that TCP on this host does not hear of, unlike TC_ACT_SHOT */

const volatile __u32 egress = 1;
const volatile __u32 device = 0; /* ifindex */
const volatile __u32 tap = 0;
const volatile __u32 loopback = 0; /* the device is */

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct sq_packet_beat);
} heartbeat SEC(".maps");

/* The kernel takes a device out of here as it goes (or moves to another namespace). */
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, SQ_REDIRECT_DEVICES);
    __type(key, __u32);
    __type(value, __u32);
} devices SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct sq_redirect_loss);
} losses SEC(".maps");

static __always_inline int present(__u32 which)
{
    return bpf_map_lookup_elem(&devices, &which) != NULL;
}

static __always_inline int alive(void)
{
    __u32 zero = 0;
    const volatile struct sq_packet_beat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

    return beat && !(beat->owner & SQ_PACKET_DIED) && bpf_ktime_get_ns() <= beat->until;
}

/* The faults of MASK that are random loss and nothing else are carried out here and leave the mask. Returns whether the
 * packet is lost. */
static __always_inline int lose(struct sq_mask *mask)
{
    const struct sq_redirect_loss *l;
    __u32 zero = 0;
    __u64 lo, hi;

    l = bpf_map_lookup_elem(&losses, &zero);
    if (!l)
        return 0;
    lo = mask->w[0] & l->mask.w[0];
    hi = mask->w[1] & l->mask.w[1];
    mask->w[0] &= ~lo;
    mask->w[1] &= ~hi;
    for (int i = 0; i < SQ_CLASSIFY_FAULTS && (lo | hi); i++) {
        __u32 bit = lo ? sq_lowest(lo) : 64 + sq_lowest(hi);

        if (lo)
            lo &= lo - 1;
        else
            hi &= hi - 1;
        bit &= SQ_CLASSIFY_FAULTS - 1;
        if (bpf_get_prandom_u32() < l->threshold[bit])
            return 1;
    }
    return 0;
}

/* 0; 1: it can't be done, the packet is as it was; -1: the packet is spoiled. */
static __always_inline int put_tag(struct __sk_buff *skb, const struct sq_mask *mask)
{
    struct sq_packet_tag tag = {.magic = SQ_PACKET_MAGIC, .mask = *mask};

    if (skb->gso_size == 0 && skb->len > SQ_PACKET_BIG) {
        for (int i = 0; i < 8; i++) {
            __u64 w = i < 4 ? mask->w[0] : mask->w[1];

            if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), (__u16)(w >> (16 * (i & 3)))) < 0)
                return i == 0 ? 1 : -1;
        }
        return 0;
    }
    if (skb->vlan_present)
        tag.magic |= SQ_PACKET_VLAN;
    if (bpf_skb_change_head(skb, sizeof tag, 0) < 0)
        return 1;
    return bpf_skb_store_bytes(skb, 0, &tag, sizeof tag, 0) < 0 ? -1 : 0;
}

static __always_inline int drop(void)
{
    return egress ? (int)bpf_redirect(NOWHERE, 0) : TC_ACT_SHOT;
}

static __always_inline int send(struct __sk_buff *skb, struct sq_mask *mask)
{
    int rc;

    if (!alive() || !present(SQ_REDIRECT_TARGET) || !present(SQ_REDIRECT_TAP))
        return NEXT;
    sq_classify_count_all(skb, mask); /* what passes the process by was not hit */
    if (lose(mask))
        return drop();
    if (!(mask->w[0] | mask->w[1]))
        return NEXT;
    rc = put_tag(skb, mask);
    if (rc != 0)
        return rc > 0 ? NEXT : drop();
    return (int)bpf_redirect(tap, 0);
}

static __always_inline int from_process(struct __sk_buff *skb)
{
    __u32 index = skb->tc_index;

    if ((index & ~SQ_REDIRECT_TYPES) != SQ_REDIRECT_MAGIC)
        return 0;
    skb->tc_index = 0; /* a device below this one may have faults of its own */
    if (!egress && index != SQ_REDIRECT_MAGIC)
        bpf_skb_change_type(skb, index & SQ_REDIRECT_TYPES);
    return 1;
}

SEC("tc")
int sq_rd_device(struct __sk_buff *skb)
{
    struct sq_mask mask;
    int any;

    if (from_process(skb))
        return NEXT;
    any = egress ? sq_classify(skb, 1, &mask) : sq_classify(skb, 0, &mask);
    return any ? send(skb, &mask) : NEXT;
}

/* The TAP has its target's address, so that pkt_type says of the frame what it said there. */
SEC("tc")
int sq_rd_tap(struct __sk_buff *skb)
{
    if (!present(SQ_REDIRECT_TARGET))
        return TC_ACT_SHOT;
    skb->tc_index = SQ_REDIRECT_MAGIC | (egress || loopback ? 0 : skb->pkt_type & SQ_REDIRECT_TYPES);
    if (egress)
        bpf_skb_change_type(skb, PACKET_HOST); /* loopback delivers nothing else */
    return (int)bpf_redirect(device, egress ? 0 : BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
