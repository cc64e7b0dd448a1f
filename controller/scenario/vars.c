#include "scenario/vars.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"

#define MAX_VARS 100
#define MAX_NAME 63

struct scope {
    json_t *values; /* name -> text: what --var gave, else what the document declares */
    json_t *used;   /* name -> true */
    struct sq_diags *d;
    bool requests; /* inside load: ${data.x} and ${session.x} are left as they are */
};

static size_t name_len(const char *s)
{
    size_t n = 0;

    if (!isalpha((unsigned char)s[0]) && s[0] != '_')
        return 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '_')
        n++;
    return n <= MAX_NAME ? n : 0;
}

int sq_vars_add(struct sq_vars *vars, const char *assignment, struct sq_err *e)
{
    size_t n = name_len(assignment);
    struct sq_var *grown;

    if (n == 0 || assignment[n] != '=') {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--var %.80s is not name=value", assignment);
        sq_err_hint(e, "a name has letters, digits and _, for example --var rate=60/s");
        return -EINVAL;
    }
    if (strlen(assignment) > SQ_YAML_MAX_SCALAR)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--var %.*s is too long", (int)n, assignment);
    for (size_t i = 0; i < vars->n; i++) {
        if (strncmp(vars->v[i].name, assignment, n) == 0 && !vars->v[i].name[n]) {
            char *value = strdup(assignment + n + 1);

            if (!value)
                return sq_err(e, -ENOMEM, "out of memory");
            free(vars->v[i].value);
            vars->v[i].value = value;
            return 0;
        }
    }
    if (vars->n >= MAX_VARS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "more than %d variables", MAX_VARS);
    grown = reallocarray(vars->v, vars->n + 1, sizeof *vars->v);
    if (!grown)
        return sq_err(e, -ENOMEM, "out of memory");
    vars->v = grown;
    vars->v[vars->n] = (struct sq_var){strndup(assignment, n), strdup(assignment + n + 1)};
    if (!vars->v[vars->n].name || !vars->v[vars->n].value) {
        free(vars->v[vars->n].name);
        free(vars->v[vars->n].value);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    vars->n++;
    return 0;
}

void sq_vars_free(struct sq_vars *vars)
{
    for (size_t i = 0; i < vars->n; i++) {
        free(vars->v[i].name);
        free(vars->v[i].value);
    }
    free(vars->v);
    *vars = (struct sq_vars){0};
}

static int declare(struct scope *s, const struct sq_node *key, const struct sq_node *value)
{
    size_t n = name_len(key->text);

    if (n == 0 || key->text[n])
        return sq_diag_error(s->d, key->pos, "letters, digits and _, not beginning with a digit",
                             "\"%.60s\" can't be the name of a variable", key->text);
    if (strcmp(key->text, "instance") == 0 || strcmp(key->text, "port") == 0)
        return sq_diag_error(s->d, key->pos, "inside services it is the instance's own",
                             "\"%s\" can't be the name of a variable", key->text);
    if (value->kind != SQ_N_SCALAR || sq_node_is_null(value))
        return sq_diag_error(s->d, value->pos, NULL, "variable \"%s\" must be a single value", key->text);
    if (strstr(value->text, "${"))
        return sq_diag_error(s->d, value->pos, "write the value out", "a variable can't be made of other variables");
    if (json_object_get(s->values, key->text)) /* --var was here first */
        return 0;
    if (json_object_set_new(s->values, key->text, json_string(value->text)) < 0)
        return sq_diag_error(s->d, value->pos, NULL, "variable \"%s\" is not valid text", key->text);
    return 0;
}

static int declare_all(struct scope *s, const struct sq_node *vars, const struct sq_vars *given)
{
    for (size_t i = 0; given && i < given->n; i++)
        if (json_object_set_new(s->values, given->v[i].name, json_string(given->v[i].value)) < 0)
            return sq_diag_error(s->d, (struct sq_pos){0, 0}, NULL, "--var %s: not valid UTF-8 text", given->v[i].name);
    if (!vars || sq_node_is_null(vars))
        return 0;
    if (vars->kind != SQ_N_MAP)
        return sq_diag_error(s->d, vars->pos, "vars: {rate: 60/s}", "\"vars\" must be a mapping");
    if (vars->n > MAX_VARS)
        return sq_diag_error(s->d, vars->pos, NULL, "more than %d variables", MAX_VARS);
    for (size_t i = 0; i < vars->n; i++)
        (void)declare(s, vars->keys[i], vars->items[i]);
    return s->d->errors ? -EINVAL : 0;
}

static void hint_of_name(const struct scope *s, const char *name, char *buf, size_t len)
{
    const char *names[2 * MAX_VARS], *near;
    const char *key;
    json_t *value;
    size_t n = 0;

    json_object_foreach(s->values, key, value)
    {
        if (n < SQ_COUNT(names))
            names[n++] = key;
    }
    near = sq_nearest(name, names, n);
    if (near)
        (void)snprintf(buf, len, "did you mean \"%s\"?", near);
    else
        (void)snprintf(buf, len, "declare it under vars, or run with --var %.60s=VALUE; $${ is a literal ${", name);
}

/* P is just behind "${". Returns what follows the "}", NULL after an error. */
static const char *put_variable(struct scope *s, const struct sq_node *n, const char *p, bool per_instance, FILE *f)
{
    size_t len = name_len(p);
    const char *end = strchr(p, '}'), *value;
    char name[MAX_NAME + 1], hint[256];

    if (s->requests && end && (strncmp(p, "data.", 5) == 0 || strncmp(p, "session.", 8) == 0)) {
        (void)fprintf(f, "${%.*s", (int)(end + 1 - p), p); /* the probe's, for each request */
        return end + 1;
    }
    if (!end || len == 0 || (p[len] != '}' && strncmp(p + len, ":-", 2) != 0)) {
        sq_diag_error(s->d, n->pos, "${name} or ${name:-default}; $${ is a literal ${", "\"${%.40s\" is no variable",
                      p);
        return NULL;
    }
    memcpy(name, p, len);
    name[len] = '\0';
    if (per_instance && p[len] == '}' && (strcmp(name, "instance") == 0 || strcmp(name, "port") == 0)) {
        (void)fprintf(f, "${%s}", name);
        return end + 1;
    }
    (void)json_object_set_new(s->used, name, json_true());
    value = json_string_value(json_object_get(s->values, name));
    if (value) {
        (void)fputs(value, f);
    } else if (p[len] == ':') {
        (void)fprintf(f, "%.*s", (int)(end - (p + len + 2)), p + len + 2);
    } else {
        hint_of_name(s, name, hint, sizeof hint);
        if (strcmp(name, "instance") == 0 || strcmp(name, "port") == 0)
            (void)snprintf(hint, sizeof hint, "only the command, env, cwd and ready of a service have it");
        sq_diag_error(s->d, n->pos, hint, "no variable \"%s\"", name);
        return NULL;
    }
    return end + 1;
}

static int substitute_into(struct scope *s, const struct sq_node *n, bool per_instance, FILE *f)
{
    const char *p = n->text;

    while (p && *p) {
        const char *at = strstr(p, "${");

        if (!at) {
            (void)fputs(p, f);
            return 0;
        }
        if (at > p && at[-1] == '$') {
            if (per_instance && (strncmp(at, "${instance}", 11) == 0 || strncmp(at, "${port}", 7) == 0))
                return sq_diag_error(s->d, n->pos, NULL, "the text ${instance} or ${port} can't be given to a service");
            (void)fwrite(p, 1, (size_t)(at - p) - 1, f);
            (void)fputs("${", f);
            p = at + 2;
            continue;
        }
        (void)fwrite(p, 1, (size_t)(at - p), f);
        p = put_variable(s, n, at + 2, per_instance, f);
    }
    return p ? 0 : -EINVAL;
}

static int substitute(struct scope *s, struct sq_node *n, bool per_instance)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f;
    int r;

    if (!strstr(n->text, "${"))
        return 0;
    f = open_memstream(&text, &len);
    if (!f)
        return sq_diag_error(s->d, n->pos, NULL, "out of memory");
    r = substitute_into(s, n, per_instance, f);
    if (fclose(f) != 0 && r == 0)
        r = sq_diag_error(s->d, n->pos, NULL, "out of memory");
    if (r == 0 && len > SQ_YAML_MAX_SCALAR)
        r = sq_diag_error(s->d, n->pos, NULL, "longer than %d bytes with its variables replaced", SQ_YAML_MAX_SCALAR);
    if (r < 0) {
        free(text);
        return r;
    }
    free(n->text);
    n->text = text;
    return 0;
}

/* Errors are collected, not returned: each scalar stands alone. Recursion is bounded by SQ_YAML_MAX_DEPTH. */
static void walk(struct scope *s, struct sq_node *n, bool per_instance)
{
    if (!n)
        return;
    if (n->kind == SQ_N_SCALAR)
        (void)substitute(s, n, per_instance);
    for (size_t i = 0; i < n->n; i++)
        walk(s, n->items[i], per_instance);
}

static void walk_services(struct scope *s, struct sq_node *services)
{
    if (!services)
        return;
    if (services->kind != SQ_N_MAP) {
        walk(s, services, false);
        return;
    }
    for (size_t i = 0; i < services->n; i++) {
        struct sq_node *service = services->items[i];

        if (service->kind != SQ_N_MAP) {
            walk(s, service, false);
            continue;
        }
        for (size_t j = 0; j < service->n; j++) {
            static const char *const own[] = {"command", "env", "cwd", "ready"};
            bool per_instance = false;

            for (size_t k = 0; k < SQ_COUNT(own); k++)
                per_instance |= strcmp(service->keys[j]->text, own[k]) == 0;
            walk(s, service->items[j], per_instance);
        }
    }
}

static void walk_load(struct scope *s, struct sq_node *n, bool load)
{
    s->requests = load;
    walk(s, n, false);
    s->requests = false;
}

static void walk_document(struct scope *s, struct sq_node *root)
{
    struct sq_node *spec = sq_node_get(root, "spec");

    for (size_t i = 0; i < root->n; i++)
        if (root->items[i] != spec && root->items[i] != sq_node_get(root, "vars"))
            walk(s, root->items[i], false);
    if (!spec)
        return;
    if (spec->kind != SQ_N_MAP) {
        walk(s, spec, false);
        return;
    }
    for (size_t i = 0; i < spec->n; i++) {
        if (strcmp(spec->keys[i]->text, "services") == 0)
            walk_services(s, spec->items[i]);
        else
            walk_load(s, spec->items[i], strcmp(spec->keys[i]->text, "load") == 0);
    }
}

static void report_unused(struct scope *s, const struct sq_node *vars, const struct sq_vars *given)
{
    for (size_t i = 0; given && i < given->n; i++) {
        const char *name = given->v[i].name, *near;
        const char *used[2 * MAX_VARS], *key;
        char hint[128];
        json_t *value;
        size_t n = 0;

        if (json_object_get(s->used, name) || sq_node_get(vars, name))
            continue;
        json_object_foreach(s->used, key, value)
        {
            if (n < SQ_COUNT(used))
                used[n++] = key;
        }
        near = sq_nearest(name, used, n);
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near ? near : "");
        sq_diag_error(s->d, (struct sq_pos){0, 0}, near ? hint : NULL, "--var %s: the scenario has no such variable",
                      name);
    }
    for (size_t i = 0; vars && vars->kind == SQ_N_MAP && i < vars->n; i++)
        if (!json_object_get(s->used, vars->keys[i]->text))
            sq_diag_warn(s->d, vars->keys[i]->pos, NULL, "variable \"%s\" is not used", vars->keys[i]->text);
}

int sq_vars_apply(struct sq_node *root, const struct sq_vars *given, json_t **out, struct sq_diags *d)
{
    cleanup_json json_t *values = json_object();
    cleanup_json json_t *used = json_object();
    struct scope s = {values, used, d};
    const struct sq_node *vars = sq_node_get(root, "vars");
    int r;

    *out = NULL;
    if (!values || !used)
        return sq_diag_error(d, (struct sq_pos){0, 0}, NULL, "out of memory");
    r = declare_all(&s, vars, given);
    if (r < 0)
        return r;
    walk_document(&s, root);
    if (d->errors)
        return -EINVAL;
    report_unused(&s, vars, given);
    *out = SQ_TAKE(values);
    return d->errors ? -EINVAL : 0;
}

char *sq_vars_instance(const char *text, const char *instance, const char *port)
{
    char *out = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&out, &len);

    if (!f)
        return NULL;
    for (const char *p = text; *p;) {
        const char *with = NULL;
        size_t skip = 0;

        if (strncmp(p, "${instance}", 11) == 0)
            with = instance, skip = 11;
        else if (port && strncmp(p, "${port}", 7) == 0)
            with = port, skip = 7;
        if (with) {
            (void)fputs(with, f);
            p += skip;
        } else {
            (void)fputc(*p++, f);
        }
    }
    if (fclose(f) != 0) {
        free(out);
        return NULL;
    }
    return out;
}
