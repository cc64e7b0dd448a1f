/* Proxies with a fixed upstream, for the Toxiproxy API: the connections of edges, without callers and counting. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/px.h"

#define PLAIN_MAX 4096

struct lookup {
    uv_getaddrinfo_t req;
    struct conn *conn; /* NULL: it has closed */
    struct addrinfo *all, *next;
    bool running;
};

static void parse_address(struct plain *p)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&p->to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&p->to;
    if (inet_pton(AF_INET, p->host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(p->port);
        p->to_len = sizeof(*v4);
    } else if (inet_pton(AF_INET6, p->host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(p->port);
        p->to_len = sizeof(*v6);
    }
}

int px_plain_add(struct px *px, uint32_t id, const char *host, int64_t port, int *fds, size_t nfds)
{
    unsigned n = 0;
    struct edge *e;
    TAILQ_FOREACH(e, &px->edges, link)
    {
        n++;
    }
    if (px->draining || px_edge_find(px, id) || n >= PLAIN_MAX || nfds < 1 || port < 1 || port > UINT16_MAX || !*host ||
        strlen(host) >= sizeof(e->plain->host))
        return -EINVAL;
    e = calloc(1, sizeof(*e));
    struct plain *p = calloc(1, sizeof(*p));
    if (!e || !p) {
        free(e);
        free(p);
        return -ENOMEM;
    }
    (void)snprintf(p->host, sizeof(p->host), "%s", host);
    p->port = (uint16_t)port;
    parse_address(p);
    e->px = px;
    e->id = id;
    e->plain = p;
    e->protocol = PX_TCP;
    e->rules.names = &px->names;
    e->counted = true;
    TAILQ_INIT(&e->listeners);
    TAILQ_INIT(&e->conns);
    TAILQ_INSERT_TAIL(&px->edges, e, link);
    int rc = px_listen(e, &px->home, fds[0], PX_PLAIN, 0, 0);
    if (rc == 0)
        fds[0] = -1;
    else
        px_plain_drop(e);
    return rc;
}

void px_plain_drop(struct edge *e)
{
    px_edge_unlisten(e);
    while (!TAILQ_EMPTY(&e->conns))
        px_conn_close(TAILQ_FIRST(&e->conns), SQ_OUT_OPEN, 0, false);
    e->counted = false;
    px_edge_unused(e);
}

static void lookup_free(struct lookup *l)
{
    if (l->all)
        uv_freeaddrinfo(l->all);
    free(l);
}

static int try_next(struct lookup *l)
{
    while (l->next) {
        const struct addrinfo *a = l->next;
        l->next = a->ai_next;
        int err = px_conn_dial(l->conn, a->ai_addr, a->ai_addrlen);
        if (err == 0 || err == EINPROGRESS)
            return err;
    }
    return EHOSTUNREACH;
}

static void on_looked_up(uv_getaddrinfo_t *req, int status, struct addrinfo *all)
{
    struct lookup *l = req->data;
    l->all = all;
    l->next = all;
    l->running = false;
    if (!l->conn) {
        lookup_free(l);
        return;
    }
    struct conn *c = l->conn;
    int err = status == 0 ? try_next(l) : EHOSTUNREACH;
    if (err == EINPROGRESS)
        px_pump(c);
    else
        px_conn_connected(c, err);
}

int px_plain_dial(struct conn *c)
{
    const struct plain *p = c->edge->plain;
    if (p->to_len > 0)
        return px_conn_dial(c, (const struct sockaddr *)&p->to, p->to_len);
    struct lookup *l = calloc(1, sizeof(*l));
    char port[8];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    if (!l)
        return ENOMEM;
    l->conn = c;
    l->req.data = l;
    (void)snprintf(port, sizeof(port), "%u", p->port);
    int rc = uv_getaddrinfo(&c->px->loop, &l->req, on_looked_up, p->host, port, &hints);
    if (rc != 0) {
        free(l);
        return -rc;
    }
    l->running = true;
    c->lookup = l;
    return EINPROGRESS;
}

/* The new socket takes the place of the old descriptor, which is polled already. */
bool px_plain_again(struct conn *c)
{
    struct end *e = &c->end[DEP];
    int old = e->fd;
    if (!c->lookup || c->lookup->running || !c->lookup->next || old < 0 || !e->polled)
        return false;
    (void)uv_poll_stop(&e->poll);
    e->want = 0;
    int err = try_next(c->lookup);
    if ((err != 0 && err != EINPROGRESS) || dup3(e->fd, old, O_CLOEXEC) < 0) {
        if (e->fd >= 0 && e->fd != old)
            (void)close(e->fd);
        e->fd = old;
        return false;
    }
    (void)close(e->fd);
    e->fd = old;
    if (err == 0)
        px_conn_connected(c, 0);
    return true;
}

void px_plain_forget(struct conn *c)
{
    struct lookup *l = c->lookup;
    c->lookup = NULL;
    if (!l)
        return;
    l->conn = NULL;
    if (l->running)
        (void)uv_cancel((uv_req_t *)&l->req); /* on_looked_up frees it */
    else
        lookup_free(l);
}

void px_plain_json(const struct edge *e, json_t *ack)
{
    uint64_t sent[2] = {e->sent[UP], e->sent[DOWN]};
    const struct conn *c;
    TAILQ_FOREACH(c, &e->conns, link)
    {
        sent[UP] += c->lane[UP].out;
        sent[DOWN] += c->lane[DOWN].out;
    }
    json_object_set_new(ack, "read", json_pack("[I,I]", (json_int_t)e->bytes[UP], (json_int_t)e->bytes[DOWN]));
    json_object_set_new(ack, "sent", json_pack("[I,I]", (json_int_t)sent[UP], (json_int_t)sent[DOWN]));
}
