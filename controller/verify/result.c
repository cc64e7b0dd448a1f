#include "verify/result.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"

void sq_result_init(struct sq_result *r, const struct sq_ev_step *step, const char *subject)
{
    memset(r, 0, sizeof *r);
    r->step = step ? step->id : "";
    r->subject = subject ? subject : "";
    r->verdict = SQ_V_INCONCLUSIVE;
    if (step && step->ran)
        r->win = step->win;
}

struct sq_result *sq_result_set(struct sq_result *r, enum sq_outcome v, const char *fmt, ...)
{
    va_list ap;

    r->verdict = v;
    va_start(ap, fmt);
    (void)vsnprintf(r->why, sizeof r->why, fmt, ap);
    va_end(ap);
    return r;
}

/* snprintf may have cut a character of several bytes in half, which jansson would refuse. */
json_t *sq_result_text(const char *s)
{
    size_t len = strlen(s);

    for (int i = 0; i < 4; i++) {
        json_t *j = json_stringn(s, len);

        if (j || len == 0)
            return j;
        len--;
    }
    return json_string("(unreadable)");
}

const char *sq_outcome_name(enum sq_outcome v)
{
    return v == SQ_V_PASS ? "pass" : v == SQ_V_FAIL ? "fail" : "inconclusive";
}

enum sq_outcome sq_worse(enum sq_outcome a, enum sq_outcome b)
{
    if (a == SQ_V_FAIL || b == SQ_V_FAIL)
        return SQ_V_FAIL;
    return a == SQ_V_INCONCLUSIVE || b == SQ_V_INCONCLUSIVE ? SQ_V_INCONCLUSIVE : SQ_V_PASS;
}

int sq_result_add(json_t *results, const struct sq_result *r, struct sq_err *e)
{
    cleanup_json json_t *o = json_object();
    int rc = o ? 0 : -1;

    rc = rc ? rc : json_object_set_new(o, "step", sq_result_text(r->step));
    rc = rc ? rc : json_object_set_new(o, "subject", sq_result_text(r->subject));
    rc = rc ? rc : json_object_set_new(o, "verdict", json_string(sq_outcome_name(r->verdict)));
    rc = rc ? rc : json_object_set_new(o, "observed", sq_result_text(r->observed));
    rc = rc ? rc : json_object_set_new(o, "limit", sq_result_text(r->limit));
    rc = rc ? rc : json_object_set_new(o, "n", json_integer((json_int_t)r->n));
    rc = rc ? rc : json_object_set_new(o, "interval", sq_result_text(r->interval));
    if (!rc && r->win.to_ns > r->win.from_ns)
        rc = json_object_set_new(o, "window",
                                 json_pack("[f,f]", (double)r->win.from_ns / 1e9, (double)r->win.to_ns / 1e9));
    rc = rc ? rc : json_object_set_new(o, "why", sq_result_text(r->why));
    rc = rc ? rc : json_array_append(results, o);
    return rc ? sq_err(e, -ENOMEM, "no memory for a verdict") : 0;
}

int sq_steps_named(const struct sq_evidence *ev, const char *name, const struct sq_ev_step ***out, size_t *n,
                   struct sq_err *e)
{
    const struct sq_ev_step **v = calloc(ev->n_steps + 1, sizeof *v);

    if (!v)
        return sq_err(e, -ENOMEM, "no memory for a check");
    *n = 0;
    for (size_t i = 0; i < ev->n_steps; i++) {
        const struct sq_ev_step *s = &ev->steps[i];

        if (strcmp(name, "*") == 0 ? s->uses[0] != '\0' : strcmp(s->id, name) == 0)
            v[(*n)++] = s;
    }
    if (*n == 0 && strcmp(name, "*") != 0) {
        free(v);
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the scenario has no step \"%s\"", name);
    }
    *out = v;
    return 0;
}

void sq_step_missing(const struct sq_ev_step *s, char *buf, size_t len)
{
    if (s->fault && s->fault->failed)
        (void)snprintf(buf, len, "the fault of step %s could not be applied: %s", s->id,
                       s->fault->error[0] ? s->fault->error : "no reason is recorded");
    else
        (void)snprintf(buf, len, "the run ended before step %s began", s->id);
}

int sq_endpoints_named(const struct sq_evidence *ev, const char *name, const struct sq_ev_endpoint ***out, size_t *n,
                       struct sq_err *e)
{
    const struct sq_ev_endpoint **v = calloc(ev->n_endpoints + 1, sizeof *v);

    if (!v)
        return sq_err(e, -ENOMEM, "no memory for a check");
    *n = 0;
    for (size_t i = 0; i < ev->n_endpoints; i++)
        if (ev->endpoints[i].n && (!name || !name[0] || strcmp(ev->endpoints[i].name, name) == 0))
            v[(*n)++] = &ev->endpoints[i];
    *out = v;
    return 0;
}

int64_t sq_param_ns(const json_t *params, const char *key, int64_t def)
{
    const json_t *v = json_object_get(params, key);
    int64_t ns;

    if (json_is_integer(v))
        return json_integer_value(v);
    if (json_is_string(v) && sq_parse_duration(json_string_value(v), &ns, NULL) == 0)
        return ns;
    return def;
}

double sq_param_percent(const json_t *params, const char *key, double def)
{
    const json_t *v = json_object_get(params, key);
    double percent;

    if (json_is_number(v))
        return json_number_value(v);
    if (json_is_string(v) && sq_parse_percent(json_string_value(v), &percent, NULL) == 0)
        return percent;
    return def;
}

char *sq_fmt_percent(double percent, char *buf, size_t len)
{
    if (percent > 99.0 && percent < 100.0) { /* what is missing to 100 matters: never rounded up to it */
        double missing = 100.0 - percent;
        int digits = 2 - (int)floor(log10(missing));

        digits = digits < 2 ? 2 : digits > 6 ? 6 : digits;
        double scale = pow(10.0, digits);
        (void)snprintf(buf, len, "%.*f %%", digits, floor(percent * scale + 1e-9) / scale);
    } else
        (void)snprintf(buf, len, "%.3g %%", percent);
    return buf;
}
