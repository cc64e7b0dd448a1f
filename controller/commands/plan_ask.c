/* What injectors know of a plan: whom its targets mean, what its names mean, what works here. */
#include <stdlib.h>
#include <string.h>

#include "commands/plan.h"
#include "probe/probe.h"
#include "run/session.h"
#include "squall/cleanup.h"
#include "squall/dest.h"
#include "squall/json.h"

/* Can its target be looked for now? Instances of services are not there yet, edges are made for the run. */
static bool can_look(const struct sq_planning *p, const json_t *stretch)
{
    const json_t *target = json_object_get(stretch, "target"), *c;
    size_t i;

    json_array_foreach(json_object_get(p->plan, "needs"), i, c) /* what does not work here is a problem already */
    {
        if (!sq_json_bool_or(c, "ok", false) &&
            strcmp(sq_json_str_or(c, "name", ""), sq_json_str_or(stretch, "uses", "")) == 0)
            return false;
    }
    return target && !json_object_get(target, "service") && !json_object_get(target, "edge");
}

static void resolve_one(struct sq_planning *p, struct sq_session *s, const char *run, json_t *stretch)
{
    cleanup_json json_t *answer = NULL;
    struct sq_err e = {0};
    char path[64];

    (void)snprintf(path, sizeof path, "/v1/runs/%.30s/plan", run);
    if (sq_session_ask(s, "POST", path,
                       json_pack("{s:O, s:O, s:O, s:O}", "uses", json_object_get(stretch, "uses"), "target",
                                 json_object_get(stretch, "target"), "with", json_object_get(stretch, "with"), "step",
                                 json_object_get(stretch, "step")),
                       &answer, &e) < 0) {
        sq_planning_problem(
            p, (int)sq_exit_of(&e),
            json_sprintf("step %s: %s%s%s", sq_json_str_or(stretch, "step", ""), e.msg, e.hint[0] ? ": " : "", e.hint));
        return;
    }
    (void)json_object_set(stretch, "hit", json_object_get(answer, "hit"));
    (void)json_object_set(stretch, "notes", json_object_get(answer, "notes"));
}

/* The run that is planned in. Network faults leave the probe's path alone: so where the probe would send is said. */
static json_t *new_run(const struct sq_planning *p)
{
    const json_t *spec = json_object_get(p->doc, "spec"), *kind;
    struct sq_probe_opts o = {.load = json_object_get(spec, "load"), .run_id = "plan"};
    json_t *run = json_pack("{s:s, s:s}", "name", "plan", "lease", "30s");
    struct sq_probe *probe = NULL;
    bool network = false;
    size_t i;

    json_array_foreach(json_object_get(p->plan, "faults"), i, kind)
    {
        network |= strncmp(json_string_value(kind), "network/", 8) == 0;
    }
    if (run && network && json_object_size(o.load) && sq_probe_create(&o, &probe, NULL) == 0)
        (void)json_object_set_new(run, "probe", sq_probe_places(probe));
    sq_probe_free(probe);
    return run;
}

static bool has_names(const json_t *list)
{
    struct sq_dest d;
    const json_t *v;
    size_t i;

    json_array_foreach(list, i, v)
    {
        if (sq_dest_parse(json_string_value(v), &d, NULL) == 0 && d.kind == SQ_DEST_NAME)
            return true;
    }
    return false;
}

static bool named(const json_t *edge)
{
    return has_names(json_object_get(edge, "to")) || has_names(json_object_get(edge, "except"));
}

/* Callers that run already: who they are, and what they have open. */
static void resolve_caller(struct sq_planning *p, struct sq_session *s, const char *run, json_t *selected)
{
    const char *service = sq_json_str_or(selected, "service", ""), *name;
    json_t *edges = json_object(), *edge;
    char path[64];

    (void)snprintf(path, sizeof path, "/v1/runs/%.30s/plan", run);
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        cleanup_json json_t *answer = NULL;
        struct sq_err e = {0};

        if (strcmp(sq_json_str_or(edge, "from", ""), service) != 0 ||
            (named(edge) && !json_object_get(json_object_get(p->plan, "names"), name))) /* said already */
            continue;
        if (sq_session_ask(s, "POST", path,
                           json_pack("{s:O, s:O, s:s}", "select", json_object_get(selected, "select"), "to",
                                     json_object_get(edge, "to"), "attach", sq_json_str_or(edge, "attach", "auto")),
                           &answer, &e) < 0) {
            sq_planning_problem(p, (int)sq_exit_of(&e),
                                json_sprintf("service %s: %s%s%s", service, e.msg, e.hint[0] ? ": " : "", e.hint));
            break;
        }
        (void)json_object_set(selected, "hit", json_object_get(answer, "hit"));
        (void)json_object_set(selected, "processes", json_object_get(answer, "processes"));
        (void)json_object_set(selected, "notes", json_object_get(answer, "notes"));
        (void)json_object_set_new(edges, name,
                                  json_pack("{s:O, s:s}", "connections", json_object_get(answer, "connections"),
                                            "existing", sq_json_str_or(edge, "existing", "leave")));
    }
    if (json_object_size(edges))
        (void)json_object_set(selected, "edges", edges);
    json_decref(edges);
}

static bool calls(const struct sq_planning *p, const json_t *selected)
{
    const char *name;
    json_t *edge;

    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        if (strcmp(sq_json_str_or(edge, "from", ""), sq_json_str_or(selected, "service", "")) == 0)
            return true;
    }
    return false;
}

/* Host names of edges: what they mean now. */
static void resolve_names(struct sq_planning *p, struct sq_session *s, const char *run)
{
    json_t *all = json_object(), *edge;
    const char *name;
    char path[64];

    (void)snprintf(path, sizeof path, "/v1/runs/%.30s/plan", run);
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        cleanup_json json_t *answer = NULL;
        struct sq_err e = {0};

        if (!named(edge))
            continue;
        if (sq_session_ask(s, "POST", path,
                           json_pack("{s:{s:s, s:O, s:O, s:O*, s:O}}", "edge", "name", name, "from",
                                     json_object_get(edge, "from"), "to", json_object_get(edge, "to"), "except",
                                     json_object_get(edge, "except"), "protocol", json_object_get(edge, "protocol")),
                           &answer, &e) < 0)
            sq_planning_problem(p, (int)sq_exit_of(&e), json_sprintf("%s%s%s", e.msg, e.hint[0] ? ": " : "", e.hint));
        else
            (void)json_object_set(all, name, json_object_get(answer, "names"));
    }
    if (json_object_size(all))
        (void)json_object_set(p->plan, "names", all);
    json_decref(all);
}

static bool any_names(const struct sq_planning *p)
{
    const char *name;
    json_t *edge;

    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        if (named(edge))
            return true;
    }
    return false;
}

static void resolve_targets(struct sq_planning *p, struct sq_session *s)
{
    json_t *timeline = json_object_get(p->plan, "timeline"), *selected = json_object_get(p->plan, "selected"), *stretch,
           *one;
    cleanup_json json_t *run = NULL;
    struct sq_err e = {0};
    char path[64];
    bool any = any_names(p);
    size_t i;

    json_array_foreach(timeline, i, stretch)
    {
        any |= can_look(p, stretch);
    }
    json_array_foreach(selected, i, one)
    {
        any |= calls(p, one);
    }
    if (!any)
        return;
    if (sq_session_ask(s, "POST", "/v1/runs", new_run(p), &run, &e) < 0) {
        sq_planning_problem(p, (int)sq_exit_of(&e), json_string(e.msg));
        return;
    }
    json_array_foreach(timeline, i, stretch)
    {
        if (can_look(p, stretch))
            resolve_one(p, s, sq_json_str_or(run, "run", ""), stretch);
    }
    resolve_names(p, s, sq_json_str_or(run, "run", ""));
    json_array_foreach(selected, i, one)
    {
        if (calls(p, one))
            resolve_caller(p, s, sq_json_str_or(run, "run", ""), one);
    }
    (void)snprintf(path, sizeof path, "/v1/runs/%.30s", sq_json_str_or(run, "run", ""));
    (void)sq_session_ask(s, "DELETE", path, NULL, NULL, NULL);
}

static void look_at_check(struct sq_planning *p, const json_t *check, json_t *needs)
{
    const char *hint = sq_json_str_or(check, "hint", "");

    (void)json_array_append(needs, (json_t *)(uintptr_t)check);
    if (!sq_json_bool_or(check, "ok", false))
        sq_planning_problem(p, SQ_INFRA,
                            json_sprintf("%s does not work here: %s%s%s", sq_json_str_or(check, "name", ""),
                                         sq_json_str_or(check, "why", "unknown reason"), *hint ? ": " : "", hint));
}

static bool is_attached(const struct sq_planning *p, const char *edge)
{
    const json_t *spec = json_object_get(p->doc, "spec");

    return strcmp(sq_json_str_or(json_object_get(json_object_get(spec, "edges"), edge), "attach", "auto"), "seccomp") ==
           0;
}

/* Of the steps with this kind of fault: how many hit edges that are attached by seccomp, and how many others. */
static void count_steps(const struct sq_planning *p, const char *kind, size_t *attached, size_t *others)
{
    const json_t *step;
    size_t i;

    *attached = *others = 0;
    json_array_foreach(json_object_get(json_object_get(p->doc, "spec"), "steps"), i, step)
    {
        if (strcmp(sq_json_str_or(step, "uses", ""), kind) != 0)
            continue;
        if (is_attached(p, sq_json_str_or(json_object_get(step, "target"), "edge", "")))
            ++*attached;
        else
            ++*others;
    }
}

/* What the host says about a kind of fault; how its calls are taken is the edges' own where they are attached. */
static void look_at_kind(struct sq_planning *p, const json_t *check, json_t *needs)
{
    cleanup_json json_t *copy = json_deep_copy(check);
    size_t attached, others;

    count_steps(p, sq_json_str_or(check, "name", ""), &attached, &others);
    if (attached && copy)
        (void)json_object_set_new(
            copy, "how",
            json_sprintf("%s%sseccomp, attached", others ? sq_json_str_or(check, "how", "") : "", others ? "; " : ""));
    look_at_check(p, copy ? copy : check, needs);
}

/* What the host says about each kind of fault that the scenario uses, and about attaching. */
static void look_at_host(struct sq_planning *p, const json_t *checks)
{
    const json_t *kind, *c, *edge;
    json_t *needs = json_array();
    const char *name;
    size_t i, k;
    bool attach = false;

    json_array_foreach(json_object_get(p->plan, "faults"), i, kind) json_array_foreach(checks, k, c)
    {
        if (strcmp(sq_json_str_or(c, "name", ""), json_string_value(kind)) == 0)
            look_at_kind(p, c, needs);
    }
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        attach |= is_attached(p, name);
    }
    json_array_foreach(checks, k, c)
    {
        if (attach && strcmp(sq_json_str_or(c, "name", ""), "attach") == 0)
            look_at_check(p, c, needs);
    }
    (void)json_object_set_new(p->plan, "needs", needs);
}

int sq_planning_ask(struct sq_planning *p, const char *socket)
{
    cleanup_json json_t *doctor = NULL;
    cleanup_json json_t *left = NULL;
    struct sq_session *s = NULL;
    struct sq_err e = {0};
    int r = sq_session_open(socket, &s, &e);

    if (r == 0)
        r = sq_session_ask(s, "GET", "/v1/doctor", NULL, &doctor, &e);
    if (r == 0) {
        look_at_host(p, json_object_get(doctor, "checks"));
        resolve_targets(p, s);
    }
    sq_session_close(s, &left);
    if (r < 0) {
        sq_err_hint(&e, "squall plan --offline shows what can be known without an injector");
        return sq_term_fail(p->t, &e);
    }
    return 0;
}

static bool sends(const json_t *load, const char *host)
{
    const json_t *name;
    const char *key;
    json_t *endpoint;
    size_t i;

    json_object_foreach((json_t *)(uintptr_t)load, key, endpoint)
    {
        json_array_foreach(json_object_get(endpoint, "from"), i, name)
        {
            if (strcmp(json_string_value(name), host) == 0)
                return true;
        }
    }
    return false;
}

/* Does the injector of every other host that sends answer? */
void sq_planning_ask_senders(struct sq_planning *p)
{
    const json_t *spec = json_object_get(p->doc, "spec");
    const char *name;
    json_t *host;

    json_object_foreach(json_object_get(spec, "hosts"), name, host)
    {
        struct sq_session *s = NULL;
        struct sq_err e = {0};

        if (!sends(json_object_get(spec, "load"), name))
            continue;
        if (sq_session_open(sq_json_str_or(host, "injector", ""), &s, &e) < 0 ||
            sq_session_ask(s, "GET", "/v1/info", NULL, NULL, &e) < 0)
            sq_planning_problem(p, SQ_INFRA, json_sprintf("host %s: %s", name, e.msg));
        sq_session_close(s, NULL);
    }
}
