/* call/dns: names are not found, or slowly, or wrongly. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"answer", SQ_P_ENUM, 0, "real", "nxdomain|servfail|refused|nodata|timeout|wrong|real",
     "what the caller gets instead; timeout: nothing; real: the resolver's own answer, late"},
    {"address", SQ_P_STRINGS, 0, NULL, NULL, "of a wrong answer: addresses, IPv4 for A and IPv6 for AAAA"},
    {"names", SQ_P_STRINGS, 0, NULL, NULL,
     "for these names only, as they are asked for: db.example, or *.example for all below it; default: all"},
    {"types", SQ_P_STRINGS, 0, NULL, NULL, "for these types only: A, AAAA, SRV, ...; default: all"},
    {"delay", SQ_P_DURATION, 0, "0", NULL, "how much later the answer comes"},
    {"jitter", SQ_P_DURATION, 0, "0", NULL, "the delay varies by so much up and down"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_call_dns;
const struct sq_fault_spec sq_spec_call_dns = {
    .name = "call/dns",
    .doc = "answers the DNS queries of one service in its resolver's stead, or late (edges with protocol: dns)",
    .target = SQ_T_EDGE,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include "intercept/callfault.h"

extern const struct sq_fault_ops sq_ops_call_dns;
const struct sq_fault_ops sq_ops_call_dns = SQ_CALL_OPS;

#endif
