#include "net/packet_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packet/control.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/fds.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "unprivileged.h"

#define ANSWER_NS (500 * SQ_MS) /* squalld's own heart must not stop over it */
#define FDS_MAX (3 + SQ_PACKET_LINKS_MAX)

extern char **environ;

/* ---- start ---- */

/* Between fork and exec: system calls only. The process drops its privileges by itself, first thing. */
static void child(int exe, int sock, char *const *argv)
{
    sq_plain_signals();
    (void)setsid();
    /* 0 and 1 go nowhere, 2 stays, 3 is the socket. The others are moved out of the way of these first. */
    exe = fcntl(exe, F_DUPFD_CLOEXEC, 10);
    sock = fcntl(sock, F_DUPFD_CLOEXEC, 10);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    null = null < 0 ? null : fcntl(null, F_DUPFD_CLOEXEC, 10);
    if (exe < 0 || sock < 0 || null < 0 || dup2(null, 0) != 0 || dup2(null, 1) != 1 || dup2(sock, 3) != 3)
        _exit(126);
#ifdef SYS_close_range
    (void)syscall(SYS_close_range, 4u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
#endif
    (void)syscall(SYS_execveat, exe, "", argv, environ, AT_EMPTY_PATH);
    _exit(127);
}

int sq_packet_process_start(struct sq_packet_process *p, const char *self, const char *name, struct sq_err *e)
{
    cleanup_close int exe = open(self, O_PATH | O_CLOEXEC);
    char verb[] = "packet";
    char *argv[] = {(char *)(uintptr_t)name, verb, NULL}; /* execve changes none of them */
    int sv[2], size = 1 << 20;

    *p = (struct sq_packet_process){.pidfd = -1, .sock = -1};
    if (exe < 0)
        return sq_err_sys(e, -errno, "cannot open %s for the packet process", self);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
        return sq_err_sys(e, -errno, "cannot make a socket pair for the packet process");
    (void)setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    p->sock = sv[0];
    pid_t pid = fork();
    if (pid == 0)
        child(exe, sv[1], argv);
    (void)close(sv[1]);
    if (pid < 0)
        return sq_err_sys(e, -errno, "cannot fork the packet process");
    p->pid = pid;
    p->pidfd = sq_pidfd_open(pid);
    return p->pidfd < 0 ? sq_err_sys(e, p->pidfd, "cannot watch the packet process") : 0;
}

/* ---- messages ---- */

static int tell(struct sq_packet_process *p, const void *data, size_t len, const int *fds, size_t n, struct sq_err *e)
{
    if (p->sock < 0)
        return sq_err(e, -EPIPE, "the packet process is dead");
    if (n > FDS_MAX)
        return sq_err(e, -E2BIG, "too many descriptors for the packet process");
    /* Its queue has room for one message of each kind: nothing else is on its way. */
    int rc = sq_fds_send(p->sock, data, len, fds, n, MSG_DONTWAIT);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot tell the packet process");
    return 0;
}

/* The next message of LEN bytes that OURS accepts; others answer what nobody waits for any more. */
static int hear(struct sq_packet_process *p, void *buf, size_t len, bool (*ours)(const void *buf, uint32_t seq),
                struct sq_err *e)
{
    int64_t until = sq_mono_ns() + ANSWER_NS;

    for (;;) {
        struct pollfd f = {.fd = p->sock, .events = POLLIN};
        int64_t left = until - sq_mono_ns();
        uint8_t got[sizeof(struct sq_packet_got)]; /* the longest answer */
        ssize_t n;

        if (left <= 0)
            return sq_err(e, -ETIMEDOUT, "the packet process does not answer");
        if (poll(&f, 1, (int)(left / SQ_MS) + 1) < 0 && errno != EINTR)
            return sq_err_sys(e, -errno, "cannot wait for the packet process");
        n = recv(p->sock, got, sizeof got, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return sq_err(e, -EPIPE, "the packet process died while it was told something");
        if (n != (ssize_t)len || !ours(got, p->seq))
            continue;
        memcpy(buf, got, len);
        return 0;
    }
}

static bool is_answer(const void *buf, uint32_t seq)
{
    int32_t a[2];

    memcpy(a, buf, sizeof a);
    return a[0] == (int32_t)seq;
}

static bool is_got(const void *buf, uint32_t seq)
{
    uint32_t theirs;

    memcpy(&theirs, (const char *)buf + offsetof(struct sq_packet_got, seq), sizeof theirs);
    return theirs == seq;
}

static int acknowledged(struct sq_packet_process *p, const char *what, struct sq_err *e)
{
    int32_t a[2];
    int rc = hear(p, a, sizeof a, is_answer, e);

    if (rc == 0 && a[1] != 0)
        rc = sq_err_sys(e, a[1] < 0 ? a[1] : -EPROTO, "the packet process refused %s", what);
    return rc;
}

int sq_packet_process_give(struct sq_packet_process *p, const struct sq_packet_start *s, const int *fds, size_t n,
                           struct sq_err *e)
{
    int rc = tell(p, s, sizeof *s, fds, n, e);

    return rc ? rc : acknowledged(p, "its devices", e); /* with number 0, the first */
}

int sq_packet_process_set(struct sq_packet_process *p, unsigned bit, bool ingress, const struct sq_impair *im,
                          struct sq_err *e)
{
    struct sq_packet_set h = {.op = SQ_PK_SET, .bit = bit, .ingress = ingress, .seq = ++p->seq, .seed = im->seed};
    size_t len = 0;
    cleanup_free void *msg = sq_packet_set_write(&h, im, &len);
    int rc = msg ? tell(p, msg, len, NULL, 0, e) : sq_err(e, -ENOMEM, "out of memory");

    return rc ? rc : acknowledged(p, "a fault's parameters", e);
}

int sq_packet_process_del(struct sq_packet_process *p, unsigned bit, bool ingress, struct sq_err *e)
{
    const struct sq_packet_set h = {.op = SQ_PK_DEL, .bit = bit, .ingress = ingress, .seq = ++p->seq};

    return tell(p, &h, sizeof h, NULL, 0, e);
}

int sq_packet_process_get(struct sq_packet_process *p, unsigned bit, bool ingress, struct sq_packet_got *out,
                          struct sq_err *e)
{
    const struct sq_packet_set q = {.op = SQ_PK_GET, .bit = bit, .ingress = ingress, .seq = ++p->seq};
    int rc = tell(p, &q, sizeof q, NULL, 0, e);

    return rc ? rc : hear(p, out, sizeof *out, is_got, e);
}

/* ---- end ---- */

void sq_packet_process_end(struct sq_packet_process *p)
{
    const uint32_t op = SQ_PK_END;

    (void)tell(p, &op, sizeof op, NULL, 0, NULL);
    if (p->sock >= 0)
        (void)close(p->sock); /* the same to it */
    p->sock = -1;
}

bool sq_packet_process_alive(const struct sq_packet_process *p)
{
    struct pollfd f = {.fd = p->pidfd, .events = POLLIN};

    return p->pidfd >= 0 && poll(&f, 1, 0) == 0;
}

void sq_packet_process_close(struct sq_packet_process *p, char *why, size_t len)
{
    siginfo_t si = {0};

    if (p->pidfd < 0 || waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
        (void)snprintf(why, len, "it closed its socket");
    else if (si.si_code == CLD_EXITED)
        (void)snprintf(why, len, "it exited with status %d", si.si_status);
    else
        (void)snprintf(why, len, "killed by %s", sq_signal_name(si.si_status));
    if (p->sock >= 0)
        (void)close(p->sock);
    if (p->pidfd >= 0)
        (void)close(p->pidfd);
    *p = (struct sq_packet_process){.pidfd = -1, .sock = -1};
}

struct search {
    const char *name;
    bool kill;
    int found;
};

static int look(pid_t pid, void *arg)
{
    struct search *s = arg;
    char path[64], text[256];
    struct sq_proc pr;

    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    if (sq_proc_slurp(path, text, sizeof text) <= 0 || strcmp(text, s->name) != 0)
        return 0;
    if (sq_proc_read(pid, &pr, NULL) < 0 || pr.state == 'Z')
        return 0;
    s->found++;
    if (s->kill) {
        cleanup_close int fd = sq_proc_pidfd(pid, pr.start, NULL);

        if (fd >= 0)
            (void)sq_pidfd_signal(fd, SIGKILL);
    }
    return 0;
}

int sq_packet_process_count(const char *name, bool kill)
{
    struct search s = {name, kill, 0};

    (void)sq_proc_each(look, &s);
    return s.found;
}
