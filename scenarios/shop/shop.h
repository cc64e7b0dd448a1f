/* The demo shop: a checkout service with a timeout, a retry, a circuit breaker per payments instance and a fallback,
 * and the payments service it depends on. Small on purpose, and real: libuv, HTTP/1.1 keep-alive, no mock inside. */
#ifndef SHOP_H
#define SHOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* --- server.c: HTTP/1.1, keep-alive, one request at a time per connection --- */
struct shop_req {
    struct shop_conn *conn; /* NULL once the client has gone */
    char method[8];
    char path[128];
    char traceparent[64];
};
typedef void shop_handler(struct shop_req *req, void *arg);
int shop_listen(uv_loop_t *loop, int port, shop_handler *handler, void *arg); /* 0 or a libuv error */
/* Answers and frees the request. HEADERS: "" or lines that end in CRLF. */
void shop_reply(struct shop_req *req, int status, const char *headers, const char *body);

/* --- client.c: a pool of keep-alive connections to one instance of a dependency --- */
struct shop_upstream;
typedef void shop_called(void *arg, int status); /* an HTTP status, or a negative libuv error */
struct shop_upstream *shop_upstream_new(uv_loop_t *loop, const char *host, int port);
/* timeout_ms 0: wait for ever. The callback runs exactly once, never before this returns. */
void shop_call(struct shop_upstream *up, const char *path, const char *traceparent, uint64_t timeout_ms,
               shop_called *done, void *arg);

/* --- breaker.c: closed, open, half-open --- */
struct shop_breaker {
    enum { SHOP_CLOSED, SHOP_OPEN, SHOP_HALF_OPEN } state;
    bool failed[10]; /* outcomes of the last calls, a ring */
    unsigned seen, next;
    uint64_t opened_ms;
    bool trial_out;
    bool never_opens, never_closes; /* broken on purpose */
};
/* May a call go out now? In half-open only one trial at a time. */
bool shop_breaker_allows(struct shop_breaker *b, uint64_t now_ms);
void shop_breaker_result(struct shop_breaker *b, bool ok, uint64_t now_ms);

/* --- the two services --- */
struct shop_opts {
    int port;
    const char *payments; /* "host:port,host:port" */
    const char *broken;
};
int shop_checkout(uv_loop_t *loop, const struct shop_opts *o);
int shop_payments(uv_loop_t *loop, const struct shop_opts *o);

#endif
