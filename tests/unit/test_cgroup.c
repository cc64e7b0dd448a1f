/* cgroup2 directories, on the real cgroup2 of this host; skipped where we may not make any. */
#include "squall/cleanup.h"
#include "svc_harness.h"

static char cg[SQ_CGROUP_MAX];

static int make(void **state)
{
    (void)state;
    struct sq_err e = {0};
    char name[32];
    (void)snprintf(name, sizeof name, "unit%d", (int)getpid());
    if (sq_cgroup_root(cg, sizeof cg, &e) < 0) {
        cg[0] = '\0';
        return 0;
    }
    return sq_cgroup_make(name, "r1", "a.0", cg, sizeof cg, &e);
}

static int drop(void **state)
{
    (void)state;
    if (!cg[0])
        return 0;
    (void)sq_cgroup_kill(cg, NULL);
    for (int i = 0; i < 200 && !sq_cgroup_empty(cg); i++)
        usleep(5000);
    return sq_cgroup_remove(cg, NULL);
}

static void need(void)
{
    if (!cg[0])
        skip();
}

static void is_made_entered_and_removed(void **state)
{
    (void)state;
    need();
    struct sq_err e = {0};
    char again[SQ_CGROUP_MAX], name[32], now[512];
    (void)snprintf(name, sizeof name, "unit%d", (int)getpid());
    assert_int_equal(sq_cgroup_path(name, "r1", "a.0", again, sizeof again, &e), 0);
    assert_string_equal(again, cg);
    assert_int_equal(sq_cgroup_make(name, "r1", "a.0", again, sizeof again, &e), 0); /* there already: fine */
    assert_true(sq_cgroup_empty(cg));
    pid_t pid = svc_sleeper(0, "squall-cg");
    assert_false(sq_cgroup_has(cg, pid));
    assert_int_equal(sq_cgroup_enter(cg, pid, &e), 0);
    assert_true(sq_cgroup_has(cg, pid));
    assert_int_equal(sq_cgroup_of(pid, now, sizeof now, &e), 0);
    assert_string_equal(now, cg);
    assert_false(sq_cgroup_empty(cg));
    assert_int_equal(sq_cgroup_remove(cg, &e), -EBUSY); /* never with somebody in it */
    assert_true(svc_alive(pid));
    sq_err_clear(&e);

    /* Its sibling whose name only begins like it is another one. */
    char longer[SQ_CGROUP_MAX];
    (void)snprintf(longer, sizeof longer, "%.500s", cg);
    longer[strlen(longer) - 1] = '\0';
    assert_false(sq_cgroup_has(longer, pid));

    assert_int_equal(sq_cgroup_kill(cg, &e), 0);
    (void)waitpid(pid, NULL, 0);
    for (int i = 0; i < 200 && !sq_cgroup_empty(cg); i++)
        usleep(5000);
    char child[600];
    (void)snprintf(child, sizeof child, "%s/its-own", cg);
    assert_int_equal(mkdir(child, 0755), 0);
    assert_int_equal(sq_cgroup_remove(cg, &e), 0);
    assert_int_equal(access(cg, F_OK), -1);
    *strstr(cg, "/r1/") = '\0';
    assert_int_equal(access(cg, F_OK), -1); /* the injector's directory went with it */
    assert_int_equal(make(NULL), 0);
    assert_int_equal(sq_cgroup_remove(cg, &e), 0);
    assert_int_equal(sq_cgroup_remove(cg, &e), 0); /* absent is success */
    assert_true(sq_cgroup_empty(cg));
}

static int count(pid_t pid, void *arg)
{
    (void)pid;
    ++*(int *)arg;
    return 0;
}

static void freezes_and_thaws(void **state)
{
    (void)state;
    need();
    struct sq_err e = {0};
    bool on = true;
    pid_t pid = svc_sleeper(0, "squall-cg");
    char child[600];
    (void)snprintf(child, sizeof child, "%s/deep", cg);
    assert_int_equal(mkdir(child, 0755), 0);
    assert_int_equal(sq_cgroup_enter(child, pid, &e), 0);
    int n = 0;
    assert_int_equal(sq_cgroup_each(cg, count, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(sq_cgroup_frozen(cg, &on, &e), 0);
    assert_false(on);
    assert_int_equal(sq_cgroup_freeze(cg, true, &e), 0);
    assert_int_equal(sq_cgroup_frozen(cg, &on, &e), 0);
    assert_true(on);
    assert_int_equal(sq_cgroup_freeze(cg, false, &e), 0);
    assert_int_equal(sq_cgroup_frozen(cg, &on, &e), 0);
    assert_false(on);
    assert_true(svc_alive(pid));
    svc_reap(pid);

    pid = svc_sleeper(0, "squall-cg");
    assert_int_equal(sq_cgroup_enter(cg, pid, &e), 0);
    assert_int_equal(sq_cgroup_freeze(cg, true, &e), 0);
    assert_int_equal(sq_cgroup_kill(cg, &e), 0); /* frozen or not */
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void touches_only_its_own(void **state)
{
    (void)state;
    struct sq_err e = {0};
    char path[SQ_CGROUP_MAX];
    assert_int_equal(sq_cgroup_kill("/sys/fs/cgroup", &e), -EPERM);
    assert_int_equal(sq_cgroup_remove("/sys/fs/cgroup/unified", &e), -EPERM);
    assert_int_equal(sq_cgroup_remove("/sys/fs/cgroup/squall-x/../y", &e), -EPERM);
    assert_int_equal(sq_cgroup_kill("/sys/fs/cgroup/squall-", &e), -EPERM);
    sq_err_clear(&e);
    assert_int_equal(sq_cgroup_path("a/b", "r1", "x.0", path, sizeof path, &e), -EINVAL);
    assert_int_equal(sq_cgroup_path("a", "..", "x.0", path, sizeof path, &e), -EINVAL);
    assert_int_equal(sq_cgroup_path("a", "r1", "", path, sizeof path, &e), -EINVAL);
    assert_int_equal(e.cls, SQ_C_INPUT);
}

static void is_claimed_by_injectors_only(void **state)
{
    (void)state;
    struct sq_err e = {0};
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
    uint64_t h = 14695981039346656037u;
    char root[SQ_CGROUP_MAX], path[SQ_CGROUP_MAX + 16], name[32];
    (void)snprintf(name, sizeof name, "claim%d", (int)getpid());
    if (sq_cgroup_root(root, sizeof root, &e) < 0)
        skip();
    int fd = sq_cgroup_claim(name, &e);
    assert_true(fd >= 0);
    assert_int_equal(sq_cgroup_claim(name, &e), -EBUSY);
    (void)close(fd);
    /* Anybody may read-lock a file that he may read, but no injector does. */
    (void)snprintf(path, sizeof path, "%s/cgroup.procs", root);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (const char *p = name; *p; p++) /* its byte alone: others may be at work here */
        h = (h ^ (uint8_t)*p) * 1099511628211u;
    lock.l_start = (off_t)(h >> 2);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    int mine = sq_cgroup_claim(name, &e);
    assert_true(mine < 0 && mine != -EBUSY);
    (void)close(fd);
}

static void path_that_leads_elsewhere_is_refused(void **state)
{
    (void)state;
    static const char *const paths[] = {"..", "/..", "../x", "/../x", "/a/..", "/a/../b", ".", "/.", "/a/.", "/./a"};
    for (size_t i = 0; i < SQ_COUNT(paths); i++) {
        struct sq_err e = {0};
        char path[SQ_CGROUP_MAX];
        assert_int_equal(sq_cgroup_find(paths[i], path, sizeof path, &e), -EINVAL);
        assert_int_equal(e.cls, SQ_C_INPUT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(path_that_leads_elsewhere_is_refused),
        cmocka_unit_test_setup_teardown(is_made_entered_and_removed, make, drop),
        cmocka_unit_test_setup_teardown(freezes_and_thaws, make, drop),
        cmocka_unit_test(touches_only_its_own),
        cmocka_unit_test(is_claimed_by_injectors_only),
    };
    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
