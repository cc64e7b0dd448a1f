/* What checkout depends on: takes 3 ms for each request to its one page. */
#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define WORK_MS 3

struct page {
    uv_loop_t *loop;
    const char *path;
};

static void on_done(void *arg)
{
    shop_reply(arg, 200, "", "{\"done\":true}\n");
}

static void handle(struct shop_req *req, void *arg)
{
    const struct page *d = arg;

    if (strcmp(req->path, "/healthz") == 0)
        shop_reply(req, 200, "", "{\"ok\":true}\n");
    else if (strcmp(req->path, d->path) == 0)
        shop_later(d->loop, WORK_MS, on_done, req);
    else
        shop_reply(req, 404, "", "{\"error\":\"no such page\"}\n");
}

int shop_page(uv_loop_t *loop, int port, const char *path)
{
    struct page *d = calloc(1, sizeof *d); /* lives as long as the process */

    if (!d)
        return UV_ENOMEM;
    d->loop = loop;
    d->path = path;
    return shop_listen(loop, port, handle, d);
}
