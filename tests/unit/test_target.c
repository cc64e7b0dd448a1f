/* Which processes a target names: real processes under names that only this test uses. */
#include "svc_harness.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "target.h"

static struct sq_engine *eng;

static struct sq_fault fault(const char *target, uint64_t seed)
{
    struct sq_fault f = {.engine = eng, .run = eng ? &eng->run : NULL, .peer = svc_self()};
    f.target = json_loads(target, 0, NULL);
    assert_non_null(f.target);
    sq_rng_seed(&f.rng, seed);
    return f;
}

static void done(struct sq_fault *f)
{
    json_decref(f->target);
    json_decref(f->hit);
}

static int refused(const char *target, enum sq_class cls, const char *says)
{
    struct sq_fault f = fault(target, 1);
    struct sq_victim *v = NULL;
    struct sq_err e = {0};
    size_t n = 0;
    int r = sq_target_resolve(&f, &v, &n, &e);
    if (r == 0 || e.cls != cls || !strstr(e.msg, says))
        fail_msg("%s: %d class %d \"%s\", not \"%s\"", target, r, (int)e.cls, e.msg, says);
    assert_null(v);
    done(&f);
    return r;
}

static void names_exactly_one_way(void **state)
{
    (void)state;
    (void)refused("{}", SQ_C_INPUT, "names no process");
    (void)refused("{\"pid\":4,\"port\":5}", SQ_C_INPUT, "in 2 ways");
    (void)refused("{\"pid\":4,\"instance\":0}", SQ_C_INPUT, "\"instance\"");
    (void)refused("{\"pid\":0}", SQ_C_INPUT, "not a process id");
    (void)refused("{\"pid\":1}", SQ_C_INPUT, "init process");
    (void)refused("{\"pid\":99999999}", SQ_C_NOTFOUND, "no process 99999999");
    (void)refused("{\"port\":0}", SQ_C_INPUT, "not a port");
    (void)refused("{\"pattern\":\"\"}", SQ_C_INPUT, "1 to");
    (void)refused("{\"pattern\":\"a(b\"}", SQ_C_INPUT, "not a regular expression");
    (void)refused("{\"pattern\":\"(a)\\\\1\"}", SQ_C_INPUT, "not a regular expression");
    (void)refused("{\"pattern\":\"((a{255}){255}){255}\"}", SQ_C_INPUT, "too large");
    (void)refused("{\"pattern\":\"no process says this: [x]yz[z]y\"}", SQ_C_NOTFOUND, "no process's command line");
    (void)refused("{\"pattern\":\"sleep\",\"count\":\"0\"}", SQ_C_INPUT, "");
    char own[64];
    (void)snprintf(own, sizeof own, "{\"pid\":%d}", (int)getpid());
    (void)refused(own, SQ_C_INPUT, "Squall itself");
}

static void a_pid_is_that_process(void **state)
{
    (void)state;
    pid_t pid = svc_sleeper(0, "squall-target-pid");
    char t[64];
    (void)snprintf(t, sizeof t, "{\"pid\":%d}", (int)pid);
    struct sq_fault f = fault(t, 1);
    struct sq_victim *v = NULL;
    struct sq_err e = {0};
    size_t n = 0;
    assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].pid, pid);
    assert_true(v[0].pidfd >= 0);
    const json_t *hit = json_array_get(f.hit, 0);
    assert_true(sq_json_bool_or(hit, "chosen", false));
    assert_string_equal(sq_json_str_or(hit, "cmd", ""), "squall-target-pid 300");
    assert_int_equal((uint64_t)sq_json_int_or(hit, "start", 0), v[0].start);
    sq_victims_free(v, n);
    done(&f);
    svc_reap(pid);
    (void)refused(t, SQ_C_NOTFOUND, "no process");
}

/* An ended process that nobody has waited for yet is nobody's target. */
static void a_zombie_is_not_there(void **state)
{
    (void)state;
    pid_t pid = svc_sleeper(0, "squall-target-zombie");
    char t[64];
    (void)snprintf(t, sizeof t, "{\"pid\":%d}", (int)pid);
    kill(pid, SIGKILL);
    siginfo_t si;
    waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT);
    (void)refused(t, SQ_C_NOTFOUND, "no process");
    svc_reap(pid);
}

static void the_seed_chooses(void **state)
{
    (void)state;
    enum { N = 10 };
    pid_t pid[N];
    for (int i = 0; i < N; i++)
        pid[i] = svc_sleeper(0, "squall-target-many");
    bool differs = false;
    pid_t first[3] = {0};
    for (uint64_t seed = 1; seed <= 8; seed++) {
        pid_t got[2][3];
        for (int again = 0; again < 2; again++) {
            struct sq_fault f = fault("{\"pattern\":\"^squall-target-many 300$\",\"count\":\"30%\"}", seed);
            struct sq_victim *v = NULL;
            struct sq_err e = {0};
            size_t n = 0, chosen = 0;
            if (sq_target_resolve(&f, &v, &n, &e) < 0)
                fail_msg("%s", e.msg);
            assert_int_equal(n, 3);
            for (size_t i = 0; i < n; i++)
                got[again][i] = v[i].pid;
            assert_int_equal(json_array_size(f.hit), N); /* all matches are on record */
            for (size_t i = 0; i < N; i++)
                chosen += sq_json_bool_or(json_array_get(f.hit, i), "chosen", false);
            assert_int_equal(chosen, 3);
            sq_victims_free(v, n);
            done(&f);
        }
        assert_memory_equal(got[0], got[1], sizeof got[0]); /* the same seed, the same choice */
        if (seed == 1)
            memcpy(first, got[0], sizeof first);
        differs |= memcmp(first, got[0], sizeof first) != 0;
    }
    assert_true(differs);

    static const struct {
        const char *count;
        size_t n;
    } counts[] = {{"\"all\"", N}, {"\"1\"", 1}, {"4", 4}, {"\"99\"", N}};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        char t[128];
        (void)snprintf(t, sizeof t, "{\"pattern\":\"^squall-target-many\",\"count\":%s}", counts[k].count);
        struct sq_fault f = fault(t, 5);
        struct sq_victim *v = NULL;
        struct sq_err e = {0};
        size_t n = 0;
        assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
        assert_int_equal(n, counts[k].n);
        sq_victims_free(v, n);
        done(&f);
    }
    for (int i = 0; i < N; i++)
        svc_reap(pid[i]);
}

/* Our own command line holds the pattern, as that of a shell that runs `squall run` would. */
static void a_pattern_spares_the_asking_family(void **state)
{
    (void)state;
    pid_t pid = svc_sleeper(0, "squall-target-family");
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t parent = fork();
    if (parent == 0) {
        dup2(p[0], 0); /* the peer's shell: its command line matches, too */
        execl("/bin/sh", "sh", "-c", "read x; : squall-target-family", (char *)NULL);
        _exit(98);
    }
    usleep(100000);
    struct sq_fault f = fault("{\"pattern\":\"squall-target-family\",\"count\":\"all\"}", 1);
    struct sq_victim *v = NULL;
    struct sq_err e = {0};
    size_t n = 0;
    assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
    assert_int_equal(n, 2); /* a stranger's shell is fair game */
    sq_victims_free(v, n);
    f.peer.pid = parent;
    assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].pid, pid);
    sq_victims_free(v, n);
    done(&f);
    svc_reap(pid);
    svc_reap(parent);
    close(p[0]);
    close(p[1]);
}

static int listener(uint16_t *port)
{
    int s = socket(AF_INET, SOCK_STREAM, 0); /* inherited on purpose */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(s, 1), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &len), 0);
    *port = ntohs(a.sin_port);
    return s;
}

static void a_port_is_who_listens(void **state)
{
    (void)state;
    uint16_t port = 0;
    int s = listener(&port);
    pid_t pid = svc_sleeper(NOBODY, "squall-target-port"); /* holds it, too, and is not us */
    char t[64];
    (void)snprintf(t, sizeof t, "{\"port\":%d,\"count\":\"all\"}", (int)port);
    struct sq_fault f = fault(t, 1);
    struct sq_victim *v = NULL;
    struct sq_err e = {0};
    size_t n = 0;
    if (sq_target_resolve(&f, &v, &n, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(n, 1); /* we hold it as well, and are never a target */
    assert_int_equal(v[0].pid, pid);
    sq_victims_free(v, n);
    done(&f);
    svc_reap(pid);
    (void)refused(t, SQ_C_NOTFOUND, "only Squall itself listens");
    close(s);
    (void)refused(t, SQ_C_NOTFOUND, "nobody listens");
}

static void a_service_is_its_instances(void **state)
{
    (void)state;
    eng = svc_engine();
    struct svc_answer a = svc_start(eng, "{\"name\":\"pay\",\"command\":[\"sleep\",\"300\"],\"instances\":3}");
    struct sq_victim *v = NULL;
    struct sq_err e = {0};
    size_t n = 0;
    struct sq_fault f = fault("{\"service\":\"pay\",\"count\":\"all\"}", 1);
    assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(v[2].instance, "pay.2");
    char cg[512];
    assert_int_equal(v[2].cgroup[0] != '\0', sq_cgroup_root(cg, sizeof cg, NULL) == 0);
    sq_victims_free(v, n);
    done(&f);
    f = fault("{\"service\":\"pay\",\"instance\":1}", 1);
    assert_int_equal(sq_target_resolve(&f, &v, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].pid, svc_pid(&a, 1));
    assert_string_equal(sq_json_str_or(json_array_get(f.hit, 0), "instance", ""), "pay.1");
    sq_victims_free(v, n);
    done(&f);
    (void)refused("{\"service\":\"pay\",\"instance\":3}", SQ_C_NOTFOUND, "instance 3");
    (void)refused("{\"service\":\"other\"}", SQ_C_NOTFOUND, "no running instance");
    json_decref(a.json);
    svc_engine_free(eng);
    eng = NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "launch") == 0)
        return sq_launch_main(argc - 1, argv + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_exactly_one_way),
        cmocka_unit_test(a_pid_is_that_process),
        cmocka_unit_test(a_zombie_is_not_there),
        cmocka_unit_test(the_seed_chooses),
        cmocka_unit_test(a_pattern_spares_the_asking_family),
        cmocka_unit_test(a_port_is_who_listens),
        cmocka_unit_test(a_service_is_its_instances),
    };
    return cmocka_run_group_tests_name("target", tests, NULL, NULL) +
           svc_group_as_nobody("target, as nobody", tests, sizeof tests / sizeof *tests);
}
