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
    {"unit", SQ_P_STRING, 0, NULL, NULL, "the processes of a systemd unit: nginx.service"},
    {"cgroup", SQ_P_STRING, 0, NULL, NULL, "those in a cgroup2, as /proc/PID/cgroup shows it, and below it"},
    {"container", SQ_P_STRING, 0, NULL, NULL, "those of a container: its id, or its first 6 digits or more"},
    {"count", SQ_P_COUNT, 0, NULL, NULL, "how many of the matches: 1, 30% or all (default 1; all for pid)"},
    SQ_PARAM_END,
};

static const struct sq_param request_params[] = {
    {"method", SQ_P_STRINGS, 0, NULL, NULL, "GET, POST, ...; any of them"},
    {"path", SQ_P_STRING, 0, NULL, NULL,
     "the path: exact, or with * for any text (/cart, /api/*); without the query unless there is a ? in it"},
    {"header", SQ_P_MAP, 0, NULL, NULL,
     "fields by name: the value (exact, or with *), true: there is one, false: there is none; all of them"},
    SQ_PARAM_END,
};

static const struct sq_param edge_params[] = {
    {"edge", SQ_P_STRING, SQ_REQUIRED, NULL, NULL,
     "an edge of the scenario: the calls of one caller to one dependency"},
    {"instance", SQ_P_INT, 0, NULL, NULL, "only the calls of this instance of the caller, from 0"},
    {"percent", SQ_P_PERCENT, 0, "100%", NULL, "what share of the calls; drawn per request on HTTP, else per connect"},
    {"first", SQ_P_INT, 0, NULL, NULL, "hit at most so many calls of each instance, of those that percent draws"},
    {"every", SQ_P_INT, 0, NULL, NULL, "hit only every N-th of them (2: the 2nd, 4th, ...)"},
    {"after", SQ_P_INT, 0, NULL, NULL, "spare so many of them before all that"},
    {"match", SQ_P_MAP, 0, NULL, NULL, "of call/http_*: only requests that are like this (default: all)",
     request_params},
    SQ_PARAM_END,
};

static const struct sq_param group_params[] = {
    {"host", SQ_P_STRINGS, 0, NULL, NULL,
     "the other side: addresses, networks (10.0.0.0/8) or host names; any of them"},
    {"port", SQ_P_STRINGS, 0, NULL, NULL, "the other side's ports: 5432, 8000-8100; any of them"},
    {"local_port", SQ_P_STRINGS, 0, NULL, NULL, "the target's own ports; any of them"},
    {"protocol", SQ_P_ENUM, 0, NULL, "any|tcp|udp|icmp|sctp", "icmp means ICMPv6, too"},
    {"dscp", SQ_P_INT, 0, NULL, NULL, "the DSCP of the packet, 0 to 63"},
    {"vlan", SQ_P_INT, 0, NULL, NULL, "the VLAN of the packet, 1 to 4094"},
    SQ_PARAM_END,
};

static const struct sq_param of_params[] = {
    {"service", SQ_P_STRING, 0, NULL, NULL, "a service of the scenario"},
    {"instance", SQ_P_INT, 0, NULL, NULL, "with service: exactly this instance, from 0"},
    {"pid", SQ_P_INT, 0, NULL, NULL, "a process id, with its descendants"},
    {"pattern", SQ_P_STRING, 0, NULL, NULL, "an extended regular expression on the full command line"},
    {"port", SQ_P_INT, 0, NULL, NULL, "whoever listens on this TCP port"},
    {"unit", SQ_P_STRING, 0, NULL, NULL, "a systemd unit: nginx.service"},
    {"cgroup", SQ_P_STRING, 0, NULL, NULL, "a cgroup2 path, as /proc/PID/cgroup shows it, and what is below it"},
    {"container", SQ_P_STRING, 0, NULL, NULL, "a container's id, or its first 6 digits or more"},
    SQ_PARAM_END,
};

static const struct sq_param network_params[] = {
    {"interface", SQ_P_STRING, 0, "auto", NULL,
     "a network interface by name; auto: that of the route to the hosts of `match`"},
    {"direction", SQ_P_ENUM, 0, "egress", "egress|ingress|both", "what leaves the interface, or what comes in by it"},
    {"namespace", SQ_P_STRING, 0, NULL, NULL,
     "the network namespace: a name, pid:N, container:ID or a path (default: squalld's own)"},
    {"match", SQ_P_MAPS, 0, NULL, NULL,
     "groups of conditions: all of a group must hold, any group is enough (default: every packet)", group_params},
    {"except", SQ_P_MAPS, 0, NULL, NULL, "groups of packets that are left alone", group_params},
    {"of", SQ_P_MAP, 0, NULL, NULL, "only the traffic of this process tree: exactly one of", of_params},
    {"spare_control", SQ_P_BOOL, 0, "true", NULL, "leave SSH, the controller's connection and the probe's path alone"},
    {"insert", SQ_P_ENUM, 0, "no", "no|classful",
     "classful: work below a root qdisc that somebody else configured, where it can take a class"},
    SQ_PARAM_END,
};

static const struct sq_param partition_params[] = {
    {"between", SQ_P_STRINGS, 0, "self", NULL,
     "the first group: self (whoever lives in the namespace), addresses, networks (10.0.0.0/8) or host names"},
    {"and", SQ_P_STRINGS, SQ_REQUIRED, NULL, NULL, "the second group: addresses, networks or host names"},
    {"namespace", SQ_P_STRING, 0, NULL, NULL,
     "the network namespace: a name, pid:N, container:ID or a path (default: squalld's own)"},
    {"spare_control", SQ_P_BOOL, 0, "true", NULL, "leave SSH, the controller's connection and the probe's path alone"},
    SQ_PARAM_END,
};

const struct sq_param *sq_target_params(enum sq_target t)
{
    switch (t) {
    case SQ_T_PROCESS:
        return process_params;
    case SQ_T_EDGE:
        return edge_params;
    case SQ_T_NETWORK:
        return network_params;
    case SQ_T_PARTITION:
        return partition_params;
    }
    return process_params;
}
