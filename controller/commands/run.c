/* squall run: a scenario from its first request to its verdict. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commands/begin.h"
#include "commands/command.h"
#include "commands/load.h"
#include "report/report.h"
#include "run/executor.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/verdict.h"

static const struct sq_option options[] = {
    {"var", 0, "NAME=VALUE", "set a variable of the scenario; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"out", 'o', "DIR", "the run's folder (default: squall-runs/<time>-<name>-<hex>)", SQ_COMPLETE_DIR, NULL},
    {"seed", 0, "N", "seed of every random choice, to repeat one (default: drawn, and recorded)", SQ_COMPLETE_NONE,
     NULL},
    {"approve", 0, "NAME", "who answers for performance budgets that this run exceeds and that require approval",
     SQ_COMPLETE_NONE, NULL},
    {"reason", 0, "TEXT", "why, with --approve; both go into the evidence", SQ_COMPLETE_NONE, NULL},
    {"injector", 0, "SOCKET", "use this injector (default: $SQUALL_INJECTOR, else a private one)", SQ_COMPLETE_FILE,
     NULL},
    {"json", 0, NULL, "print report.json instead of the summary", SQ_COMPLETE_NONE, NULL},
    {"junit", 0, "FILE", "write a JUnit XML report here, too", SQ_COMPLETE_FILE, NULL},
    {"markdown", 0, "FILE", "write a Markdown report here, too", SQ_COMPLETE_FILE, NULL},
    {"html", 0, "FILE", "write the HTML report here, too", SQ_COMPLETE_FILE, NULL},
    {"quiet", 'q', NULL, "no progress, no summary: only errors, and the exit code", SQ_COMPLETE_NONE, NULL},
    {"no-color", 0, NULL, "no colours (NO_COLOR does the same)", SQ_COMPLETE_NONE, NULL},
    {"keep-logs", 0, NULL, "keep what the private injector said, even when all went well", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

/* One more copy of a report: from an option, else from the scenario's spec.report. */
static int copy_to(const struct sq_args *a, const json_t *doc, const char *format, const struct sq_report_in *in,
                   struct sq_err *e)
{
    const json_t *wanted = json_object_get(json_object_get(doc, "spec"), "report");
    const char *path = sq_args_value(a, format), *name = format;
    if (!path)
        path = sq_json_str_or(wanted, format, NULL);
    const struct sq_report *r = path ? sq_report_find(name) : NULL;
    return r ? sq_report_to(r, path, in, e) : 0;
}

static int write_reports(const struct sq_args *a, const struct sq_term *t, const json_t *doc, const char *dir,
                         const struct sq_report_in *in)
{
    static const char *const formats[] = {"json", "junit", "markdown", "html"};
    struct sq_err e = {0};
    int code = 0;
    if (sq_report_all(dir, in, &e))
        code = sq_term_fail(t, &e);
    for (size_t i = 0; i < SQ_COUNT(formats); i++) {
        struct sq_err one = {0};
        /* --json is about standard output; only the scenario names a file for it. */
        const json_t *wanted = json_object_get(json_object_get(doc, "spec"), "report");
        int rc = i == 0 ? 0 : copy_to(a, doc, formats[i], in, &one);
        if (i == 0 && sq_json_str_or(wanted, "json", NULL))
            rc = sq_report_to(sq_report_find("json"), sq_json_str_or(wanted, "json", NULL), in, &one);
        if (rc)
            code = sq_term_fail(t, &one);
    }
    const char *shown = sq_args_has(a, "json") ? "json" : sq_args_has(a, "quiet") ? NULL : "terminal";
    const struct sq_report *r = shown ? sq_report_find(shown) : NULL;
    struct sq_err last = {0};
    if (r && r->write(t->out, in, &last))
        code = sq_term_fail(t, &last);
    return code;
}

static int judge(const struct sq_args *a, const struct sq_term *t, const json_t *doc,
                 const struct sq_execute_result *res)
{
    struct sq_err e = {0};
    struct sq_evidence *ev = NULL;
    cleanup_json json_t *verdict = NULL;
    int code, rc = sq_evidence_read(res->dir, &ev, &e);
    if (!rc)
        rc = sq_verify(ev, &verdict, &e);
    if (!rc)
        rc = sq_verdict_write(res->dir, verdict, &e);
    if (rc) {
        code = sq_term_fail(t, &e);
    } else {
        struct sq_report_in in = {.ev = ev,
                                  .verdict = verdict,
                                  .width = t->tty ? (unsigned)t->width : 0,
                                  .colour = t->color_out && !sq_args_has(a, "no-color")};
        code = (int)sq_json_int_or(verdict, "exit", SQ_INFRA);
        int failed = write_reports(a, t, doc, res->dir, &in);
        if (failed && code == SQ_PASS)
            code = failed;
        if (!sq_args_has(a, "quiet") && !sq_args_has(a, "json"))
            (void)fprintf(t->out, "\n%sevidence and reports: %s%s\n", sq_term_out(t, SQ_DIM), res->dir,
                          sq_term_out(t, SQ_PLAIN));
    }
    sq_evidence_free(ev);
    return code;
}

static void say_left(const struct sq_term *t, const json_t *left)
{
    size_t i;
    json_t *s;
    (void)fprintf(t->err, "%ssquall: clean-up is incomplete:%s\n", sq_term_err(t, SQ_RED), sq_term_err(t, SQ_PLAIN));
    json_array_foreach(left, i, s)
    {
        (void)fprintf(t->err, "  %s\n", json_string_value(s));
    }
    (void)fprintf(t->err, "  hint: the next start of any squall program tries again; squall halt does it now\n");
}

static int execute(const struct sq_args *a, struct sq_term *t, const json_t *doc, uint64_t seed)
{
    struct sq_progress_opts po = {.to = t->err, .quiet = sq_args_has(a, "quiet"), .plain = sq_args_has(a, "no-color")};
    struct sq_execute_result *res = calloc(1, sizeof(*res));
    struct sq_err e = {0};
    if (!res)
        return SQ_INFRA;
    struct sq_execute_opts o = {
        .scenario = doc,
        .file = a->argv[0],
        .out = sq_args_value(a, "out"),
        .approved_by = sq_args_value(a, "approve"),
        .approved_why = sq_args_value(a, "reason"),
        .injector = sq_begin_injector(sq_args_value(a, "injector")),
        .seeded = sq_args_has(a, "seed"),
        .seed = seed,
        .keep_logs = sq_args_has(a, "keep-logs"),
        .progress = sq_progress_new(&po),
    };
    int rc = sq_execute(&o, res, &e);
    sq_progress_free(o.progress);
    int code = rc ? sq_term_fail(t, &e) : judge(a, t, doc, res);
    if (!rc && !res->clean) {
        say_left(t, res->left);
        code = SQ_UNCLEAN;
    }
    json_decref(res->left);
    free(res);
    return code;
}

static int run_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *doc = NULL;
    const char *text = sq_args_value(a, "seed");
    uint64_t seed = 0;
    if (text) {
        char *end = NULL;
        errno = 0;
        seed = strtoull(text, &end, 10);
        if (errno || end == text || *end || *text == '-' || seed >> 53)
            return sq_term_usage(t, "an integer below 2^53, as a run's evidence has it",
                                 "run: \"%.40s\" can't be a seed", text);
    }
    const char *by = sq_args_value(a, "approve"), *why = sq_args_value(a, "reason");
    if (!by != !why || (by && (!*by || !*why)))
        return sq_term_usage(t, "--approve ana --reason \"until the cache is back\"",
                             "run: --approve and --reason go together");
    int code = sq_load_scenario(a, t, a->argv[0], sq_args_has(a, "quiet"), &doc);
    if (code == SQ_PASS)
        code = sq_begin(t);
    return code ? code : execute(a, t, doc, seed);
}

const struct sq_command sq_cmd_run = {
    .name = "run",
    .args = "FILE",
    .summary = "run a scenario: faults, load, checks, a verdict",
    .text = "Runs a scenario from its first request to its verdict. Starts its services, waits until they are\n"
            "ready, sends its load, makes sure that the steady state holds, applies one fault after the other,\n"
            "takes each of them back, and decides the checks from the evidence.\n\n"
            "  squall run scenarios/demo.yaml\n"
            "  squall run gameday.yaml --var rate=100/s --junit out/junit.xml\n"
            "  squall run gameday.yaml --seed 4711         the same random choices again\n\n"
            "Ctrl-C takes the faults back and ends the run as aborted. Everything that happened is in the run's\n"
            "folder; `squall verify` and `squall report` work from there, offline.\n\n"
            "Exit codes: 0 pass, 1 fail, 2 invalid scenario, 3 inconclusive, 4 aborted, 5 infrastructure,\n"
            "6 something could not be taken back.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .complete = SQ_COMPLETE_SCENARIO,
    .main = run_main,
};
