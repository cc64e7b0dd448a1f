#include "store/runs.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "verify/evidence.h"
#include "verify/values.h"

#define BASELINE_MOST (16L * 1024 * 1024)

struct reading {
    const char *window;
    json_t *runs, *left_out;
};

static int leave_out(const struct reading *rd, const char *dir, const char *why, struct sq_err *e)
{
    json_t *o = json_pack("{s:s,s:s}", "run", dir, "why", why);

    return json_array_append_new(rd->left_out, o) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static int room(const struct reading *rd, struct sq_err *e)
{
    if (json_array_size(rd->runs) >= SQ_RUNS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "more than %d runs on one side", SQ_RUNS_MAX);
    return 0;
}

static int read_run(const struct reading *rd, const char *dir, struct sq_err *e)
{
    struct sq_err why = {0};
    struct sq_evidence *ev = NULL;
    json_t *values = NULL;
    int rc = room(rd, e);

    if (rc < 0)
        return rc;
    if (sq_evidence_read(dir, &ev, &why) < 0)
        return leave_out(rd, dir, why.msg, e);
    if (!ev->ended || strcmp(ev->end_reason, "completed") != 0)
        rc = leave_out(rd, dir, ev->ended ? ev->end_why : "it died before its end", e);
    else if (sq_run_values(ev, rd->window, &values, &why) < 0)
        rc = leave_out(rd, dir, why.msg, e);
    else if (json_array_append_new(rd->runs, values) != 0)
        rc = sq_err(e, -ENOMEM, "out of memory");
    sq_evidence_free(ev);
    return rc;
}

static int run_folders(const struct dirent *de)
{
    return de->d_name[0] != '.';
}

static bool has_evidence(const char *dir)
{
    char path[PATH_MAX];

    return sq_path_join(path, sizeof path, dir, "evidence.jsonl", NULL) == 0 && access(path, F_OK) == 0;
}

static int read_folder(const struct reading *rd, const char *dir, struct sq_err *e)
{
    struct dirent **names = NULL;
    size_t found = 0;
    int n = scandir(dir, &names, run_folders, alphasort), rc = n < 0 ? -errno : 0;

    if (rc < 0)
        return sq_err_sys(e, rc, "cannot read %s", dir);
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];

        if (rc == 0 && sq_path_join(path, sizeof path, dir, names[i]->d_name, NULL) == 0 && has_evidence(path)) {
            rc = read_run(rd, path, e);
            found++;
        }
        free(names[i]);
    }
    free(names);
    if (rc == 0 && found == 0) {
        sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no run in %s", dir);
        sq_err_hint(
            e, "a run's folder (it has an evidence.jsonl), a folder of such folders, or a file of squall baseline");
        return -ENOENT;
    }
    return rc;
}

/* A run as a baseline file has it: from outside, so nothing is taken for granted. */
static bool well_formed(const json_t *run)
{
    const json_t *endpoint, *values = json_object_get(run, "values");
    const char *name;

    if (!json_is_string(json_object_get(run, "id")) || !json_is_string(json_object_get(run, "start")) ||
        !json_is_string(json_object_get(run, "window")) || !json_is_object(values))
        return false;
    json_object_foreach((json_t *)(uintptr_t)values, name, endpoint)
    {
        if (!json_is_object(endpoint))
            return false;
    }
    return true;
}

static int read_baseline(const struct reading *rd, const char *path, struct sq_err *e)
{
    json_error_t at;
    struct stat st;
    cleanup_json json_t *file = stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= BASELINE_MOST
                                    ? json_load_file(path, JSON_REJECT_DUPLICATES, &at)
                                    : NULL;
    const json_t *runs = json_object_get(file, "runs"), *run;
    size_t i;
    int rc = 0;

    if (sq_json_int_or(file, "squall_baseline", 0) != 1 || !json_is_array(runs)) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s is no baseline", path);
        sq_err_hint(e, "squall baseline -o FILE RUNS makes one");
        return -EINVAL;
    }
    json_array_foreach(runs, i, run)
    {
        if (!well_formed(run))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: run %zu is damaged", path, i + 1);
        if (rd->window && strcmp(rd->window, sq_json_str_or(run, "window", "")) != 0)
            rc = leave_out(rd, sq_json_str_or(run, "id", ""), "the baseline has another window of it", e);
        else if ((rc = room(rd, e)) == 0)
            rc = json_array_append(rd->runs, (json_t *)(uintptr_t)run) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
        if (rc < 0)
            return rc;
    }
    return 0;
}

int sq_runs_read(const char *path, const char *window, json_t *runs, json_t *left_out, struct sq_err *e)
{
    struct reading rd = {.window = window, .runs = runs, .left_out = left_out};
    struct stat st;

    if (stat(path, &st) < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -errno, "cannot read %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return read_baseline(&rd, path, e);
    return has_evidence(path) ? read_run(&rd, path, e) : read_folder(&rd, path, e);
}

int sq_runs_write(const char *path, const json_t *runs, struct sq_err *e)
{
    char tmp[PATH_MAX];
    cleanup_json json_t *file = json_pack("{s:i,s:O}", "squall_baseline", 1, "runs", runs);
    int n = snprintf(tmp, sizeof tmp, "%s.new", path);

    if (!file)
        return sq_err(e, -ENOMEM, "out of memory");
    if (n < 0 || (size_t)n >= sizeof tmp)
        return sq_err(e, -ENAMETOOLONG, "path too long: %s", path);
    if (json_dump_file(file, tmp, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) != 0 || rename(tmp, path) < 0) {
        int rc = errno ? -errno : -EIO;

        (void)unlink(tmp);
        return sq_err_sys(e, rc, "cannot write %s", path);
    }
    return 0;
}
