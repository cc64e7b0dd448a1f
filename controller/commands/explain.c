/* squall explain: the language, the faults and the checks, from the tables that validate them. */
#include <stdlib.h>
#include <string.h>

#include "commands/command.h"
#include "scenario/schema.h"
#include "squall/cleanup.h"
#include "squall/preset.h"
#include "verify/check.h"

static const struct {
    const char *name, *summary, *text;
} topics[] = {
    {"values", "durations, rates, percentages, counts, errno and signal names",
     "duration     200ms, 1.5s, 2m, 1h, 1m30s, 10us\n"
     "rate         60/s, 300/m, 3600/h\n"
     "percentage   30%, 0.1%\n"
     "count        1 (so many), 30% (such a share, rounded up), all\n"
     "errno        ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ... (EINTR is refused)\n"
     "signal       KILL, TERM, SIGSEGV, 9\n"},
    {"thresholds", "what steady_state and the check slo take",
     "p(95)<500ms       95 % of the requests took less than 500 ms, counted from the planned send\n"
     "p(99.9)<=1s       any percentile between 0 and 100\n"
     "error_rate<0.1%   share of bad requests: wrong status or body, timeout, refused, reset, never sent\n"
     "sent_rate>=57/s   requests sent per second\n\n"
     "steady_state compares what was measured, over all endpoints together. The check slo decides by an interval (95 "
     "%\n"
     "by default): pass when the limit is beyond its far end, fail when beyond its near end, else inconclusive. A\n"
     "percentile needs requests to be proven: 59 for p95, 299 for p99, 2995 for p99.9; error_rate<0.1% needs 2995\n"
     "without a bad one. `squall check` warns when a load is too small.\n"},
    {"presets", "whole network paths by name: 3g, satellite-leo, cross-region-eu-us, ...", NULL},
    {"variables", "${name}, --var, ${instance}, ${port}",
     "${name}             replaced in any value, after parsing: a value can't change the document's shape\n"
     "${name:-default}    with a default\n"
     "$${                 a literal ${\n"
     "vars: {rate: 60/s}  declares one with its default; --var rate=100/s sets it\n\n"
     "In a service's command, env, cwd and ready, ${instance} (0, 1, ...) and ${port} are the instance's own.\n"
     "Inside [ ] and { } YAML wants quotes: [\"${shop}\", --port, \"${port}\"]\n"},
};

static const char example[] = "apiVersion: squall/v1\n"
                              "kind: Scenario\n"
                              "metadata: {name: shop}\n"
                              "spec:\n"
                              "  hypothesis: With payments 2 s late, checkout answers as fast as ever.\n"
                              "  services:\n"
                              "    payments: {command: [./payments, \"${port}\"], port: 18081}\n"
                              "    checkout: {command: [./checkout, \"${port}\"], port: 18080}\n"
                              "  edges:\n"
                              "    checkout->payments: {from: checkout, to: [service:payments]}\n"
                              "  load:\n"
                              "    cart:\n"
                              "      executor: constant-arrival-rate\n"
                              "      rate: 60/s\n"
                              "      request: {url: \"http://127.0.0.1:18080/cart\", timeout: 3s}\n"
                              "  steady_state: {for: 10s, thresholds: [\"p(95)<500ms\", \"error_rate<1%\"]}\n"
                              "  steps:\n"
                              "    - id: slow\n"
                              "      uses: call/latency\n"
                              "      target: {edge: checkout->payments}\n"
                              "      with: {delay: 2s}\n"
                              "      duration: 30s\n"
                              "      settle: 10s\n"
                              "  verify:\n"
                              "    - {check: fault_felt, step: slow}\n"
                              "    - {check: slo, step: slow, thresholds: [\"p(95)<500ms\", \"error_rate<1%\"]}\n"
                              "    - {check: recovered, after: slow, within: 10s, hold: 5s}\n"
                              "    - {check: clean}\n";

static const struct sq_option options[] = {
    {"names", 0, NULL, "print what can be explained, one a line", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static void heading(const struct sq_term *t, const char *text)
{
    (void)fprintf(t->out, "\n%s%s%s\n", sq_term_out(t, SQ_BOLD), text, sq_term_out(t, SQ_PLAIN));
}

static void line(const struct sq_term *t, const char *name, const char *text)
{
    (void)fprintf(t->out, "  %s%-20s%s ", sq_term_out(t, SQ_CYAN), name, sq_term_out(t, SQ_PLAIN));
    sq_term_wrap(t, 23, text);
}

/* One parameter: its name, then what it takes, then what it means. */
static void parameter(const struct sq_term *t, const struct sq_param *p, const char *type)
{
    char text[1024];

    (void)snprintf(text, sizeof text, "%s%s%s%s%s\n%s", type, p->flags & SQ_REQUIRED ? ", required" : "",
                   p->def && *p->def ? ", default " : "", p->def && *p->def ? p->def : "", "", p->doc ? p->doc : "");
    line(t, p->name, text);
}

static const char *type_of(const struct sq_param *p)
{
    return p->type == SQ_P_ENUM ? p->values : sq_ptype_name(p->type);
}

/* `except` takes what `match` does: said once. */
static bool same_fields_before(const struct sq_param *params, const struct sq_param *p)
{
    for (; params != p; params++)
        if (params->fields == p->fields)
            return true;
    return false;
}

static void parameters(const struct sq_term *t, const char *title, const struct sq_param *params)
{
    heading(t, title);
    if (!params->name)
        (void)fprintf(t->out, "  takes no parameters\n");
    for (const struct sq_param *p = params; p->name; p++)
        parameter(t, p, type_of(p));
    for (const struct sq_param *p = params; p->name; p++) {
        char inner[128];

        if (!p->fields || same_fields_before(params, p))
            continue;
        (void)snprintf(inner, sizeof inner, "%s: %s", title, p->name);
        parameters(t, inner, p->fields);
    }
}

static void explain_fault(const struct sq_term *t, const struct sq_fault_spec *f)
{
    (void)fprintf(t->out, "%s%s%s\n  ", sq_term_out(t, SQ_BOLD), f->name, sq_term_out(t, SQ_PLAIN));
    sq_term_wrap(t, 2, f->doc);
    parameters(t, "target", sq_target_params(f->target));
    parameters(t, "with", f->with);
}

static void explain_check(const struct sq_term *t, const struct sq_check *k)
{
    (void)fprintf(t->out, "%s%s%s\n  ", sq_term_out(t, SQ_BOLD), k->name, sq_term_out(t, SQ_PLAIN));
    sq_term_wrap(t, 2, k->doc);
    parameters(t, "parameters", k->params);
    for (const struct sq_check_map *m = k->maps; m && m->key; m++)
        parameters(t, m->key, m->params);
}

static void explain_section(const struct sq_term *t, const struct sq_section *s)
{
    (void)fprintf(t->out, "%s%s%s\n  ", sq_term_out(t, SQ_BOLD), s->name, sq_term_out(t, SQ_PLAIN));
    sq_term_wrap(t, 2, s->doc);
    heading(t, "keys");
    for (const struct sq_field *f = s->fields; f->p.name; f++) {
        char type[128];

        parameter(t, &f->p, sq_field_type(f, type, sizeof type));
    }
    if (s == &sq_section_scenario) {
        heading(t, "for example");
        (void)fputs(example, t->out);
    }
}

/* Each preset: what it is, what it stands for, where its numbers come from. */
static void explain_presets(const struct sq_term *t)
{
    size_t n;
    const struct sq_preset *all = sq_presets(&n);

    (void)fputs("A network fault's `preset` stands for the parameters shown; what is given beside it overrides them.\n"
                "It acts on one direction, as the fault does: a delay is half of the path's round trip, NAME is what a "
                "client\nsends, NAME-down what it receives. `direction: both` makes the whole round trip.\n\n",
                t->out);
    for (size_t i = 0; i < n; i++) {
        char text[1024];

        (void)snprintf(text, sizeof text, "%s\n%s\nsource: %s", all[i].doc, all[i].with, all[i].source);
        line(t, all[i].name, text);
    }
}

static void entry(const struct sq_term *t, bool names, const char *name, const char *doc)
{
    if (names)
        (void)fprintf(t->out, "%s\n", name);
    else
        line(t, name, doc);
}

static void list_faults(const struct sq_term *t, bool names)
{
    const struct sq_fault_spec *const *all;
    size_t n = sq_fault_specs(&all);

    if (!names)
        heading(t, "faults (uses:)");
    for (size_t i = 0; i < n; i++)
        entry(t, names, all[i]->name, all[i]->doc);
}

static void list_checks(const struct sq_term *t, bool names)
{
    const struct sq_check *const *all;
    size_t n = sq_checks(&all);

    if (!names)
        heading(t, "checks (verify:)");
    for (size_t i = 0; i < n; i++)
        entry(t, names, all[i]->name, all[i]->doc);
}

static void list_sections(const struct sq_term *t, bool names)
{
    size_t n;
    const struct sq_section *const *all = sq_sections(&n);

    if (!names)
        heading(t, "parts of a scenario");
    for (size_t i = 0; i < n; i++)
        entry(t, names, all[i]->name, all[i]->doc);
    if (!names)
        heading(t, "also");
    for (size_t i = 0; i < SQ_COUNT(topics); i++)
        entry(t, names, topics[i].name, topics[i].summary);
}

static void list_all(const struct sq_term *t, bool names)
{
    if (!names)
        (void)fprintf(t->out, "squall explain NAME tells more about each of these.\n");
    list_faults(t, names);
    list_checks(t, names);
    list_sections(t, names);
}

/* --- a key, wherever it stands --- */

/* How often PARAMS, and what is in them, have a key WORD; each is shown below WHERE. */
static size_t key_in(const struct sq_term *t, const char *where, const struct sq_param *params, const char *word)
{
    size_t n = 0;

    for (const struct sq_param *p = params; p && p->name; p++) {
        char inner[128];

        if (strcmp(p->name, word) == 0) {
            heading(t, where);
            parameter(t, p, type_of(p));
            n++;
        }
        (void)snprintf(inner, sizeof inner, "%s: %s", where, p->name);
        if (p->fields && !same_fields_before(params, p))
            n += key_in(t, inner, p->fields, word);
    }
    return n;
}

static size_t key_in_faults(const struct sq_term *t, const char *word)
{
    const struct sq_fault_spec *const *all;
    size_t n = sq_fault_specs(&all), found = 0;
    char where[128];

    for (size_t i = 0; i < n; i++) {
        const char *slash = strchr(all[i]->name, '/');
        bool said = false;

        for (size_t k = 0; k < i; k++)
            said |= all[k]->target == all[i]->target;
        (void)snprintf(where, sizeof where, "target of %.*s*", slash ? (int)(slash + 1 - all[i]->name) : 0,
                       all[i]->name);
        if (!said)
            found += key_in(t, where, sq_target_params(all[i]->target), word);
        (void)snprintf(where, sizeof where, "with, of %s", all[i]->name);
        found += key_in(t, where, all[i]->with, word);
    }
    return found;
}

static bool explain_key(const struct sq_term *t, const char *word)
{
    const struct sq_check *const *checks;
    size_t sections, n = sq_checks(&checks), found = 0;
    const struct sq_section *const *all = sq_sections(&sections);
    char where[128], type[128];

    for (size_t i = 0; i < sections; i++)
        for (const struct sq_field *f = all[i]->fields; f->p.name; f++)
            if (strcmp(f->p.name, word) == 0) {
                heading(t, all[i]->name);
                parameter(t, &f->p, sq_field_type(f, type, sizeof type));
                found++;
            }
    found += key_in_faults(t, word);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(where, sizeof where, "check %s", checks[i]->name);
        found += key_in(t, where, checks[i]->params, word);
        for (const struct sq_check_map *m = checks[i]->maps; m && m->key; m++) {
            (void)snprintf(where, sizeof where, "check %s: %s", checks[i]->name, m->key);
            found += key_in(t, where, m->params, word);
        }
    }
    return found > 0;
}

/* Every name that can be explained, for the nearest one to a misspelt. */
static int no_such(const struct sq_term *t, const char *word)
{
    const struct sq_fault_spec *const *faults;
    const struct sq_check *const *checks;
    size_t sections, n = 0, nf = sq_fault_specs(&faults), nc = sq_checks(&checks);
    const struct sq_section *const *all = sq_sections(&sections);
    const char *names[256], *near;
    char hint[128];

    for (size_t i = 0; i < nf && n < SQ_COUNT(names); i++)
        names[n++] = faults[i]->name;
    for (size_t i = 0; i < nc && n < SQ_COUNT(names); i++)
        names[n++] = checks[i]->name;
    for (size_t i = 0; i < sections && n < SQ_COUNT(names); i++)
        names[n++] = all[i]->name;
    for (size_t i = 0; i < SQ_COUNT(topics) && n < SQ_COUNT(names); i++)
        names[n++] = topics[i].name;
    near = sq_nearest(word, names, n);
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    return sq_term_usage(t, near ? hint : "squall explain lists all", "there is nothing called \"%.60s\" to explain",
                         word);
}

static int explain_main(const struct sq_args *a, struct sq_term *t)
{
    const char *word = a->argc ? a->argv[0] : NULL;
    const struct sq_fault_spec *fault;
    const struct sq_check *check;
    const struct sq_section *section;

    if (!word) {
        list_all(t, sq_args_has(a, "names"));
        return SQ_PASS;
    }
    fault = sq_fault_spec_find(word);
    check = sq_check_find(word);
    section = sq_section_find(word);
    if (fault)
        explain_fault(t, fault);
    if (check)
        explain_check(t, check);
    if (section)
        explain_section(t, section);
    for (size_t i = 0; i < SQ_COUNT(topics); i++) {
        if (strcmp(topics[i].name, word) == 0) {
            if (topics[i].text)
                (void)fputs(topics[i].text, t->out);
            else
                explain_presets(t);
            return SQ_PASS;
        }
    }
    return fault || check || section || explain_key(t, word) ? SQ_PASS : no_such(t, word);
}

const struct sq_command sq_cmd_explain = {
    .name = "explain",
    .args = "[NAME]",
    .summary = "the faults, the checks and the keys of a scenario",
    .text = "Explains a fault, a check or a part of a scenario: what it takes, of which type, with which default.\n"
            "What it prints comes from the same tables that `squall check` checks by.\n\n"
            "  squall explain                 everything, one line each\n"
            "  squall explain call/latency\n"
            "  squall explain circuit_breaker\n"
            "  squall explain silent_for      a key, wherever it stands\n"
            "  squall explain scenario        with an example to begin from",
    .options = options,
    .min_args = 0,
    .max_args = 1,
    .complete = SQ_COMPLETE_TOPIC,
    .main = explain_main,
};
