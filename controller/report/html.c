/* One self-contained page: no script, no network, light and dark. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/charts.h"
#include "report/markup.h"
#include "report/report.h"
#include "report/series.h"
#include "report/slos.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static const char style[] =
    ":root{--bg:#fff;--fg:#1c2330;--dim:#667085;--line:#e4e7ec;--card:#f8f9fb;--pass:#12805c;--fail:#c4320a;--warn:#"
    "b54708;"
    "--p50:#84adff;--p95:#2e6be6;--p99:#1d2f6f;--bad:#e5484d;--ok:#a6c8ff;--gave:#e5484d;--failed:#f59e0b;--broken:#"
    "98a2b3;"
    "--fault:#f59e0b26;--steady:#12805c14}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e6e9ef;--dim:#98a2b3;--line:#2b3240;--card:#191d26;"
    "--pass:#3ccb91;--fail:#ff7a5c;--warn:#f5b942;--p50:#5b7fce;--p95:#7da7ff;--p99:#d3e1ff;--ok:#35549a;--fault:#"
    "f59e0b2e;"
    "--steady:#3ccb9118}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}"
    "main{max-width:1128px;margin:0 auto;padding:32px 24px 64px}h1{font-size:26px;margin:0 0 4px;display:flex;gap:14px;"
    "align-items:center;flex-wrap:wrap}h2{font-size:18px;margin:40px 0 12px}.dim{color:var(--dim)}"
    "blockquote{margin:12px 0;padding:8px 16px;border-left:3px solid var(--line);font-style:italic}"
    ".badge{font-size:15px;font-weight:600;border-radius:999px;padding:3px 14px;color:#fff;background:var(--warn)}"
    ".badge.pass{background:#12805c}.badge.fail{background:#c4320a}.badge.inconclusive,.badge.aborted{background:#"
    "b54708}"
    ".v{font-weight:600;white-space:nowrap;color:var(--warn)}.v.pass{color:var(--pass)}.v.fail{color:var(--fail)}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{text-align:left;font-weight:600;"
    "color:var(--dim);font-size:13px}td,th{padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}"
    ".n{text-align:right}.own{padding-left:1.6em;color:var(--dim)}td "
    "small{display:block;color:var(--dim);font-size:13.5px}.wrap{overflow-x:auto}"
    ".subject{display:inline-block}"
    "@media(max-width:720px){main{padding:20px 14px 48px}.charts{width:760px}td,th{padding:6px 7px}.wrap "
    "table{min-width:600px}.charts .legend{margin-left:0;position:sticky;left:0;width:calc(100vw - 28px)}"
    ".wrap table.checks{min-width:0}.checks,.checks tbody,.checks tr,.checks td{display:block}.checks "
    "tr:first-child,.checks td:empty{display:none}.checks tr{border-bottom:1px solid var(--line);padding:8px 0}"
    ".checks td{border:0;padding:1px 0;text-align:left}.checks td[data-is]::before{content:attr(data-is) \": "
    "\";color:var(--dim)}}"
    "@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}tr,svg{break-inside:avoid}"
    "h2{break-after:avoid}}"
    "svg{display:block;width:100%;height:auto;margin:10px 0 4px}svg text{font:12px system-ui,sans-serif;fill:var(--fg)}"
    "svg .title{font-weight:600;font-size:13.5px}svg .unit{fill:var(--dim);font-weight:400}svg .tick{fill:var(--dim);"
    "font-size:11px}svg .span{fill:var(--dim);font-size:11px}.grid{stroke:var(--line)}.line{fill:none;stroke-width:1.8;"
    "stroke-linejoin:round}.line.p50{stroke:var(--p50)}.line.p95{stroke:var(--p95)}.line.p99{stroke:var(--p99)}"
    ".line.bad{stroke:var(--bad)}.fault{fill:var(--fault)}.steady{fill:var(--steady)}rect.ok{fill:var(--ok)}"
    "rect.bad{fill:var(--bad)}rect.failed{fill:var(--failed)}rect.gave{fill:var(--gave)}rect.broken{fill:var(--broken)}"
    "rect.closed{fill:var(--pass);opacity:.75}rect.open{fill:var(--fail);opacity:.85}rect.half-open{fill:var(--failed)}"
    "rect.unknown{fill:var(--line)}.legend{margin:0 0 14px "
    "58px;font-size:12.5px;color:var(--dim);display:flex;gap:18px;"
    "flex-wrap:wrap}.key{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:"
    "-1px}"
    ".key.p50{background:var(--p50)}.key.p95{background:var(--p95)}.key.p99{background:var(--p99)}.key.ok{background:"
    "var(--ok)}"
    ".key.bad{background:var(--bad)}.key.gave{background:var(--gave)}.key.failed,.key.half-open{background:var(--"
    "failed)}"
    ".key.broken{background:var(--broken)}.key.closed{background:var(--pass)}.key.open{background:var(--fail)}"
    ".key.fault{background:var(--fault);border:1px solid var(--failed)}.key.unknown{background:var(--line)}"
    "code,pre{font:12.5px ui-monospace,monospace}pre{background:var(--card);padding:10px;overflow-x:auto;margin:6px 0 "
    "0}"
    ".v-text.fail{color:var(--fail)}.v-text.warn{color:var(--warn)}"
    "details summary{cursor:pointer;color:var(--dim);font-size:13px}";

static void head(FILE *out, const struct sq_report_in *in)
{
    const struct sq_evidence *ev = in->ev;
    const char *verdict = sq_verdict_of(in->verdict), *hypothesis = sq_json_str_or(ev->spec, "hypothesis", "");

    (void)fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>",
                out);
    sq_xml(out, ev->name);
    (void)fprintf(out, ": %s</title>\n<style>%s</style></head><body><main>\n<h1><span>", verdict, style);
    sq_xml(out, ev->name);
    (void)fprintf(out, "</span><span class=\"badge %s\">%s</span></h1>\n<p class=\"dim\">", verdict, verdict);
    sq_xml(out, ev->start);
    (void)fputs(" · host ", out);
    sq_xml(out, ev->host);
    (void)fputs(" · run <code>", out);
    sq_xml(out, ev->id);
    (void)fprintf(out, "</code> · seed %llu · Squall ", (unsigned long long)ev->seed);
    sq_xml(out, ev->squall);
    (void)fputs("</p>\n", out);
    if (hypothesis[0]) {
        (void)fputs("<blockquote>", out);
        sq_xml(out, hypothesis);
        (void)fputs("</blockquote>\n", out);
    }
    (void)fputs("<p>", out);
    sq_xml(out, sq_json_str_or(in->verdict, "why", ""));
    (void)fputs("</p>\n", out);
}

static void text_cell(FILE *out, const char *class, const char *text)
{
    (void)fprintf(out, "<td%s%s%s>", class[0] ? " class=\"" : "", class, class[0] ? "\"" : "");
    sq_xml(out, text);
    (void)fputs("</td>", out);
}

/* On a phone a row is a list, and each cell says what it is. */
static void labelled_cell(FILE *out, const char *label, const char *text)
{
    (void)fprintf(out, "<td data-is=\"%s\">", label);
    sq_xml(out, text);
    (void)fputs("</td>", out);
}

static void check_row(FILE *out, const json_t *c)
{
    const char *verdict = sq_verdict_of(c), *subject = sq_json_str_or(c, "subject", "");

    (void)fprintf(out, "<tr><td class=\"v %s\">%s</td><td><b>", verdict, verdict);
    sq_xml(out, sq_json_str_or(c, "check", ""));
    (void)fputs("</b>", out);
    if (subject[0]) {
        (void)fputs(" <span class=\"subject\">", out);
        sq_xml(out, subject);
        (void)fputs("</span>", out);
    }
    (void)fputs("<small>", out);
    sq_xml(out, sq_json_str_or(c, "why", ""));
    (void)fputs("</small></td>", out);
    labelled_cell(out, "step", sq_json_str_or(c, "step", ""));
    labelled_cell(out, "observed", sq_json_str_or(c, "observed", ""));
    labelled_cell(out, "limit", sq_json_str_or(c, "limit", ""));
    (void)fprintf(out, "<td class=\"n\" data-is=\"n\">%lld</td>", (long long)sq_json_int_or(c, "n", 0));
    labelled_cell(out, "interval", sq_json_str_or(c, "interval", ""));
    (void)fputs("</tr>\n", out);
}

static void checks(FILE *out, const json_t *list)
{
    static const char *const order[] = {"fail", "inconclusive", "pass"};
    const json_t *c;
    size_t i;

    (void)fputs("<h2>Checks</h2><div class=\"wrap\"><table "
                "class=\"checks\"><tr><th>verdict</th><th>check</th><th>step</th><th>observed</th>"
                "<th>limit</th><th class=\"n\">n</th><th>interval</th></tr>\n",
                out);
    for (size_t k = 0; k < SQ_COUNT(order); k++)
        json_array_foreach(list, i, c) if (strcmp(sq_verdict_of(c), order[k]) == 0) check_row(out, c);
    (void)fputs("</table></div>\n", out);
}

static void slos(FILE *out, const json_t *list)
{
    char note[256];
    const json_t *o;
    size_t i;

    (void)fputs("<h2>SLOs</h2><div class=\"wrap\"><table><tr><th>SLO</th><th class=\"n\">target</th>"
                "<th class=\"n\">good</th><th class=\"n\">budget spent</th><th>alerts that would fire</th></tr>\n",
                out);
    json_array_foreach(list, i, o)
    {
        struct sq_slo_row r;

        sq_slo_row_of(o, &r);
        (void)fputs("<tr><td><b>", out);
        sq_xml(out, r.name);
        (void)fputs("</b><small>", out);
        sq_xml(out, r.indicator);
        (void)fputs("</small></td>", out);
        text_cell(out, "n", r.target);
        text_cell(out, "n", r.observed);
        (void)fprintf(out, "<td class=\"n\">%s<small>of %s</small></td><td class=\"v-text %s\">", r.spent, r.window,
                      r.tone);
        sq_xml(out, r.alerts);
        (void)fputs("</td></tr>\n", out);
    }
    (void)fputs("</table></div>\n", out);
    if (sq_slo_note(list, note, sizeof note)[0])
        (void)fprintf(out, "<p class=\"dim\">%s</p>\n", note);
}

static void number_cell(FILE *out, double v, int digits, const char *unit)
{
    if (isfinite(v))
        (void)fprintf(out, "<td class=\"n\">%.*f%s</td>", digits, v, unit);
    else
        (void)fputs("<td class=\"n dim\">–</td>", out);
}

static void latency_cell(FILE *out, double ms)
{
    number_cell(out, ms, ms < 1 ? 3 : 1, " ms");
}

static void phases(FILE *out, const struct sq_phase_row *rows, size_t n)
{
    if (n == 0)
        return;
    (void)fputs("<h2>What users felt</h2><div class=\"wrap\"><table><tr><th>phase</th><th class=\"n\">from</th>"
                "<th class=\"n\">to</th><th class=\"n\">requests</th><th class=\"n\">p50</th><th class=\"n\">p95</th>"
                "<th class=\"n\">p99</th><th class=\"n\">errors</th></tr>\n",
                out);
    for (size_t i = 0; i < n; i++) {
        (void)fputs("<tr>", out);
        text_cell(out, rows[i].endpoint ? "own" : "", rows[i].endpoint ? rows[i].endpoint : rows[i].name);
        number_cell(out, (double)rows[i].win.from_ns / 1e9, 1, " s");
        number_cell(out, (double)rows[i].win.to_ns / 1e9, 1, " s");
        (void)fprintf(out, "<td class=\"n\">%llu</td>", (unsigned long long)rows[i].n);
        latency_cell(out, rows[i].p50);
        latency_cell(out, rows[i].p95);
        latency_cell(out, rows[i].p99);
        number_cell(out, rows[i].error_rate, 2, " %");
        (void)fputs("</tr>\n", out);
    }
    (void)fputs("</table></div>\n", out);
}

static int fault_row(FILE *out, const struct sq_ev_fault *f, struct sq_err *e)
{
    char line[512];
    char *readback = f->readback ? json_dumps(f->readback, JSON_INDENT(2)) : NULL;

    (void)fputs("<tr>", out);
    text_cell(out, "", f->step);
    (void)fputs("<td>", out);
    sq_xml(out, f->failed ? f->error : sq_fault_line(f, line, sizeof line));
    if (readback) {
        (void)fputs("<details><summary>as read back</summary><pre>", out);
        sq_xml(out, readback);
        (void)fputs("</pre></details>", out);
    }
    (void)fputs("</td>", out);
    number_cell(out, (double)f->win.from_ns / 1e9, 2, " s");
    number_cell(out, (double)f->win.to_ns / 1e9, 2, " s");
    (void)fprintf(out, "<td class=\"v %s\">%s</td></tr>\n", f->failed || !f->reverted || !f->clean ? "fail" : "pass",
                  f->failed      ? "never applied"
                  : !f->reverted ? "not confirmed"
                  : f->clean     ? "yes"
                                 : "incomplete");
    if (f->readback && !readback)
        return sq_err(e, -ENOMEM, "out of memory");
    free(readback);
    return 0;
}

static int faults(FILE *out, const struct sq_evidence *ev, struct sq_err *e)
{
    int r = 0;

    if (ev->n_faults == 0)
        return 0;
    (void)fputs("<h2>Faults</h2><div class=\"wrap\"><table><tr><th>step</th><th>fault</th><th class=\"n\">from</th>"
                "<th class=\"n\">to</th><th>taken back</th></tr>\n",
                out);
    for (size_t i = 0; r == 0 && i < ev->n_faults; i++)
        if (ev->faults[i].applied || ev->faults[i].failed)
            r = fault_row(out, &ev->faults[i], e);
    (void)fputs("</table></div>\n", out);
    return r;
}

/* Can these figures be trusted? Said by the probe itself. */
static void quality(FILE *out, const struct sq_evidence *ev)
{
    char lag[32];

    (void)fputs("<h2>The probe</h2><div class=\"wrap\"><table><tr><th>endpoint</th><th class=\"n\">planned</th>"
                "<th class=\"n\">sent</th><th class=\"n\">late by its own fault</th><th class=\"n\">worst "
                "lag</th><th>usable</th></tr>\n",
                out);
    for (size_t i = 0; i < ev->n_endpoints; i++) {
        const struct sq_ev_endpoint *ep = &ev->endpoints[i];

        (void)fputs("<tr>", out);
        text_cell(out, "", ep->name);
        (void)fprintf(out, "<td class=\"n\">%lld</td><td class=\"n\">%lld</td><td class=\"n\">%lld</td>",
                      (long long)sq_json_int_or(ep->probe, "planned", 0),
                      (long long)sq_json_int_or(ep->probe, "sent", 0),
                      (long long)sq_json_int_or(ep->probe, "lag_late", 0));
        text_cell(out, "n", sq_fmt_duration(sq_json_int_or(ep->probe, "max_lag_ns", 0), lag, sizeof lag));
        (void)fprintf(out, "<td class=\"v %s\">", !ep->has_probe || ep->is_void ? "fail" : "pass");
        sq_xml(out, !ep->has_probe ? "no record" : ep->is_void ? ep->void_why : "yes");
        (void)fputs("</td></tr>\n", out);
    }
    (void)fputs("</table></div>\n", out);
}

static int write_html(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    cleanup_free struct sq_phase_row *rows = NULL;
    size_t n = 0;
    int r = sq_phase_rows(ev, &rows, &n, e);

    if (r < 0)
        return r;
    head(out, in);
    r = sq_charts(out, ev, e);
    if (r == 0) {
        checks(out, json_object_get(in->verdict, "checks"));
        if (json_array_size(json_object_get(in->verdict, "slos")))
            slos(out, json_object_get(in->verdict, "slos"));
        phases(out, rows, n);
        r = faults(out, ev, e);
    }
    quality(out, ev);
    (void)fputs("</main></body></html>\n", out);
    return r;
}

const struct sq_report sq_report_html = {"html", "report.html", "one self-contained page with charts", write_html};
