#include "shop.h"

#define WINDOW 10    /* calls that are looked at */
#define OPEN_MS 2000 /* how long nobody is let through */

static uint64_t open_ms(const struct shop_breaker *b)
{
    return b->defect == SHOP_OPEN_TOO_SHORT ? OPEN_MS / 10 : OPEN_MS;
}

bool shop_breaker_allows(struct shop_breaker *b, uint64_t now_ms)
{
    if (b->state == SHOP_CLOSED)
        return true;
    if (b->state == SHOP_OPEN && now_ms - b->opened_ms >= open_ms(b) && b->defect != SHOP_NEVER_PROBES) {
        b->state = SHOP_HALF_OPEN;
        b->trial_out = false;
    }
    if (b->state != SHOP_HALF_OPEN || (b->trial_out && b->defect != SHOP_HALF_OPEN_FLOODS))
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

static bool failure(const struct shop_breaker *b, int status)
{
    if (b->defect == SHOP_IGNORES_TIMEOUTS && status == UV_ETIMEDOUT)
        return false;
    if (b->defect == SHOP_IGNORES_ERRORS && status != UV_ETIMEDOUT)
        return false;
    return status != 200;
}

static bool too_many(const struct shop_breaker *b, unsigned window)
{
    unsigned failures = 0;

    if (b->defect == SHOP_NEVER_OPENS || b->seen < window)
        return false;
    for (unsigned i = 0; i < window; i++)
        failures += b->failed[i];
    return 2 * failures >= window;
}

void shop_breaker_result(struct shop_breaker *b, int status, uint64_t now_ms)
{
    bool failed = failure(b, status);
    unsigned window = b->defect == SHOP_OPENS_LATE ? SHOP_WINDOW_MAX : b->defect == SHOP_OPENS_ON_ONE ? 1 : WINDOW;

    if (b->defect == SHOP_PER_CONNECTION && status < 0) {
        *b = (struct shop_breaker){.defect = b->defect};
        return;
    }
    if (b->state == SHOP_OPEN)
        return; /* a call from before it opened */
    if (b->state == SHOP_HALF_OPEN) {
        if (failed || b->defect == SHOP_NEVER_CLOSES) {
            open_at(b, now_ms);
        } else {
            b->state = SHOP_CLOSED;
            b->seen = 0;
        }
        return;
    }
    b->failed[b->next] = failed;
    b->next = (b->next + 1) % window;
    if (b->seen < window)
        b->seen++;
    if (too_many(b, window))
        open_at(b, now_ms);
}
