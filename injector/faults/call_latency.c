/* call/latency: the calls of an edge are slow: the connect, where it can be held, and the bytes of each answer. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"delay", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how long each call is held"},
    {"jitter", SQ_P_DURATION, 0, "0", NULL, "the delay varies by so much up and down"},
    SQ_PARAM_STREAM_DGRAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_latency;
const struct sq_fault_spec sq_spec_call_latency = {
    .name = "call/latency",
    .doc = "delays the calls of one service to one dependency: the connect and the bytes of each answer",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_latency;
const struct sq_fault_ops sq_ops_call_latency = SQ_CALL_OPS;

#endif
