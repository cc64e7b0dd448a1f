/* Who holds the table that keeps redirected connections whole when squalld and its proxy die at the same moment: the
 * proxy's sockets say goodbye as it dies, which must still be translated, or their other ends wait for ever (seen).
 * A process of its own, which ends when the proxy says so, or is dead. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/agent.h"
#include "intercept/nft_int.h"
#include "squall/cleanup.h"

/* TOLD: a byte, the proxy needs it no more. Its end without one: the proxy is dying. */
static void hold(int told, int proxy)
{
    struct pollfd p[2] = {{.fd = told, .events = POLLIN}, {.fd = proxy, .events = POLLIN}};
    char byte;

    while (!p[1].revents) {
        if (poll(p, 2, -1) < 0) {
            p[0].revents = p[1].revents = 0;
            continue;
        }
        if (p[0].revents && read(told, &byte, 1) == 1)
            return;
        if (p[0].revents)
            p[0].fd = -1;
    }
}

int sq_nat_hold(const struct sq_intercept *ic, const struct sq_nft *table, struct sq_err *e)
{
    cleanup_close int keep = sq_nft_socket(table, e), told = -1, say = -1;
    int ends[2], proxy = ic->link.pidfd;
    pid_t pid;

    if (keep < 0)
        return keep;
    if (proxy < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return sq_err_sys(e, proxy < 0 ? -EPIPE : -errno, "cannot make a pipe to the proxy");
    told = ends[0];
    say = ends[1];
    pid = fork();
    if (pid < 0)
        return sq_err_sys(e, -errno, "cannot fork");
    if (pid == 0) {
        int fds[] = {keep, told, proxy};

        if (fork() == 0) { /* the keeper's, which takes note of its end */
            sq_agent_become("squall-nat", fds, SQ_COUNT(fds));
            (void)signal(SIGTERM, SIG_IGN); /* its life is the proxy's */
            (void)signal(SIGINT, SIG_IGN);
            hold(told, proxy);
        }
        _exit(0);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return SQ_TAKE_FD(say);
}
