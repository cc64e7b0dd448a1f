/* Sockets that squalld makes for the proxy: listeners on loopback, the ones that hold SYNs, and Unix stand-ins. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "squall/cleanup.h"

#define BACKLOG 4096
#define TCP_SYN 0x02
#define TCP_SYN_ACK 0x12

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

/* Of a listener of FAMILY: it gets no SYN but those with our TTL (of IPv6: hop limit). A filter on a TCP listener sees
 * the segment from the TCP header on (tcp_filter, net/ipv4/tcp_ipv4.c), and the IP header at SKF_NET_OFF. What it
 * drops, the peer's TCP sends again. */
static int gate_filter(int fd, int family)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)(SKF_NET_OFF + (family == AF_INET6 ? 7 : 8))),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_TTL, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffffu),
    };
    struct sock_fprog prog = {.len = SQ_COUNT(code), .filter = code};

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ? -errno : 0;
}

/* All of 127.0.0.0/8, but loopback only: bound to the device, which needs no privilege since Linux 5.7. */
static int bind_lo(uint16_t *port, bool shared, int backlog, int *out, struct sq_err *e)
{
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = *port};
    socklen_t len = sizeof(a);
    int one = 1;

    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a listener for the proxy");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0)
        return sq_err_sys(e, -errno, "cannot bind a listener to the loopback device");
    if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
        return sq_err_sys(e, -errno, "SO_REUSEPORT");
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, backlog) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return sq_err_sys(e, -errno, "cannot listen on loopback");
    *port = a.sin_port;
    *out = SQ_TAKE_FD(fd);
    return 0;
}

int sq_listen_lo(bool gate, int *fd, uint16_t *port, struct sq_err *e)
{
    int rc;

    *port = 0;
    rc = bind_lo(port, false, BACKLOG, fd, e);
    if (rc < 0 || !gate)
        return rc;
    rc = gate_filter(*fd, AF_INET);
    return rc < 0 ? sq_err_sys(e, rc, "cannot filter the SYNs of a listener") : 0;
}

bool sq_lo_is_up(int fd)
{
    struct ifreq r = {.ifr_name = "lo"};

    return ioctl(fd, SIOCGIFFLAGS, &r) == 0 && (r.ifr_flags & IFF_UP);
}

int sq_listen_lo6(bool gate, int *out, uint16_t *port)
{
    cleanup_close int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof(a);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return -errno;
    if (gate && gate_filter(fd, AF_INET6) < 0)
        return -errno;
    *port = a.sin6_port;
    *out = SQ_TAKE_FD(fd);
    return 0;
}

size_t sq_listen_pair6(bool hold, int fd[2], uint16_t *pass, uint16_t *gate)
{
    *pass = *gate = 0;
    if (sq_listen_lo6(false, &fd[0], pass) < 0)
        return 0;
    return hold && sq_listen_lo6(true, &fd[1], gate) == 0 ? 2 : 1;
}

/* Which member of the group of listeners on one port gets a SYN. */
int sq_hole_turn(int hole, bool shut)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, shut ? 0 : 1)};
    struct sock_fprog prog = {.len = 1, .filter = code};

    return setsockopt(hole, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &prog, sizeof(prog)) < 0 ? -errno : 0;
}

/* A black hole that needs no privilege: of two listeners on one port the first has a backlog that is full for ever, so
 * the kernel drops its SYNs; the second is the proxy's. A SYN that was dropped is sent again by its own TCP, and gets
 * through when the port has been turned to the proxy. */
int sq_hole_open(struct sq_hole *h, int *gate, uint16_t *port, struct sq_err *e)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sq_hole mine = {.fd = -1, .fill = -1};
    int rc;

    *port = 0;
    rc = bind_lo(port, true, 0, &mine.fd, e);
    if (rc == 0) {
        a.sin_port = *port;
        mine.fill = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (mine.fill < 0 || connect(mine.fill, (struct sockaddr *)&a, sizeof(a)) < 0)
            rc = sq_err_sys(e, -errno, "cannot fill the backlog of a listener");
    }
    rc = rc ? rc : bind_lo(port, true, BACKLOG, gate, e);
    if (rc == 0 && sq_hole_turn(mine.fd, false) < 0)
        rc = sq_err_sys(e, -errno, "SO_ATTACH_REUSEPORT_CBPF");
    if (rc < 0)
        sq_hole_close(&mine);
    else
        *h = mine;
    return rc;
}

void sq_hole_close(struct sq_hole *h)
{
    if (h->fd >= 0)
        (void)close(h->fd);
    if (h->fill >= 0)
        (void)close(h->fill);
    h->fd = h->fill = -1;
}

/* A packet socket that sees the SYNs of redirected connects (not bound, so that nothing queues up before the proxy asks
 * for it: with a filter of its own), and a raw one to send them again. */
static int open_pair(int family, int fd[2])
{
    cleanup_close int p = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = -1;
    int one = 1;

    if (p >= 0)
        r = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);
    if (r < 0 || setsockopt(p, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) < 0)
        return -errno;
    fd[0] = SQ_TAKE_FD(p);
    fd[1] = SQ_TAKE_FD(r);
    return 0;
}

int sq_synhold_open(int fd[SQ_SYNHOLD_FDS], struct sq_err *e)
{
    cleanup_close int t = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc;

    for (int i = 0; i < SQ_SYNHOLD_FDS; i++)
        fd[i] = -1;
    rc = open_pair(AF_INET, fd);
    if (rc < 0) {
        rc = rc == -EPERM ? sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "without CAP_NET_RAW the connect can't be delayed")
                          : sq_err_sys(e, rc, "cannot make the sockets that delay a connect");
        sq_err_hint(e, "run as root, or give squalld CAP_NET_RAW; until then latency delays the bytes only");
        return rc;
    }
    if (t < 0 || gate_filter(t, AF_INET) < 0) {
        sq_synhold_close(fd);
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "without CAP_NET_ADMIN the connect can't be delayed");
        sq_err_hint(e, "since Linux 6.18 a filter on a TCP socket needs it; until then latency delays the bytes only");
        return rc;
    }
    return open_pair(AF_INET6, fd + 2) < 0 ? 2 : SQ_SYNHOLD_FDS;
}

void sq_synhold_close(int fd[SQ_SYNHOLD_FDS])
{
    for (int i = 0; i < SQ_SYNHOLD_FDS; i++) {
        if (fd[i] >= 0)
            (void)close(fd[i]);
        fd[i] = -1;
    }
}

/* The address of DIR/NAME through a descriptor of DIR: sun_path has 107 bytes, a run directory may have more. */
static socklen_t in_dir(int dirfd, const char *name, struct sockaddr_un *a)
{
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    (void)snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%.64s", dirfd, name);
    return sizeof(*a);
}

int sq_listen_unix(const char *dir, const char *name, int *out, struct sq_err *e)
{
    cleanup_close int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un a;

    if (d < 0 || fd < 0)
        return sq_err_sys(e, -errno, "cannot make a Unix listener in %s", dir);
    (void)unlinkat(d, name, 0);
    /* Only squalld connects to it, in the caller's stead: nobody else may, and nobody can before listen(2). */
    if (bind(fd, (struct sockaddr *)&a, in_dir(d, name, &a)) < 0 || fchmodat(d, name, 0600, 0) < 0 ||
        listen(fd, BACKLOG) < 0)
        return sq_err_sys(e, -errno, "cannot listen on %s/%s", dir, name);
    *out = SQ_TAKE_FD(fd);
    return 0;
}

int sq_connect_in(int fd, const char *dir, const char *name)
{
    cleanup_close int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct sockaddr_un a;

    if (d < 0)
        return -errno;
    return connect(fd, (struct sockaddr *)&a, in_dir(d, name, &a)) < 0 ? -errno : 0;
}
