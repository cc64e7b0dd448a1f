/* The schemas of all fault kinds, for programs that link none of what touches a host. */
#include <string.h>

#include "squall/cleanup.h"
#include "squall/spec.h"

#define KIND(symbol) extern const struct sq_fault_spec sq_spec_##symbol;
#include "../faults/kinds.def"
#undef KIND

static const struct sq_fault_spec *const specs[] = {
#define KIND(symbol) &sq_spec_##symbol,
#include "../faults/kinds.def"
#undef KIND
};

size_t sq_fault_specs(const struct sq_fault_spec *const **out)
{
    *out = specs;
    return SQ_COUNT(specs);
}

const struct sq_fault_spec *sq_fault_spec_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(specs); i++)
        if (strcmp(specs[i]->name, name) == 0)
            return specs[i];
    return NULL;
}

static const struct sq_param process_params[] = {
    {"service", SQ_P_STRING, 0, NULL, NULL, "a service of the scenario: one of its instances is chosen by `count`"},
    {"instance", SQ_P_INT, 0, NULL, NULL, "with service: exactly this instance, from 0"},
    {"pid", SQ_P_INT, 0, NULL, NULL, "a process id"},
    {"pattern", SQ_P_STRING, 0, NULL, NULL, "an extended regular expression on the full command line"},
    {"port", SQ_P_INT, 0, NULL, NULL, "whoever listens on this TCP port"},
    {"count", SQ_P_COUNT, 0, NULL, NULL, "how many of the matches: 1, 30% or all (default 1; all for pid)"},
    SQ_PARAM_END,
};

static const struct sq_param edge_params[] = {
    {"edge", SQ_P_STRING, SQ_REQUIRED, NULL, NULL,
     "an edge of the scenario: the calls of one caller to one dependency"},
    {"instance", SQ_P_INT, 0, NULL, NULL, "only the calls of this instance of the caller, from 0"},
    {"percent", SQ_P_PERCENT, 0, "100%", NULL, "what share of the calls; drawn per request on HTTP, else per connect"},
    SQ_PARAM_END,
};

static const struct sq_param interface_params[] = {
    {"interface", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "a network interface by name"},
    SQ_PARAM_END,
};

const struct sq_param *sq_target_params(enum sq_target t)
{
    switch (t) {
    case SQ_T_PROCESS:
        return process_params;
    case SQ_T_EDGE:
        return edge_params;
    case SQ_T_INTERFACE:
        return interface_params;
    }
    return process_params;
}
