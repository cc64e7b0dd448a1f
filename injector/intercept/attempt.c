/* Reading what a trapped process is about to do, from outside: its registers came with the notification, its memory by
 * process_vm_readv(2), its socket by pidfd_getfd(2). The address is copied once, and the copy is what is acted upon. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/openat2.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "intercept/supervise.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

#define X32_BIT 0x40000000
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int read_memory(pid_t tid, uint64_t from, void *to, size_t len)
{
    struct iovec here = {.iov_base = to, .iov_len = len};
    struct iovec there = {.iov_base = (void *)(uintptr_t)from, .iov_len = len};
    ssize_t n = process_vm_readv(tid, &here, 1, &there, 1, 0);

    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EFAULT;
}

/* Calls that begin a connection: connect(2), and the others with MSG_FASTOPEN and an address. */
enum call { CALL_CONNECT, CALL_SENDTO, CALL_SENDMSG, CALL_SENDMMSG };

struct entry {
    int nr;
    enum call call;
};

static const struct entry NATIVE[] = {
    {SYS_connect, CALL_CONNECT}, {SYS_sendto, CALL_SENDTO}, {SYS_sendmsg, CALL_SENDMSG}, {SYS_sendmmsg, CALL_SENDMMSG}};
static const struct entry I386[] = {{362, CALL_CONNECT}, {369, CALL_SENDTO}, {370, CALL_SENDMSG}, {345, CALL_SENDMMSG}};
/* net.h: SYS_CONNECT and so on, the first argument of socketcall(2) */
static const struct entry SOCKETCALL[] = {
    {3, CALL_CONNECT}, {11, CALL_SENDTO}, {16, CALL_SENDMSG}, {20, CALL_SENDMMSG}};
#define I386_SOCKETCALL 102
#if defined(__x86_64__)
static const struct entry X32[] = {
    {SYS_connect, CALL_CONNECT}, {SYS_sendto, CALL_SENDTO}, {518, CALL_SENDMSG}, {538, CALL_SENDMMSG}};
#endif

static const struct entry *find(const struct entry *of, int nr)
{
    for (size_t i = 0; i < 4; i++)
        if (of[i].nr == nr)
            return &of[i];
    return NULL;
}

/* The address that a struct msghdr at FROM names; sendmmsg's first message begins with one. */
static int read_msghdr(struct sq_attempt *a, uint64_t from, bool words)
{
    struct {
        uint64_t name;
        uint32_t len;
    } wide = {0};
    uint32_t narrow[2] = {0};
    int rc = words ? read_memory(a->tid, (uint32_t)from, narrow, sizeof(narrow))
                   : read_memory(a->tid, from, &wide, offsetof(struct msghdr, msg_namelen) + sizeof(uint32_t));

    a->addr = words ? narrow[0] : wide.name;
    a->len = words ? narrow[1] : wide.len;
    return rc;
}

/* WORDS: a program whose pointers have 32 bits. As sq_attempt_parse. */
static int take(struct sq_attempt *a, enum call call, const uint64_t *args, bool words)
{
    uint64_t flags = MSG_FASTOPEN;
    int rc = 0;

    a->fd = (int)(uint32_t)args[0];
    a->fastopen = call != CALL_CONNECT;
    switch (call) {
    case CALL_CONNECT:
        a->addr = args[1];
        a->len = (uint32_t)args[2];
        break;
    case CALL_SENDTO:
        flags = args[3];
        a->addr = args[4];
        a->len = (uint32_t)args[5];
        break;
    case CALL_SENDMSG:
        flags = args[2];
        break;
    case CALL_SENDMMSG:
        flags = (uint32_t)args[2] ? args[3] : 0;
        break;
    }
    if (!(flags & MSG_FASTOPEN))
        return 0;
    if (call == CALL_SENDMSG || call == CALL_SENDMMSG)
        rc = read_msghdr(a, args[1], words);
    return rc < 0 ? rc : !a->fastopen || a->addr != 0;
}

static int parse_socketcall(const struct seccomp_notif *n, struct sq_attempt *a)
{
    static const size_t words[] = {[CALL_CONNECT] = 3, [CALL_SENDTO] = 6, [CALL_SENDMSG] = 3, [CALL_SENDMMSG] = 4};
    const struct entry *e = find(SOCKETCALL, (int)n->data.args[0]);
    uint32_t raw[6] = {0};
    uint64_t args[6];
    int rc = e ? read_memory(a->tid, (uint32_t)n->data.args[1], raw, words[e->call] * sizeof(raw[0])) : 0;

    for (size_t i = 0; i < 6; i++)
        args[i] = raw[i];
    return !e || rc < 0 ? rc : take(a, e->call, args, true);
}

int sq_attempt_parse(const struct seccomp_notif *n, struct sq_attempt *a)
{
    const struct entry *e = NULL;
    uint64_t args[6];
    int nr = n->data.nr;
    bool words = n->data.arch != seccomp_arch_native();

    memset(a, 0, sizeof(*a));
    a->tid = (pid_t)n->pid;
    a->id = n->id;
    for (size_t i = 0; i < 6; i++)
        args[i] = n->data.args[i];
    if (n->data.arch == AUDIT_ARCH_I386 && nr == I386_SOCKETCALL)
        return parse_socketcall(n, a);
    if (!words)
        e = find(NATIVE, nr);
    else if (n->data.arch == AUDIT_ARCH_I386)
        e = find(I386, nr);
#if defined(__x86_64__)
    if (!words && (nr & X32_BIT)) {
        words = true;
        e = find(X32, nr & ~X32_BIT);
    }
#endif
    return e ? take(a, e->call, args, words) : 0;
}

int sq_attempt_read(struct sq_attempt *a)
{
    size_t len = a->len < sizeof(a->to.ss) ? a->len : sizeof(a->to.ss);

    if (len < sizeof(sa_family_t))
        return -EINVAL;
    a->to_len = (socklen_t)len;
    return read_memory(a->tid, a->addr, &a->to.ss, len);
}

static pid_t tgid_of(pid_t tid)
{
    char path[64], line[128];
    cleanup_fclose FILE *f = NULL;
    long tgid = -1;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "Tgid:", 5) == 0) {
            tgid = strtol(line + 5, NULL, 10);
            break;
        }
    return tgid > 0 ? (pid_t)tgid : -1;
}

/* Then a pidfd that was opened before is the process's; else its number may have been used again. */
static bool waits(const struct sq_supervisor *s, const struct sq_attempt *a)
{
    return ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &a->id) == 0;
}

/* Linux before 6.9: the leader's must do for all threads. */
static int socket_of_group(const struct sq_supervisor *s, const struct sq_attempt *a)
{
    cleanup_close int pidfd = sq_pidfd_open(tgid_of(a->tid));

    return pidfd < 0 ? pidfd : waits(s, a) ? sq_pidfd_getfd(pidfd, a->fd) : -ESRCH;
}

/* The thread's own pidfd is kept for its next call, because to open and close one takes 10 us: when its number has
 * become another thread's, it says ESRCH. */
int sq_attempt_socket(struct sq_supervisor *s, const struct sq_attempt *a)
{
    int rc = -ESRCH;

    if (s->last_tid == a->tid)
        rc = sq_pidfd_getfd(s->last_pidfd, a->fd);
    if (rc != -ESRCH)
        return rc;
    if (s->last_tid)
        (void)close(s->last_pidfd);
    /* Of the thread: the leader of its group may be a zombie. */
    s->last_pidfd = (int)syscall(SYS_pidfd_open, a->tid, PIDFD_THREAD);
    s->last_tid = s->last_pidfd >= 0 ? a->tid : 0;
    if (s->last_pidfd < 0)
        return errno == EINVAL ? socket_of_group(s, a) : -errno;
    return waits(s, a) ? sq_pidfd_getfd(s->last_pidfd, a->fd) : -ESRCH;
}

/* The file that the process means by PATH, from its own root and working directory. */
static int stat_theirs(pid_t tid, const char *path, struct stat *st)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC};
    cleanup_close int dir = -1, file = -1;
    char at[64];

    (void)snprintf(at, sizeof(at), "/proc/%d/%s", (int)tid, path[0] == '/' ? "root" : "cwd");
    dir = open(at, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    if (path[0] == '/')
        how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    file = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
    if (file < 0)
        return -errno;
    return fstat(file, st) < 0 ? -errno : 0;
}

/* Another name of the same socket (a symbolic link, a relative path, a bind mount) is the same destination; the same
 * name in another root is not, when both can be looked at. */
bool sq_attempt_is_unix(const struct sq_attempt *a, const struct sq_dest *d)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)(const void *)&a->to.ss;
    char path[sizeof(un->sun_path) + 1] = "";
    struct stat theirs, ours;
    size_t n;

    if (d->kind != SQ_DEST_UNIX || a->to_len <= offsetof(struct sockaddr_un, sun_path))
        return false;
    n = a->to_len - offsetof(struct sockaddr_un, sun_path);
    if (n > sizeof(un->sun_path))
        n = sizeof(un->sun_path);
    if (!un->sun_path[0] || !d->path[0])
        return !un->sun_path[0] && !d->path[0] && n == d->path_len && memcmp(un->sun_path, d->path, n) == 0;
    memcpy(path, un->sun_path, n);
    if (stat_theirs(a->tid, path, &theirs) == 0 && stat(d->path, &ours) == 0)
        return theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
    return strcmp(path, d->path) == 0;
}
