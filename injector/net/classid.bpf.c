/* A classifier for a classful qdisc (cls_bpf without direct action): the lowest fault that matches a packet chooses its
 * class. What a program of net/sched/cls_bpf.c returns there: 0 no match, -1 the filter's own classid and actions, else
 * a classid. */
#include "net/classify.bpf.h"

/* The class of bit 0: set before loading (net/tree.h). */
const volatile __u32 sq_classid_base = SQ_CLASSID(0);

static __always_inline int classid(struct __sk_buff *skb, const int egress)
{
    struct sq_mask mask;
    __u32 bit;

    if (!sq_classify(skb, egress, &mask))
        return 0;
    bit = mask.w[0] ? sq_lowest(mask.w[0]) : 64 + sq_lowest(mask.w[1]);
    sq_classify_count_one(skb, bit);
    return (int)(sq_classid_base + bit);
}

SEC("tc")
int sq_classid_egress(struct __sk_buff *skb)
{
    return classid(skb, 1);
}

/* On the ifb that what came in passes. */
SEC("tc")
int sq_classid_ingress(struct __sk_buff *skb)
{
    return classid(skb, 0);
}

/* On the device itself: whether it goes to that ifb. */
SEC("tc")
int sq_match_ingress(struct __sk_buff *skb)
{
    struct sq_mask mask;

    return sq_classify(skb, 0, &mask) ? -1 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
