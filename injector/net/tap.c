#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/rtnl.h"
#include "squall/cleanup.h"

/* Below 1280 the kernel gives an interface no IPv6 at all (RFC 8200, net/ipv6/addrconf.c): nothing of its own is ever
 * sent. What is redirected into a TAP is not measured against its MTU. */
#define TAP_MTU 1000
#define TAP_SNDBUF (1 << 30)

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

static int no_tun(struct sq_err *e, int rc)
{
    sq_err_cls(e, rc == -EPERM || rc == -EACCES ? SQ_C_DENIED : SQ_C_UNSUPPORTED, rc,
               "cannot make a TAP device: /dev/net/tun: %s", strerror(-rc));
    sq_err_hint(e, rc == -EPERM || rc == -EACCES
                       ? "run squalld as root (CAP_NET_ADMIN)"
                       : "the packet backend needs CONFIG_TUN (modprobe tun) and the device node /dev/net/tun");
    return rc;
}

static int set_offloads(int fd)
{
    static const unsigned sets[] = {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
                                    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, TUN_F_CSUM, 0};

    for (size_t i = 0; i < SQ_COUNT(sets); i++)
        if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)sets[i]) == 0)
            return 0;
    return -errno;
}

/* MTU, address and queue length: while nobody sees it. */
static int configure(const struct sq_tap_opts *o, struct sq_err *e)
{
    cleanup_close int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {0};

    if (s < 0)
        return sq_err_sys(e, -errno, "cannot open a socket");
    memcpy(r.ifr_name, o->name, sizeof r.ifr_name);
    r.ifr_mtu = TAP_MTU;
    if (ioctl(s, SIOCSIFMTU, &r) < 0)
        return sq_err_sys(e, -errno, "cannot set the MTU of %s", o->name);
    r.ifr_qlen = (int)o->queue;
    if (ioctl(s, SIOCSIFTXQLEN, &r) < 0)
        return sq_err_sys(e, -errno, "cannot set the queue length of %s to %u", o->name, o->queue);
    memset(&r.ifr_hwaddr, 0, sizeof r.ifr_hwaddr);
    r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(r.ifr_hwaddr.sa_data, o->mac, sizeof o->mac);
    /* Loopback's is all zero, which no other device may have; there every frame is for us. */
    if (ioctl(s, SIOCSIFHWADDR, &r) < 0 && errno != EADDRNOTAVAIL)
        return sq_err_sys(e, -errno, "cannot set the address of %s", o->name);
    return 0;
}

static int open_tap(const struct sq_tap_opts *o, int *out, struct sq_err *e)
{
    cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int size = TAP_SNDBUF;

    if (fd < 0)
        return no_tun(e, -errno);
    memcpy(r.ifr_name, o->name, sizeof r.ifr_name);
    if (ioctl(fd, TUNSETIFF, &r) < 0)
        return no_tun(e, -errno);
    if (set_offloads(fd) < 0 || ioctl(fd, TUNSETSNDBUF, &size) < 0)
        return sq_err_sys(e, -errno, "cannot configure the TAP device");
    *out = SQ_TAKE_FD(fd);
    return 0;
}

struct moving {
    const struct sq_tap_opts *o;
    int ns_fd;
};

static int put_place(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const struct moving *m = arg;

    return nla_put_u32(msg, IFLA_NET_NS_FD, (uint32_t)m->ns_fd) < 0 ||
                   nla_put_string(msg, IFLA_IFNAME, m->o->name) < 0 ||
                   nla_put(msg, IFLA_IFALIAS, (int)strlen(m->o->alias), m->o->alias) < 0
               ? sq_err(e, -ENOMEM, "out of memory")
               : 0;
}

/* To the namespace NS_FD, with its alias and up, in one message. */
static int move(const struct sq_tap_opts *o, int ns_fd, struct sq_err *e)
{
    struct moving m = {o, ns_fd};

    return sq_rtnl_link(RTM_NEWLINK, 0, (int)if_nametoindex(o->name), IFF_UP, put_place, &m,
                        "move the TAP device to the namespace of its target", e);
}

struct making {
    const struct sq_tap_opts *o;
    struct sq_err *e;
    int ns_fd, fd, rc;
};

static void *make_it(void *arg)
{
    struct making *m = arg;
    int fd = -1;

    m->rc = unshare(CLONE_NEWNET) < 0 ? sq_err_sys(m->e, -errno, "cannot make a network namespace") : 0;
    m->rc = m->rc ? m->rc : open_tap(m->o, &fd, m->e);
    m->rc = m->rc ? m->rc : configure(m->o, m->e);
    m->rc = m->rc ? m->rc : move(m->o, m->ns_fd, m->e);
    if (m->rc == 0)
        m->fd = fd;
    else if (fd >= 0)
        (void)close(fd);
    return NULL;
}

static int find_index(void *arg, struct sq_err *e)
{
    const char *name = arg;
    unsigned index = if_nametoindex(name);

    return index ? (int)index : sq_err_sys(e, -errno, "the TAP device %s is gone", name);
}

int sq_tap_new(const struct sq_tap_opts *o, int *fd, int *ifindex, struct sq_err *e)
{
    cleanup_close int own = -1;
    struct making m = {.o = o, .e = e, .ns_fd = o->ns->fd, .fd = -1};
    char name[sizeof o->name];
    pthread_t thread;
    int rc;

    if (m.ns_fd < 0)
        m.ns_fd = own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (m.ns_fd < 0)
        return sq_err_sys(e, -errno, "cannot open our own network namespace");
    if (pthread_create(&thread, NULL, make_it, &m) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    (void)pthread_join(thread, NULL);
    if (m.rc < 0)
        return m.rc;
    memcpy(name, o->name, sizeof name);
    rc = sq_netns_call(o->ns, find_index, name, e);
    if (rc < 0) {
        (void)close(m.fd);
        return rc;
    }
    *fd = m.fd;
    *ifindex = rc;
    return 0;
}

/* ---- by name ---- */

struct look {
    bool there;
    char alias[256]; /* IFALIASZ */
};

static int on_link(struct nl_msg *msg, void *arg)
{
    struct look *l = arg;
    struct nlattr *tb[IFLA_MAX + 1];

    if (nlmsg_parse(nlmsg_hdr(msg), sizeof(struct ifinfomsg), tb, IFLA_MAX, NULL) < 0)
        return NL_OK;
    l->there = true;
    if (tb[IFLA_IFALIAS])
        (void)nla_strlcpy(l->alias, tb[IFLA_IFALIAS], sizeof l->alias);
    return NL_OK;
}

static struct nl_msg *about(int type, const char *name)
{
    struct ifinfomsg ifi = {0};
    struct nl_msg *msg = nlmsg_alloc_simple(type, 0);

    if (msg && (nlmsg_append(msg, &ifi, sizeof ifi, NLMSG_ALIGNTO) < 0 || nla_put_string(msg, IFLA_IFNAME, name) < 0)) {
        nlmsg_free(msg);
        return NULL;
    }
    return msg;
}

int sq_tap_whose(const char *name, char *alias, size_t len, struct sq_err *e)
{
    struct look l = {0};
    struct nl_msg *msg = about(RTM_GETLINK, name);
    int rc = sq_rtnl_ask(msg, on_link, &l);

    if (rc == -ENODEV || rc == -ENOENT)
        return 0;
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot look for the interface %s", name);
    (void)snprintf(alias, len, "%s", l.alias);
    return l.there;
}

int sq_tap_there(const char *name, const char *alias, struct sq_err *e)
{
    char theirs[256];
    int rc = sq_tap_whose(name, theirs, sizeof theirs, e);

    return rc > 0 ? strcmp(theirs, alias) == 0 : rc;
}

int sq_tap_del(const char *name, const char *alias, struct sq_err *e)
{
    int rc = sq_tap_there(name, alias, e);
    struct sq_err why = {0};

    if (rc <= 0)
        return rc;
    rc = sq_rtnl_transact(about(RTM_DELLINK, name), "delete a TAP device", &why);
    return rc < 0 && rc != -ENODEV && rc != -ENOENT ? sq_err_cls(e, why.cls, rc, "%s", why.msg) : 0;
}

int sq_tap_offload(const char *name, bool *on, struct sq_err *e)
{
    static const uint32_t ask[] = {ETHTOOL_GTXCSUM, ETHTOOL_GTSO};
    cleanup_close int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    unsigned n = 0;

    if (s < 0)
        return sq_err_sys(e, -errno, "cannot open a socket");
    for (size_t i = 0; i < SQ_COUNT(ask); i++) {
        struct ethtool_value v = {.cmd = ask[i]};
        struct ifreq r = {.ifr_data = (char *)&v};

        (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
        if (ioctl(s, SIOCETHTOOL, &r) < 0)
            return sq_err_sys(e, -errno, "cannot read the offloads of %s", name);
        n += v.data != 0;
    }
    if (n == 1)
        return sq_err(e, -EBADE, "%s has one of checksum and TCP segmentation offload without the other", name);
    *on = n > 0;
    return 0;
}
