/* The checkout service.
 *
 *   GET /cart     takes the payment: asks payments, twice if need be; else says that it will be taken later
 *   GET /catalog  asks stock, once; without a stock it answers by itself
 *   POST /order   books the stock: not to be done twice, so asks once
 *
 * /cart has places of its own, and so have the other two together: who finds none is not kept waiting. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define OTHERS 64 /* places for catalog and order */
#define SLOW_FALLBACK_MS 800
#define SICK_MS 400
#define LEAK_MS 25
#define SLOWER_MS 5
#define COLD_MS 1000
#define REPLAYS 100
#define REPLAY_MS 250

struct pool {
    unsigned used, limit;
    struct visit *first, **last; /* SHOP_UNBOUNDED_QUEUE */
};

struct checkout {
    uv_loop_t *loop;
    enum shop_defect defect;
    struct shop_dependency payments, stock;
    bool has_stock;
    struct pool carts, others;
    unsigned unpaid, replays; /* SHOP_METASTABLE */
    bool cached;
};

/* One request of a user. */
struct visit {
    struct checkout *co;
    struct shop_req *req;
    struct pool *pool;
    const struct page *page;
    struct visit *next;
    int status;
    const char *headers, *body;
};

struct page {
    const char *path, *method, *asks;
    unsigned attempts;
    bool cart;
};

static const struct page pages[] = {
    {"/cart", "GET", "/pay", 2, true},
    {"/catalog", "GET", "/stock", 1, false},
    {"/order", "POST", "/stock", 1, false},
};

static void start(struct visit *v);

static void send_reply(void *arg)
{
    struct visit *v = arg;

    shop_reply(v->req, v->status, v->headers, v->body);
    free(v);
}

static void reply(struct visit *v, uint64_t delay_ms, int status, const char *headers, const char *body)
{
    const struct checkout *co = v->co;

    v->status = status;
    v->headers = headers;
    v->body = body;
    if (co->defect == SHOP_STAYS_SICK && co->payments.failures)
        delay_ms += SICK_MS;
    if (co->defect == SHOP_SLOW_LEAK)
        delay_ms += LEAK_MS * co->payments.timeouts;
    if (co->defect == SHOP_SLOWER)
        delay_ms += SLOWER_MS;
    if (delay_ms)
        shop_later(co->loop, delay_ms, send_reply, v);
    else
        send_reply(v);
}

/* Without an answer of payments. */
static void fall_back(struct visit *v, int status)
{
    enum shop_defect defect = v->co->defect;
    bool refused = status < 0 && status != UV_ETIMEDOUT;
    const char *body = "{\"total\":42,\"payment\":\"will be taken later\"}\n";

    if (!v->page->cart || defect == SHOP_NO_FALLBACK || (defect == SHOP_ERROR_ON_REFUSE && refused)) {
        reply(v, 0, 503, "", "{\"error\":\"try again later\"}\n");
        return;
    }
    if (defect == SHOP_EMPTY_FALLBACK)
        body = "";
    else if (defect == SHOP_TRACE_FALLBACK)
        body = "payment will be taken later\nTraceback (most recent call last):\n  File \"pay.py\", line 7\n";
    reply(v, defect == SHOP_SLOW_FALLBACK ? SLOW_FALLBACK_MS : 0, 200, "x-degraded: payments\r\n", body);
}

static void replay(void *arg);

static void on_replayed(void *arg, int status)
{
    (void)status;
    shop_later(((struct checkout *)arg)->loop, REPLAY_MS, replay, arg);
}

static void replay(void *arg)
{
    struct checkout *co = arg;

    shop_call(co->payments.up[0], &(struct shop_ask){"GET", "/pay", "", "", 1000}, on_replayed, co);
}

/* SHOP_METASTABLE: payments is well again, so all that failed is sent, and sent, and sent. */
static void catch_up(struct checkout *co)
{
    for (; co->replays < co->unpaid && co->replays < REPLAYS; co->replays++)
        replay(co);
}

static bool cold(const struct checkout *co)
{
    return co->defect == SHOP_COLD_START && co->payments.closed_ms &&
           uv_now(co->loop) - co->payments.closed_ms < COLD_MS;
}

static void leave(struct pool *p)
{
    struct visit *v = p->first;

    p->used--;
    if (!v)
        return;
    p->first = v->next;
    if (!p->first)
        p->last = &p->first;
    start(v);
}

static void on_asked(void *arg, int status)
{
    struct visit *v = arg;
    struct checkout *co = v->co;
    struct pool *pool = v->pool;

    if (v->page->cart) {
        co->unpaid += status != 200;
        co->cached |= status == 200 && co->defect == SHOP_CACHED;
        if (co->defect == SHOP_METASTABLE && status == 200 && !shop_dependency_open(&co->payments))
            catch_up(co);
    }
    if (status != 200)
        fall_back(v, status);
    else if (v->page->cart && cold(co))
        reply(v, 0, 503, "", "{\"error\":\"starting\"}\n");
    else
        reply(v, 0, 200, "", v->page->cart ? "{\"total\":42,\"payment\":\"taken\"}\n" : "{\"ok\":true}\n");
    leave(pool);
}

static void start(struct visit *v)
{
    struct checkout *co = v->co;
    const struct page *p = v->page;
    unsigned attempts = co->defect == SHOP_RETRIES_ORDERS ? 2 : p->attempts;

    v->pool->used++;
    shop_dependency_ask(p->cart ? &co->payments : &co->stock, p->method, p->asks, v->req->traceparent, attempts,
                        on_asked, v);
}

static void enter(struct visit *v)
{
    struct pool *p = v->pool;

    if (p->used < p->limit) {
        start(v);
    } else if (v->co->defect == SHOP_UNBOUNDED_QUEUE) {
        *p->last = v;
        p->last = &v->next;
    } else {
        fall_back(v, SHOP_NOT_ASKED);
    }
}

static void handle(struct shop_req *req, void *arg)
{
    struct checkout *co = arg;
    const struct page *p = NULL;
    struct visit *v;

    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        if (strcmp(req->path, pages[i].path) == 0)
            p = &pages[i];
    if (strcmp(req->path, "/healthz") == 0 || (p && !p->cart && !co->has_stock)) {
        shop_reply(req, 200, "", "{\"ok\":true}\n");
        return;
    }
    if (!p) {
        shop_reply(req, 404, "", "{\"error\":\"no such page\"}\n");
        return;
    }
    if (p->cart && co->cached) {
        shop_reply(req, 200, "", "{\"total\":42,\"payment\":\"taken\"}\n");
        return;
    }
    v = calloc(1, sizeof *v);
    if (!v) {
        shop_reply(req, 503, "", "{\"error\":\"no memory\"}\n");
        return;
    }
    *v = (struct visit){.co = co, .req = req, .page = p};
    v->pool = p->cart || co->defect == SHOP_SHARED_POOL ? &co->carts : &co->others;
    enter(v);
}

static void pool_init(struct pool *p, unsigned limit)
{
    p->limit = limit;
    p->last = &p->first;
}

static int dependencies(struct checkout *co, const struct shop_opts *o)
{
    int r = shop_dependency_init(&co->payments, co->loop, o->payments, o->defect);

    if (r == 0 && o->stock)
        r = shop_dependency_init(&co->stock, co->loop, o->stock, o->defect);
    co->has_stock = o->stock != NULL;
    for (unsigned i = 0; i < SHOP_INSTANCES && o->defect == SHOP_PER_PROCESS; i++)
        co->payments.breaker[i] = co->stock.breaker[i] = &co->payments.own[0];
    if (r == 0 && o->alerts) {
        struct shop_upstream *to = shop_upstream_new(co->loop, o->alerts);

        co->payments.alerts = to ? shop_alerts_new(to, o->defect) : NULL;
        r = co->payments.alerts ? 0 : UV_EINVAL;
    }
    return r;
}

int shop_checkout(uv_loop_t *loop, const struct shop_opts *o)
{
    struct checkout *co = calloc(1, sizeof *co); /* lives as long as the process */
    int r;

    if (!co)
        return UV_ENOMEM;
    co->loop = loop;
    co->defect = o->defect;
    pool_init(&co->carts, o->defect == SHOP_NO_LIMIT ? UINT32_MAX : o->pool);
    pool_init(&co->others, OTHERS);
    r = dependencies(co, o);
    if (r == 0)
        r = shop_listen(loop, o->port, handle, co);
    if (r < 0)
        free(co);
    return r;
}
