/* Data that requests are filled with: CSV (RFC 4180, the first line names the columns) or JSON Lines (objects). Read
 * whole before the run. */
#ifndef SQUALL_PROBE_DATA_H
#define SQUALL_PROBE_DATA_H

#include <stddef.h>

#include "squall/err.h"

#define SQ_DATA_BYTES ((size_t)64 << 20)
#define SQ_DATA_ROWS ((size_t)1 << 20)
#define SQ_DATA_COLUMNS 64

struct sq_data {
    char *text;
    size_t n_columns, n_rows;
    const char **column; /* names */
    const char **value;  /* row after row */
};

/* PATH ends with .jsonl or .ndjson: JSON Lines, else CSV. Errors: SQ_C_INPUT, with the line. */
int sq_data_read(const char *path, struct sq_data *d, struct sq_err *e);
void sq_data_free(struct sq_data *d);

#endif
