#include "scenario/adhoc.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "scenario/normalize.h"
#include "scenario/yaml.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

/* Every JSON text is YAML, so the tables that read scenarios read this. */
static int normalize(const json_t *o, const char *section, const char *what, struct sq_diags *d, json_t **out)
{
    cleanup_free char *text = json_dumps(o, JSON_COMPACT);
    struct sq_node *node = NULL;
    char folder[PATH_MAX];
    struct sq_norm c = {d, getcwd(folder, sizeof folder) ? folder : "/"};
    int rc = text ? sq_yaml_parse(text, strlen(text), &node, d) : -ENOMEM;

    if (rc == 0)
        *out = sq_norm_section(&c, sq_section_find(section), what, node);
    sq_node_free(node);
    return rc;
}

/* Positions mean nothing here: there is no file. */
static int tell(const struct sq_diags *d, json_t *warnings, struct sq_err *e)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct sq_diag *g = &d->list[i];

        if (!g->warning) {
            (void)sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s", g->msg);
            if (g->hint[0])
                sq_err_hint(e, "%s", g->hint);
            return -EINVAL;
        }
        (void)json_array_append_new(warnings, json_string(g->msg));
    }
    return 0;
}

static int verify_of(const char *step, const json_t *thresholds, double confidence, json_t **out, struct sq_err *e)
{
    cleanup_json json_t *list = json_array();
    const json_t *text;
    size_t i;

    json_array_foreach(thresholds, i, text)
    {
        json_t *one = NULL;
        int rc = sq_threshold_parse(json_string_value(text), &one, e);

        if (rc < 0)
            return rc;
        (void)json_array_append_new(list, one);
    }
    *out = json_array_size(list) == 0 ? json_array()
                                      : json_pack("[{s:s,s:s,s:O,s:f}]", "check", "slo", "step", step, "thresholds",
                                                  list, "confidence", confidence);
    return *out ? 0 : sq_err(e, -ENOMEM, "no memory");
}

/* The hosts that the endpoint is sent from, each of them declared. */
static int normalize_hosts(const json_t *hosts, struct sq_diags *d, json_t *out)
{
    const char *name;
    json_t *one, *done;

    json_object_foreach((json_t *)(uintptr_t)hosts, name, one)
    {
        done = NULL;
        int rc = normalize(one, "hosts", name, d, &done);

        if (rc < 0 || !done || json_object_set_new(out, name, done) < 0)
            return rc < 0 ? rc : -ENOMEM;
    }
    return 0;
}

int sq_scenario_adhoc(const json_t *endpoint, const json_t *hosts, const char *name, const char *step, int64_t for_ns,
                      const json_t *thresholds, double confidence, json_t **doc, json_t **warnings, struct sq_err *e)
{
    cleanup_json json_t *load = NULL;
    cleanup_json json_t *verify = NULL;
    cleanup_json json_t *where = json_object();
    struct sq_diags d;
    int rc;

    *doc = NULL;
    *warnings = json_array();
    sq_diags_init(&d, "load");
    rc = normalize(endpoint, "load", "the load", &d, &load);
    rc = rc < 0 ? rc : normalize_hosts(hosts, &d, where);
    if (tell(&d, *warnings, e) < 0)
        rc = -EINVAL;
    else if (rc < 0 || !load)
        rc = sq_err(e, -ENOMEM, "no memory");
    sq_diags_free(&d);
    if (rc == 0)
        rc = verify_of(step, thresholds, confidence, &verify, e);
    if (rc < 0)
        return rc;
    *doc = json_pack(
        "{s:s,s:s,s:{s:s,s:[]},s:{s:{},s:{},s:O,s:{s:O},s:{s:I,s:f},s:[{s:s,s:s,s:I}],s:O,s:{s:[]},s:{}},s:{}}",
        "apiVersion", "squall/v1", "kind", "Scenario", "metadata", "name", name, "tags", "spec", "services", "edges",
        "hosts", where, "load", name, load, "lateness", "over", (json_int_t)(5 * SQ_MS), "share", 1.0, "steps", "id",
        step, "name", "constant load", "wait", (json_int_t)for_ns, "verify", verify, "safety", "abort_when", "report",
        "vars");
    return *doc ? 0 : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a name is not UTF-8");
}
