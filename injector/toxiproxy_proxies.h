/* The collection of proxies as the requests of toxiproxy.c change it. */
#ifndef SQUALL_TOXIPROXY_PROXIES_H
#define SQUALL_TOXIPROXY_PROXIES_H

#include "toxiproxy.h"

struct sq_toxi_wanted {
    const char *name, *listen, *upstream;
    bool enabled;
};

/* Is it the same to listen on? */
bool sq_toxi_same_address(const char *a, const char *b);

/* NULL: none of this name. */
struct sq_toxi_proxy *sq_toxi_find(const struct sq_toxi *t, const char *name);
struct sq_toxic *sq_toxi_find_toxic(const struct sq_toxi_proxy *p, const char *name);

/* As the API shows them; those on the way up come first. */
json_t *sq_toxi_toxics_json(const struct sq_toxi_proxy *p);
json_t *sq_toxi_proxy_json(const struct sq_toxi_proxy *p);

/* 0 or -errno: then it is not there, or as it was. */
int sq_toxi_add(struct sq_toxi *t, const struct sq_toxi_wanted *w, struct sq_toxi_proxy **out, struct sq_err *e);
int sq_toxi_update(struct sq_toxi *t, struct sq_toxi_proxy *p, const struct sq_toxi_wanted *w, struct sq_err *e);
int sq_toxi_start(struct sq_toxi *t, struct sq_toxi_proxy *p,
                  struct sq_err *e); /* 0 also for one that listens already */
void sq_toxi_drop_toxics(struct sq_toxi_proxy *p);
void sq_toxi_remove(struct sq_toxi *t, struct sq_toxi_proxy *p);

#endif
