#include "squall/json.h"

#include <errno.h>

int sq_json_parse(const char *text, size_t len, json_t **out, struct sq_err *e)
{
    json_error_t je;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);

    if (!j)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "JSON line %d column %d: %s", je.line, je.column, je.text);
    *out = j;
    return 0;
}

static int wrong(const json_t *v, const char *key, const char *type, struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, v ? "\"%s\" must be %s" : "\"%s\" (%s) is missing", key, type);
}

int sq_json_str(const json_t *o, const char *key, const char **out, struct sq_err *e)
{
    const json_t *v = json_object_get(o, key);

    if (!json_is_string(v))
        return wrong(v, key, "a string", e);
    *out = json_string_value(v);
    return 0;
}

int sq_json_int(const json_t *o, const char *key, int64_t *out, struct sq_err *e)
{
    const json_t *v = json_object_get(o, key);

    if (!json_is_integer(v))
        return wrong(v, key, "an integer", e);
    *out = json_integer_value(v);
    return 0;
}

int sq_json_num(const json_t *o, const char *key, double *out, struct sq_err *e)
{
    const json_t *v = json_object_get(o, key);

    if (!json_is_number(v))
        return wrong(v, key, "a number", e);
    *out = json_number_value(v);
    return 0;
}

int sq_json_arr(const json_t *o, const char *key, json_t **out, struct sq_err *e)
{
    json_t *v = json_object_get(o, key);

    if (!json_is_array(v))
        return wrong(v, key, "a list", e);
    *out = v;
    return 0;
}

int sq_json_obj(const json_t *o, const char *key, json_t **out, struct sq_err *e)
{
    json_t *v = json_object_get(o, key);

    if (!json_is_object(v))
        return wrong(v, key, "a mapping", e);
    *out = v;
    return 0;
}

const char *sq_json_str_or(const json_t *o, const char *key, const char *def)
{
    const json_t *v = json_object_get(o, key);

    return json_is_string(v) ? json_string_value(v) : def;
}

int64_t sq_json_int_or(const json_t *o, const char *key, int64_t def)
{
    const json_t *v = json_object_get(o, key);

    return json_is_integer(v) ? json_integer_value(v) : def;
}

double sq_json_num_or(const json_t *o, const char *key, double def)
{
    const json_t *v = json_object_get(o, key);

    return json_is_number(v) ? json_number_value(v) : def;
}

bool sq_json_bool_or(const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);

    return json_is_boolean(v) ? json_is_true(v) : def;
}
