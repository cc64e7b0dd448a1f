/* call/latency: the calls of an edge are slow: the connect, where it can be held, and the bytes of each answer. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"delay", SQ_P_DURATION, 0, NULL, NULL, "how long each call is held; only a recording has one of its own"},
    {"jitter", SQ_P_DURATION, 0, "0", NULL,
     "the delay varies by so much up and down (of a distribution: its deviation)"},
    {"distribution", SQ_P_STRING, 0, NULL, NULL,
     "of the jitter: uniform (when left out), normal, pareto, paretonormal, file:PATH (tc's .dist), hlog:PATH (a "
     "recorded HdrHistogram log) or run:DIR#ENDPOINT (what a run of Squall measured)"},
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
