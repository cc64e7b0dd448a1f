#include "proxy/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* RFC 9112 for messages; W3C Trace Context for traceparent: "00-" 32 hex "-" 16 hex "-" 2 hex. */
static const char NAME[] = "traceparent";
#define NAME_LEN (sizeof(NAME) - 1)
#define TRACE_AT 3
#define TRACE_LEN 32
#define OTHER 255

static struct sq_http *of(llhttp_t *p)
{
    return p->data;
}

static int on_version(llhttp_t *p)
{
    if (p->http_major == 1) /* not the preface of HTTP/2, which looks like a request */
        of(p)->requests++;
    return 0;
}

static int on_field(llhttp_t *p, const char *at, size_t len)
{
    struct sq_http *h = of(p);
    if (h->fresh) {
        h->fresh = false;
        h->name_len = 0;
        h->value_len = 0;
    }
    if (h->name_len == OTHER)
        return 0;
    if (len > NAME_LEN - h->name_len || strncasecmp(NAME + h->name_len, at, len) != 0)
        h->name_len = OTHER;
    else
        h->name_len = (uint8_t)(h->name_len + len);
    return 0;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static int on_value(llhttp_t *p, const char *at, size_t len)
{
    struct sq_http *h = of(p);
    h->fresh = true;
    if (h->name_len != NAME_LEN)
        return 0;
    if (h->value_len == 0)
        memset(h->trace, 0, sizeof(h->trace));
    for (size_t i = 0; i < len && h->value_len < TRACE_AT + TRACE_LEN; i++, h->value_len++) {
        if (h->value_len < TRACE_AT)
            continue;
        if (!is_hex(at[i])) { /* not a trace id: none at all rather than half of one */
            memset(h->trace, 0, sizeof(h->trace));
            h->name_len = OTHER;
            break;
        }
        h->trace[h->value_len - TRACE_AT] = at[i];
    }
    return 0;
}

static int on_request_headers(llhttp_t *p)
{
    struct sq_http *h = of(p);
    struct sq_call *c = sq_http_newest(h);
    if (c && strlen(h->trace) == TRACE_LEN)
        memcpy(c->trace, h->trace, sizeof(c->trace));
    if (c) {
        c->no_body = p->method == HTTP_HEAD;
        c->connect = p->method == HTTP_CONNECT;
    }
    return 0;
}

static int on_watched_request(llhttp_t *p)
{
    (void)on_request_headers(p);
    of(p)->headed = true;
    return HPE_PAUSED;
}

static int on_watched_body(llhttp_t *p, const char *at, size_t len)
{
    struct sq_http *h = of(p);
    if (h->body)
        h->body(h->body_arg, p == &h->req, at, len);
    return 0;
}

static int on_complete(llhttp_t *p)
{
    (void)p;
    return HPE_PAUSED; /* tells us where the message ended */
}

static int on_answer_headers(llhttp_t *p)
{
    struct sq_http *h = of(p);
    struct sq_call *c = sq_http_oldest(h);
    unsigned status = p->status_code;
    h->interim = status / 100 == 1 && status != 101;
    if (c)
        c->status = (uint16_t)status;
    h->switched = status == 101 || (c && c->connect && status / 100 == 2);
    return h->switched || (c && c->no_body) ? 1 : 0; /* 1: no body follows, whatever the headers say */
}

static int on_watched_answer(llhttp_t *p)
{
    if (on_answer_headers(p) == 1)
        p->flags |= F_SKIPBODY; /* what llhttp does when 1 is returned */
    of(p)->headed = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t REQUEST = {
    .on_version_complete = on_version,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_request_headers,
    .on_message_complete = on_complete,
};
static const llhttp_settings_t RESPONSE = {
    .on_headers_complete = on_answer_headers,
    .on_message_complete = on_complete,
};
static const llhttp_settings_t WATCHED_REQUEST = {
    .on_version_complete = on_version,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_watched_request,
    .on_body = on_watched_body,
    .on_message_complete = on_complete,
};
static const llhttp_settings_t WATCHED_RESPONSE = {
    .on_headers_complete = on_watched_answer,
    .on_body = on_watched_body,
    .on_message_complete = on_complete,
};

void sq_http_watch(struct sq_http *h, bool up, bool on)
{
    const llhttp_settings_t *s = up ? on ? &WATCHED_REQUEST : &REQUEST : on ? &WATCHED_RESPONSE : &RESPONSE;
    (up ? &h->req : &h->res)->settings = (void *)(uintptr_t)s;
}

/* What real clients and servers get away with must not end the counting: the bytes are passed on in any case. */
static void lenient(llhttp_t *p)
{
    llhttp_set_lenient_headers(p, 1);
    llhttp_set_lenient_chunked_length(p, 1);
    llhttp_set_lenient_keep_alive(p, 1);
    llhttp_set_lenient_transfer_encoding(p, 1);
}

void sq_http_init(struct sq_http *h)
{
    memset(h, 0, sizeof(*h));
    llhttp_init(&h->req, HTTP_REQUEST, &REQUEST);
    llhttp_init(&h->res, HTTP_RESPONSE, &RESPONSE);
    lenient(&h->req);
    lenient(&h->res);
    h->req.data = h;
    h->res.data = h;
    h->fresh = true;
}

void sq_http_free(struct sq_http *h)
{
    for (unsigned i = 0; i < h->n; i++)
        free(sq_http_at(h, i)->own);
    free(h->ring);
    h->ring = NULL;
    h->n = h->cap = h->head = 0;
}

struct sq_call *sq_http_at(struct sq_http *h, unsigned i)
{
    return i < h->n ? &h->ring[(h->head + i) % h->cap] : NULL;
}

struct sq_call *sq_http_newest(struct sq_http *h)
{
    return h->cur && h->n ? sq_http_at(h, h->n - 1) : NULL;
}

struct sq_call *sq_http_oldest(struct sq_http *h)
{
    return sq_http_at(h, h->answered);
}

struct sq_call *sq_http_ended(struct sq_http *h)
{
    return sq_http_at(h, h->ended);
}

void sq_http_pop(struct sq_http *h)
{
    if (h->n == 0)
        return;
    free(sq_http_at(h, 0)->own);
    h->head = (h->head + 1) % h->cap;
    h->n--;
    if (h->answered)
        h->answered--;
    if (h->ended)
        h->ended--;
    if (h->n == 0)
        h->cur = false;
}

bool sq_http_never(const struct sq_http *h)
{
    return h->opaque && h->requests == 0;
}

static bool grow(struct sq_http *h)
{
    unsigned cap = h->cap ? h->cap * 4 : 2;
    if (cap > SQ_HTTP_PIPELINE)
        cap = SQ_HTTP_PIPELINE;
    if (cap == h->cap)
        return false;
    struct sq_call *ring = calloc(cap, sizeof(*ring));
    if (!ring)
        return false;
    for (unsigned i = 0; i < h->n; i++)
        ring[i] = *sq_http_at(h, i);
    free(h->ring);
    h->ring = ring;
    h->cap = cap;
    h->head = 0;
    return true;
}

static bool push(struct sq_http *h)
{
    if (h->n == h->cap && !grow(h))
        return false;
    h->n++;
    h->cur = true;
    memset(sq_http_at(h, h->n - 1), 0, sizeof(struct sq_call));
    return true;
}

static size_t opaque(struct sq_http *h, size_t used, enum sq_http_ev *ev)
{
    h->opaque = true;
    *ev = SQ_HTTP_OPAQUE;
    if (h->requests == 0) { /* what looked like a request was none */
        for (unsigned i = 0; i < h->n; i++)
            free(sq_http_at(h, i)->own);
        h->n = h->answered = 0;
        h->cur = false;
    }
    return used;
}

static size_t blank(const char *p, size_t len)
{
    size_t i = 0;
    while (i < len && (p[i] == '\r' || p[i] == '\n'))
        i++;
    return i;
}

/* Feed one parser to the end of the bytes or of the message. Returns the bytes used, or -1: not HTTP. */
static ssize_t feed(llhttp_t *parser, const char *p, size_t len, bool *complete)
{
    *complete = false;
    of(parser)->headed = false;
    enum llhttp_errno err = llhttp_execute(parser, p, len);
    if (err == HPE_OK)
        return (ssize_t)len;
    const char *pos = llhttp_get_error_pos(parser);
    if (err == HPE_PAUSED && of(parser)->headed) {
        llhttp_resume(parser);
        return pos && pos >= p && pos <= p + len ? pos - p : -1;
    }
    if (err != HPE_PAUSED || !pos || pos < p || pos > p + len)
        return -1;
    *complete = true;
    return pos - p;
}

size_t sq_http_up(struct sq_http *h, const char *p, size_t len, enum sq_http_ev *ev)
{
    *ev = SQ_HTTP_NONE;
    if (h->opaque)
        return opaque(h, 0, ev);
    if (!h->up_open) {
        size_t skip = blank(p, len);
        if (skip == len)
            return len;
        if (!push(h))
            return opaque(h, skip, ev);
        h->up_open = true;
        h->fresh = true;
        memset(h->trace, 0, sizeof(h->trace));
        *ev = SQ_HTTP_BEGIN;
        return skip;
    }
    bool complete;
    ssize_t used = feed(&h->req, p, len, &complete);
    if (used < 0)
        return opaque(h, 0, ev);
    if (h->headed)
        *ev = SQ_HTTP_HEAD;
    if (complete) {
        llhttp_reset(&h->req);
        sq_http_watch(h, true, false);
        h->up_open = false;
        h->cur = false;
        *ev = SQ_HTTP_END;
    }
    return (size_t)used;
}

/* An answer is complete. A 1xx leaves its call open: the final answer is yet to come. */
static void answered(struct sq_http *h, enum sq_http_ev *ev)
{
    struct sq_call *c = sq_http_oldest(h);
    llhttp_reset(&h->res);
    sq_http_watch(h, false, false);
    h->down_open = false;
    if (h->interim) {
        if (c)
            c->answer = 0;
        return;
    }
    *ev = SQ_HTTP_END;
    h->ended = h->answered;
    if (c) {
        c->done = true;
        h->answered++;
    }
    if (h->switched)
        h->opaque = true;
}

void sq_http_own_answer(struct sq_http *h)
{
    struct sq_call *c = sq_http_oldest(h);
    if (!c)
        return;
    c->done = true;
    h->answered++;
}

size_t sq_http_down(struct sq_http *h, const char *p, size_t len, enum sq_http_ev *ev)
{
    *ev = SQ_HTTP_NONE;
    if (h->opaque)
        return opaque(h, 0, ev);
    if (!h->down_open) {
        size_t skip = blank(p, len);
        if (skip == len)
            return len;
        h->down_open = true;
        h->interim = false;
        *ev = SQ_HTTP_BEGIN;
        return skip;
    }
    bool complete;
    ssize_t used = feed(&h->res, p, len, &complete);
    if (used < 0)
        return opaque(h, 0, ev);
    if (h->headed)
        *ev = SQ_HTTP_HEAD;
    if (complete)
        answered(h, ev);
    return (size_t)used;
}

bool sq_http_down_eof(struct sq_http *h)
{
    enum sq_http_ev ev = SQ_HTTP_NONE;
    if (h->opaque || !h->down_open)
        return false;
    /* Calls on_message_complete only inside a body that the end of the connection ends, and returns what that returned.
     */
    if (llhttp_finish(&h->res) == HPE_PAUSED)
        answered(h, &ev);
    return ev == SQ_HTTP_END;
}
