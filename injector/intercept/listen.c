/* Sockets that squalld makes for the proxy: listeners on loopback, the ones that hold SYNs, and Unix stand-ins. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
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

static int attach(int fd, const struct sock_filter *code, unsigned short n)
{
    struct sock_filter copy[24];
    struct sock_fprog prog = {.len = n, .filter = copy};

    memcpy(copy, code, n * sizeof(*code));
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ? -errno : 0;
}

/* A filter on a TCP listener sees the segment from the TCP header on (tcp_filter, net/ipv4/tcp_ipv4.c), and the IP
 * header at SKF_NET_OFF. What it drops, the peer's TCP sends again. */
int sq_gate_filter(int fd, bool shut)
{
    static const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)(SKF_NET_OFF + 8)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_TTL, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffffu),
    };
    int zero = 0;

    if (shut)
        return attach(fd, code, SQ_COUNT(code));
    return setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof(zero)) < 0 && errno != ENOENT ? -errno : 0;
}

/* All of 127.0.0.0/8, but loopback only: bound to the device, which needs no privilege since Linux 5.7. */
int sq_listen_lo(bool gate, int *out, uint16_t *port, struct sq_err *e)
{
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    int rc;

    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a listener for the proxy");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0)
        return sq_err_sys(e, -errno, "cannot bind a listener to the loopback device");
    rc = gate ? sq_gate_filter(fd, true) : 0;
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot filter the SYNs of a listener");
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return sq_err_sys(e, -errno, "cannot listen on loopback");
    *port = a.sin_port;
    *out = SQ_TAKE_FD(fd);
    return 0;
}

/* A packet socket that sees the SYNs of redirected connects (not yet bound, so that nothing queues up before the proxy
 * asks for it), and a raw one to send them again. */
int sq_synhold_open(int *packet, int *raw, struct sq_err *e)
{
    static const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)SKF_NET_OFF),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x40, 0, 13),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)(SKF_NET_OFF + 9)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 11),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)(SKF_NET_OFF + 8)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_TTL, 9, 0),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (unsigned)(SKF_NET_OFF + 16)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_NET_BPF >> 16, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_NET_SECCOMP >> 16, 0, 6),
        /* loopback's own IP headers have no options unless a program sets some: those are not held */
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)SKF_NET_OFF),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x45, 0, 4),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (unsigned)(SKF_NET_OFF + 33)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    cleanup_close int p = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = -1;
    int one = 1, rc;

    if (p >= 0)
        r = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);
    if (p < 0 || r < 0) {
        rc = errno == EPERM
                 ? sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "without CAP_NET_RAW the connect can't be delayed")
                 : sq_err_sys(e, -errno, "cannot make the sockets that delay a connect");
        sq_err_hint(e, "run as root, or give squalld CAP_NET_RAW; until then latency delays the bytes only");
        return rc;
    }
    if (setsockopt(p, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) < 0)
        return sq_err_sys(e, -errno, "PACKET_IGNORE_OUTGOING");
    rc = attach(p, code, SQ_COUNT(code));
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot filter a packet socket");
    *packet = SQ_TAKE_FD(p);
    *raw = SQ_TAKE_FD(r);
    return 0;
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
