#include <string.h>

#include "shop.h"

#define WINDOW 10    /* calls that are looked at */
#define OPEN_MS 2000 /* how long nobody is let through */

bool shop_breaker_allows(struct shop_breaker *b, uint64_t now_ms)
{
    if (b->state == SHOP_CLOSED)
        return true;
    if (b->state == SHOP_OPEN && !b->never_closes && now_ms - b->opened_ms >= OPEN_MS) {
        b->state = SHOP_HALF_OPEN;
        b->trial_out = false;
    }
    if (b->state != SHOP_HALF_OPEN || b->trial_out)
        return false;
    b->trial_out = true;
    return true;
}

static void open_at(struct shop_breaker *b, uint64_t now_ms)
{
    b->state = SHOP_OPEN;
    b->opened_ms = now_ms;
    b->seen = 0;
}

void shop_breaker_result(struct shop_breaker *b, bool ok, uint64_t now_ms)
{
    unsigned failures = 0;

    if (b->state == SHOP_OPEN)
        return; /* a call from before it opened */
    if (b->state == SHOP_HALF_OPEN) {
        if (ok) {
            b->state = SHOP_CLOSED;
            b->seen = 0;
        } else {
            open_at(b, now_ms);
        }
        return;
    }
    b->failed[b->next] = !ok;
    b->next = (b->next + 1) % WINDOW;
    if (b->seen < WINDOW)
        b->seen++;
    if (b->seen < WINDOW)
        return;
    for (unsigned i = 0; i < WINDOW; i++)
        failures += b->failed[i];
    if (2 * failures >= WINDOW && !b->never_opens)
        open_at(b, now_ms);
}
