/* squall report: a document from the evidence of a run. */
#include <errno.h>
#include <string.h>

#include "commands/command.h"
#include "report/report.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/verdict.h"

static const struct sq_option options[] = {
    {"format", 'f', "FORMAT", "terminal, json, junit, markdown, html or hlog (default: all that are files, into RUN)",
     SQ_COMPLETE_WORDS, "terminal|json|junit|markdown|html|hlog"},
    {"output", 'o', "FILE", "where to; - is standard output (default with --format)", SQ_COMPLETE_FILE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static int write_reports(const struct sq_args *a, struct sq_term *t, const struct sq_evidence *ev, struct sq_err *e)
{
    const char *format = sq_args_value(a, "format"), *output = sq_args_value(a, "output");
    const struct sq_report *report = format ? sq_report_find(format) : NULL;
    struct sq_report_in in = {.ev = ev, .width = t->tty ? (unsigned)t->width : 0, .colour = t->color_out && !output};
    cleanup_json json_t *verdict = NULL;
    int r = sq_verify(ev, &verdict, e);

    if (r < 0)
        return r;
    in.verdict = verdict;
    if (report)
        return sq_report_to(report, output ? output : "-", &in, e);
    r = sq_report_all(a->argv[0], &in, e);
    if (r == 0)
        (void)fprintf(t->out, "%s/report.html\n", a->argv[0]);
    return r;
}

static int report_main(const struct sq_args *a, struct sq_term *t)
{
    const char *format = sq_args_value(a, "format");
    struct sq_evidence *ev = NULL;
    struct sq_err e = {0};
    int r;

    if (format && !sq_report_find(format))
        return sq_term_usage(t, "one of terminal, json, junit, markdown, html, hlog",
                             "report: there is no format \"%s\"", format);
    if (!format && sq_args_has(a, "output"))
        return sq_term_usage(t, "say which with --format", "report: --output takes one format");
    r = sq_evidence_read(a->argv[0], &ev, &e);
    if (r == 0)
        r = write_reports(a, t, ev, &e);
    sq_evidence_free(ev);
    return r < 0 ? sq_term_fail(t, &e) : SQ_PASS;
}

const struct sq_command sq_cmd_report = {
    .name = "report",
    .args = "RUN",
    .summary = "a document from the evidence of a run",
    .text = "Writes reports from a run's folder, offline: the evidence is all that is read. Without --format: "
            "report.html,\n"
            "report.md, report.json and junit.xml into the folder.\n\n"
            "  squall report squall-runs/20261121-093000-demo-1a2b\n"
            "  squall report --format markdown RUN >> \"$GITHUB_STEP_SUMMARY\"\n"
            "  squall report --format html -o /tmp/storm.html RUN\n\n"
            "Exit code 0 when the document was written, whatever the verdict; `squall verify` gives the verdict.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .complete = SQ_COMPLETE_RUN,
    .main = report_main,
};
