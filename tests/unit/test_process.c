/* process/kill and process/pause on real processes, through the calls that the engine makes. */
#include "svc_harness.h"

#include "target.h"

extern const struct sq_fault_spec sq_spec_process_kill, sq_spec_process_pause;
extern const struct sq_fault_ops sq_ops_process_kill, sq_ops_process_pause;

static struct sq_engine *eng;

static struct sq_fault fault(const struct sq_fault_ops *ops, const char *target, const char *with)
{
    struct sq_fault f = {.ops = ops, .engine = eng, .run = eng ? &eng->run : NULL, .peer = svc_self()};
    f.target = json_loads(target, 0, NULL);
    f.with = json_loads(with, 0, NULL);
    assert_true(f.target && f.with);
    sq_rng_seed(&f.rng, 1);
    return f;
}

static json_t *begin(struct sq_fault *f, struct sq_err *e)
{
    json_t *records = json_array(), *seen = NULL;
    int r = f->ops->check(eng, e);
    r = r < 0 ? r : f->ops->resolve(f, e);
    r = r < 0 ? r : f->ops->undo(f, records, e);
    r = r < 0 ? r : f->ops->apply(f, e);
    r = r < 0 ? r : f->ops->readback(f, &seen, e);
    json_decref(seen);
    return records;
}

/* As the engine does, and as the keeper would. */
static void end(struct sq_fault *f, json_t *records, bool keeper)
{
    struct sq_err e = {0};
    size_t i;
    json_t *rec;
    for (int again = 0; again < 2; again++) /* idempotent */
        json_array_foreach(records, i, rec)
        {
            if (f->ops->revert(keeper ? NULL : eng, rec, &e) < 0 || f->ops->gone(keeper ? NULL : eng, rec, &e) < 0)
                fail_msg("%s", e.msg);
        }
    json_decref(records);
    f->ops->free(f);
    json_decref(f->target);
    json_decref(f->with);
    json_decref(f->hit);
}

static char state_of(pid_t pid)
{
    struct sq_proc p;
    return sq_proc_read(pid, &p, NULL) == 0 ? p.state : '?';
}

static const char *pid_target(pid_t pid)
{
    static char t[64];
    (void)snprintf(t, sizeof t, "{\"pid\":%d}", (int)pid);
    return t;
}

static void kill_kills(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = svc_sleeper(0, "squall-kill");
    struct sq_fault f = fault(&sq_ops_process_kill, pid_target(pid), "{\"signal\":9}");
    json_t *records = begin(&f, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    assert_int_equal(state_of(pid), 'Z'); /* gone, and we are the parent */
    end(&f, records, false);
    svc_reap(pid);
}

/* A process that does something else than end with a signal, so that the read-back has to tell. */
static pid_t handler(const char *trap)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], 1);
        execl("/bin/bash", "bash", "-c", trap, (char *)NULL);
        _exit(98);
    }
    char c;
    close(p[1]);
    (void)!read(p[0], &c, 1);
    close(p[0]);
    return pid;
}

static void a_caught_signal_was_delivered(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = handler("trap : USR1; echo; while :; do read -t 300 < <(:) ; sleep 0.01; done");
    struct sq_fault f = fault(&sq_ops_process_kill, pid_target(pid), "{\"signal\":10}");
    json_t *records = begin(&f, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    assert_true(svc_alive(pid));
    end(&f, records, false);
    svc_reap(pid);
}

static void an_ignored_signal_is_no_fault(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = handler("trap '' HUP; echo; exec sleep 300");
    struct sq_fault f = fault(&sq_ops_process_kill, pid_target(pid), "{\"signal\":1}");
    json_t *records = begin(&f, &e);
    assert_int_equal(e.code, -EBADE);
    assert_non_null(strstr(e.msg, "ignores"));
    assert_true(svc_alive(pid));
    end(&f, records, false);
    svc_reap(pid);
}

static void kill_does_not_stop(void **state)
{
    (void)state;
    static const int stops[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    pid_t pid = svc_sleeper(0, "squall-kill");
    for (size_t i = 0; i < 4; i++) {
        struct sq_err e = {0};
        char with[32];
        (void)snprintf(with, sizeof with, "{\"signal\":%d}", stops[i]);
        struct sq_fault f = fault(&sq_ops_process_kill, pid_target(pid), with);
        assert_int_equal(f.ops->resolve(&f, &e), -EINVAL);
        assert_non_null(strstr(e.hint, "process/pause"));
        end(&f, json_array(), false);
    }
    assert_true(svc_alive(pid) && state_of(pid) != 'T');
    svc_reap(pid);
}

/* Between the choice and the signal the process ends, and another may get its number: only the one that was meant. */
static void a_reused_pid_is_never_hit(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = svc_sleeper(0, "squall-kill");
    struct sq_fault f = fault(&sq_ops_process_kill, pid_target(pid), "{\"signal\":9}");
    json_t *records = json_array();
    assert_int_equal(f.ops->resolve(&f, &e), 0);
    assert_int_equal(f.ops->undo(&f, records, &e), 0);
    svc_reap(pid);
    assert_int_equal(f.ops->apply(&f, &e), -ESRCH);
    end(&f, records, false);

    /* The undo of a pause whose process is gone: whoever has the number now stays stopped. */
    pid = svc_sleeper(0, "squall-kill");
    kill(pid, SIGSTOP);
    struct sq_proc p;
    assert_int_equal(sq_proc_read(pid, &p, NULL), 0);
    json_t *rec = json_pack("{s:s,s:i,s:I,s:s,s:s}", "boot", sq_boot_id(), "pid", (int)pid, "start",
                            (json_int_t)p.start - 1, "was", "R", "method", "signal");
    sq_err_clear(&e);
    assert_int_equal(sq_ops_process_pause.revert(NULL, rec, &e), 0);
    assert_int_equal(sq_ops_process_pause.gone(NULL, rec, &e), 0);
    usleep(20000);
    assert_int_equal(state_of(pid), 'T');
    json_object_set_new(rec, "start", json_integer((json_int_t)p.start));
    json_object_set_new(rec, "boot", json_string("another"));
    assert_int_equal(sq_ops_process_pause.revert(NULL, rec, &e), 0);
    usleep(20000);
    assert_int_equal(state_of(pid), 'T');
    json_object_set_new(rec, "boot", json_string(sq_boot_id()));
    assert_int_equal(sq_ops_process_pause.gone(NULL, rec, &e), -EBUSY); /* unknown is never recovered */
    assert_int_equal(sq_ops_process_pause.revert(NULL, rec, &e), 0);
    assert_int_not_equal(state_of(pid), 'T');
    json_decref(rec);
    svc_reap(pid);
}

static void the_peers_rights_decide(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    static const struct sq_fault_ops *const kinds[] = {&sq_ops_process_pause, &sq_ops_process_kill};
    for (size_t k = 0; k < 2; k++) {
        struct sq_err e = {0};
        pid_t roots = svc_sleeper(0, "squall-of-root"), theirs = svc_sleeper(NOBODY, "squall-of-nobody");
        struct sq_fault f = fault(kinds[k], pid_target(roots), "{\"signal\":9}");
        f.peer = (struct sq_peer){.uid = NOBODY, .gid = NOBODY, .pid = getpid()};
        json_t *records = begin(&f, &e);
        assert_int_equal(e.code, -EPERM);
        assert_int_equal(e.cls, SQ_C_DENIED);
        assert_non_null(strstr(e.msg, "squall-of-root"));
        assert_true(svc_alive(roots) && state_of(roots) != 'T');
        if (k == 0) /* a record's undo would send SIGCONT with root's rights to what the peer may not touch */
            assert_int_equal(json_array_size(records), 0);
        end(&f, records, false);

        sq_err_clear(&e);
        f = fault(kinds[k], pid_target(theirs), "{\"signal\":9}");
        f.peer = (struct sq_peer){.uid = NOBODY, .gid = NOBODY, .pid = getpid()};
        records = begin(&f, &e);
        if (e.code)
            fail_msg("%s", e.msg);
        assert_int_equal(state_of(theirs), k ? 'Z' : 'T');
        end(&f, records, false);
        svc_reap(roots);
        svc_reap(theirs);
    }
}

static void pause_pauses(void **state)
{
    (void)state;
    for (int keeper = 0; keeper < 2; keeper++) {
        struct sq_err e = {0};
        pid_t pid = svc_sleeper(0, "squall-pause");
        struct sq_fault f = fault(&sq_ops_process_pause, pid_target(pid), "{}");
        json_t *records = begin(&f, &e);
        if (e.code)
            fail_msg("%s", e.msg);
        assert_int_equal(state_of(pid), 'T');
        assert_string_equal(sq_json_str_or(json_array_get(records, 0), "was", ""), "R");
        end(&f, records, keeper);
        assert_int_not_equal(state_of(pid), 'T');
        svc_reap(pid);
    }
}

static void what_was_stopped_stays_stopped(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = svc_sleeper(0, "squall-pause");
    kill(pid, SIGSTOP);
    for (int i = 0; i < 200 && state_of(pid) != 'T'; i++)
        usleep(5000);
    struct sq_fault f = fault(&sq_ops_process_pause, pid_target(pid), "{}");
    json_t *records = begin(&f, &e);
    assert_int_equal(e.code, 0);
    assert_string_equal(sq_json_str_or(json_array_get(records, 0), "was", ""), "T");
    end(&f, records, false);
    usleep(20000);
    assert_int_equal(state_of(pid), 'T');
    svc_reap(pid);
}

/* The other process of a service that is more than one: the last child of its shell. */
static pid_t child_of(pid_t parent)
{
    for (int i = 0; i < 2000; i++) {
        char path[64], text[64] = "";
        (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        if (n > 0 && atoi(text) > 0)
            return atoi(text);
        usleep(1000);
    }
    fail_msg("no child of %d", (int)parent);
    return 0;
}

/* By the freezer as root, by SIGSTOP to each of the tree without cgroups: either way the child stands still, too. */
static void a_service_is_paused_whole(void **state)
{
    (void)state;
    struct sq_err e = {0};
    char root[512], stat1[64];
    eng = svc_engine();
    bool freezer = sq_cgroup_root(root, sizeof root, NULL) == 0;
    struct svc_answer a =
        svc_start(eng, "{\"name\":\"w\",\"command\":[\"sh\",\"-c\",\"sh -c 'while :; do :; done' & echo; wait\"]}");
    pid_t child = child_of(svc_pid(&a, 0));
    struct sq_fault f = fault(&sq_ops_process_pause, "{\"service\":\"w\"}", "{\"method\":\"auto\"}");
    json_t *records = begin(&f, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    assert_string_equal(sq_json_str_or(json_array_get(records, 0), "method", ""), freezer ? "freezer" : "signal");
    json_t *l = sq_service_list(eng->services, "r1");
    assert_string_equal(sq_json_str_or(json_array_get(json_object_get(l, "instances"), 0), "state", ""), "stopped");
    json_decref(l);
    uint64_t ticks[2];
    for (int i = 0; i < 2; i++) { /* the busy child uses no more CPU */
        (void)snprintf(stat1, sizeof stat1, "/proc/%d/stat", (int)child);
        FILE *s = fopen(stat1, "re");
        unsigned long ut = 0;
        assert_non_null(s);
        assert_int_equal(fscanf(s, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &ut), 1);
        (void)fclose(s);
        ticks[i] = ut;
        if (!i)
            usleep(100000);
    }
    assert_int_equal(ticks[0], ticks[1]);
    end(&f, records, false);
    usleep(20000);
    assert_int_equal(state_of(child), 'R');

    f = fault(&sq_ops_process_pause, "{\"service\":\"w\"}", "{\"method\":\"signal\"}");
    records = begin(&f, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    assert_int_equal(state_of(svc_pid(&a, 0)), 'T');
    end(&f, records, true);

    if (freezer) { /* frozen by somebody else before: stays so */
        const char *cg = sq_json_str_or(json_array_get(json_object_get(a.json, "instances"), 0), "cgroup", "");
        bool on = false;
        assert_int_equal(sq_cgroup_freeze(cg, true, &e), 0);
        f = fault(&sq_ops_process_pause, "{\"service\":\"w\"}", "{\"method\":\"freezer\"}");
        records = begin(&f, &e);
        assert_int_equal(e.code, 0);
        end(&f, records, false);
        assert_int_equal(sq_cgroup_frozen(cg, &on, &e), 0);
        assert_true(on);
    }
    json_decref(a.json);
    svc_engine_free(eng);
    eng = NULL;
}

static void the_freezer_needs_a_cgroup(void **state)
{
    (void)state;
    struct sq_err e = {0};
    pid_t pid = svc_sleeper(0, "squall-pause");
    struct sq_fault f = fault(&sq_ops_process_pause, pid_target(pid), "{\"method\":\"freezer\"}");
    assert_int_equal(f.ops->resolve(&f, &e), -ENOTSUP);
    assert_int_equal(e.cls, SQ_C_UNSUPPORTED);
    end(&f, json_array(), false);
    assert_true(svc_alive(pid) && state_of(pid) != 'T');
    svc_reap(pid);
}

static void a_killed_instance_comes_back(void **state)
{
    (void)state;
    struct sq_err e = {0};
    eng = svc_engine();
    struct svc_answer a =
        svc_start(eng, "{\"name\":\"k\",\"restart\":\"after_fault\",\"command\":[\"sleep\",\"300\"],\"instances\":2}");
    struct sq_fault f = fault(&sq_ops_process_kill, "{\"service\":\"k\",\"instance\":1}", "{\"signal\":9}");
    sq_service_fault(eng->services, "r1", "k.1", true); /* as the engine does around apply and revert */
    json_t *records = begin(&f, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    assert_int_equal(json_array_size(records), 1);
    assert_true(svc_wait_event(eng, "exited", SQ_S));
    svc_spin(eng, 300 * SQ_MS);
    assert_null(svc_event_of(eng, "restarted"));
    end(&f, records, false);
    sq_service_fault(eng->services, "r1", "k.1", false);
    assert_true(svc_wait_event(eng, "restarted", 2 * SQ_S));
    assert_string_equal(sq_json_str_or(svc_event_of(eng, "restarted"), "instance", ""), "k.1");
    assert_true(svc_alive(svc_pid(&a, 0)));
    json_decref(a.json);
    svc_engine_free(eng);
    eng = NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "launch") == 0)
        return sq_launch_main(argc - 1, argv + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kill_kills),
        cmocka_unit_test(a_caught_signal_was_delivered),
        cmocka_unit_test(an_ignored_signal_is_no_fault),
        cmocka_unit_test(kill_does_not_stop),
        cmocka_unit_test(a_reused_pid_is_never_hit),
        cmocka_unit_test(the_peers_rights_decide),
        cmocka_unit_test(pause_pauses),
        cmocka_unit_test(what_was_stopped_stays_stopped),
        cmocka_unit_test(a_service_is_paused_whole),
        cmocka_unit_test(the_freezer_needs_a_cgroup),
        cmocka_unit_test(a_killed_instance_comes_back),
    };
    return cmocka_run_group_tests_name("process faults", tests, NULL, NULL) +
           svc_group_as_nobody("process faults, as nobody", tests, sizeof tests / sizeof *tests);
}
