/* ifb devices of our own (net/tree.h): what comes in by a device passes the one named after it, and has its queue. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "net/rtnl.h"
#include "net/tree.h"

/* Ours from its birth on, whenever we are killed: a link's group is taken with its name, an alias only later. */
#define GROUP 0x5c1a0000u
#define GROUP_CLSACT 1u /* or'ed: the device's clsact is ours, too */
#define QUEUE 1000u

static void name_of(int ifindex, char *buf, size_t len)
{
    (void)snprintf(buf, len, "sqi%d", ifindex);
}

struct ifb {
    const char *name;
    int ifindex;
    bool ours, clsact;
};

static int see_link(const void *head, struct nlattr **tb, void *arg)
{
    const struct ifinfomsg *l = head;
    struct ifb *w = arg;

    if (!tb[IFLA_IFNAME] || strcmp(nla_get_string(tb[IFLA_IFNAME]), w->name) != 0)
        return 0;
    uint32_t group = tb[IFLA_GROUP] ? nla_get_u32(tb[IFLA_GROUP]) : 0;
    w->ifindex = l->ifi_index;
    w->ours = (group & ~GROUP_CLSACT) == GROUP;
    w->clsact = w->ours && (group & GROUP_CLSACT);
    return 1;
}

int sq_ifb_find(int ifindex, bool *clsact, struct sq_err *e)
{
    char name[IF_NAMESIZE];
    struct ifb w = {.name = name};

    name_of(ifindex, name, sizeof name);
    int r = sq_rtnl_dump(RTM_GETLINK, NULL, see_link, &w, e);
    if (r < 0)
        return r;
    if (w.ifindex && !w.ours)
        return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "there is a device %s that Squall did not make", name);
    if (clsact)
        *clsact = w.clsact;
    return w.ifindex;
}

struct new_ifb {
    char name[IF_NAMESIZE];
    char alias[64]; /* for people */
    uint32_t group;
};

static int put_ifb(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const struct new_ifb *n = arg;
    struct nlattr *info;

    if (nla_put_string(msg, IFLA_IFNAME, n->name) < 0 || nla_put_u32(msg, IFLA_GROUP, n->group) < 0 ||
        nla_put_u32(msg, IFLA_TXQLEN, QUEUE) < 0 || !(info = nla_nest_start(msg, IFLA_LINKINFO)) ||
        nla_put_string(msg, IFLA_INFO_KIND, "ifb") < 0)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    nla_nest_end(msg, info);
    return 0;
}

static int put_alias(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const struct new_ifb *n = arg;

    return nla_put_string(msg, IFLA_IFALIAS, n->alias) < 0 ? sq_err(e, -EMSGSIZE, "the netlink message is too small")
                                                           : 0;
}

int sq_ifb_add(int ifindex, bool clsact, struct sq_err *e)
{
    struct new_ifb n;
    struct sq_err why = {0};
    int r, ifb;

    name_of(ifindex, n.name, sizeof n.name);
    (void)snprintf(n.alias, sizeof n.alias, "squall: ingress of %d", ifindex);
    n.group = GROUP | (clsact ? GROUP_CLSACT : 0);
    r = sq_rtnl_link(RTM_NEWLINK, SQ_RTNL_CREATE, 0, 0, put_ifb, &n, "make an ifb device", &why);
    if (r == -EOPNOTSUPP) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, r, "this kernel has no ifb devices, which faults of incoming traffic need");
        sq_err_hint(e, "modprobe ifb, or say backend: packet");
        return r;
    }
    if (r < 0)
        return sq_err_cls(e, why.cls, r, "%s", why.msg);
    ifb = (int)if_nametoindex(n.name);
    if (ifb <= 0)
        return sq_err(e, -ENODEV, "our device %s is gone again", n.name);
    r = sq_rtnl_link(RTM_NEWLINK, 0, ifb, 0, put_alias, &n, "name our ifb device", e);
    if (r == 0)
        r = sq_rtnl_link(RTM_NEWLINK, 0, ifb, IFF_UP, NULL, NULL, "set our ifb device up", e);
    if (r < 0)
        (void)sq_ifb_del(ifb, NULL);
    return r < 0 ? r : ifb;
}

int sq_ifb_del(int ifb, struct sq_err *e)
{
    struct sq_err why = {0};
    int r = sq_rtnl_link(RTM_DELLINK, 0, ifb, 0, NULL, NULL, "delete our ifb device", &why);

    return r == 0 || r == -ENODEV ? 0 : sq_err(e, r, "%s", why.msg);
}
