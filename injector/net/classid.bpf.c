/* A classifier for a classful qdisc (cls_bpf without direct action): the lowest fault that matches a packet chooses its
 * class. What a program of net/sched/cls_bpf.c returns there: 0 no match, -1 the filter's own classid, else a classid.
 */
#include "net/classify.bpf.h"

static __always_inline int classid(struct __sk_buff *skb, const int egress)
{
    struct sq_mask mask;
    __u32 bit;

    if (!sq_classify(skb, egress, &mask))
        return 0;
    bit = mask.w[0] ? sq_lowest(mask.w[0]) : 64 + sq_lowest(mask.w[1]);
    sq_classify_count_one(skb, bit);
    return (int)SQ_CLASSID(bit);
}

SEC("tc")
int sq_classid_egress(struct __sk_buff *skb)
{
    return classid(skb, 1);
}

SEC("tc")
int sq_classid_ingress(struct __sk_buff *skb)
{
    return classid(skb, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
