/* Abort conditions: what the tables of schema.c can't say about one of them alone. */
#include <stdio.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

/* The value of one key by one parameter, with the key's own position. */
static void take(struct sq_norm *c, const char *label, const struct sq_node *n, const struct sq_param *p, json_t *o)
{
    struct sq_node *v = sq_node_get(n, p->name), *items[1] = {v}, *keys[1] = {NULL};
    struct sq_node only = {.kind = SQ_N_MAP, .pos = n->pos, .n = v ? 1 : 0, .keys = keys, .items = items};
    json_t *got;

    for (size_t i = 0; v && i < n->n; i++)
        if (n->items[i] == v)
            keys[0] = n->keys[i];
    got = sq_norm_params(c, label, p, &only, n->pos, NULL);
    (void)json_object_update(o, got);
    json_decref(got);
}

/* A sequential test: which p0 and p1 it has, and that one is below the other. */
static void check_sprt(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o, bool burn)
{
    const json_t *sprt = json_object_get(o, "sprt");
    const struct sq_node *node = sq_node_get(n, "sprt");
    double p0 = sq_json_num_or(sprt, "p0", -1), p1 = sq_json_num_or(sprt, "p1", -1);

    if (sq_node_get(n, "for"))
        sq_diag_error(c->d, at_value(n, "for"), "leave it out", "%s: a sequential test has no window", label);
    if (burn && (p0 >= 0 || p1 >= 0))
        sq_diag_error(c->d, node->pos, "leave p0 and p1 out", "%s: burn_rate has them from \"target\" and \"over\"",
                      label);
    else if (burn && !(sq_json_num_or(o, "over", 0) > 1))
        sq_diag_error(c->d, at_value(n, "over"), "over: 14.4", "%s: a burn rate of 1 or less is no reason to stop",
                      label);
    else if (burn && sq_json_num_or(o, "over", 0) * (100 - sq_json_num_or(o, "target", 0)) >= 100)
        sq_diag_error(c->d, at_value(n, "over"), NULL, "%s: not even if every request failed", label);
    else if (!burn && !(p0 > 0 && p0 < p1 && p1 < 100))
        sq_diag_error(c->d, node->pos, "sprt: {p0: 0.1%, p1: 1%}", "%s: 0%% < p0 < p1 < 100%% is wanted", label);
    if (!burn && sq_node_get(n, "over"))
        sq_diag_error(c->d, at_value(n, "over"), "sprt: {p0: 0.1%, p1: 1%}", "%s: \"over\" does not go with \"sprt\"",
                      label);
}

/* An SLO has its own target; which one it is is looked up when the files were read. */
static void check_slo(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    static const char *const foreign[] = {"metric", "over", "target", "sprt"};

    for (size_t i = 0; i < SQ_COUNT(foreign); i++)
        if (sq_node_get(n, foreign[i]))
            sq_diag_error(c->d, at_value(n, foreign[i]), "{slo: NAME, burn_rate: 14.4, for: 1m}",
                          "%s: \"%s\" does not go with slo", label, foreign[i]);
    if (!json_object_get(o, "burn_rate"))
        sq_diag_error(c->d, n->pos, "burn_rate: 14.4", "%s: \"burn_rate\" is missing", label);
}

void sq_finish_abort(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const struct sq_param percent[] = {
        {"over", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL, "for error_rate a percentage: 50%"}, SQ_PARAM_END};
    const struct sq_param number[] = {{"over", SQ_P_NUMBER, SQ_REQUIRED, NULL, NULL, "for burn_rate a number: 14.4"},
                                      SQ_PARAM_END};
    const struct sq_param duration[] = {
        {"over", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "for p50, p95, p99 a duration: 5s"}, SQ_PARAM_END};
    const char *metric = sq_json_str_or(o, "metric", NULL);
    bool burn = metric && strcmp(metric, "burn_rate") == 0, errors = metric && strcmp(metric, "error_rate") == 0;
    bool sprt = sq_node_get(n, "sprt") != NULL;
    const unsigned before = c->d->errors;

    if (json_object_get(o, "slo"))
        check_slo(c, label, n, o);
    else if (!metric)
        sq_diag_error(c->d, n->pos, "metric: error_rate, or slo: NAME", "%s: \"metric\" is missing", label);
    if (!metric || json_object_get(o, "slo"))
        return;
    if (sq_node_get(n, "burn_rate"))
        sq_diag_error(c->d, at_value(n, "burn_rate"), "metric: burn_rate, over: 14.4",
                      "%s: \"burn_rate\" goes with slo", label);
    if (sprt && !burn && !errors)
        sq_diag_error(c->d, at_value(n, "sprt"), NULL, "%s: \"sprt\" goes with error_rate and burn_rate", label);
    if (burn && !sq_node_get(n, "target"))
        sq_diag_error(c->d, n->pos, "target: 99.9%", "%s: \"target\" is missing", label);
    if (!burn && sq_node_get(n, "target"))
        sq_diag_error(c->d, at_value(n, "target"), NULL, "%s: \"target\" goes with burn_rate", label);
    if (!(errors && sprt))
        take(c, label, n, errors ? percent : burn ? number : duration, o);
    if (burn && c->d->errors == before && sq_json_num_or(o, "over", 0) <= 0)
        sq_diag_error(c->d, at_value(n, "over"), NULL, "%s: \"over\" must be above 0", label);
    if (sprt && (burn || errors) && c->d->errors == before)
        check_sprt(c, label, n, o, burn);
    if (sprt)
        (void)json_object_del(o, "for");
}
