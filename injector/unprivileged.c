#include "unprivileged.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <unistd.h>

#define NOBODY 65534

#if defined(__SANITIZE_ADDRESS__)
#define DUMPABLE 1 /* LeakSanitizer looks at the process with ptrace(2) */
#else
#define DUMPABLE 0
#endif

void sq_plain_oom(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)!write(fd, "0", 1);
    (void)close(fd);
}

void sq_plain_signals(void)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &dfl, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

int sq_unprivileged(void)
{
    bool root = geteuid() == 0 || getuid() == 0;

    sq_plain_oom();
    capng_clear(CAPNG_SELECT_BOTH);
    if (root)
        (void)capng_apply(CAPNG_SELECT_BOUNDS); /* while we still may; nothing can be gained by exec in any case */
    if (root &&
        (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0))
        return -errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    if (capng_apply(CAPNG_SELECT_CAPS) != 0)
        return -EPERM;
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    (void)prctl(PR_SET_DUMPABLE, DUMPABLE, 0, 0, 0);
    return root && (setuid(0) == 0 || geteuid() == 0) ? -EPERM : 0;
}
