/* call/reset: the connections of an edge are reset. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"after", SQ_P_DURATION, 0, "0", NULL, "how long after the first byte (or the end) of the stream"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_reset;
const struct sq_fault_spec sq_spec_call_reset = {
    .name = "call/reset",
    .doc = "resets each connection of one service to one dependency (a TCP RST) when its first byte comes",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_reset;
const struct sq_fault_ops sq_ops_call_reset = SQ_CALL_OPS;

#endif
