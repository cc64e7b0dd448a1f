/* Rules into the maps of net/classify.bpf.h. Each fault's part is kept here too, sorted, so that a change touches what
 * differs, and a removal what there is. */
#include "net/classifier_priv.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"

#define BITS SQ_CLASSIFY_FAULTS
#define RULES SQ_CLASSIFY_RULES

struct fault {
    bool used;
    struct sq_clgroup *group; /* owned */
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

static int put_head(struct sq_classifier *c, struct sq_err *e)
{
    uint32_t zero = 0;

    return bpf_map_update_elem(c->maps.n_rules, &zero, &c->head, BPF_ANY) < 0 ? sq_classifier_full(e, -errno, "rules")
                                                                              : 0;
}

static int put_rule(struct sq_classifier *c, uint32_t index, const struct sq_rule *rule, struct sq_err *e)
{
    return bpf_map_update_elem(c->maps.rules, &index, rule, BPF_ANY) < 0 ? sq_classifier_full(e, -errno, "rules") : 0;
}

static int switch_rule(struct sq_classifier *c, const struct sq_clgroup *g, bool on, struct sq_err *e)
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

static const void *key_at(const struct sq_clset *s, size_t size, size_t i)
{
    return (const char *)s->key.any + i * size;
}

static int put_key(const struct sq_classifier *c, int map, const void *key, struct sq_err *e)
{
    uint8_t one = 1;

    if (bpf_map_update_elem(map, key, &one, BPF_ANY) == 0)
        return 0;
    return sq_classifier_full(e, -errno, map == c->maps.prefixes ? "addresses" : "ports");
}

/* The keys of FROM that are not in BESIDES (may be NULL): into the map, or (PUT false) out of it. */
static int difference(const struct sq_classifier *c, int map, const struct sq_clset *from,
                      const struct sq_clset *besides, bool put, struct sq_err *e)
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

/* ---- one fault ---- */

/* Can this program tell cgroups apart? */
static int check_of(const struct sq_classifier *c, const struct sq_match *m, struct sq_err *e)
{
    if (!m->n_of || c->egress || c->maps.env.sock_cgroup)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "this kernel doesn't tell for which cgroup an incoming packet is");
    sq_err_hint(e, "it needs Linux 6.1 with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux); direction: egress works");
    return -EOPNOTSUPP;
}

static uint32_t most_rules(const struct sq_classifier *c)
{
    return c->maps.env.callback ? RULES : SQ_CLASSIFY_FEW;
}

static int place_rules(struct sq_classifier *c, struct sq_clgroup *g, size_t n, struct sq_err *e)
{
    uint32_t index = 0, high = c->head.n;

    for (size_t i = 0; i < n; i++, index++) {
        while (index < most_rules(c) && c->taken[index])
            index++;
        if (index == most_rules(c))
            return sq_classifier_full(e, -ENOSPC, "rules");
        g[i].index = index;
        high = index + 1 > high ? index + 1 : high;
    }
    for (size_t i = 0; i < n; i++)
        c->taken[g[i].index] = true;
    c->head.n = high;
    return 0;
}

static void take_out(struct sq_classifier *c, const struct sq_clgroup *g, size_t n)
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
static int put_in(struct sq_classifier *c, struct sq_clgroup *g, size_t n, struct sq_err *e)
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
    return bpf_map_update_elem(c->maps.counts, &key, zero, BPF_ANY) < 0 ? sq_classifier_full(e, -errno, "counters") : 0;
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
        sq_clgroups_free(c->fault[i].group, c->fault[i].n);
    free(c);
}

int sq_classifier_add(struct sq_classifier *c, const struct sq_match *m, struct sq_err *e)
{
    struct fault *f;
    int bit = 0, r;

    while (bit < BITS && c->fault[bit].used)
        bit++;
    if (bit == BITS)
        return sq_classifier_full(e, -ENOSPC, "faults on one interface and direction");
    f = &c->fault[bit];
    r = check_of(c, m, e);
    r = r ? r : sq_clgroups_build(&c->next_set, m, bit, &f->group, &f->n, e);
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
        sq_clgroups_free(f->group, f->n);
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
    sq_clgroups_free(f->group, f->n);
    *f = (struct fault){0};
}

/* But for the elements of its sets. */
static bool same_rule(const struct sq_clgroup *a, const struct sq_clgroup *b)
{
    return a->owns == b->owns && a->rule.flags == b->rule.flags && a->rule.protocol == b->rule.protocol &&
           a->rule.dscp == b->rule.dscp && a->rule.vlan == b->rule.vlan && a->rule.cgroup == b->rule.cgroup &&
           a->rule.level == b->rule.level && !a->rule.hosts == !b->rule.hosts && !a->rule.ports == !b->rule.ports &&
           !a->rule.locals == !b->rule.locals;
}

static void renumber(struct sq_clset *s, uint32_t number, size_t size)
{
    uint32_t be = htonl(number);

    s->number = number;
    for (size_t i = 0; i < s->n; i++)
        memcpy((char *)s->key.any + i * size + sizeof(uint32_t), &be, sizeof be);
}

static int change_set(struct sq_classifier *c, int map, struct sq_clset *old, struct sq_clset *new, bool put,
                      struct sq_err *e)
{
    return put ? difference(c, map, new, old, true, e) : difference(c, map, old, new, false, e);
}

static int change_sets(struct sq_classifier *c, struct sq_clgroup *old, struct sq_clgroup *new, size_t n, bool put,
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
static int change_elements(struct sq_classifier *c, struct fault *f, struct sq_clgroup *new, struct sq_err *e)
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
    struct sq_clgroup *new = NULL;
    size_t n = 0;
    bool same;
    int r;

    if (bit < 0 || bit >= BITS || !c->fault[bit].used)
        return sq_err(e, -ENOENT, "the classifier has no fault %d", bit);
    f = &c->fault[bit];
    r = check_of(c, m, e);
    r = r ? r : sq_clgroups_build(&c->next_set, m, bit, &new, &n, e);
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
        sq_clgroups_free(new, n);
        return r;
    }
    sq_clgroups_free(f->group, f->n);
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

static bool has_keys(const struct sq_classifier *c, int map, const struct sq_clset *s)
{
    size_t size = size_of(map, c);
    uint8_t value;

    /* That a lookup is content with a shorter prefix of the same set is right: then nothing is missing. */
    for (size_t i = 0; i < s->n; i++)
        if (bpf_map_lookup_elem(map, key_at(s, size, i), &value) < 0)
            return false;
    return true;
}

static bool same_keys(const struct sq_clset *a, const struct sq_clset *b, size_t size)
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

static bool in_kernel(const struct sq_classifier *c, const struct sq_clgroup *g, struct sq_err *e)
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
    uint32_t scratch = 0;
    struct sq_classify_head head;
    struct sq_clgroup *want = NULL;
    const struct fault *f;
    uint32_t zero = 0;
    bool same;
    size_t n = 0;

    if (bit < 0 || bit >= BITS || !c->fault[bit].used)
        return sq_err(e, -EBADE, "the classifier has no fault %d", bit), false;
    f = &c->fault[bit];
    if (sq_clgroups_build(&scratch, m, bit, &want, &n, e) < 0)
        return false;
    same = n == f->n;
    for (size_t i = 0; same && i < n; i++)
        same = same_rule(&f->group[i], &want[i]) &&
               same_keys(&f->group[i].hosts, &want[i].hosts, sizeof(struct sq_prefix_key)) &&
               same_keys(&f->group[i].ports, &want[i].ports, sizeof(struct sq_port_key)) &&
               same_keys(&f->group[i].locals, &want[i].locals, sizeof(struct sq_port_key));
    sq_clgroups_free(want, n);
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
