/* What `squall exec` was asked for: its options, in their order, because details belong to the fault before them. */
#include <stdlib.h>
#include <string.h>

#include "commands/exec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

struct exec_edge *sq_exec_edge(struct exec *x, const char *name)
{
    for (size_t i = 0; i < x->n_edges; i++)
        if (strcmp(x->edges[i].name, name) == 0)
            return &x->edges[i];
    return NULL;
}

static int take_edge(struct exec *x, const char *text)
{
    const char *eq = strchr(text, '=');
    char name[96];
    if (!eq || eq == text || !eq[1] || (size_t)(eq - text) >= sizeof(name))
        return sq_term_usage(x->t, "--edge db=127.0.0.1:5432", "exec: \"%.80s\" is no edge", text);
    snprintf(name, sizeof(name), "%.*s", (int)(eq - text), text);
    struct exec_edge *edge = sq_exec_edge(x, name);
    if (!edge) {
        if (x->n_edges == SQ_EXEC_EDGES)
            return sq_term_usage(x->t, NULL, "exec: more than %d edges", SQ_EXEC_EDGES);
        edge = &x->edges[x->n_edges++];
        memcpy(edge->name, name, sizeof(name));
        edge->to = json_array();
    }
    json_array_append_new(edge->to, json_string(eq + 1));
    return 0;
}

static int take_fault(struct exec *x, const char *kind)
{
    const struct sq_fault_spec *spec = sq_fault_spec_find(kind);
    if (!spec) {
        const struct sq_fault_spec *const *all;
        const char *names[64];
        size_t n = sq_fault_specs(&all);
        for (size_t i = 0; i < n && i < SQ_COUNT(names); i++)
            names[i] = all[i]->name;
        const char *near = sq_nearest(kind, names, n < SQ_COUNT(names) ? n : SQ_COUNT(names));
        char hint[128];
        snprintf(hint, sizeof(hint), "did you mean %s?", near ? near : "");
        return sq_term_usage(x->t, near ? hint : "squall explain lists the faults", "exec: there is no fault \"%.60s\"",
                             kind);
    }
    if (spec->target == SQ_T_NETWORK)
        return sq_term_usage(x->t, "it acts on a whole interface; use it in a scenario with squall run",
                             "exec: %s is not for one command", kind);
    if (spec->target == SQ_T_PARTITION)
        return sq_term_usage(x->t, "it cuts off a whole host; use it in a scenario with squall run",
                             "exec: %s is not for one command", kind);
    if (x->n_faults == SQ_EXEC_FAULTS)
        return sq_term_usage(x->t, NULL, "exec: more than %d faults", SQ_EXEC_FAULTS);
    x->faults[x->n_faults++] =
        (struct exec_fault){.x = x, .spec = spec, .with = json_object(), .after_ns = -1, .duration_ns = -1};
    return 0;
}

/* Values come as text; what the schema wants as a number or a truth must be one before it is checked. */
static json_t *typed(const struct sq_fault_spec *spec, const char *key, const char *value)
{
    for (const struct sq_param *p = spec->with; p && p->name; p++) {
        if (strcmp(p->name, key) != 0 || (p->type != SQ_P_INT && p->type != SQ_P_NUMBER && p->type != SQ_P_BOOL))
            continue;
        json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
        return v ? v : json_string(value);
    }
    return json_string(value);
}

static int take_with(struct exec *x, struct exec_fault *f, const char *text)
{
    const char *eq = strchr(text, '=');
    char key[64];
    if (!eq || eq == text || (size_t)(eq - text) >= sizeof(key))
        return sq_term_usage(x->t, "--with delay=200ms", "exec: \"%.80s\" is no parameter", text);
    snprintf(key, sizeof(key), "%.*s", (int)(eq - text), text);
    json_object_set_new(f->with, key, typed(f->spec, key, eq + 1));
    return 0;
}

/* Options that belong to the --fault before them. */
static int take_detail(struct exec *x, const char *name, const char *value)
{
    struct sq_err e = {0};
    if (x->n_faults == 0)
        return sq_term_usage(x->t, "squall exec --fault call/latency --with delay=200ms ...",
                             "exec: --%s belongs to the --fault before it, and there is none", name);
    struct exec_fault *f = &x->faults[x->n_faults - 1];
    if (strcmp(name, "with") == 0)
        return take_with(x, f, value);
    if (strcmp(name, "percent") == 0) {
        double percent;
        f->percent = value;
        if (sq_parse_percent(value, &percent, &e))
            return sq_term_fail(x->t, &e);
    } else if (strcmp(name, "on") == 0) {
        f->on = value;
    } else if (sq_parse_duration(value, strcmp(name, "after") == 0 ? &f->after_ns : &f->duration_ns, &e)) {
        return sq_term_fail(x->t, &e);
    }
    return 0;
}

static int check_fault(struct exec *x, struct exec_fault *f)
{
    struct sq_err e = {0};
    cleanup_json json_t *normal = NULL;
    if (sq_spec_normalize(f->spec->name, f->spec->with, f->with, &normal, &e))
        return sq_term_fail(x->t, &e);
    if (f->spec->target != SQ_T_EDGE) {
        if (f->percent || f->on)
            return sq_term_usage(x->t, NULL, "exec: %s acts on the command itself: no --on, no --percent",
                                 f->spec->name);
        if (f->after_ns < 0)
            f->after_ns = SQ_S; /* the command must be there */
        return 0;
    }
    if (!f->on && x->n_edges == 1)
        f->on = x->edges[0].name;
    if (!f->on)
        return sq_term_usage(x->t, "name it with --on", "exec: %s: on which edge?", f->spec->name);
    if (!sq_exec_edge(x, f->on))
        return sq_term_usage(x->t, "declare it: --edge NAME=127.0.0.1:5432", "exec: there is no edge \"%.80s\"", f->on);
    return 0;
}

int sq_exec_read(struct exec *x)
{
    int code = 0;
    for (size_t i = 0; i < x->args->n_given && !code; i++) {
        const char *name = x->args->given[i].option->name, *value = x->args->given[i].value;
        if (strcmp(name, "edge") == 0)
            code = take_edge(x, value);
        else if (strcmp(name, "fault") == 0)
            code = take_fault(x, value);
        else if (strcmp(name, "injector") != 0 && strcmp(name, "quiet") != 0 && strcmp(name, "gate") != 0)
            code = take_detail(x, name, value);
    }
    for (size_t i = 0; i < x->n_faults && !code; i++)
        code = check_fault(x, &x->faults[i]);
    return code;
}
