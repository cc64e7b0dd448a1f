/* The generic part: any mapping by its table. */
#include "scenario/normalize.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/pattern.h"
#include "squall/units.h"

#define MAX_LABEL 160

bool sq_norm_name(struct sq_norm *c, const char *what, const struct sq_node *at, bool edge)
{
    const char *p = at->text;
    size_t part = 0;
    bool arrow = false, ok = strlen(p) <= (edge ? 128 : 63);

    for (; *p && ok; p++, part++) {
        if (edge && !arrow && part > 0 && strncmp(p, "->", 2) == 0) {
            arrow = true;
            part = SIZE_MAX; /* the next character begins a name */
            p++;
            continue;
        }
        ok = (*p >= 'a' && *p <= 'z') || isdigit((unsigned char)*p) || (part > 0 && strchr("._-", *p));
    }
    if (ok && part > 0)
        return true;
    sq_diag_error(c->d, at->pos,
                  edge ? "like caller->dependency: a-z, 0-9, . _ and -, at most 63 each"
                       : "a-z, 0-9, . _ and -, beginning with a letter or digit, at most 63",
                  "%s: \"%.60s\" can't be a name", what, at->text);
    return false;
}

char *sq_norm_keys(const json_t *o, char *buf, size_t len)
{
    const char *key;
    json_t *value;
    size_t used = 0;

    buf[0] = '\0';
    json_object_foreach((json_t *)(uintptr_t)o, key, value)
    {
        int n = snprintf(buf + used, len - used, "%s%s", used ? ", " : "", key);

        if (n < 0 || (size_t)n >= len - used) {
            buf[used] = '\0'; /* whole names only */
            break;
        }
        used += (size_t)n;
    }
    return buf;
}

void sq_norm_no_such(struct sq_norm *c, struct sq_pos at, const char *what, const char *name, const json_t *o)
{
    const char *names[200], *key, *near;
    char hint[300], list[256];
    json_t *value;
    size_t n = 0;

    json_object_foreach((json_t *)(uintptr_t)o, key, value)
    {
        if (n < SQ_COUNT(names))
            names[n++] = key;
    }
    near = sq_nearest(name, names, n);
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    else if (n > 0)
        (void)snprintf(hint, sizeof hint, "there is: %s", sq_norm_keys(o, list, sizeof list));
    else
        (void)snprintf(hint, sizeof hint, "the scenario declares none");
    sq_diag_error(c->d, at, hint, "there is no %s \"%.60s\"", what, name);
}

void sq_norm_regex(struct sq_norm *c, const char *label, struct sq_pos at, const char *text)
{
    struct sq_pattern *pattern = NULL;
    struct sq_err e = {0};

    if (sq_pattern_compile(text, &pattern, &e) < 0)
        sq_diag_error(c->d, at, "a regular expression as for grep -E", "%s: %s", label, e.msg);
    sq_pattern_free(pattern);
}

char *sq_norm_path(const char *base, const char *path)
{
    char *out = NULL;

    while (strncmp(path, "./", 2) == 0)
        path += 2;
    if (path[0] == '/')
        return strdup(path);
    if (!*path || strcmp(path, ".") == 0)
        return strdup(base);
    return asprintf(&out, "%s/%s", strcmp(base, "/") == 0 ? "" : base, path) < 0 ? NULL : out;
}

/* What a person probably meant, when the schema's own error has no hint. */
static void type_hint(const struct sq_param *p, const struct sq_node *n, char *buf, size_t len)
{
    const char *text = n->kind == SQ_N_SCALAR ? n->text : "";

    buf[0] = '\0';
    if (p->type == SQ_P_STRING && n->kind == SQ_N_SCALAR)
        (void)snprintf(buf, len, "write it with quotes: \"%.60s\"", text);
    else if (p->type == SQ_P_BOOL)
        (void)snprintf(buf, len, "write true or false, without quotes");
    else if (p->type == SQ_P_DURATION && isdigit((unsigned char)text[0]))
        (void)snprintf(buf, len, "write it with its unit: %.20ss, %.20sms", text, text);
    else if (p->type == SQ_P_RATE && isdigit((unsigned char)text[0]))
        (void)snprintf(buf, len, "write what it is per: %.20s/s", text);
    else if ((p->type == SQ_P_INT || p->type == SQ_P_NUMBER) && n->kind == SQ_N_SCALAR)
        (void)snprintf(buf, len, "write a plain number, without quotes or unit");
    else if (p->doc)
        (void)snprintf(buf, len, "%s", p->doc);
}

static const char *wanted(const struct sq_param *p)
{
    switch (p->type) {
    case SQ_P_STRING:
        return "a text";
    case SQ_P_BOOL:
        return "true or false";
    case SQ_P_INT:
        return "an integer";
    case SQ_P_ERRNO:
        return "the name of an errno";
    case SQ_P_STRINGS:
        return "a text or a list of texts";
    case SQ_P_ENUM:
        return p->values;
    case SQ_P_NUMBER:
        return "a number";
    case SQ_P_DURATION:
        return "a duration";
    case SQ_P_RATE:
        return "a rate";
    case SQ_P_PERCENT:
        return "a percentage";
    case SQ_P_SIGNAL:
        return "a signal";
    case SQ_P_COUNT:
        return "a count";
    case SQ_P_MAP:
        return "a mapping";
    case SQ_P_MAPS:
        return "a mapping or a list of mappings";
    }
    return sq_ptype_name(p->type);
}

/* The JSON that the schema shall look at: lists of texts may be written without quotes (status: 200). */
static json_t *raw_value(const struct sq_param *p, const struct sq_node *n)
{
    json_t *list;

    if (p->type != SQ_P_STRINGS || n->kind == SQ_N_MAP)
        return sq_node_json(n);
    if (n->kind == SQ_N_SCALAR)
        return json_string(n->text);
    list = json_array();
    for (size_t i = 0; i < n->n; i++)
        (void)json_array_append_new(list, n->items[i]->kind == SQ_N_SCALAR && !sq_node_is_null(n->items[i])
                                              ? json_string(n->items[i]->text)
                                              : sq_node_json(n->items[i]));
    return list;
}

/* A mapping, or a list of them, that has a table of its own: looked at with its own positions. */
static json_t *nested(struct sq_norm *c, const char *label, const struct sq_param *p, const struct sq_node *n)
{
    bool many = p->type == SQ_P_MAPS && n->kind == SQ_N_LIST;
    char child[MAX_LABEL];
    json_t *list;

    (void)snprintf(child, sizeof child, "%.110s: %.40s", label, p->name);
    if (p->type == SQ_P_MAP)
        return sq_norm_params(c, child, p->fields, n, n->pos, NULL);
    list = json_array();
    for (size_t i = 0; i < (many ? n->n : 1); i++) {
        const struct sq_node *one = many ? n->items[i] : n;

        if (sq_node_is_null(one))
            sq_diag_error(c->d, one->pos, p->doc, "%s: a mapping (key: value) is expected here", child);
        else
            (void)json_array_append_new(list, sq_norm_params(c, child, p->fields, one, one->pos, NULL));
    }
    return list;
}

/* One value by its parameter's type; NULL after an error. */
static json_t *convert(struct sq_norm *c, const char *label, const struct sq_param *p, const struct sq_node *n)
{
    struct sq_param one[2] = {*p, SQ_PARAM_END};
    cleanup_json json_t *value = NULL;
    cleanup_json json_t *in = json_object();
    cleanup_json json_t *out = NULL;
    struct sq_err e = {0};
    char hint[384];

    one[0].flags = 0;
    one[0].def = NULL;
    if (sq_node_is_null(n)) {
        sq_diag_error(c->d, n->pos, p->doc, "%s: \"%s\" has no value", label, p->name);
        return NULL;
    }
    if (p->fields)
        return nested(c, label, p, n);
    value = raw_value(p, n);
    if (!value) {
        sq_diag_error(c->d, n->pos, NULL, "%s: \"%s\" is a number that is too large", label, p->name);
        return NULL;
    }
    if (!in || json_object_set(in, p->name, value) < 0) {
        sq_diag_error(c->d, n->pos, NULL, "out of memory");
        return NULL;
    }
    if (sq_spec_check(label, one, in, &out, NULL, NULL, &e) < 0) {
        type_hint(p, n, hint, sizeof hint);
        if (strstr(e.msg, "\" must be a "))
            sq_diag_error(c->d, n->pos, hint, "%s: \"%s\" must be %s", label, p->name, wanted(p));
        else
            sq_diag_error(c->d, n->pos, e.hint[0] ? e.hint : hint, "%s", e.msg);
        return NULL;
    }
    return json_incref(json_object_get(out, p->name));
}

static void missing(struct sq_norm *c, const char *label, const struct sq_param *p, struct sq_pos at)
{
    char hint[384];

    if (p->type == SQ_P_ENUM)
        (void)snprintf(hint, sizeof hint, "%s: %s", p->name, p->values);
    else
        (void)snprintf(hint, sizeof hint, "%s", p->doc);
    sq_diag_error(c->d, at, hint, "%s: \"%s\" is missing", label, p->name);
}

/* The normalized default, if there is one. */
static void put_default(struct sq_norm *c, const char *label, const struct sq_param *p, struct sq_pos at, json_t *o)
{
    struct sq_param one[2] = {*p, SQ_PARAM_END};
    cleanup_json json_t *out = NULL;
    struct sq_err e = {0};

    if (!p->def)
        return;
    one[0].flags = 0;
    if (sq_spec_check(label, one, NULL, &out, NULL, NULL, &e) < 0)
        sq_diag_err(c->d, at, &e);
    else
        (void)json_object_update(o, out);
}

static void unknown_key(struct sq_norm *c, const char *label, const struct sq_node *key, const char *const *names,
                        size_t n)
{
    const char *near = sq_nearest(key->text, names, n);
    char hint[384] = "";
    size_t used = 0;

    if (near) {
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    } else {
        for (size_t i = 0; i < n && used < sizeof hint - 1; i++) {
            int w = snprintf(hint + used, sizeof hint - used, "%s%s", i ? ", " : "it takes: ", names[i]);

            used += w < 0 ? 0 : (size_t)w;
        }
        if (n == 0)
            (void)snprintf(hint, sizeof hint, "it takes no parameters");
    }
    sq_diag_error(c->d, key->pos, hint, "%s: unknown key \"%.60s\"", label, key->text);
}

/* Is NAME missing only because one of the keys of N is it, misspelt? Then one error is enough. */
static bool misspelt(const struct sq_node *n, const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; n && n->kind == SQ_N_MAP && i < n->n; i++) {
        const char *near = sq_nearest(n->keys[i]->text, names, count);

        if (near && strcmp(near, name) == 0 && strcmp(n->keys[i]->text, name) != 0)
            return true;
    }
    return false;
}

static bool is_map(struct sq_norm *c, const char *label, const struct sq_node *n)
{
    if (n->kind == SQ_N_MAP)
        return true;
    sq_diag_error(c->d, n->pos, NULL, "%s: a mapping (key: value) is expected here", label);
    return false;
}

json_t *sq_norm_params(struct sq_norm *c, const char *label, const struct sq_param *params, const struct sq_node *n,
                       struct sq_pos at, const char *skip)
{
    const char *names[64];
    size_t count = 0;
    json_t *o = json_object();

    if (!o)
        return NULL;
    if (n && !sq_node_is_null(n) && !is_map(c, label, n))
        return o;
    for (const struct sq_param *p = params; p->name && count < SQ_COUNT(names); p++)
        names[count++] = p->name;
    for (size_t i = 0; n && i < n->n; i++) {
        const struct sq_param *p = params;
        json_t *v;

        if (skip && strcmp(n->keys[i]->text, skip) == 0)
            continue;
        while (p->name && strcmp(p->name, n->keys[i]->text) != 0)
            p++;
        if (!p->name) {
            unknown_key(c, label, n->keys[i], names, count);
            continue;
        }
        v = convert(c, label, p, n->items[i]);
        if (v)
            (void)json_object_set_new(o, p->name, v);
    }
    for (const struct sq_param *p = params; p->name; p++) {
        if (sq_node_get(n, p->name))
            continue;
        if (!(p->flags & SQ_REQUIRED))
            put_default(c, label, p, at, o);
        else if (!misspelt(n, p->name, names, count))
            missing(c, label, p, at);
    }
    return o;
}

static void out_of_range(struct sq_norm *c, const char *label, const struct sq_field *f, struct sq_pos at)
{
    char lo[32], hi[32];

    if (f->p.type == SQ_P_DURATION) {
        (void)sq_fmt_duration((int64_t)f->min, lo, sizeof lo);
        (void)sq_fmt_duration((int64_t)f->max, hi, sizeof hi);
    } else {
        const char *unit = f->p.type == SQ_P_RATE ? "/s" : f->p.type == SQ_P_PERCENT ? "%" : "";

        (void)snprintf(lo, sizeof lo, "%.15g%s", f->min, unit);
        (void)snprintf(hi, sizeof hi, "%.15g%s", f->max, unit);
    }
    sq_diag_error(c->d, at, f->p.doc, "%s: \"%s\" must be between %s and %s", label, f->p.name, lo, hi);
}

static json_t *value_field(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *v = convert(c, label, &f->p, n);

    if (v && f->max > 0 && (json_number_value(v) < f->min || json_number_value(v) > f->max))
        out_of_range(c, label, f, n->pos);
    return v;
}

static json_t *text_of(struct sq_norm *c, const char *label, const char *key, const struct sq_node *n)
{
    json_t *s;

    if (n->kind != SQ_N_SCALAR || sq_node_is_null(n)) {
        sq_diag_error(c->d, n->pos, "an empty text is \"\"", "%s: \"%.60s\" must be a text here", label, key);
        return json_string("");
    }
    s = json_string(n->text);
    return s ? s : json_string("");
}

static bool count_fits(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    if (f->max <= 0 || (double)n->n <= f->max)
        return true;
    sq_diag_error(c->d, n->pos, NULL, "%s: \"%s\" has more than %.0f entries", label, f->p.name, f->max);
    return false;
}

static json_t *texts(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *list = json_array();

    if (n->kind == SQ_N_SCALAR && !sq_node_is_null(n))
        (void)json_array_append_new(list, text_of(c, label, f->p.name, n));
    else if (n->kind != SQ_N_LIST)
        sq_diag_error(c->d, n->pos, f->p.doc, "%s: \"%s\" must be a list: [a, b]", label, f->p.name);
    else if (count_fits(c, f, label, n))
        for (size_t i = 0; i < n->n; i++)
            (void)json_array_append_new(list, text_of(c, label, f->p.name, n->items[i]));
    return list;
}

static json_t *text_map(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *o = json_object();

    if (n->kind != SQ_N_MAP)
        sq_diag_error(c->d, n->pos, f->p.doc, "%s: \"%s\" must be a mapping: {NAME: value}", label, f->p.name);
    else if (count_fits(c, f, label, n))
        for (size_t i = 0; i < n->n; i++)
            (void)json_object_set_new(o, n->keys[i]->text, text_of(c, label, n->keys[i]->text, n->items[i]));
    return o;
}

static void one_status(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *list)
{
    cleanup_json json_t *v = sq_node_json(n);

    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= 599)
        (void)json_array_append(list, v);
    else
        sq_diag_error(c->d, n->pos, "write 200, or [200, 204]", "%s: not a status (HTTP: 100 to 599)", label);
}

static json_t *statuses(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *list = json_array();

    if (n->kind != SQ_N_LIST)
        one_status(c, label, n, list);
    else if (n->n == 0)
        sq_diag_error(c->d, n->pos, "leave it out for 200 to 399", "%s: \"%s\" is an empty list", label, f->p.name);
    else if (count_fits(c, f, label, n))
        for (size_t i = 0; i < n->n; i++)
            one_status(c, label, n->items[i], list);
    return list;
}

static json_t *named(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *o = json_object();

    if (!is_map(c, f->p.name, n) || !count_fits(c, f, label, n))
        return o;
    for (size_t i = 0; i < n->n; i++) {
        char child[MAX_LABEL];

        (void)sq_norm_name(c, f->p.name, n->keys[i], strcmp(f->p.name, "edges") == 0);
        (void)snprintf(child, sizeof child, "%s %.60s", f->section->name, n->keys[i]->text);
        (void)json_object_set_new(o, n->keys[i]->text, sq_norm_section(c, f->section, child, n->items[i]));
    }
    return o;
}

static json_t *list(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    json_t *a = json_array();

    if (n->kind != SQ_N_LIST) {
        sq_diag_error(c->d, n->pos, "begin each with \"- \"", "%s: \"%s\" must be a list", label, f->p.name);
        return a;
    }
    if (!count_fits(c, f, label, n))
        return a;
    for (size_t i = 0; i < n->n; i++) {
        const struct sq_node *id = sq_node_get(n->items[i], strcmp(f->p.name, "verify") == 0 ? "check" : "id");
        char child[MAX_LABEL];

        if (id && id->kind == SQ_N_SCALAR && id->text[0])
            (void)snprintf(child, sizeof child, "%s %.60s", f->section->name, id->text);
        else
            (void)snprintf(child, sizeof child, "%s %zu", f->section->name, i + 1);
        (void)json_array_append_new(a, sq_norm_section(c, f->section, child, n->items[i]));
    }
    return a;
}

static json_t *field_value(struct sq_norm *c, const struct sq_field *f, const char *label, const struct sq_node *n)
{
    if (f->shape != SQ_F_VALUE && f->shape != SQ_F_LATER && sq_node_is_null(n)) {
        sq_diag_error(c->d, n->pos, f->p.doc, "%s: \"%s\" has no value", label, f->p.name);
        return NULL;
    }
    switch (f->shape) {
    case SQ_F_VALUE:
        return value_field(c, f, label, n);
    case SQ_F_TEXTS:
        return texts(c, f, label, n);
    case SQ_F_TEXTMAP:
        return text_map(c, f, label, n);
    case SQ_F_SECTION: {
        char child[MAX_LABEL];
        bool top = strcmp(label, "scenario") == 0 || strcmp(label, "spec") == 0;

        (void)snprintf(child, sizeof child, "%.80s%s%s", top ? "" : label, top ? "" : ": ", f->p.name);
        return sq_norm_section(c, f->section, child, n);
    }
    case SQ_F_NAMED:
        return named(c, f, label, n);
    case SQ_F_LIST:
        return list(c, f, label, n);
    case SQ_F_THRESHOLDS:
        return sq_norm_thresholds(c, label, n);
    case SQ_F_STATUS:
        return statuses(c, f, label, n);
    case SQ_F_LATER:
        break;
    }
    return NULL;
}

json_t *sq_norm_section(struct sq_norm *c, const struct sq_section *s, const char *label, const struct sq_node *n)
{
    const unsigned errors = c->d->errors;
    const char *names[32];
    size_t count = 0;
    json_t *o = json_object();

    if (!o || !is_map(c, label, n))
        return o;
    for (const struct sq_field *f = s->fields; f->p.name && count < SQ_COUNT(names); f++)
        names[count++] = f->p.name;
    for (size_t i = 0; i < n->n; i++) {
        const struct sq_field *f = s->fields;
        json_t *v;

        while (f->p.name && strcmp(f->p.name, n->keys[i]->text) != 0)
            f++;
        if (!f->p.name) {
            if (s->finish != sq_finish_check) /* what else a check takes is in its own table */
                unknown_key(c, label, n->keys[i], names, count);
            continue;
        }
        v = field_value(c, f, label, n->items[i]);
        if (v)
            (void)json_object_set_new(o, f->p.name, v);
    }
    for (const struct sq_field *f = s->fields; f->p.name; f++) {
        if (sq_node_get(n, f->p.name))
            continue;
        if (f->shape == SQ_F_VALUE && !(f->p.flags & SQ_REQUIRED))
            put_default(c, label, &f->p, n->pos, o);
        else if ((f->p.flags & SQ_REQUIRED) && !misspelt(n, f->p.name, names, count))
            missing(c, label, &f->p, n->pos);
    }
    /* What was refused already is not worth another look, but for checks, whose parameters are not in this table. */
    if (s->finish && (c->d->errors == errors || s->finish == sq_finish_check))
        s->finish(c, label, n, o);
    return o;
}
