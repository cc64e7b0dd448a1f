#include "scenario/scenario.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/normalize.h"
#include "scenario/yaml.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static const struct sq_pos whole_file = {0, 0};

/* The folder that FILE is in, absolute; malloc'd. */
static char *folder_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    cleanup_free char *given = slash ? strndup(file, slash == file ? 1 : (size_t)(slash - file)) : strdup(".");

    return given ? realpath(given, NULL) : NULL;
}

/* The one thing to say when the document is something else altogether. */
static int looks_like_one(const struct sq_node *root, struct sq_diags *d)
{
    const struct sq_node *version = sq_node_get(root, "apiVersion");

    if (root->kind != SQ_N_MAP)
        return sq_diag_error(d, root->pos, "it begins with apiVersion: squall/v1",
                             "this is no scenario: not a mapping");
    if (version && version->kind == SQ_N_SCALAR && strncmp(version->text, "squall/", 7) != 0)
        return sq_diag_error(d, version->pos, "apiVersion: squall/v1",
                             "this is no scenario of squall: apiVersion is \"%.60s\"", version->text);
    return 0;
}

static int normalize(struct sq_node *root, const struct sq_vars *vars, json_t **out, struct sq_diags *d)
{
    cleanup_free char *folder = folder_of(d->file);
    cleanup_json json_t *values = NULL;
    cleanup_json json_t *doc = NULL;
    struct sq_norm c = {d, folder};
    int r = looks_like_one(root, d);

    if (r == 0)
        r = sq_vars_apply(root, vars, &values, d);
    if (r < 0)
        return r;
    if (!folder)
        return sq_diag_error(d, whole_file, NULL, "can't find the folder it is in: %s", strerror(errno));
    doc = sq_norm_section(&c, &sq_section_scenario, "scenario", root);
    if (!doc)
        return sq_diag_error(d, whole_file, NULL, "out of memory");
    if (d->errors == 0)
        sq_semantic_check(&c, root, doc);
    if (d->errors)
        return -EINVAL;
    (void)json_object_set(doc, "vars", values);
    *out = SQ_TAKE(doc);
    return 0;
}

static int finish(int parsed, struct sq_node *root, const struct sq_vars *vars, json_t **out, struct sq_diags *d)
{
    int r = parsed == 0 ? normalize(root, vars, out, d) : parsed;

    sq_node_free(root);
    sq_diags_sort(d);
    return r;
}

int sq_scenario_check(const struct sq_vars *vars, json_t **normalized, struct sq_diags *d)
{
    struct sq_node *root = NULL;
    int r = sq_yaml_read(&root, d);

    *normalized = NULL;
    return finish(r, root, vars, normalized, d);
}

int sq_scenario_check_text(const char *text, size_t len, const struct sq_vars *vars, json_t **normalized,
                           struct sq_diags *d)
{
    struct sq_node *root = NULL;
    int r = sq_yaml_parse(text, len, &root, d);

    *normalized = NULL;
    return finish(r, root, vars, normalized, d);
}

/* A deep copy of V with the variables of an instance replaced in every string. Recursion: the shape of a service. */
static json_t *instantiate(const json_t *v, const char *index, const char *port)
{
    const char *key;
    json_t *out, *item;
    size_t i;

    if (json_is_string(v)) {
        cleanup_free char *s = sq_vars_instance(json_string_value(v), index, port);

        return s ? json_string(s) : NULL;
    }
    if (json_is_array(v)) {
        out = json_array();
        json_array_foreach(v, i, item)
        {
            (void)json_array_append_new(out, instantiate(item, index, port));
        }
        return out;
    }
    if (json_is_object(v)) {
        out = json_object();
        json_object_foreach((json_t *)(uintptr_t)v, key, item)
        {
            (void)json_object_set_new(out, key, instantiate(item, index, port));
        }
        return out;
    }
    return json_deep_copy(v);
}

int sq_scenario_instance(const json_t *normalized, const char *service, unsigned i, json_t **out, struct sq_err *e)
{
    const json_t *def = json_object_get(json_object_get(json_object_get(normalized, "spec"), "services"), service);
    int64_t port = sq_json_int_or(def, "port", 0);
    char index[16], port_text[32];
    json_t *o;

    if (!json_object_get(def, "command"))
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "no service \"%s\" is started by the scenario", service);
    if (i >= (unsigned long long)sq_json_int_or(def, "instances", 1))
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "service \"%s\" has no instance %u", service, i);
    (void)snprintf(index, sizeof index, "%u", i);
    (void)snprintf(port_text, sizeof port_text, "%lld", (long long)port + i);
    o = instantiate(def, index, port ? port_text : NULL);
    if (!o)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)json_object_del(o, "instances");
    (void)json_object_set_new(o, "name", json_sprintf("%s.%u", service, i));
    (void)json_object_set_new(o, "service", json_string(service));
    if (port)
        (void)json_object_set_new(o, "port", json_integer(port + i));
    *out = o;
    return 0;
}
