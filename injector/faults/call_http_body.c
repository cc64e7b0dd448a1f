/* call/http_body: the bodies of matching requests, or of their answers, are changed. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"of", SQ_P_ENUM, 0, "answer", "answer|request", "what is changed: the answer to the caller, or the request"},
    {"replace", SQ_P_STRING, 0, NULL, NULL, "this text in place of the body; or"},
    {"truncate", SQ_P_INT, 0, NULL, NULL, "only so many bytes of it; or"},
    {"patch", SQ_P_MAP, 0, NULL, NULL, "a JSON merge patch (RFC 7396) applied to it; other bodies stay"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_http_body;
const struct sq_fault_spec sq_spec_call_http_body = {
    .name = "call/http_body",
    .doc = "changes the bodies of matching HTTP requests of one service to one dependency, or of their answers",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_http_body;
const struct sq_fault_ops sq_ops_call_http_body = SQ_CALL_OPS;

#endif
