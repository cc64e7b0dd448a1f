/* What proxies there are, and with which toxics. */
#include "toxiproxy_proxies.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int sq_toxi_split(const char *address, char *host, uint16_t *port)
{
    const char *colon = strrchr(address, ':');
    char *end;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (!colon || n >= SQ_TOXI_TEXT || colon[1] < '0' || colon[1] > '9')
        return -EINVAL;
    unsigned long v = strtoul(colon + 1, &end, 10);
    if (*end || v > UINT16_MAX)
        return -EINVAL;
    bool brackets = n >= 2 && address[0] == '[' && address[n - 1] == ']';
    if (brackets) {
        address++;
        n -= 2;
    } else if (memchr(address, ':', n)) {
        return -EINVAL;
    }
    memcpy(host, address, n);
    host[n] = '\0';
    *port = (uint16_t)v;
    return 0;
}

int sq_toxi_sockaddr(const char *address, struct sockaddr_storage *sa, socklen_t *len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;
    char host[SQ_TOXI_TEXT];
    uint16_t port;
    if (sq_toxi_split(*address ? address : ":0", host, &port) != 0)
        return -EINVAL;
    memset(sa, 0, sizeof(*sa));
    if (inet_pton(AF_INET, strcasecmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *len = sizeof(*v4);
        return 0;
    }
    if (inet_pton(AF_INET6, *host ? host : "::", &v6->sin6_addr) != 1)
        return -EINVAL;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    *len = sizeof(*v6);
    return 0;
}

bool sq_toxi_same_address(const char *a, const char *b)
{
    struct sockaddr_storage x, y;
    socklen_t n, m;
    if (strcmp(a, b) == 0)
        return true;
    return sq_toxi_sockaddr(a, &x, &n) == 0 && sq_toxi_sockaddr(b, &y, &m) == 0 && n == m && memcmp(&x, &y, n) == 0;
}

/* ---- proxies ---- */

void sq_toxi_init(struct sq_toxi *t, const struct sq_toxi_ops *ops, void *arg)
{
    *t = (struct sq_toxi){.ops = ops, .arg = arg};
    TAILQ_INIT(&t->proxies);
}

struct sq_toxi_proxy *sq_toxi_find(const struct sq_toxi *t, const char *name)
{
    struct sq_toxi_proxy *p;
    TAILQ_FOREACH(p, &t->proxies, link)
    {
        if (strcmp(p->name, name) == 0)
            return p;
    }
    return NULL;
}

struct sq_toxic *sq_toxi_find_toxic(const struct sq_toxi_proxy *p, const char *name)
{
    struct sq_toxic *x;
    TAILQ_FOREACH(x, &p->toxics, link)
    {
        if (strcmp(x->name, name) == 0)
            return x;
    }
    return NULL;
}

json_t *sq_toxi_toxics_json(const struct sq_toxi_proxy *p)
{
    json_t *all = json_array();
    for (int down = 0; down < 2; down++) { /* those on the way up come first */
        const struct sq_toxic *x;
        TAILQ_FOREACH(x, &p->toxics, link)
        {
            if (x->upstream == !down)
                (void)json_array_append_new(all, sq_toxic_json(x));
        }
    }
    return all;
}

json_t *sq_toxi_proxy_json(const struct sq_toxi_proxy *p)
{
    return json_pack("{s:s,s:s,s:s,s:b,s:o}", "name", p->name, "listen", p->listen, "upstream", p->upstream, "enabled",
                     p->enabled, "toxics", sq_toxi_toxics_json(p));
}

static void stop(struct sq_toxi *t, struct sq_toxi_proxy *p)
{
    if (p->enabled)
        t->ops->stop(t->arg, p);
    p->enabled = false;
}

int sq_toxi_start(struct sq_toxi *t, struct sq_toxi_proxy *p, struct sq_err *e)
{
    if (p->enabled)
        return 0;
    int rc = t->ops->start(t->arg, p, e);
    p->enabled = rc == 0;
    return rc;
}

void sq_toxi_drop_toxics(struct sq_toxi_proxy *p)
{
    while (!TAILQ_EMPTY(&p->toxics)) {
        struct sq_toxic *x = TAILQ_FIRST(&p->toxics);
        TAILQ_REMOVE(&p->toxics, x, link);
        sq_toxic_free(x);
    }
}

static void free_proxy(struct sq_toxi_proxy *p)
{
    if (!p)
        return;
    sq_toxi_drop_toxics(p);
    free(p->name);
    free(p->listen);
    free(p->upstream);
    free(p);
}

void sq_toxi_remove(struct sq_toxi *t, struct sq_toxi_proxy *p)
{
    stop(t, p);
    TAILQ_REMOVE(&t->proxies, p, link);
    t->n--;
    free_proxy(p);
}

void sq_toxi_clear(struct sq_toxi *t)
{
    while (!TAILQ_EMPTY(&t->proxies))
        sq_toxi_remove(t, TAILQ_FIRST(&t->proxies));
}

static struct sq_toxi_proxy *new_proxy(const struct sq_toxi_wanted *w)
{
    struct sq_toxi_proxy *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    TAILQ_INIT(&p->toxics);
    p->fd = -1;
    p->name = strdup(w->name);
    p->listen = strdup(w->listen ? w->listen : "");
    p->upstream = strdup(w->upstream);
    if (p->name && p->listen && p->upstream)
        return p;
    free_proxy(p);
    return NULL;
}

/* Other addresses; on error the old ones stay. */
static int readdress(struct sq_toxi_proxy *p, const char *listen, const char *upstream, struct sq_err *e)
{
    char *l = strdup(listen), *u = strdup(upstream);
    if (!l || !u) {
        free(l);
        free(u);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    free(p->listen);
    free(p->upstream);
    p->listen = l;
    p->upstream = u;
    return 0;
}

int sq_toxi_add(struct sq_toxi *t, const struct sq_toxi_wanted *w, struct sq_toxi_proxy **out, struct sq_err *e)
{
    if (t->n >= SQ_TOXI_PROXIES)
        return sq_err(e, -ENOSPC, "there are %d proxies already, which is the most", SQ_TOXI_PROXIES);
    struct sq_toxi_proxy *p = new_proxy(w);
    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    p->id = ++t->last_id;
    int rc = w->enabled ? sq_toxi_start(t, p, e) : 0;
    if (rc < 0) {
        free_proxy(p);
        return rc;
    }
    TAILQ_INSERT_TAIL(&t->proxies, p, link);
    t->n++;
    *out = p;
    return 0;
}

int sq_toxi_update(struct sq_toxi *t, struct sq_toxi_proxy *p, const struct sq_toxi_wanted *w, struct sq_err *e)
{
    int rc = 0;
    if (!sq_toxi_same_address(p->listen, w->listen) || strcmp(p->upstream, w->upstream) != 0) {
        stop(t, p);
        rc = readdress(p, w->listen, w->upstream, e);
    }
    if (rc == 0 && w->enabled)
        rc = sq_toxi_start(t, p, e);
    else
        stop(t, p);
    return rc;
}
