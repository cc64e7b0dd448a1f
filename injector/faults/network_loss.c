/* network/loss: an impairment whose loss must be given. */
#include "net/impair.h"
#include "squall/spec.h"

static const struct sq_param with[] = {
    SQ_IMPAIR_DELAY(0),
    SQ_IMPAIR_LOSS(0),
    SQ_IMPAIR_REST,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_network_loss;
const struct sq_fault_spec sq_spec_network_loss = {
    .name = "network/loss",
    .doc = "drops packets of an interface that match, at random or in bursts",
    .target = SQ_T_NETWORK,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "faults/network.h"

extern const struct sq_fault_ops sq_ops_network_loss;
const struct sq_fault_ops sq_ops_network_loss = SQ_NETWORK_OPS;

#endif
