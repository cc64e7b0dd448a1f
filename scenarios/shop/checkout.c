/* GET /cart asks payments, through a breaker per payments instance, with a timeout and one retry on another instance;
 * when no instance may be asked or all failed, the fallback says that the payment will be taken later. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define MAX_INSTANCES 8
#define TIMEOUT_MS 200
#define ATTEMPTS 2
#define STORM_ATTEMPTS 8

struct checkout {
    uv_loop_t *loop;
    struct shop_upstream *up[MAX_INSTANCES];
    struct shop_breaker breaker[MAX_INSTANCES];
    unsigned n, next;
    uint64_t timeout_ms;
    unsigned attempts;
    bool no_breaker, empty_fallback;
    bool storm; /* asks neither the breaker nor whom it hits */
};

struct cart {
    struct checkout *co;
    struct shop_req *req;
    unsigned attempts, asked; /* asked: the instance of the current attempt */
    bool tried[MAX_INSTANCES];
};

static void attempt(struct cart *cart);

static void fallback(struct cart *cart)
{
    shop_reply(cart->req, 200, "x-degraded: payments\r\n",
               cart->co->empty_fallback ? "" : "{\"total\":42,\"payment\":\"will be taken later\"}\n");
    free(cart);
}

static void on_called(void *arg, int status)
{
    struct cart *cart = arg;
    struct checkout *co = cart->co;
    bool ok = status == 200;

    shop_breaker_result(&co->breaker[cart->asked], ok, uv_now(co->loop));
    if (ok) {
        shop_reply(cart->req, 200, "", "{\"total\":42,\"payment\":\"taken\"}\n");
        free(cart);
    } else if (cart->attempts < co->attempts) {
        attempt(cart);
    } else {
        fallback(cart);
    }
}

static void attempt(struct cart *cart)
{
    struct checkout *co = cart->co;
    unsigned i = 0, k;

    for (k = 0; k < co->n; k++) {
        i = (co->next + k) % co->n;
        if (cart->tried[i] && !co->storm)
            continue;
        if (co->no_breaker || co->storm ||
            shop_breaker_allows(&co->breaker[i], uv_now(co->loop)))
            break;
    }
    if (k == co->n) {
        fallback(cart);
        return;
    }
    co->next = (i + 1) % co->n;
    cart->asked = i;
    cart->tried[i] = true;
    cart->attempts++;
    shop_call(co->up[i], "/pay", cart->req->traceparent, co->timeout_ms, on_called, cart);
}

static void handle(struct shop_req *req, void *arg)
{
    struct cart *cart;

    if (strcmp(req->path, "/healthz") == 0 || strcmp(req->path, "/catalog") == 0) {
        shop_reply(req, 200, "", "{\"ok\":true}\n");
        return;
    }
    if (strcmp(req->path, "/cart") != 0) {
        shop_reply(req, 404, "", "{\"error\":\"no such page\"}\n");
        return;
    }
    cart = calloc(1, sizeof *cart);
    if (!cart) {
        shop_reply(req, 503, "", "{\"error\":\"no memory\"}\n");
        return;
    }
    cart->co = arg;
    cart->req = req;
    attempt(cart);
}

/* Break it on purpose: what each switch spoils is what one check of Squall must find. */
static int break_it(struct checkout *co, const char *how)
{
    if (strcmp(how, "none") == 0)
        return 0;
    if (strcmp(how, "no-breaker") == 0) {
        co->no_breaker = true;
    } else if (strcmp(how, "never-opens") == 0) {
        for (unsigned i = 0; i < MAX_INSTANCES; i++)
            co->breaker[i].never_opens = true;
    } else if (strcmp(how, "never-closes") == 0) {
        for (unsigned i = 0; i < MAX_INSTANCES; i++)
            co->breaker[i].never_closes = true;
    } else if (strcmp(how, "no-timeout") == 0) {
        co->timeout_ms = 0;
    } else if (strcmp(how, "retry-storm") == 0) {
        co->attempts = STORM_ATTEMPTS;
        co->storm = true;
    } else if (strcmp(how, "empty-fallback") == 0) {
        co->empty_fallback = true;
    } else {
        (void)fprintf(stderr, "shop: there is no way to be broken called \"%s\"\n", how);
        return UV_EINVAL;
    }
    return 0;
}

static int add_instance(struct checkout *co, const char *address)
{
    char host[64];
    const char *colon = strrchr(address, ':');
    int port = colon ? atoi(colon + 1) : 0;

    if (!colon || port < 1 || port > 65535 || (size_t)(colon - address) >= sizeof host || co->n == MAX_INSTANCES)
        return UV_EINVAL;
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    co->up[co->n] = shop_upstream_new(co->loop, host, port);
    return co->up[co->n++] ? 0 : UV_EINVAL;
}

int shop_checkout(uv_loop_t *loop, const struct shop_opts *o)
{
    struct checkout *co = calloc(1, sizeof *co); /* lives as long as the process */
    char *list = strdup(o->payments), *save = NULL;
    int r = co && list ? 0 : UV_ENOMEM;

    if (r == 0) {
        co->loop = loop;
        co->timeout_ms = TIMEOUT_MS;
        co->attempts = ATTEMPTS;
        r = break_it(co, o->broken);
    }
    for (char *a = r == 0 ? strtok_r(list, ",", &save) : NULL; a && r == 0; a = strtok_r(NULL, ",", &save))
        r = add_instance(co, a);
    free(list);
    if (r == 0)
        r = shop_listen(loop, o->port, handle, co);
    if (r < 0)
        free(co);
    return r;
}
