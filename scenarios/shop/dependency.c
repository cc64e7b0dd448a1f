#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define TIMEOUT_MS 200
#define BACKOFF_MS 30 /* and up to JITTER_MS more */
#define JITTER_MS 91
#define STORM_ATTEMPTS 8
#define LEAVE_MS 5000 /* SHOP_SLOW_FAILOVER */

struct request {
    struct shop_dependency *d;
    const char *method, *path; /* literals */
    char traceparent[64];
    unsigned attempts, most, asked; /* asked: the instance of the current attempt */
    bool tried[SHOP_INSTANCES];
    shop_called *done;
    void *arg;
    int status;
};

int shop_dependency_init(struct shop_dependency *d, uv_loop_t *loop, const char *list, enum shop_defect defect)
{
    char *copy = strdup(list), *save = NULL;
    int r = copy ? 0 : UV_ENOMEM;

    d->loop = loop;
    d->defect = defect;
    for (char *a = r == 0 ? strtok_r(copy, ",", &save) : NULL; a && r == 0; a = strtok_r(NULL, ",", &save)) {
        struct shop_upstream *up = d->n < SHOP_INSTANCES ? shop_upstream_new(loop, a) : NULL;

        if (!up) {
            r = UV_EINVAL;
            break;
        }
        d->own[d->n].defect = defect;
        d->breaker[d->n] = &d->own[d->n];
        d->up[d->n++] = up;
    }
    free(copy);
    return r == 0 && d->n == 0 ? UV_EINVAL : r;
}

bool shop_dependency_open(const struct shop_dependency *d)
{
    bool open = false;

    for (unsigned i = 0; i < d->n; i++)
        open |= d->breaker[i]->state != SHOP_CLOSED;
    return open;
}

static bool may_ask(struct request *r, unsigned i)
{
    const struct shop_dependency *d = r->d;
    bool storm = d->defect == SHOP_RETRY_STORM;

    if (r->tried[i] && !storm && d->defect != SHOP_UNBOUNDED_RETRY)
        return false;
    return storm || d->defect == SHOP_NO_BREAKER || shop_breaker_allows(d->breaker[i], uv_now(d->loop));
}

/* Does it keep to an instance that fails? */
static bool sticks(const struct shop_dependency *d, unsigned i)
{
    return d->defect == SHOP_NO_FAILOVER ||
           (d->defect == SHOP_SLOW_FAILOVER && uv_now(d->loop) - d->failing_ms[i] < LEAVE_MS);
}

/* The instance to ask next; -1: none. */
static int pick(struct request *r)
{
    struct shop_dependency *d = r->d;
    unsigned first = d->next;

    if (sticks(d, r->attempts ? r->asked : first)) {
        first = r->attempts ? r->asked : first;
        r->tried[first] = false;
        d->next = (first + 1) % d->n;
        return may_ask(r, first) ? (int)first : -1;
    }
    for (unsigned k = 0; k < d->n; k++) {
        unsigned i = (first + k) % d->n;

        if (may_ask(r, i)) {
            d->next = (i + 1) % d->n;
            return (int)i;
        }
    }
    return -1;
}

static void finish(void *arg)
{
    struct request *r = arg;

    r->done(r->arg, r->status);
    free(r);
}

static uint64_t pause_ms(const struct shop_dependency *d)
{
    if (d->defect == SHOP_NO_BACKOFF || d->defect == SHOP_RETRY_STORM)
        return 0;
    return BACKOFF_MS + (d->defect == SHOP_NO_JITTER ? JITTER_MS / 2 : uv_hrtime() / 1000 % JITTER_MS);
}

static void note(struct shop_dependency *d, unsigned i, int status)
{
    struct shop_breaker *b = d->breaker[i];
    uint64_t now = uv_now(d->loop);
    bool trial = b->state == SHOP_HALF_OPEN;

    d->failures += status != 200;
    d->timeouts += status == UV_ETIMEDOUT;
    if (status == 200 || !d->failing_ms[i])
        d->failing_ms[i] = status == 200 ? 0 : now;
    shop_breaker_result(b, status, now);
    if (trial && b->state == SHOP_CLOSED)
        d->closed_ms = now;
    shop_alerts_breaker(d->alerts, shop_dependency_open(d));
}

static void attempt(void *arg);

static void on_called(void *arg, int status)
{
    struct request *r = arg;

    note(r->d, r->asked, status);
    r->status = status;
    if (status == 200 || r->attempts >= r->most)
        finish(r);
    else if (pause_ms(r->d) == 0)
        attempt(r);
    else
        shop_later(r->d->loop, pause_ms(r->d), attempt, r);
}

static void attempt(void *arg)
{
    struct request *r = arg;
    struct shop_dependency *d = r->d;
    struct shop_ask ask = {r->method, r->path, r->traceparent, "", TIMEOUT_MS};
    int i = pick(r);

    if (i < 0) {
        finish(r);
        return;
    }
    r->asked = (unsigned)i;
    r->tried[i] = true;
    r->attempts++;
    if (d->defect == SHOP_NO_TIMEOUT)
        ask.timeout_ms = 0;
    else if (d->defect == SHOP_TIMEOUT_TEN)
        ask.timeout_ms *= 10;
    shop_call(d->up[i], &ask, on_called, r);
}

void shop_dependency_ask(struct shop_dependency *d, const char *method, const char *path, const char *traceparent,
                         unsigned attempts, shop_called *done, void *arg)
{
    struct request *r = calloc(1, sizeof *r);

    if (!r)
        abort(); /* a demo: nothing better to do without memory */
    r->d = d;
    r->method = method;
    r->path = path;
    (void)strncpy(r->traceparent, traceparent, sizeof r->traceparent - 1);
    r->most = d->defect == SHOP_UNBOUNDED_RETRY ? UINT32_MAX
              : d->defect == SHOP_RETRY_STORM   ? STORM_ATTEMPTS
                                                : attempts;
    r->done = done;
    r->arg = arg;
    r->status = SHOP_NOT_ASKED;
    attempt(r);
}
