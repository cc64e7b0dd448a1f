/* Network namespaces: found by name, pid, container and path, entered and left, recognized again after the process that
 * they were found by has died, gone when they are. Real ones, made here; needs root. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cgroup.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static void need_root(void)
{
    if (geteuid() == 0)
        return;
    print_message("needs root\n");
    skip();
}

/* A process that sleeps in a network namespace of its own (FD: in that one), in CGROUP if that is given. */
static pid_t sleeper(int fd, const char *cgroup)
{
    int ready[2];
    char c;

    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (cgroup && sq_cgroup_enter(cgroup, 0, NULL) < 0)
            _exit(1);
        if (fd >= 0 ? setns(fd, CLONE_NEWNET) < 0 : unshare(CLONE_NEWNET) < 0)
            _exit(1);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_true(pid > 0);
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static uint64_t here(void)
{
    struct stat st;

    assert_int_equal(stat("/proc/thread-self/ns/net", &st), 0);
    return st.st_ino;
}

static int where(void *arg, struct sq_err *e)
{
    (void)e;
    *(uint64_t *)arg = here();
    return 42;
}

static int refuses(void *arg, struct sq_err *e)
{
    (void)arg;
    return sq_err(e, -EBUSY, "no");
}

static void test_own(void **state)
{
    struct sq_netns ns;
    uint64_t ino = 0;

    (void)state;
    assert_int_equal(sq_netns_open(NULL, &ns, NULL), 0);
    assert_int_equal(ns.fd, -1);
    assert_int_equal(ns.ino, here());
    assert_string_equal(ns.path, "");
    assert_string_equal(ns.resolv, "/etc/resolv.conf");
    assert_int_equal(sq_netns_call(&ns, where, &ino, NULL), 42);
    assert_int_equal(ino, here());
    cleanup_json json_t *record = sq_netns_record(&ns);
    struct sq_netns again;
    assert_int_equal(sq_netns_find(record, &again, NULL), 0);
    assert_int_equal(again.fd, -1);
    assert_int_equal(again.ino, ns.ino);
}

static void test_pid(void **state)
{
    struct sq_netns ns;
    struct sq_err e = {0};
    uint64_t ino = 0;
    char spec[32], want[64];

    (void)state;
    need_root();
    pid_t pid = sleeper(-1, NULL);
    snprintf(spec, sizeof spec, "pid:%d", (int)pid);
    assert_int_equal(sq_netns_open(spec, &ns, &e), 0);
    assert_true(ns.fd >= 0 && ns.ino && ns.ino != here());
    snprintf(want, sizeof want, "pid %d", (int)pid);
    assert_string_equal(ns.name, want);
    snprintf(want, sizeof want, "/proc/%d/root/etc/resolv.conf", (int)pid);
    assert_string_equal(ns.resolv, want);
    assert_int_equal(sq_netns_call(&ns, where, &ino, &e), 42);
    assert_int_equal(ino, ns.ino);
    assert_int_equal(here() == ns.ino, 0); /* and back */
    assert_int_equal(sq_netns_call(&ns, refuses, NULL, &e), -EBUSY);
    assert_string_equal(e.msg, "no");

    /* The record outlives that process while another one is in the namespace, and no longer. */
    cleanup_json json_t *record = sq_netns_record(&ns);
    pid_t other = sleeper(ns.fd, NULL);
    sq_netns_close(&ns);
    end(pid);
    struct sq_netns again;
    sq_err_clear(&e);
    assert_int_equal(sq_netns_find(record, &again, &e), 0);
    assert_int_equal(again.ino, sq_json_int_or(record, "ino", 0));
    assert_int_not_equal(again.fd, -1);
    snprintf(want, sizeof want, "/proc/%d/ns/net", (int)other);
    assert_string_equal(again.path, want);
    sq_netns_close(&again);
    end(other);
    assert_int_equal(sq_netns_find(record, &again, &e), -ENOENT);
    assert_int_equal(e.cls, SQ_C_NOTFOUND);
    assert_int_equal(again.fd, -1);
}

/* A namespace that has the inode number of one that is gone is another one. */
static void test_cookie(void **state)
{
    struct sq_netns ns;
    char spec[32];

    (void)state;
    need_root();
    pid_t pid = sleeper(-1, NULL);
    snprintf(spec, sizeof spec, "pid:%d", (int)pid);
    assert_int_equal(sq_netns_open(spec, &ns, NULL), 0);
    if (ns.cookie) {
        cleanup_json json_t *record = sq_netns_record(&ns);
        json_object_set_new(record, "cookie", json_integer((json_int_t)ns.cookie + 1));
        struct sq_netns again;
        assert_int_equal(sq_netns_find(record, &again, NULL), -ENOENT);
    }
    sq_netns_close(&ns);
    end(pid);
}

static void run(const char *const argv[])
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_name_and_path(void **state)
{
    struct sq_netns ns, again;
    struct sq_err e = {0};
    char name[64], path[160];

    (void)state;
    need_root();
    snprintf(name, sizeof name, "sqt-match-%d", (int)getpid());
    run((const char *[]){"ip", "netns", "add", name, NULL});
    assert_int_equal(sq_netns_open(name, &ns, &e), 0);
    assert_string_equal(ns.name, name);
    snprintf(path, sizeof path, "/etc/netns/%s/resolv.conf", name); /* there or not */
    assert_string_equal(ns.resolv, path);
    cleanup_json json_t *record = sq_netns_record(&ns);
    uint64_t ino = ns.ino;
    sq_netns_close(&ns);

    snprintf(path, sizeof path, "/run/netns/%s", name);
    assert_int_equal(sq_netns_open(path, &ns, &e), 0);
    assert_int_equal(ns.ino, ino);
    sq_netns_close(&ns);
    assert_int_equal(sq_netns_find(record, &again, &e), 0);
    assert_int_equal(again.ino, ino);
    sq_netns_close(&again);
    run((const char *[]){"ip", "netns", "del", name, NULL});
    assert_int_equal(sq_netns_find(record, &again, &e), -ENOENT);
    assert_int_equal(sq_netns_open(name, &ns, &e), -ENOENT);
}

/* As the runtimes name a container's cgroup. */
static void test_container(void **state)
{
    static const char id[] = "5ca1ab1e0123456789abcdef0123456789abcdef0123456789abcdef01234567";
    static const char *const forms[] = {"docker-%s.scope",         "%s",
                                        "cri-containerd-%s.scope", "crio-%s.scope",
                                        "libpod-%s.scope",         "kubepods-besteffort.slice:cri-containerd:%s"};
    struct sq_netns ns;
    char root[SQ_CGROUP_MAX];

    (void)state;
    need_root();
    if (sq_cgroup_root(root, sizeof root, NULL) < 0) {
        print_message("no cgroup2\n");
        skip();
    }
    for (size_t i = 0; i < SQ_COUNT(forms); i++) {
        struct sq_err e = {0};
        char leaf[160], path[sizeof root + 200], conmon[sizeof path];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(leaf, sizeof leaf, forms[i], id);
#pragma GCC diagnostic pop
        snprintf(path, sizeof path, "%s/%s", root, leaf);
        assert_int_equal(mkdir(path, 0755), 0);
        snprintf(conmon, sizeof conmon, "%s/libpod-conmon-%s.scope", root, id);
        assert_int_equal(mkdir(conmon, 0755), 0);
        pid_t monitor = sleeper(-1, conmon), pid = sleeper(-1, path);
        int r = sq_netns_open("container:5ca1ab1e", &ns, &e);
        char want[64];
        snprintf(want, sizeof want, "/proc/%d/ns/net", (int)pid);
        end(pid);
        end(monitor);
        rmdir(path);
        rmdir(conmon);
        assert_int_equal(r, 0);
        assert_string_equal(ns.path, want);
        assert_string_equal(ns.name, "container 5ca1ab1e0123");
        sq_netns_close(&ns);
        assert_int_equal(sq_netns_open("container:5ca1ab1e", &ns, &e), -ENOENT);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *spec;
        int r;
    } wrong[] = {
        {"sqt-no-such", -ENOENT},
        {"", -EINVAL},
        {"pid:0", -EINVAL},
        {"pid:-1", -EINVAL},
        {"pid: 1", -EINVAL},
        {"pid:1x", -EINVAL},
        {"pid:4194305", -ENOENT},
        {"pid:99999999999", -EINVAL},
        {"container:", -EINVAL},
        {"container:abc", -EINVAL},
        {"container:xyzxyzxyz", -EINVAL},
        {"container:../../../etc", -EINVAL},
        {"container:0123456789abcdef", -ENOENT},
        {"..", -EINVAL},
        {"/no/such", -ENOENT},
        {"/etc/passwd", -EINVAL},
        {"/proc/self/ns/uts", -EINVAL},
        {"/dev/zero", -EINVAL},
    };

    (void)state;
    need_root();
    for (size_t i = 0; i < SQ_COUNT(wrong); i++) {
        struct sq_err e = {0};
        struct sq_netns ns;
        int r = sq_netns_open(wrong[i].spec, &ns, &e);

        if (r != wrong[i].r)
            print_error("%s: %d %s\n", wrong[i].spec, r, e.msg);
        assert_int_equal(r, wrong[i].r);
        assert_true(e.msg[0]);
        assert_int_equal(ns.fd, -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own),           cmocka_unit_test(test_pid),       cmocka_unit_test(test_cookie),
        cmocka_unit_test(test_name_and_path), cmocka_unit_test(test_container), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
