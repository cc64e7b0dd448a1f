/* Markdown, for a merge request, a wiki or a job summary. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"
#include "report/series.h"
#include "report/slos.h"
#include "squall/cleanup.h"
#include "squall/json.h"

/* Into a table cell: no line break, no cell border, no markup of its own. */
static void cell(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("|\\`*_<>[]", *text))
            (void)fputc('\\', out);
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
    }
}

static const char *mark(const char *verdict)
{
    if (strcmp(verdict, "pass") == 0)
        return "✅ pass";
    if (strcmp(verdict, "fail") == 0)
        return "❌ fail";
    return strcmp(verdict, "inconclusive") == 0 ? "❔ inconclusive" : "⛔ aborted";
}

static void checks(FILE *out, const json_t *list)
{
    const json_t *c;
    size_t i;

    (void)fputs("## Checks\n\n| | check | step | observed | limit | n | interval |\n|---|---|---|---|---|---:|---|\n",
                out);
    json_array_foreach(list, i, c)
    {
        const char *subject = sq_json_str_or(c, "subject", "");

        (void)fprintf(out, "| %s | ", mark(sq_verdict_of(c)));
        cell(out, sq_json_str_or(c, "check", ""));
        if (subject[0]) {
            (void)fputs(" ", out);
            cell(out, subject);
        }
        (void)fputs(" | ", out);
        cell(out, sq_json_str_or(c, "step", ""));
        (void)fputs(" | ", out);
        cell(out, sq_json_str_or(c, "observed", ""));
        (void)fputs(" | ", out);
        cell(out, sq_json_str_or(c, "limit", ""));
        (void)fprintf(out, " | %lld | ", (long long)sq_json_int_or(c, "n", 0));
        cell(out, sq_json_str_or(c, "interval", ""));
        (void)fputs(" |\n", out);
    }
    (void)fputs("\n", out);
    json_array_foreach(list, i, c)
    {
        if (strcmp(sq_verdict_of(c), "pass") == 0)
            continue;
        (void)fprintf(out, "- %s **", mark(sq_verdict_of(c)));
        cell(out, sq_json_str_or(c, "check", ""));
        (void)fputs("**: ", out);
        cell(out, sq_json_str_or(c, "why", ""));
        (void)fputs("\n", out);
    }
}

static void slos(FILE *out, const json_t *list)
{
    char note[256];
    const json_t *o;
    size_t i;

    (void)fputs("\n## SLOs\n\n| SLO | indicator | target | good | of the budget | alerts that would fire |\n"
                "|---|---|---:|---:|---:|---|\n",
                out);
    json_array_foreach(list, i, o)
    {
        struct sq_slo_row r;

        sq_slo_row_of(o, &r);
        (void)fputs("| ", out);
        cell(out, r.name);
        (void)fputs(" | ", out);
        cell(out, r.indicator);
        (void)fprintf(out, " | %s | %s | %s of %s | %s", r.target, r.observed, r.spent, r.window,
                      strcmp(r.tone, "fail") == 0   ? "🚨 "
                      : strcmp(r.tone, "warn") == 0 ? "⚠️ "
                                                    : "");
        cell(out, r.alerts);
        (void)fputs(" |\n", out);
    }
    if (sq_slo_note(list, note, sizeof note)[0])
        (void)fprintf(out, "\n%s\n", note);
}

static void number(FILE *out, int digits, const char *unit, double v)
{
    if (isfinite(v))
        (void)fprintf(out, "%.*f%s", digits, v, unit);
    else
        (void)fputs("–", out);
    (void)fputs(" | ", out);
}

static void latency(FILE *out, double ms)
{
    number(out, ms < 1 ? 3 : 1, "", ms);
}

static void phases(FILE *out, const struct sq_phase_row *rows, size_t n)
{
    if (n == 0)
        return;
    (void)fputs("\n## What users felt\n\n| phase | from | to | requests | p50 ms | p95 ms | p99 ms | errors |\n"
                "|---|---:|---:|---:|---:|---:|---:|---:|\n",
                out);
    for (size_t i = 0; i < n; i++) {
        (void)fputs("| ", out);
        cell(out, rows[i].name);
        if (rows[i].endpoint) {
            (void)fputs(": ", out);
            cell(out, rows[i].endpoint);
        }
        (void)fprintf(out, " | %.1f s | %.1f s | %llu | ", (double)rows[i].win.from_ns / 1e9,
                      (double)rows[i].win.to_ns / 1e9, (unsigned long long)rows[i].n);
        latency(out, rows[i].p50);
        latency(out, rows[i].p95);
        latency(out, rows[i].p99);
        number(out, 2, " %", rows[i].error_rate);
        (void)fputs("\n", out);
    }
}

static void faults(FILE *out, const struct sq_evidence *ev)
{
    char line[512];

    if (ev->n_faults == 0)
        return;
    (void)fputs("\n## Faults\n\n| step | fault | from | to | taken back |\n|---|---|---:|---:|---|\n", out);
    for (size_t i = 0; i < ev->n_faults; i++) {
        const struct sq_ev_fault *f = &ev->faults[i];

        if (!f->applied && !f->failed)
            continue;
        (void)fputs("| ", out);
        cell(out, f->step);
        (void)fputs(" | ", out);
        cell(out, f->failed ? f->error : sq_fault_line(f, line, sizeof line));
        (void)fprintf(out, " | %.2f s | %.2f s | %s |\n", (double)f->win.from_ns / 1e9, (double)f->win.to_ns / 1e9,
                      f->failed      ? "never applied"
                      : !f->reverted ? "**not confirmed**"
                      : f->clean     ? "yes"
                                     : "**incomplete**");
    }
}

static int write_markdown(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    const char *hypothesis = sq_json_str_or(ev->spec, "hypothesis", "");
    cleanup_free struct sq_phase_row *rows = NULL;
    size_t n = 0;
    int r = sq_phase_rows(ev, &rows, &n, e);

    if (r < 0)
        return r;
    (void)fputs("# ", out);
    cell(out, ev->name);
    (void)fprintf(out, ": %s\n\n", mark(sq_verdict_of(in->verdict)));
    if (hypothesis[0]) {
        (void)fputs("> ", out);
        cell(out, hypothesis);
        (void)fputs("\n\n", out);
    }
    cell(out, sq_json_str_or(in->verdict, "why", ""));
    (void)fputs("\n\nRun ", out);
    cell(out, ev->id);
    (void)fputs(", ", out);
    cell(out, ev->start);
    (void)fputs(", host ", out);
    cell(out, ev->host);
    (void)fprintf(out, ", seed %llu, Squall ", (unsigned long long)ev->seed);
    cell(out, ev->squall);
    (void)fputs(".\n\n", out);
    checks(out, json_object_get(in->verdict, "checks"));
    if (json_array_size(json_object_get(in->verdict, "slos")))
        slos(out, json_object_get(in->verdict, "slos"));
    phases(out, rows, n);
    faults(out, ev);
    return 0;
}

const struct sq_report sq_report_markdown = {"markdown", "report.md", "Markdown for merge requests and wikis",
                                             write_markdown};
