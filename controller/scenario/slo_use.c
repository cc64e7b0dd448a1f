/* SLO files in a scenario: read them, find what they name, and give their values to the checks and conditions that name
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scenario/slo.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

struct resolver {
    struct sq_norm *c;
    const struct sq_node *node; /* spec */
    json_t *spec, *slos, *budgets;
};

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

static bool is_probe(const json_t *slo)
{
    return strcmp(sq_json_str_or(json_object_get(slo, "indicator"), "source", ""), "probe") == 0;
}

void sq_finish_prometheus(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    if (json_object_get(o, "url"))
        (void)sq_slo_url(c, label, at_value(n, "url"), sq_json_str_or(o, "url", ""));
}

/* ---- files ---- */

/* What was found in an SLO file, at the place that names the file. */
static void tell(struct sq_norm *c, struct sq_pos at, const struct sq_diags *d)
{
    for (size_t i = 0; i < d->n; i++) {
        char where[4200];

        (void)sq_diag_where(d, &d->list[i], where, sizeof where);
        if (d->list[i].warning)
            sq_diag_warn(c->d, at, d->list[i].hint, "%s%s", where, d->list[i].msg);
        else
            sq_diag_error(c->d, at, d->list[i].hint, "%s%s", where, d->list[i].msg);
    }
    if (d->errors && d->n == 0)
        sq_diag_error(c->d, at, NULL, "%s: can't be read", d->file);
}

/* Places are told with the file as the scenario names it, not with the folder that it was found in. */
static void rename_places(json_t *list, const char *path, const char *given)
{
    const char *name;
    json_t *v;

    json_object_foreach(list, name, v)
    {
        const char *at = sq_json_str_or(v, "at", "");

        if (strncmp(at, path, strlen(path)) == 0)
            (void)json_object_set_new(v, "at", json_sprintf("%s%s", given, at + strlen(path)));
    }
}

static void merge(struct resolver *r, struct sq_pos at, const char *what, json_t *into, const json_t *from)
{
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)from, name, v)
    {
        const json_t *before = json_object_get(into, name);

        if (before)
            sq_diag_error(r->c->d, at, NULL, "%s \"%s\" is here twice: %s and %s", what, name,
                          sq_json_str_or(before, "at", "?"), sq_json_str_or(v, "at", "?"));
        else
            (void)json_object_set(into, name, v);
    }
}

static void read_file(struct resolver *r, struct sq_pos at, const char *given)
{
    cleanup_free char *path = r->c->folder ? sq_norm_path(r->c->folder, given) : NULL;
    cleanup_json json_t *doc = NULL;
    struct sq_diags d;

    if (!path) {
        sq_diag_error(r->c->d, at, NULL, "out of memory");
        return;
    }
    sq_diags_init(&d, path);
    (void)sq_slo_check(&doc, &d);
    d.file = given;
    tell(r->c, at, &d);
    sq_diags_free(&d);
    rename_places(json_object_get(doc, "slos"), path, given);
    rename_places(json_object_get(doc, "budgets"), path, given);
    merge(r, at, "SLO", r->slos, json_object_get(doc, "slos"));
    merge(r, at, "the budget of", r->budgets, json_object_get(doc, "budgets"));
}

/* Which Prometheus, and how often. */
static void complete(struct resolver *r, struct sq_pos at)
{
    const json_t *prometheus = json_object_get(r->spec, "prometheus");
    const char *name;
    json_t *slo;

    json_object_foreach(r->slos, name, slo)
    {
        json_t *indicator = json_object_get(slo, "indicator");

        if (is_probe(slo))
            continue;
        if (!json_object_get(indicator, "prometheus") && json_object_get(prometheus, "url"))
            (void)json_object_set(indicator, "prometheus", json_object_get(prometheus, "url"));
        if (!json_object_get(indicator, "prometheus"))
            sq_diag_error(r->c->d, at, "prometheus: {url: \"http://127.0.0.1:9090\"} in the scenario",
                          "SLO %s (%s): nothing says which Prometheus", name, sq_json_str_or(slo, "at", ""));
        (void)json_object_set_new(indicator, "every", json_integer(sq_json_int_or(prometheus, "every", 5 * SQ_S)));
    }
}

static void check_endpoint(struct resolver *r, struct sq_pos at, const char *what, const char *name,
                           const char *endpoint, const json_t *of)
{
    const json_t *load = json_object_get(r->spec, "load");
    char names[256];

    if (json_object_get(load, endpoint))
        return;
    sq_diag_error(r->c->d, at, sq_norm_keys(load, names, sizeof names)[0] ? names : "add load: what the probe sends",
                  "%s %s (%s): there is no endpoint \"%s\" in the load", what, name, sq_json_str_or(of, "at", ""),
                  endpoint);
}

static void read_files(struct resolver *r)
{
    const struct sq_node *list = sq_node_get(r->node, "slos");
    cleanup_json json_t *files = json_incref(json_object_get(r->spec, "slos"));
    const char *name;
    json_t *v;
    size_t i;

    (void)json_object_set(r->spec, "slos", r->slos);
    json_array_foreach(files, i, v)
    {
        read_file(r, list->kind == SQ_N_LIST ? list->items[i]->pos : list->pos, json_string_value(v));
    }
    complete(r, list->pos);
    json_object_foreach(r->slos, name, v)
    {
        if (is_probe(v))
            check_endpoint(r, list->pos, "SLO", name, sq_json_str_or(json_object_get(v, "indicator"), "endpoint", ""),
                           v);
    }
    json_object_foreach(r->budgets, name, v)
    {
        check_endpoint(r, list->pos, "the budget of", name, name, v);
    }
    if (json_object_size(r->budgets))
        (void)json_object_set(r->spec, "budgets", r->budgets);
}

/* ---- those who name one ---- */

static const json_t *find(struct resolver *r, const struct sq_node *n, const json_t *o)
{
    const char *name = sq_json_str_or(o, "slo", NULL);
    const json_t *slo = name ? json_object_get(r->slos, name) : NULL;

    if (name && !slo)
        sq_norm_no_such(r->c, at_value(n, "slo"), "SLO", name, r->slos);
    return slo;
}

/* KEY of a check comes from the SLO: it can't also be given. */
static void take(struct resolver *r, const struct sq_node *n, json_t *check, const char *key, json_t *value)
{
    if (sq_node_get(n, key))
        sq_diag_error(r->c->d, at_value(n, key), "leave it out", "verify %s: \"%s\" is the SLO's",
                      sq_json_str_or(check, "check", ""), key);
    if (value)
        (void)json_object_set_new(check, key, value);
}

/* The SLO of our own probe as a threshold, where one says the same; NULL: a share has to be judged. */
static json_t *as_thresholds(const json_t *slo)
{
    const json_t *indicator = json_object_get(slo, "indicator");
    double target = sq_json_num_or(slo, "target", 0);
    int64_t below = sq_json_int_or(indicator, "below", 0);
    char text[64];

    if (!is_probe(slo) || json_object_get(slo, "slices"))
        return NULL;
    if (strcmp(sq_json_str_or(indicator, "failed", ""), "ignored") == 0) {
        (void)snprintf(text, sizeof text, "p(%g)<%lldus", target, (long long)(below / SQ_US));
        return json_pack("[{s:s,s:f,s:s,s:I,s:s}]", "metric", "p", "p", target, "op", "<", "value", (json_int_t)below,
                         "text", text);
    }
    if (below)
        return NULL;
    (void)snprintf(text, sizeof text, "error_rate<=%.6g%%", 100 - target);
    return json_pack("[{s:s,s:s,s:f,s:s}]", "metric", "error_rate", "op", "<=", "value", 100 - target, "text", text);
}

/* {metric, reason, by, until}: somebody's word, so all of it must be there. */
static void check_acceptance(struct resolver *r, struct sq_pos at, const json_t *a)
{
    static const char *const keys[] = {"metric", "reason", "by", "until"};
    const char *until = sq_json_str_or(a, "until", "");
    struct tm tm = {0};
    const char *end = strptime(until, "%Y-%m-%d", &tm);

    for (size_t i = 0; i < SQ_COUNT(keys); i++)
        if (!sq_json_str_or(a, keys[i], "")[0])
            sq_diag_error(r->c->d, at, NULL, "verify performance_budget: an acceptance has no \"%s\"", keys[i]);
    if (!end || *end || strlen(until) != 10)
        sq_diag_error(r->c->d, at, "until: 2026-12-31", "verify performance_budget: \"%.20s\" is no day", until);
}

static void use_budgets(struct resolver *r, const struct sq_node *n, const json_t *check)
{
    const char *only = sq_json_str_or(check, "endpoint", NULL), *window = sq_json_str_or(check, "window", NULL);
    const json_t *a, *step;
    bool known = !window || strcmp(window, "steady") == 0 || strcmp(window, "load") == 0;
    size_t i;

    if (only && !json_object_get(r->budgets, only))
        sq_norm_no_such(r->c, at_value(n, "endpoint"), "budget of an endpoint", only, r->budgets);
    json_array_foreach(json_object_get(r->spec, "steps"), i, step) known =
        known || strcmp(window, sq_json_str_or(step, "id", "")) == 0;
    if (!known)
        sq_diag_error(r->c->d, at_value(n, "window"), "steady, load, or the id of a step",
                      "verify performance_budget: there is no window \"%.60s\"", window);
    json_array_foreach(json_object_get(check, "accept"), i, a) check_acceptance(r, at_value(n, "accept"), a);
}

static void use_in_check(struct resolver *r, const struct sq_node *n, json_t *check)
{
    const char *name = sq_json_str_or(check, "check", "");
    bool slo_check = strcmp(name, "slo") == 0, budget = strcmp(name, "budget") == 0;
    const json_t *slo = slo_check || budget ? find(r, n, check) : NULL;

    if (slo_check && !sq_node_get(n, "slo") && !sq_node_get(n, "thresholds"))
        sq_diag_error(r->c->d, n->pos, "slo: NAME, or thresholds: [\"p(95)<500ms\"]",
                      "verify slo: \"thresholds\" is missing");
    if (budget && !sq_node_get(n, "slo") && !sq_node_get(n, "target"))
        sq_diag_error(r->c->d, n->pos, "slo: NAME, or target: 99.9%", "verify budget: \"target\" is missing");
    if (strcmp(name, "performance_budget") == 0 && json_object_size(r->budgets) == 0)
        sq_diag_error(r->c->d, n->pos, "slos: [slo/shop.yaml], with budgets: in it",
                      "verify performance_budget: no SLO file has budgets");
    else if (strcmp(name, "performance_budget") == 0)
        use_budgets(r, n, check);
    if (!slo)
        return;
    take(r, n, check, "endpoint", json_incref(json_object_get(json_object_get(slo, "indicator"), "endpoint")));
    if (slo_check) {
        take(r, n, check, "thresholds", as_thresholds(slo));
    } else {
        take(r, n, check, "target", json_incref(json_object_get(slo, "target")));
        take(r, n, check, "window", json_incref(json_object_get(slo, "window")));
    }
}

static void use_in_abort(struct resolver *r, const struct sq_node *n, const json_t *condition)
{
    const json_t *slo = find(r, n, condition), *indicator = json_object_get(slo, "indicator");

    if (slo &&
        (json_object_get(slo, "slices") || json_object_get(indicator, "raw") || json_object_get(indicator, "query")))
        sq_diag_error(r->c->d, at_value(n, "slo"), "an SLO with good and total",
                      "abort_when: the burn rate of SLO %s is known only afterwards",
                      sq_json_str_or(condition, "slo", ""));
    if (slo && sq_json_num_or(condition, "burn_rate", 0) * (100 - sq_json_num_or(slo, "target", 0)) >= 100)
        sq_diag_error(r->c->d, at_value(n, "burn_rate"), NULL, "abort_when: not even if every request failed");
}

void sq_slo_resolve(struct sq_norm *c, const struct sq_node *spec_node, json_t *spec)
{
    const struct sq_node *verify = sq_node_get(spec_node, "verify");
    const struct sq_node *aborts = sq_node_get(sq_node_get(spec_node, "safety"), "abort_when");
    cleanup_json json_t *slos = json_object();
    cleanup_json json_t *budgets = json_object();
    struct resolver r = {c, spec_node, spec, slos, budgets};
    json_t *o;
    size_t i;

    if (!slos || !budgets)
        return;
    if (json_object_get(spec, "slos"))
        read_files(&r);
    json_array_foreach(json_object_get(spec, "verify"), i, o) use_in_check(&r, verify->items[i], o);
    json_array_foreach(json_object_get(json_object_get(spec, "safety"), "abort_when"), i, o)
        use_in_abort(&r, aborts->items[i], o);
}
