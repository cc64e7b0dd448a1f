/* The table of a caller by nftables: from the compiled destinations to commands, and what the kernel lists back.
 *
 *   map m4, m6    destination and port -> goto eN: the edge in slot N, already decided (table.h): no two overlap
 *   chain eN      redirect to the edge's listeners
 *   chain out     nat at output, before everybody's: connects of the cgroup -> maps. Only what begins a connection (SYN
 *                 alone) is meant: a connection from before, which the kernel has just begun to track, must not be led
 *                 elsewhere in its middle
 *   f4, f6, xN, fail   the same before NAT, for edges with call/error: log to us, and answer with a reset */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "intercept/nft_int.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define SYN_ALONE "tcp flags & (fin | syn | rst | ack) == syn"
#define NAT_PRIORITY (-101)  /* NAT's own: -100 (linux/netfilter_ipv4.h) */
#define FAIL_PRIORITY (-151) /* mangle's: -150 */

static const char *const ip_names[2] = {"ip", "ip6"};

/* ---- the elements ---- */

static sq_nat_addr start_of(const struct sq_table *t, uint32_t i)
{
    return i < t->n ? (sq_nat_addr)t->span[i].hi << 64 | t->span[i].lo : 0;
}

static const struct sq_nat_edge *edge_at(const struct sq_nat *nat, uint32_t slot)
{
    for (size_t i = 0; i < nat->n_edges; i++)
        if (nat->edge[i].slot == slot)
            return &nat->edge[i];
    return NULL;
}

/* What is of the family; false: nothing. IPv4 is ::ffff:0:0/96, which IPv6 packets never have. */
static bool of_family(struct sq_nat_element *el, bool v6)
{
    const sq_nat_addr lo = (sq_nat_addr)0xffff << 32, hi = lo | 0xffffffffu;

    if (v6)
        return el->lo < lo || el->hi > hi;
    if (el->lo > hi || el->hi < lo)
        return false;
    el->lo = el->lo < lo ? 0 : el->lo - lo;
    el->hi = el->hi > hi ? 0xffffffffu : el->hi - lo;
    return true;
}

static int add_element(struct sq_nat_table *t, bool v6, struct sq_nat_element one, struct sq_err *e)
{
    struct sq_nat_element **v = &t->el[v6];
    size_t *n = &t->n[v6];

    if (!of_family(&one, v6))
        return 0;
    if (*n == SQ_NAT_ELEMENTS)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the edges of one caller have too many destinations for nftables");
    if ((*n & (*n - 1)) == 0) {
        struct sq_nat_element *grown = realloc(*v, (*n ? 2 * *n : 1) * sizeof **v);

        if (!grown)
            return sq_err(e, -ENOMEM, "out of memory");
        *v = grown;
    }
    (*v)[(*n)++] = one;
    return 0;
}

int sq_nat_elements(struct sq_nat_table *t, const struct sq_table *from, struct sq_err *e)
{
    int rc = 0;

    for (uint32_t i = 0; i < from->n; i++)
        for (uint16_t k = 0; k < from->span[i].n && rc == 0; k++) {
            const struct sq_seg *seg = &from->seg[from->span[i].first + k];
            bool last = k + 1 == from->span[i].n;
            struct sq_nat_element one = {.lo = start_of(from, i),
                                         .hi = start_of(from, i + 1) - 1,
                                         .from = seg->from,
                                         .to = last ? 65535 : (uint16_t)(seg[1].from - 1)};

            if (seg->edge == 0)
                continue;
            one.slot = seg->edge - 1u;
            const struct sq_nat_edge *edge = edge_at(t->nat, one.slot);
            for (int six = 0; edge && six < 2 && rc == 0; six++)
                rc = edge->port[six] ? add_element(t, six, one, e) : 0;
        }
    return rc;
}

void sq_nat_table_clear(struct sq_nat_table *t)
{
    free(t->el[0]);
    free(t->el[1]);
    t->el[0] = t->el[1] = NULL;
    t->n[0] = t->n[1] = 0;
}

/* ---- commands ---- */

static size_t errors_at(const struct sq_nat_table *t, uint32_t slot, struct sq_nat_error out[SQ_EDGE_RULES])
{
    const struct sq_edge *edge = slot < SQ_EDGES ? t->c->ic->edge[slot] : NULL;

    return edge ? sq_nat_errors(edge, t->c, out) : 0;
}

static bool any_error(const struct sq_nat_table *t)
{
    struct sq_nat_error unused[SQ_EDGE_RULES];

    for (size_t i = 0; i < t->nat->n_edges; i++)
        if (errors_at(t, t->nat->edge[i].slot, unused))
            return true;
    return false;
}

static void put_address(FILE *f, sq_nat_addr a, bool v6)
{
    unsigned char raw[16];
    char text[INET6_ADDRSTRLEN];

    for (int i = 15; i >= 0; i--, a >>= 8)
        raw[i] = (unsigned char)a;
    (void)inet_ntop(v6 ? AF_INET6 : AF_INET, v6 ? raw : raw + 12, text, sizeof text);
    (void)fputs(text, f);
}

static void put_elements(FILE *f, const struct sq_nat_table *t, bool v6, bool fail)
{
    struct sq_nat_error unused[SQ_EDGE_RULES];

    for (size_t i = 0; i < t->n[v6]; i++) {
        const struct sq_nat_element *el = &t->el[v6][i];

        if (fail && !errors_at(t, el->slot, unused))
            continue;
        (void)fprintf(f, "add element inet %s %c%c { ", t->name, fail ? 'f' : 'm', v6 ? '6' : '4');
        put_address(f, el->lo, v6);
        (void)fputc('-', f);
        put_address(f, el->hi, v6);
        (void)fprintf(f, " . %u-%u : goto %c%u }\n", el->from, el->to, fail ? 'x' : 'e', el->slot);
    }
}

static void put_base(FILE *f, const struct sq_nat_table *t, bool fail, int cgroup_fd)
{
    (void)fprintf(f, "add chain inet %s %s { type %s hook output priority %d; policy accept; }\n", t->name,
                  fail ? "fail" : "out", fail ? "filter" : "nat", fail ? FAIL_PRIORITY : NAT_PRIORITY);
    for (int six = 0; six < 2; six++) {
        (void)fprintf(f, "add map inet %s %c%c { type ipv%c_addr . inet_service : verdict; flags interval; }\n",
                      t->name, fail ? 'f' : 'm', six ? '6' : '4', six ? '6' : '4');
        put_elements(f, t, six, fail);
        /* libnftables looks a cgroup up below /sys/fs/cgroup; by descriptor it may be anywhere, called anything. */
        (void)fprintf(f,
                      "add rule inet %s %s socket cgroupv2 level %u \"../../../proc/self/fd/%d\" " SYN_ALONE
                      " %s daddr . tcp dport vmap @%c%c\n",
                      t->name, fail ? "fail" : "out", t->nat->level, cgroup_fd, ip_names[six], fail ? 'f' : 'm',
                      six ? '6' : '4');
    }
}

static void put_edge(FILE *f, const struct sq_nat_table *t, const struct sq_nat_edge *edge)
{
    struct sq_nat_error er[SQ_EDGE_RULES];
    size_t n = errors_at(t, edge->slot, er);

    (void)fprintf(f, "add chain inet %s e%u\n", t->name, edge->slot);
    for (int six = 0; six < 2; six++)
        if (edge->port[six])
            (void)fprintf(f, "add rule inet %s e%u meta nfproto ipv%c meta l4proto tcp redirect to :%u\n", t->name,
                          edge->slot, six ? '6' : '4', edge->port[six]);
    if (n)
        (void)fprintf(f, "add chain inet %s x%u\n", t->name, edge->slot);
    for (size_t i = 0; i < n; i++) {
        (void)fprintf(f, "add rule inet %s x%u meta l4proto tcp ", t->name, edge->slot);
        if (er[i].share < SQ_NAT_SHARE)
            (void)fprintf(f, "numgen random mod %u < %u ", SQ_NAT_SHARE, er[i].share);
        (void)fprintf(f, "log prefix \"" SQ_NAT_PREFIX "\" group %u reject with tcp reset\n", t->c->id, edge->id,
                      er[i].number, t->group);
    }
}

char *sq_nat_text(const struct sq_nat_table *t, int cgroup_fd)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    bool bad;

    if (!f)
        return NULL;
    for (size_t i = 0; i < t->nat->n_edges; i++)
        put_edge(f, t, &t->nat->edge[i]);
    put_base(f, t, false, cgroup_fd);
    if (any_error(t))
        put_base(f, t, true, cgroup_fd);
    bad = ferror(f);
    if (fclose(f) == 0 && !bad)
        return text;
    free(text);
    return NULL;
}

/* ---- and back ---- */

static bool read_address(const char *s, bool v6, sq_nat_addr *out)
{
    unsigned char raw[16] = {0};

    if (!s || inet_pton(v6 ? AF_INET6 : AF_INET, s, v6 ? raw : raw + 12) != 1)
        return false;
    *out = 0;
    for (int i = 0; i < 16; i++)
        *out = *out << 8 | raw[i];
    return true;
}

/* "10.0.0.1", {"range": [..]} or {"prefix": {..}} */
static bool read_span(const json_t *j, bool v6, struct sq_nat_element *out)
{
    const json_t *range = json_object_get(j, "range"), *prefix = json_object_get(j, "prefix");
    int64_t len = sq_json_int_or(prefix, "len", -1);
    int bits = v6 ? 128 : 32;

    if (range)
        return read_address(json_string_value(json_array_get(range, 0)), v6, &out->lo) &&
               read_address(json_string_value(json_array_get(range, 1)), v6, &out->hi);
    if (!read_address(prefix ? sq_json_str_or(prefix, "addr", "") : json_string_value(j), v6, &out->lo))
        return false;
    if (prefix && (len < 0 || len > bits))
        return false;
    len = prefix ? len : bits;
    out->hi = out->lo | (len == 0 ? (v6 ? ~(sq_nat_addr)0 : 0xffffffffu) : ((sq_nat_addr)1 << (bits - len)) - 1);
    return true;
}

static bool read_ports(const json_t *j, struct sq_nat_element *out)
{
    const json_t *range = json_object_get(j, "range");
    json_int_t from = json_integer_value(range ? json_array_get(range, 0) : j);
    json_int_t to = json_integer_value(range ? json_array_get(range, 1) : j);

    out->from = (uint16_t)from;
    out->to = (uint16_t)to;
    return from >= 0 && to >= from && to <= 65535 && (range || json_is_integer(j));
}

/* [{"concat": [address, port]}, {"goto": {"target": "e3"}}] */
static bool has_element(const struct sq_nat_table *t, const json_t *j, bool v6, bool fail)
{
    const json_t *key = json_object_get(json_array_get(j, 0), "concat");
    const char *to = sq_json_str_or(json_object_get(json_array_get(j, 1), "goto"), "target", "");
    struct sq_nat_element el = {0};

    if (!read_span(json_array_get(key, 0), v6, &el) || !read_ports(json_array_get(key, 1), &el) ||
        to[0] != (fail ? 'x' : 'e'))
        return false;
    el.slot = (uint32_t)strtoul(to + 1, NULL, 10);
    /* Ours are sorted by their spans (as in the compiled table), and within one by ports. */
    for (size_t lo = 0, hi = t->n[v6]; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        const struct sq_nat_element *m = &t->el[v6][mid];

        if (m->lo == el.lo && m->from == el.from)
            return m->hi == el.hi && m->to == el.to && m->slot == el.slot;
        if (m->lo < el.lo || (m->lo == el.lo && m->from < el.from))
            lo = mid + 1;
        else
            hi = mid;
    }
    return false;
}

static const json_t *object_of(const json_t *objects, const char *kind, const char *name)
{
    const json_t *o, *found;
    size_t i;

    json_array_foreach(objects, i, o)
    {
        found = json_object_get(o, kind);
        if (found && strcmp(sq_json_str_or(found, "name", ""), name) == 0)
            return found;
    }
    return NULL;
}

static bool same_map(const struct sq_nat_table *t, const json_t *objects, bool v6, bool fail)
{
    const char name[3] = {fail ? 'f' : 'm', v6 ? '6' : '4', '\0'};
    const json_t *map = object_of(objects, "map", name), *elem = json_object_get(map, "elem"), *j;
    struct sq_nat_error unused[SQ_EDGE_RULES];
    size_t want = 0, i;

    for (i = 0; i < t->n[v6]; i++)
        want += !fail || errors_at(t, t->el[v6][i].slot, unused);
    if (!map || json_array_size(elem) != want)
        return false;
    json_array_foreach(elem, i, j) if (!has_element(t, j, v6, fail)) return false;
    return true;
}

/* The statement KIND of rule I of a chain; NULL: there is none. */
static const json_t *statement(const json_t *objects, const char *chain, size_t i, const char *kind)
{
    const json_t *o, *r, *s;
    size_t k, m;

    json_array_foreach(objects, k, o)
    {
        r = json_object_get(o, "rule");
        if (!r || strcmp(sq_json_str_or(r, "chain", ""), chain) != 0 || i-- > 0)
            continue;
        json_array_foreach(json_object_get(r, "expr"), m, s)
        {
            const json_t *found = json_object_get(s, kind);

            if (found && (strcmp(kind, "match") != 0 || json_object_get(json_object_get(found, "left"), "numgen") ||
                          json_object_get(json_object_get(found, "left"), "socket")))
                return found;
        }
        return NULL;
    }
    return NULL;
}

static bool same_edge(const struct sq_nat_table *t, const json_t *objects, const struct sq_nat_edge *edge)
{
    struct sq_nat_error er[SQ_EDGE_RULES];
    char chain[16], prefix[64];
    size_t rule = 0, n = errors_at(t, edge->slot, er);

    (void)snprintf(chain, sizeof chain, "e%u", edge->slot);
    for (int six = 0; six < 2; six++)
        if (edge->port[six] &&
            sq_json_int_or(statement(objects, chain, rule++, "redirect"), "port", 0) != edge->port[six])
            return false;
    (void)snprintf(chain, sizeof chain, "x%u", edge->slot);
    for (size_t i = 0; i < n; i++) {
        const json_t *share = statement(objects, chain, i, "match"), *log = statement(objects, chain, i, "log");

        (void)snprintf(prefix, sizeof prefix, SQ_NAT_PREFIX, t->c->id, edge->id, er[i].number);
        if (sq_json_int_or(share, "right", SQ_NAT_SHARE) != er[i].share ||
            strcmp(sq_json_str_or(log, "prefix", ""), prefix) != 0 || sq_json_int_or(log, "group", -1) != t->group ||
            strcmp(sq_json_str_or(statement(objects, chain, i, "reject"), "type", ""), "tcp reset") != 0)
            return false;
    }
    return true;
}

/* Both rules of a base chain mean the cgroup: by its path below /sys/fs/cgroup, or, when it is gone, by its number. */
static bool same_cgroup(const struct sq_nat_table *t, const json_t *objects, const char *chain)
{
    for (size_t i = 0; i < 2; i++) {
        const char *right = sq_json_str_or(statement(objects, chain, i, "match"), "right", "");
        char path[SQ_CGROUP_MAX + 32];
        struct stat st;

        (void)snprintf(path, sizeof path, "/sys/fs/cgroup/%s", right);
        if (strtoull(right, NULL, 10) != t->nat->cgroup && (stat(path, &st) < 0 || st.st_ino != t->nat->cgroup))
            return false;
    }
    return true;
}

static int different(const struct sq_nat_table *t, const char *what, struct sq_err *e)
{
    return sq_err(e, -EBADE, "the nftables table %s is not as it was made: its %s", t->name, what);
}

static int list(const struct sq_nat_table *t, struct sq_nft *nft, json_t **out, struct sq_err *e)
{
    const size_t most = 2 * (6 + 2 * t->nat->n_edges) + 1;
    cleanup_free const char **what = calloc(most, sizeof(const char *));
    cleanup_free char *names = calloc(2 * t->nat->n_edges + 1, 16);
    struct sq_nat_error unused[SQ_EDGE_RULES];
    bool fail = any_error(t);
    size_t n = 0;
    char *name = names;
    int rc;

    if (!what || !names)
        return sq_err(e, -ENOMEM, "out of memory");
    for (int i = 0; i < (fail ? 2 : 1); i++) {
        what[n++] = "map", what[n++] = i ? "f4" : "m4";
        what[n++] = "map", what[n++] = i ? "f6" : "m6";
        what[n++] = "chain", what[n++] = i ? "fail" : "out";
    }
    for (size_t i = 0; i < t->nat->n_edges; i++)
        for (int x = 0; x < (errors_at(t, t->nat->edge[i].slot, unused) ? 2 : 1); x++, name += 16) {
            (void)snprintf(name, 16, "%c%u", x ? 'x' : 'e', t->nat->edge[i].slot);
            what[n++] = "chain", what[n++] = name;
        }
    rc = sq_nft_list(nft, "inet", t->name, what, out, e);
    return rc == -ENOENT ? sq_err(e, -EBADE, "the nftables table %s is gone", t->name) : rc;
}

int sq_nat_same(const struct sq_nat_table *t, struct sq_nft *nft, struct sq_err *e)
{
    cleanup_json json_t *objects = NULL;
    int rc = list(t, nft, &objects, e);

    for (int i = 0; i < (any_error(t) ? 2 : 1) && rc == 0; i++)
        if (!same_map(t, objects, false, i) || !same_map(t, objects, true, i))
            rc = different(t, "destinations", e);
        else if (!same_cgroup(t, objects, i ? "fail" : "out"))
            rc = different(t, "cgroup", e);
    for (size_t i = 0; i < t->nat->n_edges && rc == 0; i++)
        if (!same_edge(t, objects, &t->nat->edge[i]))
            rc = different(t, "rules", e);
    return rc;
}
