/* squall plan: what would be done to which process, without touching anything. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/begin.h"
#include "commands/load.h"
#include "probe/probe.h"
#include "run/session.h"
#include "scenario/plan.h"
#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/dest.h"
#include "squall/json.h"
#include "squall/units.h"

static const struct sq_option options[] = {
    {"var", 0, "NAME=VALUE", "set a variable of the scenario; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"injector", 0, "SOCKET", "ask this injector (default: $SQUALL_INJECTOR, else a private one)", SQ_COMPLETE_FILE,
     NULL},
    {"offline", 0, NULL, "ask no injector: don't look for processes, nor at what works here", SQ_COMPLETE_NONE, NULL},
    {"json", 0, NULL, "print the plan as JSON", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

struct planning {
    struct sq_term *t;
    const json_t *doc;
    json_t *plan;
    json_t *problems; /* what would keep a run from working, for people */
    int code;         /* the exit code they make */
};

static void problem(struct planning *p, int code, json_t *text)
{
    (void)json_array_append_new(p->problems, text);
    p->code = p->code ? p->code : code;
}

/* Would execve(2) find it? Looks where a shell would. */
static bool can_execute(const char *program)
{
    const char *path = getenv("PATH");

    if (strchr(program, '/'))
        return access(program, X_OK) == 0;
    while (path && *path) {
        size_t n = strcspn(path, ":");
        cleanup_free char *full = NULL;

        if (asprintf(&full, "%.*s/%s", (int)n, n ? path : ".", program) < 0)
            full = NULL;
        if (full && access(full, X_OK) == 0)
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

static void look_for_programs(struct planning *p)
{
    const char *last = "";
    const json_t *s;
    size_t i;

    json_array_foreach(json_object_get(p->plan, "services"), i, s)
    {
        const char *program = json_string_value(json_array_get(json_object_get(s, "command"), 0));
        const char *service = sq_json_str_or(s, "service", "");

        if (!program || strcmp(service, last) == 0 || can_execute(program))
            continue;
        last = service;
        problem(p, SQ_USAGE, json_sprintf("service %s: there is no program \"%s\" that can be run", service, program));
    }
}

/* Can its target be looked for now? Instances of services are not there yet, edges are made for the run. */
static bool can_look(const struct planning *p, const json_t *stretch)
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

static void resolve_one(struct planning *p, struct sq_session *s, const char *run, json_t *stretch)
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
        problem(
            p, (int)sq_exit_of(&e),
            json_sprintf("step %s: %s%s%s", sq_json_str_or(stretch, "step", ""), e.msg, e.hint[0] ? ": " : "", e.hint));
        return;
    }
    (void)json_object_set(stretch, "hit", json_object_get(answer, "hit"));
    (void)json_object_set(stretch, "notes", json_object_get(answer, "notes"));
}

/* The run that is planned in. Network faults leave the probe's path alone: so where the probe would send is said. */
static json_t *new_run(const struct planning *p)
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

/* Callers that run already: who they are, and what they have open. */
static void resolve_caller(struct planning *p, struct sq_session *s, const char *run, json_t *selected)
{
    const char *service = sq_json_str_or(selected, "service", ""), *name;
    json_t *edges = json_object(), *edge;
    char path[64];

    (void)snprintf(path, sizeof path, "/v1/runs/%.30s/plan", run);
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        cleanup_json json_t *answer = NULL;
        struct sq_err e = {0};

        if (strcmp(sq_json_str_or(edge, "from", ""), service) != 0)
            continue;
        if (sq_session_ask(s, "POST", path,
                           json_pack("{s:O, s:O, s:s}", "select", json_object_get(selected, "select"), "to",
                                     json_object_get(edge, "to"), "attach", sq_json_str_or(edge, "attach", "auto")),
                           &answer, &e) < 0) {
            problem(p, (int)sq_exit_of(&e),
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

static bool calls(const struct planning *p, const json_t *selected)
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

/* Host names of edges: what they mean now. */
static void resolve_names(struct planning *p, struct sq_session *s, const char *run)
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
                           json_pack("{s:{s:s, s:O, s:O, s:O?, s:O}}", "edge", "name", name, "from",
                                     json_object_get(edge, "from"), "to", json_object_get(edge, "to"), "except",
                                     json_object_get(edge, "except"), "protocol", json_object_get(edge, "protocol")),
                           &answer, &e) < 0)
            problem(p, (int)sq_exit_of(&e), json_sprintf("%s%s%s", e.msg, e.hint[0] ? ": " : "", e.hint));
        else
            (void)json_object_set(all, name, json_object_get(answer, "names"));
    }
    if (json_object_size(all))
        (void)json_object_set(p->plan, "names", all);
    json_decref(all);
}

static bool any_names(const struct planning *p)
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

static void resolve_targets(struct planning *p, struct sq_session *s)
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
        problem(p, (int)sq_exit_of(&e), json_string(e.msg));
        return;
    }
    json_array_foreach(timeline, i, stretch)
    {
        if (can_look(p, stretch))
            resolve_one(p, s, sq_json_str_or(run, "run", ""), stretch);
    }
    json_array_foreach(selected, i, one)
    {
        if (calls(p, one))
            resolve_caller(p, s, sq_json_str_or(run, "run", ""), one);
    }
    resolve_names(p, s, sq_json_str_or(run, "run", ""));
    (void)snprintf(path, sizeof path, "/v1/runs/%.30s", sq_json_str_or(run, "run", ""));
    (void)sq_session_ask(s, "DELETE", path, NULL, NULL, NULL);
}

/* What the host says about each kind of fault that the scenario uses. */
static void look_at_host(struct planning *p, const json_t *checks)
{
    json_t *needs = json_array();
    const json_t *kind, *c;
    size_t i, k;

    json_array_foreach(json_object_get(p->plan, "faults"), i, kind){json_array_foreach(checks, k, c){
        if (strcmp(sq_json_str_or(c, "name", ""), json_string_value(kind)) != 0) continue;
    (void)json_array_append(needs, (json_t *)(uintptr_t)c);
    if (!sq_json_bool_or(c, "ok", false))
        problem(p, SQ_INFRA,
                json_sprintf("%s does not work here: %s%s%s", json_string_value(kind),
                             sq_json_str_or(c, "why", "unknown reason"), *sq_json_str_or(c, "hint", "") ? ": " : "",
                             sq_json_str_or(c, "hint", "")));
}
}
(void)json_object_set_new(p->plan, "needs", needs);
}

static int ask_injector(struct planning *p, const char *socket)
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
static void ask_senders(struct planning *p)
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
            problem(p, SQ_INFRA, json_sprintf("host %s: %s", name, e.msg));
        sq_session_close(s, NULL);
    }
}

static void heading(const struct sq_term *t, const char *text)
{
    (void)fprintf(t->out, "\n%s%s%s\n", sq_term_out(t, SQ_BOLD), text, sq_term_out(t, SQ_PLAIN));
}

static void print_ready(const struct sq_term *t, const json_t *s)
{
    const json_t *ready = json_object_get(s, "ready");
    const char *http = sq_json_str_or(ready, "http", NULL), *sock = sq_json_str_or(ready, "unix", NULL);
    char within[32];

    if (json_object_get(s, "port"))
        (void)fprintf(t->out, "port %lld, ", (long long)sq_json_int_or(s, "port", 0));
    (void)sq_fmt_duration(sq_json_int_or(ready, "within", 0), within, sizeof within);
    if (http)
        (void)fprintf(t->out, "ready when GET %s answers within %s, ", http, within);
    else if (sock)
        (void)fprintf(t->out, "ready when %s accepts within %s, ", sock, within);
    else if (ready)
        (void)fprintf(t->out, "ready when the port accepts within %s, ", within);
    (void)fprintf(t->out, "restart %s\n", sq_json_str_or(s, "restart", "never"));
}

static void print_services(const struct planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *s, *word;
    size_t i, k;

    if (json_array_size(json_object_get(p->plan, "services")))
        heading(t, "starts");
    json_array_foreach(json_object_get(p->plan, "services"), i, s)
    {
        (void)fprintf(t->out, "  %s%-18s%s", sq_term_out(t, SQ_CYAN), sq_json_str_or(s, "name", ""),
                      sq_term_out(t, SQ_PLAIN));
        json_array_foreach(json_object_get(s, "command"), k, word)
        {
            const char *w = json_string_value(word);
            bool quote = !*w || strpbrk(w, " \t\n\"'$;|&<>()*?") != NULL;

            (void)fprintf(t->out, " %s%s%s", quote ? "'" : "", w, quote ? "'" : "");
        }
        (void)fprintf(t->out, "\n%21s", "");
        print_ready(t, s);
    }
}

static void print_names(const struct sq_term *t, json_t *names)
{
    const char *name;
    json_t *list, *addr;
    size_t i;

    json_object_foreach(names, name, list)
    {
        (void)fprintf(t->out, "    %s is", name);
        json_array_foreach(list, i, addr)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " ", json_string_value(addr));
        }
        (void)fputs(" now\n", t->out);
    }
}

static void print_edges(const struct planning *p)
{
    const struct sq_term *t = p->t;
    const char *name;
    json_t *edge, *to;
    size_t i;

    if (json_object_size(json_object_get(json_object_get(p->doc, "spec"), "edges")))
        heading(t, "intercepts");
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        (void)fprintf(t->out, "  %s%-18s%s calls of %s to", sq_term_out(t, SQ_CYAN), name, sq_term_out(t, SQ_PLAIN),
                      sq_json_str_or(edge, "from", ""));
        json_array_foreach(json_object_get(edge, "to"), i, to)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " ", json_string_value(to));
        }
        json_array_foreach(json_object_get(edge, "except"), i, to)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " but not ", json_string_value(to));
        }
        (void)fputc('\n', t->out);
        print_names(t, json_object_get(json_object_get(p->plan, "names"), name));
    }
}

/* Which hosts send an endpoint, and where their injectors are asked. */
static void print_senders(const struct planning *p, const json_t *from)
{
    const json_t *hosts = json_object_get(json_object_get(p->doc, "spec"), "hosts"), *name;
    size_t i;

    json_array_foreach(from, i, name)
    {
        const json_t *host = json_object_get(hosts, json_string_value(name));

        (void)fprintf(p->t->out, "%19s%s from %s%s%s%s%s\n", "", i ? "and" : "an equal part each",
                      host ? json_string_value(name) : "this host", host ? " (" : "",
                      host ? sq_json_str_or(host, "injector", "") : "", host ? ")" : "",
                      i + 1 < json_array_size(from) ? "," : "");
    }
}

static void print_load(const struct planning *p)
{
    const json_t *load = json_object_get(json_object_get(p->doc, "spec"), "load"), *request, *stage;
    const struct sq_term *t = p->t;
    const char *name;
    json_t *endpoint;
    size_t i;

    if (json_object_size(load))
        heading(t, "sends");
    json_object_foreach((json_t *)(uintptr_t)load, name, endpoint)
    {
        char buf[32];

        request = json_object_get(endpoint, "request");
        (void)fprintf(t->out, "  %s%-18s%s ", sq_term_out(t, SQ_CYAN), name, sq_term_out(t, SQ_PLAIN));
        if (json_object_get(endpoint, "baseline"))
            (void)fprintf(t->out, "%.6g times %s", sq_json_num_or(endpoint, "multiply", 1),
                          sq_json_str_or(endpoint, "baseline", ""));
        else if (json_object_get(endpoint, "rate") || json_object_get(endpoint, "start"))
            (void)fprintf(t->out, "%.6g/s", sq_json_num_or(endpoint, "rate", sq_json_num_or(endpoint, "start", 0)));
        else
            (void)fprintf(t->out, "closed loop,");
        if (strcmp(sq_json_str_or(endpoint, "arrivals", ""), "poisson") == 0)
            (void)fprintf(t->out, " (Poisson)");
        json_array_foreach(json_object_get(endpoint, "stages"), i, stage)
        {
            (void)fprintf(t->out, ", in %s to %.6g/s",
                          sq_fmt_duration(sq_json_int_or(stage, "for", 0), buf, sizeof buf),
                          sq_json_num_or(stage, "to", 0));
        }
        (void)fprintf(t->out, " %s %s, timeout %s, at most %lld connections\n", sq_json_str_or(request, "method", ""),
                      sq_json_str_or(request, "url", ""),
                      sq_fmt_duration(sq_json_int_or(request, "timeout", 0), buf, sizeof buf),
                      (long long)sq_json_int_or(endpoint, "connections", 0));
        print_senders(p, json_object_get(endpoint, "from"));
    }
}

static void print_hit(const struct sq_term *t, const json_t *hit)
{
    const char *ns = sq_json_str_or(hit, "namespace", NULL);

    if (json_object_get(hit, "pid"))
        (void)fprintf(t->out, "%19s-> pid %lld %.100s\n", "", (long long)sq_json_int_or(hit, "pid", 0),
                      sq_json_str_or(hit, "cmd", ""));
    else if (json_object_get(hit, "interface"))
        (void)fprintf(t->out, "%19s-> %s%s%s, %s, by %s: %s\n", "", sq_json_str_or(hit, "interface", ""),
                      ns ? " of " : "", ns ? ns : "", sq_json_str_or(hit, "direction", ""),
                      sq_json_str_or(hit, "backend", ""), sq_json_str_or(hit, "match", ""));
    else if (json_object_get(hit, "addresses"))
        (void)fprintf(t->out, "%19s-> %s, by nftables: %lld networks or addresses\n", "", ns ? ns : "",
                      (long long)sq_json_int_or(hit, "addresses", 0));
}

/* Whom a fault will meet, as far as it can be known before the services are there. */
static void print_target(const struct planning *p, const json_t *stretch)
{
    const json_t *target = json_object_get(stretch, "target"), *hits = json_object_get(stretch, "hit"), *hit, *note,
                 *notes;
    const struct sq_fault_spec *spec = sq_fault_spec_find(sq_json_str_or(stretch, "uses", ""));
    const struct sq_term *t = p->t;
    size_t i, chosen = 0;
    char buf[512];

    (void)fprintf(t->out, "%19son %s\n", "",
                  sq_plan_values(spec ? sq_target_params(spec->target) : NULL, target, buf, sizeof buf));
    if (spec && spec->target == SQ_T_EDGE && sq_call_counts(target))
        (void)fprintf(t->out, "%19shits %s, of each instance\n", "", sq_call_count_text(target, buf, sizeof buf));
    if (spec && json_object_size(json_object_get(stretch, "with")))
        (void)fprintf(t->out, "%19swith %s\n", "",
                      sq_plan_values(spec->with, json_object_get(stretch, "with"), buf, sizeof buf));
    json_array_foreach(hits, i, hit)
    {
        chosen += sq_json_bool_or(hit, "chosen", true);
    }
    if (chosen < json_array_size(hits))
        (void)fprintf(t->out, "%19s%zu of these, chosen at random when the time comes:\n", "", chosen);
    json_array_foreach(hits, i, hit)
    {
        print_hit(t, hit);
    }
    notes = json_object_get(stretch, "notes");
    json_array_foreach(notes, i, note)
    {
        bool said = false;

        for (size_t k = 0; k < i; k++)
            said |= json_equal(json_array_get(notes, k), note); /* one for each direction */
        if (json_is_string(note) && !said)
            (void)fprintf(t->out, "%19s%s\n", "", json_string_value(note));
    }
}

static void print_timeline(const struct planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *s, *th;
    char length[32];
    size_t i, k;

    heading(t, "timeline (from when all services are ready)");
    json_array_foreach(json_object_get(p->plan, "timeline"), i, s)
    {
        const char *what = sq_json_str_or(s, "what", "");
        int64_t sec = sq_json_int_or(s, "at", 0) / SQ_S;
        bool fault = strcmp(what, "fault") == 0;

        (void)fprintf(t->out, "  %3lld:%02lld  %8s  ", (long long)(sec / 60), (long long)(sec % 60),
                      sq_fmt_duration(sq_json_int_or(s, "for", 0), length, sizeof length));
        if (strcmp(what, "steady_state") == 0) {
            (void)fprintf(t->out, "steady state:");
            json_array_foreach(
                json_object_get(json_object_get(json_object_get(p->doc, "spec"), "steady_state"), "thresholds"), k, th)
            {
                (void)fprintf(t->out, "%s %s", k ? "," : "", sq_json_str_or(th, "text", ""));
            }
            (void)fputs("; else nothing is injected\n", t->out);
        } else if (fault) {
            (void)fprintf(t->out, "%s%s%s %s: %s\n", sq_term_out(t, SQ_RED), sq_json_str_or(s, "uses", ""),
                          sq_term_out(t, SQ_PLAIN), sq_json_str_or(s, "step", ""), sq_json_str_or(s, "name", ""));
            print_target(p, s);
        } else {
            (void)fprintf(t->out, "%s%s %s%s\n", sq_term_out(t, SQ_DIM), what, sq_json_str_or(s, "step", ""),
                          sq_term_out(t, SQ_PLAIN));
        }
    }
    (void)fprintf(t->out, "  %3lld:%02lld  end\n", (long long)(sq_json_int_or(p->plan, "total", 0) / (60 * SQ_S)),
                  (long long)(sq_json_int_or(p->plan, "total", 0) / SQ_S % 60));
}

static void print_checks(const struct planning *p)
{
    const json_t *spec = json_object_get(p->doc, "spec"), *c;
    const struct sq_term *t = p->t;
    size_t i;

    if (json_array_size(json_object_get(spec, "verify")))
        heading(t, "verifies");
    json_array_foreach(json_object_get(spec, "verify"), i, c)
    {
        const char *step = sq_json_str_or(c, "step", sq_json_str_or(c, "after", ""));
        const char *subject = sq_json_str_or(c, "edge", sq_json_str_or(c, "endpoint", ""));

        (void)fprintf(t->out, "  %s%-18s%s %s%s%s%s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(c, "check", ""),
                      sq_term_out(t, SQ_PLAIN), json_object_get(c, "after") ? "after " : "",
                      strcmp(step, "*") == 0 ? "every step with a fault" : step, *subject ? ": " : "", subject);
    }
}

static void print_needs(const struct planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *c;
    size_t i;

    if (!json_object_get(p->plan, "needs"))
        return;
    (void)fprintf(t->out, "\n%sneeds%s (as %s)\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  geteuid() == 0 ? "root" : "an ordinary user");
    json_array_foreach(json_object_get(p->plan, "needs"), i, c)
    {
        bool ok = sq_json_bool_or(c, "ok", false);
        const char *how = sq_json_str_or(c, ok ? "how" : "why", "");

        (void)fprintf(t->out, "  %s%-18s%s %s%s%s%s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(c, "name", ""),
                      sq_term_out(t, SQ_PLAIN), ok ? "works here" : "does not work here", *how ? ": " : "", how,
                      ok && !sq_json_bool_or(c, "without_root", true) ? " (needs root)" : "");
    }
}

/* Whose calls would be taken. */
static void print_selected(const struct planning *p, const json_t *s)
{
    static const char *const fate[][2] = {
        {"leave", "left alone: neither counted nor hit"}, {"reset", "reset"}, {"wait", "waited for, 10 s"}};
    const struct sq_term *t = p->t;
    const json_t *hit;
    const char *name;
    json_t *edge;
    char buf[256];
    size_t i;

    (void)fprintf(t->out, "  %s%-18s%s exists already: %s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(s, "service", ""),
                  sq_term_out(t, SQ_PLAIN),
                  sq_plan_values(sq_target_params(SQ_T_PROCESS), json_object_get(s, "select"), buf, sizeof buf));
    json_array_foreach(json_object_get(s, "hit"), i, hit)
    {
        if (json_object_get(hit, "pid"))
            (void)fprintf(t->out, "%19s-> pid %lld %.100s\n", "", (long long)sq_json_int_or(hit, "pid", 0),
                          sq_json_str_or(hit, "cmd", ""));
        else
            (void)fprintf(t->out, "%19s-> whoever is in %s\n", "", sq_json_str_or(hit, "cgroup", ""));
    }
    if (json_object_get(s, "processes"))
        (void)fprintf(t->out, "%19s%lld processes now, with all that they forked\n", "",
                      (long long)sq_json_int_or(s, "processes", 0));
    json_array_foreach(json_object_get(s, "notes"), i, hit)
    {
        (void)fprintf(t->out, "%19s%s!%s ", "", sq_term_out(t, SQ_YELLOW), sq_term_out(t, SQ_PLAIN));
        sq_term_wrap(t, 21, json_string_value(hit));
    }
    json_object_foreach(json_object_get(s, "edges"), name, edge)
    {
        const char *how = sq_json_str_or(edge, "existing", "");

        (void)fprintf(t->out, "%19s%s: %lld connections are open", "", name,
                      (long long)sq_json_int_or(edge, "connections", 0));
        for (i = 0; i < SQ_COUNT(fate) && sq_json_int_or(edge, "connections", 0); i++)
            if (strcmp(fate[i][0], how) == 0)
                (void)fprintf(t->out, ", which would be %s", fate[i][1]);
        (void)fputc('\n', t->out);
    }
}

static void print_plan(const struct planning *p)
{
    const struct sq_term *t = p->t;
    const char *hypothesis = sq_json_str_or(p->plan, "hypothesis", "");
    const json_t *s;
    size_t i;

    (void)fprintf(t->out, "%s%s%s\n", sq_term_out(t, SQ_BOLD), sq_json_str_or(p->plan, "name", ""),
                  sq_term_out(t, SQ_PLAIN));
    if (*hypothesis)
        sq_term_wrap(t, 0, hypothesis);
    print_services(p);
    json_array_foreach(json_object_get(p->plan, "selected"), i, s)
    {
        if (i == 0)
            (void)fputc('\n', t->out);
        print_selected(p, s);
    }
    print_edges(p);
    print_load(p);
    print_timeline(p);
    print_checks(p);
    print_needs(p);
}

static int plan_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *doc = NULL;
    cleanup_json json_t *plan = NULL;
    cleanup_json json_t *problems = json_array();
    struct planning p = {.t = t, .problems = problems};
    struct sq_err e = {0};
    const json_t *text;
    size_t i;
    int code = sq_load_scenario(a, t, a->argv[0], false, &doc);

    if (code)
        return code;
    plan = sq_plan_make(doc, &e);
    if (!plan || !problems)
        return sq_term_fail(t, &e);
    p.doc = doc;
    p.plan = plan;
    look_for_programs(&p);
    if (!sq_args_has(a, "offline"))
        code = sq_begin(t);
    if (code == 0 && !sq_args_has(a, "offline"))
        code = ask_injector(&p, sq_begin_injector(sq_args_value(a, "injector")));
    if (code == 0 && !sq_args_has(a, "offline"))
        ask_senders(&p);
    if (code)
        return code;
    (void)json_object_set(plan, "problems", problems);
    if (sq_args_has(a, "json")) {
        (void)json_dumpf(plan, t->out, JSON_INDENT(2));
        (void)fputc('\n', t->out);
        return p.code;
    }
    print_plan(&p);
    if (json_array_size(problems))
        heading(t, "problems");
    json_array_foreach(problems, i, text)
    {
        (void)fprintf(t->out, "  %s", sq_term_out(t, SQ_RED));
        sq_term_wrap(t, 2, json_string_value(text) ? json_string_value(text) : "");
        (void)fputs(sq_term_out(t, SQ_PLAIN), t->out);
    }
    return p.code;
}

const struct sq_command sq_cmd_plan = {
    .name = "plan",
    .args = "FILE",
    .summary = "what a scenario would do to which process, without doing it",
    .text = "Shows what `squall run` would start, intercept, send and break, when, and whether this host and this\n"
            "user can do it. Processes that exist already are looked for; nothing is touched.\n\n"
            "  squall plan scenarios/demo.yaml\n"
            "  squall plan --offline gameday.yaml     without an injector\n\n"
            "Exit code 0 when a run could begin, 2 when something that the scenario names is not there,\n"
            "5 when this host or this user can't do it.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .complete = SQ_COMPLETE_SCENARIO,
    .main = plan_main,
};
