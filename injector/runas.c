/* Acting with the rights of the peer that asked. */
#include "runas.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "squall/cleanup.h"

#define NOBODYS ((uid_t)-2) /* a uid that is no user's, and not the overflow uid either */

struct job {
    const struct sq_peer *peer;
    int (*fn)(void *arg);
    void *arg;
    gid_t groups[SQ_GROUPS_MAX];
    size_t ngroups;
    int result;
    int cred_errno; /* 0: fn was called */
};

size_t sq_peer_groups(const struct sq_peer *peer, gid_t *groups)
{
    groups[0] = peer->gid;
    char buf[16384];
    struct passwd pw, *found = NULL;
    if (getpwuid_r(peer->uid, &pw, buf, sizeof buf, &found) != 0 || !found)
        return 1;
    int n = SQ_GROUPS_MAX;
    if (getgrouplist(found->pw_name, peer->gid, groups, &n) < 0) {
        groups[0] = peer->gid; /* more groups than anybody has: fewer rights, never more */
        return 1;
    }
    return n > 0 ? (size_t)n : 1;
}

/* Rights come from the effective uid. Who may send us a signal is decided by our real and saved one (kill(2)): were
 * those the peer's too, it could end all of squalld through this thread. Where nobody's uid is not mapped (a container
 * with few users), they have to be. */
static int become(uid_t u)
{
    uid_t r = 0, eu = 0, s = 0;
    if (syscall(SYS_setresuid, NOBODYS, u, NOBODYS) < 0 && (errno != EINVAL || syscall(SYS_setresuid, u, u, u) < 0))
        return errno;
    if (syscall(SYS_getresuid, &r, &eu, &s) < 0 || eu != u || r != s || (r != u && r != NOBODYS))
        return EPERM;
    return 0;
}

/* Raw system calls: glibc's wrappers would change the credentials of every thread. */
static int drop(const struct job *j)
{
    gid_t g = j->peer->gid;
    if (syscall(SYS_setgroups, j->ngroups, j->groups) < 0 || syscall(SYS_setresgid, g, g, g) < 0)
        return errno;
    int r = become(j->peer->uid);
    if (r)
        return r;
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    return syscall(SYS_capset, &h, none) < 0 ? errno : 0;
}

static void *run(void *p)
{
    struct job *j = p;
    j->cred_errno = drop(j);
    if (!j->cred_errno)
        j->result = j->fn(j->arg);
    return NULL;
}

/* With fs.suid_dumpable = 1 a change of uid leaves the memory readable to the new uid: the peer could ptrace us. */
static bool suid_debuggable(void)
{
    cleanup_close int fd = open("/proc/sys/fs/suid_dumpable", O_RDONLY | O_CLOEXEC);
    char c = '0';
    return fd >= 0 && read(fd, &c, 1) == 1 && c == '1';
}

int sq_run_as(const struct sq_peer *peer, int (*fn)(void *arg), void *arg, struct sq_err *e)
{
    if (peer->uid == 0 || geteuid() != 0)
        return fn(arg); /* not root ourselves: our rights are all that a peer can get */
    if (suid_debuggable()) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "refusing to act as uid %u while fs.suid_dumpable is 1",
                   (unsigned)peer->uid);
        sq_err_hint(e, "sysctl fs.suid_dumpable=0: with 1 the user could read a root process's memory");
        return -EPERM;
    }
    cleanup_free struct job *j = calloc(1, sizeof *j);
    if (!j)
        return sq_err(e, -ENOMEM, "out of memory");
    j->peer = peer;
    j->fn = fn;
    j->arg = arg;
    j->ngroups = sq_peer_groups(peer, j->groups);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* No handler of the process may run in a thread with other rights. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_t t;
    int r = pthread_create(&t, NULL, run, j);
    if (r == 0)
        (void)pthread_join(t, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r)
        return sq_err_sys(e, -r, "cannot start a thread to act as uid %u", (unsigned)peer->uid);
    if (j->cred_errno)
        return sq_err_sys(e, -j->cred_errno, "cannot take on the rights of uid %u", (unsigned)peer->uid);
    return j->result;
}
