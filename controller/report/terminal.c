/* The summary on the terminal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"
#include "report/series.h"
#include "report/slos.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static const char *paint(bool colour, const char *verdict)
{
    if (!colour)
        return "";
    if (strcmp(verdict, "pass") == 0)
        return "\033[1;32m";
    return strcmp(verdict, "fail") == 0 ? "\033[1;31m" : "\033[1;33m";
}

/* What came from a scenario or a host must not drive the terminal. */
static void plain(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
}

/* At most WIDTH bytes of it, in a column as wide. */
static void column(FILE *out, const char *text, int width)
{
    char cut[64];

    (void)snprintf(cut, sizeof cut, "%-*.*s", width, width, text);
    plain(out, cut);
}

/* Words wrapped to WIDTH, the first one in column AT, later lines indented. */
static void wrap_from(FILE *out, const char *text, unsigned at, unsigned indent, unsigned width)
{
    bool first = true;

    for (text += strspn(text, " \n"); *text; text += strspn(text, " \n")) {
        unsigned word = (unsigned)strcspn(text, " \n");

        if (at > indent && at + !first + word >= width) {
            (void)fprintf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            (void)fputc(' ', out);
            at++;
        }
        for (unsigned i = 0; i < word; i++)
            (void)fputc((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i], out);
        at += word;
        text += word;
        first = false;
    }
    (void)fputc('\n', out);
}

static void wrap(FILE *out, const char *text, unsigned indent, unsigned width)
{
    wrap_from(out, text, indent, indent, width);
}

static void one_check(FILE *out, const json_t *c, bool colour, unsigned width)
{
    const char *verdict = sq_verdict_of(c), *subject = sq_json_str_or(c, "subject", ""),
               *step = sq_json_str_or(c, "step", "");
    char name[160];

    (void)snprintf(name, sizeof name, "%s%s%s%s%s", sq_json_str_or(c, "check", "?"), step[0] ? " " : "", step,
                   subject[0] ? " " : "", subject);
    (void)fprintf(out, "  %s%-12s%s ", paint(colour, verdict), verdict, colour ? "\033[0m" : "");
    plain(out, name);
    (void)fputs("\n               ", out);
    wrap(out, sq_json_str_or(c, "why", ""), 15, width);
}

static void number(FILE *out, double v, const char *unit)
{
    if (isfinite(v))
        (void)fprintf(out, " %8.*f%s", v < 10 ? 2 : 1, v, unit);
    else
        (void)fprintf(out, " %8s%*s", "-", (int)strlen(unit), "");
}

/* A narrow terminal shows what most is judged by: p95, p99 and errors. */
static void phases(FILE *out, const struct sq_phase_row *rows, size_t n, bool narrow)
{
    (void)fprintf(out, "  %-*s", narrow ? 12 : 16, "phase");
    if (!narrow)
        (void)fprintf(out, " %9s %11s", "requests", "p50");
    (void)fprintf(out, " %11s %11s %9s\n", "p95", "p99", "errors");
    for (size_t i = 0; i < n; i++) {
        (void)fputs(rows[i].endpoint ? "    " : "  ", out);
        column(out, rows[i].endpoint ? rows[i].endpoint : rows[i].name,
               (narrow ? 12 : 16) - (rows[i].endpoint ? 2 : 0));
        if (!narrow) {
            (void)fprintf(out, " %9llu", (unsigned long long)rows[i].n);
            number(out, rows[i].p50, " ms");
        }
        number(out, rows[i].p95, " ms");
        number(out, rows[i].p99, " ms");
        number(out, rows[i].error_rate, "%");
        (void)fputc('\n', out);
    }
}

static const char *tone(bool colour, const char *t)
{
    if (!colour || strcmp(t, "pass") == 0)
        return "";
    return strcmp(t, "fail") == 0 ? "\033[31m" : "\033[33m";
}

static void slos(FILE *out, const json_t *list, bool colour, unsigned width)
{
    char note[256];
    const json_t *o;
    size_t i;

    (void)fprintf(out, "\n  %-20s %9s %11s %14s  %s\n", "SLO", "target", "good", "budget spent",
                  "alerts that would fire");
    json_array_foreach(list, i, o)
    {
        struct sq_slo_row r;
        char spent[80];

        sq_slo_row_of(o, &r);
        (void)snprintf(spent, sizeof spent, "%s/%s", r.spent, r.window);
        (void)fputs("  ", out);
        column(out, r.name, 20);
        (void)fprintf(out, " %9s %11s %14s  %s", r.target, r.observed, spent, tone(colour, r.tone));
        wrap(out, r.alerts, 61, width);
        (void)fputs(colour ? "\033[0m" : "", out);
    }
    if (sq_slo_note(list, note, sizeof note)[0]) {
        (void)fputs(colour ? "  \033[2m" : "  ", out);
        wrap(out, note, 2, width);
        (void)fputs(colour ? "\033[0m" : "", out);
    }
}

static int write_terminal(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    const json_t *list = json_object_get(in->verdict, "checks"), *c;
    const char *verdict = sq_verdict_of(in->verdict);
    unsigned width = in->width == 0 ? 100 : in->width > 120 ? 120 : in->width < 40 ? 40 : in->width;
    cleanup_free struct sq_phase_row *rows = NULL;
    size_t n = 0, i;
    int r = sq_phase_rows(ev, &rows, &n, e);

    if (r < 0)
        return r;
    (void)fputc('\n', out);
    if (n > 0)
        phases(out, rows, n, width < 74);
    (void)fputc('\n', out);
    json_array_foreach(list, i, c) one_check(out, c, in->colour, width);
    if (json_array_size(json_object_get(in->verdict, "slos")))
        slos(out, json_object_get(in->verdict, "slos"), in->colour, width);
    (void)fprintf(out, "\n%s%s%s ", paint(in->colour, verdict), verdict, in->colour ? "\033[0m" : "");
    plain(out, ev->name);
    (void)fputs(": ", out);
    wrap_from(out, sq_json_str_or(in->verdict, "why", ""), (unsigned)(strlen(verdict) + strlen(ev->name) + 3), 2,
              width);
    return 0;
}

const struct sq_report sq_report_terminal = {"terminal", NULL, "the summary that `squall run` ends with",
                                             write_terminal};
