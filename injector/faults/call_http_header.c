/* call/http_header: header fields of matching requests, or of their answers, are set or removed. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"of", SQ_P_ENUM, 0, "answer", "answer|request", "what is changed: the answer to the caller, or the request"},
    {"set", SQ_P_MAP, 0, NULL, NULL, "fields by name that get this value, whether they were there or not"},
    {"remove", SQ_P_STRINGS, 0, NULL, NULL, "fields that go away"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_http_header;
const struct sq_fault_spec sq_spec_call_http_header = {
    .name = "call/http_header",
    .doc = "changes header fields of matching HTTP requests of one service to one dependency, or of their answers",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_http_header;
const struct sq_fault_ops sq_ops_call_http_header = SQ_CALL_OPS;

#endif
