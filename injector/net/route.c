#include "net/route.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>

#include "net/rtnl.h"

#define ROUTES_MOST 256 /* addresses whose route is asked for */

static int on_route(struct nl_msg *msg, void *arg)
{
    struct nlattr *tb[RTA_MAX + 1];

    if (nlmsg_hdr(msg)->nlmsg_type == RTM_NEWROUTE &&
        nlmsg_parse(nlmsg_hdr(msg), sizeof(struct rtmsg), tb, RTA_MAX, NULL) >= 0 && tb[RTA_OIF])
        *(int *)arg = (int)nla_get_u32(tb[RTA_OIF]);
    return NL_OK;
}

/* The interface that packets to ADDR (IPv4 as ::ffff:a.b.c.d) leave by; 0: no route. */
static int route_to(const struct in6_addr *addr)
{
    bool v4 = IN6_IS_ADDR_V4MAPPED(addr);
    struct rtmsg rt = {.rtm_family = v4 ? AF_INET : AF_INET6, .rtm_dst_len = v4 ? 32 : 128};
    struct nl_msg *msg = nlmsg_alloc_simple(RTM_GETROUTE, 0);
    int oif = 0;

    if (!msg || nlmsg_append(msg, &rt, sizeof rt, NLMSG_ALIGNTO) < 0 ||
        nla_put(msg, RTA_DST, v4 ? 4 : 16, v4 ? &addr->s6_addr[12] : &addr->s6_addr[0]) < 0) {
        nlmsg_free(msg);
        return 0;
    }
    return sq_rtnl_ask(msg, on_route, &oif) == 0 ? oif : 0;
}

static int one_route(int *ifindex, const struct in6_addr *addr, struct sq_err *e)
{
    char text[INET6_ADDRSTRLEN] = "", a[IF_NAMESIZE] = "?", b[IF_NAMESIZE] = "?";
    int oif = route_to(addr);

    if (IN6_IS_ADDR_V4MAPPED(addr))
        (void)inet_ntop(AF_INET, &addr->s6_addr[12], text, sizeof text);
    else
        (void)inet_ntop(AF_INET6, addr, text, sizeof text);
    if (!oif) {
        sq_err_cls(e, SQ_C_NOTFOUND, -ENETUNREACH, "interface: auto: there is no route to %s", text);
        return -ENETUNREACH;
    }
    if (*ifindex && *ifindex != oif) {
        (void)if_indextoname((unsigned)*ifindex, a);
        (void)if_indextoname((unsigned)oif, b);
        sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                   "interface: auto: the hosts are reached by several interfaces (%s, and %s to %s)", a, b, text);
        sq_err_hint(e, "name one interface, and make a fault for each");
        return -EINVAL;
    }
    *ifindex = oif;
    return 0;
}

int sq_route_interface(const struct sq_match *m, struct sq_err *e)
{
    unsigned asked = 0;
    struct in6_addr any;
    int ifindex = 0, r = 0;

    for (size_t i = 0; i < m->n_match; i++)
        for (size_t k = 0; k < m->match[i].n_host && r == 0 && asked < ROUTES_MOST; k++, asked++)
            r = one_route(&ifindex, &m->match[i].host[k].addr, e);
    if (asked || r < 0)
        return r < 0 ? r : ifindex;
    /* No host was named: the default route's interface. */
    (void)inet_pton(AF_INET6, "::ffff:192.0.2.1", &any);
    ifindex = route_to(&any);
    if (!ifindex) {
        (void)inet_pton(AF_INET6, "2001:db8::1", &any);
        ifindex = route_to(&any);
    }
    if (ifindex)
        return ifindex;
    sq_err_cls(e, SQ_C_NOTFOUND, -ENETUNREACH, "interface: auto: there is no default route");
    sq_err_hint(e, "name the interface, or hosts in `match`");
    return -ENETUNREACH;
}
