/* A packet process on a TAP in a network namespace of its own, and a packet socket on the TAP's other side: what is
 * sent there is what the redirecting program would send, what comes back is what the process writes. */
#ifndef SQUALL_PACKET_RIG_H
#define SQUALL_PACKET_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/impair.h"
#include "packet/control.h"
#include "packet/wire.h"
#include "squall/clock.h"

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #c, errno);                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

struct rig {
    pid_t pid;
    int ctl, sock;
    _Atomic uint64_t *beat;
    uint32_t seq;
};

/* A frame of the rig: Ethernet, IPv4, UDP, then a number and the time it was sent. */
struct rig_frame {
    struct sq_packet_tag tag;
    uint8_t eth[14], ip[20], udp[8];
    uint8_t number[8], sent[8];
} __attribute__((packed));
#define RIG_FRAME (sizeof(struct rig_frame) - sizeof(struct sq_packet_tag))

static inline void rig_ip(uint8_t *ip, uint16_t len, uint8_t tos)
{
    memcpy(ip, (uint8_t[]){0x45, tos, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 9, 1, 10, 9, 9, 2}, 20);
    ip[2] = (uint8_t)(len >> 8);
    ip[3] = (uint8_t)len;
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    ip[10] = (uint8_t)(~sum >> 8);
    ip[11] = (uint8_t)~sum;
}

static inline void rig_frame(struct rig_frame *f, uint64_t mask, uint64_t number, size_t len, uint8_t tos)
{
    memset(f, 0, sizeof *f);
    f->tag.magic = SQ_PACKET_MAGIC;
    f->tag.mask.w[0] = mask;
    memcpy(f->eth, "\2\0\0\0\0\2\2\0\0\0\0\1\x08\0", 14);
    rig_ip(f->ip, (uint16_t)(len - 14), tos);
    memcpy(f->udp, (uint8_t[]){0x11, 0x11, 0x22, 0x22, (uint8_t)((len - 34) >> 8), (uint8_t)(len - 34), 0, 0}, 8);
    memcpy(f->number, &number, 8);
}

static inline void rig_write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return;
    (void)!write(fd, text, strlen(text));
    (void)close(fd);
}

static inline int rig_tap(const char *name)
{
    int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC), big = 1 << 30;
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    MUST(tap >= 0 && ioctl(tap, TUNSETIFF, &r) == 0);
    MUST(ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) == 0);
    MUST(ioctl(tap, TUNSETSNDBUF, &big) == 0);
    char path[128];
    (void)snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    rig_write_file(path, "1");
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    r.ifr_mtu = 65521;
    MUST(s >= 0 && ioctl(s, SIOCSIFMTU, &r) == 0);
    r.ifr_qlen = 100000;
    MUST(ioctl(s, SIOCSIFTXQLEN, &r) == 0);
    r.ifr_flags = IFF_UP;
    MUST(ioctl(s, SIOCSIFFLAGS, &r) == 0);
    (void)close(s);
    return tap;
}

static inline int rig_socket(const char *name)
{
    int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)), big = 1 << 28, on = 1;
    struct sockaddr_ll a = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
    MUST(s >= 0 && bind(s, (struct sockaddr *)&a, sizeof a) == 0);
    MUST(setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big) == 0);
    MUST(setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big) == 0);
    MUST(setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) == 0);
    return s;
}

/* Who measures must not be late itself. */
static inline void rig_exact(void)
{
    struct sched_param sp = {.sched_priority = 2};
    (void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &sp);
}

static inline pid_t rig_spawn(int ctl)
{
    const char *dir = getenv("SQUALL_BUILD");
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/squalld", dir ? dir : "build");
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid > 0)
        return pid;
    if (dup2(ctl, 3) < 0)
        _exit(126);
    execl(path, path, "packet", (char *)NULL);
    perror(path);
    _exit(127);
}

/* {seq, error} to a request that has one. */
static inline int rig_answer(struct rig *r, uint32_t seq)
{
    int32_t a[2];
    struct pollfd f = {.fd = r->ctl, .events = POLLIN};
    MUST(poll(&f, 1, 10000) == 1 && recv(r->ctl, a, sizeof a, 0) == (ssize_t)sizeof a);
    MUST((uint32_t)a[0] == seq);
    return a[1];
}

static inline int rig_start(struct rig *r, const int *fds, size_t n, const struct sq_packet_start *s)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * 32)];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)s, .iov_len = sizeof *s};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    MUST(sendmsg(r->ctl, &m, 0) == (ssize_t)sizeof *s);
    return rig_answer(r, 0);
}

static inline void rig_open(struct rig *r)
{
    int pair[2], map = memfd_create("beat", MFD_CLOEXEC);
    MUST(map >= 0 && ftruncate(map, 4096) == 0);
    r->beat = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
    MUST(r->beat != MAP_FAILED);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    int tap = rig_tap("sqt0");
    r->sock = rig_socket("sqt0");
    r->ctl = pair[0];
    r->seq = 1;
    r->pid = rig_spawn(pair[1]);
    (void)close(pair[1]);
    struct sq_packet_start s = {.op = SQ_PK_START, .has_egress = 1};
    MUST(rig_start(r, (int[]){map, tap}, 2, &s) == 0);
    (void)close(tap);
    (void)close(map);
}

static inline int rig_set(struct rig *r, unsigned bit, const struct sq_impair *im)
{
    struct sq_packet_set h = {.op = SQ_PK_SET, .bit = bit, .seq = ++r->seq, .seed = 42};
    size_t len;
    void *m = sq_packet_set_write(&h, im, &len);
    MUST(m && send(r->ctl, m, len, 0) == (ssize_t)len);
    free(m);
    return rig_answer(r, h.seq);
}

static inline int rig_del(struct rig *r, unsigned bit)
{
    struct sq_packet_set h = {.op = SQ_PK_DEL, .bit = bit, .seq = ++r->seq};
    MUST(send(r->ctl, &h, sizeof h, 0) == (ssize_t)sizeof h);
    return rig_answer(r, h.seq);
}

static inline struct sq_packet_stats rig_stats(struct rig *r, unsigned bit)
{
    struct sq_packet_stats s = {.op = SQ_PK_STATS, .bit = bit, .seq = ++r->seq}, a;
    struct pollfd f = {.fd = r->ctl, .events = POLLIN};
    MUST(send(r->ctl, &s, sizeof s, 0) == (ssize_t)sizeof s);
    MUST(poll(&f, 1, 10000) == 1 && recv(r->ctl, &a, sizeof a, 0) == (ssize_t)sizeof a && a.seq == s.seq);
    return a;
}

static inline struct sq_packet_got rig_get(struct rig *r, unsigned bit)
{
    struct sq_packet_set q = {.op = SQ_PK_GET, .bit = bit, .seq = ++r->seq};
    struct sq_packet_got a;
    struct pollfd f = {.fd = r->ctl, .events = POLLIN};
    MUST(send(r->ctl, &q, sizeof q, 0) == (ssize_t)sizeof q);
    MUST(poll(&f, 1, 10000) == 1 && recv(r->ctl, &a, sizeof a, 0) == (ssize_t)sizeof a && a.seq == q.seq);
    return a;
}

/* The process's exit status, waited for at most MS; -1: it lives. */
static inline int rig_wait(struct rig *r, int ms)
{
    for (int64_t end = sq_mono_ns() + ms * INT64_C(1000000);; (void)usleep(1000)) {
        int status;
        if (waitpid(r->pid, &status, WNOHANG) == r->pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (sq_mono_ns() > end)
            return -1;
    }
}

static inline int rig_end(struct rig *r, int ms)
{
    uint32_t op = SQ_PK_END;
    MUST(send(r->ctl, &op, sizeof op, 0) == (ssize_t)sizeof op);
    int status = rig_wait(r, ms);
    (void)close(r->ctl);
    (void)close(r->sock);
    return status;
}

static inline void rig_send(struct rig *r, uint64_t mask, uint64_t number)
{
    struct rig_frame f;
    rig_frame(&f, mask, number, RIG_FRAME, 0);
    int64_t now = sq_mono_ns();
    memcpy(f.sent, &now, 8);
    MUST(send(r->sock, &f, sizeof f, 0) == (ssize_t)sizeof f);
}

/* A frame that came back, waited for at most MS: its length, 0: none. */
static inline size_t rig_recv(struct rig *r, void *buf, size_t len, int ms)
{
    struct pollfd f = {.fd = r->sock, .events = POLLIN};
    if (poll(&f, 1, ms) != 1)
        return 0;
    ssize_t n = recv(r->sock, buf, len, MSG_DONTWAIT);
    return n > 0 ? (size_t)n : 0;
}

/* The number of the rig's frame that came back, and its time on the way; -1: none. */
static inline int64_t rig_got(struct rig *r, int ms, int64_t *took)
{
    uint8_t buf[2048];
    size_t n = rig_recv(r, buf, sizeof buf, ms);
    int64_t now = sq_mono_ns(), sent;
    uint64_t number;
    if (n < RIG_FRAME)
        return -1;
    memcpy(&number, buf + 42, 8);
    memcpy(&sent, buf + 50, 8);
    *took = now - sent;
    return (int64_t)number;
}

#endif
