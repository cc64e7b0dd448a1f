/* Acting with the peer's rights. What needs root to be tested is skipped without. */
#include "svc_harness.h"

#include <pthread.h>

#include "runas.h"

struct seen {
    uid_t r, e, s;
    gid_t g;
    int groups, opened, killed, tid_is_other, hit;
    pid_t target;
};

/* May a process of nobody's send a signal to this thread? 0 if so. */
static int hit_by_the_peer(pid_t tid)
{
    pid_t self = getpid();
    pid_t child = geteuid() == 0 ? -1 : fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        if (syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0)
            _exit(99);
        _exit(syscall(SYS_tgkill, self, tid, 0) < 0 ? errno : 0);
    }
    int st = 0;
    (void)waitpid(child, &st, 0);
    return WEXITSTATUS(st);
}

static int look(void *arg)
{
    struct seen *v = arg;
    gid_t g[64];
    gid_t eg, sg;
    syscall(SYS_getresuid, &v->r, &v->e, &v->s);
    syscall(SYS_getresgid, &v->g, &eg, &sg);
    v->groups = (int)syscall(SYS_getgroups, 64, g);
    v->tid_is_other = (pid_t)syscall(SYS_gettid) != getpid();
    int fd = open("/etc/shadow", O_RDONLY | O_CLOEXEC);
    v->opened = fd >= 0 ? 0 : -errno;
    if (fd >= 0)
        close(fd);
    v->hit = hit_by_the_peer((pid_t)syscall(SYS_gettid));
    v->killed = v->target ? (kill(v->target, 0) < 0 ? -errno : 0) : 0;
    return 42;
}

static void is_the_peer_and_only_there(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct sq_err e = {0};
    pid_t roots = svc_sleeper(0, "squall-root"), theirs = svc_sleeper(NOBODY, "squall-nobody");
    struct sq_peer nobody = {.uid = NOBODY, .gid = NOBODY, .pid = getpid()};
    struct seen v = {.target = roots};
    assert_int_equal(sq_run_as(&nobody, look, &v, &e), 42);
    assert_true(v.e == NOBODY && v.r != 0 && v.s == v.r && v.g == NOBODY);
    assert_int_equal(v.hit, EPERM); /* the peer may act through us, not upon us */
    assert_int_equal(v.groups, 1);
    assert_true(v.tid_is_other);
    assert_int_equal(v.opened, -EACCES); /* no capability is left that would open it */
    assert_int_equal(v.killed, -EPERM);
    v.target = theirs;
    assert_int_equal(sq_run_as(&nobody, look, &v, &e), 42);
    assert_int_equal(v.killed, 0);
    /* We are still root, and not to be traced by nobody. */
    assert_int_equal(geteuid(), 0);
    v.target = roots;
    assert_int_equal(look(&v), 42);
    assert_int_equal(v.opened, 0);
    assert_int_equal(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    svc_reap(roots);
    svc_reap(theirs);
}

static void root_stays_root(void **state)
{
    (void)state;
    struct sq_peer root = {.uid = 0, .gid = 0, .pid = getpid()};
    struct sq_err e = {0};
    struct seen v = {0};
    assert_int_equal(sq_run_as(&root, look, &v, &e), 42);
    assert_int_equal(v.e, geteuid());
    assert_false(v.tid_is_other);
}

static void groups_are_those_of_the_passwd_entry(void **state)
{
    (void)state;
    gid_t g[SQ_GROUPS_MAX];
    struct sq_peer unknown = {.uid = 54321, .gid = 777, .pid = 1};
    assert_int_equal(sq_peer_groups(&unknown, g), 1);
    assert_int_equal(g[0], 777);
    struct sq_peer root = {.uid = 0, .gid = 0, .pid = 1};
    assert_true(sq_peer_groups(&root, g) >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(root_stays_root),
        cmocka_unit_test(is_the_peer_and_only_there),
        cmocka_unit_test(groups_are_those_of_the_passwd_entry),
    };
    return cmocka_run_group_tests_name("runas", tests, NULL, NULL);
}
