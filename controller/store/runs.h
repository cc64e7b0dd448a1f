/* Runs that were kept: folders of evidence, and the files `squall baseline` makes of them. */
#ifndef CONTROLLER_STORE_RUNS_H
#define CONTROLLER_STORE_RUNS_H

#include <jansson.h>

#include "squall/err.h"

#define SQ_RUNS_MAX 200 /* of one side; verify/rank.h takes no more */

/* What the runs at PATH measured (verify/values.h), oldest first, appended to RUNS. PATH: a run's folder, a folder of
 * such folders (one level deep), or a baseline file. What can't count (it did not complete, or lacks the window) is
 * appended to LEFT_OUT as {"run","why"}. -ENOENT when there is neither; -E2BIG with more than SQ_RUNS_MAX. WINDOW as in
 * sq_run_values; a baseline file has its own and must agree. */
int sq_runs_read(const char *path, const char *window, json_t *runs, json_t *left_out, struct sq_err *e);
/* Write RUNS as a baseline file, whole or not at all. */
int sq_runs_write(const char *path, const json_t *runs, struct sq_err *e);

#endif
