/* Steps and checks: their parameters are in the tables of the fault kinds and of the checks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "verify/check.h"

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

static void no_such_fault(struct sq_norm *c, const char *label, const struct sq_node *n, const char *uses)
{
    const struct sq_fault_spec *const *specs;
    size_t count = sq_fault_specs(&specs), used = 0;
    const char *names[64], *near;
    char hint[384] = "";

    for (size_t i = 0; i < count && i < SQ_COUNT(names); i++)
        names[i] = specs[i]->name;
    near = sq_nearest(uses, names, count < SQ_COUNT(names) ? count : SQ_COUNT(names));
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    for (size_t i = 0; !near && i < count && used < sizeof hint - 1; i++) {
        int w = snprintf(hint + used, sizeof hint - used, "%s%s", i ? ", " : "there is: ", names[i]);

        used += w < 0 ? 0 : (size_t)w;
    }
    sq_diag_error(c->d, at_value(n, "uses"), hint, "%s: there is no fault \"%.60s\"", label, uses);
}

/* Exactly one way to say which processes; `count` as the API has it. */
static void process_target(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *target)
{
    static const char *const ways[] = {"service", "pid", "pattern", "port", "unit", "cgroup", "container"};
    const struct sq_node *node = sq_node_get(n, "target");
    int given = 0;

    for (size_t i = 0; i < SQ_COUNT(ways); i++)
        given += json_object_get(target, ways[i]) != NULL;
    if (given != 1)
        sq_diag_error(c->d, node ? node->pos : n->pos, "for example target: {service: payments, count: 1}",
                      "%s: the target must be exactly one of service, pid, pattern, port, unit, cgroup and container",
                      label);
    if (json_object_get(target, "instance") && !json_object_get(target, "service"))
        sq_diag_error(c->d, at_value(node, "instance"), NULL, "%s: \"instance\" goes with \"service\"", label);
    if (json_object_get(target, "instance") && json_object_get(target, "count"))
        sq_diag_error(c->d, at_value(node, "count"), "an instance is one",
                      "%s: \"count\" does not go with \"instance\"", label);
    if (json_object_get(target, "pid") && sq_json_int_or(target, "pid", 0) < 2)
        sq_diag_error(c->d, at_value(node, "pid"), NULL, "%s: not a pid that may be touched", label);
    if (json_object_get(target, "port") &&
        (sq_json_int_or(target, "port", 0) < 1 || sq_json_int_or(target, "port", 0) > 65535))
        sq_diag_error(c->d, at_value(node, "port"), NULL, "%s: a port is 1 to 65535", label);
    if (json_object_get(target, "pattern"))
        sq_norm_regex(c, label, at_value(node, "pattern"), sq_json_str_or(target, "pattern", ""));
    if (!json_object_get(target, "count") && !json_object_get(target, "instance"))
        (void)json_object_set_new(target, "count", json_string(json_object_get(target, "pid") ? "all" : "1"));
}

/* The node that a path like "match/0/port/1" leads to. What may be a list may also be its only item. */
static struct sq_pos at_path(const struct sq_node *n, const char *path)
{
    char word[32];

    for (const char *p = path; *p;) {
        size_t len = strcspn(p, "/");
        char *end;
        unsigned long i;

        (void)snprintf(word, sizeof word, "%.*s", (int)len, p);
        i = strtoul(word, &end, 10);
        if (*end) {
            const struct sq_node *v = sq_node_get(n, word);

            if (!v)
                break;
            n = v;
        } else if (n->kind == SQ_N_LIST && i < n->n && n->items[i]) {
            n = n->items[i];
        }
        p += len + (p[len] == '/');
    }
    return n->pos;
}

static void network_target(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *target)
{
    const struct sq_node *node = sq_node_get(n, "target");
    const json_t *of = json_object_get(target, "of");
    struct sq_err e = {0};
    char where[64];

    if (sq_network_check(target, where, sizeof where, &e) < 0)
        sq_diag_error(c->d, at_path(node, where), e.hint, "%s: %s", label, e.msg);
    else if (json_object_get(of, "pattern"))
        sq_norm_regex(c, label, at_path(node, "of/pattern"), sq_json_str_or(of, "pattern", ""));
}

static void partition_target(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *target)
{
    struct sq_err e = {0};
    char where[64];

    if (sq_partition_check(target, where, sizeof where, &e) < 0)
        sq_diag_error(c->d, at_path(sq_node_get(n, "target"), where), e.hint, "%s: %s", label, e.msg);
}

/* Paths of recordings are relative to the scenario's file. */
static void absolute_distribution(const struct sq_norm *c, json_t *o)
{
    const char *s = sq_json_str_or(o, "distribution", "");
    size_t at = sq_distribution_path(s);
    cleanup_free char *path = at ? sq_norm_path(c->folder, s + at) : NULL;

    if (path)
        (void)json_object_set_new(o, "distribution", json_sprintf("%.*s%s", (int)at, s, path));
}

static void network_with(struct sq_norm *c, const char *label, const struct sq_node *n, enum sq_target kind,
                         json_t *with)
{
    const struct sq_node *node = sq_node_get(n, "with");
    struct sq_err e = {0};
    char where[64];

    if ((kind == SQ_T_PARTITION ? sq_partition_with_check(with, where, sizeof where, &e)
                                : sq_network_with_check(with, where, sizeof where, &e)) < 0) {
        sq_diag_error(c->d, node ? at_path(node, where) : n->pos, e.hint, "%s: %s", label, e.msg);
        return;
    }
    absolute_distribution(c, with);
    absolute_distribution(c, json_object_get(with, "slot"));
}

static void edge_target(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *target)
{
    const char *key = "";
    struct sq_err e = {0};

    if (sq_call_target_check(target, &key, &e) < 0)
        sq_diag_error(c->d, at_path(sq_node_get(n, "target"), key), e.hint, "%s: %s", label, e.msg);
}

/* call/latency's, call/bandwidth's and call/http_*'s */
static void edge_with(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o, json_t *with)
{
    const struct sq_node *node = sq_node_get(n, "with");
    const char *uses = sq_json_str_or(o, "uses", ""), *key = "";
    char where[64];
    const char *rate = sq_json_str_or(with, "rate", NULL);
    struct sq_err e = {0};
    uint64_t bytes;

    if (rate && sq_parse_bandwidth(rate, &bytes, &e) < 0)
        sq_diag_error(c->d, at_path(sq_node_get(n, "with"), "rate"), e.hint, "%s: %s", label, e.msg);
    if (sq_call_with_check(uses, with, &key, &e) < 0)
        sq_diag_error(c->d, node ? at_path(node, key) : n->pos, e.hint, "%s: %s", label, e.msg);
    else if (strcmp(uses, "call/latency") == 0)
        absolute_distribution(c, with);
    if (sq_http_check(uses, json_object_get(o, "target"), with, where, sizeof where, &e) < 0)
        sq_diag_error(c->d, at_path(n, where), e.hint, "%s: %s", label, e.msg);
}

static void fault_step(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o, const char *uses)
{
    const struct sq_fault_spec *spec = sq_fault_spec_find(uses);
    const struct sq_node *target = sq_node_get(n, "target"), *with = sq_node_get(n, "with");
    unsigned errors;
    char what[200];
    json_t *t;

    if (!sq_node_get(n, "duration"))
        sq_diag_error(c->d, n->pos, "how long the fault stays, for example duration: 30s",
                      "%s: \"duration\" is missing", label);
    if (!json_object_get(o, "settle"))
        (void)json_object_set_new(o, "settle", json_integer(0));
    if (!spec) {
        no_such_fault(c, label, n, uses);
        return;
    }
    (void)snprintf(what, sizeof what, "%s: %s target", label, uses);
    if (!target)
        sq_diag_error(c->d, n->pos, spec->target == SQ_T_EDGE ? "target: {edge: caller->dependency}" : NULL,
                      "%s: \"target\" is missing", label);
    errors = c->d->errors;
    t = sq_norm_params(c, what, sq_target_params(spec->target), target, target ? target->pos : n->pos, NULL);
    if (target && c->d->errors == errors && spec->target == SQ_T_PROCESS)
        process_target(c, label, n, t);
    if (target && c->d->errors == errors && spec->target == SQ_T_NETWORK)
        network_target(c, label, n, t);
    if (target && c->d->errors == errors && spec->target == SQ_T_PARTITION)
        partition_target(c, label, n, t);
    if (target && c->d->errors == errors && spec->target == SQ_T_EDGE)
        edge_target(c, label, n, t);
    (void)json_object_set_new(o, "target", t);
    (void)snprintf(what, sizeof what, "%s: %s", label, uses);
    errors = c->d->errors;
    t = sq_norm_params(c, what, spec->with, with, with ? with->pos : n->pos, NULL);
    if (c->d->errors == errors && (spec->target == SQ_T_NETWORK || spec->target == SQ_T_PARTITION))
        network_with(c, what, n, spec->target, t);
    if (c->d->errors == errors && spec->target == SQ_T_EDGE)
        edge_with(c, what, n, o, t);
    (void)json_object_set_new(o, "with", t);
}

void sq_finish_step(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    static const char *const of_fault[] = {"target", "with", "duration", "settle"};
    const char *uses = sq_json_str_or(o, "uses", NULL);
    const struct sq_node *id = sq_node_get(n, "id");

    if (n->kind != SQ_N_MAP)
        return;
    if (json_object_get(o, "id"))
        (void)sq_norm_name(c, label, id, false);
    if (!json_object_get(o, "name") && json_object_get(o, "id"))
        (void)json_object_set(o, "name", json_object_get(o, "id"));
    if (!sq_node_get(n, "uses") == !sq_node_get(n, "wait")) {
        sq_diag_error(c->d, n->pos, "a fault: {id, uses, target, with, duration}; a wait: {id, wait: 20s}",
                      "%s: exactly one of \"uses\" and \"wait\"", label);
        return;
    }
    if (uses) {
        fault_step(c, label, n, o, uses);
        return;
    }
    for (size_t i = 0; i < SQ_COUNT(of_fault); i++)
        if (sq_node_get(n, of_fault[i]))
            sq_diag_error(c->d, sq_node_key(n, of_fault[i])->pos, NULL, "%s: \"%s\" does not go with \"wait\"", label,
                          of_fault[i]);
}

static void no_such_check(struct sq_norm *c, const struct sq_node *at, const char *name)
{
    const struct sq_check *const *all;
    size_t count = sq_checks(&all);
    json_t *names = json_object();

    for (size_t i = 0; i < count; i++)
        (void)json_object_set_new(names, all[i]->name, json_true());
    sq_norm_no_such(c, at->pos, "check", name, names);
    json_decref(names);
}

static const struct sq_param *map_schema(const struct sq_check *k, const char *key)
{
    for (const struct sq_check_map *m = k->maps; m && m->key; m++)
        if (strcmp(m->key, key) == 0)
            return m->params;
    return NULL;
}

/* Nested mappings (a breaker's `expect`) and thresholds: checked by their own schemas, with their own positions. */
static void normalize_nested(struct sq_norm *c, const char *label, const struct sq_check *k, const struct sq_node *n,
                             json_t *o)
{
    for (const struct sq_param *p = k->params; p->name; p++) {
        const struct sq_node *v = sq_node_get(n, p->name);
        const struct sq_param *inner = map_schema(k, p->name);
        char what[200];

        if (strcmp(p->name, "thresholds") == 0 && v) {
            (void)json_object_set_new(o, p->name, sq_norm_thresholds(c, label, v));
        } else if (inner && v && v->kind == SQ_N_MAP) {
            (void)snprintf(what, sizeof what, "%s: %s", label, p->name);
            (void)json_object_set_new(o, p->name, sq_norm_params(c, what, inner, v, v->pos, NULL));
        }
    }
}

void sq_finish_check(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *name = sq_json_str_or(o, "check", NULL);
    const struct sq_check *k = name ? sq_check_find(name) : NULL;
    json_t *params;

    if (!name)
        return;
    if (!k) {
        no_such_check(c, sq_node_get(n, "check"), name);
        return;
    }
    params = sq_norm_params(c, label, k->params, n, n->pos, "check");
    normalize_nested(c, label, k, n, params);
    (void)json_object_update(o, params);
    json_decref(params);
}
