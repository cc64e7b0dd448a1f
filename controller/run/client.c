#include "run/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "squall/json.h"
#include "squall/units.h"

#define CONNECT_TIMEOUT_MS 5000L

struct sq_client {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    struct request *requests; /* under way, doubly linked */
    unsigned busy;
    unsigned stillborn; /* requests that could not be started, to be reported from the timer */
    unsigned handles;   /* uv handles that are not closed yet */
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    char socket[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
};

struct request {
    struct sq_client *client;
    struct request *prev, *next;
    CURL *easy;
    struct curl_slist *headers;
    sq_client_done *done;
    void *arg;
    char *body; /* sent; malloc'd */
    char *answer;
    size_t len, cap;
    bool too_big;
    struct sq_err failed; /* why it could not even be started */
    char method[8];
    char path[160];
    char text[CURL_ERROR_SIZE];
};

/* One socket that curl wants watched. */
struct watch {
    struct sq_client *client;
    curl_socket_t fd;
    uv_poll_t poll;
};

static void client_gone(struct sq_client *c)
{
    if (!c->closing || c->handles)
        return;
    void (*closed)(void *) = c->closed;
    void *arg = c->closed_arg;
    free(c);
    if (closed)
        closed(arg);
}

static void request_free(struct request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        r->client->requests = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->client->busy--;
    if (r->easy)
        curl_easy_cleanup(r->easy);
    curl_slist_free_all(r->headers);
    free(r->body);
    free(r->answer);
    free(r);
}

static enum sq_class class_of(int status)
{
    switch (status) {
    case 400:
    case 405:
    case 413:
        return SQ_C_INPUT;
    case 403:
        return SQ_C_DENIED;
    case 404:
        return SQ_C_NOTFOUND;
    case 409:
        return SQ_C_CONFLICT;
    case 501:
        return SQ_C_UNSUPPORTED;
    default:
        return SQ_C_INTERNAL;
    }
}

static int errno_of(CURLcode code, CURL *easy)
{
    long os = 0;
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os);
    switch ((int)code) {
    case CURLE_COULDNT_CONNECT:
        return os > 0 ? -(int)os : -ECONNREFUSED;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
        return -ECONNRESET;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_WRITE_ERROR:
        return -EMSGSIZE;
    default:
        return -EPROTO;
    }
}

/* The {"error":{...}} of a refusal, as an error of ours. */
static void refusal(const struct request *r, int status, const json_t *body, struct sq_err *e)
{
    const json_t *err = json_object_get(body, "error");
    const char *msg = sq_json_str_or(err, "message", NULL);
    const char *name = sq_json_str_or(err, "errno", "");
    const char *hint = sq_json_str_or(err, "hint", "");
    int num = 0;
    if (sq_parse_errno(name, &num, NULL) || num <= 0)
        num = status == 404 ? ESRCH : EPROTO;
    if (msg)
        sq_err_cls(e, class_of(status), -num, "%s", msg);
    else
        sq_err_cls(e, class_of(status), -num, "the injector answered %s %s with HTTP %d", r->method, r->path, status);
    if (*hint)
        sq_err_hint(e, "%s", hint);
}

/* Tell the caller and forget the request. The callback may start others or close the client, so it comes last. */
static void finish(struct request *r, int status, json_t *body, const struct sq_err *e)
{
    sq_client_done *done = r->done;
    void *arg = r->arg;
    request_free(r);
    done(arg, status, body, e);
}

static void complete(struct request *r, CURLcode code)
{
    struct sq_err err = {0};
    cleanup_json json_t *body = NULL;
    long status = 0;

    if (r->failed.code) {
        err = r->failed;
    } else if (r->too_big) {
        sq_err(&err, -EMSGSIZE, "the injector's answer to %s %s is larger than %d MiB", r->method, r->path,
               SQ_CLIENT_MAX_BODY >> 20);
    } else if (code != CURLE_OK) {
        int rc = errno_of(code, r->easy);
        bool known = rc != -EPROTO && rc != -EMSGSIZE; /* curl would talk about hosts and ports */
        sq_err(&err, rc, "no answer from the injector at %s to %s %s: %s", r->client->socket, r->method, r->path,
               known        ? strerror(-rc)
               : r->text[0] ? r->text
                            : curl_easy_strerror(code));
    } else {
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
        struct sq_err bad = {0};
        if (r->len && sq_json_parse(r->answer, r->len, &body, &bad) && status >= 200 && status < 300)
            sq_err(&err, -EPROTO, "the injector's answer to %s %s is not JSON: %s", r->method, r->path, bad.msg);
        else if (status < 200 || status >= 300)
            refusal(r, (int)status, body, &err);
    }
    finish(r, err.code && code != CURLE_OK ? 0 : (int)status, body, err.code ? &err : NULL);
}

static void reap(struct sq_client *c)
{
    int left;
    CURLMsg *m;
    while (!c->closing && (m = curl_multi_info_read(c->multi, &left))) {
        if (m->msg != CURLMSG_DONE)
            continue;
        struct request *r = NULL;
        CURLcode code = m->data.result; /* m dies with the handle */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        curl_multi_remove_handle(c->multi, r->easy);
        complete(r, code);
    }
}

/* complete() may have closed the client, which then only waits for its handles: multi is gone. */
static void drive(struct sq_client *c, curl_socket_t fd, int bits)
{
    int running;
    curl_multi_socket_action(c->multi, fd, bits, &running);
    reap(c);
}

static void on_timer(uv_timer_t *t)
{
    struct sq_client *c = t->data;
    /* Requests that never got as far as curl. */
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        if (!r->failed.code)
            continue;
        c->stillborn--;
        complete(r, CURLE_FAILED_INIT);
        if (c->closing)
            return;
        next = c->requests; /* the callback may have changed the list */
    }
    drive(c, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct watch *w = p->data;
    int bits = 0;
    if (status < 0)
        bits |= CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        bits |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        bits |= CURL_CSELECT_OUT;
    drive(w->client, w->fd, bits);
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct sq_client *c = arg;
    if (c->closing)
        return 0;
    if (c->stillborn)
        ms = 0;
    if (ms < 0)
        uv_timer_stop(&c->timer);
    else
        uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static void watch_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    struct sq_client *c = w->client;
    free(w);
    c->handles--;
    client_gone(c);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *sockp)
{
    (void)easy;
    struct sq_client *c = arg;
    struct watch *w = sockp;

    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, watch_closed);
            curl_multi_assign(c->multi, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w || uv_poll_init(c->loop, &w->poll, fd)) {
            free(w);
            return -1;
        }
        w->client = c;
        w->fd = fd;
        w->poll.data = w;
        c->handles++;
        curl_multi_assign(c->multi, fd, w);
    }
    int events = (what != CURL_POLL_OUT ? UV_READABLE : 0) | (what != CURL_POLL_IN ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) ? -1 : 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct request *r = arg;
    size_t add = size * n;
    if (add > SQ_CLIENT_MAX_BODY - r->len) {
        r->too_big = true;
        return 0;
    }
    if (r->len + add > r->cap) {
        size_t cap = r->cap ? r->cap : 4096;
        while (cap < r->len + add)
            cap *= 2;
        char *p = realloc(r->answer, cap);
        if (!p)
            return 0;
        r->answer = p;
        r->cap = cap;
    }
    memcpy(r->answer + r->len, data, add);
    r->len += add;
    return add;
}

int sq_client_new(uv_loop_t *loop, const char *socket, struct sq_client **out, struct sq_err *e)
{
    if (strlen(socket) >= sizeof((*out)->socket))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the injector's socket path is longer than %zu bytes: %s",
                          sizeof((*out)->socket) - 1, socket);
    struct sq_client *c = calloc(1, sizeof(*c));
    if (!c)
        return sq_err(e, -ENOMEM, "no memory");
    if (curl_global_init(CURL_GLOBAL_NOTHING)) {
        free(c);
        return sq_err(e, -ENOMEM, "libcurl does not start");
    }
    c->multi = curl_multi_init();
    if (!c->multi) {
        curl_global_cleanup();
        free(c);
        return sq_err(e, -ENOMEM, "no memory");
    }
    c->loop = loop;
    memcpy(c->socket, socket, strlen(socket) + 1);
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    c->handles = 1;
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    *out = c;
    return 0;
}

const char *sq_client_socket(const struct sq_client *c)
{
    return c->socket;
}

unsigned sq_client_busy(const struct sq_client *c)
{
    return c->busy;
}

static int request_start(struct request *r, json_t *body, int64_t timeout_ns)
{
    char url[256];
    if ((size_t)snprintf(url, sizeof(url), "http://squall%s", r->path) >= sizeof(url))
        return sq_err(&r->failed, -ENAMETOOLONG, "request path too long");
    r->easy = curl_easy_init();
    if (!r->easy)
        return sq_err(&r->failed, -ENOMEM, "no memory");
    CURL *h = r->easy;
    curl_easy_setopt(h, CURLOPT_PRIVATE, r);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, r->client->socket);
    curl_easy_setopt(h, CURLOPT_PROXY, ""); /* http_proxy must not send us elsewhere */
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, r->method);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, r->text);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / SQ_MS > 0 ? timeout_ns / SQ_MS : 1));
    if (body) {
        r->body = json_dumps(body, JSON_COMPACT);
        if (!r->body)
            return sq_err(&r->failed, -ENOMEM, "the request's body does not serialize");
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, r->body);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(r->body));
        r->headers = curl_slist_append(NULL, "Content-Type: application/json");
        if (r->headers && curl_slist_append(r->headers, "Expect:"))
            curl_easy_setopt(h, CURLOPT_HTTPHEADER, r->headers);
    } else if (strcmp(r->method, "GET") != 0 && strcmp(r->method, "DELETE") != 0) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, 0L);
    }
    CURLMcode m = curl_multi_add_handle(r->client->multi, h);
    if (m != CURLM_OK)
        return sq_err(&r->failed, -EPROTO, "libcurl: %s", curl_multi_strerror(m));
    return 0;
}

void sq_client_call(struct sq_client *c, const char *method, const char *path, json_t *body, int64_t timeout_ns,
                    sq_client_done *done, void *arg)
{
    cleanup_json json_t *owned = body;
    struct request *r = c->closing ? NULL : calloc(1, sizeof(*r));
    if (!r) { /* the only way to say it at once */
        struct sq_err e = {0};
        sq_err(&e, c->closing ? -ECANCELED : -ENOMEM, c->closing ? "the client is closing" : "no memory");
        done(arg, 0, NULL, &e);
        return;
    }
    r->client = c;
    r->done = done;
    r->arg = arg;
    r->next = c->requests;
    if (r->next)
        r->next->prev = r;
    c->requests = r;
    c->busy++;
    if ((size_t)snprintf(r->method, sizeof(r->method), "%s", method) >= sizeof(r->method) ||
        (size_t)snprintf(r->path, sizeof(r->path), "%s", path) >= sizeof(r->path))
        sq_err(&r->failed, -ENAMETOOLONG, "request path too long");
    else
        request_start(r, owned, timeout_ns);
    if (r->failed.code) {
        c->stillborn++;
        uv_timer_start(&c->timer, on_timer, 0, 0);
    }
}

static void timer_closed(uv_handle_t *h)
{
    struct sq_client *c = h->data;
    c->handles--;
    client_gone(c);
}

void sq_client_close(struct sq_client *c, void (*closed)(void *arg), void *arg)
{
    if (!c) {
        if (closed)
            closed(arg);
        return;
    }
    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    struct sq_err e = {0};
    sq_err(&e, -ECANCELED, "the request was given up");
    while (c->requests) {
        struct request *r = c->requests;
        if (r->easy)
            curl_multi_remove_handle(c->multi, r->easy);
        finish(r, 0, NULL, &e);
    }
    curl_multi_cleanup(c->multi); /* closes kept connections: want_socket(REMOVE) for each that is watched */
    curl_global_cleanup();
    uv_close((uv_handle_t *)&c->timer, timer_closed);
}

/* The blocking form. */
struct ask {
    bool done;
    int status;
    json_t *body;
    struct sq_err err;
};

static void ask_done(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct ask *a = arg;
    a->done = true;
    a->status = status;
    a->body = json_incref(body);
    if (e)
        a->err = *e;
}

int sq_client_ask(const char *socket, const char *method, const char *path, json_t *body, int64_t timeout_ns,
                  json_t **out, struct sq_err *e)
{
    uv_loop_t loop;
    struct sq_client *c = NULL;
    struct ask a = {0};
    int rc = uv_loop_init(&loop);
    if (rc) {
        json_decref(body);
        return sq_err(e, rc, "no event loop: %s", uv_strerror(rc));
    }
    rc = sq_client_new(&loop, socket, &c, e);
    if (rc) {
        json_decref(body);
    } else {
        sq_client_call(c, method, path, body, timeout_ns, ask_done, &a);
        while (!a.done)
            uv_run(&loop, UV_RUN_ONCE);
        sq_client_close(c, NULL, NULL);
        uv_run(&loop, UV_RUN_DEFAULT);
        rc = a.status ? a.status : a.err.code;
        if (a.err.code && e && !e->code)
            *e = a.err;
    }
    uv_loop_close(&loop);
    if (out)
        *out = a.body;
    else
        json_decref(a.body);
    return rc;
}
