/* call/loss: chunks of the bytes of an edge get lost. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"loss", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL,
     "what share of the chunks (what was read at once), or of the datagrams, is lost"},
    {"correlation", SQ_P_PERCENT, 0, "0%", NULL, "how much a chunk fares as the one before"},
    SQ_PARAM_STREAM_DGRAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_loss;
const struct sq_fault_spec sq_spec_call_loss = {
    .name = "call/loss",
    .doc = "loses chunks of the bytes of each connection of one service to one dependency, or datagrams",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_loss;
const struct sq_fault_ops sq_ops_call_loss = SQ_CALL_OPS;

#endif
