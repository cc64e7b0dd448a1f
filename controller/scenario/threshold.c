/* Thresholds: p(95)<500ms, p(99.9)<=1s, error_rate<0.1%, sent_rate>=57/s */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/units.h"

#define GRAMMAR "p(95)<500ms, p(99.9)<=1s, error_rate<0.1% or sent_rate>=57/s"

static int bad(struct sq_err *e, const char *text, const char *why)
{
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" is not a threshold: %s", text, why);
    sq_err_hint(e, "write %s", GRAMMAR);
    return -EINVAL;
}

/* "p(99.9)": *s moves behind it. */
static int percentile(const char **s, double *p)
{
    char *end;

    if (!isdigit((unsigned char)(*s)[2]))
        return -EINVAL;
    *p = strtod(*s + 2, &end);
    for (const char *q = *s + 2; q < end; q++)
        if (!isdigit((unsigned char)*q) && *q != '.')
            return -EINVAL;
    if (*end != ')' || *p <= 0 || *p >= 100)
        return -EINVAL;
    *s = end + 1;
    return 0;
}

static const char *take_op(const char **s)
{
    static const char *const ops[] = {"<=", ">=", "<", ">"};

    while (**s == ' ')
        (*s)++;
    for (size_t i = 0; i < 4; i++) {
        size_t n = strlen(ops[i]);

        if (strncmp(*s, ops[i], n) != 0)
            continue;
        *s += n;
        while (**s == ' ')
            (*s)++;
        return ops[i];
    }
    return NULL;
}

int sq_threshold_parse(const char *text, json_t **out, struct sq_err *e)
{
    static const char *const metrics[] = {"error_rate", "sent_rate"};
    const char *s = text, *metric = NULL, *op;
    double p = 0, number = 0;
    int64_t ns = 0;
    int r;

    *out = NULL;
    if (strncmp(s, "p(", 2) == 0) {
        metric = "p";
        if (percentile(&s, &p) < 0)
            return bad(e, text, "a percentile is between 0 and 100: p(95)");
    }
    for (size_t i = 0; !metric && i < 2; i++) {
        if (strncmp(s, metrics[i], strlen(metrics[i])) == 0) {
            metric = metrics[i];
            s += strlen(metric);
        }
    }
    if (!metric)
        return bad(e, text, "it begins with p(..), error_rate or sent_rate");
    op = take_op(&s);
    if (!op)
        return bad(e, text, "one of <, <=, >, >= is missing after the metric");
    if ((op[0] == '>') != (strcmp(metric, "sent_rate") == 0))
        return bad(e, text,
                   strcmp(metric, "sent_rate") == 0 ? "a sent rate has a lower limit (>=)"
                                                    : "this metric has an upper limit (<)");
    if (strcmp(metric, "error_rate") == 0)
        r = sq_parse_percent(s, &number, e);
    else if (strcmp(metric, "sent_rate") == 0)
        r = sq_parse_rate(s, &number, e);
    else
        r = sq_parse_duration(s, &ns, e);
    if (r < 0)
        return sq_err_prefix(e, "threshold \"%.60s\"", text), r;
    if (strcmp(metric, "p") == 0)
        *out = json_pack("{s:s, s:f, s:s, s:I, s:s}", "metric", metric, "p", p, "op", op, "value", (json_int_t)ns,
                         "text", text);
    else
        *out = json_pack("{s:s, s:s, s:f, s:s}", "metric", metric, "op", op, "value", number, "text", text);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

json_t *sq_norm_thresholds(struct sq_norm *c, const char *label, const struct sq_node *n)
{
    json_t *list = json_array();

    if (n->kind != SQ_N_LIST || n->n == 0 || n->n > 20) {
        sq_diag_error(c->d, n->pos, "thresholds: [\"p(95)<500ms\", \"error_rate<0.1%\"]",
                      "%s: \"thresholds\" must be a list of 1 to 20", label);
        return list;
    }
    for (size_t i = 0; i < n->n; i++) {
        const struct sq_node *t = n->items[i];
        struct sq_err e = {0};
        json_t *o = NULL;

        if (t->kind != SQ_N_SCALAR)
            sq_diag_error(c->d, t->pos, "write " GRAMMAR, "%s: a threshold is a text", label);
        else if (sq_threshold_parse(t->text, &o, &e) < 0)
            sq_diag_error(c->d, t->pos, e.hint, "%s: %s", label, e.msg);
        else
            (void)json_array_append_new(list, o);
    }
    return list;
}
