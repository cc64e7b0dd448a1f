/* call/http_abort: matching requests end in a reset. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_http_abort;
const struct sq_fault_spec sq_spec_call_http_abort = {
    .name = "call/http_abort",
    .doc = "resets the connection (HTTP/2: the stream) of matching HTTP requests of one service to one dependency, "
           "which never reach it",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_http_abort;
const struct sq_fault_ops sq_ops_call_http_abort = SQ_CALL_OPS;

#endif
