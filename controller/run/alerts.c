#include "run/alerts.h"

#include <errno.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"

#define MAX_LABELS 64
#define MAX_TEXT 1024u          /* bytes of a label or an annotation that are kept */
#define MAX_HEADER (64u * 1024) /* bytes of a request that are not its body */
#define READ_SIZE (16u * 1024)

/* ---- what is in a notification ---- */

/* At most MAX_TEXT bytes of S, without a character cut in half. NULL: no memory. */
static json_t *bounded(const json_t *s)
{
    const char *text = json_string_value(s);
    size_t len = json_string_length(s);

    if (!text)
        return json_string("");
    len = len > MAX_TEXT ? MAX_TEXT : len;
    while (len > 0 && len < json_string_length(s) && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    return json_stringn(text, len);
}

static json_t *bounded_map(const json_t *o)
{
    json_t *out = json_object(), *v;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        if (json_object_size(out) >= MAX_LABELS)
            break;
        if (json_is_string(v) && strlen(key) <= MAX_TEXT)
            (void)json_object_set_new(out, key, bounded(v));
    }
    return out;
}

static json_t *record(const json_t *alert, const json_t *receiver)
{
    const json_t *labels = json_object_get(alert, "labels");
    const char *status = sq_json_str_or(alert, "status", "firing");
    bool resolved = strcmp(status, "resolved") == 0;
    json_t *o = json_pack("{s:o,s:s,s:o,s:o,s:o,s:o}", "name", bounded(json_object_get(labels, "alertname")), "status",
                          resolved ? "resolved" : "firing", "starts_at", bounded(json_object_get(alert, "startsAt")),
                          "labels", bounded_map(labels), "annotations",
                          bounded_map(json_object_get(alert, "annotations")), "receiver", bounded(receiver));

    if (o && resolved)
        (void)json_object_set_new(o, "ends_at", bounded(json_object_get(alert, "endsAt")));
    if (o && json_is_string(json_object_get(alert, "fingerprint")))
        (void)json_object_set_new(o, "fingerprint", bounded(json_object_get(alert, "fingerprint")));
    return o;
}

static void left_out(uint64_t n, const char *why, sq_alerts_put *put, void *arg)
{
    json_t *o = json_pack("{s:o}", "text", json_sprintf("%llu alerts were left out: %s", (unsigned long long)n, why));

    if (o)
        put(arg, "warning", o);
}

int sq_alerts_read(const char *body, size_t len, size_t *n, sq_alerts_put *put, void *arg, struct sq_err *e)
{
    cleanup_json json_t *doc = NULL;
    int rc = sq_json_parse(body, len, &doc, e);
    const json_t *alerts = rc ? NULL : json_object_get(doc, "alerts");
    size_t many = json_array_size(alerts), i;
    int64_t truncated;

    if (rc)
        return rc;
    if (strcmp(sq_json_str_or(doc, "version", ""), "4") != 0 || !json_is_array(alerts))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "this is no webhook of Alertmanager, version 4");
    for (i = 0; i < many; i++)
        if (!json_is_object(json_array_get(alerts, i)) ||
            !json_is_string(json_object_get(json_object_get(json_array_get(alerts, i), "labels"), "alertname")))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "alert %zu of it has no label alertname", i + 1);
    for (i = 0; i < many && i < SQ_ALERTS_EACH && *n < SQ_ALERTS_RUN; i++) {
        json_t *o = record(json_array_get(alerts, i), json_object_get(doc, "receiver"));

        if (!o)
            return sq_err(e, -ENOMEM, "no memory for an alert");
        (*n)++;
        put(arg, "alert", o);
    }
    if (i < many)
        left_out(many - i, i == SQ_ALERTS_EACH ? "there were too many at once" : "there were too many in this run", put,
                 arg);
    truncated = sq_json_int_or(doc, "truncatedAlerts", 0);
    if (truncated > 0)
        left_out((uint64_t)truncated, "Alertmanager truncated its notification (max_alerts)", put, arg);
    return 0;
}

/* ---- connections ---- */

struct conn {
    struct sq_alerts *a;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    unsigned handles; /* not closed yet */
    struct conn *next;
    llhttp_t parser;
    size_t got;
    char *body;
    size_t len, cap;
    bool done, answered, too_large;
    char answer[512];
    char buf[READ_SIZE];
};

struct sq_alerts {
    uv_tcp_t tcp;
    bool listening, closing, waiting; /* waiting: a connection that is not accepted yet */
    struct conn *conns;
    unsigned n_conns;
    sq_alerts_put *put;
    void *arg;
    size_t seen;
    llhttp_settings_t settings;
};

static void free_when_empty(struct sq_alerts *a)
{
    if (a->closing && !a->listening && a->n_conns == 0)
        free(a);
}

static void on_connection(uv_stream_t *server, int status);

static void conn_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    struct sq_alerts *a = c->a;

    if (--c->handles > 0)
        return;
    for (struct conn **p = &a->conns; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    a->n_conns--;
    free(c->body);
    free(c);
    if (a->waiting && !a->closing) {
        a->waiting = false;
        on_connection((uv_stream_t *)&a->tcp, 0);
    }
    free_when_empty(a);
}

static void conn_close(struct conn *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, conn_closed);
    if (!uv_is_closing((uv_handle_t *)&c->timer))
        uv_close((uv_handle_t *)&c->timer, conn_closed);
}

static void written(uv_write_t *w, int status)
{
    (void)status;
    conn_close(w->data);
}

static void answer(struct conn *c, const char *status, const char *text)
{
    if (c->answered)
        return;
    c->answered = true;
    (void)uv_read_stop((uv_stream_t *)&c->tcp);
    int n = snprintf(c->answer, sizeof c->answer,
                     "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                     status, strlen(text), text);
    uv_buf_t b = uv_buf_init(c->answer, n < 0 ? 0 : (unsigned)n);
    c->write.data = c;
    if (n < 0 || (size_t)n >= sizeof c->answer || uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, written) != 0)
        conn_close(c);
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    struct conn *c = p->data;

    if (c->len + len > SQ_ALERTS_BODY) {
        c->too_large = true;
        return -1;
    }
    if (c->len + len > c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 8192;

        while (cap < c->len + len)
            cap *= 2;
        char *body = realloc(c->body, cap);
        if (!body)
            return -1;
        c->body = body;
        c->cap = cap;
    }
    memcpy(c->body + c->len, at, len);
    c->len += len;
    return 0;
}

/* One request is all there is. */
static int on_complete(llhttp_t *p)
{
    struct conn *c = p->data;

    c->done = true;
    return HPE_PAUSED;
}

static void take(struct conn *c)
{
    struct sq_err e = {0};
    char text[256];

    if (llhttp_get_method(&c->parser) != HTTP_POST) {
        answer(c, "405 Method Not Allowed", "POST Alertmanager's webhook here\n");
        return;
    }
    if (sq_alerts_read(c->body ? c->body : "", c->len, &c->a->seen, c->a->put, c->a->arg, &e) == 0) {
        answer(c, "200 OK", "");
        return;
    }
    (void)snprintf(text, sizeof text, "%.240s\n", e.msg);
    answer(c, e.code == -ENOMEM ? "503 Service Unavailable" : "400 Bad Request", text);
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b)
{
    struct conn *c = h->data;

    (void)want;
    *b = uv_buf_init(c->buf, sizeof c->buf);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct conn *c = s->data;

    if (n < 0) {
        conn_close(c);
        return;
    }
    c->got += (size_t)n;
    enum llhttp_errno err = llhttp_execute(&c->parser, b->base, (size_t)n);
    if (c->done)
        take(c);
    else if (c->too_large || c->got > SQ_ALERTS_BODY + MAX_HEADER)
        answer(c, "413 Payload Too Large", "a notification has at most 1 MiB\n");
    else if (err != HPE_OK)
        answer(c, "400 Bad Request", "this is no HTTP request\n");
    else if (c->got - c->len > MAX_HEADER)
        answer(c, "431 Request Header Fields Too Large", "");
}

static void on_late(uv_timer_t *t)
{
    conn_close(t->data);
}

static void on_connection(uv_stream_t *server, int status)
{
    struct sq_alerts *a = server->data;
    struct conn *c;

    if (status < 0 || a->closing)
        return;
    c = a->n_conns < SQ_ALERTS_CONNS ? calloc(1, sizeof *c) : NULL;
    if (!c) { /* libuv asks for no more until this one is accepted */
        a->waiting = true;
        return;
    }
    c->a = a;
    (void)uv_tcp_init(server->loop, &c->tcp);
    (void)uv_timer_init(server->loop, &c->timer);
    c->handles = 2;
    c->tcp.data = c->timer.data = c;
    c->next = a->conns;
    a->conns = c;
    a->n_conns++;
    llhttp_init(&c->parser, HTTP_REQUEST, &a->settings);
    c->parser.data = c;
    if (uv_accept(server, (uv_stream_t *)&c->tcp) != 0 ||
        uv_timer_start(&c->timer, on_late, SQ_ALERTS_WITHIN_MS, 0) != 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        conn_close(c);
}

/* ---- life ---- */

static int address_of(const char *listen, struct sockaddr_storage *out, struct sq_err *e)
{
    const char *colon = strrchr(listen, ':');
    char host[64];
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    size_t len = colon ? (size_t)(colon - listen) : 0;
    bool six = len > 2 && listen[0] == '[' && listen[len - 1] == ']';

    memset(out, 0, sizeof *out);
    if (!colon || end == colon + 1 || *end || port > 65535 || len >= sizeof host)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.100s\" is no address and port to listen on", listen);
    (void)snprintf(host, sizeof host, "%.*s", (int)(six ? len - 2 : len), six ? listen + 1 : listen);
    int rc = six ? uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)out)
                 : uv_ip4_addr(host, (int)port, (struct sockaddr_in *)out);
    return rc ? sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.100s\" is no address and port to listen on", listen) : 0;
}

static void listener_closed(uv_handle_t *h)
{
    struct sq_alerts *a = h->data;

    a->listening = false;
    free_when_empty(a);
}

int sq_alerts_open(uv_loop_t *loop, const char *listen, sq_alerts_put *put, void *arg, struct sq_alerts **out,
                   struct sq_err *e)
{
    struct sockaddr_storage addr;
    int rc = address_of(listen, &addr, e);
    struct sq_alerts *a = rc ? NULL : calloc(1, sizeof *a);

    if (rc)
        return rc;
    if (!a)
        return sq_err(e, -ENOMEM, "no memory to receive alerts");
    a->put = put;
    a->arg = arg;
    llhttp_settings_init(&a->settings);
    a->settings.on_body = on_body;
    a->settings.on_message_complete = on_complete;
    rc = uv_tcp_init(loop, &a->tcp);
    if (rc) {
        free(a);
        return sq_err(e, rc, "can't receive alerts: %s", uv_strerror(rc));
    }
    a->tcp.data = a;
    a->listening = true;
    rc = uv_tcp_bind(&a->tcp, (struct sockaddr *)&addr, 0);
    rc = rc ? rc : uv_listen((uv_stream_t *)&a->tcp, 128, on_connection);
    if (rc) {
        (void)sq_err(e, rc, "can't receive alerts on %.100s: %s", listen, uv_strerror(rc));
        sq_alerts_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void sq_alerts_close(struct sq_alerts *a)
{
    if (!a || a->closing)
        return;
    a->closing = true;
    for (struct conn *c = a->conns; c; c = c->next)
        conn_close(c);
    uv_close((uv_handle_t *)&a->tcp, listener_closed);
}
