#include "probe/capture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/json.h"

static int bad(struct sq_err *e, const char *name)
{
    (void)sq_err_cls(e, SQ_C_INPUT, -EINVAL, "capture %.60s: one of header, between, json", name);
    sq_err_hint(e, "{header: x-token}, {between: [\"id=\", \"&\"]} or {json: /items/0/id}");
    return -EINVAL;
}

static int one(struct sq_capture *c, const char *name, const json_t *o, struct sq_err *e)
{
    const char *header = sq_json_str_or(o, "header", NULL), *pointer = sq_json_str_or(o, "json", NULL);
    const json_t *between = json_object_get(o, "between");
    const char *a = json_string_value(json_array_get(between, 0)), *b = json_string_value(json_array_get(between, 1));

    if (json_object_size(o) != 1)
        return bad(e, name);
    if (header && *header) {
        c->how = SQ_CAPTURE_HEADER;
        c->a = strdup(header);
    } else if (pointer && (*pointer == '/' || !*pointer)) {
        c->how = SQ_CAPTURE_JSON;
        c->a = strdup(pointer);
    } else if (json_array_size(between) == 2 && a && b && *a && *b) {
        c->how = SQ_CAPTURE_BETWEEN;
        c->a = strdup(a);
        c->b = strdup(b);
    } else {
        return bad(e, name);
    }
    return c->a && (c->b || c->how != SQ_CAPTURE_BETWEEN) ? 0 : sq_err(e, -ENOMEM, "no memory");
}

int sq_captures_init(struct sq_captures *c, const json_t *spec, const char *const *names, size_t n, struct sq_err *e)
{
    const char *name;
    json_t *o;
    int rc;

    memset(c, 0, sizeof *c);
    json_object_foreach((json_t *)(uintptr_t)spec, name, o)
    {
        struct sq_capture *x = &c->list[c->n];

        if (c->n == SQ_CAPTURES_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "capture: at most %d values", SQ_CAPTURES_MAX);
        c->n++;
        while (x->index < n && strcmp(names[x->index], name) != 0)
            x->index++;
        if (x->index == n)
            return sq_err(e, -EINVAL, "capture %.60s is no value of the session", name);
        if ((rc = one(x, name, o, e)) < 0)
            return rc;
        c->header |= x->how == SQ_CAPTURE_HEADER;
        c->body |= x->how != SQ_CAPTURE_HEADER;
    }
    return 0;
}

void sq_captures_clear(struct sq_captures *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->list[i].a);
        free(c->list[i].b);
    }
    memset(c, 0, sizeof *c);
}

/* A value that is longer than can be sent again is none. */
static void set(struct sq_keep *k, size_t index, const char *text, size_t len)
{
    free(k->value[index]);
    k->value[index] = len <= SQ_KEEP_VALUE && !memchr(text, 0, len) ? strndup(text, len) : NULL;
}

void sq_keep_header(struct sq_keep *k, const char *name, const char *value, size_t len)
{
    for (size_t i = 0; i < k->captures->n; i++) {
        const struct sq_capture *c = &k->captures->list[i];

        if (c->how == SQ_CAPTURE_HEADER && strcasecmp(c->a, name) == 0)
            set(k, c->index, value, len);
    }
}

void sq_keep_body(struct sq_keep *k, const char *data, size_t len)
{
    size_t room = SQ_KEEP_BODY - k->body.len;

    if (k->captures->body)
        sq_buf_put(&k->body, data, len < room ? len : room);
}

static void find_between(struct sq_keep *k, const struct sq_capture *c)
{
    size_t a = strlen(c->a), b = strlen(c->b);
    const char *end = k->body.data + k->body.len;
    const char *from = k->body.len > 0 ? memmem(k->body.data, k->body.len, c->a, a) : NULL, *to;

    if (!from)
        return;
    from += a;
    to = memmem(from, (size_t)(end - from), c->b, b);
    if (to)
        set(k, c->index, from, (size_t)(to - from));
}

/* RFC 6901: "/a/0/b~1c". */
static const json_t *follow(const json_t *doc, const char *pointer)
{
    while (doc && *pointer) {
        char key[256];
        size_t n = 0;

        for (pointer++; *pointer && *pointer != '/'; pointer++) {
            char ch = *pointer;

            if (n == sizeof key - 1)
                return NULL;
            if (ch == '~' && (pointer[1] == '0' || pointer[1] == '1'))
                ch = *++pointer == '0' ? '~' : '/';
            key[n++] = ch;
        }
        key[n] = '\0';
        if (json_is_array(doc))
            doc = n > 0 && n < 7 && strspn(key, "0123456789") == n ? json_array_get(doc, strtoul(key, NULL, 10)) : NULL;
        else
            doc = json_object_get(doc, key);
    }
    return doc;
}

static void find_json(struct sq_keep *k, const struct sq_capture *c, const json_t *doc)
{
    const json_t *v = follow(doc, c->a);
    cleanup_free char *text = NULL;

    if (json_is_string(v)) {
        set(k, c->index, json_string_value(v), json_string_length(v));
    } else if (json_is_number(v) || json_is_boolean(v)) {
        text = json_dumps(v, JSON_ENCODE_ANY);
        if (text)
            set(k, c->index, text, strlen(text));
    }
}

bool sq_keep_done(struct sq_keep *k)
{
    cleanup_json json_t *doc = NULL;
    bool all = true;

    for (size_t i = 0; i < k->captures->n; i++) {
        const struct sq_capture *c = &k->captures->list[i];

        if (c->how == SQ_CAPTURE_BETWEEN)
            find_between(k, c);
        if (c->how == SQ_CAPTURE_JSON && !doc && k->body.len > 0)
            doc = json_loadb(k->body.data, k->body.len, JSON_DECODE_ANY, NULL);
        if (c->how == SQ_CAPTURE_JSON)
            find_json(k, c, doc);
        all = all && k->value[c->index];
    }
    sq_buf_clear(&k->body);
    return all;
}
