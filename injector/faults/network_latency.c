/* network/latency: an impairment whose delay must be given. */
#include "net/impair.h"
#include "squall/spec.h"

static const struct sq_param with[] = {
    SQ_IMPAIR_DELAY(SQ_REQUIRED),
    SQ_IMPAIR_LOSS(0),
    SQ_IMPAIR_REST,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_network_latency;
const struct sq_fault_spec sq_spec_network_latency = {
    .name = "network/latency",
    .doc = "delays (and loses, reorders, ...) the packets of an interface that match",
    .target = SQ_T_NETWORK,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "faults/network.h"

extern const struct sq_fault_ops sq_ops_network_latency;
const struct sq_fault_ops sq_ops_network_latency = SQ_NETWORK_OPS;

#endif
