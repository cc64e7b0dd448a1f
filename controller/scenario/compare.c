/* The part `compare`: which other runs this one is compared with. */
#include <string.h>

#include "scenario/decide.h"
#include "scenario/normalize.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/compare.h"
#include "verify/values.h"

static void make_absolute(struct sq_norm *c, json_t *o, const char *key)
{
    const char *path = sq_json_str_or(o, key, NULL);
    cleanup_free char *absolute = path ? sq_norm_path(c->folder, path) : NULL;

    if (absolute)
        (void)json_object_set_new(o, key, json_string(absolute));
}

void sq_finish_compare(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    (void)label;
    (void)n;
    make_absolute(c, o, "baseline");
    make_absolute(c, o, "candidate");
}

static void known_metric(const struct sq_decide *x, const char *key, const char *name)
{
    if (!sq_metric_name(name))
        sq_diag_error(x->c->d, sq_decide_at(x, key), "p50, p95, p99, p99.9, mean, throughput",
                      "verify %s: there is no metric \"%.40s\"", x->name, name);
}

static void known_metrics(const struct sq_decide *x)
{
    const json_t *m;
    size_t i;

    json_array_foreach(json_object_get(x->check, "metrics"), i, m) known_metric(x, "metrics", json_string_value(m));
    if (json_object_get(x->check, "metric"))
        known_metric(x, "metric", sq_json_str_or(x->check, "metric", ""));
}

void sq_decide_compared(const struct sq_decide *x)
{
    struct sq_err e = {0};

    known_metrics(x);
    if (!json_object_get(x->spec, "compare"))
        sq_diag_error(x->c->d, x->node->pos, "add compare: {baseline: baseline.json, candidate: squall-runs/now}",
                      "verify %s: the scenario does not say what to compare with", x->name);
    if (sq_compare_accept_check(json_object_get(x->check, "accept"), &e) < 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "accept"), e.hint, "verify %s: %s", x->name, e.msg);
}

void sq_decide_canary(const struct sq_decide *x)
{
    static const char *const ends[] = {"control", "experiment"};
    const json_t *load = json_object_get(x->spec, "load");

    known_metrics(x);
    for (size_t i = 0; i < SQ_COUNT(ends); i++)
        if (!json_object_get(load, sq_json_str_or(x->check, ends[i], "")))
            sq_norm_no_such(x->c, sq_decide_at(x, ends[i]), "endpoint", sq_json_str_or(x->check, ends[i], ""), load);
    if (strcmp(sq_json_str_or(x->check, ends[0], ""), sq_json_str_or(x->check, ends[1], "")) == 0)
        sq_diag_error(x->c->d, sq_decide_at(x, ends[1]), NULL, "verify canary: control and experiment are the same");
}
