#include "run/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "run/multi.h"
#include "squall/json.h"
#include "squall/units.h"

#define CONNECT_TIMEOUT_MS 5000L

struct sq_client {
    struct sq_multi *multi;
    uv_timer_t late;          /* tells of what could not be started */
    struct request *requests; /* under way, doubly linked */
    unsigned busy;
    unsigned open; /* multi and late, as long as they are not closed */
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
    struct sq_answer answer;
    struct sq_err failed; /* why it could not even be started */
    char method[8];
    char path[160];
    char text[CURL_ERROR_SIZE];
};

static void part_closed(void *arg)
{
    struct sq_client *c = arg;
    if (--c->open > 0)
        return;
    void (*closed)(void *) = c->closed;
    void *closed_arg = c->closed_arg;
    free(c);
    if (closed)
        closed(closed_arg);
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
    free(r->answer.data);
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

static void complete(void *request, CURLcode code)
{
    struct request *r = request;
    struct sq_err err = {0};
    cleanup_json json_t *body = NULL;
    long status = 0;

    if (r->failed.code) {
        err = r->failed;
    } else if (r->answer.too_big) {
        sq_err(&err, -EMSGSIZE, "the injector's answer to %s %s is larger than %d MiB", r->method, r->path,
               SQ_CLIENT_MAX_BODY >> 20);
    } else if (code != CURLE_OK) {
        int rc = errno_of(code, r->easy);
        bool known = rc != -EPROTO && rc != -EMSGSIZE; /* curl would talk about hosts and ports */
        sq_err(&err, rc, "no answer from the injector at %s to %s %s: %s", r->client->socket, r->method, r->path,
               known        ? strerror(-rc)
               : r->text[0] ? r->text
                            : curl_easy_strerror(code));
        if (rc == -ENOENT || rc == -ECONNREFUSED)
            sq_err_hint(&err, "no squalld serves there: start one (as root: squalld), or leave out --injector and "
                              "SQUALL_INJECTOR for a private one");
        else if (rc == -EACCES)
            sq_err_hint(&err, "its socket is for root and its group: ask for that group, or leave out --injector and "
                              "SQUALL_INJECTOR for a private one");
    } else {
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
        struct sq_err bad = {0};
        if (r->answer.len && sq_json_parse(r->answer.data, r->answer.len, &body, &bad) && status >= 200 && status < 300)
            sq_err(&err, -EPROTO, "the injector's answer to %s %s is not JSON: %s", r->method, r->path, bad.msg);
        else if (status < 200 || status >= 300)
            refusal(r, (int)status, body, &err);
    }
    finish(r, err.code && code != CURLE_OK ? 0 : (int)status, body, err.code ? &err : NULL);
}

/* Requests that never got as far as curl. */
static void on_late(uv_timer_t *t)
{
    struct sq_client *c = t->data;
    for (struct request *r = c->requests, *next; r && !c->closing; r = next) {
        next = r->next;
        if (!r->failed.code)
            continue;
        complete(r, CURLE_FAILED_INIT);
        next = c->closing ? NULL : c->requests; /* the callback may have changed the list */
    }
}

int sq_client_new(uv_loop_t *loop, const char *socket, struct sq_client **out, struct sq_err *e)
{
    if (strlen(socket) >= sizeof((*out)->socket))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the injector's socket path is longer than %zu bytes: %s",
                          sizeof((*out)->socket) - 1, socket);
    struct sq_client *c = calloc(1, sizeof(*c));
    if (!c)
        return sq_err(e, -ENOMEM, "no memory");
    int rc = sq_multi_new(loop, complete, &c->multi, e);
    if (rc < 0) {
        free(c);
        return rc;
    }
    memcpy(c->socket, socket, strlen(socket) + 1);
    uv_timer_init(loop, &c->late);
    c->late.data = c;
    c->open = 2;
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
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, r->client->socket);
    curl_easy_setopt(h, CURLOPT_PROXY, ""); /* http_proxy must not send us elsewhere */
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, r->method);
    sq_multi_read_into(h, &r->answer);
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
    return sq_multi_add(r->client->multi, h, r, &r->failed);
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
    r->answer.most = SQ_CLIENT_MAX_BODY;
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
    if (r->failed.code)
        uv_timer_start(&c->late, on_late, 0, 0);
}

static void late_closed(uv_handle_t *h)
{
    part_closed(h->data);
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
            sq_multi_remove(c->multi, r->easy);
        finish(r, 0, NULL, &e);
    }
    sq_multi_close(c->multi, part_closed, c);
    uv_close((uv_handle_t *)&c->late, late_closed);
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
