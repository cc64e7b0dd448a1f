/* squall verify: the verdict of a run, from its evidence alone. */
#include <string.h>

#include "commands/command.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/verdict.h"

static const struct sq_option options[] = {
    {"json", 'j', NULL, "print verdict.json instead of the table", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static enum sq_paint paint_of(const char *verdict)
{
    if (strcmp(verdict, "pass") == 0)
        return SQ_GREEN;
    return strcmp(verdict, "fail") == 0 || strcmp(verdict, "unclean") == 0 ? SQ_RED : SQ_YELLOW;
}

/* Text from a scenario or a host must not drive the terminal. */
static void plain(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
}

static void put_word(const struct sq_term *t, const char *verdict, int width)
{
    (void)fprintf(t->out, "%s%-*s%s", sq_term_out(t, paint_of(verdict)), width, verdict, sq_term_out(t, SQ_PLAIN));
}

static void put_detail(const struct sq_term *t, const char *name, const char *text)
{
    if (!text[0])
        return;
    (void)fprintf(t->out, "    %s%-9s%s ", sq_term_out(t, SQ_DIM), name, sq_term_out(t, SQ_PLAIN));
    plain(t->out, text);
    (void)fputc('\n', t->out);
}

static void put_check(const struct sq_term *t, const json_t *c)
{
    const char *step = sq_json_str_or(c, "step", ""), *subject = sq_json_str_or(c, "subject", "");
    const json_t *win = json_object_get(c, "window");
    char window[96] = "";

    put_word(t, sq_json_str_or(c, "verdict", "?"), 13);
    plain(t->out, sq_json_str_or(c, "check", "?"));
    (void)fputs(step[0] ? "  step " : "", t->out);
    plain(t->out, step);
    (void)fputs(subject[0] ? "  " : "", t->out);
    plain(t->out, subject);
    (void)fputs("\n    ", t->out);
    plain(t->out, sq_json_str_or(c, "why", ""));
    (void)fputc('\n', t->out);
    put_detail(t, "observed", sq_json_str_or(c, "observed", ""));
    put_detail(t, "limit", sq_json_str_or(c, "limit", ""));
    if (json_array_size(win) == 2)
        (void)snprintf(window, sizeof window, ", window %.1f s to %.1f s", json_number_value(json_array_get(win, 0)),
                       json_number_value(json_array_get(win, 1)));
    (void)fprintf(t->out, "    %sn%s         %lld%s%s", sq_term_out(t, SQ_DIM), sq_term_out(t, SQ_PLAIN),
                  (long long)sq_json_int_or(c, "n", 0), window,
                  sq_json_str_or(c, "interval", "")[0] ? ", interval " : "");
    plain(t->out, sq_json_str_or(c, "interval", ""));
    (void)fputs("\n", t->out);
}

static void put_table(const struct sq_term *t, const json_t *verdict)
{
    const json_t *checks = json_object_get(verdict, "checks");

    for (size_t i = 0; i < json_array_size(checks); i++)
        put_check(t, json_array_get(checks, i));
    (void)fputs(json_array_size(checks) ? "\n" : "", t->out);
    put_word(t, sq_json_str_or(verdict, "verdict", "?"), 0);
    (void)fputs(": ", t->out);
    plain(t->out, sq_json_str_or(verdict, "why", ""));
    (void)fputc('\n', t->out);
}

static int verify_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *verdict = NULL;
    struct sq_err e = {0};

    if (sq_verify_run_dir(a->argv[0], &verdict, &e) < 0)
        return sq_term_fail(t, &e);
    if (sq_args_has(a, "json")) {
        if (json_dumpf(verdict, t->out, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || fputc('\n', t->out) == EOF)
            return sq_term_finish(t, SQ_INFRA);
    } else
        put_table(t, verdict);
    return (int)sq_json_int_or(verdict, "exit", SQ_INFRA);
}

const struct sq_command sq_cmd_verify = {
    .name = "verify",
    .args = "RUN",
    .summary = "the verdict of a run, from its evidence alone",
    .text =
        "Judges a run again, offline: RUN is its folder, and evidence.jsonl in it is all that is read. The same "
        "evidence\n"
        "gives the same verdict, whenever and wherever. Nothing is written.\n\n"
        "  squall verify squall-runs/20261121-093000-demo-1a2b\n"
        "  squall verify --json RUN | jq .verdict\n\n"
        "Exit code: 0 pass, 1 fail, 3 inconclusive, 4 aborted, 5 the run could not be carried out, 6 something of a\n"
        "fault is left on the host; 2 when RUN is no run.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .complete = SQ_COMPLETE_RUN,
    .main = verify_main,
};
