/* Regular expressions that come from outside, by PCRE2: what a person writes for grep -E works, and neither compiling
 * nor matching can take more time or memory than is allowed here (glibc's regexec can take minutes and gigabytes). */
#ifndef SQUALL_PATTERN_H
#define SQUALL_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_PATTERN_MAX 512 /* characters of a pattern */

struct sq_pattern; /* opaque */

/* SQ_C_INPUT with what is wrong and where when TEXT is no pattern. */
int sq_pattern_compile(const char *text, struct sq_pattern **out, struct sq_err *e);
void sq_pattern_free(struct sq_pattern *p); /* NULL: nothing */
/* 1: somewhere in TEXT, 0: nowhere, -ETIMEDOUT: not decided by DEADLINE (CLOCK_MONOTONIC, ns). */
int sq_pattern_match(struct sq_pattern *p, const char *text, int64_t deadline);

#endif
