/* Faults on the HTTP requests of an edge: what they ask for, as a rule of the proxy. */
#ifndef SQUALL_INTERCEPT_HTTPFAULT_H
#define SQUALL_INTERCEPT_HTTPFAULT_H

#include <jansson.h>

#include "squall/err.h"

/* WITH and the target's `match` are said in RULE as the proxy reads it (wire.h). */
int sq_http_rule(const char *name, const json_t *target, const json_t *with, json_t *rule, struct sq_err *e);
/* -EBADE: HAVE is not what RULE asked for. */
int sq_http_same(const json_t *rule, const json_t *have, struct sq_err *e);

#endif
