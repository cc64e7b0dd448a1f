/* network/impair: an impairment by all its parts, or by the name of a preset. */
#include "net/impair.h"
#include "squall/spec.h"

static const struct sq_param with[] = {
    SQ_IMPAIR_DELAY(0),
    SQ_IMPAIR_LOSS(0),
    SQ_IMPAIR_REST,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_network_impair;
const struct sq_fault_spec sq_spec_network_impair = {
    .name = "network/impair",
    .doc = "everything netem can do to the packets of an interface that match: delay, loss, duplicates, rate and more",
    .target = SQ_T_NETWORK,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "faults/network.h"

extern const struct sq_fault_ops sq_ops_network_impair;
const struct sq_fault_ops sq_ops_network_impair = SQ_NETWORK_OPS;

#endif
