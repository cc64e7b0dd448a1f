/* Which packets a network fault means: from the normalized target to groups of numbers, and to a text for people. */
#include "net/match.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"

static void clear_groups(struct sq_group *g, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < g[i].n_name; k++)
            free(g[i].name[k]);
        free(g[i].name);
        free(g[i].host);
        free(g[i].port);
        free(g[i].local_port);
    }
    free(g);
}

void sq_match_clear(struct sq_match *m)
{
    clear_groups(m->match, m->n_match);
    clear_groups(m->except, m->n_except);
    free(m->of);
    *m = (struct sq_match){0};
}

static int read_hosts(const json_t *list, struct sq_group *g, struct sq_err *e)
{
    const json_t *host;
    size_t i, n = json_array_size(list);

    g->host = calloc(n ? n : 1, sizeof *g->host);
    g->name = calloc(n ? n : 1, sizeof *g->name);
    if (!g->host || !g->name)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(list, i, host)
    {
        const char *s = json_string_value(host);
        struct sq_prefix *p = &g->host[g->n_host];

        if (sq_parse_network(s, &p->addr, &p->len, NULL) == 0) {
            g->n_host++;
            continue;
        }
        g->name[g->n_name] = strdup(s);
        if (!g->name[g->n_name++])
            return sq_err(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static int read_ports(const json_t *list, struct sq_range **out, size_t *n, struct sq_err *e)
{
    const json_t *port;
    size_t i;
    int r = 0;

    if (!list)
        return 0;
    *out = calloc(json_array_size(list) + 1, sizeof **out);
    if (!*out)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(list, i, port)
    {
        struct sq_range *range = &(*out)[*n];

        r = sq_parse_ports(json_string_value(port), &range->from, &range->to, e);
        if (r < 0)
            return r;
        (*n)++;
    }
    return 0;
}

static int read_group(const json_t *o, struct sq_group *g, struct sq_err *e)
{
    int r;

    g->protocol = (uint8_t)sq_protocol_number(sq_json_str_or(o, "protocol", "any"));
    g->dscp = (int16_t)sq_json_int_or(o, "dscp", -1);
    g->vlan = (int16_t)sq_json_int_or(o, "vlan", -1);
    r = json_object_get(o, "host") ? read_hosts(json_object_get(o, "host"), g, e) : 0;
    r = r ? r : read_ports(json_object_get(o, "port"), &g->port, &g->n_port, e);
    return r ? r : read_ports(json_object_get(o, "local_port"), &g->local_port, &g->n_local_port, e);
}

static int read_groups(const json_t *list, struct sq_group **out, size_t *n, struct sq_err *e)
{
    const json_t *group;
    size_t i;
    int r = 0;

    if (!list)
        return 0;
    *out = calloc(json_array_size(list), sizeof **out);
    if (!*out)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(list, i, group)
    {
        r = r ? r : read_group(group, &(*out)[(*n)++], e);
    }
    return r;
}

int sq_match_read(const json_t *target, struct sq_match *m, struct sq_err *e)
{
    char where[64];
    int r;

    *m = (struct sq_match){0};
    r = sq_network_check(target, where, sizeof where, e);
    if (r < 0) {
        sq_err_prefix(e, "target%s%s", *where ? "/" : "", where);
        return r;
    }
    r = read_groups(json_object_get(target, "match"), &m->match, &m->n_match, e);
    return r ? r : read_groups(json_object_get(target, "except"), &m->except, &m->n_except, e);
}

bool sq_match_named(const struct sq_match *m)
{
    for (size_t i = 0; i < m->n_match; i++)
        if (m->match[i].n_name)
            return true;
    for (size_t i = 0; i < m->n_except; i++)
        if (m->except[i].n_name)
            return true;
    return false;
}

/* ---- for people ---- */

struct text {
    char *buf;
    size_t len, used;
};

static void SQ_PRINTF(2, 3) say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (t->used + 1 >= t->len)
        return;
    va_start(ap, fmt);
    n = vsnprintf(t->buf + t->used, t->len - t->used, fmt, ap);
    va_end(ap);
    t->used += n < 0 ? 0 : (size_t)n;
    if (t->used >= t->len) {
        t->used = t->len - 1;
        if (t->len > 4)
            memcpy(t->buf + t->len - 4, "...", 4);
    }
}

static void say_prefix(struct text *t, const struct sq_prefix *p)
{
    char addr[INET6_ADDRSTRLEN];
    bool v4 = IN6_IS_ADDR_V4MAPPED(&p->addr) && p->len >= 96;
    unsigned len = v4 ? p->len - 96u : p->len;

    (void)inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? (const void *)&p->addr.s6_addr[12] : (const void *)&p->addr, addr,
                    sizeof addr);
    if (len == (v4 ? 32 : 128))
        say(t, "%s", addr);
    else
        say(t, "%s/%u", addr, len);
}

#define SHOWN 4 /* of a list */

static void say_hosts(struct text *t, const struct sq_group *g)
{
    size_t shown = 0;

    for (size_t i = 0; i < g->n_name && shown < SHOWN; i++)
        say(t, "%s%s", shown++ ? "," : " to ", g->name[i]);
    /* The addresses that names were resolved to follow those that were written: names stand for them. */
    for (size_t i = 0; i < g->n_host - g->n_resolved && shown < SHOWN; i++) {
        say(t, "%s", shown++ ? "," : " to ");
        say_prefix(t, &g->host[i]);
    }
    if (g->n_name + g->n_host - g->n_resolved > shown)
        say(t, ",... (%zu)", g->n_name + g->n_host - g->n_resolved);
}

static void say_ports(struct text *t, const char *what, const struct sq_range *r, size_t n)
{
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        say(t, "%s%u", i ? "," : what, r[i].from);
        if (r[i].to != r[i].from)
            say(t, "-%u", r[i].to);
    }
    if (n > SHOWN)
        say(t, ",... (%zu)", n);
}

static void say_group(struct text *t, const struct sq_group *g)
{
    size_t begin = t->used;

    if (g->protocol)
        say(t, "%s", sq_protocol_name(g->protocol));
    say_hosts(t, g);
    say_ports(t, " port ", g->port, g->n_port);
    say_ports(t, " local port ", g->local_port, g->n_local_port);
    if (g->dscp >= 0)
        say(t, " dscp %d", g->dscp);
    if (g->vlan >= 0)
        say(t, " vlan %d", g->vlan);
    if (t->used > begin && t->buf[begin] == ' ') { /* no protocol before it */
        memmove(t->buf + begin, t->buf + begin + 1, t->used - begin);
        t->used--;
    }
}

char *sq_match_text(const struct sq_match *m, char *buf, size_t len)
{
    struct text t = {buf, len, 0};

    buf[0] = '\0';
    if (!m->n_match)
        say(&t, "every packet");
    for (size_t i = 0; i < m->n_match; i++) {
        say(&t, "%s", i ? " or " : "");
        say_group(&t, &m->match[i]);
    }
    for (size_t i = 0; i < m->n_of; i++)
        say(&t, "%s%s", i ? ", " : " of ", m->of[i].path);
    for (size_t i = 0; i < m->n_except; i++) {
        say(&t, "%s", i ? " or " : " except ");
        say_group(&t, &m->except[i]);
    }
    return buf;
}
