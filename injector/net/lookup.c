#include "net/lookup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/match.h"

struct sq_lookup {
    struct sq_match m; /* a group for each name */
    struct sq_resolving *work;
};

struct sq_lookup *sq_lookup_new(void)
{
    return calloc(1, sizeof(struct sq_lookup));
}

int sq_lookup_add(struct sq_lookup *l, const char *name, struct sq_err *e)
{
    struct sq_group *all = realloc(l->m.match, (l->m.n_match + 1) * sizeof(*all)), *g;

    if (!all)
        return sq_err(e, -ENOMEM, "out of memory");
    l->m.match = all;
    g = &all[l->m.n_match];
    *g = (struct sq_group){.dscp = -1, .vlan = -1, .name = calloc(1, sizeof(*g->name))};
    if (g->name)
        g->name[0] = strdup(name);
    if (!g->name || !g->name[0]) {
        free(g->name);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    g->n_name = 1;
    l->m.n_match++;
    return 0;
}

int sq_lookup_now(struct sq_lookup *l, const struct sq_netns *ns, struct sq_err *e)
{
    return sq_match_resolve(&l->m, ns, NULL, e);
}

int sq_lookup_begin(struct sq_lookup *l, const struct sq_netns *ns, int *fd, struct sq_err *e)
{
    sq_lookup_stop(l);
    return sq_resolving_begin(&l->m, ns, &l->work, fd, e);
}

int sq_lookup_end(struct sq_lookup *l, struct sq_err *e)
{
    int rc = l->work ? sq_resolving_end(l->work, &l->m, NULL, e) : 0;

    if (rc != -EAGAIN)
        sq_lookup_stop(l);
    return rc;
}

void sq_lookup_stop(struct sq_lookup *l)
{
    sq_resolving_free(l->work);
    l->work = NULL;
}

const struct in6_addr *sq_lookup_get(const struct sq_lookup *l, size_t i, size_t k)
{
    return i < l->m.n_match && k < l->m.match[i].n_host ? &l->m.match[i].host[k].addr : NULL;
}

void sq_lookup_free(struct sq_lookup *l)
{
    if (!l)
        return;
    sq_lookup_stop(l);
    sq_match_clear(&l->m);
    free(l);
}
