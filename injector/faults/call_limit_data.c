/* call/limit_data: the connections of an edge end after so many bytes. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"bytes", SQ_P_INT, SQ_REQUIRED, NULL, NULL, "how many pass before the connection is closed"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_limit_data;
const struct sq_fault_spec sq_spec_call_limit_data = {
    .name = "call/limit_data",
    .doc = "closes each connection of one service to one dependency when so many bytes have passed",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_limit_data;
const struct sq_fault_ops sq_ops_call_limit_data = SQ_CALL_OPS;

#endif
