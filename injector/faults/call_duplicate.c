/* call/duplicate: datagrams of an edge come twice. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"duplicate", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL, "what share of the datagrams is sent twice"},
    SQ_PARAM_STREAM_DGRAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_duplicate;
const struct sq_fault_spec sq_spec_call_duplicate = {
    .name = "call/duplicate",
    .doc = "sends datagrams between one service and one dependency twice (edges with protocol: udp or dns)",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_duplicate;
const struct sq_fault_ops sq_ops_call_duplicate = SQ_CALL_OPS;

#endif
