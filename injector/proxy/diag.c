/* Tells a caller that closed its socket from one that only shut its sending side down (a closed one has no inode), and
 * whether a connect is still being waited for. */
#include "proxy/diag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int px_diag_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
}

static enum px_peer parse(const char *buf, ssize_t n)
{
    struct nlmsghdr h;
    if (n < (ssize_t)sizeof(h))
        return PX_PEER_UNKNOWN;
    memcpy(&h, buf, sizeof(h));
    if (h.nlmsg_type == NLMSG_ERROR) {
        struct nlmsgerr err;
        if (n < (ssize_t)NLMSG_LENGTH(sizeof(err)))
            return PX_PEER_UNKNOWN;
        memcpy(&err, buf + NLMSG_HDRLEN, sizeof(err));
        return err.error == -ENOENT ? PX_PEER_LEFT : PX_PEER_UNKNOWN;
    }
    struct inet_diag_msg m;
    if (h.nlmsg_type != SOCK_DIAG_BY_FAMILY || n < (ssize_t)NLMSG_LENGTH(sizeof(m)))
        return PX_PEER_UNKNOWN;
    memcpy(&m, buf + NLMSG_HDRLEN, sizeof(m));
    if (m.idiag_state == TCP_SYN_SENT)
        return PX_PEER_CONNECTING;
    if (m.idiag_state == TCP_LISTEN)
        return PX_PEER_LEFT; /* another socket on the same port */
    return m.idiag_inode ? PX_PEER_HERE : PX_PEER_LEFT;
}

/* The answer is there when sendto(2) returns: netlink is synchronous. */
enum px_peer px_diag(int diag, const struct sockaddr_in *from, const struct sockaddr_in *to)
{
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 r;
    } q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
           .r = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u}};
    q.r.id.idiag_sport = from->sin_port;
    q.r.id.idiag_dport = to->sin_port;
    q.r.id.idiag_src[0] = from->sin_addr.s_addr;
    q.r.id.idiag_dst[0] = to->sin_addr.s_addr;
    q.r.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
    q.r.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    char buf[1024];
    if (diag < 0)
        return PX_PEER_UNKNOWN;
    while (recv(diag, buf, sizeof(buf), MSG_DONTWAIT) > 0)
        ; /* of an earlier query that was cut short */
    if (sendto(diag, &q, sizeof(q), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return PX_PEER_UNKNOWN;
    return parse(buf, recv(diag, buf, sizeof(buf), MSG_DONTWAIT));
}
