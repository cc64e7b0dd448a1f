#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "shop.h"

struct shop_alerts {
    struct shop_upstream *to;
    enum shop_defect defect;
    bool firing;
    char starts[32];
};

static void on_told(void *arg, int status)
{
    (void)arg;
    (void)status; /* whoever is told about alerts asks the service, too */
}

static void now_text(char text[32])
{
    time_t now = time(NULL);
    struct tm tm;

    (void)strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
}

/* As an Alertmanager would (webhook version 4). */
static void tell(const struct shop_alerts *a, const char *name, bool firing)
{
    const char *status = firing ? "firing" : "resolved";
    char body[512], ends[32] = "0001-01-01T00:00:00Z";

    if (!firing)
        now_text(ends);
    (void)snprintf(
        body, sizeof body,
        "{\"version\":\"4\",\"status\":\"%s\",\"alerts\":[{\"status\":\"%s\",\"labels\":{\"alertname\":\"%s\"},"
        "\"annotations\":{},\"startsAt\":\"%s\",\"endsAt\":\"%s\",\"fingerprint\":\"%s\"}]}",
        status, status, name, a->starts, ends, name);
    shop_call(a->to,
              &(struct shop_ask){.method = "POST", .path = "/", .traceparent = "", .body = body, .timeout_ms = 2000},
              on_told, NULL);
}

struct shop_alerts *shop_alerts_new(struct shop_upstream *to, enum shop_defect defect)
{
    struct shop_alerts *a = calloc(1, sizeof *a);

    if (!a)
        return NULL;
    a->to = to;
    a->defect = defect;
    return a;
}

void shop_alerts_breaker(struct shop_alerts *a, bool open)
{
    if (!a || open == a->firing)
        return;
    a->firing = open;
    if (open)
        now_text(a->starts);
    if (a->defect != SHOP_NO_ALERT)
        tell(a, "PaymentsBreakerOpen", open);
    if (a->defect == SHOP_FALSE_ALERT)
        tell(a, "CheckoutDown", open);
}
