/* Answers of Prometheus' HTTP API (v1: /api/v1/query, /api/v1/query_range), which come from outside. Pure. */
#ifndef CONTROLLER_RUN_PROMQL_H
#define CONTROLLER_RUN_PROMQL_H

#include <jansson.h>
#include <stddef.h>

#include "squall/err.h"

/* The one number of an instant query. -EINVAL with what is wrong: no series, several, not a number, refused. */
int sq_promql_value(const char *body, size_t len, double *v, struct sq_err *e);
/* The points of a range query with one series: [[unix seconds, value], ...], new reference; points that are not numbers
 * are left out, no series at all are no points. */
int sq_promql_range(const char *body, size_t len, json_t **points, struct sq_err *e);

#endif
