/* The keeper alone: squalld is played by a process of the test, which supervises an application under a seccomp filter
 * and is killed in the middle of a call. No call of the application may fail or hang. */
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "keeper.h"
#include "page.h"
#include "squall/clock.h"
#include "squall/units.h"

#define CALLS 300

struct stage {
    char dir[64], journal_path[80];
    struct sq_page *page;
    struct sq_beat_page *beats;
    int page_fd, beat_fd, pair[2];
    struct sq_journal *journal;
};

static int set_up(void **state)
{
    struct stage *s = calloc(1, sizeof(*s));
    void *page = NULL, *beats = NULL;
    snprintf(s->dir, sizeof(s->dir), "/tmp/squall-keeper-XXXXXX");
    if (!mkdtemp(s->dir) || sq_page_new(sizeof(struct sq_page), &page, &s->page_fd, NULL) ||
        sq_page_new(sizeof(struct sq_beat_page), &beats, &s->beat_fd, NULL) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->pair))
        return -1;
    s->page = page;
    s->beats = beats;
    snprintf(s->journal_path, sizeof(s->journal_path), "%s/journal", s->dir);
    *state = s;
    return sq_journal_open(s->journal_path, 4, &s->journal, NULL);
}

static int tear_down(void **state)
{
    struct stage *s = *state;
    sq_journal_close(s->journal);
    free(s);
    return 0;
}

/* ---- the application: trapped calls, each of which must be made ---- */

static int own_filter(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    if (!ctx || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sethostname), 0) || seccomp_load(ctx))
        return -1;
    return seccomp_notify_fd(ctx);
}

static void send_fd(int sock, const void *data, size_t len, int fd)
{
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ctl = {0};
    char copy[64];
    memcpy(copy, data, len);
    struct iovec iov = {copy, len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof(ctl.buf)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    if (sendmsg(sock, &h, 0) < 0)
        _exit(20);
}

static int receive_fd(int sock)
{
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ctl = {0};
    char byte;
    int fd = -1;
    struct iovec iov = {&byte, 1};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof(ctl.buf)};
    if (recvmsg(sock, &h, 0) <= 0 || !CMSG_FIRSTHDR(&h))
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(fd));
    return fd;
}

#define DONE 400   /* slots of beats->seen where the application tells: good calls, */
#define FAILED 401 /* the errno of the first bad one */

/* sethostname(NULL, -1) is EINVAL when the call is made (EPERM when not root); ENOSYS when its supervisor is gone. */
static void application(struct stage *s, int sock)
{
    int fd = own_filter();
    if (fd < 0)
        _exit(9);
    send_fd(sock, "x", 1, fd);
    (void)close(fd);
    (void)close(sock);
    for (int i = 0; i < CALLS; i++) {
        errno = 0;
        if (syscall(SYS_sethostname, NULL, -1L) == 0 || (errno != EINVAL && errno != EPERM)) {
            SQ_PUT(s->beats->seen[FAILED], (uint64_t)errno);
            _exit(1);
        }
        SQ_PUT(s->beats->seen[DONE], (uint64_t)i + 1);
        usleep(2000);
    }
    _exit(0);
}

/* ---- squalld: takes two notifications, answers one, and waits to be killed with the other in hand ---- */

static void supervise(struct stage *s, int listener, bool hang)
{
    for (int i = 0; i < 2; i++) {
        struct seccomp_notif req;
        struct seccomp_notif_resp resp = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        memset(&req, 0, sizeof(req));
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &req))
            _exit(21);
        SQ_PUT(s->beats->seen[3], req.id);
        resp.id = req.id;
        if (i == 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp))
            _exit(22);
    }
    while (!hang) { /* alive, and with a call in hand */
        SQ_PUT(s->page->squalld_beat, sq_mono_ns());
        usleep(50000);
    }
    for (;;)
        pause();
}

static void play_squalld(struct stage *s, int listener, bool hang)
{
    struct sq_keeper_msg m = {.key = 77, .slot = 3, .add = 1};
    send_fd(s->pair[1], &m, sizeof(m), listener);
    supervise(s, listener, hang);
}

/* ---- one scene: keeper -> squalld, keeper -> application ---- */

/* Its listener; 77 when there is no such thing here. */
static int start_app(struct stage *s, pid_t *app)
{
    int sp[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sp))
        _exit(10);
    *app = fork();
    if (*app == 0) {
        (void)close(sp[0]);
        application(s, sp[1]);
    }
    (void)close(sp[1]);
    int listener = receive_fd(sp[0]);
    (void)close(sp[0]);
    if (listener < 0)
        _exit(77);
    return listener;
}

/* What happens to squalld while the keeper runs: SIGKILL after 300 ms, or (hang) nothing: the keeper must notice. */
static void assassin(pid_t squalld)
{
    usleep(300000);
    (void)kill(squalld, SIGKILL);
    _exit(0);
}

static void scene(struct stage *s, bool hang, int result)
{
    sigset_t set;
    pid_t app = 0;
    sigfillset(&set);
    (void)alarm(20);
    int listener = start_app(s, &app);
    pid_t squalld = fork();
    if (squalld == 0)
        play_squalld(s, listener, hang);
    (void)close(listener);
    if (!hang && fork() == 0)
        assassin(squalld);
    sigdelset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    (void)close(s->pair[1]);
    struct sq_keeper_opts o = {.page = s->page,
                               .beats = s->beats,
                               .journal = s->journal,
                               .dir = s->dir,
                               .id = "p-test",
                               .sock = s->pair[0],
                               .lock_fd = dup(2),
                               .child = squalld};
    (void)!write(result, &app, sizeof(app));
    _exit(sq_keeper_run(&o));
}

static void killed_in_a_call(struct stage *s, bool hang)
{
    int st = 0, result[2];
    pid_t app = 0;
    assert_int_equal(pipe(result), 0);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    int64_t t0 = sq_mono_ns();
    pid_t keeper = fork();
    if (keeper == 0)
        scene(s, hang, result[1]);
    (void)close(result[1]);
    ssize_t n = read(result[0], &app, sizeof(app));
    (void)close(result[0]);
    assert_int_equal(waitpid(keeper, &st, 0), keeper);
    if (WIFEXITED(st) && WEXITSTATUS(st) == 77)
        skip(); /* no seccomp notification here */
    assert_int_equal(n, sizeof(app));
    assert_true(WIFEXITED(st));
    assert_int_equal(WEXITSTATUS(st), SQ_INFRA);
    assert_int_equal(s->beats->seen[FAILED], 0);
    assert_int_equal(s->beats->seen[DONE], CALLS);
    int64_t took = sq_mono_ns() - t0;
    /* 300 calls of 2 ms, and the one in hand: nobody waited for longer than the 2 s of a hang. */
    assert_true(took > 500 * SQ_MS);
    assert_true(took < (hang ? 8 : 4) * SQ_S);
    /* The keeper stayed until its last user let go of the filter; its zombie may be ours to reap. */
    for (int i = 0; i < 100 && kill(app, 0) == 0; i++) {
        (void)waitpid(app, NULL, WNOHANG);
        usleep(10000);
    }
    assert_int_equal(kill(app, 0), -1);
    assert_int_equal(access(s->dir, F_OK), -1);
}

static void killed(void **state)
{
    killed_in_a_call(*state, false);
}

static void hanging(void **state)
{
    killed_in_a_call(*state, true);
}

/* ---- another one answers, too ---- */

#define RACES 1000

/* Each call waits until the one who answers has gone round since: it would wait for ever if that one did. */
static void racing_application(struct stage *s, int sock)
{
    int fd = own_filter();
    if (fd < 0)
        _exit(9);
    send_fd(sock, "x", 1, fd);
    (void)close(fd);
    for (int i = 0; i < RACES; i++) {
        if (syscall(SYS_sethostname, NULL, -1L) == 0 || (errno != EINVAL && errno != EPERM))
            _exit(1);
        int64_t now = sq_mono_ns();
        while (SQ_GET(s->page->keeper_beat) <= now)
            usleep(100);
    }
    _exit(0);
}

/* As the proxy does (or a launcher that kept a copy of its listener). It may wait: it is killed in the end. */
static void rival(int listener)
{
    for (;;) {
        struct seccomp_notif req;
        memset(&req, 0, sizeof(req));
        struct seccomp_notif_resp resp = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &req) == 0) {
            resp.id = req.id;
            (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
        }
    }
}

static void answer_all(struct stage *s, int listener)
{
    struct sq_listeners *l = sq_listeners_new(s->beats);
    struct sq_keeper_msg m = {.key = 77, .slot = 3, .add = 1};
    send_fd(s->pair[1], &m, sizeof(m), listener);
    (void)close(listener);
    (void)sq_listeners_receive(l, s->pair[0]);
    while (sq_listeners_count(l) > 0) { /* until the application's end */
        struct pollfd pfd[2];
        unsigned n = sq_listeners_poll(l, pfd, 2, true);
        if (poll(pfd, n, 5) > 0)
            sq_listeners_serve(l, pfd, n, true);
        SQ_PUT(s->page->keeper_beat, sq_mono_ns());
    }
    sq_listeners_free(l);
    _exit(0);
}

/* Between "there is one" and taking it another may have taken it: nobody may wait for the next one then. */
static void a_rival_does_not_block(void **state)
{
    struct stage *s = *state;
    int sp[2], st = 0, gone = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sp), 0);
    pid_t app = fork();
    if (app == 0)
        racing_application(s, sp[1]);
    (void)close(sp[1]);
    int listener = receive_fd(sp[0]);
    (void)close(sp[0]);
    if (listener < 0) {
        (void)waitpid(app, NULL, 0);
        skip();
    }
    pid_t other = fork();
    if (other == 0)
        rival(listener);
    pid_t keeper = fork();
    if (keeper == 0)
        answer_all(s, listener);
    (void)close(listener);
    int64_t most = 0, end = sq_mono_ns() + 30 * SQ_S;
    SQ_PUT(s->page->keeper_beat, sq_mono_ns());
    while (gone == 0 && sq_mono_ns() < end && most < SQ_STALE_NS) {
        int64_t old = sq_mono_ns() - SQ_GET(s->page->keeper_beat);
        most = old > most ? old : most;
        usleep(10000);
        gone = waitpid(keeper, &st, WNOHANG);
    }
    (void)kill(keeper, SIGKILL);
    (void)kill(other, SIGKILL);
    (void)kill(app, SIGKILL);
    (void)waitpid(other, NULL, 0);
    (void)waitpid(app, NULL, 0);
    if (gone != keeper)
        (void)waitpid(keeper, &st, 0);
    assert_int_equal(gone, keeper);
    assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hanging, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_rival_does_not_block, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("keeper", tests, NULL, NULL);
}
