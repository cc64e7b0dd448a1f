/* What was measured before: requests planned in each second of an earlier run, or rates from a CSV. */
#ifndef SQUALL_PROBE_BASELINE_H
#define SQUALL_PROBE_BASELINE_H

#include <stddef.h>

#include "squall/err.h"

/* PATH: a CSV with the column `rate` (requests per second, one line a second), or a run's folder or its evidence, of
 * which ENDPOINT is taken, without the first and the last second, which are not whole. *rate: malloc'd, *n of them.
 * Errors: SQ_C_INPUT. */
int sq_baseline_read(const char *path, const char *endpoint, double **rate, size_t *n, struct sq_err *e);

#endif
