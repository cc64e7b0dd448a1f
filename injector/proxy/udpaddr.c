#include "proxy/udpaddr.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "proxy/wire.h"

union control {
    char buf[CMSG_SPACE(sizeof(struct in6_pktinfo))]; /* the larger one */
    struct cmsghdr align;
};

/* The address that says LOCAL. */
static struct in6_addr sender(struct in_addr local)
{
    const uint32_t words[4] = {htonl(SQ_DGRAM6_0), htonl(SQ_DGRAM6_1), htonl(SQ_DGRAM6_2), local.s_addr};
    struct in6_addr out;
    memcpy(&out, words, sizeof(out));
    return out;
}

static struct in_addr said_by(const union px_addr *peer)
{
    struct in_addr local = {0};
    struct in6_addr ours;
    memcpy(&local, &peer->in6.sin6_addr.s6_addr[12], sizeof(local));
    ours = sender(local);
    if (memcmp(&ours, &peer->in6.sin6_addr, sizeof(ours)) != 0)
        local.s_addr = 0;
    return local;
}

static struct in_addr sent_to(struct msghdr *m)
{
    struct in_pktinfo info = {0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
            memcpy(&info, CMSG_DATA(c), sizeof(info));
    return info.ipi_addr;
}

ssize_t px_addr_read(int fd, void *buf, size_t len, union px_addr *peer, struct in_addr *local)
{
    union control ctl;
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr m = {.msg_name = peer,
                       .msg_namelen = sizeof(*peer),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.buf,
                       .msg_controllen = sizeof(ctl.buf)};
    memset(peer, 0, sizeof(*peer));
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    if (n >= 0)
        *local = peer->sa.sa_family == AF_INET6 ? said_by(peer) : sent_to(&m);
    return n;
}

static size_t put(struct cmsghdr *c, int level, int type, const void *info, size_t len)
{
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), info, len);
    return CMSG_SPACE(len);
}

ssize_t px_addr_answer(int fd, struct in_addr local, const union px_addr *peer, const void *p, size_t len)
{
    const struct in_pktinfo from = {.ipi_spec_dst = local};
    const struct in6_pktinfo from6 = {.ipi6_addr = sender(local)};
    bool six = peer->sa.sa_family == AF_INET6;
    union px_addr to = *peer;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = len};
    union control ctl;
    struct msghdr m = {.msg_name = &to,
                       .msg_namelen = six ? sizeof(to.in6) : sizeof(to.in),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl.buf};
    memset(&ctl, 0, sizeof(ctl));
    m.msg_controllen = six ? put(&ctl.align, IPPROTO_IPV6, IPV6_PKTINFO, &from6, sizeof(from6))
                           : put(&ctl.align, IPPROTO_IP, IP_PKTINFO, &from, sizeof(from));
    return sendmsg(fd, &m, MSG_DONTWAIT);
}
