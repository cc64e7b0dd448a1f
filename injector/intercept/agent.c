#include "intercept/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "squall/door.h"
#include "squall/guard.h"
#include "unprivileged.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void close_between(unsigned lo, unsigned hi)
{
    if (lo > hi || syscall(SYS_close_range, lo, hi, 0U) == 0)
        return;
    for (unsigned fd = lo; fd <= hi && fd < 65536; fd++) /* before Linux 5.9 */
        (void)close((int)fd);
}

/* It may live for days: whoever reads what squalld writes must not wait for it, nor a file system be busy. */
static void let_go_of_terminal(const int *fd, size_t n)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i <= STDERR_FILENO; i++) {
        bool kept = false;
        for (size_t k = 0; k < n; k++)
            kept |= fd[k] == i;
        if (!kept && null >= 0 && null != i)
            (void)dup2(null, i);
    }
    (void)!chdir("/");
}

void sq_agent_become(const char *name, int *fd, size_t n)
{
    unsigned next = 3;
    sq_plain_signals();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)setsid();
    (void)prctl(PR_SET_NAME, name);
    qsort(fd, n, sizeof(*fd), ascending);
    let_go_of_terminal(fd, n);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned)fd[i] < next)
            continue;
        close_between(next, (unsigned)fd[i] - 1);
        next = (unsigned)fd[i] + 1;
    }
    close_between(next, ~0U);
}

static void answer(int listener)
{
    struct seccomp_notif n;
    if (sq_notif_recv(listener, &n) < 0)
        return;
    struct seccomp_notif_resp resp = {.id = n.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

/* Entry I is over: its two places are the last one's now. */
static void drop(struct pollfd *p, size_t i, size_t *n)
{
    for (size_t k = 0; k < 2; k++) {
        if (p[2 * i + k].fd >= 0)
            (void)close(p[2 * i + k].fd);
        p[2 * i + k] = p[2 * (*n - 1) + k];
    }
    --*n;
}

void sq_agent_answer(const struct sq_left *left, size_t n)
{
    struct pollfd *p = calloc(2 * n + 1, sizeof(*p));
    for (size_t i = 0; p && i < n; i++) {
        p[2 * i] = (struct pollfd){.fd = left[i].listener, .events = POLLIN};
        p[2 * i + 1] = (struct pollfd){.fd = left[i].door, .events = POLLIN};
    }
    while (p && n > 0) {
        (void)poll(p, 2 * n, -1);
        for (size_t i = n; i-- > 0;) {
            const struct pollfd *own = &p[2 * i], *door = own + 1;
            if (own->revents & POLLIN)
                answer(own->fd);
            if ((own->revents & (POLLHUP | POLLERR | POLLNVAL)) ||
                (door->fd >= 0 && (door->revents & POLLIN) && sq_door_give(door->fd, own->fd)))
                drop(p, i, &n);
        }
    }
    free(p);
}

int sq_agent_start(const struct sq_left *left, size_t n, const volatile uint64_t *held, size_t m)
{
    int *fds = calloc(2 * n + 1, sizeof(*fds));
    size_t k = 0;
    if (!fds)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        fds[k++] = left[i].listener;
        if (left[i].door >= 0)
            fds[k++] = left[i].door;
    }
    pid_t pid = fork();
    if (pid == 0) {
        sq_agent_become("squall-agent", fds, k);
        for (size_t i = 0; i < n; i++)
            sq_notif_release(left[i].listener, 0, held, m);
        sq_agent_answer(left, n);
        _exit(0);
    }
    free(fds);
    return pid < 0 ? -errno : 0;
}
