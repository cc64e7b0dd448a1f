#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define WORK_MS 3 /* what taking a payment costs */

struct payment {
    uv_timer_t timer;
    struct shop_req *req;
};

static void on_freed(uv_handle_t *h)
{
    free(h->data);
}

static void on_paid(uv_timer_t *t)
{
    struct payment *p = t->data;

    shop_reply(p->req, 200, "", "{\"paid\":true}\n");
    uv_close((uv_handle_t *)t, on_freed);
}

static void handle(struct shop_req *req, void *arg)
{
    struct payment *p;

    if (strcmp(req->path, "/healthz") == 0) {
        shop_reply(req, 200, "", "{\"ok\":true}\n");
        return;
    }
    if (strcmp(req->path, "/pay") != 0) {
        shop_reply(req, 404, "", "{\"error\":\"no such page\"}\n");
        return;
    }
    p = calloc(1, sizeof *p);
    if (!p) {
        shop_reply(req, 503, "", "{\"error\":\"no memory\"}\n");
        return;
    }
    p->req = req;
    p->timer.data = p;
    (void)uv_timer_init(arg, &p->timer);
    (void)uv_timer_start(&p->timer, on_paid, WORK_MS, 0);
}

int shop_payments(uv_loop_t *loop, const struct shop_opts *o)
{
    return shop_listen(loop, o->port, handle, loop);
}
