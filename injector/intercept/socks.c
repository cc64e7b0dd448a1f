/* Sockets of running processes: whose they are (sock_diag(7), /proc/PID/fd), and their end by a segment with RST, whose
 * number is read from the kernel's own (seqs.h). TCP_REPAIR would say it, too, but a read or write of the program at
 * the same moment would get EPERM. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "intercept/existing.h"
#include "intercept/seqs.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

#include <dirent.h>

#define TRIES 20
#define STATE(s) (1u << (s))
#define OPEN_STATES                                                                                                    \
    (STATE(TCP_ESTABLISHED) | STATE(TCP_SYN_SENT) | STATE(TCP_FIN_WAIT1) | STATE(TCP_FIN_WAIT2) | STATE(TCP_CLOSE_WAIT))

struct list {
    struct sq_sock *s;
    size_t n, cap;
};

struct dump {
    sq_sock_wanted *wanted;
    void *arg;
    struct list found;
    uint64_t listening[65536 / 64]; /* ports */
};

static int push(struct list *l, const struct sq_sock *s)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct sq_sock *more = realloc(l->s, cap * sizeof *more);

        if (!more)
            return -ENOMEM;
        l->s = more;
        l->cap = cap;
    }
    l->s[l->n++] = *s;
    return 0;
}

static void mapped(uint8_t family, const uint32_t *in, uint32_t out[4])
{
    if (family == AF_INET6) {
        memcpy(out, in, 16);
        return;
    }
    out[0] = out[1] = 0;
    out[2] = htonl(0xffff);
    out[3] = in[0];
}

static int take(struct dump *d, const struct inet_diag_msg *m)
{
    struct sq_sock s = {.lport = ntohs(m->id.idiag_sport),
                        .rport = ntohs(m->id.idiag_dport),
                        .state = m->idiag_state,
                        .inode = m->idiag_inode,
                        .fd = -1};

    if (m->idiag_state == TCP_LISTEN) {
        d->listening[s.lport / 64] |= UINT64_C(1) << (s.lport % 64);
        return 0;
    }
    mapped(m->idiag_family, m->id.idiag_src, s.local);
    mapped(m->idiag_family, m->id.idiag_dst, s.remote);
    return s.inode && d->wanted(s.remote, s.rport, d->arg) ? push(&d->found, &s) : 0;
}

static int ask(int fd, uint8_t family)
{
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 r;
    } q = {
        .h = {.nlmsg_len = sizeof q, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .r = {.sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = OPEN_STATES | STATE(TCP_LISTEN)}};

    return send(fd, &q, sizeof q, 0) < 0 ? -errno : 0;
}

/* 1: the end of the dump. */
static int read_part(struct dump *d, const char *buf, size_t n)
{
    size_t at = 0;

    while (at + sizeof(struct nlmsghdr) <= n) {
        struct nlmsghdr h;
        struct inet_diag_msg m;
        int rc;

        memcpy(&h, buf + at, sizeof h);
        if (h.nlmsg_len < sizeof h || h.nlmsg_len > n - at)
            return -EPROTO;
        if (h.nlmsg_type == NLMSG_DONE)
            return 1;
        if (h.nlmsg_type == NLMSG_ERROR) {
            struct nlmsgerr err = {0};

            if (h.nlmsg_len >= NLMSG_LENGTH(sizeof err))
                memcpy(&err, buf + at + NLMSG_HDRLEN, sizeof err);
            return err.error < 0 ? err.error : -EPROTO;
        }
        if (h.nlmsg_len >= NLMSG_LENGTH(sizeof m)) {
            memcpy(&m, buf + at + NLMSG_HDRLEN, sizeof m);
            rc = take(d, &m);
            if (rc < 0)
                return rc;
        }
        at += NLMSG_ALIGN(h.nlmsg_len);
    }
    return 0;
}

static int dump_family(struct dump *d, uint8_t family)
{
    cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    cleanup_free char *buf = malloc(65536);
    int rc = fd < 0 ? -errno : buf ? ask(fd, family) : -ENOMEM;

    while (rc == 0) {
        ssize_t n = recv(fd, buf, 65536, 0);

        rc = n < 0 ? (errno == EINTR ? 0 : -errno) : read_part(d, buf, (size_t)n);
    }
    return rc < 0 ? rc : 0;
}

/* In the network namespace that the thread is in. */
static int dump_here(void *arg, struct sq_err *e)
{
    struct dump *d = arg;
    size_t kept = 0;
    int rc = dump_family(d, AF_INET);

    rc = rc ? rc : dump_family(d, AF_INET6);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot list TCP sockets (sock_diag)");
    for (size_t i = 0; i < d->found.n; i++) {
        const struct sq_sock *s = &d->found.s[i];

        if (!(d->listening[s->lport / 64] & (UINT64_C(1) << (s->lport % 64)))) /* else it was accepted */
            d->found.s[kept++] = *s;
    }
    d->found.n = kept;
    return 0;
}

/* ---- whose they are ---- */

static int by_inode(const void *a, const void *b)
{
    uint32_t x = ((const struct sq_sock *)a)->inode, y = ((const struct sq_sock *)b)->inode;

    return x < y ? -1 : x > y;
}

static void find_owner(struct list *l, pid_t pid)
{
    char path[64];
    DIR *d;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    d = opendir(path);
    if (!d)
        return;
    for (const struct dirent *de; (de = readdir(d));) {
        char link[64];
        ssize_t n = de->d_name[0] == '.' ? -1 : readlinkat(dirfd(d), de->d_name, link, sizeof link - 1);
        struct sq_sock key = {0}, *s;

        if (n <= 8 || memcmp(link, "socket:[", 8) != 0)
            continue;
        link[n] = '\0';
        key.inode = (uint32_t)strtoul(link + 8, NULL, 10);
        s = bsearch(&key, l->s, l->n, sizeof *s, by_inode);
        if (s && !s->pid) {
            s->pid = pid;
            s->fd = (int)strtol(de->d_name, NULL, 10);
        }
    }
    (void)closedir(d);
}

static ino_t netns_of(pid_t pid)
{
    char path[64];
    struct stat st;

    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static int in_netns(pid_t pid, int (*fn)(void *arg, struct sq_err *e), void *arg, struct sq_err *e)
{
    struct sq_netns ns;
    int rc;

    if (netns_of(pid) == netns_of(getpid()))
        return fn(arg, e);
    rc = sq_netns_open_pid(pid, &ns, e);
    if (rc < 0)
        return rc;
    rc = sq_netns_call(&ns, fn, arg, e);
    sq_netns_close(&ns);
    return rc;
}

static int of_netns(ino_t ino, const pid_t *pid, const ino_t *ns, size_t n, struct dump *d, struct list *out,
                    struct sq_err *e)
{
    const bool here = ino == netns_of(getpid());
    int rc = 0;

    for (size_t i = 0; i < n; i++) {
        struct sq_err why = {0};

        if (ns[i] != ino)
            continue;
        rc = here ? dump_here(d, &why) : in_netns(pid[i], dump_here, d, &why);
        if (rc == 0)
            break;
        if (why.cls != SQ_C_NOTFOUND) {
            if (e)
                *e = why;
            return rc;
        }
        rc = 0; /* it has ended meanwhile: another one, if there is one */
    }
    if (d->found.n == 0)
        return 0;
    qsort(d->found.s, d->found.n, sizeof *d->found.s, by_inode);
    for (size_t i = 0; i < n; i++)
        if (ns[i] == ino)
            find_owner(&d->found, pid[i]);
    for (size_t i = 0; i < d->found.n && rc == 0; i++)
        if (d->found.s[i].pid)
            rc = push(out, &d->found.s[i]);
    return rc < 0 ? sq_err(e, rc, "out of memory") : 0;
}

int sq_socks_of(const pid_t *pid, size_t n, sq_sock_wanted *wanted, void *arg, struct sq_sock **out, size_t *n_out,
                struct sq_err *e)
{
    cleanup_free ino_t *ns = calloc(n + 1, sizeof *ns);
    cleanup_free struct dump *d = NULL;
    struct list all = {0};
    int rc = ns ? 0 : sq_err(e, -ENOMEM, "out of memory");

    *out = NULL;
    *n_out = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        ns[i] = netns_of(pid[i]); /* 0: gone */
    for (size_t i = 0; i < n && rc == 0; i++) {
        bool first = ns[i] != 0;

        for (size_t k = 0; k < i && first; k++)
            first = ns[k] != ns[i];
        if (!first)
            continue;
        free(d);
        d = calloc(1, sizeof *d);
        if (!d) {
            rc = sq_err(e, -ENOMEM, "out of memory");
            break;
        }
        d->wanted = wanted;
        d->arg = arg;
        rc = of_netns(ns[i], pid, ns, n, d, &all, e);
        free(d->found.s);
    }
    if (rc < 0) {
        free(all.s);
        return rc;
    }
    *out = all.s;
    *n_out = all.n;
    return 0;
}

/* ---- reset ---- */

static int state_of(int fd)
{
    struct tcp_info ti = {0};
    socklen_t len = sizeof ti;

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) < 0 ? -errno : ti.tcpi_state;
}

static int end_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *), uint32_t addr[4], uint16_t *port)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&ss;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&ss;

    if (get(fd, (struct sockaddr *)&ss, &len) < 0)
        return -errno;
    if (ss.ss_family == AF_INET6) {
        memcpy(addr, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
    } else {
        mapped(AF_INET, &in->sin_addr.s_addr, addr);
        *port = ntohs(in->sin_port);
    }
    return 0;
}

static int local_name(int fd, struct sockaddr *sa, socklen_t *len)
{
    return getsockname(fd, sa, len);
}

static int peer_name(int fd, struct sockaddr *sa, socklen_t *len)
{
    return getpeername(fd, sa, len);
}

/* Is FD still the socket that was listed? Not if the process has closed it and has another one by this number. */
static bool is_it(int fd, const struct sq_sock *s)
{
    uint32_t local[4] = {0}, remote[4];
    uint16_t lport = 0, rport;
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) || (uint32_t)st.st_ino != s->inode ||
        end_of(fd, local_name, local, &lport) < 0 || lport != s->lport || memcmp(local, s->local, 16) != 0)
        return false;
    if (end_of(fd, peer_name, remote, &rport) < 0) /* not connected yet has none */
        return s->state == TCP_SYN_SENT;
    /* getpeername(2) may be hooked; the kernel's own list is what counts, and it said the inode. */
    return true;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static uint32_t add(const void *p, size_t len, uint32_t sum)
{
    const uint8_t *b = p;

    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)(b[i] << 8 | b[i + 1]);
    return sum;
}

static bool is_v4(const uint32_t a[4])
{
    return a[0] == 0 && a[1] == 0 && a[2] == htonl(0xffff);
}

struct segment {
    const uint32_t *from, *to;
    uint16_t sport, dport;
    uint32_t seq, ack;
    bool with_ack;
};

/* RFC 9293, 3.1 and 3.5.3. Checksums are computed here: on a raw socket nobody else does. */
static void make_tcp(const struct segment *g, struct tcphdr *t)
{
    bool v4 = is_v4(g->to);
    const uint8_t proto[4] = {0, IPPROTO_TCP, 0, sizeof *t};
    size_t skip = v4 ? 3 : 0, len = v4 ? 4 : 16;
    uint32_t sum;

    memset(t, 0, sizeof *t);
    t->source = htons(g->sport);
    t->dest = htons(g->dport);
    t->seq = htonl(g->seq);
    t->ack_seq = g->with_ack ? htonl(g->ack) : 0;
    t->doff = sizeof *t / 4;
    t->rst = 1;
    t->ack = g->with_ack;
    sum = add(g->from + skip, len, 0);
    sum = add(g->to + skip, len, sum);
    sum = add(proto, sizeof proto, sum);
    sum = add(t, sizeof *t, sum);
    t->check = htons(fold(sum));
}

static int send_v4(const struct segment *g, const struct tcphdr *t)
{
    struct {
        struct iphdr ip;
        struct tcphdr tcp;
    } p = {.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP, .saddr = g->from[3], .daddr = g->to[3]}};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = g->to[3]};
    cleanup_close int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    p.ip.tot_len = htons(sizeof p);
    p.tcp = *t;
    if (fd < 0)
        return -errno;
    return sendto(fd, &p, sizeof p, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
}

static int send_v6(const struct segment *g, const struct tcphdr *t)
{
    struct {
        struct ip6_hdr ip;
        struct tcphdr tcp;
    } p = {0};
    struct sockaddr_in6 to = {.sin6_family = AF_INET6};
    cleanup_close int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    p.ip.ip6_flow = htonl(6u << 28);
    p.ip.ip6_plen = htons(sizeof p.tcp);
    p.ip.ip6_nxt = IPPROTO_TCP;
    p.ip.ip6_hlim = 64;
    memcpy(&p.ip.ip6_src, g->from, 16);
    memcpy(&p.ip.ip6_dst, g->to, 16);
    memcpy(&to.sin6_addr, g->to, 16);
    p.tcp = *t;
    if (fd < 0)
        return -errno;
    return sendto(fd, &p, sizeof p, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
}

static int send_rst(const struct segment *g)
{
    struct tcphdr t;

    make_tcp(g, &t);
    return is_v4(g->to) ? send_v4(g, &t) : send_v6(g, &t);
}

struct job {
    const struct sq_sock *s;
    struct sq_seqs *seqs;
    int fd;
    uint64_t cookie;
};

/* What arrives meanwhile makes one miss; the kernel then only asks back (RFC 5961), and it is tried again. */
static int reset_here(void *arg, struct sq_err *e)
{
    const struct job *j = arg;
    const struct sq_sock *s = j->s;
    struct sq_seq nr = {0};
    struct segment to_us = {.from = s->remote, .to = s->local, .sport = s->rport, .dport = s->lport};
    struct segment to_them = {.from = s->local, .to = s->remote, .sport = s->lport, .dport = s->rport};
    int rc = 0;

    for (int i = 0; i < TRIES && state_of(j->fd) != TCP_CLOSE; i++) {
        rc = sq_seqs_read(j->seqs, j->cookie, &nr);
        if (rc == -ENOENT)
            continue; /* the walk has missed it */
        to_us.seq = nr.rcv_nxt;
        to_us.ack = nr.snd_nxt;
        to_us.with_ack = state_of(j->fd) == TCP_SYN_SENT; /* there a reset counts when it acknowledges the SYN */
        rc = rc ? rc : send_rst(&to_us);
        if (rc < 0)
            return sq_err_sys(e, rc, "cannot reset a connection of process %d", (int)s->pid);
    }
    if (state_of(j->fd) != TCP_CLOSE)
        return -EAGAIN;
    to_them.seq = nr.snd_nxt;
    if (s->state != TCP_SYN_SENT)
        (void)send_rst(&to_them); /* else it would find out with its next byte */
    return 0;
}

int sq_sock_reset(struct sq_seqs *seqs, const struct sq_sock *s, struct sq_err *e)
{
    cleanup_close int pidfd = sq_pidfd_open(s->pid);
    cleanup_close int fd = pidfd < 0 ? -1 : sq_pidfd_getfd(pidfd, s->fd);
    struct job j = {.s = s, .seqs = seqs, .fd = fd};
    socklen_t len = sizeof j.cookie;
    int rc;

    if (pidfd == -ESRCH || fd == -EBADF || fd == -ESRCH)
        return -ENOENT;
    if (pidfd < 0 || fd < 0)
        return sq_err_sys(e, pidfd < 0 ? pidfd : fd, "cannot get at a connection of process %d", (int)s->pid);
    if (!is_it(fd, s) || state_of(fd) == TCP_CLOSE)
        return -ENOENT;
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &j.cookie, &len) < 0)
        return sq_err_sys(e, -errno, "cannot tell a connection of process %d from others", (int)s->pid);
    rc = in_netns(s->pid, reset_here, &j, e);
    if (rc < 0 && (sq_pidfd_signal(pidfd, 0) == -ESRCH || (e && e->cls == SQ_C_NOTFOUND)))
        return -ENOENT; /* the process has ended meanwhile */
    return rc;
}
