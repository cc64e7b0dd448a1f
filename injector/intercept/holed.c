/* Connects that vanish in a black hole where no SYN can be held (listen.c): nobody but the caller knows when it gave
 * up, and the evidence has to. The kernel is asked about each in turn until it has left, or is let through. */
#include "proxy/diag.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "squall/clock.h"

#define LOOK_MS 20
#define LOOKS 256 /* at a time */
#define HOLED_MAX 4096

struct sq_holed {
    TAILQ_ENTRY(sq_holed) link;
    uint32_t edge, caller; /* numbers */
    int64_t start;
    char fault[32];
    union px_addr from, to;
};

/* An IPv4 address, also where it is written as one of IPv6. */
static union px_addr unmapped(const struct sockaddr_in6 *a)
{
    union px_addr out = {.in = {.sin_family = AF_INET, .sin_port = a->sin6_port}};

    if (a->sin6_family == AF_INET)
        memcpy(&out.in, a, sizeof(out.in));
    else
        memcpy(&out.in.sin_addr, &a->sin6_addr.s6_addr[12], sizeof(out.in.sin_addr));
    return out;
}

static void forget(struct sq_intercept *ic, struct sq_holed *h)
{
    TAILQ_REMOVE(&ic->holed, h, link);
    ic->n_holed--;
    free(h);
}

static void look(struct sq_intercept *ic, struct sq_holed *h)
{
    enum px_peer peer = px_diag(ic->diag, &h->from, &h->to);
    struct sq_edge *edge = sq_ic_edge(ic, h->edge);
    struct sq_caller *c = sq_ic_caller(ic, h->caller);

    if (peer == PX_PEER_CONNECTING && edge && c) {
        TAILQ_REMOVE(&ic->holed, h, link);
        TAILQ_INSERT_TAIL(&ic->holed, h, link);
        return;
    }
    if (peer == PX_PEER_LEFT && edge && c)
        sq_incoming_gave_up(c, edge, h->start, sq_mono_ns() - h->start, h->fault);
    forget(ic, h); /* let through: the proxy tells of it */
}

static void on_look(uv_timer_t *t)
{
    struct sq_intercept *ic = t->data;

    for (unsigned n = ic->n_holed < LOOKS ? ic->n_holed : LOOKS; n > 0; n--)
        look(ic, TAILQ_FIRST(&ic->holed));
    if (ic->n_holed == 0)
        (void)uv_timer_stop(t);
}

void sq_holed_add(struct sq_caller *c, const struct sq_edge *edge, int fd, int64_t start, const char *fault,
                  const struct sockaddr_storage *to)
{
    struct sq_intercept *ic = c->ic;
    struct sockaddr_in6 from;
    socklen_t len = sizeof(from);
    struct sq_holed *h;

    if (ic->diag < 0)
        ic->diag = px_diag_open();
    if (ic->diag < 0 || ic->n_holed >= HOLED_MAX || getsockname(fd, (struct sockaddr *)&from, &len) < 0 ||
        !(h = calloc(1, sizeof(*h))))
        return;
    h->edge = edge->id;
    h->caller = c->id;
    h->start = start;
    (void)snprintf(h->fault, sizeof(h->fault), "%s", fault);
    h->from = unmapped(&from);
    h->to = unmapped((const struct sockaddr_in6 *)(const void *)to);
    TAILQ_INSERT_TAIL(&ic->holed, h, link);
    ic->n_holed++;
    if (!uv_is_active((uv_handle_t *)ic->look))
        (void)uv_timer_start(ic->look, on_look, LOOK_MS, LOOK_MS);
}

void sq_holed_free(struct sq_intercept *ic)
{
    while (ic->n_holed)
        forget(ic, TAILQ_FIRST(&ic->holed));
    if (ic->diag >= 0)
        (void)close(ic->diag);
    ic->diag = -1;
}
