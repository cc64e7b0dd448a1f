/* What is wrong with a file, and where: errors and warnings with line and column, so that several can be shown at once.
 */
#ifndef CONTROLLER_SCENARIO_DIAG_H
#define CONTROLLER_SCENARIO_DIAG_H

#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

#define SQ_DIAG_MAX 20 /* of each severity; what is beyond is counted only */

struct sq_pos {
    unsigned line, col; /* from 1, columns in characters; line 0: the file as a whole */
};

struct sq_diag {
    bool warning;
    struct sq_pos pos;
    char *msg;
    char *hint; /* "" when there is none */
};

struct sq_diags {
    const char *file; /* borrowed */
    struct sq_diag list[2 * SQ_DIAG_MAX];
    size_t n;
    unsigned errors, warnings; /* all of them, kept in the list or not */
    int code;                  /* -errno of the first error; 0 when there is none */
    enum sq_class cls;         /* its class */
};

void sq_diags_init(struct sq_diags *d, const char *file);
void sq_diags_free(struct sq_diags *d);
/* HINT may be NULL. sq_diag_error returns -EINVAL. */
int sq_diag_error(struct sq_diags *d, struct sq_pos at, const char *hint, const char *fmt, ...) SQ_PRINTF(4, 5);
void sq_diag_warn(struct sq_diags *d, struct sq_pos at, const char *hint, const char *fmt, ...) SQ_PRINTF(4, 5);
/* An error that is none of the file's text (no such file, no memory): E's code, class, message and hint. */
int sq_diag_err(struct sq_diags *d, struct sq_pos at, const struct sq_err *e);
/* "file:line:column: " or "file: ". Writes at most len bytes, returns buf. */
char *sq_diag_where(const struct sq_diags *d, const struct sq_diag *g, char *buf, size_t len);
/* Sort by position, errors and warnings together. */
void sq_diags_sort(struct sq_diags *d);

#endif
