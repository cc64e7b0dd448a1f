/* What an intercepted connect(2) costs the application, against a plain one: p50 and p99 of blocking connects over
 * loopback, each way in turn, three rounds interleaved, the best round of each. The injector's real parts and its real
 * proxy. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "cgroup.h"
#include "intercept/intercept.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/hist.h"
#include "squall/proc.h"

#define CONNECTS 4000
#define ROUNDS 3

enum way { PLAIN, BPF_MISS, BPF, SECCOMP, SECCOMP_MISS, WAYS };
static const char *const names[WAYS] = {"plain", "cgroup-BPF, no edge's call", "cgroup-BPF, to the proxy",
                                        "seccomp, to the proxy", "seccomp, no edge's call"};

struct result {
    int64_t p50, p99;
};

static int die(const char *what, const struct sq_err *e)
{
    (void)fprintf(stderr, "bench_connect: %s: %s\n", what, e && e->code ? e->msg : strerror(errno));
    exit(1);
}

static struct sockaddr_in server(pid_t *pid)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        (void)die("server", NULL);
    *pid = fork();
    if (*pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            (void)close(accept(fd, NULL, NULL));
    }
    (void)close(fd);
    return a;
}

static void connects(const struct sockaddr_in *to, int out)
{
    struct sq_hist *h = sq_hist_new();
    struct linger now = {.l_onoff = 1};
    struct result r;

    for (int i = 0; i < CONNECTS; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int64_t t0 = sq_mono_ns();

        if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0)
            _exit(2);
        sq_hist_record(h, sq_mono_ns() - t0);
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        (void)close(fd);
        (void)usleep(200); /* the proxy's work for the last one is not this one's cost */
    }
    r = (struct result){sq_hist_percentile(h, 50), sq_hist_percentile(h, 99)};
    _exit(write(out, &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 3);
}

static int load_filter(const struct sq_arming *a)
{
    struct sock_fprog prog = {.len = (unsigned short)(a->filter_len / sizeof(struct sock_filter)), .filter = a->filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

struct child {
    pid_t pid;
    int go[2], say[2];
};

/* A process that does the connects when it is told to; its listener's number comes first. */
static void begin(struct child *c, const struct sq_arming *a, const char *cgroup, const struct sockaddr_in *to)
{
    int listener = -1;
    char byte;

    if (pipe(c->go) < 0 || pipe(c->say) < 0)
        (void)die("pipe", NULL);
    c->pid = fork();
    if (c->pid != 0)
        return;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cgroup && sq_cgroup_enter(cgroup, 0, NULL) < 0)
        _exit(4);
    if (a->seccomp)
        listener = load_filter(a);
    if (write(c->say[1], &listener, sizeof(listener)) != (ssize_t)sizeof(listener) || read(c->go[0], &byte, 1) != 1)
        _exit(5);
    if (listener >= 0)
        (void)close(listener);
    connects(to, c->say[1]);
}

static void supervise(struct sq_intercept *ic, const struct child *c, uint64_t key)
{
    struct sq_err e = {0};
    int theirs = -1, pidfd = sq_pidfd_open(c->pid), fd;

    if (read(c->say[0], &theirs, sizeof(theirs)) != (ssize_t)sizeof(theirs))
        (void)die("child", NULL);
    if (theirs >= 0) {
        fd = sq_pidfd_getfd(pidfd, theirs);
        if (fd < 0 || sq_intercept_supervise(ic, key, c->pid, fd, &e) < 0)
            (void)die("supervise", &e);
    }
    (void)close(pidfd);
}

static void on_over(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    uv_stop(p->loop);
}

static struct result measure(struct sq_intercept *ic, uv_loop_t *loop, enum way way, const char *cgroup,
                             const struct sockaddr_in *to)
{
    struct sq_arming a = {0};
    struct sq_err e = {0};
    struct result r = {0};
    struct child c;
    bool by_bpf = way == BPF || way == BPF_MISS;
    uv_poll_t over;
    int status, dir = -1;

    if (by_bpf)
        dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (way != PLAIN &&
        sq_intercept_arm(ic, "r1", way == SECCOMP_MISS || way == BPF_MISS ? "other" : "app", "app.0", dir, &a, &e) < 0)
        (void)die("arm", &e);
    begin(&c, &a, by_bpf ? cgroup : NULL, to);
    supervise(ic, &c, a.key);
    if (write(c.go[1], "g", 1) != 1)
        (void)die("child", NULL);
    (void)uv_poll_init(loop, &over, c.say[0]);
    (void)uv_poll_start(&over, UV_READABLE | UV_DISCONNECT, on_over);
    (void)uv_run(loop, UV_RUN_DEFAULT); /* as squalld does */
    uv_close((uv_handle_t *)&over, NULL);
    (void)uv_run(loop, UV_RUN_NOWAIT);
    (void)waitpid(c.pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || read(c.say[0], &r, sizeof(r)) != (ssize_t)sizeof(r)) {
        (void)fprintf(stderr, "bench_connect: %s: the client failed (%d)\n", names[way], status);
        exit(1);
    }
    sq_intercept_disarm(ic, "r1", "app.0");
    free(a.filter);
    for (int i = 0; i < 2; i++) {
        (void)close(c.go[i]);
        (void)close(c.say[i]);
    }
    if (dir >= 0)
        (void)close(dir);
    return r;
}

static void declare(struct sq_intercept *ic, const char *from, const char *to, bool *bpf)
{
    json_t *def = json_pack("{s:s,s:s,s:[s],s:s}", "name", from, "from", from, "to", to, "protocol", "tcp"),
           *got = NULL;
    struct sq_err e = {0};

    if (sq_edge_declare(ic, "r1", geteuid(), def, &got, &e) < 0)
        (void)die("edge", &e);
    *bpf = strcmp(json_string_value(json_object_get(got, "mode")), "bpf") == 0;
    json_decref(got);
    json_decref(def);
}

static void run_all(struct sq_intercept *ic, uv_loop_t *loop, const struct sockaddr_in *to, bool bpf,
                    const char *cgroup)
{
    struct result best[WAYS];

    memset(best, 0x7f, sizeof(best));
    for (int round = 0; round < ROUNDS; round++)
        for (enum way w = PLAIN; w < WAYS; w++) {
            struct result r;

            if ((w == BPF || w == BPF_MISS) && (!bpf || !*cgroup))
                continue;
            r = measure(ic, loop, w, cgroup, to);
            if (r.p50 < best[w].p50)
                best[w] = r;
        }
    (void)printf("%-26s %10s %10s %14s   (us, %d connects, best of %d rounds)\n", "connect(2)", "p50", "p99",
                 "p50 overhead", CONNECTS, ROUNDS);
    for (enum way w = PLAIN; w < WAYS; w++) {
        if ((w == BPF || w == BPF_MISS) && (!bpf || !*cgroup)) {
            (void)printf("%-26s %10s\n", names[w], "not here");
            continue;
        }
        (void)printf("%-26s %10.1f %10.1f %+14.1f\n", names[w], (double)best[w].p50 / 1e3, (double)best[w].p99 / 1e3,
                     (double)(best[w].p50 - best[PLAIN].p50) / 1e3);
    }
}

static void done(void *arg)
{
    (void)arg;
}

int main(int argc, char **argv)
{
    char self[PATH_MAX], squalld[PATH_MAX + 16], dir[] = "/tmp/squall-bench-XXXXXX", cgroup[SQ_CGROUP_MAX] = "", to[64];
    struct sq_intercept_opts o = {.dir = dir, .self = squalld, .beat_fd = -1};
    struct sq_intercept *ic;
    struct sockaddr_in a;
    struct sq_err e = {0};
    bool bpf, ignored;
    uv_loop_t loop;
    pid_t srv;

    /* build/tests/bench/bench_connect: squalld is two folders up, or named. */
    if (!realpath("/proc/self/exe", self) || !mkdtemp(dir))
        return die("start", NULL);
    (void)snprintf(squalld, sizeof(squalld), "%s/squalld", argc > 1 ? argv[1] : dirname(dirname(dirname(self))));
    a = server(&srv);
    (void)snprintf(to, sizeof(to), "127.0.0.1:%u", ntohs(a.sin_port));
    (void)uv_loop_init(&loop);
    o.loop = &loop;
    if (sq_intercept_new(&o, &ic, &e) < 0)
        return die("interception", &e);
    declare(ic, "app", to, &bpf);
    declare(ic, "other", "127.0.0.1:1", &ignored);
    if (bpf && sq_cgroup_make("bench-connect", "r1", "app.0", cgroup, sizeof(cgroup), &e) < 0)
        return die("cgroup", &e);
    run_all(ic, &loop, &a, bpf, cgroup);
    sq_intercept_free(ic, done, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    if (*cgroup)
        (void)sq_cgroup_remove(cgroup, NULL);
    (void)kill(srv, SIGKILL);
    (void)rmdir(dir);
    return 0;
}
