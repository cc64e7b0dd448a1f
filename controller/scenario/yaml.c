#include "scenario/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "squall/cleanup.h"

struct reader {
    yaml_parser_t parser;
    struct sq_diags *d;
    const char *text; /* the document, for hints */
    size_t len;
    size_t nodes;
};

static struct sq_pos pos_of(const yaml_mark_t *m)
{
    return (struct sq_pos){(unsigned)m->line + 1, (unsigned)m->column + 1};
}

void sq_node_free(struct sq_node *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->n; i++) {
        if (n->keys)
            sq_node_free(n->keys[i]);
        if (n->items)
            sq_node_free(n->items[i]);
    }
    free(n->keys);
    free(n->items);
    free(n->text);
    free(n);
}

static int oom(struct reader *r)
{
    struct sq_err e = {0};

    sq_err(&e, -ENOMEM, "out of memory");
    return sq_diag_err(r->d, (struct sq_pos){0, 0}, &e);
}

/* The length of the UTF-8 sequence at P; 0 when it is not valid (overlong, a surrogate, beyond U+10FFFF, cut off). */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    uint32_t c;

    if (n <= 1)
        return n;
    if (n > left)
        return 0;
    c = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    return c < least[n] || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff ? 0 : n;
}

/* libyaml counts characters; where does that one begin? */
static size_t offset_of(const struct reader *r, const yaml_mark_t *m)
{
    size_t i = 0;

    for (size_t n = 0; n < m->index && i < r->len; n++) {
        size_t len = utf8_len((const unsigned char *)r->text + i, r->len - i);

        i += len ? len : 1;
    }
    return i;
}

/* What libyaml was in the middle of: often there, lines before it stumbled, is what people did wrong. */
static const char *about_context(const struct reader *r, char *hint, size_t len)
{
    const yaml_parser_t *p = &r->parser;
    size_t i = offset_of(r, &p->context_mark);
    struct sq_pos at = pos_of(&p->context_mark);
    char c = i < r->len ? r->text[i] : '\0';

    if (!p->context || !p->problem)
        return NULL;
    if (strcmp(p->context, "while parsing a flow sequence") == 0 ||
        strcmp(p->context, "while parsing a flow mapping") == 0)
        (void)snprintf(hint, len, "the %c of line %u, column %u: is a comma, a quote or its %c missing?", c, at.line,
                       at.col, c == '[' ? ']' : '}');
    else if (strcmp(p->context, "while scanning a quoted scalar") == 0)
        (void)snprintf(hint, len, "the quote of line %u, column %u is not closed", at.line, at.col);
    else if (at.col == pos_of(&p->problem_mark).col)
        return NULL;
    else if (strcmp(p->context, "while parsing a block mapping") == 0)
        (void)snprintf(hint, len, "its indentation fits no line above: the mapping of line %u begins in column %u",
                       at.line, at.col);
    else if (strcmp(p->context, "while parsing a block collection") == 0)
        (void)snprintf(hint, len, "the entries of this list begin with \"- \" in column %u (line %u)", at.col, at.line);
    else
        return NULL;
    return hint;
}

/* libyaml says what it stumbled over; these say what people did. */
static int syntax_error(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    size_t i = offset_of(r, &p->problem_mark);
    const char *hint = NULL;
    char c = i < r->len ? r->text[i] : '\0', context[160];

    if (p->error == YAML_MEMORY_ERROR)
        return oom(r);
    if (p->problem && strcmp(p->problem, "could not find expected ':'") == 0)
        return sq_diag_error(r->d, pos_of(&p->context_mark), "write \"key: value\", with a space behind the colon",
                             "not valid YAML: this line has no key");
    if (i > 0 && c == '{' && r->text[i - 1] == '$')
        hint = "inside [ ] and { } a variable needs quotes: \"${name}\"";
    else if (c == '\t')
        hint = "indent with spaces, not with tabs";
    else if (c == '%' || c == '@' || c == '`')
        hint = "a value that begins with this character needs quotes";
    else if (c == '*' || (i > 0 && r->text[i - 1] == '*'))
        hint = "aliases are not allowed; for \"every step\" write \"*\" with its quotes";
    else
        hint = about_context(r, context, sizeof context);
    return sq_diag_error(r->d, pos_of(&p->problem_mark), hint, "not valid YAML: %s",
                         p->problem ? p->problem : "unexpected text");
}

static int next(struct reader *r, yaml_event_t *ev)
{
    if (!yaml_parser_parse(&r->parser, ev))
        return syntax_error(r);
    return 0;
}

static struct sq_node *new_node(struct reader *r, enum sq_node_kind kind, const yaml_mark_t *at)
{
    struct sq_node *n;

    if (++r->nodes > SQ_YAML_MAX_NODES) {
        sq_diag_error(r->d, pos_of(at), NULL, "more than %d values: that is no scenario", SQ_YAML_MAX_NODES);
        return NULL;
    }
    n = calloc(1, sizeof *n);
    if (!n) {
        (void)oom(r);
        return NULL;
    }
    n->kind = kind;
    n->pos = pos_of(at);
    return n;
}

static int refuse_properties(struct reader *r, const yaml_event_t *ev, const yaml_char_t *anchor,
                             const yaml_char_t *tag)
{
    if (anchor)
        return sq_diag_error(r->d, pos_of(&ev->start_mark), "write the value out where it is used",
                             "anchors (&%.40s) are not allowed", (const char *)anchor);
    if (tag)
        return sq_diag_error(r->d, pos_of(&ev->start_mark), "a value that begins with ! needs quotes",
                             "tags (%.40s) are not allowed", (const char *)tag);
    return 0;
}

static struct sq_node *scalar(struct reader *r, const yaml_event_t *ev)
{
    size_t len = ev->data.scalar.length;
    const char *value = (const char *)ev->data.scalar.value;
    struct sq_node *n;

    if (refuse_properties(r, ev, ev->data.scalar.anchor, ev->data.scalar.tag) < 0)
        return NULL;
    if (memchr(value, '\0', len)) {
        sq_diag_error(r->d, pos_of(&ev->start_mark), NULL, "a NUL character is not allowed");
        return NULL;
    }
    if (len > SQ_YAML_MAX_SCALAR) {
        sq_diag_error(r->d, pos_of(&ev->start_mark), NULL, "longer than %d bytes", SQ_YAML_MAX_SCALAR);
        return NULL;
    }
    n = new_node(r, SQ_N_SCALAR, &ev->start_mark);
    if (!n)
        return NULL;
    n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    n->text = strndup(value, len);
    if (!n->text) {
        (void)oom(r);
        free(n);
        return NULL;
    }
    return n;
}

static struct sq_node *value(struct reader *r, const yaml_event_t *ev, int depth);

/* Room for one more child; grows by doubling. */
static int reserve(struct reader *r, struct sq_node *n)
{
    size_t cap = n->n ? n->n * 2 : 4;
    void *p;

    if (n->n & (n->n - 1) || (n->n && n->n < 4))
        return 0;
    p = reallocarray(n->items, cap, sizeof *n->items);
    if (!p)
        return oom(r);
    n->items = p;
    if (n->kind == SQ_N_LIST)
        return 0;
    p = reallocarray(n->keys, cap, sizeof *n->keys);
    if (!p)
        return oom(r);
    n->keys = p;
    return 0;
}

static int list_items(struct reader *r, struct sq_node *n, int depth)
{
    for (;;) {
        yaml_event_t ev;
        struct sq_node *item;
        int rc = next(r, &ev);

        if (rc < 0)
            return rc;
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&ev);
            return 0;
        }
        item = value(r, &ev, depth + 1);
        yaml_event_delete(&ev);
        if (!item)
            return -EINVAL;
        rc = reserve(r, n);
        if (rc < 0) {
            sq_node_free(item);
            return rc;
        }
        n->items[n->n++] = item;
    }
}

static int check_key(struct reader *r, const struct sq_node *key, json_t *seen)
{
    const json_t *before;

    if (!key->text[0])
        return sq_diag_error(r->d, key->pos, NULL, "a key is missing before the \":\"");
    if (strlen(key->text) > SQ_YAML_MAX_KEY)
        return sq_diag_error(r->d, key->pos, NULL, "a key is longer than %d bytes", SQ_YAML_MAX_KEY);
    if (key->plain && strcmp(key->text, "<<") == 0)
        return sq_diag_error(r->d, key->pos, "write the keys out where they are used",
                             "merge keys (<<) are not allowed");
    before = json_object_get(seen, key->text);
    if (before)
        return sq_diag_error(r->d, key->pos, NULL, "\"%.60s\" is here twice: first on line %d", key->text,
                             (int)json_integer_value(before));
    if (json_object_set_new(seen, key->text, json_integer(key->pos.line)) < 0)
        return sq_diag_error(r->d, key->pos, NULL, "this key is not valid text");
    return 0;
}

static struct sq_node *key_of(struct reader *r, const yaml_event_t *ev, json_t *seen)
{
    struct sq_node *key;

    if (ev->type == YAML_ALIAS_EVENT)
        return value(r, ev, 1);
    if (ev->type != YAML_SCALAR_EVENT) {
        sq_diag_error(r->d, pos_of(&ev->start_mark), "a variable inside [ ] or { } needs quotes: \"${name}\"",
                      "a key must be a plain word");
        return NULL;
    }
    key = scalar(r, ev);
    if (key && check_key(r, key, seen) < 0) {
        sq_node_free(key);
        return NULL;
    }
    return key;
}

static int pair(struct reader *r, struct sq_node *n, const yaml_event_t *key_ev, json_t *seen, int depth)
{
    struct sq_node *key = key_of(r, key_ev, seen), *val = NULL;
    yaml_event_t ev;
    int rc;

    if (!key)
        return -EINVAL;
    rc = next(r, &ev);
    if (rc == 0) {
        val = value(r, &ev, depth + 1);
        yaml_event_delete(&ev);
        rc = val ? reserve(r, n) : -EINVAL;
    }
    if (rc < 0) {
        sq_node_free(key);
        sq_node_free(val);
        return rc;
    }
    n->keys[n->n] = key;
    n->items[n->n++] = val;
    return 0;
}

static int map_pairs(struct reader *r, struct sq_node *n, int depth)
{
    json_t *seen = json_object();
    int rc = seen ? 0 : oom(r);

    while (rc == 0) {
        yaml_event_t ev;
        bool end;

        rc = next(r, &ev);
        if (rc < 0)
            break;
        end = ev.type == YAML_MAPPING_END_EVENT;
        if (!end)
            rc = pair(r, n, &ev, seen, depth);
        yaml_event_delete(&ev);
        if (end)
            break;
    }
    json_decref(seen);
    return rc;
}

/* The tree of the value that begins with EV; NULL after an error. */
static struct sq_node *value(struct reader *r, const yaml_event_t *ev, int depth)
{
    bool list = ev->type == YAML_SEQUENCE_START_EVENT;
    struct sq_node *n;
    int rc;

    if (ev->type == YAML_SCALAR_EVENT)
        return scalar(r, ev);
    if (ev->type == YAML_ALIAS_EVENT) {
        sq_diag_error(r->d, pos_of(&ev->start_mark), "a value that begins with * needs quotes; else write it out",
                      "aliases (*%.40s) are not allowed", (const char *)ev->data.alias.anchor);
        return NULL;
    }
    if (list ? refuse_properties(r, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag)
             : refuse_properties(r, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag))
        return NULL;
    if (depth > SQ_YAML_MAX_DEPTH) {
        sq_diag_error(r->d, pos_of(&ev->start_mark), NULL, "nested deeper than %d levels", SQ_YAML_MAX_DEPTH);
        return NULL;
    }
    n = new_node(r, list ? SQ_N_LIST : SQ_N_MAP, &ev->start_mark);
    if (!n)
        return NULL;
    rc = list ? list_items(r, n, depth) : map_pairs(r, n, depth);
    if (rc < 0) {
        sq_node_free(n);
        return NULL;
    }
    return n;
}

/* The value of the document that START begins. */
static int document(struct reader *r, const yaml_event_t *start, struct sq_node **out)
{
    yaml_event_t ev;
    int rc;

    if (start->data.document_start.version_directive ||
        start->data.document_start.tag_directives.start != start->data.document_start.tag_directives.end)
        return sq_diag_error(r->d, pos_of(&start->start_mark), NULL, "directives (%%) are not allowed");
    rc = next(r, &ev);
    if (rc < 0)
        return rc;
    *out = value(r, &ev, 1);
    yaml_event_delete(&ev);
    if (!*out)
        return -EINVAL;
    rc = next(r, &ev); /* the document's end */
    if (rc == 0)
        yaml_event_delete(&ev);
    return rc;
}

/* Every document of the stream, at most MAX of them. */
static int stream(struct reader *r, size_t max, struct sq_node **docs, size_t *n)
{
    yaml_event_t ev;
    int rc = next(r, &ev); /* the stream's start */

    if (rc < 0)
        return rc;
    yaml_event_delete(&ev);
    for (*n = 0;; (*n)++) {
        rc = next(r, &ev);
        if (rc < 0)
            return rc;
        bool end = ev.type == YAML_STREAM_END_EVENT;
        if (end && *n == 0)
            rc = sq_diag_error(r->d, (struct sq_pos){0, 0}, "squall explain scenario shows one", "the file is empty");
        else if (!end && *n == max && max == 1)
            rc = sq_diag_error(r->d, pos_of(&ev.start_mark), "one file is one scenario",
                               "a second document begins here");
        else if (!end && *n == max)
            rc = sq_diag_error(r->d, pos_of(&ev.start_mark), "split the file", "more than %zu documents", max);
        else if (!end)
            rc = document(r, &ev, &docs[*n]);
        yaml_event_delete(&ev);
        if (rc < 0 || end)
            return rc;
    }
}

/* libyaml would take UTF-16 as well, and counts positions of what it refuses differently. */
static int check_text(const char *text, size_t len, struct sq_diags *d)
{
    const unsigned char *p = (const unsigned char *)text;
    struct sq_pos at = {1, 1};

    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(p + i, len - i);

        if (n == 0)
            return sq_diag_error(d, at, "a scenario is a text file in UTF-8", "this is not UTF-8 text (byte 0x%02x)",
                                 p[i]);
        if (p[i] == '\0')
            return sq_diag_error(d, at, "a scenario is a text file in UTF-8", "a NUL character is not allowed");
        if ((p[i] < 0x20 && p[i] != '\n' && p[i] != '\r' && p[i] != '\t') || p[i] == 0x7f)
            return sq_diag_error(d, at, "a scenario is a text file in UTF-8",
                                 "a control character (0x%02x) is not allowed", p[i]);
        at.col++;
        if (p[i] == '\n')
            at = (struct sq_pos){at.line + 1, 1};
        i += n;
    }
    return 0;
}

int sq_yaml_parse_all(const char *text, size_t len, size_t max, struct sq_node **docs, size_t *n, struct sq_diags *d)
{
    struct reader r = {.d = d};
    int rc;

    *n = 0;
    memset(docs, 0, max * sizeof *docs);
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark, as some editors write */
        text += 3;
        len -= 3;
    }
    r.text = text;
    r.len = len;
    if (len > SQ_YAML_MAX_BYTES)
        return sq_diag_error(d, (struct sq_pos){0, 0}, NULL, "larger than 1 MiB: that is no scenario");
    rc = check_text(text, len, d);
    if (rc < 0)
        return rc;
    if (!yaml_parser_initialize(&r.parser))
        return oom(&r);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    rc = stream(&r, max, docs, n);
    yaml_parser_delete(&r.parser);
    for (size_t i = 0; rc < 0 && i < max; i++) {
        sq_node_free(docs[i]);
        docs[i] = NULL;
    }
    return rc;
}

int sq_yaml_parse(const char *text, size_t len, struct sq_node **out, struct sq_diags *d)
{
    size_t n;

    return sq_yaml_parse_all(text, len, 1, out, &n, d);
}

static int read_limited(int fd, char *buf, size_t *len)
{
    *len = 0;
    while (*len <= SQ_YAML_MAX_BYTES) {
        ssize_t n = read(fd, buf + *len, SQ_YAML_MAX_BYTES + 1 - *len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        *len += (size_t)n;
    }
    return 0;
}

int sq_yaml_read_all(size_t max, struct sq_node **docs, size_t *n, struct sq_diags *d)
{
    cleanup_close int fd = open(d->file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    cleanup_free char *buf = malloc(SQ_YAML_MAX_BYTES + 1);
    struct sq_err e = {0};
    size_t len = 0;
    int r = 0;

    *n = 0;
    memset(docs, 0, max * sizeof *docs);
    if (fd < 0)
        r = -errno;
    else if (!buf)
        r = -ENOMEM;
    else
        r = read_limited(fd, buf, &len);
    if (r < 0) {
        sq_err_cls(&e, r == -ENOMEM ? SQ_C_INTERNAL : SQ_C_INPUT, r, "can't read it: %s", strerror(-r));
        return sq_diag_err(d, (struct sq_pos){0, 0}, &e);
    }
    return sq_yaml_parse_all(buf, len, max, docs, n, d);
}

int sq_yaml_read(struct sq_node **out, struct sq_diags *d)
{
    size_t n;

    return sq_yaml_read_all(1, out, &n, d);
}

static size_t find(const struct sq_node *n, const char *key)
{
    if (!n || n->kind != SQ_N_MAP)
        return SIZE_MAX;
    for (size_t i = 0; i < n->n; i++)
        if (strcmp(n->keys[i]->text, key) == 0)
            return i;
    return SIZE_MAX;
}

struct sq_node *sq_node_get(const struct sq_node *n, const char *key)
{
    size_t i = find(n, key);

    return i == SIZE_MAX ? NULL : n->items[i];
}

const struct sq_node *sq_node_key(const struct sq_node *n, const char *key)
{
    size_t i = find(n, key);

    return i == SIZE_MAX ? NULL : n->keys[i];
}

bool sq_node_is_null(const struct sq_node *n)
{
    return n->kind == SQ_N_SCALAR && n->plain &&
           (!n->text[0] || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

/* A number as JSON writes it (RFC 8259, section 6): 10, -1.5, 1e3. No hex, octal, underscores, .5 or leading zeros. */
static bool is_number(const char *s, bool *integer)
{
    s += *s == '-';
    if (!isdigit((unsigned char)*s) || (s[0] == '0' && isdigit((unsigned char)s[1])))
        return false;
    s += strspn(s, "0123456789");
    *integer = !*s;
    if (*s == '.') {
        if (!isdigit((unsigned char)*++s))
            return false;
        s += strspn(s, "0123456789");
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        if (!isdigit((unsigned char)*s))
            return false;
        s += strspn(s, "0123456789");
    }
    return !*s;
}

static json_t *scalar_json(const struct sq_node *n)
{
    bool integer = false;

    if (!n->plain)
        return json_string(n->text);
    if (sq_node_is_null(n))
        return json_null();
    if (strcmp(n->text, "true") == 0 || strcmp(n->text, "false") == 0)
        return json_boolean(n->text[0] == 't');
    if (!is_number(n->text, &integer))
        return json_string(n->text);
    errno = 0;
    if (integer) {
        long long v = strtoll(n->text, NULL, 10);

        return errno ? NULL : json_integer(v);
    }
    return isfinite(strtod(n->text, NULL)) ? json_real(strtod(n->text, NULL)) : NULL;
}

json_t *sq_node_json(const struct sq_node *n)
{
    json_t *j;

    if (n->kind == SQ_N_SCALAR)
        return scalar_json(n);
    j = n->kind == SQ_N_LIST ? json_array() : json_object();
    for (size_t i = 0; j && i < n->n; i++) {
        json_t *item = sq_node_json(n->items[i]);
        int r = n->kind == SQ_N_LIST ? json_array_append_new(j, item) : json_object_set_new(j, n->keys[i]->text, item);

        if (r < 0) {
            json_decref(j);
            return NULL;
        }
    }
    return j;
}
