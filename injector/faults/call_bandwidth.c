/* call/bandwidth: limits how fast the bytes of a connection of an edge go. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"rate", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "of each connection, as tc writes it: 10mbit, 125kbps"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_bandwidth;
const struct sq_fault_spec sq_spec_call_bandwidth = {
    .name = "call/bandwidth",
    .doc = "slows the bytes of each connection of one service to one dependency down to a rate",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_bandwidth;
const struct sq_fault_ops sq_ops_call_bandwidth = SQ_CALL_OPS;

#endif
