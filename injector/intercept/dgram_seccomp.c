/* Datagrams of programs under a seccomp filter. A connect(2) of a datagram socket is made in its stead, to the proxy
 * (dup-connect); what is sent to an address is copied and sent in its stead on the very same socket; and what is
 * received together with the sender's address is received in its stead when it came from the proxy, so that the program
 * sees whom it had asked. All of it is done at once or let go: nothing waits here. Memory of the program is read once,
 * and the copy is what is sent. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "intercept/supervise.h"
#include "squall/cleanup.h"
#include "squall/clock.h"

#define MESSAGES 16 /* of one sendmmsg(2): it may send fewer than it was asked for */
#define PARTS 64    /* of one message */
#define ROOM 65536  /* a datagram is smaller */
#define PROBES 8    /* places of the table that a destination may have */
#define X32_BIT 0x40000000

/* A call of the program; the pointers are addresses of its. */
struct order {
    bool receive;
    bool vector; /* sendmmsg */
    bool bare;   /* sendto, recvfrom: no struct msghdr */
    unsigned n;
    uint64_t at, namelen_at; /* of the struct msghdr (struct mmsghdr), or of recvfrom's addrlen */
    int flags;
    struct iovec part; /* of the bare ones */
    struct mmsghdr m[MESSAGES];
};

static int read_from(pid_t tid, const void *from, void *to, size_t len)
{
    struct iovec here = {to, len}, there = {(void *)(uintptr_t)from, len};

    return process_vm_readv(tid, &here, 1, &there, 1, 0) == (ssize_t)len ? 0 : -EFAULT;
}

static bool waits(const struct sq_supervisor *s, const struct seccomp_notif *n)
{
    return ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id) == 0;
}

/* The memory of the program, to be written: opened while it certainly waits, and no other's when it is killed later and
 * its number used again, as a number for process_vm_writev(2) would be (seccomp_unotify(2)). -errno. */
static int open_memory(const struct sq_supervisor *s, const struct seccomp_notif *n)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)n->pid);
    cleanup_close int mem = open(path, O_RDWR | O_CLOEXEC);
    if (mem < 0)
        return -errno;
    return waits(s, n) ? SQ_TAKE_FD(mem) : -ESRCH;
}

static int write_to(int mem, uint64_t to, const void *from, size_t len)
{
    return pwrite(mem, from, len, (off_t)to) == (ssize_t)len ? 0 : -EFAULT;
}

static int scatter(int mem, const struct iovec *part, int n, const char *from, size_t len)
{
    int rc = 0;

    for (int i = 0; i < n && rc == 0 && len > 0; i++) {
        size_t now = part[i].iov_len < len ? part[i].iov_len : len;

        rc = now ? write_to(mem, (uint64_t)(uintptr_t)part[i].iov_base, from, now) : 0;
        from += now;
        len -= now;
    }
    return rc;
}

static void *there(uint64_t p)
{
    return (void *)(uintptr_t)p;
}

/* 0: none of ours. Programs whose pointers have 32 bits are let go. */
static int parse(const struct seccomp_notif *n, struct order *o)
{
    const __u64 *args = n->data.args;
    pid_t tid = (pid_t)n->pid;
    size_t len = sizeof(struct msghdr);

    if (n->data.arch != seccomp_arch_native() || (n->data.nr & X32_BIT))
        return 0;
    memset(o, 0, sizeof(*o));
    o->n = 1;
    o->receive = n->data.nr == SYS_recvfrom || n->data.nr == SYS_recvmsg;
    o->bare = n->data.nr == SYS_sendto || n->data.nr == SYS_recvfrom;
    if (o->bare) {
        o->flags = (int)args[3];
        o->part = (struct iovec){there(args[1]), args[2]};
        o->m[0].msg_hdr = (struct msghdr){.msg_name = there(args[4]), .msg_iovlen = 1};
        o->namelen_at = args[5];
        if (!o->receive)
            o->m[0].msg_hdr.msg_namelen = (socklen_t)args[5];
        return args[4] != 0;
    }
    o->at = args[1];
    if (n->data.nr == SYS_sendmmsg) {
        o->vector = true;
        o->n = (unsigned)args[2] < MESSAGES ? (unsigned)args[2] : MESSAGES;
        len = o->n * sizeof(struct mmsghdr);
    } else if (n->data.nr != SYS_sendmsg && n->data.nr != SYS_recvmsg) {
        return 0;
    }
    o->flags = (int)args[o->vector ? 3 : 2];
    return o->n > 0 && read_from(tid, there(o->at), o->m, len) == 0;
}

/* Where the parts of message M are in the program. Their number; -errno: not a message that is understood. */
static int parts_of(pid_t tid, const struct order *o, const struct msghdr *m, struct iovec *out)
{
    if (o->bare) {
        out[0] = o->part;
        return 1;
    }
    if (m->msg_iovlen > PARTS || m->msg_controllen > 0)
        return -EMSGSIZE;
    return m->msg_iovlen && read_from(tid, m->msg_iov, out, m->msg_iovlen * sizeof(*out)) < 0 ? -EFAULT
                                                                                              : (int)m->msg_iovlen;
}

static size_t length(const struct iovec *part, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n && sum < ROOM; i++)
        sum += part[i].iov_len < ROOM ? part[i].iov_len : ROOM;
    return sum;
}

/* The edge that ADDR is a destination of; NULL: nobody's. */
static struct sq_edge *edge_to(const struct sq_supervisor *s, const uint32_t addr[4], uint16_t port)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const uint8_t *b = (const uint8_t *)addr;
    bool v4 = memcmp(b, mapped, sizeof(mapped)) == 0;
    uint32_t found;

    /* To one, not to many; and link-local ones have a scope that the proxy does not know. */
    if (v4 ? b[12] >= 0xe0 : b[0] == 0xff || (b[0] == 0xfe && (b[1] & 0xc0) == 0x80))
        return NULL;
    found = sq_tables_find(s->caller->dtables, addr, htons(port));
    return found && s->ic->edge[found - 1] && s->ic->cfg[found - 1].dgram ? s->ic->edge[found - 1] : NULL;
}

static bool same(const struct sq_flow *f, const struct sq_flow *want)
{
    return f->caller == want->caller && f->edge == want->edge && f->port == want->port && f->via == want->via &&
           f->family == want->family && memcmp(f->addr, want->addr, sizeof(f->addr)) == 0;
}

/* The number of this destination of the caller's: the same one each time. */
static uint32_t number_of(struct sq_supervisor *s, const struct sq_edge *edge, uint16_t via, const uint32_t addr[4],
                          uint16_t port)
{
    bool v4 = addr[0] == 0 && addr[1] == 0 && addr[2] == htonl(0xffff);
    struct sq_flow want = {.caller = s->caller->id,
                           .edge = edge->id,
                           .port = htons(port),
                           .via = via,
                           .family = v4 ? AF_INET : AF_INET6,
                           .t_ns = (uint64_t)sq_mono_ns()};
    uint32_t h = want.caller * 2654435761u ^ want.port * 3266489917u, at = SQ_FLOWS;

    memcpy(want.addr, v4 ? &addr[3] : &addr[0], v4 ? 4 : 16);
    for (int i = 0; i < 4; i++)
        h = (h ^ addr[i]) * 2246822519u;
    h ^= h >> 15;
    for (uint32_t i = 0; i < PROBES; i++) {
        const struct sq_flow *f = &s->ic->dflows[(h + i) & (SQ_FLOWS - 1)];

        if (same(f, &want))
            return (h + i) & (SQ_FLOWS - 1);
        if (at == SQ_FLOWS && !f->family)
            at = (h + i) & (SQ_FLOWS - 1);
    }
    if (at == SQ_FLOWS)
        at = h & (SQ_FLOWS - 1);
    s->ic->dflows[at] = want;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return at;
}

/* VIA: the proxy's port. */
static socklen_t proxy_address(struct sq_supervisor *s, const struct sq_edge *edge, uint16_t via,
                               const struct sq_attempt *a, const uint32_t addr[4], uint16_t port,
                               struct sockaddr_storage *ss)
{
    uint32_t to[4] = {0, 0, htonl(0xffff), htonl(SQ_NET_DGRAM_SECCOMP | number_of(s, edge, via, addr, port))};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = via, .sin_addr = {to[3]}};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = via};

    if (a->to.sa.sa_family == AF_INET) {
        memcpy(ss, &in, sizeof(in));
        return sizeof(in);
    }
    memcpy(&in6.sin6_addr, to, sizeof(to));
    memcpy(ss, &in6, sizeof(in6));
    return sizeof(in6);
}

static int int_opt(int fd, int opt)
{
    int v = 0;
    socklen_t len = sizeof(v);

    return getsockopt(fd, SOL_SOCKET, opt, &v, &len) == 0 ? v : -1;
}

static bool is_udp(int fd)
{
    int domain = int_opt(fd, SO_DOMAIN);

    return int_opt(fd, SO_TYPE) == SOCK_DGRAM && (domain == AF_INET || domain == AF_INET6) &&
           int_opt(fd, SO_PROTOCOL) == IPPROTO_UDP;
}

/* The proxy's port for this socket; 0: WHY it can't be reached. */
static uint16_t way(const struct sq_supervisor *s, struct sq_edge *edge, const struct sq_attempt *a, int fd, char *why,
                    size_t len)
{
    struct sq_space_ports at;

    if (int_opt(fd, SO_DOMAIN) != a->to.sa.sa_family)
        (void)snprintf(why, len, "its socket is of another family");
    else if (sq_attempt_v6_only(a, fd))
        (void)snprintf(why, len, "its socket can speak IPv6 only");
    else if (!sq_link_alive(s->ic))
        (void)snprintf(why, len, "the proxy is gone");
    else if (sq_attempt_listeners(s, edge, a, fd, &at, why, len))
        return at.dgram;
    return 0;
}

bool sq_dgram_connect(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r)
{
    struct sockaddr_storage proxy;
    struct sq_edge *edge;
    char why[256] = "there is no port";
    uint32_t addr[4];
    uint16_t port, via;
    socklen_t len;

    if (!s->caller->dtables || a->fastopen || !sq_attempt_wanted(a, addr, &port) || !(edge = edge_to(s, addr, port)))
        return false;
    cleanup_close int fd = sq_attempt_socket(s, a);
    if (fd < 0 || !is_udp(fd))
        return false;
    via = way(s, edge, a, fd, why, sizeof(why));
    len = via ? proxy_address(s, edge, via, a, addr, port, &proxy) : 0;
    if (via && connect(fd, (struct sockaddr *)&proxy, len) == 0) /* of a datagram socket it does not wait */
        *r = (struct sq_reply){0};
    else
        sq_attempt_bypass(s, edge, r, via ? strerror(errno) : why);
    return true;
}

/* One message, to where it goes now. What sendmsg(2) says; -EOPNOTSUPP: not a message that can be copied. */
static ssize_t send_one(const struct sq_supervisor *s, const struct seccomp_notif *call, int fd, const struct order *o,
                        const struct msghdr *m, void *name, socklen_t len)
{
    const pid_t tid = (pid_t)call->pid;
    struct iovec part[PARTS], mine;
    char data[ROOM];
    int n = parts_of(tid, o, m, part);
    struct msghdr out = {.msg_name = name, .msg_namelen = len, .msg_iov = &mine, .msg_iovlen = 1};

    if (n < 0 || length(part, n) >= ROOM || (o->flags & (MSG_ZEROCOPY | MSG_OOB)))
        return -EOPNOTSUPP;
    mine = (struct iovec){data, length(part, n)};
    if (mine.iov_len && process_vm_readv(tid, &mine, 1, part, (unsigned long)n, 0) != (ssize_t)mine.iov_len)
        return -EFAULT;
    if (!waits(s, call)) /* else it may be another one's memory that was read */
        return -ESRCH;
    ssize_t sent = sendmsg(fd, &out, o->flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

/* Where message I of the call wants to go: read into A. */
static struct sq_edge *aim(const struct sq_supervisor *s, struct sq_attempt *a, const struct msghdr *m,
                           uint32_t addr[4], uint16_t *port)
{
    a->addr = (uint64_t)(uintptr_t)m->msg_name;
    a->len = m->msg_namelen;
    a->to_len = 0;
    if (!a->addr || !a->len || sq_attempt_read(a) < 0 || !sq_attempt_wanted(a, addr, port))
        return NULL;
    return edge_to(s, addr, *port);
}

/* Of several messages those behind the first that fails are left to the program, as the kernel does it. */
static bool take_send(struct sq_supervisor *s, const struct seccomp_notif *n, struct order *o, struct sq_reply *r)
{
    struct sq_attempt a[MESSAGES];
    struct sq_edge *edge[MESSAGES], *any = NULL;
    uint32_t addr[MESSAGES][4];
    uint16_t port[MESSAGES], via = 1;
    char why[256] = "it could not be sent to the proxy";
    ssize_t sent = 0;
    unsigned i;

    memset(a, 0, sizeof(a));
    for (i = 0; i < o->n; i++) {
        a[i].tid = (pid_t)n->pid;
        a[i].id = n->id;
        a[i].fd = (int)n->data.args[0];
        edge[i] = aim(s, &a[i], &o->m[i].msg_hdr, addr[i], &port[i]);
        any = any ? any : edge[i];
    }
    if (!any)
        return false;
    cleanup_close int fd = sq_attempt_socket(s, &a[0]), mem = -1;
    if (fd < 0 || !is_udp(fd) || (o->vector && (mem = open_memory(s, n)) < 0))
        return false;
    for (i = 0; i < o->n; i++) {
        struct sockaddr_storage proxy = a[i].to.ss;
        socklen_t len = a[i].to_len;

        via = edge[i] ? way(s, edge[i], &a[i], fd, why, sizeof(why)) : 1;
        if (via && edge[i])
            len = proxy_address(s, edge[i], via, &a[i], addr[i], port[i], &proxy);
        if (!via)
            break;

        sent = send_one(s, n, fd, o, &o->m[i].msg_hdr, len ? &proxy : NULL, len);
        if (sent < 0)
            break;
        o->m[i].msg_len = (unsigned)sent;
        if (o->vector)
            (void)write_to(mem, o->at + i * sizeof(o->m[0]) + offsetof(struct mmsghdr, msg_len), &o->m[i].msg_len,
                           sizeof(o->m[i].msg_len));
    }
    if (i == 0 && (!via || sent == -EOPNOTSUPP || sent == -EINVAL || sent == -EAGAIN || sent == -ENETUNREACH)) {
        sq_attempt_bypass(s, any, r, why);
        return true;
    }
    *r = (struct sq_reply){.error = i == 0 ? (int)sent : 0, .value = o->vector ? (int64_t)i : sent};
    if (r->error)
        r->value = 0;
    return true;
}

/* FROM is the proxy: whom it stands for is put there. */
static bool give_back(const struct sq_supervisor *s, struct sockaddr_storage *from, socklen_t *len)
{
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    uint32_t host, words[4];
    const struct sq_flow *f;
    uint16_t port;

    memcpy(&in, from, sizeof(in));
    memcpy(&in6, from, sizeof(in6));
    memcpy(words, &in6.sin6_addr, sizeof(words));
    if (from->ss_family != AF_INET &&
        (from->ss_family != AF_INET6 || words[0] || words[1] || words[2] != htonl(0xffff)))
        return false;
    host = ntohl(from->ss_family == AF_INET ? in.sin_addr.s_addr : words[3]);
    port = from->ss_family == AF_INET ? in.sin_port : in6.sin6_port;
    f = &s->ic->dflows[host & (SQ_FLOWS - 1)];
    if ((host & ~(SQ_FLOWS - 1)) != SQ_NET_DGRAM_SECCOMP || f->via != port || f->caller != s->caller->id)
        return false;
    if (from->ss_family == AF_INET) {
        memcpy(&in.sin_addr, f->addr, sizeof(in.sin_addr));
        in.sin_port = f->port;
        memcpy(from, &in, *len = sizeof(in));
        return f->family == AF_INET;
    }
    if (f->family == AF_INET)
        memcpy(&in6.sin6_addr.s6_addr[12], f->addr, 4);
    else
        memcpy(&in6.sin6_addr, f->addr, 16);
    in6.sin6_port = f->port;
    memcpy(from, &in6, *len = sizeof(in6));
    return true;
}

static int tell_sender(int mem, const struct order *o, const struct sockaddr_storage *from, socklen_t len, int flags)
{
    const struct msghdr *m = &o->m[0].msg_hdr;
    uint64_t name = (uint64_t)(uintptr_t)m->msg_name;
    socklen_t room = m->msg_namelen;
    size_t none = 0;
    int rc = 0;

    if (o->bare)
        rc = pread(mem, &room, sizeof(room), (off_t)o->namelen_at) == (ssize_t)sizeof(room) ? 0 : -EFAULT;
    if (rc == 0)
        rc = write_to(mem, name, from, len < room ? len : room);
    if (rc == 0)
        rc = write_to(mem, o->bare ? o->namelen_at : o->at + offsetof(struct msghdr, msg_namelen), &len, sizeof(len));
    if (rc == 0 && !o->bare)
        rc = write_to(mem, o->at + offsetof(struct msghdr, msg_flags), &flags, sizeof(flags));
    if (rc == 0 && !o->bare)
        rc = write_to(mem, o->at + offsetof(struct msghdr, msg_controllen), &none, sizeof(none));
    return rc;
}

static bool take_receive(struct sq_supervisor *s, const struct seccomp_notif *n, struct order *o, struct sq_reply *r)
{
    struct sq_attempt a = {.tid = (pid_t)n->pid, .id = n->id, .fd = (int)n->data.args[0]};
    struct sockaddr_storage from = {0};
    socklen_t len = sizeof(from);
    struct iovec part[PARTS], mine;
    char data[ROOM];
    int parts = o->m[0].msg_hdr.msg_name ? parts_of(a.tid, o, &o->m[0].msg_hdr, part) : -EINVAL;
    struct msghdr in = {.msg_name = &from, .msg_iov = &mine, .msg_iovlen = 1};

    if (parts < 0 || (o->flags & (MSG_ERRQUEUE | MSG_OOB)))
        return false;
    cleanup_close int fd = sq_attempt_socket(s, &a), mem = -1;
    if (fd < 0 || !is_udp(fd))
        return false;
    if (recvfrom(fd, data, 1, MSG_PEEK | MSG_DONTWAIT, (struct sockaddr *)&from, &len) < 0) {
        *r = (struct sq_reply){.cont = errno == EAGAIN || errno == EINTR, .error = -errno};
        return true;
    }
    if (!give_back(s, &from, &len) || (mem = open_memory(s, n)) < 0)
        return false;
    mine = (struct iovec){data, length(part, parts) < ROOM ? length(part, parts) : ROOM};
    in.msg_namelen = sizeof(from);
    ssize_t got = recvmsg(fd, &in, o->flags | MSG_DONTWAIT);
    if (got < 0) { /* another thread was faster */
        *r = (struct sq_reply){.cont = true};
        return true;
    }
    len = in.msg_namelen;
    (void)give_back(s, &from, &len);
    mine.iov_len = (size_t)got < mine.iov_len ? (size_t)got : mine.iov_len;
    bool ok = scatter(mem, part, parts, data, mine.iov_len) == 0 && tell_sender(mem, o, &from, len, in.msg_flags) == 0;
    *r = ok ? (struct sq_reply){.value = got} : (struct sq_reply){.error = -EFAULT};
    return true;
}

/* getpeername(2) of a socket that is connected to the proxy: whom it stands for. */
static bool take_peername(struct sq_supervisor *s, const struct seccomp_notif *n, struct sq_reply *r)
{
    struct sq_attempt a = {.tid = (pid_t)n->pid, .id = n->id, .fd = (int)n->data.args[0]};
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof(peer), room = 0;
    cleanup_close int fd = sq_attempt_socket(s, &a), mem = -1;

    if (fd < 0 || getpeername(fd, (struct sockaddr *)&peer, &len) < 0 || !give_back(s, &peer, &len) ||
        (mem = open_memory(s, n)) < 0)
        return false;
    /* What the kernel would refuse is its own to refuse. */
    if (pread(mem, &room, sizeof(room), (off_t)n->data.args[2]) != (ssize_t)sizeof(room) || (int)room < 0 ||
        write_to(mem, n->data.args[1], &peer, len < room ? len : room) < 0 ||
        write_to(mem, n->data.args[2], &len, sizeof(len)) < 0)
        return false;
    *r = (struct sq_reply){0};
    return true;
}

bool sq_dgram_notified(struct sq_supervisor *s, const struct seccomp_notif *n, struct sq_reply *r)
{
    struct order o;

    if (!s->caller->dtables)
        return false;
    if (n->data.arch == seccomp_arch_native() && n->data.nr == SYS_getpeername)
        return take_peername(s, n, r);
    if (!parse(n, &o))
        return false;
    return o.receive ? take_receive(s, n, &o, r) : take_send(s, n, &o, r);
}
