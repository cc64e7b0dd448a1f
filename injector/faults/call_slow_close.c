/* call/slow_close: the connections of an edge close late. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"delay", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how long the end of a stream is held"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_slow_close;
const struct sq_fault_spec sq_spec_call_slow_close = {
    .name = "call/slow_close",
    .doc = "holds the end of each connection of one service to one dependency",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_slow_close;
const struct sq_fault_ops sq_ops_call_slow_close = SQ_CALL_OPS;

#endif
