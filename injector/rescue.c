#include "rescue.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/err.h"
#include "squall/proc.h"

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif
#define OPTIONS (PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK)
#define ROUNDS 100    /* looks at a process until none of its threads is new */
#define TREE_MAX 4096 /* processes */

static const char usage[] =
    "usage: squalld rescue [--unconfined] PID\n"
    "\n"
    "Rescues a program whose calls fail with ENOSYS (\"Function not implemented\") because squalld, its keeper and "
    "the\n"
    "proxy were all killed while its calls were intercepted by seccomp. It is traced, with its descendants, and the\n"
    "filter suspended for as long as this command runs, which ends with the program. Needs root, and a kernel with\n"
    "CONFIG_CHECKPOINT_RESTORE. Restarting the program is the better cure, where that is possible.\n"
    "\n"
    "  --unconfined  also a program with other seccomp filters than ours (a container's, its own sandbox): all of\n"
    "                them are suspended, so that it may do what they forbid\n"
    "\n"
    "exit status: 0 the program has ended; 2 wrong usage, or nothing to rescue; 5 it can't be traced\n";

struct rescue {
    bool unconfined;
    pid_t of[TREE_MAX]; /* processes */
    size_t n;
    size_t threads, skipped;
    bool grew;
};

/* ---- whom ---- */

/* How many seccomp filters; 0: none. -errno. Kernels before 5.9 do not count: then 1 stands for any. */
static int filters(pid_t pid)
{
    char path[64], text[8192];
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    ssize_t n = sq_proc_slurp(path, text, sizeof(text));
    if (n < 0)
        return (int)n;
    const char *mode = strstr(text, "\nSeccomp:"), *count = strstr(text, "\nSeccomp_filters:");
    if (!mode || strtol(mode + 9, NULL, 10) != 2)
        return 0;
    return count ? (int)strtol(count + 17, NULL, 10) : 1;
}

static bool has(const struct rescue *r, pid_t pid)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->of[i] == pid)
            return true;
    return false;
}

static int add_child(pid_t pid, void *arg)
{
    struct rescue *r = arg;
    struct sq_proc p;
    if (r->n < TREE_MAX && !has(r, pid) && sq_proc_read(pid, &p, NULL) == 0 && has(r, p.ppid) && p.state != 'Z') {
        r->of[r->n++] = pid;
        r->grew = true;
    }
    return 0;
}

static void add_descendants(struct rescue *r)
{
    do {
        r->grew = false;
        (void)sq_proc_each(add_child, r);
    } while (r->grew);
}

/* ---- tracing ---- */

/* 1: seized; 0: it was, or it is gone; -errno. */
static int seize(pid_t tid)
{
    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(uintptr_t)OPTIONS) == 0)
        return 1;
    if (errno == ESRCH)
        return 0;
    char path[64], text[8192];
    int err = errno;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
    const char *tracer = sq_proc_slurp(path, text, sizeof(text)) > 0 ? strstr(text, "\nTracerPid:") : NULL;
    if (tracer && strtol(tracer + 11, NULL, 10) == (long)getpid())
        return 0; /* a new thread of one that is traced already */
    return -err;
}

/* Threads that are made meanwhile are seized with those that make them, or seen at the next look. */
static int seize_process(struct rescue *r, pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    for (int round = 0, fresh = 1; fresh && round < ROUNDS; round++) {
        DIR *d = opendir(path);
        int rc = 0;
        fresh = 0;
        for (const struct dirent *de; d && rc >= 0 && (de = readdir(d)) != NULL;) {
            if (!isdigit((unsigned char)de->d_name[0]))
                continue;
            rc = seize((pid_t)strtol(de->d_name, NULL, 10));
            fresh += rc > 0;
        }
        if (d)
            (void)closedir(d);
        if (rc < 0)
            return rc;
        r->threads += (size_t)fresh;
    }
    return 0;
}

/* Process I, with a filter of ours. */
static int trace_one(struct rescue *r, size_t i, struct sq_err *e)
{
    int n = filters(r->of[i]);
    if (i > 0 && (n <= 0 || (n > 1 && !r->unconfined))) {
        r->skipped += n > 1;
        return 0;
    }
    int rc = seize_process(r, r->of[i]);
    if (rc < 0 && i == 0) {
        sq_err_sys(e, rc, "cannot trace process %d", (int)r->of[i]);
        sq_err_hint(e, rc == -EINVAL  ? "this kernel has no CONFIG_CHECKPOINT_RESTORE: restart the program"
                       : rc == -EPERM ? "is it traced already (a debugger, strace)? is this shell itself under seccomp?"
                                      : "restart the program");
        return rc;
    }
    r->skipped += rc < 0;
    return 0;
}

/* What one of them forks is traced with it once it is traced itself; what it forked before, the next look finds. So
 * when a look finds nobody new, nobody is missing. */
static int trace_tree(struct rescue *r, struct sq_err *e)
{
    r->threads = 0;
    for (size_t done = 0; done < r->n;) {
        for (; done < r->n; done++) {
            int rc = trace_one(r, done, e);
            if (rc < 0)
                return rc;
        }
        add_descendants(r);
    }
    return r->threads ? 0 : sq_err(e, -ESRCH, "process %d has ended", (int)r->of[0]);
}

/* Pass on what stops them, until the last one has ended. Job control stops stay stops (ptrace(2), PTRACE_LISTEN). */
static void carry_on(void)
{
    int st;
    pid_t tid;
    while ((tid = waitpid(-1, &st, __WALL)) > 0 || errno == EINTR) {
        if (tid <= 0 || !WIFSTOPPED(st))
            continue;
        int sig = WSTOPSIG(st), event = st >> 16;
        bool job = sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
        if (event == PTRACE_EVENT_STOP && job)
            (void)ptrace(PTRACE_LISTEN, tid, NULL, NULL);
        else
            (void)ptrace(PTRACE_CONT, tid, NULL, (void *)(uintptr_t)(event ? 0 : sig));
    }
}

/* ---- the command ---- */

static int check(const struct rescue *r, struct sq_err *e)
{
    pid_t pid = r->of[0];
    int n = filters(pid);
    if (n < 0)
        return sq_err_cls(e, SQ_C_INPUT, -ESRCH, "there is no process %d", (int)pid);
    if (n == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "process %d is under no seccomp filter: there is nothing to rescue",
                          (int)pid);
    if (n > 1 && !r->unconfined) {
        sq_err_cls(e, SQ_C_CONFLICT, -EPERM, "process %d is under %d seccomp filters, of which one can be Squall's",
                   (int)pid, n);
        sq_err_hint(e, "all of them would be suspended (a container's, its own sandbox); --unconfined does that");
        return e->code;
    }
    if (geteuid() != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "suspending a seccomp filter needs root");
        sq_err_hint(e, "sudo squalld rescue %d", (int)pid);
        return e->code;
    }
    return 0;
}

static int fail(const struct sq_err *e)
{
    (void)fprintf(stderr, "squalld: %s\n", e->msg);
    if (e->hint[0])
        (void)fprintf(stderr, "  hint: %s\n", e->hint);
    return e->cls == SQ_C_INPUT || e->cls == SQ_C_CONFLICT ? SQ_USAGE : SQ_INFRA;
}

int sq_rescue_main(int argc, char **argv)
{
    cleanup_free struct rescue *r = calloc(1, sizeof(*r));
    struct sq_err e = {0};
    const char *who = NULL;
    for (int i = 1; r && i < argc; i++) {
        if (strcmp(argv[i], "--unconfined") == 0) {
            r->unconfined = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            (void)fputs(usage, stdout);
            return SQ_PASS;
        } else if (argv[i][0] == '-' || who) {
            who = NULL;
            break;
        } else {
            who = argv[i];
        }
    }
    char *end = NULL;
    long pid = who ? strtol(who, &end, 10) : 0;
    if (!r || pid <= 0 || pid > INT_MAX || *end) {
        if (who)
            (void)fprintf(stderr, "squalld: \"%.40s\" is not the id of a process\n\n", who);
        (void)fputs(usage, stderr);
        return SQ_USAGE;
    }
    r->of[r->n++] = (pid_t)pid;
    if (check(r, &e) < 0)
        return fail(&e);
    add_descendants(r);
    if (trace_tree(r, &e) < 0)
        return fail(&e);
    /* Whatever ends us brings ENOSYS back: not the end of the terminal. */
    (void)signal(SIGHUP, SIG_IGN);
    (void)prctl(PR_SET_NAME, "squall-rescue");
    (void)printf("squalld: process %ld is rescued (%zu thread%s): its calls go where they want to\n", pid, r->threads,
                 r->threads == 1 ? "" : "s");
    if (r->skipped)
        (void)printf("squalld: %zu of its descendants are not: they have filters of their own, or another tracer\n",
                     r->skipped);
    (void)printf("squalld: this lasts for as long as this command runs; it ends with the program\n");
    (void)fflush(stdout);
    carry_on();
    return SQ_PASS;
}
