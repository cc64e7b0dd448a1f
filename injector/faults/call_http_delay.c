/* call/http_delay: the answers to matching requests come later. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"delay", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how much later the answer comes"},
    {"jitter", SQ_P_DURATION, 0, "0", NULL, "the delay varies by so much up and down"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_http_delay;
const struct sq_fault_spec sq_spec_call_http_delay = {
    .name = "call/http_delay",
    .doc = "delays the answers to matching HTTP requests of one service to one dependency; other answers only where "
           "they come behind one",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_http_delay;
const struct sq_fault_ops sq_ops_call_http_delay = SQ_CALL_OPS;

#endif
