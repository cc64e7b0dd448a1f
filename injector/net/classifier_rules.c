/* A fault's match as rules and sorted keys, as the maps take them (pure). */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/classifier_priv.h"

/* ---- sets ---- */

static int by_prefix(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct sq_prefix_key));
}

static int by_port(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct sq_port_key));
}

static size_t unique(void *keys, size_t n, size_t size)
{
    char *p = keys;
    size_t out = n > 0;

    for (size_t i = 1; i < n; i++)
        if (memcmp(p + i * size, p + (out - 1) * size, size) != 0)
            memmove(p + out++ * size, p + i * size, size);
    return out;
}

static int host_set(struct sq_clset *s, uint32_t number, const struct sq_prefix *p, size_t n, struct sq_err *e)
{
    if (n == 0)
        return 0;
    s->key.prefix = calloc(n, sizeof *s->key.prefix);
    if (!s->key.prefix)
        return sq_err(e, -ENOMEM, "out of memory");
    s->number = number;
    for (size_t i = 0; i < n; i++) {
        struct sq_prefix_key *k = &s->key.prefix[i];

        k->prefixlen = 32u + p[i].len;
        k->set = htonl(number);
        memcpy(k->addr, &p[i].addr, sizeof k->addr);
    }
    qsort(s->key.any, n, sizeof *s->key.prefix, by_prefix);
    s->n = unique(s->key.any, n, sizeof *s->key.prefix);
    return 0;
}

unsigned sq_range_prefixes(struct sq_range range, struct sq_range_prefix out[SQ_RANGE_PREFIXES])
{
    uint32_t from = range.from, end = range.to + 1u;
    unsigned n = 0;

    while (from < end) {
        unsigned bits = 0; /* the largest block that begins here and does not go beyond the end */

        while (bits < 16 && !(from & (1u << bits)) && from + (2u << bits) <= end)
            bits++;
        out[n++] = (struct sq_range_prefix){(uint16_t)from, (uint8_t)(16 - bits)};
        from += 1u << bits;
    }
    return n;
}

static int port_set(struct sq_clset *s, uint32_t number, const struct sq_range *r, size_t n, struct sq_err *e)
{
    struct sq_range_prefix part[SQ_RANGE_PREFIXES];
    size_t total = 0;

    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        total += sq_range_prefixes(r[i], part);
    s->key.port = calloc(total ? total : 1, sizeof *s->key.port);
    if (!s->key.port)
        return sq_err(e, -ENOMEM, "out of memory");
    s->number = number;
    for (size_t i = 0; i < n; i++) {
        unsigned parts = sq_range_prefixes(r[i], part);

        for (unsigned k = 0; k < parts; k++)
            s->key.port[s->n++] =
                (struct sq_port_key){.prefixlen = 32u + part[k].len, .set = htonl(number), .port = htons(part[k].port)};
    }
    qsort(s->key.any, s->n, sizeof *s->key.port, by_port);
    s->n = unique(s->key.any, s->n, sizeof *s->key.port);
    return 0;
}

/* ---- one fault ---- */

void sq_clgroups_free(struct sq_clgroup *g, size_t n)
{
    for (size_t i = 0; g && i < n; i++) {
        if (!g[i].owns)
            continue;
        free(g[i].hosts.key.any);
        free(g[i].ports.key.any);
        free(g[i].locals.key.any);
    }
    free(g);
}

/* Numbers are not used again while the classifier lives: a rule that is just being looked at keeps its meaning. */
static uint32_t new_set(uint32_t *next)
{
    return ++*next ? *next : ++*next;
}

static int build_group(uint32_t *next_set, struct sq_clgroup *g, const struct sq_group *from, bool except, int bit,
                       struct sq_err *e)
{
    int r = 0;

    g->owns = true;
    g->rule = (struct sq_rule){.fault = (uint32_t)bit, .flags = except ? SQ_RULE_EXCEPT : 0, .dscp = -1, .vlan = -1};
    if (!from)
        return 0;
    if (from->n_name && !from->n_resolved) /* never fail open */
        return sq_err(e, -EINVAL, "the host name \"%s\" was not resolved", from->name[0]);
    g->rule.protocol = from->protocol;
    g->rule.dscp = (int8_t)from->dscp;
    g->rule.vlan = from->vlan;
    r = host_set(&g->hosts, new_set(next_set), from->host, from->n_host, e);
    r = r ? r : port_set(&g->ports, new_set(next_set), from->port, from->n_port, e);
    r = r ? r : port_set(&g->locals, new_set(next_set), from->local_port, from->n_local_port, e);
    g->rule.hosts = g->hosts.number;
    g->rule.ports = g->ports.number;
    g->rule.locals = g->locals.number;
    return r;
}

int sq_classifier_full(struct sq_err *e, int r, const char *what)
{
    if (r == -ENOSPC || r == -E2BIG) {
        sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "the classifier has no room for more %s", what);
        return -ENOSPC;
    }
    return sq_err_sys(e, r, "cannot write %s of the classifier", what);
}

int sq_clgroups_build(uint32_t *next_set, const struct sq_match *m, int bit, struct sq_clgroup **out, size_t *n,
                      struct sq_err *e)
{
    size_t matches = m->n_match ? m->n_match : 1, of = m->n_of ? m->n_of : 1;
    struct sq_clgroup *g;
    int r = 0;

    *n = 0;
    if (matches > SQ_CLASSIFY_RULES || of > SQ_CLASSIFY_RULES || m->n_except > SQ_CLASSIFY_RULES ||
        matches * of + m->n_except > SQ_CLASSIFY_RULES)
        return sq_classifier_full(e, -ENOSPC, "rules");
    g = calloc(matches * of + m->n_except, sizeof *g);
    if (!g)
        return sq_err(e, -ENOMEM, "out of memory");
    /* Exceptions first: they are switched on first, too. */
    for (size_t i = 0; r == 0 && i < m->n_except; i++)
        r = build_group(next_set, &g[(*n)++], &m->except[i], true, bit, e);
    for (size_t i = 0; r == 0 && i < matches; i++) {
        struct sq_clgroup *first = &g[*n];

        r = build_group(next_set, &g[(*n)++], m->n_match ? &m->match[i] : NULL, false, bit, e);
        for (size_t k = 0; r == 0 && k < m->n_of; k++) {
            struct sq_clgroup *one = k ? &g[(*n)++] : first;

            if (k) {
                *one = *first;
                one->owns = false;
            }
            one->rule.cgroup = m->of[k].id;
            one->rule.level = m->of[k].level;
        }
    }
    if (r < 0) {
        sq_clgroups_free(g, *n);
        return r;
    }
    *out = g;
    return 0;
}
