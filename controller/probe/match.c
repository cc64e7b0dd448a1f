#include "probe/match.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/json.h"

static void status_range(struct sq_statuses *s, unsigned lo, unsigned hi)
{
    for (unsigned i = lo; i <= hi && i < 1000; i++)
        s->bit[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool status_in(const struct sq_statuses *s, int status)
{
    if (s->any)
        return true;
    return status >= 0 && status < 1000 && (s->bit[status / 64] >> (status % 64) & 1) != 0;
}

static int bad_status(struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "status: write 200, \"200-299\" or \"5xx\", or a list of them");
}

static int read_status(struct sq_statuses *s, const json_t *v, struct sq_err *e)
{
    const char *t = json_string_value(v);
    json_t *x;
    size_t i;
    int rc;

    s->any = false;
    if (json_is_integer(v)) {
        json_int_t n = json_integer_value(v);

        if (n < 0 || n > 999)
            return bad_status(e);
        status_range(s, (unsigned)n, (unsigned)n);
        return 0;
    }
    if (json_is_array(v)) {
        json_array_foreach(v, i, x)
        {
            if (json_is_array(x))
                return bad_status(e);
            if ((rc = read_status(s, x, e)) < 0)
                return rc;
        }
        return i > 0 ? 0 : bad_status(e);
    }
    if (t) {
        char *end;
        unsigned long lo, hi;

        if (t[0] >= '1' && t[0] <= '9' && strcasecmp(t + 1, "xx") == 0) {
            status_range(s, (unsigned)(t[0] - '0') * 100, (unsigned)(t[0] - '0') * 100 + 99);
            return 0;
        }
        lo = hi = isdigit((unsigned char)t[0]) ? strtoul(t, &end, 10) : 0;
        if (lo > 0 && *end == '-' && isdigit((unsigned char)end[1]))
            hi = strtoul(end + 1, &end, 10);
        if (lo < 100 || *end || hi > 999 || hi < lo)
            return bad_status(e);
        status_range(s, (unsigned)lo, (unsigned)hi);
        return 0;
    }
    return bad_status(e);
}

static int add_needle(struct sq_rules *r, const json_t *v, struct sq_err *e)
{
    struct sq_needle *d = &r->needle[r->n_needles];
    size_t len = json_string_length(v);
    uint32_t k = 0;

    if (!json_is_string(v) || len == 0 || len > SQ_MATCH_NEEDLE)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "body: a text of 1 to %d bytes", SQ_MATCH_NEEDLE);
    for (size_t i = 0; i < r->n_needles; i++)
        if (r->needle[i].len == len && memcmp(r->needle[i].text, json_string_value(v), len) == 0)
            return (int)i;
    if (r->n_needles == SQ_MATCH_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "body: at most %d texts for an endpoint", SQ_MATCH_MAX);
    d->text = malloc(len);
    d->fail = calloc(len, sizeof *d->fail);
    d->len = (uint32_t)len;
    r->n_needles++;
    if (!d->text || !d->fail)
        return sq_err(e, -ENOMEM, "no memory");
    memcpy(d->text, json_string_value(v), len);
    for (uint32_t i = 1; i < d->len; i++) {
        while (k > 0 && d->text[i] != d->text[k])
            k = d->fail[k - 1];
        if (d->text[i] == d->text[k])
            k++;
        d->fail[i] = k;
    }
    return (int)r->n_needles - 1;
}

static int add_header(struct sq_rules *r, const json_t *v, struct sq_err *e)
{
    const char *t = json_string_value(v), *colon = t ? strchr(t, ':') : NULL;
    size_t len = t ? (colon ? (size_t)(colon - t) : strlen(t)) : 0;
    struct sq_header *h = &r->header[r->n_headers];

    if (len == 0 || len >= SQ_MATCH_NAME || strlen(t) > SQ_MATCH_VALUE || strpbrk(t, "\r\n"))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "header: write \"name\" or \"name: value\"");
    if (r->n_headers == SQ_MATCH_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "header: at most %d for an endpoint", SQ_MATCH_MAX);
    r->n_headers++;
    h->name = strndup(t, len);
    if (!h->name)
        return sq_err(e, -ENOMEM, "no memory");
    for (char *c = h->name; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    if (colon) {
        colon++;
        h->value = strdup(colon + strspn(colon, " \t"));
        if (!h->value)
            return sq_err(e, -ENOMEM, "no memory");
    }
    return (int)r->n_headers - 1;
}

static int read_bodies(struct sq_rules *r, struct sq_cond *c, const json_t *v, struct sq_err *e)
{
    json_t *x;
    size_t i;
    int rc;

    if (!json_is_array(v)) {
        if ((rc = add_needle(r, v, e)) < 0)
            return rc;
        c->needles |= UINT64_C(1) << rc;
        return 0;
    }
    json_array_foreach(v, i, x)
    {
        if ((rc = add_needle(r, x, e)) < 0)
            return rc;
        c->needles |= UINT64_C(1) << rc;
    }
    return 0;
}

static int read_cond(struct sq_rules *r, struct sq_cond *c, const json_t *o, struct sq_err *e)
{
    const json_t *v;
    int rc;

    c->status.any = true;
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "match, forbid: a mapping");
    c->given = json_object_size(o) > 0;
    if ((v = json_object_get(o, "status")) && (rc = read_status(&c->status, v, e)) < 0)
        return rc;
    if ((v = json_object_get(o, "header"))) {
        if ((rc = add_header(r, v, e)) < 0)
            return rc;
        c->headers |= UINT64_C(1) << rc;
    }
    if ((v = json_object_get(o, "body")) && (rc = read_bodies(r, c, v, e)) < 0)
        return rc;
    c->empty = sq_json_bool_or(o, "empty", false);
    return 0;
}

static int read_matcher(struct sq_rules *r, const json_t *o, struct sq_err *e)
{
    struct sq_matcher *m = &r->matcher[r->n_matchers];
    const char *id;
    int rc = sq_json_str(o, "id", &id, e);

    if (rc < 0)
        return rc;
    if (r->n_matchers == SQ_MATCH_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "at most %d matchers for an endpoint", SQ_MATCH_MAX);
    r->n_matchers++;
    m->id = strdup(id);
    if (!m->id)
        return sq_err(e, -ENOMEM, "no memory");
    if ((rc = read_cond(r, &m->match, json_object_get(o, "match"), e)) < 0)
        return rc;
    return read_cond(r, &m->forbid, json_object_get(o, "forbid"), e);
}

int sq_rules_init(struct sq_rules *r, const char *endpoint, const json_t *expect, const json_t *matchers,
                  struct sq_err *e)
{
    const json_t *v;
    json_t *x;
    size_t i;
    int rc;

    memset(r, 0, sizeof *r);
    r->expect_needle = -1;
    v = json_object_get(expect, "status");
    if (v && (!json_is_array(v) || json_array_size(v) > 0)) {
        if ((rc = read_status(&r->expect, v, e)) < 0)
            return rc;
        r->expect_status = true;
    } else {
        status_range(&r->expect, 200, 399);
    }
    v = json_object_get(expect, "body");
    if (v && json_string_length(v) > 0) {
        if ((rc = add_needle(r, v, e)) < 0)
            return rc;
        r->expect_needle = rc;
    }
    json_array_foreach(matchers, i, x)
    {
        const char *whose = sq_json_str_or(x, "endpoint", NULL);

        if (whose && strcmp(whose, endpoint) != 0)
            continue;
        if ((rc = read_matcher(r, x, e)) < 0)
            return rc;
    }
    return 0;
}

void sq_rules_default(struct sq_rules *r, unsigned from, unsigned to)
{
    if (r->expect_status)
        return;
    memset(&r->expect, 0, sizeof r->expect);
    status_range(&r->expect, from, to);
}

void sq_rules_clear(struct sq_rules *r)
{
    for (size_t i = 0; i < r->n_needles; i++) {
        free(r->needle[i].text);
        free(r->needle[i].fail);
    }
    for (size_t i = 0; i < r->n_headers; i++) {
        free(r->header[i].name);
        free(r->header[i].value);
    }
    for (size_t i = 0; i < r->n_matchers; i++)
        free(r->matcher[i].id);
    memset(r, 0, sizeof *r);
}

void sq_match_begin(const struct sq_rules *r, struct sq_match_state *m)
{
    m->needles = m->headers = 0;
    m->bytes = 0;
    memset(m->pos, 0, r->n_needles * sizeof m->pos[0]);
}

/* The whole value, or one of its elements ("text/html" in "text/html; charset=utf-8"). */
static bool value_holds(const char *want, const char *value, size_t len)
{
    size_t n = strlen(want), i = 0;

    if (len == n && memcmp(want, value, n) == 0)
        return true;
    while (i <= len) {
        size_t end = i, stop;

        while (end < len && value[end] != ',' && value[end] != ';')
            end++;
        stop = end;
        while (i < stop && (value[i] == ' ' || value[i] == '\t'))
            i++;
        while (stop > i && (value[stop - 1] == ' ' || value[stop - 1] == '\t'))
            stop--;
        if (stop - i == n && memcmp(want, value + i, n) == 0)
            return true;
        i = end + 1;
    }
    return false;
}

void sq_match_header(const struct sq_rules *r, struct sq_match_state *m, const char *name, const char *value,
                     size_t len)
{
    while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    for (size_t i = 0; i < r->n_headers; i++) {
        const struct sq_header *h = &r->header[i];

        if (strcasecmp(h->name, name) == 0 && (!h->value || value_holds(h->value, value, len)))
            m->headers |= UINT64_C(1) << i;
    }
}

static bool search(const struct sq_needle *d, uint32_t *pos, const unsigned char *s, size_t len)
{
    uint32_t k = *pos;

    for (size_t i = 0; i < len; i++) {
        if (k == 0) {
            const unsigned char *hit = memchr(s + i, d->text[0], len - i);

            if (!hit)
                break;
            i = (size_t)(hit - s);
        }
        while (k > 0 && s[i] != d->text[k])
            k = d->fail[k - 1];
        if (s[i] == d->text[k] && ++k == d->len)
            return true;
    }
    *pos = k;
    return false;
}

void sq_match_body(const struct sq_rules *r, struct sq_match_state *m, const char *data, size_t len)
{
    size_t left = m->bytes < SQ_MATCH_BODY ? (size_t)(SQ_MATCH_BODY - m->bytes) : 0;
    size_t n = len < left ? len : left;

    m->bytes += len;
    for (size_t i = 0; n > 0 && i < r->n_needles; i++)
        if (!(m->needles >> i & 1) && search(&r->needle[i], &m->pos[i], (const unsigned char *)data, n))
            m->needles |= UINT64_C(1) << i;
}

static bool all_hold(const struct sq_cond *c, const struct sq_match_state *m, int status)
{
    return status_in(&c->status, status) && (m->headers & c->headers) == c->headers &&
           (m->needles & c->needles) == c->needles && (!c->empty || m->bytes == 0);
}

static bool any_holds(const struct sq_cond *c, const struct sq_match_state *m, int status)
{
    return (!c->status.any && status_in(&c->status, status)) || (m->headers & c->headers) != 0 ||
           (m->needles & c->needles) != 0 || (c->empty && m->bytes == 0);
}

void sq_match_end(const struct sq_rules *r, const struct sq_match_state *m, int status, struct sq_matched *out)
{
    out->status_ok = status_in(&r->expect, status);
    out->body_ok = r->expect_needle < 0 || (m->needles >> r->expect_needle & 1) != 0;
    out->match = out->forbid = 0;
    for (size_t i = 0; i < r->n_matchers; i++) {
        if (all_hold(&r->matcher[i].match, m, status))
            out->match |= UINT64_C(1) << i;
        if (r->matcher[i].forbid.given && any_holds(&r->matcher[i].forbid, m, status))
            out->forbid |= UINT64_C(1) << i;
    }
}
