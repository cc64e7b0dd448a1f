/* call/error: the calls of an edge fail: a connect with the chosen errno, an open connection by a reset. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"errno", SQ_P_ERRNO, 0, "ECONNREFUSED", NULL, "what connect(2) returns; EINTR is refused"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_error;
const struct sq_fault_spec sq_spec_call_error = {
    .name = "call/error",
    .doc = "fails the calls of one service to one dependency: connects with an errno, open connections by a reset",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_error;
const struct sq_fault_ops sq_ops_call_error = SQ_CALL_OPS;

#endif
