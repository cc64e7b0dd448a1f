/* call/timeout: the connections of an edge go silent. */
#include "faults/call_bytes.h"

static const struct sq_param with[] = {
    {"after", SQ_P_DURATION, 0, "0", NULL, "closes the connection so long after it went silent; 0: never"},
    SQ_PARAM_STREAM,
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_timeout;
const struct sq_fault_spec sq_spec_call_timeout = {
    .name = "call/timeout",
    .doc = "swallows the bytes of each connection of one service to one dependency, and closes it after a time",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_timeout;
const struct sq_fault_ops sq_ops_call_timeout = SQ_CALL_OPS;

#endif
