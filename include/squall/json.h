/* Typed access to JSON that came from outside: every getter checks presence and type and says which key was wrong. */
#ifndef SQUALL_JSON_H
#define SQUALL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

static inline void sq_json_decrefp(json_t **j)
{
    json_decref(*j);
}
#define cleanup_json __attribute__((cleanup(sq_json_decrefp)))

/* Parse at most `len` bytes; depth and size limits as jansson's, duplicate keys refused. */
int sq_json_parse(const char *text, size_t len, json_t **out, struct sq_err *e);

/* Required members: -EINVAL with class SQ_C_INPUT when absent or of another type. Borrowed pointers. */
int sq_json_str(const json_t *o, const char *key, const char **out, struct sq_err *e);
int sq_json_int(const json_t *o, const char *key, int64_t *out, struct sq_err *e);
int sq_json_num(const json_t *o, const char *key, double *out, struct sq_err *e);
int sq_json_arr(const json_t *o, const char *key, json_t **out, struct sq_err *e);
int sq_json_obj(const json_t *o, const char *key, json_t **out, struct sq_err *e);
/* Optional members: the default when absent or of another type. */
const char *sq_json_str_or(const json_t *o, const char *key, const char *def);
int64_t sq_json_int_or(const json_t *o, const char *key, int64_t def);
double sq_json_num_or(const json_t *o, const char *key, double def);
bool sq_json_bool_or(const json_t *o, const char *key, bool def);

#endif
