#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "verify/threshold.h"

#include "squall/json.h"
#include "squall/units.h"
#include "verify/result.h"

int sq_threshold_read(const json_t *o, struct sq_threshold *t, struct sq_err *e)
{
    const char *metric = sq_json_str_or(o, "metric", ""), *op = sq_json_str_or(o, "op", "");

    memset(t, 0, sizeof *t);
    t->value = sq_json_num_or(o, "value", -1.0);
    t->less = op[0] == '<';
    t->equal = op[0] && op[1] == '=';
    if (strcmp(metric, "p") == 0)
        t->metric = SQ_M_PERCENTILE;
    else if (strcmp(metric, "error_rate") == 0)
        t->metric = SQ_M_ERROR_RATE;
    else if (strcmp(metric, "sent_rate") == 0)
        t->metric = SQ_M_SENT_RATE;
    else
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a threshold of an unknown metric \"%s\"", metric);
    t->p = sq_json_num_or(o, "p", 0.0);
    if (t->metric == SQ_M_PERCENTILE && !(t->p > 0.0 && t->p < 100.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a percentile must be between 0 and 100, not %g", t->p);
    if (!(op[0] == '<' || op[0] == '>') || !(t->value >= 0.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a threshold on %s without <, <=, > or >= and a value", metric);
    if (t->less == (t->metric == SQ_M_SENT_RATE))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s can only be limited from %s", metric,
                          t->metric == SQ_M_SENT_RATE ? "below (>, >=)" : "above (<, <=)");
    return 0;
}

bool sq_threshold_holds(const struct sq_threshold *t, double value)
{
    if (t->equal && value == t->value)
        return true;
    return t->less ? value < t->value : value > t->value;
}

char *sq_threshold_metric(const struct sq_threshold *t, char *buf, size_t len)
{
    if (t->metric == SQ_M_PERCENTILE)
        (void)snprintf(buf, len, "p%.6g", t->p);
    else
        (void)snprintf(buf, len, "%s", t->metric == SQ_M_ERROR_RATE ? "error rate" : "sent rate");
    return buf;
}

char *sq_threshold_value(const struct sq_threshold *t, double value, char *buf, size_t len)
{
    switch (t->metric) {
    case SQ_M_PERCENTILE:
        return sq_fmt_duration((int64_t)value, buf, len);
    case SQ_M_ERROR_RATE:
        return sq_fmt_percent(value, buf, len);
    case SQ_M_SENT_RATE:
        break;
    }
    (void)snprintf(buf, len, "%.4g/s", value);
    return buf;
}

char *sq_threshold_text(const struct sq_threshold *t, char *buf, size_t len)
{
    char metric[32], value[64];

    (void)snprintf(buf, len, "%s %s%s %s", sq_threshold_metric(t, metric, sizeof metric), t->less ? "<" : ">",
                   t->equal ? "=" : "", sq_threshold_value(t, t->value, value, sizeof value));
    return buf;
}
