/* Services: launched, restarted and ended, with real processes. As root the first half runs with cgroups; the rest runs
 * as nobody, without. */
#include "svc_harness.h"

#include <arpa/inet.h>
#include <sys/resource.h>

/* The pid that a service wrote into the file. */
static pid_t pid_in_file(struct sq_engine *eng)
{
    for (int i = 0; i < 10000; i++) {
        int pid = atoi(slurp(file));
        if (pid > 0 && strchr(slurp(file), '\n'))
            return pid;
        svc_spin(eng, SQ_MS);
    }
    fail_msg("the service did not write its pid");
    return 0;
}

static void wait_for_output(struct sq_engine *eng, const char *instance, off_t bytes)
{
    char log[256];
    struct stat st = {0};
    (void)snprintf(log, sizeof log, "%s/logs/r1.%s.log", eng->dir, instance);
    for (int i = 0; i < 5000 && (stat(log, &st) < 0 || st.st_size < bytes); i++)
        svc_spin(eng, SQ_MS);
    assert_true(st.st_size >= bytes);
}

static void starts_and_stops(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct svc_answer a = svc_start(
        eng,
        "{\"name\":\"pay\",\"command\":[\"sh\",\"-c\",\"echo i ${instance} port ${port} $A ${x}; exec sleep 300\"],"
        "\"instances\":2,\"port\":7000,\"env\":{\"A\":\"a${instance}\"}}");
    const json_t *list = json_object_get(a.json, "instances");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(sq_json_str_or(json_array_get(list, 1), "name", ""), "pay.1");
    assert_true(svc_alive(svc_pid(&a, 0)) && svc_alive(svc_pid(&a, 1)));
    char mark[64], cg[512], log[256];
    (void)snprintf(mark, sizeof mark, "r1/pay.1@%s", strrchr(eng->dir, '/') + 1);
    bool marked = false; /* for a moment of its second exec it has no environment */
    for (int i = 0; i < 1000 && !marked; i++) {
        marked = sq_proc_has_env(svc_pid(&a, 1), "SQUALL_INSTANCE", mark);
        svc_spin(eng, SQ_MS);
    }
    assert_true(marked);
    struct sq_proc p;
    assert_int_equal(sq_proc_read(svc_pid(&a, 1), &p, NULL), 0);
    assert_int_equal(p.sid, p.pid);
    const char *cgroup = sq_json_str_or(json_array_get(list, 1), "cgroup", "");
    if (sq_cgroup_root(cg, sizeof cg, NULL) == 0)
        assert_true(sq_cgroup_has(cgroup, svc_pid(&a, 1)));
    else
        assert_string_equal(cgroup, "");
    assert_int_equal(sq_journal_held(eng->journal), 2);
    json_t *undo = undo_record(eng);
    assert_int_equal(sq_json_int_or(undo, "pid", 0), svc_pid(&a, 1));
    assert_int_equal((uint64_t)sq_json_int_or(undo, "start", 0), p.start);
    assert_string_equal(sq_json_str_or(undo, "mark", ""), mark);
    json_decref(undo);
    (void)snprintf(log, sizeof log, "%s/logs/r1.pay.1.log", eng->dir);
    for (int i = 0; i < 1000 && !strchr(slurp(log), '\n'); i++)
        svc_spin(eng, 2 * SQ_MS);
    assert_string_equal(slurp(log), "i 1 port 7001 a1\n"); /* ${x} was the shell's, not ours */
    json_t *l = sq_service_list(eng->services, "r1");
    assert_string_equal(sq_json_str_or(json_array_get(json_object_get(l, "instances"), 0), "state", ""), "running");
    json_decref(l);

    struct sq_peer me = svc_self();
    struct svc_answer again = svc_start_as(eng, &me, "{\"name\":\"pay\",\"command\":[\"true\"]}");
    assert_int_equal(again.err.code, -EEXIST);
    assert_true(svc_alive(svc_pid(&a, 0))); /* the refused one took nothing down */

    svc_stop(eng, "pay", 3 * SQ_S, true);
    assert_false(svc_alive(svc_pid(&a, 0)) || svc_alive(svc_pid(&a, 1)));
    assert_int_equal(sq_json_int_or(svc_event_of(eng, "exited"), "signal", 0), SIGTERM);
    assert_non_null(svc_event_of(eng, "stopped"));
    if (*cgroup)
        assert_int_equal(access(cgroup, F_OK), -1);
    assert_int_equal(eng->disarmed, 2);
    json_decref(a.json);
    svc_engine_free(eng);
}

static void says_why_it_cannot_execute(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct sq_peer me = svc_self();
    struct svc_answer a = svc_start_as(eng, &me, "{\"name\":\"x\",\"command\":[\"/no/such/program\"],\"instances\":3}");
    assert_null(a.json);
    assert_int_equal(a.err.code, -ENOENT);
    assert_int_equal(a.err.cls, SQ_C_INPUT);
    assert_non_null(strstr(a.err.msg, "cannot execute /no/such/program: No such file or directory"));
    assert_true(a.err.hint[0] != '\0');
    assert_int_equal(sq_journal_held(eng->journal), 0);
    a = svc_start_as(eng, &me, "{\"name\":\"x\",\"command\":[\"/etc\"]}");
    assert_int_equal(a.err.code, -EACCES);
    a = svc_start_as(eng, &me, "{\"name\":\"x\",\"command\":[\"true\"],\"cwd\":\"/no/such\"}");
    assert_non_null(strstr(a.err.msg, "cannot change to the directory /no/such"));
    svc_engine_free(eng);
}

static void refuses_malformed(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct sq_peer me = svc_self();
    static const char *const bad[] = {
        "[]",
        "{\"command\":[\"true\"]}",
        "{\"name\":\"a/b\",\"command\":[\"true\"]}",
        "{\"name\":\"..\",\"command\":[\"true\"]}",
        "{\"name\":\"a\",\"command\":[]}",
        "{\"name\":\"a\",\"command\":[1]}",
        "{\"name\":\"a\",\"command\":[\"\"]}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"instances\":0}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"instances\":65}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"instances\":2,\"port\":65535}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"cwd\":\"relative\"}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"env\":{\"A=B\":\"x\"}}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"restart\":\"sometimes\"}",
        "{\"name\":\"a\",\"command\":[\"true\"],\"instances_\":1}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct svc_answer a = svc_start_as(eng, &me, bad[i]);
        assert_null(a.json);
        if (a.err.cls != SQ_C_INPUT)
            fail_msg("%s: %s", bad[i], a.err.msg);
    }
    assert_int_equal(json_array_size(eng->events), 0);
    svc_engine_free(eng);
}

static void ends_at_once(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    for (int i = 0; i < 20; i++) { /* the exit may be seen before or after the end of the launch */
        struct svc_answer a =
            svc_start(eng, "{\"name\":\"x\",\"command\":[\"sh\",\"-c\",\"echo last words; exit 7\"]}");
        assert_true(svc_wait_event(eng, "exited", 2 * SQ_S));
        assert_int_equal(sq_json_int_or(svc_event_of(eng, "exited"), "exit", 0), 7);
        assert_string_equal(sq_json_str_or(svc_event_of(eng, "exited"), "tail", ""), "last words");
        json_array_clear(eng->events);
        svc_stop(eng, "x", 0, true);
        json_decref(a.json);
    }
    svc_engine_free(eng);
}

/* A grandchild in a session of its own whose parent has ended, and a first process that ignores SIGTERM. */
static void ends_the_whole_tree(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    fresh_file();
    char def[512];
    (void)snprintf(def, sizeof def,
                   "{\"name\":\"t\",\"command\":[\"sh\",\"-c\",\"trap '' TERM; setsid sh -c 'sleep 300 & echo $! > "
                   "%s'; while :; do "
                   "sleep 1; done\"]}",
                   file);
    struct svc_answer a = svc_start(eng, def);
    pid_t grandchild = pid_in_file(eng);
    assert_true(svc_alive(grandchild));
    svc_stop(eng, NULL, 100 * SQ_MS, true);
    assert_false(svc_alive(svc_pid(&a, 0)));
    assert_false(svc_alive(grandchild));
    json_decref(a.json);
    (void)unlink(file);
    svc_engine_free(eng);
}

/* The first process ends, and what it left in its session, without our mark, goes before the next is started. */
static void restarts_with_a_clean_tree(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    fresh_file();
    char def[512];
    (void)snprintf(
        def, sizeof def,
        "{\"name\":\"t\",\"restart\":\"always\",\"command\":[\"sh\",\"-c\",\"env -i sleep 300 & echo $! > %s; wait\"]}",
        file);
    struct svc_answer a = svc_start(eng, def);
    pid_t child = pid_in_file(eng);
    assert_int_equal(truncate(file, 0), 0);
    kill(svc_pid(&a, 0), SIGKILL);
    assert_true(svc_wait_event(eng, "restarted", 3 * SQ_S));
    assert_false(svc_alive(child));
    pid_t second = (pid_t)sq_json_int_or(svc_event_of(eng, "restarted"), "pid", 0);
    assert_int_not_equal(second, svc_pid(&a, 0));
    assert_true(svc_alive(second));
    json_t *undo = undo_record(eng);
    assert_int_equal(sq_json_int_or(undo, "pid", 0), second);
    json_decref(undo);
    assert_int_equal(sq_journal_held(eng->journal), 1);
    json_decref(a.json);
    (void)unlink(file);
    svc_engine_free(eng);
    assert_false(svc_alive(second));
}

static void backs_off(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct svc_answer a = svc_start(eng, "{\"name\":\"t\",\"restart\":\"always\",\"command\":[\"false\"]}");
    svc_spin(eng, 1200 * SQ_MS); /* starts at 0, 100, 300, 700 ms and at 1.5 s */
    json_t *l = sq_service_list(eng->services, "r1");
    int64_t restarts = sq_json_int_or(json_array_get(json_object_get(l, "instances"), 0), "restarts", 0);
    assert_in_range(restarts, 1, 3);
    json_decref(l);
    json_decref(a.json);
    svc_engine_free(eng);
}

static void restarts_after_the_fault(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct svc_answer a =
        svc_start(eng, "{\"name\":\"t\",\"restart\":\"after_fault\",\"command\":[\"sleep\",\"300\"]}");
    sq_service_fault(eng->services, "r1", "t.0", true);
    kill(svc_pid(&a, 0), SIGKILL);
    assert_true(svc_wait_event(eng, "exited", 2 * SQ_S));
    svc_spin(eng, 400 * SQ_MS);
    assert_null(svc_event_of(eng, "restarted"));
    sq_service_fault(eng->services, "r1", "t.0", false);
    assert_true(svc_wait_event(eng, "restarted", 2 * SQ_S));
    pid_t second = (pid_t)sq_json_int_or(svc_event_of(eng, "restarted"), "pid", 0);

    /* A fault that is over before the loop sees the exit. */
    json_array_clear(eng->events);
    sq_service_fault(eng->services, "r1", "t.0", true);
    kill(second, SIGKILL);
    sq_service_fault(eng->services, "r1", "t.0", false);
    assert_true(svc_wait_event(eng, "restarted", 2 * SQ_S));
    json_decref(a.json);
    svc_engine_free(eng);
}

/* It ends without any fault: nobody restarts it. */
static void stays_down_without_a_fault(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct svc_answer a =
        svc_start(eng, "{\"name\":\"t\",\"restart\":\"after_fault\",\"command\":[\"sleep\",\"300\"]}");
    kill(svc_pid(&a, 0), SIGKILL);
    assert_true(svc_wait_event(eng, "exited", 2 * SQ_S));
    svc_spin(eng, 500 * SQ_MS);
    assert_null(svc_event_of(eng, "restarted"));
    json_decref(a.json);
    svc_engine_free(eng);
}

static void a_chatty_one_fills_nothing(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    char log[256];
    struct stat st;
    struct svc_answer a = svc_start(eng, "{\"name\":\"y\",\"command\":[\"yes\"]}");
    wait_for_output(eng, "y.0", 1024 * 1024);
    svc_spin(eng, 200 * SQ_MS);
    (void)snprintf(log, sizeof log, "%s/logs/r1.y.0.log", eng->dir);
    assert_int_equal(stat(log, &st), 0);
    assert_in_range(st.st_size, 1024 * 1024, 1024 * 1024 + 100);
    assert_true(svc_alive(svc_pid(&a, 0)));
    svc_stop(eng, NULL, SQ_S, true);
    json_decref(a.json);
    svc_engine_free(eng);
}

/* What the keeper and a sweep do: nothing but the record. */
static void is_taken_back_by_its_record(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    fresh_file();
    char def[512];
    (void)snprintf(
        def, sizeof def,
        "{\"name\":\"t\",\"command\":[\"sh\",\"-c\",\"setsid sh -c 'sleep 300 & echo $! > %s'; sleep 300\"]}", file);
    struct svc_answer a = svc_start(eng, def);
    pid_t grandchild = pid_in_file(eng);
    json_t *undo = undo_record(eng);
    struct sq_err e = {0};

    json_t *other = json_deep_copy(undo); /* another boot's: not ours to touch */
    json_object_set_new(other, "boot", json_string("00000000-0000-0000-0000-000000000000"));
    assert_int_equal(sq_service_revert(NULL, other, &e), 0);
    assert_true(svc_alive(grandchild));
    json_decref(other);

    assert_int_equal(sq_service_gone(NULL, undo, &e), -EBUSY);
    sq_err_clear(&e);
    /* We are the parent, and nobody reaps while the loop stands still: a zombie is gone, too. */
    if (sq_service_revert(NULL, undo, &e) < 0)
        fail_msg("%s", e.msg);
    assert_false(svc_alive(svc_pid(&a, 0)) || svc_alive(grandchild));
    if (sq_service_gone(NULL, undo, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(sq_service_revert(NULL, undo, &e), 0); /* once more is success */
    json_decref(undo);
    json_decref(a.json);
    (void)unlink(file);
    svc_engine_free(eng);
}

/* The number of an ended instance belongs to somebody else now: neither its pid nor its session is a reason to kill. */
static void a_reused_pid_is_left_alone(void **state)
{
    (void)state;
    pid_t pid = svc_sleeper(0, "squall-reuse");
    struct sq_proc p;
    struct sq_err e = {0};
    assert_int_equal(sq_proc_read(pid, &p, NULL), 0);
    json_t *undo = json_pack("{s:s,s:s,s:i,s:I,s:i,s:n}", "boot", sq_boot_id(), "mark", "r1/t.0@test-nobody-has-this",
                             "pid", (int)pid, "start", (json_int_t)p.start - 1, "sid", (int)pid, "cgroup");
    assert_int_equal(sq_service_revert(NULL, undo, &e), 0);
    assert_true(svc_alive(pid));
    json_object_set_new(undo, "start", json_integer((json_int_t)p.start));
    assert_int_equal(sq_service_revert(NULL, undo, &e), 0);
    assert_false(svc_alive(pid));
    json_decref(undo);
    svc_reap(pid);
}

static void calls_are_supervised_from_the_start(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    eng->seccomp = true;
    struct svc_answer a = svc_start(eng, "{\"name\":\"c\",\"command\":[\"bash\",\"-c\",\"exec 3<>/dev/tcp/127.0.0.1/1; "
                                         "grep -E 'Seccomp:' /proc/self/status\"]}");
    assert_true(svc_wait_event(eng, "exited", 3 * SQ_S));
    assert_true(eng->trapped >= 1);
    assert_non_null(strstr(sq_json_str_or(svc_event_of(eng, "exited"), "tail", ""), "Connection refused"));
    json_decref(a.json);
    svc_engine_free(eng);
}

/* ---- root only ---- */

static void drops_to_the_peer(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct sq_engine *eng = svc_engine();
    struct sq_peer nobody = {.uid = NOBODY, .gid = NOBODY, .pid = getpid()};
    struct rlimit was, few = {128, 20000};
    getrlimit(RLIMIT_NOFILE, &was);
    few.rlim_max = was.rlim_max;
    setrlimit(RLIMIT_NOFILE, &few); /* our own change after the start is not the service's */
    signal(SIGPIPE, SIG_IGN);
    int leak = dup2(2, 77); /* as if squalld had been started with it */
    int oom = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    assert_true(leak == 77 && oom >= 0);
    (void)!write(oom, "-500", 4); /* needs CAP_SYS_RESOURCE; then the service must come back to 0 */
    struct svc_answer a =
        svc_start_as(eng, &nobody,
                     "{\"name\":\"u\",\"command\":[\"sh\",\"-c\",\"id -ru; id -u; id -G; ulimit -n; grep -E "
                     "'CapEff|CapPrm|SigIgn|SigBlk|NoNewPrivs' /proc/self/status; cat /proc/self/oom_score_adj; echo "
                     "$HOME; ls /proc/self/fd; echo err > /dev/stderr\"]}");
    signal(SIGPIPE, SIG_DFL);
    close(leak);
    (void)!write(oom, "0", 1);
    close(oom);
    setrlimit(RLIMIT_NOFILE, &was);
    assert_int_equal(a.err.code, 0);
    assert_true(svc_wait_event(eng, "exited", 3 * SQ_S));
    char log[256], want[512];
    (void)snprintf(log, sizeof log, "%s/logs/r1.u.0.log", eng->dir);
    (void)snprintf(
        want, sizeof want,
        "65534\n65534\n65534\n%ld\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapPrm:\t0000000000000000\n"
        "CapEff:\t0000000000000000\nNoNewPrivs:\t0\n0\n/nonexistent\n0\n1\n2\n3\nerr\n",
        (long)was.rlim_cur);
    assert_string_equal(slurp(log), want);
    struct stat st;
    assert_int_equal(stat(log, &st), 0);
    assert_int_equal(st.st_uid, NOBODY);
    json_decref(a.json);

    eng->seccomp = true; /* a filter of an unprivileged peer's: no_new_privs, as the kernel asks of that peer itself */
    json_array_clear(eng->events);
    a = svc_start_as(eng, &nobody, "{\"name\":\"v\",\"command\":[\"grep\",\"NoNewPrivs\",\"/proc/self/status\"]}");
    assert_true(svc_wait_event(eng, "exited", 3 * SQ_S));
    assert_string_equal(sq_json_str_or(svc_event_of(eng, "exited"), "tail", ""), "NoNewPrivs:\t1");
    json_decref(a.json);
    svc_engine_free(eng);
}

static void thaws_before_it_ends(void **state)
{
    (void)state;
    char root[512];
    if (sq_cgroup_root(root, sizeof root, NULL) < 0)
        skip();
    struct sq_engine *eng = svc_engine();
    struct svc_answer a = svc_start(
        eng, "{\"name\":\"f\",\"command\":[\"sh\",\"-c\",\"trap 'exit 3' TERM; echo; while :; do sleep 0.05; done\"]}");
    const char *cg = sq_json_str_or(json_array_get(json_object_get(a.json, "instances"), 0), "cgroup", "");
    wait_for_output(eng, "f.0", 1); /* the trap is set */
    assert_int_equal(sq_cgroup_freeze(cg, true, NULL), 0);
    json_t *l = sq_service_list(eng->services, "r1");
    assert_string_equal(sq_json_str_or(json_array_get(json_object_get(l, "instances"), 0), "state", ""), "stopped");
    json_decref(l);
    svc_stop(eng, NULL, 3 * SQ_S, true);
    assert_int_equal(sq_json_int_or(svc_event_of(eng, "exited"), "exit", 0), 3); /* it could heed SIGTERM */
    json_decref(a.json);
    svc_engine_free(eng);
}

static const struct CMUnitTest common[] = {
    cmocka_unit_test(starts_and_stops),
    cmocka_unit_test(says_why_it_cannot_execute),
    cmocka_unit_test(refuses_malformed),
    cmocka_unit_test(ends_at_once),
    cmocka_unit_test(ends_the_whole_tree),
    cmocka_unit_test(restarts_with_a_clean_tree),
    cmocka_unit_test(backs_off),
    cmocka_unit_test(restarts_after_the_fault),
    cmocka_unit_test(stays_down_without_a_fault),
    cmocka_unit_test(a_chatty_one_fills_nothing),
    cmocka_unit_test(is_taken_back_by_its_record),
    cmocka_unit_test(a_reused_pid_is_left_alone),
    cmocka_unit_test(calls_are_supervised_from_the_start),
    cmocka_unit_test(drops_to_the_peer),
    cmocka_unit_test(thaws_before_it_ends),
};

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "launch") == 0)
        return sq_launch_main(argc - 1, argv + 1);
    int r = cmocka_run_group_tests_name("services", common, NULL, NULL);
    return r + svc_group_as_nobody("services, as nobody", common, sizeof common / sizeof *common);
}
