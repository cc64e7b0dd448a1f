#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shop.h"

struct shop_server {
    uv_tcp_t tcp;
    shop_handler *handler;
    void *arg;
};

struct shop_conn {
    uv_tcp_t tcp;
    struct shop_server *server;
    llhttp_t parser;
    struct shop_req *req; /* being read or answered */
    bool answering;       /* the handler has it */
    char header[32];      /* name of the header being read */
    char in[4096];
};

struct write {
    uv_write_t w;
    char *text;
};

static void on_closed(uv_handle_t *h)
{
    struct shop_conn *c = h->data;

    if (c->req && c->answering)
        c->req->conn = NULL; /* shop_reply will free it */
    else
        free(c->req);
    free(c);
}

static void drop(struct shop_conn *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void append(char *to, size_t size, const char *at, size_t len)
{
    size_t used = strlen(to);

    if (len > size - 1 - used)
        len = size - 1 - used;
    memcpy(to + used, at, len);
    to[used + len] = '\0';
}

static int on_begin(llhttp_t *p)
{
    struct shop_conn *c = p->data;

    if (c->answering)
        return -1; /* pipelining: not here */
    free(c->req);
    c->req = calloc(1, sizeof *c->req);
    if (!c->req)
        return -1;
    c->req->conn = c;
    return 0;
}

static int on_url(llhttp_t *p, const char *at, size_t len)
{
    struct shop_conn *c = p->data;

    append(c->req->path, sizeof c->req->path, at, len);
    return 0;
}

static int on_header_name(llhttp_t *p, const char *at, size_t len)
{
    struct shop_conn *c = p->data;

    append(c->header, sizeof c->header, at, len);
    return 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t len)
{
    struct shop_conn *c = p->data;

    if (strcasecmp(c->header, "traceparent") == 0)
        append(c->req->traceparent, sizeof c->req->traceparent, at, len);
    return 0;
}

static int on_header_done(llhttp_t *p)
{
    struct shop_conn *c = p->data;

    c->header[0] = '\0';
    return 0;
}

static int on_complete(llhttp_t *p)
{
    struct shop_conn *c = p->data;

    (void)snprintf(c->req->method, sizeof c->req->method, "%s", llhttp_method_name((llhttp_method_t)p->method));
    c->answering = true;
    c->server->handler(c->req, c->server->arg);
    /* One request at a time: reading goes on when it has been answered. */
    return c->answering ? HPE_PAUSED : 0;
}

static const llhttp_settings_t *settings(void)
{
    static const llhttp_settings_t s = {
        .on_message_begin = on_begin,
        .on_url = on_url,
        .on_header_field = on_header_name,
        .on_header_value = on_header_value,
        .on_header_value_complete = on_header_done,
        .on_message_complete = on_complete,
    };

    return &s;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct shop_conn *c = h->data;

    (void)hint;
    *buf = uv_buf_init(c->in, sizeof c->in);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct shop_conn *c = s->data;
    llhttp_errno_t err;

    if (n < 0) {
        drop(c);
        return;
    }
    if (n == 0)
        return;
    err = llhttp_execute(&c->parser, buf->base, (size_t)n);
    if (err == HPE_PAUSED)
        llhttp_resume(&c->parser);
    else if (err != HPE_OK)
        drop(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct shop_server *s = listener->data;
    struct shop_conn *c;

    if (status < 0)
        return;
    c = calloc(1, sizeof *c);
    if (!c)
        return;
    c->server = s;
    c->tcp.data = c;
    if (uv_tcp_init(listener->loop, &c->tcp) < 0) {
        free(c);
        return;
    }
    llhttp_init(&c->parser, HTTP_REQUEST, settings());
    c->parser.data = c;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) < 0 || uv_tcp_nodelay(&c->tcp, 1) < 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
        drop(c);
}

int shop_listen(uv_loop_t *loop, int port, shop_handler *handler, void *arg)
{
    struct shop_server *s = calloc(1, sizeof *s); /* lives as long as the process */
    struct sockaddr_in addr;
    int r;

    if (!s)
        return UV_ENOMEM;
    s->handler = handler;
    s->arg = arg;
    s->tcp.data = s;
    r = uv_tcp_init(loop, &s->tcp);
    if (r < 0) {
        free(s);
        return r;
    }
    r = uv_ip4_addr("127.0.0.1", port, &addr);
    if (r == 0)
        r = uv_tcp_bind(&s->tcp, (const struct sockaddr *)&addr, 0);
    if (r == 0)
        r = uv_listen((uv_stream_t *)&s->tcp, 512, on_connection);
    return r;
}

static void on_written(uv_write_t *w, int status)
{
    struct write *out = w->data;

    if (status < 0)
        drop(out->w.handle->data);
    free(out->text);
    free(out);
}

static char *response(int status, const char *headers, const char *body)
{
    static const char form[] = "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n%s";
    const char *reason = status == 200 ? "OK" : status == 404 ? "Not Found" : "Service Unavailable";
    char *text = NULL;

    return asprintf(&text, form, status, reason, strlen(body), headers, body) < 0 ? NULL : text;
}

void shop_reply(struct shop_req *req, int status, const char *headers, const char *body)
{
    struct shop_conn *c = req->conn;
    struct write *out;
    uv_buf_t buf;

    free(req);
    if (!c)
        return;
    c->req = NULL;
    c->answering = false;
    out = calloc(1, sizeof *out);
    if (out)
        out->text = response(status, headers, body);
    if (!out || !out->text) {
        free(out);
        drop(c);
        return;
    }
    out->w.data = out;
    buf = uv_buf_init(out->text, (unsigned)strlen(out->text));
    if (uv_write(&out->w, (uv_stream_t *)&c->tcp, &buf, 1, on_written) < 0) {
        free(out->text);
        free(out);
        drop(c);
    }
}
