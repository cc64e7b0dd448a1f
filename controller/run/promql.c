#include "run/promql.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"

#define MAX_POINTS 20000u

/* The `data` of an answer, as a new reference. */
static int data_of(const char *body, size_t len, json_t **data, struct sq_err *e)
{
    cleanup_json json_t *doc = NULL;
    struct sq_err bad = {0};

    if (sq_json_parse(body, len, &doc, &bad) < 0 || !json_is_object(doc))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "its answer is not that of a Prometheus");
    if (strcmp(sq_json_str_or(doc, "status", ""), "success") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "Prometheus refused the query: %.300s",
                          sq_json_str_or(doc, "error", sq_json_str_or(doc, "errorType", "it does not say why")));
    *data = json_incref(json_object_get(doc, "data"));
    return *data ? 0 : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "its answer is not that of a Prometheus");
}

/* [unix seconds, "1.5"] */
static bool point(const json_t *p, double *t, double *v)
{
    const char *text = json_string_value(json_array_get(p, 1));
    char *end = NULL;

    *t = json_number_value(json_array_get(p, 0));
    *v = text ? strtod(text, &end) : (double)NAN;
    return text && end != text && !*end && isfinite(*v) && isfinite(*t);
}

int sq_promql_value(const char *body, size_t len, double *v, struct sq_err *e)
{
    cleanup_json json_t *data = NULL;
    const json_t *result, *one;
    const char *type;
    double t;
    int rc = data_of(body, len, &data, e);

    if (rc)
        return rc;
    type = sq_json_str_or(data, "resultType", "");
    result = json_object_get(data, "result");
    if (strcmp(type, "scalar") != 0 && strcmp(type, "vector") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the query gives a %.40s, not one value", type[0] ? type : "nothing");
    if (strcmp(type, "vector") == 0 && json_array_size(result) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the query gives no series (an empty vector)");
    if (strcmp(type, "vector") == 0 && json_array_size(result) > 1)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the query gives %zu series, sum() makes one of them",
                          json_array_size(result));
    one = strcmp(type, "vector") == 0 ? json_object_get(json_array_get(result, 0), "value") : result;
    if (!point(one, &t, v)) {
        const char *text = json_string_value(json_array_get(one, 1));

        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the query gives %.20s, which is no number", text ? text : "nothing");
    }
    return 0;
}

int sq_promql_range(const char *body, size_t len, json_t **points, struct sq_err *e)
{
    cleanup_json json_t *data = NULL;
    cleanup_json json_t *list = json_array();
    const json_t *result, *p;
    size_t i;
    int rc = data_of(body, len, &data, e);

    if (rc)
        return rc;
    result = json_object_get(data, "result");
    if (strcmp(sq_json_str_or(data, "resultType", ""), "matrix") != 0 || !list)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the range query gives no matrix");
    if (json_array_size(result) > 1)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the query gives %zu series, sum() makes one of them",
                          json_array_size(result));
    json_array_foreach(json_object_get(json_array_get(result, 0), "values"), i, p)
    {
        double t, v;

        if (i < MAX_POINTS && point(p, &t, &v))
            (void)json_array_append_new(list, json_pack("[f,f]", t, v));
    }
    *points = json_incref(list);
    return 0;
}
