#include "probe/h2.h"

#include <ctype.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/version.h"

#define WINDOW (1 << 20)      /* bytes of an answer that may come before we have looked at any */
#define BATCH ((size_t)16384) /* frames are collected up to about this many bytes before they are sent */
#define OVER_BODY 65536       /* of an answer, for what is spoken over HTTP */
#define FIELDS_MAX 128
#define STREAMS_MAX 100 /* what RFC 9113, 6.5.2 recommends not to go below, until the peer has said */

struct stream {
    struct stream *next, *prev; /* all open ones; next: also the spare ones */
    void *tag;                  /* NULL: nobody waits for its answer */
    const struct sq_h2_plan *plan;
    struct sq_match_state match;
    struct sq_keep *keep;
    struct sq_buf out, in; /* in: only when something is spoken over HTTP */
    int32_t id;
    int status, grpc;
    bool complete;
};

struct talk {
    nghttp2_session *session;
    void *arg;
    void (*ended)(void *arg, void *tag, enum sq_mux_end how, const struct sq_answer *a);
    struct stream *open, *spare;
    struct sq_buf out;
    bool going; /* the peer has said goodbye */
};

/* --- plans --- */

static int add_field(struct sq_h2_plan *p, const char *name, const char *value, enum sq_hole how,
                     const struct sq_names *names, struct sq_err *e)
{
    char *lower = strdup(name);

    if (!lower)
        return sq_err(e, -ENOMEM, "no memory");
    for (char *c = lower; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    p->name[p->n++] = lower;
    return sq_http_add(&p->value[p->n - 1], value, how, names, e);
}

/* Fields that mean a connection, which HTTP/2 has its own words for (RFC 9113, 8.2.2). */
static bool of_connection(const char *name)
{
    static const char *const list[] = {"connection", "keep-alive", "proxy-connection", "host"};

    for (size_t i = 0; i < SQ_COUNT(list); i++)
        if (strcasecmp(name, list[i]) == 0)
            return true;
    return false;
}

static int add_fields(struct sq_h2_plan *p, const struct sq_http *h, const struct sq_names *names, struct sq_err *e)
{
    const char *name, *host = h->authority;
    char path[16] = "";
    bool agent = false;
    json_t *v;
    int rc;

    json_object_foreach((json_t *)(uintptr_t)h->headers, name, v) if (strcasecmp(name, "host") == 0) host =
        json_string_value(v);
    if (*h->path == '?')
        (void)snprintf(path, sizeof path, "/");
    if ((rc = add_field(p, ":method", h->method, SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = add_field(p, ":scheme", h->tls ? "https" : "http", SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = add_field(p, ":authority", host, SQ_HOLE_HEADER, names, e)) < 0 ||
        (rc = add_field(p, ":path", path, SQ_HOLE_RAW, NULL, e)) < 0 ||
        (rc = sq_http_add(&p->value[p->n - 1], h->path, SQ_HOLE_URL, names, e)) < 0)
        return rc;
    p->trace = p->n;
    if ((rc = add_field(p, "traceparent", "", SQ_HOLE_RAW, NULL, e)) < 0)
        return rc;
    json_object_foreach((json_t *)(uintptr_t)h->headers, name, v)
    {
        agent = agent || strcasecmp(name, "user-agent") == 0;
        if (!of_connection(name) && (rc = add_field(p, name, json_string_value(v), SQ_HOLE_HEADER, names, e)) < 0)
            return rc;
    }
    return agent ? 0 : add_field(p, "user-agent", "squall/" SQUALL_VERSION, SQ_HOLE_RAW, NULL, e);
}

int sq_h2_plan(const struct sq_http *h, const struct sq_names *names, const struct sq_rules *rules,
               struct sq_h2_plan **out, struct sq_err *e)
{
    size_t n = json_object_size(h->headers) + 8;
    struct sq_h2_plan *p = calloc(1, sizeof *p);
    int rc;

    if (n > FIELDS_MAX) {
        free(p);
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "headers: at most %d", FIELDS_MAX - 8);
    }
    if (!p || !(p->name = calloc(n, sizeof *p->name)) || !(p->value = calloc(n, sizeof *p->value))) {
        sq_h2_release(p);
        return sq_err(e, -ENOMEM, "no memory");
    }
    p->rules = rules;
    p->repeatable = h->repeatable;
    p->head = h->head;
    rc = add_fields(p, h, names, e);
    p->has_body = json_string_length(h->body) > 0;
    if (rc == 0 && p->has_body)
        rc = sq_template_add(&p->body, json_string_value(h->body), json_string_length(h->body), SQ_HOLE_RAW, names, e);
    if (rc < 0)
        sq_h2_release(p);
    else
        *out = p;
    return rc;
}

void sq_h2_release(void *plan)
{
    struct sq_h2_plan *p = plan;

    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++) {
        free(p->name[i]);
        sq_template_free(&p->value[i]);
    }
    free(p->name);
    free(p->value);
    sq_template_free(&p->body);
    free(p);
}

bool sq_h2_repeatable(const void *plan)
{
    return ((const struct sq_h2_plan *)plan)->repeatable;
}

/* --- streams --- */

static struct stream *stream_new(struct talk *t, void *tag, const struct sq_h2_plan *plan, struct sq_keep *keep)
{
    struct stream *s = t->spare;

    if (s)
        t->spare = s->next;
    else if (!(s = calloc(1, sizeof *s)))
        return NULL;
    sq_buf_clear(&s->out);
    sq_buf_clear(&s->in);
    s->tag = tag;
    s->plan = plan;
    s->keep = keep;
    s->status = 0;
    s->grpc = -1;
    s->complete = false;
    sq_match_begin(plan->rules, &s->match);
    s->prev = NULL;
    s->next = t->open;
    if (t->open)
        t->open->prev = s;
    t->open = s;
    return s;
}

static void stream_end(struct talk *t, struct stream *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        t->open = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->next = t->spare;
    t->spare = s;
}

/* --- what nghttp2 tells --- */

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t len, uint8_t flags, void *arg)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    const char *n = (const char *)name, *v = (const char *)value; /* both end with a 0 */

    (void)flags;
    (void)arg;
    if (!s || !s->tag)
        return 0;
    if (strcmp(n, ":status") == 0)
        s->status = (int)strtol(v, NULL, 10);
    else if (strcmp(n, "grpc-status") == 0)
        s->grpc = len > 0 && len < 4 && isdigit(value[0]) ? (int)strtol(v, NULL, 10) : 2;
    if (name_len >= SQ_MATCH_NAME || n[0] == ':')
        return 0;
    sq_match_header(s->plan->rules, &s->match, n, v, len < SQ_MATCH_VALUE ? len : SQ_MATCH_VALUE);
    if (s->keep)
        sq_keep_header(s->keep, n, v, len);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);

    (void)flags;
    (void)arg;
    if (!s || !s->tag)
        return 0;
    sq_match_body(s->plan->rules, &s->match, (const char *)data, len);
    if (s->keep)
        sq_keep_body(s->keep, (const char *)data, len);
    if (s->plan->over && s->in.len + len <= OVER_BODY)
        sq_buf_put(&s->in, data, len);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct talk *t = arg;
    struct stream *s;

    if (frame->hd.type == NGHTTP2_GOAWAY)
        t->going = true;
    if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        (s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id)))
        s->complete = s->status >= 200;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
    struct talk *t = arg;
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct sq_answer a = {.keep = true};
    enum sq_mux_end how = SQ_MUX_RESET;
    void *tag;

    if (!s)
        return 0;
    tag = s->tag;
    if (s->complete)
        how = SQ_MUX_ANSWERED;
    else if (code == NGHTTP2_REFUSED_STREAM)
        how = SQ_MUX_REFUSED;
    else if (code == NGHTTP2_PROTOCOL_ERROR || code == NGHTTP2_NO_ERROR)
        how = SQ_MUX_BAD;
    if (how == SQ_MUX_ANSWERED) {
        a.status = s->plan->over ? s->plan->over->status(s->status, s->grpc, s->in.data, s->in.len) : s->status;
        a.bytes = s->match.bytes;
        sq_match_end(s->plan->rules, &s->match, a.status, &a.matched);
    }
    stream_end(t, s);
    if (tag)
        t->ended(t->arg, tag, how, &a);
    return 0;
}

/* --- the conversation --- */

static void talk_close(void *talk)
{
    struct talk *t = talk;

    nghttp2_session_del(t->session); /* tells nothing of the streams that are still open */
    while (t->open)
        stream_end(t, t->open);
    while (t->spare) {
        struct stream *s = t->spare;

        t->spare = s->next;
        sq_buf_free(&s->out);
        sq_buf_free(&s->in);
        free(s);
    }
    sq_buf_free(&t->out);
    free(t);
}

static int session_new(struct talk *t)
{
    static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                                      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}};
    nghttp2_session_callbacks *cb;
    int rc = nghttp2_session_callbacks_new(&cb);

    if (rc != 0)
        return rc;
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    rc = nghttp2_session_client_new(&t->session, cb, t);
    nghttp2_session_callbacks_del(cb);
    if (rc == 0)
        rc = nghttp2_submit_settings(t->session, NGHTTP2_FLAG_NONE, settings, SQ_COUNT(settings));
    if (rc == 0)
        rc = nghttp2_session_set_local_window_size(t->session, NGHTTP2_FLAG_NONE, 0, 16 * WINDOW);
    return rc;
}

static void *talk_open(void *arg, void (*ended)(void *, void *, enum sq_mux_end, const struct sq_answer *))
{
    struct talk *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->arg = arg;
    t->ended = ended;
    if (session_new(t) != 0) {
        talk_close(t);
        return NULL;
    }
    return t;
}

static unsigned room(const void *talk)
{
    const struct talk *t = talk;
    uint32_t max = nghttp2_session_get_remote_settings(t->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

    return t->going || !nghttp2_session_check_request_allowed(t->session) ? 0 : max < INT32_MAX ? max : STREAMS_MAX;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    struct stream *s = source->ptr;
    size_t n = s->out.len - s->out.at;

    (void)session;
    (void)id;
    (void)arg;
    n = n < len ? n : len;
    memcpy(buf, s->out.data + s->out.at, n);
    s->out.at += n;
    if (s->out.at == s->out.len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static bool submit(void *talk, void *tag, void *plan, const struct sq_values *v, const char *trace,
                   struct sq_keep *keep)
{
    struct talk *t = talk;
    struct sq_h2_plan *p = plan;
    struct stream *s = stream_new(t, tag, p, keep);
    nghttp2_data_provider body = {.source.ptr = s, .read_callback = read_body};
    nghttp2_nv nv[FIELDS_MAX];
    struct sq_buf text = {0};
    size_t end[FIELDS_MAX];

    if (!s)
        return false;
    for (size_t i = 0; i < p->n; i++) {
        if (i == p->trace)
            sq_buf_put(&text, trace, SQ_TRACE_LEN);
        else
            sq_template_fill(&p->value[i], v, &text);
        end[i] = text.len;
    }
    sq_template_fill(&p->body, v, &s->out);
    for (size_t i = 0; i < p->n; i++) {
        size_t from = i > 0 ? end[i - 1] : 0;

        nv[i] = (nghttp2_nv){.name = (uint8_t *)p->name[i],
                             .namelen = strlen(p->name[i]),
                             .value = (uint8_t *)text.data + from,
                             .valuelen = end[i] - from};
    }
    s->id = text.failed || s->out.failed
                ? -1
                : nghttp2_submit_request(t->session, NULL, nv, p->n, p->has_body ? &body : NULL, s);
    sq_buf_free(&text);
    if (s->id < 0)
        stream_end(t, s);
    return s->id > 0;
}

static void forget(void *talk, void *tag)
{
    struct talk *t = talk;

    for (struct stream *s = t->open; s; s = s->next)
        if (s->tag == tag) {
            s->tag = NULL;
            s->keep = NULL;
            (void)nghttp2_submit_rst_stream(t->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_CANCEL);
            return;
        }
}

static bool feed(void *talk, const char *data, size_t len)
{
    struct talk *t = talk;
    ssize_t n = nghttp2_session_mem_recv(t->session, (const uint8_t *)data, len);

    return n == (ssize_t)len && (nghttp2_session_want_read(t->session) || nghttp2_session_want_write(t->session));
}

static size_t output(void *talk, const char **data)
{
    struct talk *t = talk;
    const uint8_t *piece;
    ssize_t n;

    if (t->out.at == t->out.len) {
        sq_buf_clear(&t->out);
        while (t->out.len < BATCH && (n = nghttp2_session_mem_send(t->session, &piece)) > 0)
            sq_buf_put(&t->out, piece, (size_t)n);
    }
    *data = t->out.data + t->out.at;
    return t->out.len - t->out.at;
}

static void sent(void *talk, size_t len)
{
    struct talk *t = talk;

    t->out.at += len;
}

const struct sq_mux sq_h2_mux = {talk_open, talk_close, room, submit, forget, feed, output, sent};
