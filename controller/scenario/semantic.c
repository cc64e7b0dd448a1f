/* What needs more than one part of a scenario: references, ports, sums. Runs only when every part alone is right, so
 * that nodes and JSON have the same shape. */
#include <stdio.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/callkind.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

static void check_ports(struct sq_norm *c, const struct sq_node *nodes, const json_t *services)
{
    const char *a, *b;
    json_t *va, *vb;

    json_object_foreach((json_t *)(uintptr_t)services, a, va)
    {
        int64_t from = sq_json_int_or(va, "port", 0), n = sq_json_int_or(va, "instances", 1);

        json_object_foreach((json_t *)(uintptr_t)services, b, vb)
        {
            int64_t other = sq_json_int_or(vb, "port", 0), m = sq_json_int_or(vb, "instances", 1);

            if (strcmp(a, b) == 0)
                break; /* each pair once: b is before a */
            if (from && other && from < other + m && other < from + n)
                sq_diag_error(c->d, at_value(sq_node_get(nodes, a), "port"), "instance i gets port + i",
                              "service %s: port %lld is already taken by service %s (%lld to %lld)", a,
                              (long long)(from > other ? from : other), b, (long long)other,
                              (long long)(other + m - 1));
        }
    }
}

/* service:NAME becomes the addresses of its instances. KEY: "to", "except". */
static void resolve_to(struct sq_norm *c, const struct sq_node *node, const json_t *services, json_t *edge,
                       const char *key)
{
    const struct sq_node *to_node = sq_node_get(node, key);
    cleanup_json json_t *out = json_array();
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(edge, key), i, item)
    {
        const char *s = json_string_value(item), *name = s + 8;
        struct sq_pos at = to_node->kind == SQ_N_LIST ? to_node->items[i]->pos : to_node->pos;
        const json_t *service;
        int64_t port;

        if (strcmp(s, "resolvers") == 0) { /* whichever the caller's resolv.conf, or the caller itself, names */
            (void)json_array_append_new(out, json_string("0.0.0.0/0:53"));
            (void)json_array_append_new(out, json_string("[::/0]:53"));
            continue;
        }
        if (strncmp(s, "service:", 8) != 0) {
            (void)json_array_append(out, item);
            continue;
        }
        service = json_object_get(services, name);
        if (!service) {
            sq_norm_no_such(c, at, "service", name, services);
            continue;
        }
        port = sq_json_int_or(service, "port", sq_json_int_or(json_object_get(service, "select"), "port", 0));
        if (!port)
            sq_diag_error(c->d, at, "give it a port, or write the address here", "service %s has no port", name);
        for (int64_t k = 0; port && k < sq_json_int_or(service, "instances", 1); k++)
            (void)json_array_append_new(out, json_sprintf("127.0.0.1:%lld", (long long)(port + k)));
    }
    (void)json_object_set(edge, key, out);
}

/* What is named in both is excepted: does anything remain? */
static void check_except(struct sq_norm *c, const char *name, const struct sq_node *node, const json_t *edge)
{
    const json_t *to, *but;
    size_t i, k, left = 0;

    json_array_foreach(json_object_get(edge, "to"), i, to)
    {
        bool excepted = false;

        json_array_foreach(json_object_get(edge, "except"), k, but)
        {
            excepted |= json_equal(to, but);
        }
        left += !excepted;
    }
    if (left == 0 && json_array_size(json_object_get(edge, "to")) > 0)
        sq_diag_error(c->d, at_value(node, "except"), NULL,
                      "edge %s: all that is in \"to\" is excepted: it has no calls", name);
}

static bool by_seccomp(const json_t *edge)
{
    return strcmp(sq_json_str_or(edge, "attach", "auto"), "seccomp") == 0;
}

/* A caller is attached to in one way. */
static void check_attach(struct sq_norm *c, const char *name, const struct sq_node *node, const json_t *edge,
                         json_t *edges)
{
    const char *other;
    json_t *o;

    json_object_foreach(edges, other, o)
    {
        if (strcmp(sq_json_str_or(o, "from", ""), sq_json_str_or(edge, "from", "")) == 0 && by_seccomp(edge) &&
            !by_seccomp(o))
            sq_diag_error(c->d, at_value(node, "attach"), "say it of all edges of a caller, or of none",
                          "edge %s is attached by seccomp, and edge %s of the same caller is not", name, other);
    }
}

/* Of one that the scenario starts nothing is open before; one that runs already has no filter for Unix sockets. */
static void check_caller(struct sq_norm *c, const char *name, const struct sq_node *node, bool selected,
                         const json_t *edge)
{
    const struct sq_node *to = sq_node_get(node, "to");
    const json_t *item;
    size_t i;

    if (!selected && strcmp(sq_json_str_or(edge, "existing", "leave"), "leave") != 0)
        sq_diag_error(c->d, at_value(node, "existing"), "leave it out",
                      "edge %s: a caller that the scenario starts has no connections from before", name);
    if (!selected && json_object_get(edge, "attach"))
        sq_diag_error(c->d, at_value(node, "attach"), "leave it out",
                      "edge %s: a caller that the scenario starts is not attached to", name);
    json_array_foreach(json_object_get(edge, "to"), i, item)
    {
        if (selected && !by_seccomp(edge) && strncmp(json_string_value(item), "unix:", 5) == 0)
            sq_diag_error(c->d, to->kind == SQ_N_LIST ? to->items[i]->pos : to->pos,
                          "start the caller from the scenario (give it a command), or attach: seccomp, which can't be "
                          "undone",
                          "edge %s: calls of a service that exists already to a Unix socket can't be intercepted",
                          name);
    }
}

static void check_edges(struct sq_norm *c, const struct sq_node *nodes, const json_t *services, json_t *edges)
{
    const char *name;
    json_t *edge;

    json_object_foreach(edges, name, edge)
    {
        const struct sq_node *node = sq_node_get(nodes, name);
        const char *from = sq_json_str_or(edge, "from", "");
        const json_t *caller = json_object_get(services, from);

        if (!caller)
            sq_norm_no_such(c, at_value(node, "from"), "service", from, services);
        else
            check_caller(c, name, node, json_object_get(caller, "select") != NULL, edge);
        if (caller)
            check_attach(c, name, node, edge, edges);
        resolve_to(c, node, services, edge, "to");
        if (json_object_get(edge, "except"))
            resolve_to(c, node, services, edge, "except");
        check_except(c, name, node, edge);
    }
}

/* Hosts that send: each is declared, and named once. */
static void check_from(struct sq_norm *c, const struct sq_node *nodes, const json_t *hosts, const json_t *load)
{
    const char *name;
    json_t *ep;

    json_object_foreach((json_t *)(uintptr_t)load, name, ep)
    {
        const json_t *from = json_object_get(ep, "from"), *host;
        const struct sq_node *node = sq_node_get(sq_node_get(nodes, name), "from");
        size_t i, n = json_array_size(from);

        if (node && n == 0)
            sq_diag_error(c->d, node->pos, "from: [self]", "load %s: \"from\" is empty", name);
        if ((int64_t)n * sq_json_int_or(ep, "threads", 1) > sq_json_int_or(ep, "connections", 100))
            sq_diag_error(c->d, node ? node->pos : nodes->pos, NULL, "load %s: each host needs a connection", name);
        json_array_foreach(from, i, host)
        {
            const char *s = json_string_value(host);
            struct sq_pos at = node->kind == SQ_N_LIST ? node->items[i]->pos : node->pos;

            if (strcmp(s, "self") != 0 && !json_object_get(hosts, s))
                sq_norm_no_such(c, at, "host", s, hosts);
            for (size_t k = 0; k < i; k++)
                if (strcmp(json_string_value(json_array_get(from, k)), s) == 0)
                    sq_diag_error(c->d, at, NULL, "load %s: host %s is here twice", name, s);
        }
    }
    if (json_object_get(hosts, "self"))
        sq_diag_error(c->d, nodes ? nodes->pos : (struct sq_pos){1, 1}, NULL,
                      "hosts: \"self\" is the one that runs this");
}

static void check_ids(struct sq_norm *c, const struct sq_node *nodes, const json_t *steps)
{
    cleanup_json json_t *seen = json_object();
    json_t *step;
    size_t i;

    json_array_foreach(steps, i, step)
    {
        const char *id = sq_json_str_or(step, "id", "");
        const json_t *before = json_object_get(seen, id);

        if (before)
            sq_diag_error(c->d, at_value(nodes->items[i], "id"), NULL, "step id \"%s\" is here twice: first on line %d",
                          id, (int)json_integer_value(before));
        else
            (void)json_object_set_new(seen, id, json_integer(at_value(nodes->items[i], "id").line));
    }
}

static void check_instance(struct sq_norm *c, const struct sq_node *target_node, const json_t *target, const char *name,
                           const json_t *service)
{
    int64_t n = sq_json_int_or(service, "instances", 1), i = sq_json_int_or(target, "instance", 0);
    const char *text = sq_json_str_or(target, "count", NULL);
    struct sq_count count;
    char last[64];

    (void)snprintf(last, sizeof last, "they are numbered from 0 to %lld", (long long)(n - 1));
    if (i < 0 || i >= n)
        sq_diag_error(c->d, at_value(target_node, "instance"), last, "service %s has no instance %lld", name,
                      (long long)i);
    if (text && sq_parse_count(text, &count, NULL) == 0 && count.how == SQ_COUNT_N && count.value > (double)n)
        sq_diag_error(c->d, at_value(target_node, "count"), "all: every one of them",
                      "service %s has only %lld instance%s", name, (long long)n, n == 1 ? "" : "s");
}

/* How many instances a selected caller has shows when it is looked for. */
static void check_caller_instance(struct sq_norm *c, const struct sq_node *target_node, const json_t *target,
                                  const char *name, const json_t *service)
{
    if (!json_object_get(service, "select"))
        check_instance(c, target_node, target, name, service);
    else if (sq_json_int_or(target, "instance", 0) < 0)
        sq_diag_error(c->d, at_value(target_node, "instance"), "they are numbered from 0",
                      "service %s has no instance %lld", name, (long long)sq_json_int_or(target, "instance", 0));
}

/* A service that exists already is known to the injector by its selector. */
static void use_selector(json_t *target, const json_t *select)
{
    (void)json_object_del(target, "service");
    (void)json_object_update(target, (json_t *)(uintptr_t)select);
}

/* The service that TARGET (a target, or its `of`) names, if it does. */
static void check_service(struct sq_norm *c, const struct sq_node *node, const json_t *services, json_t *target)
{
    const char *service = sq_json_str_or(target, "service", NULL);
    const json_t *def = service ? json_object_get(services, service) : NULL;

    if (service && !def)
        sq_norm_no_such(c, at_value(node, "service"), "service", service, services);
    else if (service && json_object_get(def, "select") && json_object_get(target, "instance"))
        sq_diag_error(c->d, at_value(node, "instance"), NULL, "service %s was not started here: it has no instances",
                      service);
    else if (service && json_object_get(def, "select"))
        use_selector(target, json_object_get(def, "select"));
    else if (service)
        check_instance(c, node, target, service, def);
}

/* What makes no sense on the edge's protocol. */
static void check_suits(struct sq_norm *c, const struct sq_node *node, const json_t *step, const json_t *edge)
{
    const struct sq_node *with = sq_node_get(node, "with"), *uses = sq_node_get(node, "uses");
    struct sq_err e = {0};
    const char *key = "";

    if (sq_call_suits(sq_json_str_or(step, "uses", ""), sq_json_str_or(edge, "protocol", "auto"),
                      json_object_get(step, "with"), &key, &e) < 0)
        sq_diag_error(c->d,
                      *key && with ? at_value(with, key)
                      : uses       ? uses->pos
                                   : node->pos,
                      e.hint, "step %s: %s", sq_json_str_or(step, "id", ""), e.msg);
}

static void check_target(struct sq_norm *c, const struct sq_node *node, const json_t *spec, json_t *step)
{
    const json_t *services = json_object_get(spec, "services"), *edges = json_object_get(spec, "edges");
    const struct sq_node *target_node = sq_node_get(node, "target"), *of = sq_node_get(target_node, "of");
    json_t *target = json_object_get(step, "target");
    const char *edge = sq_json_str_or(target, "edge", NULL);
    const json_t *e;

    check_service(c, target_node, services, target);
    if (of)
        check_service(c, of, services, json_object_get(target, "of"));
    if (!edge)
        return;
    e = json_object_get(edges, edge);
    if (e)
        check_suits(c, node, step, e);
    if (!e)
        sq_norm_no_such(c, at_value(target_node, "edge"), "edge", edge, edges);
    else if (json_object_get(target, "instance"))
        check_caller_instance(c, target_node, target, sq_json_str_or(e, "from", ""),
                              json_object_get(services, sq_json_str_or(e, "from", "")));
    if (e && sq_is_http_fault(sq_json_str_or(step, "uses", "")) &&
        strcmp(sq_json_str_or(e, "protocol", ""), "tcp") == 0)
        sq_diag_error(c->d, at_value(target_node, "edge"), "protocol: auto or http, if it carries HTTP without TLS",
                      "step %s: edge %s is declared as %s: %s needs to read its requests",
                      sq_json_str_or(step, "id", ""), edge, sq_json_str_or(e, "protocol", ""),
                      sq_json_str_or(step, "uses", ""));
}

/* A process is hit or it is not. */
static void check_dose(struct sq_norm *c, const struct sq_node *node, const json_t *step)
{
    double dose = sq_json_num_or(json_object_get(step, "with"), "dose", 100);
    const char *uses = sq_json_str_or(step, "uses", "");

    if (strncmp(uses, "process/", 8) == 0 && dose > 0 && dose < 100)
        sq_diag_error(c->d, at_value(sq_node_get(node, "with"), "dose"), "count: 50% chooses half of the processes",
                      "step %s: a process can't be hit by half: the dose of %s is 0%% or 100%%",
                      sq_json_str_or(step, "id", ""), uses);
}

static void check_duration(struct sq_norm *c, const struct sq_node *spec_node, const json_t *spec)
{
    int64_t total = sq_json_int_or(json_object_get(spec, "steady_state"), "for", 0), max;
    const struct sq_node *safety = sq_node_get(spec_node, "safety"), *at = sq_node_get(safety, "max_duration");
    char a[32], b[32];
    json_t *step;
    size_t i;

    max = sq_json_int_or(json_object_get(spec, "safety"), "max_duration", INT64_MAX);
    json_array_foreach(json_object_get(spec, "steps"), i, step)
    {
        total +=
            sq_json_int_or(step, "duration", 0) + sq_json_int_or(step, "settle", 0) + sq_json_int_or(step, "wait", 0);
    }
    if (total > max)
        sq_diag_error(c->d, at ? at->pos : sq_node_get(spec_node, "steps")->pos, "safety: {max_duration: 1h}",
                      "steady state and steps take %s, more than max_duration (%s)",
                      sq_fmt_duration(total, a, sizeof a), sq_fmt_duration(max, b, sizeof b));
}

static void put(json_t *o, const char *key, json_t *value)
{
    if (json_object_get(o, key))
        json_decref(value);
    else
        (void)json_object_set_new(o, key, value);
}

/* So that nobody who reads the scenario has to know the defaults. */
static void fill(json_t *doc)
{
    json_t *spec = json_object_get(doc, "spec"), *safety;

    put(json_object_get(doc, "metadata"), "tags", json_array());
    put(spec, "hypothesis", json_string(""));
    put(spec, "services", json_object());
    put(spec, "edges", json_object());
    put(spec, "load", json_object());
    put(spec, "lateness", json_pack("{s:I, s:f}", "over", (json_int_t)(5 * SQ_MS), "share", 1.0));
    put(spec, "verify", json_array());
    put(spec, "safety",
        json_pack("{s:I, s:I}", "max_duration", (json_int_t)(1800 * SQ_S), "lease", (json_int_t)(10 * SQ_S)));
    safety = json_object_get(spec, "safety");
    put(safety, "abort_when", json_array());
    put(spec, "report", json_object());
}

void sq_semantic_check(struct sq_norm *c, const struct sq_node *root, json_t *doc)
{
    const struct sq_node *node = sq_node_get(root, "spec"), *steps = sq_node_get(node, "steps"), *name;
    json_t *spec = json_object_get(doc, "spec"), *step;
    bool fault = false;
    size_t i;

    fill(doc);
    name = sq_node_get(sq_node_get(root, "metadata"), "name");
    if (name)
        (void)sq_norm_name(c, "metadata", name, false);
    check_ports(c, sq_node_get(node, "services"), json_object_get(spec, "services"));
    check_edges(c, sq_node_get(node, "edges"), json_object_get(spec, "services"), json_object_get(spec, "edges"));
    check_from(c, sq_node_get(node, "load"), json_object_get(spec, "hosts"), json_object_get(spec, "load"));
    if (steps->n == 0)
        sq_diag_error(c->d, steps->pos, "squall explain step", "there are no steps");
    check_ids(c, steps, json_object_get(spec, "steps"));
    json_array_foreach(json_object_get(spec, "steps"), i, step)
    {
        fault |= json_object_get(step, "uses") != NULL;
        check_target(c, steps->items[i], spec, step);
        check_dose(c, steps->items[i], step);
    }
    if (steps->n > 0 && !fault)
        sq_diag_error(c->d, steps->pos, "squall explain lists the faults", "no step has a fault: every one only waits");
    check_duration(c, node, spec);
    sq_semantic_verify(c, node, spec);
}
