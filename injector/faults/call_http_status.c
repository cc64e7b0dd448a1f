/* call/http_status: matching requests get an answer of ours; they never reach the dependency. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"status", SQ_P_INT, 0, "503", NULL, "the status of the answer, 200 to 599"},
    {"grpc_status", SQ_P_INT, 0, NULL, NULL, "what a gRPC call gets in its place, 0 to 16 (default: the HTTP status)"},
    {"body", SQ_P_STRING, 0, "", NULL, "the body of the answer"},
    {"headers", SQ_P_MAP, 0, NULL, NULL, "its header fields, by name"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_http_status;
const struct sq_fault_spec sq_spec_call_http_status = {
    .name = "call/http_status",
    .doc = "answers matching HTTP requests of one service to one dependency with a status; they never reach the "
           "dependency",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_http_status;
const struct sq_fault_ops sq_ops_call_http_status = SQ_CALL_OPS;

#endif
