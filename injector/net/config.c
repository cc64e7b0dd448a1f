#include "net/config.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/tc.h>
#include <netlink/socket.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "net/rtnl.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define MOST 20000 /* objects of a kind */

#define FNV_BASIS UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

static uint64_t fold(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * FNV_PRIME;
    return h;
}

static json_t *hex(uint64_t h)
{
    return json_sprintf("%016" PRIx64, h);
}

/* ---- options ---- */

/* Kinds whose options are settings, but for the attributes in SKIP (a bit each): actions and counters. Which they are
 * is in linux/pkt_sched.h and linux/pkt_cls.h. */
static const struct {
    const char *kind;
    uint32_t skip;
} settings[] = {
    {"bfifo", 0},
    {"pfifo", 0},
    {"pfifo_fast", 0},
    {"prio", 0},
    {"multiq", 0},
    {"tbf", 0},
    {"codel", 0},
    {"fq_codel", 0},
    {"fq", 0},
    {"cake", 0},
    {"netem", 0},
    {"hfsc", 0},
    {"drr", 0},
    {"htb", 1u << TCA_HTB_INIT}, /* counts what went by its classes */
    {"bpf", 1u << TCA_BPF_ACT},
    {"flower", 1u << TCA_FLOWER_ACT},
    {"fw", 1u << TCA_FW_ACT},
    {"basic", 1u << TCA_BASIC_ACT},
    {"matchall", 1u << TCA_MATCHALL_ACT | 1u << TCA_MATCHALL_PCNT},
    {"u32", 1u << TCA_U32_ACT | 1u << TCA_U32_PCNT | 1u << TCA_U32_MARK},
};

/* NULL: not known to be without counters, or there are none. */
static json_t *options(const char *kind, struct nlattr *o)
{
    uint64_t h = FNV_BASIS;
    struct nlattr *a;
    int rest;

    for (size_t i = 0; o && i < SQ_COUNT(settings); i++) {
        if (strcmp(settings[i].kind, kind) != 0)
            continue;
        if (!settings[i].skip)
            return hex(fold(h, nla_data(o), (size_t)nla_len(o)));
        for (a = nla_data(o), rest = nla_len(o); nla_ok(a, rest); a = nla_next(a, &rest))
            if (nla_type(a) > 31 || !(settings[i].skip >> nla_type(a) & 1))
                h = fold(h, a, a->nla_len);
        return hex(h);
    }
    return NULL;
}

/* ---- traffic control ---- */

struct listing {
    json_t *out;
    char dev[IF_NAMESIZE]; /* of what was seen last */
    int ifindex;
};

static const char *device(struct listing *l, int ifindex)
{
    if (ifindex != l->ifindex && !if_indextoname((unsigned)ifindex, l->dev))
        return NULL; /* gone meanwhile */
    l->ifindex = ifindex;
    return l->dev;
}

static json_t *handle(uint32_t h)
{
    char text[32];

    return json_string(rtnl_tc_handle2str(h, text, sizeof text));
}

/* A qdisc or a class. */
static int see(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct listing *l = arg;
    const char *dev = device(l, tc->tcm_ifindex), *kind = tb[TCA_KIND] ? nla_get_string(tb[TCA_KIND]) : "?";

    if (!dev)
        return 0;
    if (json_array_size(l->out) >= MOST)
        return -E2BIG;
    return json_array_append_new(l->out, json_pack("{s:s,s:s,s:o,s:o,s:o*}", "dev", dev, "kind", kind, "handle",
                                                   handle(tc->tcm_handle), "parent", handle(tc->tcm_parent), "options",
                                                   options(kind, tb[TCA_OPTIONS]))) < 0
               ? -ENOMEM
               : 0;
}

/* What may have classes or filters: qdiscs that somebody made, not the kernel's defaults. */
struct place {
    int ifindex;
    uint32_t handle, parent;
};
struct places {
    struct place *v; /* owned */
    size_t n;
};

static int add_place(struct places *p, int ifindex, uint32_t h, uint32_t parent)
{
    if (p->n >= MOST)
        return -E2BIG;
    if (p->n % 64 == 0) {
        struct place *v = realloc(p->v, (p->n + 64) * sizeof *v);

        if (!v)
            return -ENOMEM;
        p->v = v;
    }
    p->v[p->n++] = (struct place){ifindex, h, parent};
    return 0;
}

static int see_place(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;

    (void)tb;
    return tc->tcm_handle ? add_place(arg, tc->tcm_ifindex, tc->tcm_handle, tc->tcm_parent) : 0;
}

static json_t *qdiscs(struct places *p)
{
    const struct tcmsg all = {0};
    struct listing l = {.out = json_array()};

    for (int tries = 0; l.out && tries < 3; tries++) { /* a dump that is repeated tells things twice */
        json_array_clear(l.out);
        p->n = 0;
        if (sq_rtnl_dump(RTM_GETQDISC, &all, see_place, p, NULL) < 0 ||
            sq_rtnl_dump(RTM_GETQDISC, &all, see, &l, NULL) < 0)
            break;
        return l.out;
    }
    json_decref(l.out);
    return NULL;
}

static json_t *classes(struct places *p)
{
    struct listing l = {.out = json_array()};
    size_t qdiscs = p->n;
    int r = l.out ? 0 : -ENOMEM, before = 0;

    for (size_t i = 0; r == 0 && i < qdiscs; i++) {
        const struct tcmsg tc = {.tcm_ifindex = p->v[i].ifindex};

        if (tc.tcm_ifindex == before) /* a dump is of a whole device */
            continue;
        before = tc.tcm_ifindex;
        r = sq_rtnl_dump(RTM_GETTCLASS, &tc, see, &l, NULL);
        if (r == 0) /* filters hang at classes, too */
            r = sq_rtnl_dump(RTM_GETTCLASS, &tc, see_place, p, NULL);
        r = r == -ENODEV ? 0 : r;
    }
    if (r == 0)
        return l.out;
    json_decref(l.out);
    return NULL;
}

static int see_filter(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct listing *l = arg;
    const char *dev = device(l, tc->tcm_ifindex), *kind = tb[TCA_KIND] ? nla_get_string(tb[TCA_KIND]) : "?";
    struct nlattr *o[TCA_BPF_MAX + 1] = {NULL};
    char number[16];

    if (!dev)
        return 0;
    if (json_array_size(l->out) >= MOST)
        return -E2BIG;
    if (strcmp(kind, "bpf") == 0 && tb[TCA_OPTIONS])
        (void)nla_parse_nested(o, TCA_BPF_MAX, tb[TCA_OPTIONS], NULL);
    (void)snprintf(number, sizeof number, "%x", tc->tcm_handle);
    return json_array_append_new(l->out,
                                 json_pack("{s:s,s:s,s:o,s:i,s:i,s:i,s:s,s:s*,s:o*}", "dev", dev, "kind", kind,
                                           "parent", handle(tc->tcm_parent), "pref", (int)(tc->tcm_info >> 16),
                                           "protocol", (int)ntohs((uint16_t)tc->tcm_info), "chain",
                                           tb[TCA_CHAIN] ? (int)nla_get_u32(tb[TCA_CHAIN]) : 0, "handle", number,
                                           "name", o[TCA_BPF_NAME] ? nla_get_string(o[TCA_BPF_NAME]) : NULL, "options",
                                           options(kind, tb[TCA_OPTIONS]))) < 0
               ? -ENOMEM
               : 0;
}

static int filters_at(struct listing *l, int ifindex, uint32_t parent)
{
    const struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_parent = parent};
    int r = sq_rtnl_dump(RTM_GETTFILTER, &tc, see_filter, l, NULL);

    return r == -EINVAL || r == -ENODEV || r == -ENOENT || r == -EOPNOTSUPP ? 0
                                                                            : r; /* it takes no filters, or is gone */
}

/* ---- tcx (Linux 6.6) ---- */

#define TCX_INGRESS 46u
#define TCX_EGRESS 47u
#define TCX_MOST 64

/* Of union bpf_attr, as far as it is used here. */
struct query {
    uint32_t ifindex, attach_type, query_flags, attach_flags;
    uint64_t progs;
    uint32_t n, pad;
    uint64_t prog_flags, links, link_flags, revision;
};

static int tcx_of(struct listing *l, int ifindex, const char *dev, bool egress)
{
    uint32_t progs[TCX_MOST] = {0}, links[TCX_MOST] = {0};
    struct query q = {.ifindex = (uint32_t)ifindex,
                      .attach_type = egress ? TCX_EGRESS : TCX_INGRESS,
                      .progs = (uint64_t)(uintptr_t)progs,
                      .links = (uint64_t)(uintptr_t)links,
                      .n = TCX_MOST};

    if (syscall(SYS_bpf, BPF_PROG_QUERY, &q, sizeof q) < 0)
        return errno == ENOSPC || errno == EPERM ? -errno : 0; /* before Linux 6.6, or gone meanwhile */
    for (uint32_t i = 0; i < q.n && i < TCX_MOST; i++) {
        struct bpf_prog_info info;
        uint32_t size = sizeof info;
        cleanup_close int fd = bpf_prog_get_fd_by_id(progs[i]);

        memset(&info, 0, sizeof info);
        if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &size) < 0)
            continue; /* gone meanwhile */
        if (json_array_append_new(l->out, json_pack("{s:s,s:s,s:s,s:I,s:I,s:s}", "dev", dev, "kind", "tcx", "parent",
                                                    egress ? "egress" : "ingress", "link", (json_int_t)links[i],
                                                    "program", (json_int_t)progs[i], "name", info.name)) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int tcx(struct listing *l)
{
    struct if_nameindex *all = if_nameindex();
    int r = all ? 0 : -errno;

    for (const struct if_nameindex *i = all; r == 0 && i->if_index; i++) {
        r = tcx_of(l, (int)i->if_index, i->if_name, false);
        r = r ? r : tcx_of(l, (int)i->if_index, i->if_name, true);
    }
    if (all)
        if_freenameindex(all);
    return r;
}

static json_t *filters(const struct places *p)
{
    struct listing l = {.out = json_array()};
    int r = l.out ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < p->n; i++) {
        const struct place *at = &p->v[i];

        if (at->parent != TC_H_CLSACT) {
            r = filters_at(&l, at->ifindex, at->handle);
            continue;
        }
        r = filters_at(&l, at->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)); /* of an ingress qdisc, too */
        r = r ? r : filters_at(&l, at->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS));
    }
    r = r ? r : tcx(&l);
    if (r == 0)
        return l.out;
    json_decref(l.out);
    return NULL;
}

/* ---- nftables ---- */

static int see_table(struct nl_msg *msg, void *arg)
{
    const struct nfgenmsg *g = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *tb[NFTA_TABLE_MAX + 1];
    char key[300];

    if (nlmsg_parse(nlmsg_hdr(msg), sizeof *g, tb, NFTA_TABLE_MAX, NULL) < 0 || !tb[NFTA_TABLE_NAME])
        return NL_OK;
    /* It changes nothing, and keeps connections of before whole for as long as their owners want (intercept/nft.h). */
    if (strncmp(nla_get_string(tb[NFTA_TABLE_NAME]), "squall-", 7) == 0 &&
        strstr(nla_get_string(tb[NFTA_TABLE_NAME]), "-held-"))
        return NL_OK;
    (void)snprintf(key, sizeof key, "%u %s", g->nfgen_family, nla_get_string(tb[NFTA_TABLE_NAME]));
    (void)json_object_set_new(arg, key,
                              json_pack("{s:i,s:s,s:I,s:s}", "rules", 0, "name", nla_get_string(tb[NFTA_TABLE_NAME]),
                                        "family", (json_int_t)g->nfgen_family, "digest", ""));
    return NL_OK;
}

static int see_rule(struct nl_msg *msg, void *arg)
{
    const struct nfgenmsg *g = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *tb[NFTA_RULE_MAX + 1];
    char key[300];
    json_t *table;

    if (nlmsg_parse(nlmsg_hdr(msg), sizeof *g, tb, NFTA_RULE_MAX, NULL) < 0 || !tb[NFTA_RULE_TABLE] ||
        !tb[NFTA_RULE_CHAIN] || !tb[NFTA_RULE_HANDLE])
        return NL_OK;
    (void)snprintf(key, sizeof key, "%u %s", g->nfgen_family, nla_get_string(tb[NFTA_RULE_TABLE]));
    table = json_object_get(arg, key);
    if (!table)
        return NL_OK;
    uint64_t h = strtoull(sq_json_str_or(table, "digest", ""), NULL, 16);
    h = fold(h ? h : FNV_BASIS, nla_data(tb[NFTA_RULE_CHAIN]), (size_t)nla_len(tb[NFTA_RULE_CHAIN]));
    h = fold(h, nla_data(tb[NFTA_RULE_HANDLE]), (size_t)nla_len(tb[NFTA_RULE_HANDLE]));
    (void)json_object_set_new(table, "digest", hex(h));
    (void)json_object_set_new(table, "rules", json_integer(sq_json_int_or(table, "rules", 0) + 1));
    return NL_OK;
}

static int nft_dump(int type, nl_recvmsg_msg_cb_t fn, void *arg)
{
    const struct nfgenmsg all = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0};
    struct nl_sock *sk = nl_socket_alloc();
    int r = sk ? nl_connect(sk, NETLINK_NETFILTER) : -NLE_NOMEM;

    if (r >= 0) {
        nl_socket_set_msg_buf_size(sk, 65536);
        (void)nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, fn, arg);
        r = nl_send_simple(sk, NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_DUMP, (void *)(uintptr_t)&all, sizeof all);
    }
    if (r >= 0)
        r = nl_recvmsgs_default(sk);
    nl_socket_free(sk);
    return r;
}

static json_t *tables(void)
{
    cleanup_json json_t *found = json_object();
    json_t *list = json_array(), *t;
    const char *key;
    int r = -NLE_DUMP_INTR;

    for (int i = 0; found && list && i < 5 && r == -NLE_DUMP_INTR; i++) { /* as long as somebody changes it */
        json_object_clear(found);
        r = nft_dump(NFT_MSG_GETTABLE, see_table, found);
        r = r < 0 ? r : nft_dump(NFT_MSG_GETRULE, see_rule, found);
    }
    if (r < 0) {
        json_decref(list);
        return NULL;
    }
    json_object_foreach(found, key, t) json_array_append(list, t);
    return list;
}

json_t *sq_net_config(void)
{
    struct places p = {NULL, 0};
    json_t *o = json_object(), *list;

    if (!o)
        return NULL;
    if ((list = qdiscs(&p)) != NULL) {
        json_object_set_new(o, "qdiscs", list);
        if ((list = classes(&p)) != NULL) {
            json_object_set_new(o, "classes", list);
            if ((list = filters(&p)) != NULL)
                json_object_set_new(o, "filters", list);
        }
    }
    if ((list = tables()) != NULL)
        json_object_set_new(o, "tables", list);
    free(p.v);
    return o;
}
