/* The proxy process and the socket to it. It is forked here and not by libuv, because it must become unprivileged and
 * yet be executed from where an unprivileged user may not look (a build in /root): by descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "proxy/wire.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/fds.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "unprivileged.h"

#define NOBODY 65534
#define PROXY_FILES 65536
#define SEND_NS SQ_S
#define ACK_NS SQ_S

extern char **environ;

/* Between fork and exec: system calls only. */
static void drop_privileges(void)
{
    struct rlimit files = {PROXY_FILES, PROXY_FILES};

    (void)setrlimit(RLIMIT_NOFILE, &files); /* a connection is two; best effort: fs.nr_open may be lower */
    for (unsigned long cap = 0; cap < 64; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) < 0 ||
        syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0)
        _exit(126);
    (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL); /* root's keys may be linked into the inherited one */
}

static void child(int exe, int sock, int netns, bool drop, char *const *argv)
{
    if (netns >= 0 && setns(netns, CLONE_NEWNET) < 0)
        _exit(126);
    sq_plain_signals();
    sq_plain_oom();
    (void)setsid();
    /* Descriptors 0 and 1 go nowhere, 2 stays, 3 is the socket; all others are close-on-exec, but nobody else's mistake
     * may give the proxy more than that. exe is moved out of the way first. */
    exe = fcntl(exe, F_DUPFD_CLOEXEC, 10);
    sock = fcntl(sock, F_DUPFD_CLOEXEC, 10);
    if (exe < 0 || sock < 0 || dup2(sock, 3) != 3)
        _exit(126);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    null = null < 0 ? null : fcntl(null, F_DUPFD_CLOEXEC, 10);
    if (null < 0 || dup2(null, 0) != 0 || dup2(null, 1) != 1)
        _exit(126);
#ifdef SYS_close_range
    (void)syscall(SYS_close_range, 4u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
#endif
    if (drop)
        drop_privileges();
    (void)syscall(SYS_execveat, exe, "", argv, environ, AT_EMPTY_PATH);
    _exit(127);
}

/* NETNS: the network namespace that it lives in; -1: ours. */
static int spawn(const char *self, char *const *argv, int netns, int sock, pid_t *out, int *pidfd, struct sq_err *e)
{
    cleanup_close int exe = open(self, O_PATH | O_CLOEXEC);
    struct stat st;
    pid_t pid;
    bool drop;

    if (exe < 0 || fstat(exe, &st) < 0)
        return sq_err_sys(e, -errno, "cannot open %s for the proxy", self);
    /* Where others may not execute it, the proxy drops its privileges by itself, first thing. */
    drop = geteuid() == 0 && (st.st_mode & S_IXOTH);
    pid = fork();
    if (pid < 0)
        return sq_err_sys(e, -errno, "cannot fork the proxy");
    if (pid == 0)
        child(exe, sock, netns, drop, argv);
    *out = pid;
    *pidfd = sq_pidfd_open(pid);
    if (*pidfd < 0)
        return sq_err_sys(e, *pidfd, "cannot watch the proxy");
    return 0;
}

int sq_proxy_spawn(const char *self, bool plain, int sock, pid_t *out, int *pidfd, struct sq_err *e)
{
    char name[] = "squall-proxy", verb[] = "proxy", kind[] = "plain";
    char *argv[] = {name, verb, plain ? kind : NULL, NULL};

    return spawn(self, argv, -1, sock, out, pidfd, e);
}

int sq_maker_spawn(const char *self, int netns, int sock, pid_t *out, int *pidfd, struct sq_err *e)
{
    char name[] = "squall-sockets", verb[] = "proxy", kind[] = "sockets";
    char *argv[] = {name, verb, kind, NULL};

    return spawn(self, argv, netns, sock, out, pidfd, e);
}

bool sq_link_alive(struct sq_intercept *ic)
{
    struct pollfd p[2] = {{.fd = ic->link.pidfd, .events = POLLIN}, {.fd = ic->link.fd, .events = POLLRDHUP}};

    if (!ic->link.started || ic->link.dead)
        return false;
    return poll(p, 2, 0) >= 0 && !(p[0].revents & POLLIN) && !(p[1].revents & (POLLHUP | POLLRDHUP | POLLERR));
}

/* One packet; 0: nothing there; -EPIPE: the other end is gone. */
static int receive(struct sq_intercept *ic)
{
    static const size_t max = SQ_WIRE_MAX;
    cleanup_free char *buf = malloc(max);
    ssize_t n;

    if (!buf)
        return 0;
    do
        n = recv(ic->link.fd, buf, max, MSG_DONTWAIT | MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -EPIPE;
    if (n == 0)
        return -EPIPE;
    if ((size_t)n > max)
        return 1; /* longer than allowed: not a message */
    sq_incoming(ic, buf, (size_t)n);
    return 1;
}

/* Its socket may be seen to close a moment before its end: a short wait gives the better reason. */
static void died(struct sq_intercept *ic)
{
    struct pollfd p = {.fd = ic->link.pidfd, .events = POLLIN};
    siginfo_t si = {0};
    char why[64];

    (void)poll(&p, 1, 50);
    if (waitid(P_PIDFD, (id_t)ic->link.pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
        (void)snprintf(why, sizeof(why), "it closed its socket");
    else if (si.si_code == CLD_EXITED)
        (void)snprintf(why, sizeof(why), "it exited with status %d", si.si_status);
    else
        (void)snprintf(why, sizeof(why), "killed by %s", sq_signal_name(si.si_status));
    sq_ic_proxy_died(ic, why);
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    struct sq_intercept *ic = p->data;
    int rc = 1;

    (void)events;
    if (status < 0)
        rc = -EPIPE;
    for (int i = 0; i < 64 && rc == 1 && ic->link.fd >= 0; i++)
        rc = receive(ic);
    if (rc == -EPIPE)
        died(ic);
}

static void on_death(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    died(p->data);
}

void sq_link_stop(struct sq_intercept *ic, bool quit)
{
    struct sq_link *l = &ic->link;
    siginfo_t si;

    if (quit && l->fd >= 0 && !l->dead) {
        cleanup_json json_t *msg = json_pack("{s:s}", "op", "quit");
        (void)sq_link_send(ic, msg, NULL, 0, NULL);
    }
    if (l->poll)
        sq_ic_unpoll(ic, &l->poll);
    if (l->death)
        sq_ic_unpoll(ic, &l->death);
    if (l->fd >= 0)
        (void)close(l->fd);
    l->fd = -1;
    if (l->pidfd >= 0) {
        struct pollfd p = {.fd = l->pidfd, .events = POLLIN};

        if (l->dead && !quit && sq_pidfd_signal(l->pidfd, SIGKILL) == 0) /* one that left its socket is of no use */
            (void)poll(&p, 1, 200);
        (void)waitid(P_PIDFD, (id_t)l->pidfd, &si, WEXITED | WNOHANG);
        (void)close(l->pidfd);
    }
    l->pidfd = -1;
}

json_int_t sq_link_offset(const struct sq_intercept *ic, const volatile void *p)
{
    if (!p || ic->o.beat_fd < 0 || !ic->o.proxy_beat)
        return -1;
    return (json_int_t)((const volatile char *)p - (const volatile char *)ic->o.proxy_beat +
                        (ptrdiff_t)ic->o.beat_offset);
}

static int hello(struct sq_intercept *ic, struct sq_err *e)
{
    cleanup_close int own = -1, none = -1;
    cleanup_json json_t *msg = NULL;
    int fds[4];

    fds[0] = ic->o.beat_fd;
    if (fds[0] < 0) {
        fds[0] = own = memfd_create("squall-beat", MFD_CLOEXEC);
        if (own < 0 || ftruncate(own, 4096) < 0)
            return sq_err_sys(e, -errno, "cannot make the proxy's heartbeat");
    }
    fds[1] = ic->bpf.fd[SQ_M_FLOWS];
    if (fds[1] < 0) {
        fds[1] = none = memfd_create("squall-flows", MFD_CLOEXEC);
        if (none < 0 || ftruncate(none, (off_t)(2 * SQ_FLOWS * sizeof(struct sq_flow))) < 0)
            return sq_err_sys(e, -errno, "cannot make the table of flows");
    }
    fds[2] = ic->flows_fd;
    msg = json_pack("{s:s,s:I,s:I}", "op", "hello", "beat_offset", (json_int_t)ic->o.beat_offset, "held",
                    sq_link_offset(ic, ic->o.held));
    fds[3] = ic->tallies_fd >= 0 ? ic->tallies_fd : ic->bpf.fd[SQ_M_TALLIES];
    return sq_link_send(ic, msg, fds, 4, e);
}

static int offer_synhold(struct sq_intercept *ic, struct sq_err *e)
{
    cleanup_json json_t *msg = json_pack("{s:s}", "op", "raw");
    struct sq_err why = {0};
    int fds[SQ_SYNHOLD_FDS], n, rc;

    n = sq_synhold_open(fds, &why);
    if (n < 0) {
        (void)snprintf(ic->hold_why, sizeof(ic->hold_why), "%.500s", why.msg);
        return 0;
    }
    rc = sq_link_send(ic, msg, fds, (size_t)n, e);
    sq_synhold_close(fds);
    ic->hold_ok = rc == 0;
    ic->hold6_ok = rc == 0 && n == SQ_SYNHOLD_FDS;
    return rc;
}

static bool edges_left(const struct sq_intercept *ic)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i])
            return true;
    return false;
}

int sq_link_start(struct sq_intercept *ic, struct sq_err *e)
{
    struct sq_link *l = &ic->link;
    struct sq_proc p = {0};
    int sv[2], rc, size = 1 << 20;

    if (l->dead && edges_left(ic))
        return sq_err(e, -EPIPE, "the proxy has died: calls go direct until all runs with edges have ended");
    if (l->dead)
        l->dead = l->started = ic->hold_ok = ic->hold6_ok = false;
    if (l->started)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
        return sq_err_sys(e, -errno, "cannot make a socket pair for the proxy");
    (void)setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    (void)setsockopt(sv[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    l->fd = sv[0];
    rc = sq_proxy_spawn(ic->self, false, sv[1], &l->pid, &l->pidfd, e);
    (void)close(sv[1]);
    if (rc == 0) {
        l->started = true;
        l->poll = sq_ic_poll(ic, l->fd, UV_READABLE, on_readable, ic);
        l->death = sq_ic_poll(ic, l->pidfd, UV_READABLE, on_death, ic);
        rc = l->poll && l->death ? 0 : sq_err(e, -ENOMEM, "out of memory");
    }
    rc = rc ? rc : hello(ic, e);
    rc = rc ? rc : sq_dgram_hello(ic, e);
    rc = rc ? rc : offer_synhold(ic, e);
    if (rc < 0) {
        l->dead = true;
        sq_link_stop(ic, false);
        l->started = l->dead = false; /* the next edge may try again */
        return rc;
    }
    (void)sq_proc_read(l->pid, &p, NULL);
    if (ic->o.proxy_changed)
        ic->o.proxy_changed(ic->o.arg, l->pid, p.start);
    sq_supervise_tell_proxy(ic);
    return 0;
}

static int wait_fd(int fd, short events, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left = until - sq_mono_ns();
    int n = poll(&p, 1, left <= 0 ? 0 : (int)((left + SQ_MS - 1) / SQ_MS));

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    return n == 0 && left <= 0 ? -ETIMEDOUT : 0;
}

int sq_link_send(struct sq_intercept *ic, const json_t *msg, const int *fds, size_t n, struct sq_err *e)
{
    cleanup_free char *text = json_dumps(msg, JSON_COMPACT);
    size_t len = text ? strlen(text) : 0;
    int64_t until = sq_mono_ns() + SEND_NS;
    int rc;

    if (!text)
        return sq_err(e, -ENOMEM, "out of memory");
    if (len > SQ_WIRE_MAX || n > SQ_WIRE_FDS)
        return sq_err(e, -EMSGSIZE, "a message to the proxy is too long");
    if (ic->link.fd < 0 || ic->link.dead)
        return sq_err(e, -EPIPE, "the proxy is gone");
    do
        rc = sq_fds_send(ic->link.fd, text, len, fds, n, MSG_DONTWAIT);
    while (rc == -EAGAIN && (rc = wait_fd(ic->link.fd, POLLOUT, until)) == 0);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot tell the proxy");
    return 0;
}

int sq_link_wait_ack(struct sq_intercept *ic, struct sq_edge *edge, uint32_t epoch, struct sq_err *e)
{
    int64_t until = sq_mono_ns() + ACK_NS;
    int rc = 0;

    while (edge->acked != epoch) {
        if (ic->link.fd < 0)
            return sq_err(e, -EPIPE, "the proxy died while it was told the rules of %s", edge->name);
        rc = receive(ic);
        if (rc == 0)
            rc = wait_fd(ic->link.fd, POLLIN, until);
        if (rc == -EPIPE)
            return sq_err(e, rc, "the proxy died while it was told the rules of %s", edge->name);
        if (rc < 0)
            return sq_err_sys(e, rc, "the proxy did not confirm the rules of %s within a second", edge->name);
        if (sq_mono_ns() > until && edge->acked != epoch)
            return sq_err(e, -ETIMEDOUT, "the proxy did not confirm the rules of %s within a second", edge->name);
    }
    return 0;
}
