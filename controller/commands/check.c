/* squall check: is a scenario, or a file of SLOs, right? */
#include "commands/load.h"
#include "scenario/slo.h"

static const struct sq_option options[] = {
    {"var", 0, "NAME=VALUE", "set a variable of the scenario; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"json", 0, NULL, "print the normalized scenario as JSON (one file only)", SQ_COMPLETE_NONE, NULL},
    {"strict", 0, NULL, "treat warnings as errors", SQ_COMPLETE_NONE, NULL},
    {"quiet", 'q', NULL, "say nothing about what is right", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static int check_file(const struct sq_args *a, struct sq_term *t, const char *file, const struct sq_vars *vars)
{
    struct sq_diags d;
    json_t *doc = NULL;
    int code = SQ_PASS;

    sq_diags_init(&d, file);
    if (sq_slo_file_is(file))
        (void)sq_slo_check(&doc, &d);
    else
        (void)sq_scenario_check(vars, &doc, &d);
    sq_load_print(t, &d, false);
    if (d.errors)
        code = d.cls == SQ_C_INTERNAL ? SQ_INFRA : SQ_USAGE;
    else if (d.warnings && sq_args_has(a, "strict"))
        code = SQ_USAGE;
    if (doc && sq_args_has(a, "json")) {
        (void)json_dumpf(doc, t->out, JSON_INDENT(2) | JSON_ENSURE_ASCII);
        (void)fputc('\n', t->out);
    } else if (!d.errors && !sq_args_has(a, "quiet")) {
        (void)fprintf(t->out, "%s: %sok%s", file, sq_term_out(t, SQ_GREEN), sq_term_out(t, SQ_PLAIN));
        if (d.warnings)
            (void)fprintf(t->out, ", %u warning%s", d.warnings, d.warnings == 1 ? "" : "s");
        (void)fputc('\n', t->out);
    }
    json_decref(doc);
    sq_diags_free(&d);
    return code;
}

static int check_main(const struct sq_args *a, struct sq_term *t)
{
    struct sq_vars vars;
    int code;

    if (a->argc > 1 && sq_args_has(a, "json"))
        return sq_term_usage(t, NULL, "check: --json takes one file");
    code = sq_load_vars(a, t, &vars);
    if (code)
        return code;
    for (int i = 0; i < a->argc; i++) {
        int r = check_file(a, t, a->argv[i], &vars);

        code = r > code ? r : code;
    }
    sq_vars_free(&vars);
    return code;
}

const struct sq_command sq_cmd_check = {
    .name = "check",
    .args = "FILE...",
    .summary = "is a scenario or a file of SLOs right? errors with file:line:column",
    .text =
        "Reads scenarios and says everything that is wrong with them, without touching anything:\n"
        "misspelt keys, wrong types, references to nothing, checks that could never be decided,\n"
        "loads too small to prove a threshold (a warning). Takes files of SLOs, too (OpenSLO v1 or the short form).\n\n"
        "  squall check scenarios/demo.yaml\n"
        "  squall check --var rate=100/s --strict gameday.yaml\n"
        "  squall check --json gameday.yaml      the scenario with all its defaults\n\n"
        "Exit code 0 when all files are right, 2 when one is not.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .complete = SQ_COMPLETE_SCENARIO,
    .main = check_main,
};
