/* call/blackhole: the calls of an edge get no answer: connects stay without one, and bytes are held. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_blackhole;
const struct sq_fault_spec sq_spec_call_blackhole = {
    .name = "call/blackhole",
    .doc = "swallows the calls of one service to one dependency: no connect is answered, no byte comes back",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_blackhole;
const struct sq_fault_ops sq_ops_call_blackhole = SQ_CALL_OPS;

#endif
