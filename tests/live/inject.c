/* A tool of 47-inject.py: inject PID PORT [die]. Attaches to the process by seccomp and says how; while its standard
 * input is open, the process's connects to 127.0.0.1:PORT are refused, the others go where they want to. "die": leaves
 * at once, as a squalld would that is killed before others have the listener. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "intercept/inject.h"
#include "intercept/priv.h"
#include "intercept/supervise.h"
#include "squall/guard.h"
#include "squall/proc.h"

static void serve(int listener, int port)
{
    struct seccomp_notif n;
    struct sq_attempt a;
    if (sq_notif_recv(listener, &n) < 0)
        return;
    struct seccomp_notif_resp resp = {.id = n.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (sq_attempt_parse(&n, &a) == 1 && sq_attempt_read(&a) == 0 &&
        (a.to.sa.sa_family == AF_INET || a.to.sa.sa_family == AF_INET6) && /* the port is at the same place */
        ((struct sockaddr_in *)(void *)&a.to)->sin_port == htons((uint16_t)port)) {
        resp.flags = 0;
        resp.error = -ECONNREFUSED;
    }
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

int main(int argc, char **argv)
{
    struct sq_err e = {0};
    struct sq_proc p;
    struct sq_injected in;
    void *filter = NULL;
    size_t len = 0;
    if (argc < 3 || sq_proc_read((pid_t)atoi(argv[1]), &p, &e) < 0 || sq_filter_build(false, &filter, &len, &e) < 0 ||
        sq_inject(p.pid, p.start, filter, len, &in, &e) < 0) {
        printf("{\"error\": \"%s\"}\n", e.msg);
        free(filter);
        return 1;
    }
    printf("{\"stopped_us\": %lld, \"no_new_privs\": %s, \"rings\": %s}\n", (long long)in.stopped_ns / 1000,
           in.no_new_privs ? "true" : "false", in.rings ? "true" : "false");
    (void)fflush(stdout);
    free(filter);
    if (argc > 3)
        _exit(0);
    sq_inject_done(&in);
    for (;;) {
        struct pollfd pfd[2] = {{.fd = in.listener, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        (void)poll(pfd, 2, -1);
        if (pfd[0].revents & POLLIN)
            serve(in.listener, atoi(argv[2]));
        else if (pfd[0].revents || pfd[1].revents)
            return 0;
    }
}
