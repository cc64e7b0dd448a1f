/* call/slicer: the bytes of a connection of an edge arrive in small slices. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"size", SQ_P_INT, SQ_REQUIRED, NULL, NULL, "bytes of a slice, on average"},
    {"variation", SQ_P_INT, 0, "0", NULL, "a slice is so many bytes larger or smaller"},
    {"delay", SQ_P_DURATION, 0, "0", NULL, "how long after a slice the next one is sent"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_slicer;
const struct sq_fault_spec sq_spec_call_slicer = {
    .name = "call/slicer",
    .doc = "cuts the bytes of each connection of one service to one dependency into small slices, with pauses between",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_slicer;
const struct sq_fault_ops sq_ops_call_slicer = SQ_CALL_OPS;

#endif
