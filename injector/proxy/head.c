#include "proxy/head.h"

#include <errno.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/json.h"

#define FOLDED_MAX 8192 /* of a folded value that is compared */

void sq_out_put(struct sq_out *o, const char *p, size_t n)
{
    if (o->failed || n == 0)
        return;
    if (o->n + n > o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 512;
        while (cap < o->n + n)
            cap *= 2;
        char *more = realloc(o->p, cap);
        if (!more) {
            o->failed = true;
            return;
        }
        o->p = more;
        o->cap = cap;
    }
    memcpy(o->p + o->n, p, n);
    o->n += n;
}

void sq_out_str(struct sq_out *o, const char *s)
{
    sq_out_put(o, s, strlen(s));
}

void sq_out_free(struct sq_out *o)
{
    free(o->p);
    *o = (struct sq_out){0};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct sq_text trim(const char *p, size_t n)
{
    while (n > 0 && (is_blank(*p) || *p == '\r' || *p == '\n'))
        p++, n--;
    while (n > 0 && (is_blank(p[n - 1]) || p[n - 1] == '\r' || p[n - 1] == '\n'))
        n--;
    return (struct sq_text){p, n};
}

/* The line at P with its end. */
static size_t line_len(const char *p, size_t n)
{
    const char *end = memchr(p, '\n', n);
    return end ? (size_t)(end - p) + 1 : n;
}

static bool is_end(const char *p, size_t n)
{
    return n == 0 || *p == '\n' || (*p == '\r' && (n == 1 || p[1] == '\n'));
}

static int read_field(struct sq_head *h, const char *p, size_t n)
{
    const char *colon = memchr(p, ':', n);
    if (!colon || colon == p)
        return -EBADMSG;
    if (h->n == SQ_HEAD_FIELDS)
        return -E2BIG;
    if ((h->n & (h->n - 1)) == 0) { /* 0, 1, 2, 4 ... */
        struct sq_field *more = realloc(h->field, (h->n ? 2 * (size_t)h->n : 1) * sizeof(*more));
        if (!more)
            return -ENOMEM;
        h->field = more;
    }
    h->field[h->n++] = (struct sq_field){
        .name = trim(p, (size_t)(colon - p)), .value = trim(colon + 1, n - (size_t)(colon + 1 - p)), .line = {p, n}};
    return 0;
}

static void no_authority(struct sq_text *path)
{
    const char *at = memmem(path->p, path->n, "://", 3);
    const char *query = memchr(path->p, '?', path->n);
    if (!at || *path->p == '/' || (query && query < at))
        return;
    size_t skip = (size_t)(at + 3 - path->p);
    const char *slash = memchr(path->p + skip, '/', path->n - skip);
    *path = slash ? (struct sq_text){slash, path->n - (size_t)(slash - path->p)} : (struct sq_text){"/", 1};
}

static int read_first(struct sq_head *h, bool request)
{
    struct sq_text t = trim(h->first.p, h->first.n);
    const char *a = memchr(t.p, ' ', t.n), *b = a ? memrchr(t.p, ' ', t.n) : NULL;
    if (!a || (request && b == a))
        return -EBADMSG;
    if (!request) {
        const char *s = a + 1;
        while (s < t.p + t.n && *s == ' ')
            s++;
        h->status = s + 3 <= t.p + t.n ? (s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0') : 0;
        h->old = t.n >= 8 && memcmp(t.p, "HTTP/1.0", 8) == 0;
        return 0;
    }
    h->method = (struct sq_text){t.p, (size_t)(a - t.p)};
    h->path = trim(a + 1, (size_t)(b - a) - 1);
    h->old = t.p + t.n - b >= 9 && memcmp(b + 1, "HTTP/1.0", 8) == 0;
    if (h->path.n == 0)
        return -EBADMSG;
    no_authority(&h->path);
    return 0;
}

/* A CR in a line: some take it for the line's end (llhttp does, behind a status), and would see other fields than we.
 */
static bool ambiguous(const char *p, size_t n)
{
    const char *end = p + n;
    while ((p = memchr(p, '\r', (size_t)(end - p)))) {
        if (++p == end || *p != '\n')
            return true;
    }
    return false;
}

int sq_head_parse(struct sq_head *h, const char *p, size_t n, bool request)
{
    *h = (struct sq_head){.first = {p, line_len(p, n)}};
    int rc = ambiguous(p, n) ? -EBADMSG : read_first(h, request);
    p += h->first.n;
    n -= h->first.n;
    while (rc == 0 && !is_end(p, n)) {
        size_t len = line_len(p, n);
        while (len < n && is_blank(p[len])) /* folded */
            len += line_len(p + len, n - len);
        rc = read_field(h, p, len);
        p += len;
        n -= len;
    }
    if (rc < 0)
        sq_head_free(h);
    return rc;
}

void sq_head_free(struct sq_head *h)
{
    free(h->field);
    h->field = NULL;
    h->n = 0;
}

static bool is_name(const struct sq_field *f, const char *name, size_t n)
{
    return f->name.n == n && strncasecmp(f->name.p, name, n) == 0;
}

const struct sq_field *sq_head_field(const struct sq_head *h, const char *name)
{
    for (unsigned i = 0; i < h->n; i++)
        if (is_name(&h->field[i], name, strlen(name)))
            return &h->field[i];
    return NULL;
}

static bool in_list(struct sq_text v, const char *token)
{
    size_t len = strlen(token);
    while (v.n > 0) {
        const char *comma = memchr(v.p, ',', v.n);
        size_t some = comma ? (size_t)(comma - v.p) : v.n;
        struct sq_text t = trim(v.p, some);
        if (t.n == len && strncasecmp(t.p, token, len) == 0)
            return true;
        some += comma ? 1 : 0;
        v.p += some;
        v.n -= some;
    }
    return false;
}

bool sq_head_has(const struct sq_head *h, const char *name, const char *token)
{
    for (unsigned i = 0; i < h->n; i++)
        if (is_name(&h->field[i], name, strlen(name)) && in_list(h->field[i].value, token))
            return true;
    return false;
}

bool sq_head_is_grpc(const struct sq_head *h)
{
    static const char TYPE[] = "application/grpc";
    const struct sq_field *f = sq_head_field(h, "content-type");
    return f && f->value.n >= sizeof(TYPE) - 1 && strncasecmp(f->value.p, TYPE, sizeof(TYPE) - 1) == 0;
}

/* Linear in the lengths' product at worst, and without recursion: patterns and texts come from outside. */
bool sq_glob(const char *glob, const char *p, size_t n)
{
    const char *star = NULL, *end = p + n, *from = p;
    while (p < end) {
        if (*glob == '*') {
            star = ++glob;
            from = p;
        } else if (*glob && *glob == *p) {
            glob++;
            p++;
        } else if (star) {
            glob = star;
            p = ++from;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == '\0';
}

static bool path_matches(const struct sq_text *path, const char *glob)
{
    const char *query = strchr(glob, '?') ? NULL : memchr(path->p, '?', path->n);
    return sq_glob(glob, path->p, query ? (size_t)(query - path->p) : path->n);
}

/* A folded value reads as if each fold were one blank (RFC 9112, 5.2). */
static bool value_matches(const struct sq_text *v, const char *glob)
{
    char flat[FOLDED_MAX];
    size_t n = 0;
    if (!memchr(v->p, '\n', v->n))
        return sq_glob(glob, v->p, v->n);
    for (size_t i = 0; i < v->n && n < sizeof(flat); i++) {
        bool gap = v->p[i] == '\r' || v->p[i] == '\n';
        if (!gap && !(is_blank(v->p[i]) && n > 0 && flat[n - 1] == ' '))
            flat[n++] = v->p[i];
        else if (gap && n > 0 && flat[n - 1] != ' ')
            flat[n++] = ' ';
    }
    return sq_glob(glob, flat, n);
}

static bool header_matches(const struct sq_head *h, const char *name, const json_t *want)
{
    bool there = false;
    for (unsigned i = 0; i < h->n; i++) {
        if (!is_name(&h->field[i], name, strlen(name)))
            continue;
        there = true;
        if (json_is_string(want) && value_matches(&h->field[i].value, json_string_value(want)))
            return true;
    }
    return json_is_boolean(want) && there == json_is_true(want);
}

static bool method_matches(const struct sq_text *method, const json_t *any)
{
    const json_t *v;
    size_t i;
    json_array_foreach(any, i, v)
    {
        if (json_string_length(v) == method->n && memcmp(json_string_value(v), method->p, method->n) == 0)
            return true;
    }
    return json_array_size(any) == 0;
}

bool sq_head_matches(const struct sq_head *h, const json_t *match)
{
    const char *path = sq_json_str_or(match, "path", "*"), *name;
    json_t *v;
    if (!method_matches(&h->method, json_object_get(match, "method")) || !path_matches(&h->path, path))
        return false;
    json_object_foreach(json_object_get(match, "header"), name, v)
    {
        if (!header_matches(h, name, v))
            return false;
    }
    return true;
}

uint32_t sq_rules_matching(const struct sq_rules *r, uint32_t among, const struct sq_head *h)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < r->n; i++) {
        uint32_t bit = UINT32_C(1) << r->order[i];
        if ((among & bit) && sq_head_matches(h, r->slot[r->order[i]].match))
            out |= bit;
    }
    return out;
}

static bool on_request(const struct sq_rule *rule)
{
    return strcmp(sq_json_str_or(rule->http, "of", "answer"), "request") == 0;
}

uint32_t sq_rules_side(const struct sq_rules *r, uint32_t hits, enum sq_rule_kind kind, bool request)
{
    uint32_t of = hits ? sq_rules_of(r, hits, kind) : 0, out = 0;
    for (unsigned i = 0; of && i < SQ_RULE_SLOTS; i++)
        if ((of & (UINT32_C(1) << i)) && on_request(&r->slot[i]) == request)
            out |= UINT32_C(1) << i;
    return out;
}

static bool removes(const struct sq_rule *rule, const char *name, size_t n)
{
    const json_t *v;
    const char *key;
    size_t i;
    json_array_foreach(json_object_get(rule->http, "remove"), i, v)
    {
        if (json_string_length(v) == n && strncasecmp(json_string_value(v), name, n) == 0)
            return true;
    }
    json_object_foreach(json_object_get(rule->http, "set"), key, v)
    {
        if (strlen(key) == n && strncasecmp(key, name, n) == 0)
            return true;
    }
    return false;
}

bool sq_rules_edit_field(const struct sq_rules *r, uint32_t hits, bool request, const char *name, size_t n)
{
    uint32_t edits = sq_rules_side(r, hits, SQ_R_HTTP_HEADER, request);
    for (unsigned i = 0; edits && i < SQ_RULE_SLOTS; i++)
        if ((edits & (UINT32_C(1) << i)) && removes(&r->slot[i], name, n))
            return true;
    return false;
}

static void put_field(struct sq_out *out, const char *name, const char *value)
{
    sq_out_str(out, name);
    sq_out_str(out, ": ");
    sq_out_str(out, value);
    sq_out_str(out, "\r\n");
}

static void put_fields(struct sq_out *out, const json_t *set)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)set, name, v) put_field(out, name, json_string_value(v));
}

bool sq_rules_set_later(const struct sq_rules *r, uint32_t edits, unsigned at, const char *name)
{
    for (unsigned i = at + 1; i < r->n; i++)
        if ((edits & (UINT32_C(1) << r->order[i])) && removes(&r->slot[r->order[i]], name, strlen(name)))
            return true;
    return false;
}

void sq_head_edit(struct sq_out *out, const struct sq_head *h, const struct sq_rules *r, uint32_t hits, bool request)
{
    uint32_t edits = sq_rules_side(r, hits, SQ_R_HTTP_HEADER, request);
    sq_out_put(out, h->first.p, h->first.n);
    for (unsigned i = 0; i < h->n; i++)
        if (!sq_rules_edit_field(r, edits, request, h->field[i].name.p, h->field[i].name.n))
            sq_out_put(out, h->field[i].line.p, h->field[i].line.n);
    for (unsigned i = 0; i < r->n; i++) {
        const char *name;
        json_t *v;
        if (!(edits & (UINT32_C(1) << r->order[i])))
            continue;
        json_object_foreach(json_object_get(r->slot[r->order[i]].http, "set"), name, v)
        {
            if (!sq_rules_set_later(r, edits, i, name))
                put_field(out, name, json_string_value(v));
        }
    }
    sq_out_str(out, "\r\n");
}

bool sq_head_frames(const char *name, size_t n, bool encoded)
{
    static const char *const framing[] = {"content-length", "transfer-encoding", "trailer",
                                          "content-md5",    "content-digest",    "content-encoding"};
    for (size_t i = 0; i < sizeof(framing) / sizeof(framing[0]) - (encoded ? 1 : 0); i++)
        if (strlen(framing[i]) == n && strncasecmp(framing[i], name, n) == 0)
            return true;
    return false;
}

void sq_head_reframe(struct sq_out *out, const struct sq_head *h, int64_t length, bool encoded)
{
    char text[32];
    sq_out_put(out, h->first.p, h->first.n);
    for (unsigned i = 0; i < h->n; i++)
        if (!sq_head_frames(h->field[i].name.p, h->field[i].name.n, encoded))
            sq_out_put(out, h->field[i].line.p, h->field[i].line.n);
    (void)snprintf(text, sizeof(text), "%lld", (long long)length);
    if (length >= 0)
        put_field(out, "Content-Length", text);
    sq_out_str(out, "\r\n");
}

/* A status that has no body (RFC 9110, 6.4.1). */
static bool bodiless(int status)
{
    return status / 100 == 1 || status == 204 || status == 304;
}

static const char *status_word(int status)
{
    switch (status) {
#define XX(num, name, string)                                                                                          \
    case num:                                                                                                          \
        return #string;
        HTTP_STATUS_MAP(XX)
#undef XX
    default:
        return "Status";
    }
}

/* SERVICE_UNAVAILABLE as people write it. */
static void put_reason(struct sq_out *out, int status)
{
    const char *s = status_word(status);
    for (size_t i = 0; s[i]; i++) {
        bool first = i == 0 || s[i - 1] == '_' || strlen(s) == 2;
        char c = s[i] == '_' ? ' ' : first || s[i] < 'A' || s[i] > 'Z' ? s[i] : (char)(s[i] + 'a' - 'A');
        sq_out_put(out, &c, 1);
    }
}

static bool is_method(const struct sq_head *h, const char *name)
{
    return h->method.n == strlen(name) && memcmp(h->method.p, name, h->method.n) == 0;
}

void sq_head_answer(struct sq_out *out, const struct sq_rule *rule, const struct sq_head *request, bool closes)
{
    int status = (int)sq_json_int_or(rule->http, "status", 503);
    const char *body = sq_json_str_or(rule->http, "body", "");
    const json_t *headers = json_object_get(rule->http, "headers");
    char line[96];
    (void)snprintf(line, sizeof(line), "HTTP/1.1 %03d ", status);
    sq_out_str(out, line);
    put_reason(out, status);
    sq_out_str(out, "\r\n");
    put_fields(out, headers);
    (void)snprintf(line, sizeof(line), "%zu", strlen(body));
    if (!bodiless(status))
        put_field(out, "Content-Length", line);
    if (closes)
        put_field(out, "Connection", "close");
    else if (request->old)
        put_field(out, "Connection", "keep-alive");
    sq_out_str(out, "\r\n");
    if (!bodiless(status) && !is_method(request, "HEAD"))
        sq_out_str(out, body);
}
