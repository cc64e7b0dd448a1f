/* The demo shop: a checkout service with timeouts, retries, circuit breakers, bulkheads and a fallback, and the
 * services it depends on. Small on purpose, and real: libuv, HTTP/1.1 keep-alive, no mock inside. It is also what the
 * verifier is tested with: it can be broken in each of the ways of defects.def. */
#ifndef SHOP_H
#define SHOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum shop_defect {
    SHOP_SOUND,
#define DEFECT(id, name, what) SHOP_##id,
#include "defects.def"
#undef DEFECT
    SHOP_DEFECTS
};
/* "none" is SHOP_SOUND; SHOP_DEFECTS: there is no such one. */
enum shop_defect shop_defect_named(const char *name);

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

/* --- later.c --- */
typedef void shop_later_fn(void *arg);
void shop_later(uv_loop_t *loop, uint64_t ms, shop_later_fn *fn, void *arg); /* never before it returns */

/* --- client.c: a pool of keep-alive connections to one instance of a dependency --- */
struct shop_upstream;
struct shop_ask {
    const char *method, *path, *traceparent, *body; /* copied; traceparent and body may be "" */
    uint64_t timeout_ms;                            /* 0: wait for ever */
};
/* STATUS: of HTTP, or a negative libuv error. */
typedef void shop_called(void *arg, int status);
struct shop_upstream *shop_upstream_new(uv_loop_t *loop, const char *address); /* "host:port"; NULL: it is none */
/* The callback runs exactly once, never before this returns. */
void shop_call(struct shop_upstream *up, const struct shop_ask *ask, shop_called *done, void *arg);

/* --- breaker.c: closed, open, half-open --- */
#define SHOP_WINDOW_MAX 300
struct shop_breaker {
    enum { SHOP_CLOSED, SHOP_OPEN, SHOP_HALF_OPEN } state;
    enum shop_defect defect;
    bool failed[SHOP_WINDOW_MAX]; /* outcomes of the last calls, a ring */
    unsigned seen, next;
    uint64_t opened_ms;
    bool trial_out;
};
/* May a call go out now? In half-open only one trial at a time. */
bool shop_breaker_allows(struct shop_breaker *b, uint64_t now_ms);
void shop_breaker_result(struct shop_breaker *b, int status, uint64_t now_ms);

/* --- alert.c: tells an Alertmanager webhook that a breaker is open, and when none is any more --- */
struct shop_alerts;
struct shop_alerts *shop_alerts_new(struct shop_upstream *to, enum shop_defect defect);
void shop_alerts_breaker(struct shop_alerts *a, bool open); /* A may be NULL */

/* --- dependency.c: the instances of a dependency, each behind a breaker; repeats on another one, after a pause --- */
#define SHOP_INSTANCES 8
struct shop_dependency {
    uv_loop_t *loop;
    enum shop_defect defect;
    struct shop_upstream *up[SHOP_INSTANCES];
    struct shop_breaker own[SHOP_INSTANCES], *breaker[SHOP_INSTANCES];
    uint64_t failing_ms[SHOP_INSTANCES]; /* since when; 0: it isn't */
    unsigned n, next;
    uint64_t failures, timeouts; /* of calls */
    uint64_t closed_ms;          /* when a breaker closed last; 0: never */
    struct shop_alerts *alerts;
};
/* LIST: "host:port,host:port". 0 or a libuv error. */
int shop_dependency_init(struct shop_dependency *d, uv_loop_t *loop, const char *list, enum shop_defect defect);
#define SHOP_NOT_ASKED 0 /* status of a request for which no instance could be asked */
void shop_dependency_ask(struct shop_dependency *d, const char *method, const char *path, const char *traceparent,
                         unsigned attempts, shop_called *done, void *arg);
bool shop_dependency_open(const struct shop_dependency *d); /* some breaker is not closed */

/* --- the services --- */
struct shop_opts {
    int port;
    const char *payments, *stock; /* lists as above; stock may be NULL */
    const char *alerts;           /* "host:port", or NULL */
    unsigned pool;                /* carts that may be under way at once */
    enum shop_defect defect;
};
int shop_checkout(uv_loop_t *loop, const struct shop_opts *o);
/* payments.c: answers to one page, after 3 ms */
int shop_page(uv_loop_t *loop, int port, const char *path);

#endif
