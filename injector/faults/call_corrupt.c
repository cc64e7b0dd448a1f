/* call/corrupt: bits of the bytes of an edge are flipped. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"corrupt", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL,
     "what share of the chunks (what was read at once) gets one bit flipped"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_corrupt;
const struct sq_fault_spec sq_spec_call_corrupt = {
    .name = "call/corrupt",
    .doc = "flips bits in the bytes of each connection of one service to one dependency",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_corrupt;
const struct sq_fault_ops sq_ops_call_corrupt = SQ_CALL_OPS;

#endif
