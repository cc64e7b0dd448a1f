/* Toxiproxy's HTTP API, version 2 (github.com/Shopify/toxiproxy, README): proxies with one upstream each, and toxics on
 * them. Off unless squalld is started with --toxiproxy. Toxics act in the order of proxy/bytes.h, whatever the order
 * they were added in. The connections are carried by a process of its own (squall-plain), which ends with squalld; when
 * it dies it is started again, with all proxies and toxics.
 *
 * toxiproxy.c answers requests and knows neither HTTP nor processes; toxiproxy_proxies.c is the collection of proxies;
 * toxiproxy_toxic.c is what a toxic can be; toxiproxy_link.c is the process; toxiproxy_http.c is the server. */
#ifndef SQUALL_TOXIPROXY_H
#define SQUALL_TOXIPROXY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <uv.h>

#include "squall/err.h"

#define SQ_TOXI_PROXIES 1024 /* of an injector */
#define SQ_TOXI_TOXICS 16    /* of a proxy */
#define SQ_TOXI_TEXT 1024    /* bytes of a name or an address */
#define SQ_TOXI_BODY (1024u * 1024)
#define SQ_TOXI_VERSION "2.12.0" /* whose API this is */

struct sq_toxi_type;

struct sq_toxic {
    TAILQ_ENTRY(sq_toxic) link;
    char *name;
    const struct sq_toxi_type *type;
    bool upstream;
    double toxicity;
    double value[3]; /* attributes, in the order of the type; integers are whole and below 2^53 */
    unsigned slot;   /* of the proxy: the fault's name in the rules */
};

struct sq_toxi_proxy {
    TAILQ_ENTRY(sq_toxi_proxy) link;
    char *name, *listen, *upstream;
    bool enabled;
    TAILQ_HEAD(, sq_toxic) toxics;
    uint32_t id, epoch;
    int fd; /* listens while enabled; -1: none */
};

/* What carries the connections. */
struct sq_toxi_ops {
    /* Listen and pass bytes, with the toxics. On success p->listen is what it listens on. */
    int (*start)(void *arg, struct sq_toxi_proxy *p, struct sq_err *e);
    void (*stop)(void *arg, struct sq_toxi_proxy *p);
    int (*rules)(void *arg, struct sq_toxi_proxy *p, struct sq_err *e); /* toxics have changed */
    int (*count)(void *arg, struct sq_toxi_proxy *p, uint64_t read[2], uint64_t sent[2]);
};

struct sq_toxi {
    const struct sq_toxi_ops *ops;
    void *arg;
    TAILQ_HEAD(, sq_toxi_proxy) proxies;
    unsigned n;
    uint32_t last_id;
    uint64_t seed;
    bool metrics;
};

struct sq_toxi_answer {
    int status;
    const char *type; /* of the body */
    char *body;       /* malloc'd; NULL: none */
};

/* toxiproxy.c */
/* PATH is decoded, without a query. */
void sq_toxi_handle(struct sq_toxi *t, const char *method, const char *path, const char *body, size_t len,
                    struct sq_toxi_answer *a);
void sq_toxi_fail(struct sq_toxi_answer *a, int status, const char *fmt, ...) SQ_PRINTF(3, 4);
/* A member, by its name in any case, as Go's decoder finds it; NULL: absent or null. */
const json_t *sq_toxi_field(const json_t *o, const char *key);

/* toxiproxy_proxies.c */
void sq_toxi_init(struct sq_toxi *t, const struct sq_toxi_ops *ops, void *arg);
void sq_toxi_clear(struct sq_toxi *t); /* stops and forgets all proxies */
/* "host:port", "[v6]:port", ":port": 0 or -EINVAL. HOST has SQ_TOXI_TEXT bytes. */
int sq_toxi_split(const char *address, char *host, uint16_t *port);
/* What can be listened on: addresses, localhost, or nothing (all addresses). -EINVAL: no such. */
int sq_toxi_sockaddr(const char *address, struct sockaddr_storage *sa, socklen_t *len);

/* toxiproxy_toxic.c */
/* Read BODY into a new toxic; 0 or an HTTP status with *A filled. */
int sq_toxic_new(const json_t *body, struct sq_toxic **out, struct sq_toxi_answer *a);
int sq_toxic_update(struct sq_toxic *x, const json_t *body, struct sq_toxi_answer *a);
void sq_toxic_free(struct sq_toxic *x);
json_t *sq_toxic_json(const struct sq_toxic *x);
/* As a rule of the proxy (proxy/wire.h). */
json_t *sq_toxic_rule(const struct sq_toxic *x, uint64_t seed);
/* All of a proxy: what "rules" takes. */
json_t *sq_toxi_rules(const struct sq_toxi_proxy *p, uint64_t seed);

/* toxiproxy_http.c */
struct sq_toxi_opts {
    const char *listen; /* "127.0.0.1:8474" */
    const char *config; /* a JSON file as /populate takes it; NULL: none */
    uint64_t seed;
    bool metrics;
};
struct sq_toxi_server;
struct sq_patience;
/* PATIENCE (patience.h; may be NULL) is borrowed: a request may mean a thousand proxies, or one that does not answer.
 */
int sq_toxi_server_new(uv_loop_t *loop, const char *self, const struct sq_toxi_opts *o, struct sq_patience *patience,
                       struct sq_toxi_server **out, struct sq_err *e);
/* End all proxies and their connections. It is freed when its handles are closed. */
void sq_toxi_server_free(struct sq_toxi_server *s);

/* toxiproxy_link.c */
struct sq_toxi_link;
/* T's ops and arg are set. The process is started with the first proxy. */
int sq_toxi_link_new(uv_loop_t *loop, const char *self, struct sq_toxi *t, struct sq_toxi_link **out, struct sq_err *e);
void sq_toxi_link_free(struct sq_toxi_link *l);

#endif
