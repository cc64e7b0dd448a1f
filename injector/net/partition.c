#include "net/partition.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"

const char *const sq_partition_sets[2][2] = {{"a4", "a6"}, {"b4", "b6"}};
static const char *const ip_names[2] = {"ip", "ip6"};
const char *const sq_partition_cuts[2] = {"cut_out", "cut_in"};

/* ---- expressions (libnftables-json(5)), in the form in which they are listed ---- */

static json_t *match(const char *op, json_t *left, json_t *right)
{
    return json_pack("{s:{s:s,s:o,s:o}}", "match", "op", op, "left", left, "right", right);
}

static json_t *payload(const char *protocol, const char *field)
{
    return json_pack("{s:{s:s,s:s}}", "payload", "protocol", protocol, "field", field);
}

static json_t *field_is(const char *protocol, const char *field, const char *op, json_t *right)
{
    return match(op, payload(protocol, field), right);
}

static json_t *l4proto(const char *op, json_t *right)
{
    return match(op, json_pack("{s:{s:s}}", "meta", "key", "l4proto"), right);
}

static json_t *verdict(const char *name)
{
    return json_pack("{s:n}", name);
}

/* A set of one is listed as what is in it. */
static json_t *set_of(json_t *list)
{
    json_t *one;

    if (json_array_size(list) != 1)
        return json_pack("{s:o}", "set", list);
    one = json_incref(json_array_get(list, 0));
    json_decref(list);
    return one;
}

static json_t *ports_json(const struct sq_range *v, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, v[i].from == v[i].to
                                        ? json_integer(v[i].from)
                                        : json_pack("{s:[i,i]}", "range", (int)v[i].from, (int)v[i].to));
    return set_of(list);
}

static json_t *with_ports(void)
{
    return json_pack("{s:[i,i,i,i]}", "set", IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE);
}

static void add_rule(json_t *rules, const char *chain, json_t *expr)
{
    json_array_append_new(rules, json_pack("{s:s,s:o}", "chain", chain, "expr", expr));
}

/* ---- what is spared ---- */

/* How a packet at a hook looks from this host: the other side's address and port, ours. Forwarded packets may be either
 * way round, so they are asked twice. */
static const struct {
    const char *chain, *other, *other_port, *local_port;
} views[] = {
    {"output", "daddr", "dport", "sport"},
    {"input", "saddr", "sport", "dport"},
    {"forward", "daddr", "dport", "sport"},
    {"forward", "saddr", "sport", "dport"},
};

static void spare_group(json_t *rules, const struct sq_group *g, size_t view, const struct sq_spans *hosts)
{
    /* Ports of one protocol imply it: libnftables lists `meta l4proto tcp th sport 22` as `tcp sport 22`. */
    const char *header = g->protocol ? sq_protocol_name(g->protocol) : "th";
    bool ports = g->n_port || g->n_local_port;
    json_t *expr = json_array();

    if (hosts)
        json_array_append_new(expr,
                              field_is(ip_names[hosts->v6], views[view].other, "==", set_of(sq_spans_json(hosts))));
    if (g->protocol && !ports)
        json_array_append_new(expr, l4proto("==", json_integer(g->protocol)));
    else if (!g->protocol && ports)
        json_array_append_new(expr, l4proto("==", with_ports()));
    if (g->n_port)
        json_array_append_new(expr, field_is(header, views[view].other_port, "==", ports_json(g->port, g->n_port)));
    if (g->n_local_port)
        json_array_append_new(
            expr, field_is(header, views[view].local_port, "==", ports_json(g->local_port, g->n_local_port)));
    if (json_array_size(expr) == 0) { /* it would spare everything */
        json_decref(expr);
        return;
    }
    json_array_append_new(expr, verdict("accept"));
    add_rule(rules, views[view].chain, expr);
}

static void spare(const struct sq_partition *p, json_t *rules)
{
    for (size_t i = 0; p->spare && i < p->spare->n_except; i++) {
        const struct sq_group *g = &p->spare->except[i];

        for (size_t v = 0; v < SQ_COUNT(views); v++) {
            if (!g->n_host)
                spare_group(rules, g, v, NULL);
            for (int six = 0; six < 2 && g->n_host; six++) {
                struct sq_spans hosts = {.v6 = six};

                if (sq_spans_make(g->host, g->n_host, &hosts, NULL) == 0 && hosts.n)
                    spare_group(rules, g, v, &hosts);
                sq_spans_clear(&hosts);
            }
        }
    }
}

/* ---- which packets go to which cut ---- */

static json_t *in_set(int six, const char *field, int group)
{
    char name[8];

    (void)snprintf(name, sizeof name, "@%s", sq_partition_sets[group][six]);
    return field_is(ip_names[six], field, "==", json_string(name));
}

static json_t *go_to(int direction)
{
    return json_pack("{s:{s:s}}", "goto", "target", sq_partition_cuts[direction]);
}

static void route(const struct sq_partition *p, json_t *rules)
{
    static const char *const hooks[] = {"output", "input", "forward"};
    const bool wanted[2] = {p->out, p->in};

    for (int d = 0; d < 2; d++) {
        const char *to_b = d == 0 ? "daddr" : "saddr", *to_a = d == 0 ? "saddr" : "daddr";

        for (int six = 0; wanted[d] && six < 2; six++) {
            if (p->self && p->b[six].n)
                add_rule(rules, hooks[d], json_pack("[o,o]", in_set(six, to_b, 1), go_to(d)));
            for (size_t h = 0; p->a[six].n && p->b[six].n && h < SQ_COUNT(hooks); h++)
                add_rule(rules, hooks[h], json_pack("[o,o,o]", in_set(six, to_a, 0), in_set(six, to_b, 1), go_to(d)));
        }
    }
}

/* ---- the cut itself ---- */

static void pass_unless(json_t *rules, const char *chain, json_t *condition)
{
    add_rule(rules, chain, json_pack("[o,o]", condition, verdict("accept")));
}

/* What a reject of ours sends back comes by here, too. */
static void pass_answers(json_t *rules, const char *chain)
{
    static const struct {
        const char *protocol;
        int type, code;
    } prohibited[] = {{"icmp", 3, 13}, {"icmpv6", 1, 1}}; /* RFC 792 and 1812, RFC 4443 */

    add_rule(rules, chain,
             json_pack("[o,o]", field_is("tcp", "flags", "in", json_integer(4)), verdict("accept"))); /* RST */
    for (size_t i = 0; i < SQ_COUNT(prohibited); i++)
        add_rule(rules, chain,
                 json_pack("[o,o,o]", field_is(prohibited[i].protocol, "type", "==", json_integer(prohibited[i].type)),
                           field_is(prohibited[i].protocol, "code", "==", json_integer(prohibited[i].code)),
                           verdict("accept")));
}

/* Only what opens a TCP connection (SYN without ACK) goes on to be cut. No connection tracking: it would have to know
 * the connections from before the fault, and be switched on for the namespace. */
static void pass_established(json_t *rules, const char *chain)
{
    json_t *flags = json_pack("{s:[o,i]}", "&", payload("tcp", "flags"), 2 | 16);

    add_rule(rules, chain,
             json_pack("[o,o]", match("!=", flags, json_integer(2)), verdict("accept"))); /* implies TCP */
}

static void narrow(const struct sq_partition *p, json_t *rules, int d)
{
    const char *chain = sq_partition_cuts[d], *b_port = d == 0 ? "dport" : "sport",
               *a_port = d == 0 ? "sport" : "dport";

    if (p->protocol == IPPROTO_ICMP)
        pass_unless(rules, chain, l4proto("!=", json_pack("{s:[i,i]}", "set", IPPROTO_ICMP, IPPROTO_ICMPV6)));
    else if (p->protocol)
        pass_unless(rules, chain, l4proto("!=", json_integer(p->protocol)));
    else if (p->n_port || p->n_local_port)
        pass_unless(rules, chain, l4proto("!=", with_ports()));
    if (p->n_port)
        pass_unless(rules, chain, field_is("th", b_port, "!=", ports_json(p->port, p->n_port)));
    if (p->n_local_port)
        pass_unless(rules, chain, field_is("th", a_port, "!=", ports_json(p->local_port, p->n_local_port)));
}

static void cut(const struct sq_partition *p, json_t *rules, int d)
{
    const char *chain = sq_partition_cuts[d];

    /* Router and neighbour discovery, RFC 4861: 133 to 137 */
    add_rule(rules, chain,
             json_pack("[o,o]", field_is("icmpv6", "type", "==", json_pack("{s:[i,i]}", "range", 133, 137)),
                       verdict("accept")));
    narrow(p, rules, d);
    if (p->keep)
        pass_established(rules, chain);
    if (p->how != SQ_CUT_DROP)
        pass_answers(rules, chain);
    add_rule(rules, chain, json_pack("[{s:s}]", "counter", chain));
    if (p->how == SQ_CUT_REJECT_RST)
        add_rule(rules, chain,
                 json_pack("[o,{s:{s:s}}]", l4proto("==", json_integer(IPPROTO_TCP)), "reject", "type", "tcp reset"));
    if (p->how == SQ_CUT_DROP)
        add_rule(rules, chain, json_pack("[o]", verdict("drop")));
    else
        add_rule(rules, chain, json_pack("[{s:{s:s,s:s}}]", "reject", "type", "icmpx", "expr", "admin-prohibited"));
}

json_t *sq_partition_rules(const struct sq_partition *p)
{
    json_t *rules = json_array();

    spare(p, rules);
    route(p, rules);
    for (int d = 0; d < 2; d++)
        if (d == 0 ? p->out : p->in)
            cut(p, rules, d);
    return rules;
}

/* ---- commands ---- */

static void add(json_t *list, const struct sq_partition *p, const char *what, json_t *object)
{
    json_object_set_new(object, "family", json_string(p->family));
    json_object_set_new(object, "table", json_string(p->table));
    json_array_append_new(list, json_pack("{s:{s:o}}", "add", what, object));
}

static void add_rules(json_t *list, const struct sq_partition *p)
{
    cleanup_json json_t *rules = sq_partition_rules(p);
    size_t i;
    json_t *r;

    json_array_foreach(rules, i, r) add(list, p, "rule", json_incref(r));
}

json_t *sq_partition_fill(const struct sq_partition *p)
{
    static const char *const hooks[] = {"input", "output", "forward"};
    json_t *list = json_array();

    for (int d = 0; d < 2; d++) {
        add(list, p, "counter", json_pack("{s:s}", "name", sq_partition_cuts[d]));
        add(list, p, "chain", json_pack("{s:s}", "name", sq_partition_cuts[d]));
        for (int six = 0; six < 2; six++) {
            const struct sq_spans *s = d == 0 ? &p->a[six] : &p->b[six];
            json_t *set = json_pack("{s:s,s:s,s:[s]}", "name", sq_partition_sets[d][six], "type",
                                    six ? "ipv6_addr" : "ipv4_addr", "flags", "interval");

            if (s->n)
                json_object_set_new(set, "elem", sq_spans_json(s));
            add(list, p, "set", set);
        }
    }
    for (size_t h = 0; h < SQ_COUNT(hooks); h++)
        add(list, p, "chain",
            json_pack("{s:s,s:s,s:s,s:i,s:s}", "name", hooks[h], "type", "filter", "hook", hooks[h], "prio",
                      SQ_PARTITION_PRIORITY, "policy", "accept"));
    add_rules(list, p);
    return json_pack("{s:o}", "nftables", list);
}

json_t *sq_partition_change(const struct sq_partition *p)
{
    json_t *list = json_array();

    json_array_append_new(list,
                          json_pack("{s:{s:{s:s,s:s}}}", "flush", "table", "family", p->family, "name", p->table));
    add_rules(list, p);
    return json_pack("{s:o}", "nftables", list);
}

static void elements(json_t *list, const struct sq_partition *p, const char *verb, const char *set,
                     const struct sq_spans *of, const struct sq_spans *but)
{
    json_t *some = json_array();

    for (size_t i = 0; i < of->n; i++)
        if (!sq_spans_has(but, of->v[i]))
            json_array_append_new(some, sq_span_json(of->v[i], of->v6));
    if (json_array_size(some))
        json_array_append_new(list, json_pack("{s:{s:{s:s,s:s,s:s,s:O}}}", verb, "element", "family", p->family,
                                              "table", p->table, "name", set, "elem", some));
    json_decref(some);
}

int sq_partition_move(const struct sq_partition *from, const struct sq_partition *to, json_t **out, struct sq_err *e)
{
    json_t *list = json_array();
    bool rules = false;

    *out = NULL;
    if (!list)
        return sq_err(e, -ENOMEM, "out of memory");
    for (int six = 0; six < 2; six++) {
        const struct sq_spans *old[2] = {&from->a[six], &from->b[six]}, *now[2] = {&to->a[six], &to->b[six]};

        for (int g = 0; g < 2; g++) {
            elements(list, to, "delete", sq_partition_sets[g][six], old[g], now[g]);
            elements(list, to, "add", sq_partition_sets[g][six], now[g], old[g]);
            rules = rules || !old[g]->n != !now[g]->n; /* a family comes or goes: so do its rules */
        }
    }
    if (rules) {
        json_array_append_new(
            list, json_pack("{s:{s:{s:s,s:s}}}", "flush", "table", "family", to->family, "name", to->table));
        add_rules(list, to);
    }
    if (json_array_size(list) > 0)
        *out = json_pack("{s:O}", "nftables", list);
    json_decref(list);
    return 0;
}

/* ---- from the request ---- */

int sq_partition_groups(struct sq_partition *p, const struct sq_group *a, const struct sq_group *b, struct sq_err *e)
{
    for (int six = 0; six < 2; six++) {
        int r;

        sq_spans_clear(&p->a[six]);
        sq_spans_clear(&p->b[six]);
        p->a[six].v6 = p->b[six].v6 = six;
        r = sq_spans_make(a ? a->host : NULL, a ? a->n_host : 0, &p->a[six], e);
        if (r == 0)
            r = sq_spans_make(b->host, b->n_host, &p->b[six], e);
        if (r < 0)
            return r;
    }
    return 0;
}

void sq_partition_clear(struct sq_partition *p)
{
    for (int six = 0; six < 2; six++) {
        sq_spans_clear(&p->a[six]);
        sq_spans_clear(&p->b[six]);
    }
    free(p->port);
    free(p->local_port);
    p->port = p->local_port = NULL;
    p->n_port = p->n_local_port = 0;
}

static int by_from(const void *a, const void *b)
{
    return (int)((const struct sq_range *)a)->from - (int)((const struct sq_range *)b)->from;
}

/* Sorted, and what overlaps or touches made one, as nftables lists it. */
static int ports(const json_t *with, const char *key, struct sq_range **out, size_t *n, struct sq_err *e)
{
    const json_t *list = json_object_get(with, key);
    size_t size = json_array_size(list), used = 0;
    cleanup_free struct sq_range *v = calloc(size + 1, sizeof *v);

    if (!v)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < size; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        int r = sq_parse_ports(text ? text : "", &v[i].from, &v[i].to, e);

        if (r < 0)
            return sq_err_prefix(e, "network/partition: %s", key);
    }
    qsort(v, size, sizeof *v, by_from);
    for (size_t i = 0; i < size; i++) {
        if (used && v[i].from <= (unsigned)v[used - 1].to + 1)
            v[used - 1].to = v[i].to > v[used - 1].to ? v[i].to : v[used - 1].to;
        else
            v[used++] = v[i];
    }
    *out = SQ_TAKE(v);
    *n = used;
    return 0;
}

int sq_partition_with(struct sq_partition *p, const json_t *with, struct sq_err *e)
{
    const char *direction = sq_json_str_or(with, "direction", "both"), *how = sq_json_str_or(with, "how", "drop");
    cleanup_free struct sq_range *port = NULL, *local = NULL;
    uint8_t protocol = (uint8_t)sq_protocol_number(sq_json_str_or(with, "protocol", "any"));
    size_t n_port, n_local;
    int r = ports(with, "port", &port, &n_port, e);

    if (r == 0)
        r = ports(with, "local_port", &local, &n_local, e);
    if (r < 0)
        return r;
    if (protocol == IPPROTO_ICMP && (n_port || n_local))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "network/partition: ICMP has no ports");
    if (strcmp(how, "reject-rst") == 0 && protocol && protocol != IPPROTO_TCP) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "network/partition: only TCP can be reset");
        sq_err_hint(e, "how: reject-icmp");
        return -EINVAL;
    }
    free(p->port);
    free(p->local_port);
    p->port = SQ_TAKE(port);
    p->n_port = n_port;
    p->local_port = SQ_TAKE(local);
    p->n_local_port = n_local;
    p->protocol = protocol;
    p->out = strcmp(direction, "in") != 0;
    p->in = strcmp(direction, "out") != 0;
    p->keep = strcmp(sq_json_str_or(with, "existing", "cut"), "keep") == 0;
    p->how = strcmp(how, "reject-icmp") == 0  ? SQ_CUT_REJECT_ICMP
             : strcmp(how, "reject-rst") == 0 ? SQ_CUT_REJECT_RST
                                              : SQ_CUT_DROP;
    return 0;
}
