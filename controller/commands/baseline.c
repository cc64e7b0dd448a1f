/* squall baseline: what several runs measured, in one small file to compare with. */
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands/command.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "store/runs.h"

extern char **environ;

static const struct sq_option options[] = {
    {"out", 'o', "FILE", "the baseline to write (default: baseline.json)", SQ_COMPLETE_FILE, NULL},
    {"runs", 'n', "N", "RUNS is a scenario: run it so many times first", SQ_COMPLETE_NONE, NULL},
    {"keep", 0, "DIR", "with --runs: where the runs go (default: squall-runs/<baseline's name>)", SQ_COMPLETE_DIR,
     NULL},
    {"var", 0, "NAME=VALUE", "with --runs: set a variable of the scenario; may be given several times",
     SQ_COMPLETE_NONE, NULL},
    {"window", 0, "NAME", "steady, load, or a step's id (default: the steady state, else all of the load)",
     SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

#define ARGS_MOST (2 * SQ_GIVEN_MAX + 16)

/* Another squall, as a person would call it: one run must not be able to harm the next. Returns its exit code; -errno.
 */
static int run_once(const struct sq_args *a, const char *scenario, char *dir, struct sq_err *e)
{
    char self[PATH_MAX], run[] = "run", quiet[] = "--quiet", out[] = "--out", var[] = "--var";
    char *argv[ARGS_MOST];
    size_t n = 0;
    int status, rc;
    pid_t pid;
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    if (len < 0)
        return sq_err_sys(e, -errno, "cannot find this program");
    self[len] = '\0';
    argv[n++] = self;
    argv[n++] = run;
    argv[n++] = quiet;
    argv[n++] = out;
    argv[n++] = dir;
    for (size_t i = 0; i < a->n_given && n < ARGS_MOST - 4; i++) {
        if (strcmp(a->given[i].option->name, "var") != 0)
            continue;
        argv[n++] = var;
        argv[n++] = (char *)(uintptr_t)a->given[i].value; /* posix_spawn changes none of them */
    }
    argv[n++] = (char *)(uintptr_t)scenario;
    argv[n] = NULL;
    rc = posix_spawn(&pid, self, NULL, NULL, argv, environ);
    if (rc)
        return sq_err_sys(e, -rc, "cannot run %s", self);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return sq_err_sys(e, -errno, "cannot wait for %s", self);
    return WIFEXITED(status) ? WEXITSTATUS(status) : SQ_ABORTED;
}

static int make_dir(const char *dir, struct sq_err *e)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s", dir) >= sizeof path)
        return sq_err(e, -ENAMETOOLONG, "path too long: %s", dir);
    for (char *s = path + 1; *s; s++) {
        if (*s != '/')
            continue;
        *s = '\0';
        if (mkdir(path, 0777) < 0 && errno != EEXIST)
            return sq_err_sys(e, -errno, "cannot make %s", path);
        *s = '/';
    }
    if (mkdir(path, 0777) < 0)
        return sq_err_sys(e, -errno, errno == EEXIST ? "%s is there already: name another by --keep" : "cannot make %s",
                          path);
    return 0;
}

/* squall-runs/<name of the baseline without its ending> */
static void default_keep(const char *out, char *buf, size_t len)
{
    const char *slash = strrchr(out, '/'), *name = slash ? slash + 1 : out, *dot = strrchr(name, '.');
    int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);

    (void)snprintf(buf, len, "squall-runs/%.*s", n, name);
}

/* 0: all were run; else an exit code. */
static int run_all(const struct sq_args *a, struct sq_term *t, const char *keep)
{
    char *end = NULL, dir[PATH_MAX];
    const char *text = sq_args_value(a, "runs");
    unsigned long runs = strtoul(text, &end, 10);
    struct sq_err e = {0};

    if (end == text || *end || *text == '-' || runs < 1 || runs > SQ_RUNS_MAX)
        return sq_term_usage(t, NULL, "--runs: \"%.40s\" is no number from 1 to %d", text, SQ_RUNS_MAX);
    if (make_dir(keep, &e) < 0)
        return sq_term_fail(t, &e);
    for (unsigned long i = 0; i < runs; i++) {
        int code;

        if ((size_t)snprintf(dir, sizeof dir, "%s/%03lu", keep, i + 1) >= sizeof dir)
            return sq_term_usage(t, NULL, "path too long: %s", keep);
        code = run_once(a, a->argv[0], dir, &e);
        if (code < 0)
            return sq_term_fail(t, &e);
        (void)fprintf(t->err, "run %lu of %lu: exit %d\n", i + 1, runs, code);
        /* A verdict is one, whatever it is; without one there is nothing to go on with. */
        if (code != SQ_PASS && code != SQ_FAIL && code != SQ_INCONCLUSIVE)
            return code;
    }
    return 0;
}

static int baseline_main(const struct sq_args *a, struct sq_term *t)
{
    cleanup_json json_t *runs = json_array();
    cleanup_json json_t *left_out = json_array();
    const char *out = sq_args_value(a, "out") ? sq_args_value(a, "out") : "baseline.json";
    const char *keep = sq_args_value(a, "keep"), *window = sq_args_value(a, "window");
    char made[PATH_MAX];
    struct sq_err e = {0};
    const json_t *o;
    size_t n;
    int rc = 0;

    default_keep(out, made, sizeof made);
    keep = keep ? keep : made;
    if (sq_args_has(a, "runs")) {
        int code = a->argc == 1 ? run_all(a, t, keep) : sq_term_usage(t, NULL, "--runs takes one scenario");

        if (code)
            return code;
        rc = sq_runs_read(keep, window, runs, left_out, &e);
    }
    for (int i = 0; rc == 0 && i < a->argc && !sq_args_has(a, "runs"); i++)
        rc = sq_runs_read(a->argv[i], window, runs, left_out, &e);
    if (rc == 0 && json_array_size(runs) == 0)
        rc = sq_err_cls(&e, SQ_C_INPUT, -EINVAL, "none of the runs can count");
    json_array_foreach(left_out, n, o)
    {
        (void)fprintf(t->err, "left out: %s: %s\n", sq_json_str_or(o, "run", "?"), sq_json_str_or(o, "why", "?"));
    }
    if (rc == 0)
        rc = sq_runs_write(out, runs, &e);
    if (rc < 0)
        return sq_term_fail(t, &e);
    (void)fprintf(t->out, "%s: %zu runs\n", out, json_array_size(runs));
    if (json_array_size(runs) < 8)
        (void)fprintf(t->out, "  hint: squall compare wants 8 a side before it says anything\n");
    return SQ_PASS;
}

const struct sq_command sq_cmd_baseline = {
    .name = "baseline",
    .args = "RUNS...",
    .summary = "keep what several runs measured, to compare with later",
    .text =
        "Writes what runs measured (percentiles, mean, throughput by endpoint) into one small file. RUNS are folders "
        "of\n"
        "runs or runs' folders; with --runs N it is a scenario, which is run N times first.\n\n"
        "  squall baseline -o main.json --runs 10 perf.yaml\n"
        "  squall baseline -o yesterday.json squall-runs/2026-11-20-*\n"
        "  squall compare main.json squall-runs/today\n\n"
        "Runs that did not complete, or whose probe missed its own schedule, are left out and named. Runs of one day\n"
        "share that day: take them on several, or measure base and candidate in alternation.\n\n"
        "Exit code: 0; 2 when there is nothing to keep; that of a run that could not be carried out.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .complete = SQ_COMPLETE_FILE,
    .main = baseline_main,
};
