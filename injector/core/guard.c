#include "squall/guard.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#define GUARD_US 20000
#define SEEN_BEFORE 256u
#define SEEN_AFTER 64u

static void nothing(int sig)
{
    (void)sig; /* only there to interrupt */
}

void sq_guard_ready(void)
{
    struct sigaction sa = {.sa_handler = nothing}; /* without SA_RESTART */
    sigset_t only;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGALRM);
    (void)sigaction(SIGALRM, &sa, NULL);
    (void)sigprocmask(SIG_UNBLOCK, &only, NULL);
}

void sq_guard_begin(void)
{
    const struct itimerval often = {.it_value.tv_usec = GUARD_US, .it_interval.tv_usec = GUARD_US};
    (void)setitimer(ITIMER_REAL, &often, NULL);
}

void sq_guard_end(void)
{
    const struct itimerval off = {0};
    (void)setitimer(ITIMER_REAL, &off, NULL);
}

bool sq_notif_is_listener(int fd)
{
    static const char want[] = "anon_inode:seccomp notify";
    char path[64], link[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, link, sizeof(link));
    return n == (ssize_t)strlen(want) && memcmp(link, want, strlen(want)) == 0;
}

int sq_notif_recv_guarded(int listener, struct seccomp_notif *n)
{
    memset(n, 0, sizeof(*n)); /* the kernel insists */
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, n) < 0 ? -errno : 0;
}

int sq_notif_recv(int listener, struct seccomp_notif *n)
{
    sq_guard_ready();
    sq_guard_begin();
    int rc = sq_notif_recv_guarded(listener, n);
    sq_guard_end();
    return rc;
}

static void let_go(int listener, uint64_t id)
{
    struct seccomp_notif_resp resp = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0)
        (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

void sq_notif_release(int listener, uint64_t last, const volatile uint64_t *held, size_t n)
{
    for (uint64_t id = last - SEEN_BEFORE; last && id != last + SEEN_AFTER + 1; id++)
        let_go(listener, id);
    for (size_t i = 0; i < n; i++) {
        uint64_t id = __atomic_load_n(&held[i], __ATOMIC_ACQUIRE);
        if (id)
            let_go(listener, id);
    }
}
