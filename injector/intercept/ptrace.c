#include "intercept/ptrace.h"

#if defined(__x86_64__)
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/proc.h"
#include "squall/units.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif
#ifndef PTRACE_GET_RSEQ_CONFIGURATION /* Linux 5.13 */
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define ERESTART_RESTARTBLOCK 516 /* include/linux/errno.h */
#define IO_URING_ENTER 426
#define EPOLL_PWAIT2 441
#define RSEQ_CS 8               /* offset in struct rseq (linux/rseq.h) */
#define CS_64 0x33              /* selector of 64-bit code (arch/x86/include/asm/segment.h) */
#define THREAD_NS (150 * SQ_MS) /* one that does not stop in this time sleeps deep in the kernel: another one, then */
#define STEP_NS (2 * SQ_S)
#define ALL_NS (1 * SQ_S)
#define RSEQ_TRIES 20

struct rseq_config {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
};

static int read_from(pid_t pid, uint64_t from, void *to, size_t len)
{
    struct iovec here = {to, len}, there = {(void *)(uintptr_t)from, len};
    ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);
    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EFAULT;
}

/* The `syscall` instruction of the vdso, which every process has and never writes to. */
static int find_gate(struct sq_tracee *t, struct sq_err *e)
{
    char path[64];
    cleanup_free char *line = NULL;
    size_t cap = 0;
    unsigned long long lo = 0, hi = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)t->pid);
    cleanup_fclose FILE *f = fopen(path, "re");
    if (!f)
        return sq_err_sys(e, -errno, "cannot look into process %d", (int)t->pid);
    while (lo == hi && getline(&line, &cap, f) > 0) {
        char name[8] = "";
        /* Its whole name: a file that the process has mapped can have it in its path. */
        if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %7s", &lo, &hi, name) != 3 || strcmp(name, "[vdso]") != 0)
            lo = hi = 0;
    }
    char page[4096];
    for (unsigned long long at = lo; at < hi && hi - lo <= 64 * sizeof(page); at += sizeof(page)) {
        int rc = read_from(t->pid, at, page, sizeof(page));
        if (rc < 0)
            return sq_err_sys(e, rc, "cannot look into process %d", (int)t->pid);
        const char *found = memmem(page, sizeof(page), "\x0f\x05", 2);
        if (found) {
            t->gate = at + (uint64_t)(found - page);
            return 0;
        }
    }
    return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP, "process %d has no 64-bit vdso", (int)t->pid);
}

/* A change of state of the thread within NS: 1, 0 when there is none, -errno. */
static int wait_change(pid_t tid, int *st, int64_t ns)
{
    const struct timespec nap = {0, 20000};
    const int64_t until = sq_mono_ns() + ns;
    for (;;) {
        pid_t got = waitpid(tid, st, __WALL | WNOHANG);
        if (got == tid)
            return 1;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (sq_mono_ns() > until)
            return 0;
        (void)nanosleep(&nap, NULL);
    }
}

/* Into a stop that we asked for (PTRACE_INTERRUPT). Signals on their way are delivered first. 1, 0: not in time. */
static int wait_stop(pid_t tid, int64_t ns)
{
    const int64_t until = sq_mono_ns() + ns;
    for (;;) {
        int st = 0, rc = wait_change(tid, &st, until - sq_mono_ns());
        if (rc <= 0)
            return rc;
        if (!WIFSTOPPED(st))
            return -ESRCH;
        int sig = WSTOPSIG(st);
        if (st >> 16 == PTRACE_EVENT_STOP && sig == SIGTRAP)
            return 1;
        if (st >> 16 == PTRACE_EVENT_STOP)
            return -EBUSY; /* stopped by job control */
        if (ptrace(PTRACE_CONT, tid, NULL, (void *)(uintptr_t)sig) < 0)
            return -errno;
    }
}

/* In a restartable sequence (rseq(2)) the kernel would forget, while the thread runs elsewhere, that it must be begun
 * anew: some other moment, then. Not in a system call, where none can be. */
static bool in_rseq(const struct sq_tracee *t)
{
    struct rseq_config c = {0};
    uint64_t cs = 0;
    if ((int64_t)t->regs.orig_rax >= 0)
        return false;
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(c), &c) <= 0 || !c.pointer)
        return false;
    return read_from(t->pid, c.pointer + RSEQ_CS, &cs, sizeof(cs)) == 0 && cs != 0;
}

/* Its registers, at a moment at which they may be borrowed. */
static int borrow(struct sq_tracee *t)
{
    for (int i = 0; i < RSEQ_TRIES; i++) {
        if (ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0)
            return -errno;
        if (t->regs.cs != CS_64)
            return -ENOEXEC;
        if (!in_rseq(t))
            return 0;
        if (ptrace(PTRACE_CONT, t->tid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
            return -errno;
        int rc = wait_stop(t->tid, THREAD_NS);
        if (rc <= 0)
            return rc < 0 ? rc : -EAGAIN;
    }
    return -EAGAIN;
}

static void begin_anew(struct sq_tracee *t)
{
    t->regs.rip -= 2; /* the length of `syscall` and of `int $0x80` */
    t->regs.rax = t->regs.orig_rax;
    t->regs.orig_rax = ~UINT64_C(0);
}

/* These say EINTR when they are interrupted by nothing but us (signal(7), "Interruption of system calls by stop
 * signals"): the kernel does not restart them, and a program that has no signal handlers does not expect it. Those with
 * a timeout wait anew for all of it. */
static bool waits(uint64_t nr)
{
    static const int calls[] = {SYS_epoll_wait,   SYS_epoll_pwait, SYS_semop,   SYS_semtimedop,    SYS_rt_sigtimedwait,
                                SYS_io_getevents, SYS_read,        SYS_readv,   SYS_recvmsg,       SYS_recvfrom,
                                SYS_recvmmsg,     SYS_accept,      SYS_accept4, SYS_io_pgetevents, SYS_write,
                                SYS_writev,       SYS_sendto,      SYS_sendmsg, SYS_connect,       EPOLL_PWAIT2,
                                IO_URING_ENTER};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        if (nr == (uint64_t)calls[i])
            return true;
    return false;
}

/* A signal with a handler is on its way to it: EINTR is its due. */
static bool is_due(const struct sq_tracee *t)
{
    static const char *const lines[] = {"\nSigPnd:", "\nShdPnd:", "\nSigCgt:"};
    char path[64], text[8192];
    uint64_t set[3] = {0};
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int)t->pid, (int)t->tid);
    if (sq_proc_slurp(path, text, sizeof(text)) < 0)
        return true;
    for (size_t i = 0; i < 3; i++) {
        const char *at = strstr(text, lines[i]);
        set[i] = at ? strtoull(at + 8, NULL, 16) : 0;
    }
    return ((set[0] | set[1]) & set[2] & ~t->mask) != 0;
}

static void mend(struct sq_tracee *t)
{
    int64_t rc = (int64_t)t->regs.rax;
    if ((int64_t)t->regs.orig_rax < 0 || is_due(t))
        return;
    if ((rc == -EINTR && waits(t->regs.orig_rax)) || (rc == -ERESTART_RESTARTBLOCK && t->anew))
        begin_anew(t);
}

/* 0: stopped and ours; -EAGAIN: another one may do better. */
static int stop_one(struct sq_tracee *t, pid_t tid)
{
    uint64_t all = ~UINT64_C(0);
    t->tid = tid;
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
        return errno == ESRCH ? -EAGAIN : -errno;
    t->seized = true;
    int rc = ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 ? -errno : wait_stop(tid, THREAD_NS);
    if (rc > 0)
        rc = borrow(t);
    else
        rc = rc < 0 ? rc : -ETIMEDOUT;
    if (rc == 0 && (ptrace(PTRACE_GETSIGMASK, tid, sizeof(t->mask), &t->mask) < 0 ||
                    ptrace(PTRACE_SETSIGMASK, tid, sizeof(all), &all) < 0))
        rc = -errno;
    t->entered = rc == 0;
    if (rc < 0)
        sq_tracee_go(t);
    return rc == -ESRCH || rc == -ETIMEDOUT ? -EAGAIN : rc;
}

static int explain(pid_t pid, int rc, struct sq_err *e)
{
    if (rc == -EPERM) {
        sq_err_cls(e, SQ_C_DENIED, rc, "process %d can't be traced", (int)pid);
        sq_err_hint(e, "is a debugger or strace at it already? else root is needed, or kernel.yama.ptrace_scope=0");
    } else if (rc == -EBUSY) {
        sq_err_cls(e, SQ_C_CONFLICT, rc, "process %d is stopped: it can be attached to when it runs", (int)pid);
    } else if (rc == -ENOEXEC) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "process %d runs 32-bit code, which can't be attached to by seccomp",
                   (int)pid);
    } else if (rc == -EAGAIN) {
        sq_err(e, rc, "no thread of process %d could be stopped within a second", (int)pid);
    } else {
        sq_err_sys(e, rc, "cannot trace process %d", (int)pid);
    }
    return rc;
}

int sq_tracee_stop(struct sq_tracee *t, pid_t pid, struct sq_err *e)
{
    const int64_t until = sq_mono_ns() + ALL_NS;
    char path[64];
    memset(t, 0, sizeof(*t));
    t->pid = pid;
    int rc = find_gate(t, e);
    if (rc < 0)
        return rc;
    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    rc = d ? -EAGAIN : -ESRCH;
    for (const struct dirent *de; rc == -EAGAIN && sq_mono_ns() < until && (de = readdir(d)) != NULL;)
        if (isdigit((unsigned char)de->d_name[0]))
            rc = stop_one(t, (pid_t)strtol(de->d_name, NULL, 10));
    if (d)
        (void)closedir(d);
    return rc < 0 ? explain(pid, rc, e) : 0;
}

int64_t sq_tracee_call(struct sq_tracee *t, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                       uint64_t f)
{
    struct user_regs_struct r = t->regs;
    r.rip = t->gate;
    r.rax = (uint64_t)nr;
    r.orig_rax = ~UINT64_C(0); /* nothing to restart */
    r.rdi = a;
    r.rsi = b;
    r.rdx = c;
    r.r10 = d;
    r.r8 = e;
    r.r9 = f;
    if (ptrace(PTRACE_SETREGS, t->tid, NULL, &r) < 0 || ptrace(PTRACE_SINGLESTEP, t->tid, NULL, NULL) < 0)
        return -errno;
    for (;;) {
        int st = 0, rc = wait_change(t->tid, &st, STEP_NS);
        if (rc <= 0 || !WIFSTOPPED(st)) {
            t->seized = rc == 0;
            return rc < 0 ? rc : rc == 0 ? -ETIMEDOUT : -ESRCH;
        }
        if (st >> 16 == 0 && WSTOPSIG(st) == SIGTRAP)
            break;
        /* Only SIGSTOP, SIGKILL and a fault of its own can come now: SIGSTOP waits until it has its registers back. */
        if (st >> 16 == 0)
            t->late = WSTOPSIG(st);
        if (ptrace(PTRACE_SINGLESTEP, t->tid, NULL, NULL) < 0)
            return -errno;
    }
    if (ptrace(PTRACE_GETREGS, t->tid, NULL, &r) < 0)
        return -errno;
    return (int64_t)r.rax;
}

void sq_tracee_anew(struct sq_tracee *t)
{
    t->anew = true;
}

/* Once more into a stop of our own making, which is on the way out of the kernel: there the kernel itself restarts the
 * system call that was interrupted, when it finds its registers again. */
void sq_tracee_go(struct sq_tracee *t)
{
    if (!t->seized)
        return;
    if (t->entered) {
        int st = 0;
        if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) == 0 && ptrace(PTRACE_CONT, t->tid, NULL, NULL) == 0)
            (void)wait_change(t->tid, &st, STEP_NS);
        mend(t);
        (void)ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs);
        (void)ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->mask), &t->mask);
    }
    if (ptrace(PTRACE_DETACH, t->tid, NULL, NULL) < 0 && errno == ESRCH) {
        /* Not stopped: asked to, but still deep in the kernel. A tracer's end lets go of it as well. */
        int st;
        (void)waitpid(t->tid, &st, __WALL | WNOHANG);
    }
    if (t->late)
        (void)syscall(SYS_tgkill, t->pid, t->tid, t->late);
    t->seized = t->entered = false;
}
#endif
