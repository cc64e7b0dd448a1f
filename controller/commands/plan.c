/* squall plan: what would be done to which process, without touching anything. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/begin.h"
#include "commands/load.h"
#include "commands/plan.h"
#include "run/ready.h"
#include "scenario/plan.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static const struct sq_option options[] = {
    {"var", 0, "NAME=VALUE", "set a variable of the scenario; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"injector", 0, "SOCKET", "ask this injector (default: $SQUALL_INJECTOR, else a private one)", SQ_COMPLETE_FILE,
     NULL},
    {"offline", 0, NULL, "ask no injector: don't look for processes, nor at what works here", SQ_COMPLETE_NONE, NULL},
    {"json", 0, NULL, "print the plan as JSON", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

void sq_planning_problem(struct sq_planning *p, int code, json_t *text)
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

static void look_for_programs(struct sq_planning *p)
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
        sq_planning_problem(p, SQ_USAGE,
                            json_sprintf("service %s: there is no program \"%s\" that can be run", service, program));
    }
}

static void look_for_ports(struct sq_planning *p)
{
    const json_t *s;
    size_t i;

    json_array_foreach(json_object_get(p->plan, "services"), i, s)
    {
        json_int_t port = sq_json_int_or(s, "port", 0);

        if (port > 0 && port <= UINT16_MAX && sq_port_taken((uint16_t)port))
            sq_planning_problem(p, SQ_INFRA,
                                json_sprintf("service %s: something else has port %lld already: ss -ltnp 'sport = "
                                             ":%lld' says who",
                                             sq_json_str_or(s, "name", ""), (long long)port, (long long)port));
    }
}

static int plan_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *doc = NULL;
    cleanup_json json_t *plan = NULL;
    cleanup_json json_t *problems = json_array();
    struct sq_planning p = {.t = t, .problems = problems};
    struct sq_err e = {0};
    int code = sq_load_scenario(a, t, a->argv[0], false, &doc);

    if (code)
        return code;
    plan = sq_plan_make(doc, &e);
    if (!plan || !problems)
        return sq_term_fail(t, &e);
    p.doc = doc;
    p.plan = plan;
    look_for_programs(&p);
    look_for_ports(&p);
    if (!sq_args_has(a, "offline"))
        code = sq_begin(t);
    if (code == 0 && !sq_args_has(a, "offline"))
        code = sq_planning_ask(&p, sq_begin_injector(sq_args_value(a, "injector")));
    if (code == 0 && !sq_args_has(a, "offline"))
        sq_planning_ask_senders(&p);
    if (code)
        return code;
    (void)json_object_set(plan, "problems", problems);
    if (sq_args_has(a, "json")) {
        (void)json_dumpf(plan, t->out, JSON_INDENT(2));
        (void)fputc('\n', t->out);
        return p.code;
    }
    sq_planning_print(&p);
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
