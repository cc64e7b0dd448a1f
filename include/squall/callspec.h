/* The target and parameters of a call fault (SQ_T_EDGE): what their tables can't say. Used by the scenario's reader,
 * which knows positions, by squalld, and by checks. */
#ifndef SQUALL_CALLSPEC_H
#define SQUALL_CALLSPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

/* A normalized target. On -EINVAL, *KEY (may be NULL) is the offending one. */
int sq_call_target_check(const json_t *target, const char **key, struct sq_err *e);
/* A normalized `with` of call/latency (others: 0). On -EINVAL, *KEY (may be NULL) is the offending one, "" when one is
 * missing. Whether a recording can be read is another matter. */
int sq_call_with_check(const char *uses, const json_t *with, const char **key, struct sq_err *e);
/* Does it count: hit only some of the calls, by their number? */
bool sq_call_counts(const json_t *target);
/* That for people: "the first 3 of every 2nd call after 5". "": it does not count. Returns BUF. */
const char *sq_call_count_text(const json_t *target, char *buf, size_t len);

#endif
