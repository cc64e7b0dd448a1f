/* Tells a caller that closed its socket from one that only shut its sending side down (a closed one has no inode), and
 * whether a connect is still being waited for. */
#include "proxy/diag.h"
#include "proxy/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int px_diag_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
}

/* What the kernel answers about it: 0; -ENOENT: there is none; another -errno: not known. The answer is there when
 * sendto(2) returns: netlink is synchronous. */
static int ask(int diag, const union px_addr *from, const union px_addr *to, struct inet_diag_msg *m)
{
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 r;
    } q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
           .r = {.sdiag_family = (uint8_t)from->sa.sa_family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u}};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct nlmsghdr h;
    struct nlmsgerr err;
    char buf[1024];
    bool six = from->sa.sa_family == AF_INET6;
    q.r.id.idiag_sport = from->in.sin_port;
    q.r.id.idiag_dport = to->in.sin_port;
    memcpy(q.r.id.idiag_src, six ? (const void *)&from->in6.sin6_addr : &from->in.sin_addr, six ? 16 : 4);
    memcpy(q.r.id.idiag_dst, six ? (const void *)&to->in6.sin6_addr : &to->in.sin_addr, six ? 16 : 4);
    q.r.id.idiag_if = 1; /* lo: finds a socket that is bound to it, too */
    q.r.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
    q.r.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (diag < 0)
        return -EBADF;
    while (recv(diag, buf, sizeof(buf), MSG_DONTWAIT) > 0)
        ; /* of an earlier query that was cut short */
    if (sendto(diag, &q, sizeof(q), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -errno;
    ssize_t n = recv(diag, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < (ssize_t)sizeof(h))
        return -EPROTO;
    memcpy(&h, buf, sizeof(h));
    if (h.nlmsg_type == NLMSG_ERROR && n >= (ssize_t)NLMSG_LENGTH(sizeof(err))) {
        memcpy(&err, buf + NLMSG_HDRLEN, sizeof(err));
        return err.error < 0 ? err.error : -EPROTO;
    }
    if (h.nlmsg_type != SOCK_DIAG_BY_FAMILY || n < (ssize_t)NLMSG_LENGTH(sizeof(*m)))
        return -EPROTO;
    memcpy(m, buf + NLMSG_HDRLEN, sizeof(*m));
    return 0;
}

enum px_peer px_diag(int diag, const union px_addr *from, const union px_addr *to)
{
    struct inet_diag_msg m;
    int rc = ask(diag, from, to, &m);
    if (rc < 0)
        return rc == -ENOENT ? PX_PEER_LEFT : PX_PEER_UNKNOWN;
    if (m.idiag_state == TCP_SYN_SENT)
        return PX_PEER_CONNECTING;
    if (m.idiag_state == TCP_LISTEN)
        return PX_PEER_LEFT; /* another socket on the same port */
    return m.idiag_inode ? PX_PEER_HERE : PX_PEER_LEFT;
}

uint64_t px_diag_cookie(int diag, const union px_addr *from, const union px_addr *to)
{
    struct inet_diag_msg m;
    if (ask(diag, from, to, &m) < 0 || m.idiag_state == TCP_LISTEN)
        return 0;
    return (uint64_t)m.id.idiag_cookie[1] << 32 | m.id.idiag_cookie[0];
}

#define DUMPS 4096 /* messages of one dump that are read */

/* A socket of FAMILY that is connected to PORT: is it to 127.3.0.0/16 or 127.4.0.0/16? */
static bool is_ours(const struct inet_diag_msg *m)
{
    uint32_t host = ntohl(m->idiag_family == AF_INET ? m->id.idiag_dst[0] : m->id.idiag_dst[3]);
    if (m->idiag_family == AF_INET6 &&
        (m->id.idiag_dst[0] || m->id.idiag_dst[1] || m->id.idiag_dst[2] != htonl(0xffff)))
        return false;
    return (host & 0xffff0000u) == SQ_NET_DGRAM || (host & 0xffff0000u) == SQ_NET_DGRAM_SECCOMP;
}

/* 1, 0, -1: it goes on, -2: it failed. */
static int read_dump(char *buf, ssize_t n)
{
    for (struct nlmsghdr *h = (struct nlmsghdr *)(void *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
        struct inet_diag_msg m;
        if (h->nlmsg_type == NLMSG_DONE)
            return 0;
        if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(m)))
            return -2;
        memcpy(&m, NLMSG_DATA(h), sizeof(m));
        if (is_ours(&m))
            return 1;
    }
    return -1;
}

static int dump(int diag, uint8_t family, uint16_t port)
{
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 r;
    } q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
           .r = {.sdiag_family = family, .sdiag_protocol = IPPROTO_UDP, .idiag_states = 1u << TCP_ESTABLISHED}};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    _Alignas(struct nlmsghdr) char buf[16384];
    int rc = -1;
    q.r.id.idiag_dport = port;
    while (recv(diag, buf, sizeof(buf), MSG_DONTWAIT) > 0)
        ;
    if (sendto(diag, &q, sizeof(q), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -2;
    for (int i = 0; i < DUMPS && rc == -1; i++) {
        ssize_t n = recv(diag, buf, sizeof(buf), MSG_DONTWAIT);
        rc = n > 0 ? read_dump(buf, n) : -2;
    }
    return rc;
}

int px_diag_connected(int diag, uint16_t port)
{
    if (diag < 0)
        return -1;
    int v4 = dump(diag, AF_INET, port), v6 = v4 == 1 ? 0 : dump(diag, AF_INET6, port);
    if (v4 == 1 || v6 == 1)
        return 1;
    return v4 == 0 && v6 == 0 ? 0 : -1;
}
