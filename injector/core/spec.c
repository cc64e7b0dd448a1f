#include "squall/spec.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

const char *sq_ptype_name(enum sq_ptype t)
{
    switch (t) {
    case SQ_P_STRING:
        return "string";
    case SQ_P_BOOL:
        return "true or false";
    case SQ_P_INT:
        return "integer";
    case SQ_P_NUMBER:
        return "number";
    case SQ_P_DURATION:
        return "duration";
    case SQ_P_RATE:
        return "rate";
    case SQ_P_PERCENT:
        return "percentage";
    case SQ_P_ERRNO:
        return "errno";
    case SQ_P_SIGNAL:
        return "signal";
    case SQ_P_COUNT:
        return "count";
    case SQ_P_ENUM:
        return "choice";
    case SQ_P_STRINGS:
        return "string or list of strings";
    case SQ_P_MAP:
        return "mapping";
    case SQ_P_MAPS:
        return "mapping or list of mappings";
    }
    return "value";
}

/* Optimal string alignment distance, words of at most 63 bytes. */
static size_t distance(const char *a, const char *b)
{
    size_t d[3][65], la = strlen(a), lb = strlen(b);

    if (la > 63 || lb > 63)
        return 99;
    memset(d, 0, sizeof d);
    for (size_t j = 0; j <= lb; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *row = d[i % 3], *up = d[(i - 1) % 3], *up2 = d[(i + 1) % 3];

        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);

            if (up[j] + 1 < best)
                best = up[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            row[j] = best;
        }
    }
    return d[la % 3][lb];
}

const char *sq_nearest(const char *word, const char *const *candidates, size_t n)
{
    const char *best = NULL;
    size_t best_d = 3;

    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, candidates[i]);

        if (d < best_d && 2 * d < strlen(word) + 1) {
            best = candidates[i];
            best_d = d;
        }
    }
    for (size_t i = 0; i < n && !best; i++) { /* "latency" for "call/latency" */
        const char *slash = strchr(candidates[i], '/');

        if (slash && strcmp(slash + 1, word) == 0)
            best = candidates[i];
    }
    return best;
}

static const struct sq_param *find(const struct sq_param *params, const char *name)
{
    for (; params->name; params++)
        if (strcmp(params->name, name) == 0)
            return params;
    return NULL;
}

static int unknown(const char *what, const struct sq_param *params, const char *key, struct sq_err *e)
{
    const char *names[64] = {NULL};
    char list[256] = "";
    const char *near;
    size_t n = 0, used = 0;

    for (const struct sq_param *p = params; p->name && n < SQ_COUNT(names); p++) {
        names[n++] = p->name;
        if (used < sizeof list - 1)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", n > 1 ? ", " : "", p->name);
    }
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: unknown key \"%.60s\"", what, key);
    near = sq_nearest(key, names, n);
    if (near)
        sq_err_hint(e, "did you mean \"%s\"?", near);
    else if (n > 0)
        sq_err_hint(e, "it takes: %s", list);
    else
        sq_err_hint(e, "it takes no parameters");
    return -EINVAL;
}

static int mistyped(const char *what, const struct sq_param *p, struct sq_err *e)
{
    const char *article = p->type == SQ_P_BOOL ? "" : p->type == SQ_P_INT || p->type == SQ_P_ERRNO ? "an " : "a ";

    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: \"%s\" must be %s%s", what, p->name, article, sq_ptype_name(p->type));
    if (p->def)
        sq_err_hint(e, "for example %s: %s (%s)", p->name, p->def, p->doc);
    return -EINVAL;
}

static int choice(const char *what, const struct sq_param *p, const char *s, struct sq_err *e)
{
    size_t len = strlen(s);

    for (const char *v = p->values; v && *v; v += strcspn(v, "|"), v += *v == '|')
        if (strcspn(v, "|") == len && strncmp(v, s, len) == 0)
            return 0;
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: \"%s\" can't be \"%.60s\"", what, p->name, s);
    sq_err_hint(e, "one of %s", p->values ? p->values : "(none)");
    return -EINVAL;
}

/* Values that are written as text with a unit or a name. */
static int from_text(const char *what, const struct sq_param *p, const char *s, json_t **out, struct sq_err *e)
{
    struct sq_count c;
    int64_t ns = 0;
    double v = 0;
    int n = 0, r = 0;

    switch (p->type) {
    case SQ_P_DURATION:
        r = sq_parse_duration(s, &ns, e);
        *out = json_integer(ns);
        break;
    case SQ_P_RATE:
        r = sq_parse_rate(s, &v, e);
        *out = json_real(v);
        break;
    case SQ_P_PERCENT:
        r = sq_parse_percent(s, &v, e);
        *out = json_real(v);
        break;
    case SQ_P_ERRNO:
        r = sq_parse_errno(s, &n, e);
        *out = json_integer(n);
        break;
    case SQ_P_SIGNAL:
        r = sq_parse_signal(s, &n, e);
        *out = json_integer(n);
        break;
    case SQ_P_COUNT:
        r = sq_parse_count(s, &c, e);
        *out = json_string(s);
        break;
    case SQ_P_ENUM:
        r = choice(what, p, s, e);
        *out = json_string(s);
        return r;
    case SQ_P_STRING:
        *out = json_string(s);
        break;
    case SQ_P_STRINGS:
        *out = json_pack("[s]", s);
        break;
    case SQ_P_BOOL:
    case SQ_P_INT:
    case SQ_P_NUMBER:
    case SQ_P_MAP:
    case SQ_P_MAPS:
        *out = NULL;
        return mistyped(what, p, e);
    }
    if (r < 0)
        return sq_err_prefix(e, "%s: \"%s\"", what, p->name), r;
    return 0;
}

/* A value that is normalized already, or a plain number where a number is the natural way to write it. */
static int from_number(const char *what, const struct sq_param *p, const json_t *in, bool strict, json_t **out,
                       struct sq_err *e)
{
    double v = json_number_value(in);
    char text[32];

    switch (p->type) {
    case SQ_P_PERCENT:
        if (v < 0 || v > 100)
            break;
        *out = json_real(v);
        return 0;
    case SQ_P_NUMBER:
        *out = json_real(v);
        return 0;
    case SQ_P_INT:
        if (!json_is_integer(in))
            break;
        *out = json_integer(json_integer_value(in));
        return 0;
    case SQ_P_DURATION:
        if (!json_is_integer(in) || v < 0 || (strict && v > 0))
            break;
        *out = json_integer(json_integer_value(in));
        return 0;
    case SQ_P_RATE:
        if (strict || v <= 0 || v > 1e7)
            break;
        *out = json_real(v);
        return 0;
    case SQ_P_ERRNO:
    case SQ_P_SIGNAL:
    case SQ_P_COUNT:
        if (!json_is_integer(in))
            break;
        (void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(in));
        return from_text(what, p, text, out, e);
    case SQ_P_STRINGS: /* [200, 5xx]: a number is a word among words */
        if (!json_is_integer(in))
            break;
        (void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(in));
        return from_text(what, p, text, out, e);
    case SQ_P_STRING:
    case SQ_P_BOOL:
    case SQ_P_ENUM:
    case SQ_P_MAP:
    case SQ_P_MAPS:
        break;
    }
    return mistyped(what, p, e);
}

static int strings(const char *what, const struct sq_param *p, const json_t *in, json_t **out, struct sq_err *e)
{
    const json_t *item;
    char text[32];
    size_t i;

    *out = json_array();
    json_array_foreach(in, i, item)
    {
        if (!json_is_string(item) && !json_is_integer(item))
            return mistyped(what, p, e);
        (void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(item));
        if (json_array_append_new(*out, json_string(json_is_string(item) ? json_string_value(item) : text)) != 0)
            return sq_err(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static int check(const char *what, const struct sq_param *params, const json_t *in, bool strict, json_t **out,
                 const char **bad_key, int *bad_is_key, struct sq_err *e);

/* Tables nest as deep as they were written. */
static int mapping(const char *what, const struct sq_param *p, const json_t *in, bool strict, json_t **out,
                   struct sq_err *e)
{
    char label[160];

    if (!json_is_object(in))
        return mistyped(what, p, e);
    if (!p->fields) {
        *out = json_deep_copy(in);
        return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
    }
    (void)snprintf(label, sizeof label, "%.100s: %.50s", what, p->name);
    return check(label, p->fields, in, strict, out, NULL, NULL, e);
}

static int mappings(const char *what, const struct sq_param *p, const json_t *in, bool strict, json_t **out,
                    struct sq_err *e)
{
    size_t n = json_is_array(in) ? json_array_size(in) : 1;

    *out = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *one = NULL;
        int r = mapping(what, p, json_is_array(in) ? json_array_get(in, i) : in, strict, &one, e);

        if (r < 0) {
            json_decref(one);
            return r;
        }
        if (json_array_append_new(*out, one) != 0)
            return sq_err(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static int convert(const char *what, const struct sq_param *p, const json_t *in, bool strict, json_t **out,
                   struct sq_err *e)
{
    if (json_is_string(in))
        return from_text(what, p, json_string_value(in), out, e);
    if (json_is_number(in))
        return from_number(what, p, in, strict, out, e);
    if (json_is_boolean(in) && p->type == SQ_P_BOOL) {
        *out = json_boolean(json_is_true(in));
        return 0;
    }
    if (json_is_object(in) && p->type == SQ_P_MAP)
        return mapping(what, p, in, strict, out, e);
    if ((json_is_object(in) || json_is_array(in)) && p->type == SQ_P_MAPS)
        return mappings(what, p, in, strict, out, e);
    if (json_is_array(in) && p->type == SQ_P_STRINGS)
        return strings(what, p, in, out, e);
    return mistyped(what, p, e);
}

static int take(const char *what, const struct sq_param *p, const json_t *value, bool strict, json_t *into,
                struct sq_err *e)
{
    json_t *converted = NULL;
    int r = convert(what, p, value, strict, &converted, e);

    if (r < 0) {
        json_decref(converted);
        return r;
    }
    if (json_object_set_new(into, p->name, converted) != 0)
        return sq_err(e, -ENOMEM, "out of memory");
    return 0;
}

static int check(const char *what, const struct sq_param *params, const json_t *in, bool strict, json_t **out,
                 const char **bad_key, int *bad_is_key, struct sq_err *e)
{
    cleanup_json json_t *o = json_object();
    const char *key;
    json_t *value;
    int r;

    if (bad_key)
        *bad_key = NULL;
    if (bad_is_key)
        *bad_is_key = 0;
    if (in && !json_is_object(in))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: a mapping is expected here", what);
    /* jansson's iteration does not change the object; its API only lacks the const. */
    json_object_foreach((json_t *)(uintptr_t)in, key, value)
    {
        const struct sq_param *p = find(params, key);

        if (bad_key)
            *bad_key = key;
        if (!p) {
            if (bad_is_key)
                *bad_is_key = 1;
            return unknown(what, params, key, e);
        }
        r = take(what, p, value, strict, o, e);
        if (r < 0)
            return r;
    }
    for (const struct sq_param *p = params; p->name; p++) {
        if (json_object_get(o, p->name))
            continue;
        if (bad_key)
            *bad_key = p->name;
        if (p->flags & SQ_REQUIRED) {
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: \"%s\" is missing", what, p->name);
            sq_err_hint(e, "%s (%s)", p->doc, sq_ptype_name(p->type));
            return -EINVAL;
        }
        if (p->def) {
            cleanup_json json_t *def = p->type == SQ_P_BOOL     ? json_boolean(strcmp(p->def, "true") == 0)
                                       : p->type == SQ_P_INT    ? json_integer(strtoll(p->def, NULL, 10))
                                       : p->type == SQ_P_NUMBER ? json_real(strtod(p->def, NULL))
                                                                : json_string(p->def);

            r = take(what, p, def, strict, o, e);
            if (r < 0)
                return r;
        }
    }
    if (bad_key)
        *bad_key = NULL;
    *out = SQ_TAKE(o);
    return 0;
}

int sq_spec_check(const char *what, const struct sq_param *params, const json_t *in, json_t **out, const char **bad_key,
                  int *bad_is_key, struct sq_err *e)
{
    return check(what, params, in, true, out, bad_key, bad_is_key, e);
}

int sq_spec_normalize(const char *what, const struct sq_param *params, const json_t *in, json_t **out, struct sq_err *e)
{
    return check(what, params, in, false, out, NULL, NULL, e);
}
