/* A place where a fuzzer of the injector can do no harm and is not slowed down by its host: namespaces of its own with
 * four processes in /proc, and the rights of nobody. Called from LLVMFuzzerInitialize: the fuzzer goes on in a
 * grandchild, its parents wait for it and hand on how it ended. */
#ifndef SQUALL_FUZZ_JAIL_H
#define SQUALL_FUZZ_JAIL_H

#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define JAIL_UID 65534
#define JAIL_PORT 80 /* somebody listens there */

static inline void jail_need(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    _exit(1);
}

static inline void jail_drop(void)
{
    jail_need(setgroups(0, NULL) == 0 && setresgid(JAIL_UID, JAIL_UID, JAIL_UID) == 0 &&
                  setresuid(JAIL_UID, JAIL_UID, JAIL_UID) == 0,
              "cannot become nobody");
    (void)prctl(PR_SET_DUMPABLE, 1); /* the sanitizers read /proc/self */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Hand on how the child ended. */
static inline void jail_wait(pid_t child)
{
    int status = 0;
    pid_t pid;

    do
        pid = wait(&status);
    while ((pid < 0 && errno == EINTR) || (pid > 0 && pid != child));
    _exit(pid == child && WIFEXITED(status) ? WEXITSTATUS(status) : 128 + SIGKILL);
}

/* Another program than the fuzzer, to be found by a pattern and by the port of SOCK. */
static inline void jail_victim(const char *name, int sock)
{
    pid_t pid = fork();

    if (pid)
        return;
    jail_drop();
    if (sock < 0 || dup2(sock, 3) == 3)
        (void)execlp("sleep", name, "1000000", (char *)NULL);
    _exit(1);
}

static inline int jail_listen(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(JAIL_PORT)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    jail_need(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0, "cannot listen");
    return fd;
}

/* Without root it is a process among others: what the fuzzers ask for touches nothing anyway. */
static inline void jail_enter(void)
{
    int status = 0, sock;
    pid_t child;

    if (geteuid() != 0)
        return;
    if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0) {
        jail_drop();
        return;
    }
    child = fork();
    jail_need(child >= 0, "fork");
    if (child)
        jail_wait(child);
    /* The first process of the namespace: when it ends, so do all others. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    jail_need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                  mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0,
              "cannot mount /proc");
    child = fork(); /* number 2, which everybody takes for the parent of kernel threads */
    if (child == 0)
        _exit(0);
    (void)waitpid(child, &status, 0);
    sock = jail_listen();
    jail_victim("payments", sock);
    jail_victim("checkout", -1);
    (void)close(sock);
    child = fork();
    jail_need(child >= 0, "fork");
    jail_drop();
    if (child)
        jail_wait(child);
}

#endif
