/* `exec`, and the launch protocol seen from outside: tokens, owners, launchers that do not keep to it. */
#include "svc_harness.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "launch.h"

struct execd {
    pid_t pid;
    int out;
};

static struct execd run_exec(const json_t *answer, uid_t uid, const char *const *cmd)
{
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], 1);
        dup2(p[1], 2);
        if (uid && (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
            _exit(99);
        char *argv[16] = {"x",         "launch",
                          "--connect", (char *)(uintptr_t)sq_json_str_or(answer, "socket", ""),
                          "--token",   (char *)(uintptr_t)sq_json_str_or(answer, "token", ""),
                          "--"};
        for (int i = 0; cmd[i]; i++)
            argv[7 + i] = (char *)(uintptr_t)cmd[i];
        execv("/proc/self/exe", argv);
        _exit(98);
    }
    close(p[1]);
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    return (struct execd){pid, p[0]};
}

/* Wait for its end with the loop running; its output and exit status. */
static int exec_result(struct sq_engine *eng, struct execd x, char *out, size_t len)
{
    size_t used = 0;
    int status = -1;
    for (int i = 0; i < 5000; i++) {
        ssize_t n = read(x.out, out + used, len - 1 - used);
        if (n > 0)
            used += (size_t)n;
        out[used] = '\0';
        if (n == 0 && waitpid(x.pid, &status, WNOHANG) == x.pid)
            break;
        svc_spin(eng, SQ_MS);
    }
    close(x.out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void execs_under_interception(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct sq_peer me = svc_self();
    struct sq_err e = {0};
    json_t *answer = NULL, *def = json_pack("{s:s}", "name", "mine");
    char out[4096], cg[512], was[512];
    bool cgroups = sq_cgroup_root(cg, sizeof cg, NULL) == 0 && sq_cgroup_of(0, was, sizeof was, NULL) == 0;
    eng->seccomp = true;
    assert_int_equal(sq_service_exec(eng->services, &eng->run, &me, def, &answer, &e), 0);
    static const char *const cmd[] = {"bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/1; echo $SQUALL_INSTANCE; exit 5",
                                      NULL};
    struct execd x = run_exec(answer, 0, cmd);
    assert_int_equal(exec_result(eng, x, out, sizeof out), 5);
    assert_true(eng->trapped >= 1);
    assert_non_null(strstr(out, "r1/mine.0@"));
    assert_true(svc_wait_event(eng, "exited", SQ_S));

    x = run_exec(answer, 0, cmd); /* a token is good once */
    assert_int_equal(exec_result(eng, x, out, sizeof out), 126);
    assert_non_null(strstr(out, "does not know this token"));
    json_decref(answer);

    eng->seccomp = false;
    assert_int_equal(sq_service_exec(eng->services, &eng->run, &me, def, &answer, &e), 0);
    static const char *const nothing[] = {"/no/such/program", NULL};
    x = run_exec(answer, 0, nothing);
    assert_int_equal(exec_result(eng, x, out, sizeof out), 127);
    assert_non_null(strstr(out, "cannot execute /no/such/program: No such file"));
    json_decref(answer);

    /* At the run's end it lives on, out of our cgroup. */
    assert_int_equal(sq_service_exec(eng->services, &eng->run, &me, def, &answer, &e), 0);
    static const char *const stay[] = {"sleep", "300", NULL};
    json_array_clear(eng->events);
    x = run_exec(answer, 0, stay);
    assert_true(svc_wait_event(eng, "started", 2 * SQ_S));
    if (cgroups) {
        assert_int_equal(sq_cgroup_of(x.pid, cg, sizeof cg, NULL), 0);
        assert_non_null(strstr(cg, "/r1/mine."));
        json_t *undo = undo_record(eng);
        assert_string_equal(sq_json_str_or(undo, "home", ""), was);
        json_decref(undo);
    }
    svc_stop(eng, NULL, 0, true);
    assert_true(svc_alive(x.pid));
    assert_non_null(svc_event_of(eng, "left"));
    if (cgroups) {
        char now[512];
        assert_int_equal(access(cg, F_OK), -1);
        assert_int_equal(sq_cgroup_of(x.pid, now, sizeof now, NULL), 0);
        assert_string_equal(now, was);
    }
    svc_reap(x.pid);
    close(x.out);
    json_decref(answer);
    json_decref(def);
    svc_engine_free(eng);
}

static void exec_belongs_to_the_owner(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct sq_engine *eng = svc_engine();
    struct sq_peer other = {.uid = 12345, .gid = 12345, .pid = getpid()};
    struct sq_err e = {0};
    json_t *answer = NULL;
    char out[4096];
    assert_int_equal(sq_service_exec(eng->services, &eng->run, &other, NULL, &answer, &e), 0);
    (void)chmod(sq_json_str_or(answer, "socket", ""), 0666); /* as if it were in the group */
    static const char *const cmd[] = {"id", NULL};
    struct execd x = run_exec(answer, NOBODY, cmd);
    assert_int_equal(exec_result(eng, x, out, sizeof out), 126);
    assert_non_null(strstr(out, "belongs to uid 12345"));
    json_decref(answer);

    struct sq_peer nobody = {.uid = NOBODY, .gid = NOBODY, .pid = getpid()};
    assert_int_equal(sq_service_exec(eng->services, &eng->run, &nobody, NULL, &answer, &e), 0);
    x = run_exec(answer, NOBODY, cmd);
    assert_int_equal(exec_result(eng, x, out, sizeof out), 0);
    assert_non_null(strstr(out, "uid=65534"));
    json_decref(answer);
    svc_engine_free(eng);
}

/* Who reports at launch.sock may be any program of the run's owner. It gets no "go" that it has not earned. */
static void a_rogue_launcher_gets_nowhere(void **state)
{
    (void)state;
    struct sq_engine *eng = svc_engine();
    struct sq_peer me = svc_self();
    struct sq_err e = {0};
    static const char *const says[] = {"L", "R", "L", "G", "E", "E999999999999999999 \x1b[31m", "X", ""};
    for (size_t i = 0; i < sizeof says / sizeof *says; i++) {
        json_t *answer = NULL;
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        eng->seccomp = true;
        assert_int_equal(sq_service_exec(eng->services, &eng->run, &me, NULL, &answer, &e), 0);
        (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", sq_json_str_or(answer, "socket", ""));
        pid_t pid = fork(); /* it is moved into a cgroup: not us */
        if (pid == 0) {
            char hello[64], got[64] = "";
            int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
            int n = snprintf(hello, sizeof hello, "T%s", sq_json_str_or(answer, "token", ""));
            if (connect(s, (struct sockaddr *)&a, sizeof a) < 0 || send(s, hello, (size_t)n, 0) != n ||
                recv(s, got, sizeof got, 0) <= 0 || got[0] != 'M')
                _exit(2);
            (void)sq_packet_send(s, says[i], strlen(says[i]), i == 0 ? 0 : -1); /* a descriptor, but no listener */
            if (!says[i][0])
                _exit(0); /* it just goes away */
            got[0] = '\0';
            _exit(recv(s, got, sizeof got, 0) == 0 ? 0 : 3);
        }
        int status = -1;
        for (int k = 0; k < 3000 && waitpid(pid, &status, WNOHANG) == 0; k++)
            svc_spin(eng, SQ_MS);
        if (status != 0)
            fail_msg("\"%s\": status %x", says[i], (unsigned)status);
        assert_null(svc_event_of(eng, "started"));
        for (int k = 0; k < 3000 && sq_journal_held(eng->journal); k++)
            svc_spin(eng, SQ_MS);
        assert_int_equal(sq_journal_held(eng->journal), 0);
        json_decref(answer);
    }
    svc_engine_free(eng);
}

/* The injector dies between the order and "go": the command must not run. */
static void nothing_runs_without_an_injector(void **state)
{
    (void)state;
    int sv[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    fresh_file();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(sv[1], 3);
        char *argv[] = {"x", "launch", NULL};
        execv("/proc/self/exe", argv);
        _exit(98);
    }
    close(sv[1]);
    char text[256];
    int fd = memfd_create("order", MFD_CLOEXEC),
        n = snprintf(text, sizeof text, "{\"argv\":[\"sh\",\"-c\",\"echo ran > %s\"],\"env\":[]}", file);
    assert_int_equal(write(fd, text, (size_t)n), n);
    char head[32];
    int h = snprintf(head, sizeof head, "M%d,0", n);
    struct iovec iov = {head, (size_t)h};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    assert_int_equal(sendmsg(sv[0], &m, 0), h);
    char ready[8];
    assert_int_equal(recv(sv[0], ready, sizeof ready, 0), 1);
    assert_int_equal(ready[0], 'R');
    close(sv[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 126);
    assert_string_equal(slurp(file), "");
    (void)unlink(file);
    close(fd);
}

static const struct CMUnitTest common[] = {
    cmocka_unit_test(execs_under_interception),
    cmocka_unit_test(exec_belongs_to_the_owner),
    cmocka_unit_test(a_rogue_launcher_gets_nowhere),
    cmocka_unit_test(nothing_runs_without_an_injector),
};

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "launch") == 0)
        return sq_launch_main(argc - 1, argv + 1);
    int r = cmocka_run_group_tests_name("exec", common, NULL, NULL);
    return r + svc_group_as_nobody("exec, as nobody", common, sizeof common / sizeof *common);
}
