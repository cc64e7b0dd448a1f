#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shop.h"

struct call;

struct peer { /* one connection */
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct shop_upstream *up;
    struct peer *next; /* idle list */
    struct call *call; /* NULL: idle */
    llhttp_t parser;
    char in[4096];
    char out[1024];
};

struct call {
    uv_timer_t timer; /* timeout, and the reason a failure is never reported synchronously */
    struct peer *peer;
    shop_called *done;
    void *arg;
    int result;
};

struct shop_upstream {
    uv_loop_t *loop;
    struct sockaddr_in addr;
    struct peer *idle;
};

static void on_peer_closed(uv_handle_t *h)
{
    free(h->data);
}

static void drop(struct peer *p)
{
    for (struct peer **q = &p->up->idle; *q; q = &(*q)->next) {
        if (*q == p) {
            *q = p->next;
            break;
        }
    }
    if (!uv_is_closing((uv_handle_t *)&p->tcp))
        uv_close((uv_handle_t *)&p->tcp, on_peer_closed);
}

static void on_call_closed(uv_handle_t *h)
{
    struct call *c = h->data;
    shop_called *done = c->done;
    void *arg = c->arg;
    int result = c->result;

    free(c);
    done(arg, result);
}

/* The one way a call ends. */
static void finish(struct call *c, int result)
{
    if (uv_is_closing((uv_handle_t *)&c->timer))
        return;
    c->result = result;
    if (c->peer)
        c->peer->call = NULL;
    uv_close((uv_handle_t *)&c->timer, on_call_closed);
}

static void fail(struct peer *p, int result)
{
    if (p->call)
        finish(p->call, result);
    drop(p);
}

static int on_answer(llhttp_t *parser)
{
    struct peer *p = parser->data;
    bool keep = llhttp_should_keep_alive(parser) != 0;

    if (p->call)
        finish(p->call, parser->status_code);
    if (keep) {
        p->next = p->up->idle;
        p->up->idle = p;
    } else {
        drop(p);
    }
    return 0;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct peer *p = h->data;

    (void)hint;
    *buf = uv_buf_init(p->in, sizeof p->in);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct peer *p = s->data;

    if (n < 0)
        fail(p, (int)n);
    else if (n > 0 && llhttp_execute(&p->parser, buf->base, (size_t)n) != HPE_OK)
        fail(p, UV_EPROTO);
}

static void on_written(uv_write_t *w, int status)
{
    struct peer *p = w->data;

    if (status < 0 && status != UV_ECANCELED)
        fail(p, status);
}

static void send_request(struct peer *p)
{
    uv_buf_t buf = uv_buf_init(p->out, (unsigned)strlen(p->out));
    int r;

    p->write.data = p;
    r = uv_write(&p->write, (uv_stream_t *)&p->tcp, &buf, 1, on_written);
    if (r < 0)
        fail(p, r);
}

static void on_connected(uv_connect_t *req, int status)
{
    struct peer *p = req->data;
    int r = status;

    if (status == UV_ECANCELED)
        return;
    if (r == 0)
        r = uv_tcp_nodelay(&p->tcp, 1);
    if (r == 0)
        r = uv_read_start((uv_stream_t *)&p->tcp, on_alloc, on_read);
    if (r < 0)
        fail(p, r);
    else
        send_request(p);
}

static struct peer *dial(struct shop_upstream *up)
{
    static const llhttp_settings_t settings = {.on_message_complete = on_answer};
    struct peer *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->up = up;
    p->tcp.data = p;
    p->connect.data = p;
    if (uv_tcp_init(up->loop, &p->tcp) < 0) {
        free(p);
        return NULL;
    }
    llhttp_init(&p->parser, HTTP_RESPONSE, &settings);
    p->parser.data = p;
    return p;
}

static void on_timeout(uv_timer_t *t)
{
    struct call *c = t->data;
    struct peer *p = c->peer;

    finish(c, UV_ETIMEDOUT);
    if (p)
        drop(p); /* its answer may still come: the connection is of no more use */
}

static void on_no_memory(uv_timer_t *t)
{
    finish(t->data, UV_ENOMEM);
}

struct shop_upstream *shop_upstream_new(uv_loop_t *loop, const char *address)
{
    const char *colon = strrchr(address, ':');
    int port = colon ? atoi(colon + 1) : 0;
    struct shop_upstream *up;
    char host[64];

    if (!colon || port < 1 || port > 65535 || (size_t)(colon - address) >= sizeof host)
        return NULL;
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    up = calloc(1, sizeof *up);
    if (!up)
        return NULL;
    up->loop = loop;
    if (uv_ip4_addr(host, port, &up->addr) < 0) {
        free(up);
        return NULL;
    }
    return up;
}

static void write_request(char *out, size_t size, const struct shop_ask *ask)
{
    bool traced = ask->traceparent[0] != '\0';
    int n = snprintf(out, size, "%s %s HTTP/1.1\r\nHost: shop\r\n%s%s%s", ask->method, ask->path,
                     traced ? "traceparent: " : "", ask->traceparent, traced ? "\r\n" : "");
    size_t used = n > 0 && (size_t)n < size ? (size_t)n : 0;

    if (ask->body[0])
        (void)snprintf(out + used, size - used, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       strlen(ask->body), ask->body);
    else
        (void)snprintf(out + used, size - used, "\r\n");
}

void shop_call(struct shop_upstream *up, const struct shop_ask *ask, shop_called *done, void *arg)
{
    struct call *c = calloc(1, sizeof *c);
    struct peer *p = up->idle;
    bool fresh = p == NULL;
    int r;

    if (!c)
        abort(); /* a demo: nothing better to do without memory */
    c->done = done;
    c->arg = arg;
    c->timer.data = c;
    (void)uv_timer_init(up->loop, &c->timer);
    if (fresh)
        p = dial(up);
    else
        up->idle = p->next;
    if (!p) {
        (void)uv_timer_start(&c->timer, on_no_memory, 0, 0);
        return;
    }
    p->call = c;
    c->peer = p;
    write_request(p->out, sizeof p->out, ask);
    if (ask->timeout_ms)
        (void)uv_timer_start(&c->timer, on_timeout, ask->timeout_ms, 0);
    if (!fresh) {
        send_request(p);
        return;
    }
    r = uv_tcp_connect(&p->connect, &p->tcp, (const struct sockaddr *)&up->addr, on_connected);
    if (r < 0)
        fail(p, r);
}
