/* Whose network it is, as the kernel would say: real processes and namespaces; needs root. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/permit.h"

#define NOBODY 65534

/* CAP_NET_ADMIN, ambient, as far as there is any to take it from. */
static void raise_ambient(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2];

    if (syscall(SYS_capget, &h, d) < 0)
        _exit(2);
    d[0].inheritable |= 1u << CAP_NET_ADMIN;
    if (syscall(SYS_capset, &h, d) < 0 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) < 0)
        _exit(3);
}

static bool put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        (void)close(fd);
    return ok;
}

/* A process of nobody's that sleeps in DEPTH user namespaces of its own, the innermost with a network, within one of
 * root's if ROOTS. */
static pid_t sleeper(int depth, bool roots, bool ambient)
{
    int ready[2];
    char c = 0;

    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (roots) { /* with itself and nobody in it */
            pid_t in = getpid();
            char map[64];
            int sync[2], status;

            if (pipe(sync) < 0)
                _exit(1);
            pid_t mapper = fork();
            if (mapper == 0) {
                (void)close(sync[1]); /* where there are no user namespaces nobody writes */
                (void)close(ready[1]);
                if (read(sync[0], map, 1) != 1)
                    _exit(1);
                for (int i = 0; i < 2; i++) {
                    (void)snprintf(map, sizeof map, "/proc/%d/%s", (int)in, i ? "gid_map" : "uid_map");
                    if (!put(map, "0 0 65535\n"))
                        _exit(1);
                }
                _exit(0);
            }
            if (unshare(CLONE_NEWUSER) < 0 || write(sync[1], "x", 1) != 1 || waitpid(mapper, &status, 0) != mapper ||
                status != 0)
                _exit(1);
        }
        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
            _exit(1);
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* /proc/self is its own again */
        for (int i = 1; i <= depth; i++) {
            if (unshare(CLONE_NEWUSER | (i == depth ? CLONE_NEWNET : 0)) < 0)
                _exit(1);
            /* Without a uid and a gid it could not make another one. */
            if (!put("/proc/self/setgroups", "deny") || !put("/proc/self/uid_map", "65534 65534 1\n") ||
                !put("/proc/self/gid_map", "65534 65534 1\n"))
                _exit(1);
        }
        if (ambient)
            raise_ambient();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of uid takes it away */
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_true(pid > 0);
    close(ready[1]);
    if (read(ready[0], &c, 1) != 1)
        c = 0;
    close(ready[0]);
    if (c)
        return pid;
    waitpid(pid, NULL, 0);
    return -1;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static pid_t need(pid_t pid)
{
    if (geteuid() == 0 && pid > 0)
        return pid;
    print_message("needs root, and user namespaces for everybody\n");
    skip();
    return -1;
}

/* What PEER's process may do to the network of OF's; 0: to this one. */
static int may(pid_t peer, pid_t of)
{
    struct sq_peer p = {.pid = peer, .uid = NOBODY, .gid = NOBODY};
    struct sq_netns ns;
    struct sq_err e = {0};
    char spec[32];

    (void)snprintf(spec, sizeof spec, "pid:%d", (int)of);
    assert_int_equal(sq_netns_open(of ? spec : NULL, &ns, &e), 0);
    int r = sq_net_permitted(&p, &ns, &e);
    sq_netns_close(&ns);
    assert_true(r == 0 || (r == -EPERM && e.cls == SQ_C_DENIED));
    return r;
}

static void the_owner_of_its_user_namespace(void **state)
{
    pid_t peer = need(sleeper(0, false, false)), one = need(sleeper(1, false, false)),
          deep = need(sleeper(3, false, false));

    (void)state;
    assert_int_equal(may(peer, 0), -EPERM);
    assert_int_equal(may(peer, one), 0);
    assert_int_equal(may(peer, deep), 0);
    end(peer);
    end(one);
    end(deep);
}

/* Capabilities of a user namespace are good for that one alone, also ambient ones. */
static void root_in_a_namespace_of_its_own(void **state)
{
    pid_t in = need(sleeper(1, false, true));

    (void)state;
    assert_int_equal(may(in, 0), -EPERM);
    assert_int_equal(may(in, in), -EPERM); /* it asks from within: its uid there is not the uid here */
    end(in);
}

/* A container of root's has a user with our uid, who made a namespace in it: its network is not ours out here. */
static void the_same_uid_in_a_container_of_others(void **state)
{
    pid_t peer = need(sleeper(0, false, false)), theirs = need(sleeper(1, true, false));

    (void)state;
    assert_int_equal(may(peer, theirs), -EPERM);
    end(peer);
    end(theirs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_owner_of_its_user_namespace),
        cmocka_unit_test(root_in_a_namespace_of_its_own),
        cmocka_unit_test(the_same_uid_in_a_container_of_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
