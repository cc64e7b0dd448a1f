/* Rules into the maps of net/classify.bpf.h. Each fault's part is kept here too, sorted, so that a change touches what
 * differs, and a removal what there is. */
#include "net/classifier.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"

#define BITS SQ_CLASSIFY_FAULTS
#define RULES SQ_CLASSIFY_RULES

/* Sorted keys of one set of a trie; without duplicates. */
struct set {
    uint32_t number; /* 0: any */
    size_t n;
    union {
        void *any;
        struct sq_prefix_key *prefix;
        struct sq_port_key *port;
    } key; /* owned */
};

/* A group as it is in the maps: one rule for each cgroup of the fault, and its sets. */
struct group {
    struct sq_rule rule; /* without ON; `cgroup` and `level` as the rule at `index` says */
    uint32_t index;      /* in the map */
    bool owns;           /* the sets: the group's first rule; its others share them */
    struct set hosts, ports, locals;
};

struct fault {
    bool used;
    struct group *group; /* owned */
    size_t n;
};

struct sq_classifier {
    struct sq_classify_maps maps;
    struct sq_classify_head head;
    bool egress;
    bool taken[RULES];
    uint32_t next_set;
    struct fault fault[BITS];
};

/* ---- the maps ---- */

static int full(struct sq_err *e, int r, const char *what)
{
    if (r == -ENOSPC || r == -E2BIG) {
        sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "the classifier has no room for more %s", what);
        return -ENOSPC;
    }
    return sq_err_sys(e, r, "cannot write %s of the classifier", what);
}

static int put_head(struct sq_classifier *c, struct sq_err *e)
{
    uint32_t zero = 0;

    return bpf_map_update_elem(c->maps.n_rules, &zero, &c->head, BPF_ANY) < 0 ? full(e, -errno, "rules") : 0;
}

static int put_rule(struct sq_classifier *c, uint32_t index, const struct sq_rule *rule, struct sq_err *e)
{
    return bpf_map_update_elem(c->maps.rules, &index, rule, BPF_ANY) < 0 ? full(e, -errno, "rules") : 0;
}

static int switch_rule(struct sq_classifier *c, const struct group *g, bool on, struct sq_err *e)
{
    struct sq_rule rule = g->rule;

    if (on)
        rule.flags |= SQ_RULE_ON;
    return put_rule(c, g->index, &rule, e);
}

static size_t size_of(int map, const struct sq_classifier *c)
{
    return map == c->maps.prefixes ? sizeof(struct sq_prefix_key) : sizeof(struct sq_port_key);
}

static const void *key_at(const struct set *s, size_t size, size_t i)
{
    return (const char *)s->key.any + i * size;
}

static int put_key(const struct sq_classifier *c, int map, const void *key, struct sq_err *e)
{
    uint8_t one = 1;

    if (bpf_map_update_elem(map, key, &one, BPF_ANY) == 0)
        return 0;
    return full(e, -errno, map == c->maps.prefixes ? "addresses" : "ports");
}

/* The keys of FROM that are not in BESIDES (may be NULL): into the map, or (PUT false) out of it. */
static int difference(const struct sq_classifier *c, int map, const struct set *from, const struct set *besides,
                      bool put, struct sq_err *e)
{
    size_t size = size_of(map, c), k = 0, n = besides ? besides->n : 0;

    for (size_t i = 0; i < from->n; i++) {
        const void *key = key_at(from, size, i);
        int order = 1;

        while (k < n && (order = memcmp(key_at(besides, size, k), key, size)) < 0)
            k++;
        if (k < n && order == 0)
            continue;
        int r = put ? put_key(c, map, key, e) : 0;
        if (r < 0)
            return r;
        if (!put)
            (void)bpf_map_delete_elem(map, key);
    }
    return 0;
}

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

static int host_set(struct set *s, uint32_t number, const struct sq_prefix *p, size_t n, struct sq_err *e)
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

static int port_set(struct set *s, uint32_t number, const struct sq_range *r, size_t n, struct sq_err *e)
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

static void free_groups(struct group *g, size_t n)
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
static uint32_t new_set(struct sq_classifier *c)
{
    return ++c->next_set ? c->next_set : ++c->next_set;
}

static int build_group(struct sq_classifier *c, struct group *g, const struct sq_group *from, bool except, int bit,
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
    r = host_set(&g->hosts, new_set(c), from->host, from->n_host, e);
    r = r ? r : port_set(&g->ports, new_set(c), from->port, from->n_port, e);
    r = r ? r : port_set(&g->locals, new_set(c), from->local_port, from->n_local_port, e);
    g->rule.hosts = g->hosts.number;
    g->rule.ports = g->ports.number;
    g->rule.locals = g->locals.number;
    return r;
}

/* Can this program tell cgroups apart? */
static int check_of(const struct sq_classifier *c, const struct sq_match *m, struct sq_err *e)
{
    if (!m->n_of || c->egress || c->maps.env.sock_cgroup)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "this kernel doesn't tell for which cgroup an incoming packet is");
    sq_err_hint(e, "it needs Linux 6.1 with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux); direction: egress works");
    return -EOPNOTSUPP;
}

/* All groups of M as rules, not in the maps yet. */
static int build(struct sq_classifier *c, const struct sq_match *m, int bit, struct group **out, size_t *n,
                 struct sq_err *e)
{
    size_t matches = m->n_match ? m->n_match : 1, of = m->n_of ? m->n_of : 1;
    struct group *g;
    int r = 0;

    *n = 0;
    if (matches > RULES || of > RULES || m->n_except > RULES || matches * of + m->n_except > RULES)
        return full(e, -ENOSPC, "rules");
    g = calloc(matches * of + m->n_except, sizeof *g);
    if (!g)
        return sq_err(e, -ENOMEM, "out of memory");
    /* Exceptions first: they are switched on first, too. */
    for (size_t i = 0; r == 0 && i < m->n_except; i++)
        r = build_group(c, &g[(*n)++], &m->except[i], true, bit, e);
    for (size_t i = 0; r == 0 && i < matches; i++) {
        struct group *first = &g[*n];

        r = build_group(c, &g[(*n)++], m->n_match ? &m->match[i] : NULL, false, bit, e);
        for (size_t k = 0; r == 0 && k < m->n_of; k++) {
            struct group *one = k ? &g[(*n)++] : first;

            if (k) {
                *one = *first;
                one->owns = false;
            }
            one->rule.cgroup = m->of[k].id;
            one->rule.level = m->of[k].level;
        }
    }
    if (r < 0) {
        free_groups(g, *n);
        return r;
    }
    *out = g;
    return 0;
}

static uint32_t most_rules(const struct sq_classifier *c)
{
    return c->maps.env.callback ? RULES : SQ_CLASSIFY_FEW;
}

static int place_rules(struct sq_classifier *c, struct group *g, size_t n, struct sq_err *e)
{
    uint32_t index = 0, high = c->head.n;

    for (size_t i = 0; i < n; i++, index++) {
        while (index < most_rules(c) && c->taken[index])
            index++;
        if (index == most_rules(c))
            return full(e, -ENOSPC, "rules");
        g[i].index = index;
        high = index + 1 > high ? index + 1 : high;
    }
    for (size_t i = 0; i < n; i++)
        c->taken[g[i].index] = true;
    c->head.n = high;
    return 0;
}

static void take_out(struct sq_classifier *c, const struct group *g, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        (void)put_rule(c, g[i].index, &(struct sq_rule){0}, NULL);
        c->taken[g[i].index] = false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!g[i].owns)
            continue;
        (void)difference(c, c->maps.prefixes, &g[i].hosts, NULL, false, NULL);
        (void)difference(c, c->maps.ports, &g[i].ports, NULL, false, NULL);
        (void)difference(c, c->maps.ports, &g[i].locals, NULL, false, NULL);
    }
    while (c->head.n > 0 && !c->taken[c->head.n - 1])
        c->head.n--;
}

/* Into the maps, rules on; what the fault's own bit in the head says is up to the caller. */
static int put_in(struct sq_classifier *c, struct group *g, size_t n, struct sq_err *e)
{
    int r = place_rules(c, g, n, e);

    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (!g[i].owns)
            continue;
        r = difference(c, c->maps.prefixes, &g[i].hosts, NULL, true, e);
        r = r ? r : difference(c, c->maps.ports, &g[i].ports, NULL, true, e);
        r = r ? r : difference(c, c->maps.ports, &g[i].locals, NULL, true, e);
    }
    r = r ? r : put_head(c, e);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = switch_rule(c, &g[i], true, e);
    if (r < 0) {
        take_out(c, g, n);
        (void)put_head(c, NULL);
    }
    return r;
}

static void set_on(struct sq_classifier *c, int bit, bool on)
{
    uint64_t one = UINT64_C(1) << (bit % 64);

    if (on)
        c->head.on.w[bit / 64] |= one;
    else
        c->head.on.w[bit / 64] &= ~one;
}

static int zero_count(const struct sq_classifier *c, int bit, struct sq_err *e)
{
    int cpus = libbpf_num_possible_cpus();
    cleanup_free struct sq_classify_count *zero = calloc(cpus > 0 ? (size_t)cpus : 1, sizeof *zero);
    uint32_t key = (uint32_t)bit;

    if (!zero)
        return sq_err(e, -ENOMEM, "out of memory");
    return bpf_map_update_elem(c->maps.counts, &key, zero, BPF_ANY) < 0 ? full(e, -errno, "counters") : 0;
}

/* ---- the kernel ---- */

/* Bytes into STRUCT of MEMBER (of an anonymous member, too); -1: it has none. */
static int offset_in(const struct btf *btf, int32_t type, const char *member, unsigned depth)
{
    const struct btf_type *t = type > 0 ? btf__type_by_id(btf, (uint32_t)type) : NULL;
    const struct btf_member *m = t && (btf_is_struct(t) || btf_is_union(t)) ? btf_members(t) : NULL;

    for (uint32_t i = 0; m && i < btf_vlen(t); i++) {
        const char *name = btf__name_by_offset(btf, m[i].name_off);
        int bits = (int)btf_member_bit_offset(t, i), inner;

        if (name && strcmp(name, member) == 0)
            return bits / 8;
        if (name && *name)
            continue;
        inner = depth < 4 ? offset_in(btf, (int32_t)m[i].type, member, depth + 1) : -1;
        if (inner >= 0)
            return bits / 8 + inner;
    }
    return -1;
}

static int offset_of(const struct btf *btf, const char *type, const char *member)
{
    return offset_in(btf, btf__find_by_name_kind(btf, type, BTF_KIND_STRUCT), member, 0);
}

static void look_at_sockets(struct sq_classify_env *env)
{
    struct btf *btf = btf__load_vmlinux_btf();
    int data, cgroup, level, ancestors, node, id;

    if (libbpf_get_error(btf))
        return;
    data = offset_of(btf, "sock", "sk_cgrp_data");
    cgroup = offset_of(btf, "sock_cgroup_data", "cgroup");
    level = offset_of(btf, "cgroup", "level");
    ancestors = offset_of(btf, "cgroup", "ancestors");
    node = offset_of(btf, "cgroup", "kn");
    id = offset_of(btf, "kernfs_node", "id");
    if (data > 0 && cgroup >= 0 && level >= 0 && ancestors >= 0 && node >= 0 && id >= 0) {
        env->sock_cgroup = (uint32_t)(data + cgroup);
        env->cgroup_level = (uint32_t)level;
        env->cgroup_ancestors = (uint32_t)ancestors;
        env->cgroup_node = (uint32_t)node;
        env->node_id = (uint32_t)id;
    }
    btf__free(btf);
}

void sq_classify_look(struct sq_classify_env *env)
{
    FILE *jit = fopen("/proc/sys/net/core/bpf_jit_enable", "re");
    int on = jit ? getc(jit) : '0';

    if (jit)
        (void)fclose(jit);
    *env = (struct sq_classify_env){0};
    env->callback = on != '0' && on != EOF &&
                    libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_for_each_map_elem, NULL) == 1;
    if (libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_probe_read_kernel, NULL) == 1)
        look_at_sockets(env);
}

/* ---- the calls ---- */

int sq_classifier_new(const struct sq_classify_maps *maps, bool egress, struct sq_classifier **out, struct sq_err *e)
{
    struct sq_classifier *c = calloc(1, sizeof *c);
    int r;

    if (!c)
        return sq_err(e, -ENOMEM, "out of memory");
    c->maps = *maps;
    c->egress = egress;
    c->head.l3 = maps->l3;
    r = put_head(c, e);
    if (r < 0) {
        free(c);
        return r;
    }
    *out = c;
    return 0;
}

void sq_classifier_free(struct sq_classifier *c)
{
    for (int i = 0; c && i < BITS; i++)
        free_groups(c->fault[i].group, c->fault[i].n);
    free(c);
}

int sq_classifier_add(struct sq_classifier *c, const struct sq_match *m, struct sq_err *e)
{
    struct fault *f;
    int bit = 0, r;

    while (bit < BITS && c->fault[bit].used)
        bit++;
    if (bit == BITS)
        return full(e, -ENOSPC, "faults on one interface and direction");
    f = &c->fault[bit];
    r = check_of(c, m, e);
    r = r ? r : build(c, m, bit, &f->group, &f->n, e);
    if (r < 0)
        return r;
    r = zero_count(c, bit, e);
    r = r ? r : put_in(c, f->group, f->n, e);
    if (r == 0) {
        set_on(c, bit, true);
        r = put_head(c, e); /* from here on the kernel sees it, as a whole */
        if (r < 0) {
            set_on(c, bit, false);
            take_out(c, f->group, f->n);
        }
    }
    if (r < 0) {
        free_groups(f->group, f->n);
        *f = (struct fault){0};
        return r;
    }
    f->used = true;
    return bit;
}

void sq_classifier_remove(struct sq_classifier *c, int bit)
{
    struct fault *f;

    if (bit < 0 || bit >= BITS || !c->fault[bit].used)
        return;
    f = &c->fault[bit];
    set_on(c, bit, false);
    (void)put_head(c, NULL);
    take_out(c, f->group, f->n);
    (void)put_head(c, NULL);
    free_groups(f->group, f->n);
    *f = (struct fault){0};
}

/* But for the elements of its sets. */
static bool same_rule(const struct group *a, const struct group *b)
{
    return a->owns == b->owns && a->rule.flags == b->rule.flags && a->rule.protocol == b->rule.protocol &&
           a->rule.dscp == b->rule.dscp && a->rule.vlan == b->rule.vlan && a->rule.cgroup == b->rule.cgroup &&
           a->rule.level == b->rule.level && !a->rule.hosts == !b->rule.hosts && !a->rule.ports == !b->rule.ports &&
           !a->rule.locals == !b->rule.locals;
}

static void renumber(struct set *s, uint32_t number, size_t size)
{
    uint32_t be = htonl(number);

    s->number = number;
    for (size_t i = 0; i < s->n; i++)
        memcpy((char *)s->key.any + i * size + sizeof(uint32_t), &be, sizeof be);
}

static int change_set(struct sq_classifier *c, int map, struct set *old, struct set *new, bool put, struct sq_err *e)
{
    return put ? difference(c, map, new, old, true, e) : difference(c, map, old, new, false, e);
}

static int change_sets(struct sq_classifier *c, struct group *old, struct group *new, size_t n, bool put,
                       struct sq_err *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++) {
        if (!old[i].owns)
            continue;
        r = change_set(c, c->maps.prefixes, &old[i].hosts, &new[i].hosts, put, e);
        r = r ? r : change_set(c, c->maps.ports, &old[i].ports, &new[i].ports, put, e);
        r = r ? r : change_set(c, c->maps.ports, &old[i].locals, &new[i].locals, put, e);
    }
    return r;
}

/* The rules stay; in their sets, what is new goes in first, then what is old comes out. */
static int change_elements(struct sq_classifier *c, struct fault *f, struct group *new, struct sq_err *e)
{
    int r;

    for (size_t i = 0; i < f->n; i++) {
        new[i].index = f->group[i].index;
        new[i].rule = f->group[i].rule;
        renumber(&new[i].hosts, f->group[i].hosts.number, sizeof(struct sq_prefix_key));
        renumber(&new[i].ports, f->group[i].ports.number, sizeof(struct sq_port_key));
        renumber(&new[i].locals, f->group[i].locals.number, sizeof(struct sq_port_key));
    }
    r = change_sets(c, f->group, new, f->n, true, e);
    if (r < 0) /* what has gone in comes out again */
        (void)change_sets(c, new, f->group, f->n, false, NULL);
    else
        (void)change_sets(c, f->group, new, f->n, false, NULL);
    return r;
}

int sq_classifier_change(struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e)
{
    struct fault *f;
    struct group *new = NULL;
    size_t n = 0;
    bool same;
    int r;

    if (bit < 0 || bit >= BITS || !c->fault[bit].used)
        return sq_err(e, -ENOENT, "the classifier has no fault %d", bit);
    f = &c->fault[bit];
    r = check_of(c, m, e);
    r = r ? r : build(c, m, bit, &new, &n, e);
    if (r < 0)
        return r;
    same = n == f->n;
    for (size_t i = 0; same && i < n; i++)
        same = same_rule(&f->group[i], &new[i]);
    if (same) {
        r = change_elements(c, f, new, e);
    } else {
        r = put_in(c, new, n, e);
        if (r == 0) {
            take_out(c, f->group, f->n);
            r = put_head(c, e);
        }
    }
    if (r < 0) {
        free_groups(new, n);
        return r;
    }
    free_groups(f->group, f->n);
    f->group = new;
    f->n = n;
    return 0;
}

int sq_classifier_count(const struct sq_classifier *c, int bit, struct sq_classify_count *out, struct sq_err *e)
{
    int cpus = libbpf_num_possible_cpus();
    cleanup_free struct sq_classify_count *all = calloc(cpus > 0 ? (size_t)cpus : 1, sizeof *all);
    uint32_t key = (uint32_t)bit;

    if (!all)
        return sq_err(e, -ENOMEM, "out of memory");
    if (bit < 0 || bit >= BITS || bpf_map_lookup_elem(c->maps.counts, &key, all) < 0)
        return sq_err_sys(e, bit < 0 || bit >= BITS ? -EINVAL : -errno, "cannot read the counters of the classifier");
    *out = (struct sq_classify_count){0};
    for (int i = 0; i < cpus; i++) {
        out->packets += all[i].packets;
        out->bytes += all[i].bytes;
    }
    return 0;
}

/* ---- the kernel's side ---- */

static bool has_keys(const struct sq_classifier *c, int map, const struct set *s)
{
    size_t size = size_of(map, c);
    uint8_t value;

    /* That a lookup is content with a shorter prefix of the same set is right: then nothing is missing. */
    for (size_t i = 0; i < s->n; i++)
        if (bpf_map_lookup_elem(map, key_at(s, size, i), &value) < 0)
            return false;
    return true;
}

static bool same_keys(const struct set *a, const struct set *b, size_t size)
{
    size_t skip = 2 * sizeof(uint32_t); /* prefixlen is compared alone: set numbers differ */

    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const char *x = key_at(a, size, i), *y = key_at(b, size, i);

        if (memcmp(x, y, sizeof(uint32_t)) != 0 || memcmp(x + skip, y + skip, size - skip) != 0)
            return false;
    }
    return true;
}

static bool in_kernel(const struct sq_classifier *c, const struct group *g, struct sq_err *e)
{
    struct sq_rule got, want = g->rule;

    want.flags |= SQ_RULE_ON;
    if (bpf_map_lookup_elem(c->maps.rules, &g->index, &got) < 0 || memcmp(&got, &want, sizeof got) != 0) {
        sq_err(e, -EBADE, "rule %u of fault %u in the kernel is not what was asked", g->index, want.fault);
        return false;
    }
    if (g->owns && !(has_keys(c, c->maps.prefixes, &g->hosts) && has_keys(c, c->maps.ports, &g->ports) &&
                     has_keys(c, c->maps.ports, &g->locals))) {
        sq_err(e, -EBADE, "an address or port of rule %u of fault %u is missing in the kernel", g->index, want.fault);
        return false;
    }
    return true;
}

bool sq_classifier_same(const struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e)
{
    struct sq_classifier scratch = {.next_set = 0};
    struct sq_classify_head head;
    struct group *want = NULL;
    const struct fault *f;
    uint32_t zero = 0;
    bool same;
    size_t n = 0;

    if (bit < 0 || bit >= BITS || !c->fault[bit].used)
        return sq_err(e, -EBADE, "the classifier has no fault %d", bit), false;
    f = &c->fault[bit];
    if (build(&scratch, m, bit, &want, &n, e) < 0)
        return false;
    same = n == f->n;
    for (size_t i = 0; same && i < n; i++)
        same = same_rule(&f->group[i], &want[i]) &&
               same_keys(&f->group[i].hosts, &want[i].hosts, sizeof(struct sq_prefix_key)) &&
               same_keys(&f->group[i].ports, &want[i].ports, sizeof(struct sq_port_key)) &&
               same_keys(&f->group[i].locals, &want[i].locals, sizeof(struct sq_port_key));
    free_groups(want, n);
    if (!same)
        return sq_err(e, -EBADE, "the rules of fault %d are not what was asked", bit), false;
    if (bpf_map_lookup_elem(c->maps.n_rules, &zero, &head) < 0 || !(head.on.w[bit / 64] & UINT64_C(1) << (bit % 64)))
        return sq_err(e, -EBADE, "fault %d is not switched on in the kernel", bit), false;
    for (size_t i = 0; i < n; i++) {
        if (f->group[i].index >= head.n)
            return sq_err(e, -EBADE, "the kernel looks at too few rules for fault %d", bit), false;
        if (!in_kernel(c, &f->group[i], e))
            return false;
    }
    return true;
}
