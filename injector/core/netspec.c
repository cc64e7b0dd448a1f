/* Addresses, ports and groups of conditions as people write them in the target of a network fault. */
#include "squall/netspec.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/point.h"

#define GROUPS_MOST 256 /* of `match` or `except` */

/* ---- texts ---- */

static int number(const char *s, size_t len, long most)
{
    long v = 0;

    if (len == 0 || len > 5)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)s[i]))
            return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v <= most ? (int)v : -1;
}

static void mask(struct in6_addr *a, uint8_t len)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned bits = len <= i * 8 ? 0 : len - i * 8 > 8 ? 8 : len - i * 8u;

        a->s6_addr[i] = (uint8_t)(a->s6_addr[i] & (0xff00u >> bits));
    }
}

int sq_parse_network(const char *s, struct in6_addr *addr, uint8_t *len, struct sq_err *e)
{
    const char *slash = strchr(s, '/');
    size_t n = slash ? (size_t)(slash - s) : strlen(s);
    char text[INET6_ADDRSTRLEN];
    struct in6_addr masked;
    struct in_addr v4;
    bool is4 = false;
    int bits;

    if (n >= sizeof text)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" is not an address", s);
    memcpy(text, s, n);
    text[n] = '\0';
    if (inet_pton(AF_INET, text, &v4) == 1) {
        is4 = true;
        memset(addr, 0, sizeof *addr);
        addr->s6_addr[10] = addr->s6_addr[11] = 0xff;
        memcpy(&addr->s6_addr[12], &v4, 4);
    } else if (inet_pton(AF_INET6, text, addr) != 1) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" is not an address", s);
        sq_err_hint(e, "10.0.0.1, 10.0.0.0/8, 2001:db8::/32, or a host name");
        return -EINVAL;
    }
    bits = slash ? number(slash + 1, strlen(slash + 1), is4 ? 32 : 128) : is4 ? 32 : 128;
    if (bits < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\": a prefix has 0 to %d bits", s, is4 ? 32 : 128);
    *len = (uint8_t)(is4 ? bits + 96 : bits);
    masked = *addr;
    mask(&masked, *len);
    if (memcmp(&masked, addr, sizeof masked) != 0) {
        (void)inet_ntop(is4 ? AF_INET : AF_INET6, is4 ? (void *)&masked.s6_addr[12] : (void *)&masked, text,
                        sizeof text);
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" has address bits beyond its prefix", s);
        sq_err_hint(e, "did you mean %s/%d?", text, bits);
        return -EINVAL;
    }
    return 0;
}

bool sq_is_hostname(const char *s)
{
    size_t label = 0, len = strlen(s);
    bool digits = true;

    if (len == 0 || len > 253 || s[0] == '.' || s[0] == '-')
        return false;
    for (const char *p = s; *p; p++) {
        if (*p == '.') {
            if (label == 0 || p[-1] == '-')
                return false;
            label = 0;
            digits = p[1] ? true : digits;
            continue;
        }
        if (!(isalnum((unsigned char)*p) || *p == '-' || *p == '_') || (label == 0 && *p == '-') || ++label > 63)
            return false;
        digits &= isdigit((unsigned char)*p) != 0;
    }
    return !digits && s[len - 1] != '-'; /* 10.0.0.256 is no name: no top-level domain is a number */
}

int sq_parse_ports(const char *s, uint16_t *from, uint16_t *to, struct sq_err *e)
{
    const char *dash = strchr(s, '-');
    size_t n = dash ? (size_t)(dash - s) : strlen(s);
    int a = number(s, n, 65535), b = dash ? number(dash + 1, strlen(dash + 1), 65535) : a;

    if (a < 1 || b < 1) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.40s\" is not a port (1 to 65535) or a range of ports", s);
        sq_err_hint(e, "5432, or 8000-8100");
        return -EINVAL;
    }
    if (a > b)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.40s\": the range ends before it begins", s);
    *from = (uint16_t)a;
    *to = (uint16_t)b;
    return 0;
}

static const struct {
    const char *name;
    int number;
} protocols[] = {
    {"any", 0}, {"tcp", IPPROTO_TCP}, {"udp", IPPROTO_UDP}, {"icmp", IPPROTO_ICMP}, {"sctp", IPPROTO_SCTP}};

int sq_protocol_number(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(protocols); i++)
        if (strcmp(protocols[i].name, name) == 0)
            return protocols[i].number;
    return -1;
}

const char *sq_protocol_name(int protocol)
{
    for (size_t i = 0; i < SQ_COUNT(protocols); i++)
        if (protocols[i].number == protocol)
            return protocols[i].name;
    return "?";
}

/* ---- the whole target ---- */

static int check_hosts(const json_t *group, const char *which, size_t i, const struct sq_point *at, struct sq_err *e)
{
    const json_t *list = json_object_get(group, "host"), *host;
    struct in6_addr addr;
    uint8_t bits;
    size_t k;

    json_array_foreach(list, k, host)
    {
        const char *s = json_string_value(host);
        struct sq_err why = {0};

        if (sq_parse_network(s, &addr, &bits, &why) == 0 || (!strpbrk(s, ":/") && sq_is_hostname(s)))
            continue;
        sq_point(at, "%s/%zu/host/%zu", which, i, k);
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s", why.msg);
        if (why.hint[0])
            sq_err_hint(e, "%s", why.hint);
        return -EINVAL;
    }
    return 0;
}

static int check_ports(const json_t *group, const char *key, const char *which, size_t i, const struct sq_point *at,
                       struct sq_err *e)
{
    const json_t *list = json_object_get(group, key), *port;
    uint16_t from, to;
    size_t k;

    if (list && sq_protocol_number(sq_json_str_or(group, "protocol", "any")) == IPPROTO_ICMP) {
        sq_point(at, "%s/%zu/%s", which, i, key);
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "icmp has no ports");
    }
    json_array_foreach(list, k, port)
    {
        if (sq_parse_ports(json_string_value(port), &from, &to, e) < 0) {
            sq_point(at, "%s/%zu/%s/%zu", which, i, key, k);
            return -EINVAL;
        }
    }
    return 0;
}

static int check_number(const json_t *o, const char *key, int64_t least, int64_t most, const char *prefix,
                        const struct sq_point *at, struct sq_err *e)
{
    int64_t v = sq_json_int_or(o, key, least);

    if (v >= least && v <= most)
        return 0;
    sq_point(at, "%s/%s", prefix, key);
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" must be between %lld and %lld", key, (long long)least,
                      (long long)most);
}

static int check_group(const json_t *group, const char *which, size_t i, const struct sq_point *at, struct sq_err *e)
{
    static const char *const lists[] = {"host", "port", "local_port"};
    char prefix[64];
    int r = 0;
    size_t conditions = json_object_size(group);

    (void)snprintf(prefix, sizeof prefix, "%s/%zu", which, i);
    sq_point(at, "%s", prefix);
    if (strcmp(sq_json_str_or(group, "protocol", ""), "any") == 0)
        conditions--;
    if (conditions == 0) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "an empty group means every packet");
        sq_err_hint(e, strcmp(which, "match") == 0 ? "leave `match` out for every packet"
                                                   : "a group has at least one of host, port, local_port, protocol, "
                                                     "dscp, vlan");
        return -EINVAL;
    }
    for (size_t k = 0; k < SQ_COUNT(lists); k++) {
        const json_t *list = json_object_get(group, lists[k]);

        if (!list || json_array_size(list) > 0)
            continue;
        sq_point(at, "%s/%s", prefix, lists[k]);
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" is an empty list: nothing could match", lists[k]);
    }
    r = check_hosts(group, which, i, at, e);
    r = r ? r : check_ports(group, "port", which, i, at, e);
    r = r ? r : check_ports(group, "local_port", which, i, at, e);
    r = r ? r : check_number(group, "dscp", 0, 63, prefix, at, e);
    return r ? r : check_number(group, "vlan", 1, 4094, prefix, at, e);
}

static int check_groups(const json_t *target, const char *which, const struct sq_point *at, struct sq_err *e)
{
    const json_t *list = json_object_get(target, which), *group;
    size_t i;

    sq_point(at, "%s", which);
    if (list && json_array_size(list) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" is an empty list: leave it out", which);
    if (json_array_size(list) > GROUPS_MOST)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" has more than %d groups", which, GROUPS_MOST);
    json_array_foreach(list, i, group)
    {
        int r = check_group(group, which, i, at, e);

        if (r < 0)
            return r;
    }
    return 0;
}

static int check_of(const json_t *target, const struct sq_point *at, struct sq_err *e)
{
    static const char *const ways[] = {"service", "pid", "pattern", "port", "unit", "cgroup", "container"};
    const json_t *of = json_object_get(target, "of");
    int given = 0, r;

    if (!of)
        return 0;
    sq_point(at, "of");
    for (size_t i = 0; i < SQ_COUNT(ways); i++)
        given += json_object_get(of, ways[i]) != NULL;
    if (given != 1)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "\"of\" must be exactly one of service, pid, pattern, port, unit, cgroup and "
                          "container");
    if (json_object_get(of, "instance") && !json_object_get(of, "service"))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"instance\" goes with \"service\"");
    r = check_number(of, "pid", 2, INT32_MAX, "of", at, e);
    r = r ? r : check_number(of, "instance", 0, 63, "of", at, e);
    return r ? r : check_number(of, "port", 1, 65535, "of", at, e);
}

/* `auto` is the interface of the route to the destination: there must be one in every group. */
static int check_interface(const json_t *target, const struct sq_point *at, struct sq_err *e)
{
    const char *name = sq_json_str_or(target, "interface", "auto");
    const json_t *match = json_object_get(target, "match"), *group;
    bool all = json_array_size(match) > 0;
    size_t i;

    sq_point(at, "interface");
    if (!*name || strlen(name) > 15 || strpbrk(name, "/ :")) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" can't be the name of a network interface", name);
        sq_err_hint(e, "ip link shows them");
        return -EINVAL;
    }
    json_array_foreach(match, i, group)
    {
        all &= json_object_get(group, "host") != NULL;
    }
    if (strcmp(name, "auto") != 0 || all)
        return 0;
    if (json_array_size(match) > 1)
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "interface: auto needs a \"host\" in every group of \"match\"");
    else
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "interface: auto needs a \"host\" in \"match\"");
    sq_err_hint(e, "auto is the interface of the route to the host; for all traffic name one: interface: eth0");
    return -EINVAL;
}

static int check_namespace(const json_t *target, const struct sq_point *at, struct sq_err *e)
{
    const char *ns = sq_json_str_or(target, "namespace", NULL);

    sq_point(at, "namespace");
    if (!ns || (*ns && strlen(ns) < 200 && !strpbrk(ns, " \n") && strcmp(ns, "pid:") != 0 &&
                strcmp(ns, "container:") != 0 && (*ns == '/' || !strchr(ns, '/')) &&
                (strncmp(ns, "pid:", 4) != 0 || strspn(ns + 4, "0123456789") == strlen(ns + 4)) &&
                (strncmp(ns, "container:", 10) != 0 || strspn(ns + 10, "0123456789abcdef") == strlen(ns + 10))))
        return 0;
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" can't be a network namespace", ns);
    sq_err_hint(e, "a name (ip netns list), pid:1234, container:0a1b2c3d, or a path");
    return -EINVAL;
}

int sq_network_check(const json_t *target, char *where, size_t len, struct sq_err *e)
{
    const struct sq_point at = {where, len};
    int r = check_groups(target, "match", &at, e);

    r = r ? r : check_groups(target, "except", &at, e);
    r = r ? r : check_of(target, &at, e);
    r = r ? r : check_interface(target, &at, e);
    r = r ? r : check_namespace(target, &at, e);
    if (r == 0)
        sq_point(&at, "%s", "");
    return r;
}

static int check_side(const json_t *target, const char *side, bool self, const struct sq_point *at, struct sq_err *e)
{
    const json_t *host, *list = json_object_get(target, side);
    struct in6_addr addr;
    uint8_t bits;
    size_t i;

    sq_point(at, "%s", side);
    if (json_array_size(list) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" has no hosts", side);
    json_array_foreach(list, i, host)
    {
        const char *s = json_string_value(host);
        struct sq_err why = {0};

        if (self && strcmp(s, "self") == 0)
            continue;
        if (strcmp(s, "self") != 0 &&
            (sq_parse_network(s, &addr, &bits, &why) == 0 || (!strpbrk(s, ":/") && sq_is_hostname(s))))
            continue;
        sq_point(at, "%s/%zu", side, i);
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s", why.msg[0] ? why.msg : "\"self\" goes into \"between\"");
        sq_err_hint(e, "%s", why.hint[0] ? why.hint : "for example {between: self, and: [10.0.0.0/8, db.example]}");
        return -EINVAL;
    }
    return 0;
}

int sq_partition_check(const json_t *target, char *where, size_t len, struct sq_err *e)
{
    const struct sq_point at = {where, len};
    int r = check_side(target, "between", true, &at, e);

    r = r ? r : check_side(target, "and", false, &at, e);
    r = r ? r : check_namespace(target, &at, e);
    if (r == 0)
        sq_point(&at, "%s", "");
    return r;
}
