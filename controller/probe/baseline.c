#include "probe/baseline.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "probe/data.h"
#include "probe/schedule.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define LINE_MAX_LEN ((size_t)4 << 20)

static int from_csv(const char *path, double **rate, size_t *n, struct sq_err *e)
{
    struct sq_data d = {0};
    size_t column = 0;
    int rc = sq_data_read(path, &d, e);

    while (rc == 0 && column < d.n_columns && strcmp(d.column[column], "rate") != 0)
        column++;
    if (rc == 0 && (column == d.n_columns || d.n_rows > SQ_BASELINE_MAX))
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "baseline %.200s: a column \"rate\" and at most %d rows", path,
                        SQ_BASELINE_MAX);
    if (rc == 0 && !(*rate = calloc(d.n_rows, sizeof **rate)))
        rc = sq_err(e, -ENOMEM, "no memory");
    for (size_t i = 0; rc == 0 && i < d.n_rows; i++) {
        char *end;

        (*rate)[i] = strtod(d.value[i * d.n_columns + column], &end);
        if (*end || !isfinite((*rate)[i]) || (*rate)[i] < 0)
            rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "baseline %.200s: row %zu is no rate", path, i + 1);
    }
    *n = d.n_rows;
    sq_data_free(&d);
    return rc;
}

/* Adds what a line of evidence says; false: no memory. */
static bool add_line(const char *line, size_t len, const char *endpoint, double **rate, size_t *n)
{
    cleanup_json json_t *o = NULL;
    int64_t sec;

    if (!memmem(line, len, "\"sample\"", 8) || sq_json_parse(line, len, &o, NULL) < 0)
        return true;
    sec = sq_json_int_or(o, "sec", -1);
    if (strcmp(sq_json_str_or(o, "type", ""), "sample") != 0 ||
        strcmp(sq_json_str_or(o, "endpoint", ""), endpoint) != 0 || sec < 0 || sec >= SQ_BASELINE_MAX)
        return true;
    if ((size_t)sec >= *n) {
        double *more = realloc(*rate, ((size_t)sec + 1) * sizeof *more);

        if (!more)
            return false;
        memset(more + *n, 0, ((size_t)sec + 1 - *n) * sizeof *more);
        *rate = more;
        *n = (size_t)sec + 1;
    }
    (*rate)[sec] += (double)sq_json_int_or(o, "planned", sq_json_int_or(o, "sent", 0));
    return true;
}

static int from_evidence(FILE *f, const char *path, const char *endpoint, double **rate, size_t *n, struct sq_err *e)
{
    cleanup_free char *line = NULL;
    size_t cap = 0, first = 0;
    ssize_t len;

    while ((len = getline(&line, &cap, f)) > 0)
        if ((size_t)len > LINE_MAX_LEN || !add_line(line, (size_t)len, endpoint, rate, n))
            return sq_err(e, -ENOMEM, "no memory");
    while (first < *n && (*rate)[first] <= 0)
        first++;
    if (*n < first + 3)
        return sq_err_cls(e, SQ_C_INPUT, -ENOENT, "baseline %.200s: not three seconds of an endpoint \"%.60s\" in it",
                          path, endpoint);
    *n -= first + 2;
    memmove(*rate, *rate + first + 1, *n * sizeof **rate);
    return 0;
}

int sq_baseline_read(const char *path, const char *endpoint, double **rate, size_t *n, struct sq_err *e)
{
    size_t len = strlen(path);
    struct stat st;
    char file[4096];
    int rc;

    *rate = NULL;
    *n = 0;
    if (stat(path, &st) < 0) {
        rc = -errno;
        return sq_err_cls(e, SQ_C_INPUT, rc, "baseline %.200s: %s", path, strerror(-rc));
    }
    if (len > 4 && strcmp(path + len - 4, ".csv") == 0) {
        rc = from_csv(path, rate, n, e);
    } else if (snprintf(file, sizeof file, "%s%s", path, S_ISDIR(st.st_mode) ? "/evidence.jsonl" : "") >=
               (int)sizeof file) {
        rc = sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "baseline: the path is too long");
    } else {
        cleanup_fclose FILE *f = fopen(file, "re");

        rc = f ? from_evidence(f, path, endpoint, rate, n, e)
               : sq_err_cls(e, SQ_C_INPUT, -errno, "baseline %.200s: %s", file, strerror(errno));
    }
    if (rc < 0) {
        free(*rate);
        *rate = NULL;
    }
    return rc;
}
