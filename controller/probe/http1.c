/* HTTP/1.1 over TCP, TLS and Unix sockets (RFC 9112). Answers are read by llhttp in its strict mode. Redirects are not
 * followed and bodies not decompressed: what is measured is one exchange. */
#include <errno.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "probe/http.h"
#include "probe/proto.h"
#include "probe/url.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/version.h"

struct plan {
    const struct sq_rules *rules;
    char *text; /* the whole request; NULL: it has holes */
    size_t len;
    size_t trace; /* where in it the trace context stands */
    /* With holes: the lines before and behind the trace context, the body. */
    struct sq_template line, fields, body;
    bool sized; /* content-length is sent even without a body */
    struct sq_buf filled, filled_body;
    bool head, repeatable, close;
};

struct talk {
    llhttp_t parser;
    const struct plan *plan;
    struct sq_match_state match;
    struct sq_keep *keep_into;
    bool done, keep, surplus;
    int status;
    size_t name_len, value_len;
    bool name_too_long;
    char name[SQ_MATCH_NAME];
    char value[SQ_MATCH_VALUE];
};

/* --- the request --- */

static bool speaks(const char *url, const json_t *request)
{
    const char *alpn = json_string_value(json_array_get(json_object_get(json_object_get(request, "tls"), "alpn"), 0));

    if (sq_url_is(url, "https"))
        return !alpn || strcmp(alpn, "h2") != 0;
    return sq_url_is(url, "http") || strncmp(url, "unix:", 5) == 0;
}

/* The fields, each with its line end, and whether the scenario has said some of them itself. */
static void write_fields(FILE *f, struct plan *p, const struct sq_http *h)
{
    bool host = false, agent = false;
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)h->headers, name, v)
    {
        host = host || strcasecmp(name, "host") == 0;
        agent = agent || strcasecmp(name, "user-agent") == 0;
        if (strcasecmp(name, "connection") == 0 && strcasestr(json_string_value(v), "close"))
            p->close = true;
        (void)fprintf(f, "%s: %s\r\n", name, json_string_value(v));
    }
    if (h->close && !p->close)
        (void)fputs("connection: close\r\n", f);
    if (!host)
        (void)fprintf(f, "host: %s\r\n", h->authority);
    if (!agent)
        (void)fputs("user-agent: squall/" SQUALL_VERSION "\r\n", f);
}

static int no_memory(struct sq_err *e)
{
    return sq_err(e, -ENOMEM, "no memory");
}

/* One text, when nothing in it changes but the trace context. */
static int write_text(struct plan *p, const struct sq_http *h, const char *fields, struct sq_err *e)
{
    size_t body = json_string_length(h->body);
    FILE *f = open_memstream(&p->text, &p->len);

    if (!f)
        return no_memory(e);
    (void)fprintf(f, "%s %s%s HTTP/1.1\r\ntraceparent: ", h->method, *h->path == '?' ? "/" : "", h->path);
    (void)fflush(f);
    p->trace = p->len;
    (void)fprintf(f, "%0*d\r\n%s", SQ_TRACE_LEN, 0, fields);
    if (body > 0 || p->sized)
        (void)fprintf(f, "content-length: %zu\r\n", body);
    (void)fputs("\r\n", f);
    if (body > 0)
        (void)fwrite(json_string_value(h->body), 1, body, f);
    if (fclose(f) != 0)
        return no_memory(e);
    return p->len <= SQ_REQUEST_MAX ? 0 : sq_err_cls(e, SQ_C_INPUT, -E2BIG, "a request has at most 2 MiB");
}

static int write_template(struct plan *p, const struct sq_http *h, const char *fields, const struct sq_names *names,
                          struct sq_err *e)
{
    const char *body = json_string_value(h->body);
    int rc;

    if ((rc = sq_http_add(&p->line, h->method, SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = sq_http_add(&p->line, *h->path == '?' ? " /" : " ", SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = sq_http_add(&p->line, h->path, SQ_HOLE_URL, names, e)) < 0 ||
        (rc = sq_http_add(&p->line, " HTTP/1.1\r\ntraceparent: ", SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = sq_http_add(&p->fields, "\r\n", SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = sq_http_add(&p->fields, fields, SQ_HOLE_HEADER, names, e)) < 0)
        return rc;
    return body ? sq_http_add(&p->body, body, SQ_HOLE_RAW, names, e) : 0;
}

static int write_request(struct plan *p, const struct sq_http *h, const struct sq_names *names, struct sq_err *e)
{
    cleanup_free char *fields = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&fields, &len);

    if (!f)
        return no_memory(e);
    write_fields(f, p, h);
    if (fclose(f) != 0)
        return no_memory(e);
    p->sized = strcmp(h->method, "POST") == 0 || strcmp(h->method, "PUT") == 0 || strcmp(h->method, "PATCH") == 0;
    if (sq_has_holes(h->path) || sq_has_holes(fields) || sq_has_holes(json_string_value(h->body)))
        return write_template(p, h, fields, names, e);
    return write_text(p, h, fields, e);
}

static void release(void *plan)
{
    struct plan *p = plan;

    if (!p)
        return;
    free(p->text);
    sq_template_free(&p->line);
    sq_template_free(&p->fields);
    sq_template_free(&p->body);
    sq_buf_free(&p->filled);
    sq_buf_free(&p->filled_body);
    free(p);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    struct sq_http h;
    struct plan *p;
    int rc = sq_http_read(endpoint, "http", "https", &h, place, e);

    if (rc < 0)
        return rc;
    p = calloc(1, sizeof *p);
    if (!p)
        return no_memory(e);
    p->rules = rules;
    p->head = h.head;
    p->repeatable = h.repeatable;
    rc = write_request(p, &h, names, e);
    if (rc < 0)
        release(p);
    else
        *plan = p;
    return rc;
}

static bool repeatable(const void *plan)
{
    return ((const struct plan *)plan)->repeatable;
}

static const char *fill(struct plan *p, const struct sq_values *v, const char *trace, size_t *len)
{
    char number[64];

    sq_buf_clear(&p->filled);
    sq_buf_clear(&p->filled_body);
    sq_template_fill(&p->body, v, &p->filled_body);
    sq_template_fill(&p->line, v, &p->filled);
    sq_buf_put(&p->filled, trace, SQ_TRACE_LEN);
    sq_template_fill(&p->fields, v, &p->filled);
    (void)snprintf(number, sizeof number, "content-length: %zu\r\n", p->filled_body.len);
    if (p->filled_body.len > 0 || p->sized)
        sq_buf_text(&p->filled, number);
    sq_buf_text(&p->filled, "\r\n");
    sq_buf_put(&p->filled, p->filled_body.data, p->filled_body.len);
    if (p->filled.failed || p->filled_body.failed) {
        *len = 0;
        return NULL;
    }
    *len = p->filled.len;
    return p->filled.data;
}

static const char *request_bytes(void *plan, const struct sq_values *v, const char *trace, size_t *len)
{
    struct plan *p = plan;

    if (!p->text)
        return fill(p, v, trace, len);
    memcpy(p->text + p->trace, trace, SQ_TRACE_LEN);
    *len = p->len;
    return p->text;
}

/* --- the answer --- */

static void header_done(struct talk *t)
{
    if (t->name_len > 0 && !t->name_too_long) {
        t->name[t->name_len] = 0;
        sq_match_header(t->plan->rules, &t->match, t->name, t->value, t->value_len);
        if (t->keep_into)
            sq_keep_header(t->keep_into, t->name, t->value, t->value_len);
    }
    t->name_len = t->value_len = 0;
    t->name_too_long = false;
}

static int on_begin(llhttp_t *parser)
{
    struct talk *t = parser->data;

    sq_match_begin(t->plan->rules, &t->match);
    t->name_len = t->value_len = 0;
    t->name_too_long = false;
    return 0;
}

static int on_name(llhttp_t *parser, const char *at, size_t len)
{
    struct talk *t = parser->data;

    if (t->name_len + len >= sizeof t->name) {
        t->name_too_long = true;
        return 0;
    }
    memcpy(t->name + t->name_len, at, len);
    t->name_len += len;
    return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t len)
{
    struct talk *t = parser->data;
    size_t room = sizeof t->value - t->value_len;

    len = len < room ? len : room;
    memcpy(t->value + t->value_len, at, len);
    t->value_len += len;
    return 0;
}

static int on_value_complete(llhttp_t *parser)
{
    header_done(parser->data);
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct talk *t = parser->data;
    int s = parser->status_code;

    if (s == 101 || s < 100) /* we never ask for an upgrade */
        return -1;
    /* llhttp would wait for a body when these carry a content-length, which they may (RFC 9112, 6.3). */
    return t->plan->head || s < 200 || s == 204 || s == 304 ? 1 : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct talk *t = parser->data;

    sq_match_body(t->plan->rules, &t->match, at, len);
    if (t->keep_into)
        sq_keep_body(t->keep_into, at, len);
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    struct talk *t = parser->data;

    if (parser->status_code < 200) /* an interim answer: the real one follows */
        return 0;
    t->status = parser->status_code;
    t->keep = llhttp_should_keep_alive(parser) != 0 && !t->plan->close;
    t->done = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t plain_settings = {
    .on_message_begin = on_begin,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* When somebody looks for headers. */
static const llhttp_settings_t header_settings = {
    .on_message_begin = on_begin,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

static void begin(void *talk, const void *plan, struct sq_keep *keep)
{
    struct talk *t = talk;
    bool headers;

    t->plan = plan;
    t->keep_into = keep;
    headers = t->plan->rules->n_headers > 0 || (keep && keep->captures->header);
    llhttp_init(&t->parser, HTTP_RESPONSE, headers ? &header_settings : &plain_settings);
    t->parser.data = t;
    t->done = t->keep = t->surplus = false;
    t->status = 0;
    sq_match_begin(t->plan->rules, &t->match);
}

static void open_talk(void *talk, const void *plan)
{
    begin(talk, plan, NULL);
}

static enum sq_feed feed(void *talk, const char *data, size_t len)
{
    struct talk *t = talk;
    llhttp_errno_t err;

    if (t->done) {
        t->surplus = t->surplus || len > 0;
        return SQ_FEED_DONE;
    }
    err = llhttp_execute(&t->parser, data, len);
    if (t->done) {
        /* Bytes that nobody asked for: the next answer could not be told from them. */
        t->surplus = llhttp_get_error_pos(&t->parser) != data + len;
        return SQ_FEED_DONE;
    }
    return err == HPE_OK ? SQ_FEED_MORE : SQ_FEED_BAD;
}

static enum sq_feed eof(void *talk)
{
    struct talk *t = talk;

    if (!t->done)
        (void)llhttp_finish(&t->parser);
    t->keep = false;
    return t->done ? SQ_FEED_DONE : SQ_FEED_BAD;
}

static void answer(const void *talk, struct sq_answer *out)
{
    const struct talk *t = talk;

    out->status = t->status;
    out->keep = t->keep && !t->surplus;
    out->bytes = t->match.bytes;
    sq_match_end(t->plan->rules, &t->match, t->status, &out->matched);
}

const struct sq_proto sq_proto_http1 = {
    .name = "http",
    .good_from = 200,
    .good_to = 399,
    .holes = true,
    .speaks = speaks,
    .prepare = prepare,
    .release = release,
    .repeatable = repeatable,
    .request = request_bytes,
    .talk_size = sizeof(struct talk),
    .open = open_talk,
    .begin = begin,
    .feed = feed,
    .eof = eof,
    .answer = answer,
};
