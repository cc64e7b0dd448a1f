#include "squall/guard.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#define GUARD_US 20000

static void nothing(int sig)
{
    (void)sig; /* only there to interrupt */
}

void sq_guard_begin(void)
{
    const struct itimerval often = {.it_value.tv_usec = GUARD_US, .it_interval.tv_usec = GUARD_US};
    struct sigaction sa = {.sa_handler = nothing}; /* without SA_RESTART */
    sigset_t only;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGALRM);
    (void)sigaction(SIGALRM, &sa, NULL);
    (void)sigprocmask(SIG_UNBLOCK, &only, NULL);
    (void)setitimer(ITIMER_REAL, &often, NULL);
}

void sq_guard_end(void)
{
    const struct itimerval off = {0};
    (void)setitimer(ITIMER_REAL, &off, NULL);
}

int sq_notif_recv(int listener, struct seccomp_notif *n)
{
    memset(n, 0, sizeof(*n)); /* the kernel insists */
    sq_guard_begin();
    int rc = ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, n) < 0 ? -errno : 0;
    sq_guard_end();
    return rc;
}
