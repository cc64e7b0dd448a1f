#include "squall/proc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "squall/cleanup.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#define SYS_pidfd_open 434
#define SYS_pidfd_getfd 438
#endif

ssize_t sq_proc_slurp(const char *path, char *buf, size_t len)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t got = 0;

    if (fd < 0)
        return -errno;
    while (got < len - 1) {
        ssize_t n = read(fd, buf + got, len - 1 - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    buf[got] = '\0';
    return (ssize_t)got;
}

const char *sq_boot_id(void)
{
    static char id[40];

    if (!id[0]) {
        if (sq_proc_slurp("/proc/sys/kernel/random/boot_id", id, sizeof id) < 0)
            id[0] = '\0';
        id[strcspn(id, "\n")] = '\0';
    }
    return id;
}

/* proc_pid_stat(5): the comm may hold spaces and parentheses, so fields are counted from the last ')'. */
static int parse_stat(char *text, struct sq_proc *p)
{
    char *open_paren = strchr(text, '('), *close_paren = strrchr(text, ')');
    char *save = NULL, *tok;
    int field = 3;

    if (!open_paren || !close_paren || close_paren < open_paren)
        return -EBADMSG;
    *close_paren = '\0';
    (void)snprintf(p->comm, sizeof p->comm, "%.16s", open_paren + 1);
    for (tok = strtok_r(close_paren + 1, " ", &save); tok; tok = strtok_r(NULL, " ", &save), field++) {
        if (field == 3)
            p->state = tok[0];
        else if (field == 4)
            p->ppid = (pid_t)strtol(tok, NULL, 10);
        else if (field == 6)
            p->sid = (pid_t)strtol(tok, NULL, 10);
        else if (field == 22) {
            p->start = strtoull(tok, NULL, 10);
            return 0;
        }
    }
    return -EBADMSG;
}

static void parse_uids(const char *status, struct sq_proc *p)
{
    const char *line = strstr(status, "\nUid:");
    unsigned r, eff, s;

    if (line && sscanf(line, "\nUid: %u %u %u", &r, &eff, &s) == 3) {
        p->ruid = r;
        p->euid = eff;
        p->suid = s;
    }
}

int sq_proc_read(pid_t pid, struct sq_proc *p, struct sq_err *e)
{
    char path[64], text[4096];
    int r;

    memset(p, 0, sizeof *p);
    p->pid = pid;
    p->ruid = p->euid = p->suid = (uid_t)-1;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (sq_proc_slurp(path, text, sizeof text) <= 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "there is no process %d", (int)pid);
    r = parse_stat(text, p);
    if (r < 0)
        return sq_err_sys(e, r, "cannot understand %s", path);
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    if (sq_proc_slurp(path, text, sizeof text) > 0)
        parse_uids(text, p);
    return 0;
}

int sq_pidfd_open(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : fd;
}

int sq_pidfd_signal(int pidfd, int sig)
{
    return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

int sq_pidfd_getfd(int pidfd, int fd)
{
    int got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);

    return got < 0 ? -errno : got;
}

int sq_proc_pidfd(pid_t pid, uint64_t start, struct sq_err *e)
{
    cleanup_close int fd = sq_pidfd_open(pid);
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    struct sq_proc p;

    if (fd < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, fd, "process %d is gone", (int)pid);
    /* Opened first, then identified, then seen alive: so the stat that was read belongs to the process we hold. */
    if (sq_proc_read(pid, &p, NULL) < 0 || p.start != start || p.state == 'Z' || poll(&pfd, 1, 0) > 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "process %d is gone", (int)pid);
    return SQ_TAKE_FD(fd);
}

int sq_proc_cmdline(pid_t pid, char *buf, size_t len)
{
    char path[64];
    struct sq_proc p;
    ssize_t n;

    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    n = sq_proc_slurp(path, buf, len);
    if (n < 0)
        return -ESRCH;
    while (n > 0 && buf[n - 1] == '\0')
        n--;
    if (n == 0) {
        if (sq_proc_read(pid, &p, NULL) < 0)
            return -ESRCH;
        (void)snprintf(buf, len, "[%s]", p.comm);
        return 0;
    }
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] == '\0')
            buf[i] = ' ';
    buf[n] = '\0';
    return 0;
}

int sq_proc_each(int (*fn)(pid_t pid, void *arg), void *arg)
{
    DIR *d = opendir("/proc");
    const struct dirent *de;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (de = readdir(d)) != NULL) {
        if (isdigit((unsigned char)de->d_name[0]))
            r = fn((pid_t)strtol(de->d_name, NULL, 10), arg);
    }
    (void)closedir(d);
    return r;
}

bool sq_proc_has_env(pid_t pid, const char *name, const char *value)
{
    enum { MOST = 4 * 1024 * 1024 }; /* well above any ARG_MAX share an environment gets in practice */
    cleanup_free char *env = malloc(MOST);
    size_t want = strlen(name);
    char path[64];
    ssize_t n;

    if (!env)
        return false;
    (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    n = sq_proc_slurp(path, env, MOST);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(env + i) + 1)
        if (strncmp(env + i, name, want) == 0 && env[i + (ssize_t)want] == '=' &&
            strcmp(env + i + want + 1, value) == 0)
            return true;
    return false;
}
