/* HTTP/1.1 over TCP and Unix sockets (RFC 9112). Answers are read by llhttp in its strict mode. Redirects are not
 * followed and bodies not decompressed: what is measured is one exchange. */
#include <ctype.h>
#include <errno.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "probe/proto.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/version.h"

#define URL_MAX 4096
#define REQUEST_MAX (2u << 20)

struct plan {
    const struct sq_rules *rules;
    char *text; /* the whole request */
    size_t len;
    size_t trace; /* where in it the trace context stands */
    bool head, repeatable, close;
};

struct talk {
    llhttp_t parser;
    const struct plan *plan;
    struct sq_match_state match;
    bool done, keep, surplus;
    int status;
    size_t name_len, value_len;
    bool name_too_long;
    char name[SQ_MATCH_NAME];
    char value[SQ_MATCH_VALUE];
};

/* --- the request --- */

static bool speaks(const char *url)
{
    return strncasecmp(url, "http://", 7) == 0 || strncmp(url, "unix:", 5) == 0;
}

static int bad_url(struct sq_err *e, const char *url, const char *why)
{
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "url \"%.200s\": %s", url, why);
    sq_err_hint(e, "write http://host:port/path or unix:/path/to.sock:/path");
    return -EINVAL;
}

static int split_unix(const char *url, struct sq_place *place, const char **path, struct sq_err *e)
{
    const char *sock = url + 5, *end = strstr(sock, ":/");
    size_t len = end ? (size_t)(end - sock) : strlen(sock);

    if (len == 0 || sock[0] != '/')
        return bad_url(e, url, "the socket's path must be absolute");
    if (len >= sizeof place->path)
        return bad_url(e, url, "a socket's path has at most 107 bytes (unix(7))");
    memcpy(place->path, sock, len);
    *path = end ? end + 1 : "/";
    return 0;
}

static int split_tcp(const char *url, struct sq_place *place, const char **path, struct sq_err *e)
{
    const char *host = url + 7, *end = host + strcspn(host, "/?#"), *stop, *port;
    unsigned long n = 80;
    char *tail;

    if (memchr(host, '@', (size_t)(end - host)))
        return bad_url(e, url, "no user or password in it, send an authorization header instead");
    if (*host == '[') {
        stop = memchr(host, ']', (size_t)(end - host));
        if (!stop)
            return bad_url(e, url, "no ] after the address");
        host++;
        port = stop + 1;
    } else {
        stop = memchr(host, ':', (size_t)(end - host));
        port = stop = stop ? stop : end;
    }
    if (stop == host || (size_t)(stop - host) >= sizeof place->host)
        return bad_url(e, url, "no host in it");
    memcpy(place->host, host, (size_t)(stop - host));
    if (port != end) {
        n = *port == ':' && isdigit((unsigned char)port[1]) ? strtoul(port + 1, &tail, 10) : 0;
        if (n < 1 || n > 65535 || tail != end)
            return bad_url(e, url, "a port is a number from 1 to 65535");
    }
    (void)snprintf(place->port, sizeof place->port, "%lu", n);
    *path = *end ? end : "/";
    return 0;
}

static int split_url(const char *url, struct sq_place *place, const char **path, struct sq_err *e)
{
    int rc;

    memset(place, 0, sizeof *place);
    if (strlen(url) > URL_MAX)
        return bad_url(e, url, "too long");
    for (const char *c = url; *c; c++)
        if (*c <= ' ' || *c == 0x7f || (unsigned char)*c > 0x7f)
            return bad_url(e, url, "a blank or a byte that must be written as %XX");
    rc = strncmp(url, "unix:", 5) == 0 ? split_unix(url, place, path, e) : split_tcp(url, place, path, e);
    if (rc == 0 && strchr(*path, '#'))
        return bad_url(e, url, "a fragment (#...) is never sent");
    return rc;
}

static bool is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
            return false;
    return true;
}

static int bad_header(struct sq_err *e, const char *name, const char *why)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "headers: %.100s: %s", name, why);
}

static int write_headers(FILE *f, struct plan *p, const json_t *headers, bool *host, bool *agent, struct sq_err *e)
{
    static const char *const ours[] = {"traceparent", "content-length", "transfer-encoding", "expect", "upgrade"};
    const char *name;
    json_t *v;

    if (headers && !json_is_object(headers) && !json_is_null(headers))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "headers: a mapping of names to values");
    json_object_foreach((json_t *)(uintptr_t)headers, name, v)
    {
        const char *text = json_string_value(v);

        if (!is_token(name))
            return bad_header(e, name, "not a header name");
        if (!text || strlen(text) != json_string_length(v) || strpbrk(text, "\r\n"))
            return bad_header(e, name, "its value must be a text of one line");
        for (size_t i = 0; i < SQ_COUNT(ours); i++)
            if (strcasecmp(name, ours[i]) == 0)
                return bad_header(e, name, "the probe decides about this one itself");
        if (strcasecmp(name, "host") == 0)
            *host = true;
        if (strcasecmp(name, "user-agent") == 0)
            *agent = true;
        if (strcasecmp(name, "connection") == 0 && strcasestr(text, "close"))
            p->close = true;
        (void)fprintf(f, "%s: %s\r\n", name, text);
    }
    return 0;
}

static int write_request(struct plan *p, const json_t *request, const struct sq_place *place, const char *path,
                         struct sq_err *e)
{
    const char *method = sq_json_str_or(request, "method", "GET");
    const json_t *body = json_object_get(request, "body");
    size_t body_len = json_string_length(body);
    bool host = false, agent = false, v6 = strchr(place->host, ':') != NULL;
    FILE *f = open_memstream(&p->text, &p->len);
    int rc;

    if (!f)
        return sq_err(e, -ENOMEM, "no memory");
    (void)fprintf(f, "%s %s%s HTTP/1.1\r\ntraceparent: ", method, *path == '?' ? "/" : "", path);
    (void)fflush(f);
    p->trace = p->len;
    (void)fprintf(f, "%0*d\r\n", SQ_TRACE_LEN, 0);
    rc = write_headers(f, p, json_object_get(request, "headers"), &host, &agent, e);
    if (!host && place->path[0])
        (void)fputs("host: localhost\r\n", f);
    else if (!host)
        (void)fprintf(f, "host: %s%s%s%s%s\r\n", v6 ? "[" : "", place->host, v6 ? "]" : "",
                      strcmp(place->port, "80") ? ":" : "", strcmp(place->port, "80") ? place->port : "");
    if (!agent)
        (void)fputs("user-agent: squall/" SQUALL_VERSION "\r\n", f);
    if (body_len > 0 || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0)
        (void)fprintf(f, "content-length: %zu\r\n", body_len);
    (void)fputs("\r\n", f);
    if (body_len > 0)
        (void)fwrite(json_string_value(body), 1, body_len, f);
    if (fclose(f) != 0 && rc == 0)
        rc = sq_err(e, -ENOMEM, "no memory");
    if (rc == 0 && p->len > REQUEST_MAX)
        rc = sq_err_cls(e, SQ_C_INPUT, -E2BIG, "a request has at most 2 MiB");
    return rc;
}

static void release(void *plan)
{
    struct plan *p = plan;

    if (p)
        free(p->text);
    free(p);
}

static int prepare(const json_t *endpoint, const struct sq_rules *rules, void **plan, struct sq_place *place,
                   struct sq_err *e)
{
    /* Methods that may be sent twice without harm: RFC 9110, 9.2.2. */
    static const char *const idempotent[] = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"};
    const char *url, *path, *method;
    struct plan *p;
    json_t *request;
    int rc;

    if ((rc = sq_json_obj(endpoint, "request", &request, e)) < 0 || (rc = sq_json_str(request, "url", &url, e)) < 0 ||
        (rc = split_url(url, place, &path, e)) < 0)
        return rc;
    method = sq_json_str_or(request, "method", "GET");
    if (!is_token(method) || strlen(method) > 32 || strcmp(method, "CONNECT") == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "method: \"%.40s\" is none that can be sent", method);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->rules = rules;
    p->head = strcmp(method, "HEAD") == 0;
    for (size_t i = 0; i < SQ_COUNT(idempotent); i++)
        if (strcmp(method, idempotent[i]) == 0)
            p->repeatable = true;
    rc = write_request(p, request, place, path, e);
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

static const char *request_bytes(void *plan, const char *trace, size_t *len)
{
    struct plan *p = plan;

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

static void begin(void *talk)
{
    struct talk *t = talk;

    llhttp_init(&t->parser, HTTP_RESPONSE, t->plan->rules->n_headers > 0 ? &header_settings : &plain_settings);
    t->parser.data = t;
    t->done = t->keep = t->surplus = false;
    t->status = 0;
    sq_match_begin(t->plan->rules, &t->match);
}

static void open_talk(void *talk, const void *plan)
{
    ((struct talk *)talk)->plan = plan;
    begin(talk);
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
