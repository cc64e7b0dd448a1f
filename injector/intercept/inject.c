#include "intercept/inject.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/agent.h"
#include "intercept/filters.h"
#include "intercept/ptrace.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/door.h"
#include "squall/fds.h"
#include "squall/guard.h"
#include "squall/proc.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

/* What the helper tells, with the listener when code is 0. */
struct report {
    int64_t stopped_ns;
    struct sq_err err;
    bool no_new_privs;
};

#if defined(__x86_64__)

int sq_inject_check(pid_t pid, uint64_t start, bool *filtered, struct sq_err *e)
{
    char state = '?';
    cleanup_close int pidfd = sq_proc_pidfd(pid, start, NULL);
    int mode = pidfd < 0 ? -ESRCH : sq_filters_mode(pid, &state);
    if (mode < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "process %d has ended", (int)pid);
    *filtered = mode != 0;
    if (mode == SECCOMP_MODE_STRICT)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "process %d is in seccomp's strict mode: it makes no calls",
                          (int)pid);
    if (state == 'T' || state == 't')
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "process %d is stopped: it can be attached to when it runs",
                          (int)pid);
    /* Its descriptors must be ours to take before it depends on us. Whether it has this one does not matter. */
    cleanup_close int fd = sq_pidfd_getfd(pidfd, 0);
    if (fd == -EPERM || fd == -ENOSYS) {
        sq_err_cls(e, SQ_C_DENIED, fd, "the descriptors of process %d may not be taken", (int)pid);
        sq_err_hint(e, "it needs root or the same user, kernel.yama.ptrace_scope=0, and a process that may dump core");
        return fd;
    }
    return 0;
}

/* ---- in the helper ---- */

static int write_to(pid_t pid, uint64_t to, void *from, size_t len)
{
    struct iovec here = {from, len}, there = {(void *)(uintptr_t)to, len};
    return process_vm_writev(pid, &here, 1, &there, 1, 0) == (ssize_t)len ? 0 : -EFAULT;
}

static int64_t load(struct sq_tracee *t, const struct sq_filters *had, uint64_t prog, bool *nnp, struct sq_err *e)
{
    uint64_t flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
                     SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    int64_t fd = -EACCES;
    for (int i = 0; i < 3 && (fd == -EACCES || fd == -EINVAL); i++) {
        fd = sq_tracee_call(t, SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, prog, 0, 0, 0);
        if (fd == -EINVAL)
            flags &= ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; /* before Linux 5.19 */
        if (fd == -EACCES && sq_filters_allow_nnp(had, t->pid, e) < 0)
            return -EPERM;
        if (fd == -EACCES && !*nnp)
            *nnp = sq_tracee_call(t, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0) == 0;
    }
    return fd;
}

static int say_why(struct sq_tracee *t, int64_t rc, struct sq_err *e)
{
    if (rc == -EBUSY)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY,
                          "the calls of process %d are intercepted by another seccomp "
                          "supervisor already",
                          (int)t->pid);
    if (rc == -ESRCH)
        return sq_err(e, -ESRCH,
                      "process %d ended meanwhile, or its threads are not all under the same seccomp filters",
                      (int)t->pid);
    return sq_err_sys(e, (int)rc, "process %d could not load the seccomp filter", (int)t->pid);
}

/* In the stopped thread. Returns the listener, ours. */
static int install(struct sq_tracee *t, int pidfd, const struct sq_filters *had, void *filter, size_t len, bool *nnp,
                   struct sq_err *e)
{
    size_t room = (len + sizeof(struct sock_fprog) + 4095) & ~(size_t)4095;
    struct sock_fprog prog = {.len = (unsigned short)(len / sizeof(struct sock_filter))};
    int64_t at =
        sq_tracee_call(t, SYS_mmap, 0, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~UINT64_C(0), 0);
    if (at < 0 && at > -4096)
        return sq_err_sys(e, (int)at, "process %d has no memory for a seccomp filter", (int)t->pid);
    int listener = -1;
    uint64_t where = (uint64_t)at + sizeof(prog);
    memcpy(&prog.filter, &where, sizeof(where));
    int64_t fd = write_to(t->pid, (uint64_t)at, &prog, sizeof(prog));
    fd = fd ? fd : write_to(t->pid, where, filter, len);
    fd = fd ? fd : load(t, had, (uint64_t)at, nnp, e);
    if (fd >= 0) {
        listener = sq_pidfd_getfd(pidfd, (int)fd);
        (void)sq_tracee_call(t, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
    }
    (void)sq_tracee_call(t, SYS_munmap, (uint64_t)at, room, 0, 0, 0, 0);
    if (fd < 0)
        return say_why(t, fd, e);
    if (listener >= 0 && !sq_notif_is_listener(listener)) { /* the process may be hostile, and answer as it likes */
        (void)close(listener);
        return sq_err(e, -EPROTO, "process %d says that it loaded the seccomp filter, but did not", (int)t->pid);
    }
    return listener >= 0 ? listener : sq_err_sys(e, listener, "cannot take the listener of process %d", (int)t->pid);
}

/* Is the stopped thread one of the process that was pinned? Until now it was known by its number only, which may have
 * been used again; stopped, it keeps it. */
static bool is_of(const struct sq_tracee *t, int pidfd)
{
    return syscall(SYS_tgkill, t->pid, t->tid, 0) == 0 && sq_pidfd_signal(pidfd, 0) == 0;
}

/* Those that it is under already let ours in. */
static int join(struct sq_tracee *t, struct sq_filters *had, const void *filter, size_t len, struct sq_err *e)
{
    int rc = sq_filters_read(t->pid, t->tid, had, e);
    if (!sq_filters_allow_restart(had))
        sq_tracee_anew(t);
    return rc ? rc : sq_filters_allow(had, t->pid, filter, len, e);
}

/* LOOK: whether it can be, and no more. */
static int do_it(pid_t pid, uint64_t start, void *filter, size_t len, bool look, struct report *r)
{
    struct sq_tracee t;
    __attribute__((cleanup(sq_filters_free))) struct sq_filters had = {0};
    cleanup_close int pidfd = sq_proc_pidfd(pid, start, &r->err);
    char state;
    int rc = pidfd < 0 ? pidfd : 0;
    if (rc == 0 && sq_filters_mode(pid, &state) > 0) /* else it would be stopped for nothing */
        rc = sq_filters_check(&r->err);
    rc = rc ? rc : sq_tracee_stop(&t, pid, &r->err);
    if (rc < 0)
        return rc;
    int64_t began = sq_mono_ns();
    rc = is_of(&t, pidfd) ? join(&t, &had, filter, len, &r->err)
                          : sq_err_cls(&r->err, SQ_C_NOTFOUND, -ESRCH, "process %d has ended", (int)pid);
    if (rc == 0)
        rc = look ? -ENODATA : install(&t, pidfd, &had, filter, len, &r->no_new_privs, &r->err);
    sq_tracee_go(&t);
    r->stopped_ns = sq_mono_ns() - began;
    return rc;
}

static int send_report(int sock, const struct report *r, int fd)
{
    return sq_fds_send(sock, r, sizeof(*r), &fd, fd >= 0, 0);
}

/* Nobody else has it. */
static void alone(int listener, pid_t pid, uint64_t start)
{
    (void)prctl(PR_SET_NAME, "squall-agent");
    sq_agent_answer(&(struct sq_left){listener, sq_door_open(pid, start)}, 1);
}

static void helper(int sock, pid_t pid, uint64_t start, void *filter, size_t len, bool look)
{
    struct report r = {0};
    char done;
    sq_agent_become("squall-inject", &sock, 1);
    int listener = do_it(pid, start, filter, len, look, &r);
    if (listener < 0 && listener != -ENODATA && !r.err.code)
        r.err.code = listener;
    int rc = send_report(sock, &r, listener);
    if (listener >= 0 && (rc < 0 || recv(sock, &done, 1, 0) != 1))
        alone(listener, pid, start);
    _exit(0);
}

/* ---- in squalld ---- */

#define HELPER_MOST_S 2 /* what a hostile target can make squalld wait */

static bool has_rings(pid_t pid)
{
    char path[320], link[64];
    bool any = false;
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    for (const struct dirent *de; d && !any && (de = readdir(d)) != NULL;) {
        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, de->d_name);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        any = n > 0 && strncmp(link, "anon_inode:[io_uring]", (size_t)n) == 0;
    }
    if (d)
        (void)closedir(d);
    return any;
}

static int receive_report(int sock, struct report *r, int *fd)
{
    size_t n = 1;
    ssize_t len = sq_fds_recv(sock, r, sizeof(*r), fd, &n, 0);
    return len == (ssize_t)sizeof(*r) ? 0 : len < 0 ? (int)len : -ECHILD;
}

static int begin(pid_t pid, uint64_t start, const void *filter, size_t len, bool look, struct sq_injected *out,
                 struct sq_err *e)
{
    int sv[2];
    if (len % sizeof(struct sock_filter) != 0 || len / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return sq_err(e, -EINVAL, "not a seccomp filter");
    cleanup_free void *copy = malloc(len);
    if (!copy)
        return sq_err(e, -ENOMEM, "out of memory");
    memcpy(copy, filter, len);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
        return sq_err_sys(e, -errno, "cannot make a socket pair");
    (void)setsockopt(sv[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = HELPER_MOST_S},
                     sizeof(struct timeval));
    out->helper = fork();
    if (out->helper == 0) {
        (void)close(sv[0]);
        helper(sv[1], pid, start, copy, len, look);
    }
    (void)close(sv[1]);
    out->ack = sv[0];
    return 0;
}

/* 0: the helper says that it is done. */
static int finish(pid_t pid, struct sq_injected *in, struct report *r, struct sq_err *e)
{
    int rc = in->helper < 0 ? -EAGAIN : receive_report(in->ack, r, &in->listener);
    if (rc == 0 && !r->err.code)
        return 0;
    if (rc == -EAGAIN && in->helper > 0) { /* it may come to that yet: then the helper stays and answers */
        sq_inject_leave(in);
        return sq_err(e, -ETIMEDOUT, "process %d could not be attached to within %d s: a thread of it does not stop",
                      (int)pid, HELPER_MOST_S);
    }
    sq_inject_done(in);
    if (rc < 0)
        return sq_err_sys(e, rc, "the helper that was to attach to process %d failed", (int)pid);
    if (e)
        *e = r->err;
    return r->err.code;
}

int sq_inject(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_injected *out, struct sq_err *e)
{
    struct report r = {0};
    bool filtered = false;
    *out = (struct sq_injected){.listener = -1, .ack = -1};
    int rc = sq_inject_check(pid, start, &filtered, e);
    if (rc < 0)
        return rc;
    out->rings = has_rings(pid);
    rc = begin(pid, start, filter, len, false, out, e);
    rc = rc ? rc : finish(pid, out, &r, e);
    if (rc < 0)
        return rc;
    if (out->listener < 0) {
        sq_inject_done(out);
        return sq_err(e, -EIO, "the helper that attached to process %d did not give the listener", (int)pid);
    }
    out->no_new_privs = r.no_new_privs;
    out->stopped_ns = r.stopped_ns;
    return 0;
}

int sq_inject_look(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_err *e)
{
    struct sq_injected in = {.listener = -1, .ack = -1};
    struct report r = {0};
    int rc = begin(pid, start, filter, len, true, &in, e);
    rc = rc ? rc : finish(pid, &in, &r, e);
    if (rc == 0)
        sq_inject_done(&in);
    return rc;
}

#else /* no such architecture */

int sq_inject_check(pid_t pid, uint64_t start, bool *filtered, struct sq_err *e)
{
    (void)start;
    *filtered = false;
    return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP,
                      "attaching to process %d by seccomp works on x86_64 only: let cgroup-BPF take its calls",
                      (int)pid);
}

int sq_inject(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_injected *out, struct sq_err *e)
{
    (void)filter;
    (void)len;
    bool filtered;
    *out = (struct sq_injected){.listener = -1, .ack = -1};
    return sq_inject_check(pid, start, &filtered, e);
}

int sq_inject_look(pid_t pid, uint64_t start, const void *filter, size_t len, struct sq_err *e)
{
    bool filtered;
    (void)filter;
    (void)len;
    return sq_inject_check(pid, start, &filtered, e);
}

#endif

void sq_inject_done(struct sq_injected *in)
{
    if (in->ack >= 0) {
        (void)send(in->ack, "", 1, MSG_NOSIGNAL);
        (void)close(in->ack);
        in->ack = -1;
    }
    if (in->helper > 0)
        (void)waitpid(in->helper, NULL, 0);
    in->helper = 0;
}

void sq_inject_leave(struct sq_injected *in)
{
    if (in->ack >= 0)
        (void)close(in->ack);
    in->ack = -1;
    in->helper = 0;
}
