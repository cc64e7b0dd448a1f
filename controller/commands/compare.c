/* squall compare: did it get slower? Two sets of runs, by exact statistics. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "commands/command.h"
#include "commands/load.h"
#include "scenario/yaml.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "store/runs.h"
#include "verify/compare.h"
#include "verify/history.h"
#include "verify/values.h"

static const struct sq_option options[] = {
    {"metric", 'm', "NAME",
     "p50, p95, p99, p99.9, mean or throughput; may be given several times (default: p50, p95, "
     "p99, throughput)",
     SQ_COMPLETE_WORDS, "p50|p95|p99|p99.9|mean|throughput"},
    {"endpoint", 0, "NAME", "only this endpoint of the load", SQ_COMPLETE_NONE, NULL},
    {"window", 0, "NAME", "steady, load, or a step's id (default: the steady state, else all of the load)",
     SQ_COMPLETE_NONE, NULL},
    {"p", 0, "P", "significant below it, all rows together (default: 0.01)", SQ_COMPLETE_NONE, NULL},
    {"min-runs", 0, "N", "fewer a side can't tell (default: 8)", SQ_COMPLETE_NONE, NULL},
    {"warn", 0, "PERCENT", "say so from this much worse on (default: 3%)", SQ_COMPLETE_NONE, NULL},
    {"block", 0, "PERCENT", "fail from this much worse on (default: 10%)", SQ_COMPLETE_NONE, NULL},
    {"accept", 0, "FILE", "regressions that somebody accepted, with reason, author and last day", SQ_COMPLETE_FILE,
     NULL},
    {"json", 'j', NULL, "print the rows as JSON", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

/* --- what was asked --- */

static int percent(const struct sq_args *a, const char *name, double *out, struct sq_err *e)
{
    const char *text = sq_args_value(a, name);

    if (!text)
        return 0;
    if (sq_parse_percent(text, out, e) < 0)
        return sq_err_prefix(e, "--%s", name), -EINVAL;
    return 0;
}

static int number(const struct sq_args *a, const char *name, double least, double most, double *out, struct sq_err *e)
{
    const char *text = sq_args_value(a, name);
    char *end = NULL;

    if (!text)
        return 0;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out >= least && *out <= most))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--%s: \"%.40s\" is no number from %g to %g", name, text, least,
                          most);
    return 0;
}

static int rule_of(const struct sq_args *a, struct sq_compare_rule *rule, struct sq_err *e)
{
    double runs = 8;
    int rc;

    *rule = SQ_COMPARE_RULE;
    rc = percent(a, "warn", &rule->warn, e);
    if (rc == 0)
        rc = percent(a, "block", &rule->block, e);
    if (rc == 0)
        rc = number(a, "p", 1e-9, 0.5, &rule->p, e);
    if (rc == 0)
        rc = number(a, "min-runs", 2, SQ_RUNS_MAX, &runs, e);
    rule->min_runs = (unsigned)runs;
    if (rc == 0 && rule->warn > rule->block)
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--warn %g%% is above --block %g%%", rule->warn, rule->block);
    return rc;
}

static json_t *metrics_of(const struct sq_args *a)
{
    json_t *list = json_array();

    for (size_t i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].option->name, "metric") == 0)
            (void)json_array_append_new(list, json_string(a->given[i].value));
    return list;
}

/* {accept: [{metric, endpoint, reason, by, until}]} */
static int read_accept(const char *path, json_t **out, struct sq_term *t)
{
    struct sq_diags d;
    struct sq_err e = {0};
    struct sq_node *root = NULL;
    int rc;

    *out = NULL;
    sq_diags_init(&d, path);
    rc = sq_yaml_read(&root, &d);
    if (rc < 0) {
        sq_load_print(t, &d, true);
    } else {
        cleanup_json json_t *o = sq_node_json(root);

        *out = json_incref(json_object_get(o, "accept"));
        if (!json_is_array(*out))
            rc = sq_err_cls(&e, SQ_C_INPUT, -EINVAL, "%s has no list \"accept\"", path);
        else
            rc = sq_compare_accept_check(*out, &e);
        if (rc < 0)
            (void)sq_term_fail(t, &e);
    }
    sq_node_free(root);
    sq_diags_free(&d);
    return rc < 0 ? SQ_USAGE : 0;
}

/* --- what is shown --- */

static enum sq_paint paint_of(const char *outcome)
{
    if (strcmp(outcome, "block") == 0)
        return SQ_RED;
    if (strcmp(outcome, "same") == 0 || strcmp(outcome, "better") == 0)
        return SQ_GREEN;
    return SQ_YELLOW;
}

/* "3.62 ms ± 2 %": median and run-to-run spread. */
static void side(const json_t *row, size_t i, char *buf, size_t len)
{
    const char *metric = sq_json_str_or(row, "metric", "");
    double median = json_number_value(json_array_get(json_object_get(row, "median"), i));
    double cv = json_number_value(json_array_get(json_object_get(row, "cv"), i));
    char value[64];

    if (json_integer_value(json_array_get(json_object_get(row, "n"), i)) == 0)
        (void)snprintf(buf, len, "-");
    else
        (void)snprintf(buf, len, "%s \302\261 %.1f %%", sq_metric_text(metric, median, value, sizeof value), cv);
}

/* Names come from files of others: they must not drive the terminal. */
static void plain(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
}

/* Columns by characters, not bytes: the plus-minus sign has two. */
static void column(FILE *out, const char *text, int width)
{
    int chars = 0;

    for (const char *s = text; *s; s++)
        chars += ((unsigned char)*s & 0xc0) != 0x80;
    plain(out, text);
    (void)fprintf(out, "%*s", chars < width ? width - chars : 1, "");
}

#define TABLE_WIDTH 124 /* columns that a row of the table takes; a narrower terminal gets several lines each */

static bool narrow(const struct sq_term *t)
{
    return t->tty && t->width < TABLE_WIDTH;
}

static void put_row(const struct sq_term *t, const json_t *row)
{
    const char *outcome = sq_json_str_or(row, "outcome", "?");
    const json_t *interval = json_object_get(row, "interval"), *n = json_object_get(row, "n");
    char a[96], b[96], change[96] = "", p[64];

    side(row, 0, a, sizeof a);
    side(row, 1, b, sizeof b);
    if (json_is_array(interval))
        (void)snprintf(change, sizeof change, "%+.1f %% [%+.1f, %+.1f]", sq_json_num_or(row, "change", 0),
                       json_number_value(json_array_get(interval, 0)), json_number_value(json_array_get(interval, 1)));
    (void)snprintf(p, sizeof p, "p=%.3g n=%lld+%lld", sq_json_num_or(row, "p_adjusted", 1),
                   (long long)json_integer_value(json_array_get(n, 0)),
                   (long long)json_integer_value(json_array_get(n, 1)));
    column(t->out, sq_json_str_or(row, "endpoint", "?"), 14);
    column(t->out, sq_json_str_or(row, "metric", "?"), 11);
    if (narrow(t)) {
        (void)fprintf(t->out, "%s%s%s\n", sq_term_out(t, paint_of(outcome)), outcome, sq_term_out(t, SQ_PLAIN));
        (void)fprintf(t->out, "  %s -> %s\n", a, b);
        (void)fprintf(t->out, "  %s%s%s\n", change, change[0] == '\0' ? "" : t->width < 46 ? "\n  " : "  ", p);
        return;
    }
    column(t->out, a, 20);
    column(t->out, b, 20);
    column(t->out, change, 25);
    column(t->out, p, 20);
    (void)fprintf(t->out, "%s%s%s\n", sq_term_out(t, paint_of(outcome)), outcome, sq_term_out(t, SQ_PLAIN));
}

static bool worth_words(const char *outcome)
{
    return strcmp(outcome, "same") != 0 && strcmp(outcome, "better") != 0;
}

/* "3 runs against 3 can't tell" is as true of each metric: once is enough. */
static bool said_before(const json_t *rows, size_t i)
{
    const json_t *row = json_array_get(rows, i), *other;

    for (size_t k = 0; k < i; k++) {
        other = json_array_get(rows, k);
        if (strcmp(sq_json_str_or(other, "why", ""), sq_json_str_or(row, "why", "")) == 0 &&
            strcmp(sq_json_str_or(other, "outcome", ""), sq_json_str_or(row, "outcome", "")) == 0)
            return true;
    }
    return false;
}

static void put_left_out(const struct sq_term *t, const json_t *left_out)
{
    const json_t *o;
    size_t i;

    json_array_foreach(left_out, i, o)
    {
        (void)fputs("left out: ", t->err);
        plain(t->err, sq_json_str_or(o, "run", "?"));
        (void)fputs(": ", t->err);
        plain(t->err, sq_json_str_or(o, "why", "?"));
        (void)fputc('\n', t->err);
    }
}

static void put_table(const struct sq_term *t, const struct sq_args *a, const json_t *rows)
{
    const json_t *row;
    char why[1024];
    size_t i;

    (void)fputs(sq_term_out(t, SQ_BOLD), t->out);
    column(t->out, "endpoint", 14);
    column(t->out, "metric", 11);
    if (narrow(t)) {
        (void)fputs("\n  base -> now, change [95 %]", t->out);
    } else {
        column(t->out, "base", 20);
        column(t->out, "now", 20);
        column(t->out, "change [95 %]", 25);
    }
    (void)fprintf(t->out, "%s\n", sq_term_out(t, SQ_PLAIN));
    json_array_foreach(rows, i, row) put_row(t, row);
    (void)fprintf(t->out, "\n%sbase: %s\nnow:  %s\nmedians \302\261 spread from run to run%s\n", sq_term_out(t, SQ_DIM),
                  a->argv[0], a->argv[1], sq_term_out(t, SQ_PLAIN));
    json_array_foreach(rows, i, row)
    {
        if (!worth_words(sq_json_str_or(row, "outcome", "")) || said_before(rows, i))
            continue;
        (void)snprintf(why, sizeof why, "%s: %s", sq_json_str_or(row, "outcome", ""), sq_json_str_or(row, "why", ""));
        sq_term_words(t, 2, why);
    }
}

static enum sq_exit conclude(const json_t *rows)
{
    enum sq_exit code = json_array_size(rows) ? SQ_PASS : SQ_INCONCLUSIVE;
    const json_t *row;
    size_t i;

    json_array_foreach(rows, i, row)
    {
        const char *outcome = sq_json_str_or(row, "outcome", "");

        if (strcmp(outcome, "block") == 0)
            return SQ_FAIL;
        if (strcmp(outcome, "inconclusive") == 0)
            code = SQ_INCONCLUSIVE;
    }
    return code;
}

static int one_window(const json_t *base, const json_t *now, struct sq_err *e)
{
    char why[400];

    if (sq_history_alike(base, now, why, sizeof why))
        return 0;
    (void)sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s", why);
    sq_err_hint(e, "--window load takes all of the load of each; --window STEP one step");
    return -EINVAL;
}

static int compare_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *metrics = metrics_of(a);
    cleanup_json json_t *base = json_array();
    cleanup_json json_t *now = json_array();
    cleanup_json json_t *left_out = json_array();
    cleanup_json json_t *accept = NULL;
    cleanup_json json_t *rows = NULL;
    struct sq_compare_rule rule;
    struct sq_err e = {0};
    char today[16] = "";
    time_t clock = time(NULL);
    struct tm tm;

    if (sq_args_value(a, "accept")) {
        int code = read_accept(sq_args_value(a, "accept"), &accept, t);

        if (code)
            return code;
    }
    (void)strftime(today, sizeof today, "%Y-%m-%d", localtime_r(&clock, &tm));
    if (rule_of(a, &rule, &e) < 0 || sq_runs_read(a->argv[0], sq_args_value(a, "window"), base, left_out, &e) < 0 ||
        sq_runs_read(a->argv[1], sq_args_value(a, "window"), now, left_out, &e) < 0 || one_window(base, now, &e) < 0 ||
        sq_compare(base, now, metrics, sq_args_value(a, "endpoint"), &rule, accept, today, &rows, &e) < 0)
        return sq_term_fail(t, &e);
    put_left_out(t, left_out);
    enum sq_exit code = conclude(rows);
    if (sq_args_has(a, "json")) {
        cleanup_json json_t *o = json_pack("{s:s,s:i,s:O,s:O}", "verdict",
                                           code == SQ_PASS   ? "pass"
                                           : code == SQ_FAIL ? "fail"
                                                             : "inconclusive",
                                           "exit", (int)code, "rows", rows, "left_out", left_out);

        if (!o || json_dumpf(o, t->out, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || fputc('\n', t->out) == EOF)
            return sq_term_finish(t, SQ_INFRA);
    } else {
        put_table(t, a, rows);
    }
    return (int)code;
}

const struct sq_command sq_cmd_compare = {
    .name = "compare",
    .args = "BASE NOW",
    .summary = "two sets of runs: did it get slower?",
    .text =
        "Compares what runs measured: medians, the shift between the two sets with its interval, and whether it can\n"
        "be chance (exact Mann-Whitney U, Hodges-Lehmann, Holm over all rows). BASE and NOW are each a folder of\n"
        "runs, one run's folder, or a file that squall baseline made. Fewer than 8 runs a side can't tell, and it\n"
        "says so; so it does when the runs vary too much to show a change that would matter.\n\n"
        "  squall compare baseline.json squall-runs/today\n"
        "  squall compare old/ new/ -m p99 --block 5%\n"
        "  squall compare old/ new/ --accept accepted.yaml\n\n"
        "accepted.yaml: {accept: [{metric: p99, endpoint: cart, reason: signing is new, by: ana, until: "
        "2026-12-31}]}\n\n"
        "Exit code: 0 no change that matters, 1 worse by more than --block, 3 it can't be told.",
    .options = options,
    .min_args = 2,
    .max_args = 2,
    .complete = SQ_COMPLETE_FILE,
    .main = compare_main,
};
