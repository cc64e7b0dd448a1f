#include "intercept/filters.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/cbpf.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

#ifndef PTRACE_SECCOMP_GET_FILTER /* Linux 4.4 */
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif
#define FILTERS_MOST 512 /* of one thread */

/* ---- how many ---- */

struct under {
    int mode, count; /* count -1: the kernel does not say (before Linux 5.9) */
    char state;
};

static int read_status(const char *path, struct under *u)
{
    char text[8192];

    if (sq_proc_slurp(path, text, sizeof(text)) < 0)
        return -ESRCH;
    const char *mode = strstr(text, "\nSeccomp:"), *n = strstr(text, "\nSeccomp_filters:"),
               *at = strstr(text, "\nState:\t");
    u->state = at ? at[8] : '?';
    u->mode = mode ? (int)strtol(mode + 9, NULL, 10) : 0;
    u->count = n ? (int)strtol(n + 17, NULL, 10) : -1;
    return 0;
}

int sq_filters_mode(pid_t pid, char *state)
{
    struct under u;
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    if (read_status(path, &u) < 0)
        return -ESRCH;
    *state = u.state;
    return u.mode;
}

static int uneven(pid_t pid, struct sq_err *e)
{
    sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "the threads of process %d are not all under the same seccomp filters",
               (int)pid);
    sq_err_hint(e, "a filter for all of them would bring those of one to the others: let cgroup-BPF take its calls "
                   "(attach: auto)");
    return -EBUSY;
}

/* All threads have N of them. A thread that is made meanwhile has as many as the one that makes it. */
static int even(pid_t pid, size_t n, struct sq_err *e)
{
    char path[320];
    int rc = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (!d)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "process %d has ended", (int)pid);
    for (const struct dirent *de; rc == 0 && (de = readdir(d)) != NULL;) {
        struct under u;

        if (!isdigit((unsigned char)de->d_name[0]))
            continue;
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, de->d_name);
        if (read_status(path, &u) < 0 || u.state == 'Z' || u.state == 'X') /* it has ended: as if it were not there */
            continue;
        if (n > 0 && u.mode == 2 && u.count < 0)
            rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP,
                            "this kernel does not say how many seccomp filters each thread of process %d is under "
                            "(Linux 5.9)",
                            (int)pid);
        else if (n == 0 ? u.mode != 0 : u.mode != 2 || (size_t)u.count != n)
            rc = uneven(pid, e);
    }
    (void)closedir(d);
    return rc;
}

/* ---- which ---- */

static int no_read(pid_t pid, int rc, struct sq_err *e)
{
    if (rc == -EINVAL || rc == -EIO)
        sq_err_cls(e, SQ_C_UNSUPPORTED, rc,
                   "process %d is under seccomp filters, which this kernel can't tell (it has no "
                   "CONFIG_CHECKPOINT_RESTORE)",
                   (int)pid);
    else if (rc == -EACCES || rc == -EPERM)
        sq_err_cls(e, SQ_C_DENIED, rc,
                   "process %d is under seccomp filters, which only a squalld can read that has CAP_SYS_ADMIN and is "
                   "under none itself",
                   (int)pid);
    else
        sq_err_sys(e, rc, "process %d is under seccomp filters, which can't be read", (int)pid);
    sq_err_hint(e, "unread they might kill it for what it would be made to do: let cgroup-BPF take its calls "
                   "(attach: auto)");
    return rc;
}

static int read_one(pid_t tid, size_t i, struct sq_one_filter *f)
{
    long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)(uintptr_t)i, NULL);

    if (n <= 0 || n > BPF_MAXINSNS)
        return n < 0 ? -errno : -EPROTO;
    f->insn = calloc((size_t)n, sizeof(*f->insn));
    if (!f->insn)
        return -ENOMEM;
    f->len = (size_t)n;
    return ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)(uintptr_t)i, f->insn) == n ? 0 : -EPROTO;
}

int sq_filters_read(pid_t pid, pid_t tid, struct sq_filters *out, struct sq_err *e)
{
    struct under u;
    char path[96];
    int rc = 0;

    *out = (struct sq_filters){0};
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int)pid, (int)tid);
    if (read_status(path, &u) < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "process %d has ended", (int)pid);
    if (u.mode == 0)
        return even(pid, 0, e);
    if (u.mode != 2)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "process %d is in seccomp's strict mode", (int)pid);
    out->v = calloc(FILTERS_MOST, sizeof(*out->v));
    if (!out->v)
        return sq_err(e, -ENOMEM, "out of memory");
    while (rc == 0 && out->n < FILTERS_MOST) {
        rc = read_one(tid, out->n, &out->v[out->n]);
        if (rc == 0)
            out->n++;
    }
    if (out->n == FILTERS_MOST)
        return sq_err_cls(e, SQ_C_CONFLICT, -E2BIG, "process %d is under more than %d seccomp filters", (int)pid,
                          FILTERS_MOST - 1);
    if (rc != -ENOENT || out->n == 0)
        return no_read(pid, rc == -ENOENT ? -EPROTO : rc, e);
    return even(pid, out->n, e);
}

void sq_filters_free(struct sq_filters *f)
{
    for (size_t i = 0; f->v && i < FILTERS_MOST; i++)
        free(f->v[i].insn);
    free(f->v);
    *f = (struct sq_filters){0};
}

/* ---- what they say ---- */

#define RETS (SQ_SAYS_ALLOW | SQ_SAYS_LOG)
#define CONTROLS (SQ_SAYS_TRACE | SQ_SAYS_NOTIFY | SQ_SAYS_ANYTHING)

struct named {
    const char *name;
    struct sq_cbpf_call call;
};

#define X64(number) AUDIT_ARCH_X86_64, (uint32_t)(number)
#define I386(number) AUDIT_ARCH_I386, (number)
#define X32(number) AUDIT_ARCH_X86_64, 0x40000000U | (number)

#if defined(__x86_64__)
/* What the process is made to do, as inject.c does it: what it does not know before is not known. */
static const struct named DONE[] = {
    {"mmap", {X64(SYS_mmap), {0, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~UINT64_C(0), 0}, 0x3d}},
    {"seccomp", {X64(SYS_seccomp), {SECCOMP_SET_MODE_FILTER}, 1}},
    {"close", {X64(SYS_close), {0}, 0}},
    {"munmap", {X64(SYS_munmap), {0}, 0}},
};
static const struct named NNP = {"prctl", {X64(SYS_prctl), {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}, 0x1f}};
static const struct named RESTART = {"restart_syscall", {X64(SYS_restart_syscall), {0}, 0}};
/* What ours may ask the supervisor about: stronger than TRACE (kernel/seccomp.c), which would not be heard any more,
 * and a call that was left to it would be made. */
static const struct named ASKED[] = {
    {"connect", {X64(SYS_connect), {0}, 0}}, {"sendto", {X64(SYS_sendto), {0}, 0}},
    {"sendmsg", {X64(SYS_sendmsg), {0}, 0}}, {"sendmmsg", {X64(SYS_sendmmsg), {0}, 0}},
    {"connect", {I386(362), {0}, 0}},        {"sendto", {I386(369), {0}, 0}},
    {"sendmsg", {I386(370), {0}, 0}},        {"sendmmsg", {I386(345), {0}, 0}},
    {"socketcall", {I386(102), {0}, 0}},     {"connect", {X32(SYS_connect), {0}, 0}},
    {"sendto", {X32(SYS_sendto), {0}, 0}},   {"sendmsg", {X32(518), {0}, 0}},
    {"sendmmsg", {X32(538), {0}, 0}},        {"recvfrom", {X64(SYS_recvfrom), {0}, 0}},
    {"recvmsg", {X64(SYS_recvmsg), {0}, 0}}, {"recvfrom", {I386(371), {0}, 0}},
    {"recvmsg", {I386(372), {0}, 0}},        {"recvfrom", {X32(517), {0}, 0}},
    {"recvmsg", {X32(519), {0}, 0}},         {"getpeername", {X64(SYS_getpeername), {0}, 0}},
    {"getpeername", {I386(368), {0}, 0}},    {"getpeername", {X32(SYS_getpeername), {0}, 0}},
};
#endif

static const char *words(unsigned says)
{
    return says & SQ_SAYS_KILL     ? "kills it for"
           : says & SQ_SAYS_TRAP   ? "sends it SIGSYS for"
           : says & SQ_SAYS_ERRNO  ? "refuses it"
           : says & SQ_SAYS_NOTIFY ? "asks a supervisor about"
           : says & SQ_SAYS_TRACE  ? "asks a tracer about"
                                   : "can't be understood about";
}

/* Nothing of NO is said to the call. */
static int never(const struct sq_filters *f, pid_t pid, const struct named *c, unsigned no, struct sq_err *e)
{
    for (size_t i = 0; i < f->n; i++) {
        unsigned says = sq_cbpf_says(f->v[i].insn, f->v[i].len, &c->call);

        if (says == 0)
            return sq_err(e, -ENOMEM, "out of memory");
        if (!(says & no))
            continue;
        sq_err_cls(
            e, SQ_C_CONFLICT, -EPERM,
            "process %d can't be attached to by seccomp: filter %zu of the %zu that it is under already %s %s(2)",
            (int)pid, i + 1, f->n, words(says & no), c->name);
        sq_err_hint(e, "let cgroup-BPF take its calls (attach: auto)");
        return -EPERM;
    }
    return 0;
}

#if defined(__x86_64__)
int sq_filters_allow(const struct sq_filters *f, pid_t pid, const void *ours, size_t len, struct sq_err *e)
{
    int rc = 0;

    for (size_t i = 0; i < f->n; i++)
        if (f->v[i].len * sizeof(*f->v[i].insn) == len && memcmp(f->v[i].insn, ours, len) == 0)
            return sq_err_cls(
                e, SQ_C_CONFLICT, -EALREADY,
                "process %d is under Squall's seccomp filter already, as a child of one that was attached "
                "to or started",
                (int)pid);
    for (size_t i = 0; i < SQ_COUNT(DONE) && rc == 0; i++)
        rc = never(f, pid, &DONE[i], ~(unsigned)RETS, e);
    for (size_t i = 0; i < SQ_COUNT(ASKED) && rc == 0; i++)
        if (sq_cbpf_says(ours, len / sizeof(struct sock_filter), &ASKED[i].call) != SQ_SAYS_ALLOW)
            rc = never(f, pid, &ASKED[i], CONTROLS, e);
    return rc;
}

int sq_filters_allow_nnp(const struct sq_filters *f, pid_t pid, struct sq_err *e)
{
    return never(f, pid, &NNP, ~(unsigned)RETS, e);
}

bool sq_filters_allow_restart(const struct sq_filters *f)
{
    return never(f, 0, &RESTART, ~(unsigned)RETS, NULL) == 0;
}
#endif

/* ---- can it be done here ---- */

/* A process under a filter that lets all through, which stops. */
static void be_filtered(void)
{
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog prog = {.len = 1, .filter = &all};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* it has all of squalld's descriptors */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0 &&
        ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
        (void)raise(SIGSTOP);
    _exit(1);
}

int sq_filters_check(struct sq_err *e)
{
    struct sq_one_filter f = {0};
    pid_t pid = fork();
    int st = 0, rc;

    if (pid < 0)
        return sq_err_sys(e, -errno, "cannot start a process");
    if (pid == 0)
        be_filtered();
    do
        rc = waitpid(pid, &st, __WALL) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == 0 && !WIFSTOPPED(st))
        return sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "seccomp filters can't be loaded here, or not be traced");
    rc = rc ? rc : read_one(pid, 0, &f);
    free(f.insn);
    (void)kill(pid, SIGKILL);
    while (waitpid(pid, &st, __WALL) < 0 && errno == EINTR) {
    }
    if (rc == 0)
        return 0;
    if (rc == -EACCES || rc == -EPERM)
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc,
                        "only one who has CAP_SYS_ADMIN and is under no seccomp filter itself "
                        "can read those of others");
    else
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc,
                        "this kernel can't tell which seccomp filters a process is under (it "
                        "has no CONFIG_CHECKPOINT_RESTORE)");
    return rc;
}
