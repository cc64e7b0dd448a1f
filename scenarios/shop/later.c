#include <stdlib.h>

#include "shop.h"

struct later {
    uv_timer_t timer;
    shop_later_fn *fn;
    void *arg;
};

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

static void on_due(uv_timer_t *t)
{
    struct later *l = t->data;

    l->fn(l->arg);
    uv_close((uv_handle_t *)t, on_closed);
}

void shop_later(uv_loop_t *loop, uint64_t ms, shop_later_fn *fn, void *arg)
{
    struct later *l = calloc(1, sizeof *l);

    if (!l)
        abort(); /* a demo: nothing better to do without memory */
    l->fn = fn;
    l->arg = arg;
    l->timer.data = l;
    (void)uv_timer_init(loop, &l->timer);
    (void)uv_timer_start(&l->timer, on_due, ms, 0);
}
