/* The parts of the run loop: the evidence writer, ready checks, abort conditions, the live state of edges, the
 * terminal. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "run/abort.h"
#include "run/evlog.h"
#include "run/live.h"
#include "run/private.h"
#include "run/progress.h"
#include "run/ready.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/squall-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    char path[128];
    static const char *const names[] = {"evidence.jsonl", "lock", "s.sock", "out"};
    for (size_t i = 0; i < SQ_COUNT(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static char *slurp(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    char *text = calloc(1, 8 << 20);
    assert_non_null(f);
    assert_non_null(text);
    text[fread(text, 1, (8 << 20) - 1, f)] = '\0';
    fclose(f);
    return text;
}

/* ---- evidence ---- */

static void log_is_json_lines(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct sq_evlog *log = NULL, *again = NULL;
    struct sq_err e = {0};
    uv_loop_init(&loop);
    assert_int_equal(sq_evlog_open(&loop, dir, 1000000000, &log, &e), 0);
    assert_int_equal(sq_evlog_open(&loop, dir, 0, &again, &e), -EEXIST); /* never two runs in one log */
    sq_evlog_put(log, "note", 2500000000, json_pack("{s:s}", "text", "a\nb"));
    sq_evlog_put_durable(log, "fault", 1000001000, json_object());
    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cleanup_free char *now = slurp("evidence.jsonl"); /* durable: there before the end */
    assert_non_null(strstr(now, "\"type\":\"fault\""));
    assert_null(sq_evlog_error(log));
    assert_int_equal(sq_evlog_close(log, &e), 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    cleanup_free char *text = slurp("evidence.jsonl");
    assert_string_equal(text,
                        "{\"t\":1.500000,\"type\":\"note\",\"text\":\"a\\nb\"}\n{\"t\":0.000001,\"type\":\"fault\"}\n");
    struct stat st;
    char path[128];
    snprintf(path, sizeof(path), "%s/evidence.jsonl", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20); /* the reserve was given back */
    unlink(path);
}

static void count_error(void *arg)
{
    ++*(int *)arg;
}

/* In a child with a mount namespace of its own: 0 when all is as it should be, else the number of the line. */
static int fill_the_disk(void)
{
    uv_loop_t loop;
    struct sq_evlog *log = NULL;
    struct sq_err e = {0};
    int errors = 0;
    char path[128], block[1000];
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", dir, "tmpfs", 0, "size=6m"))
        return 77;
    uv_loop_init(&loop);
    if (sq_evlog_open(&loop, dir, 0, &log, &e))
        return __LINE__;
    sq_evlog_on_error(log, count_error, &errors);
    snprintf(path, sizeof(path), "%s/fill", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    memset(block, 'x', sizeof(block) - 1);
    block[sizeof(block) - 1] = '\0';
    while (write(fd, block, sizeof(block)) > 0)
        continue;
    for (int i = 0; i < 3500 && !errors; i++) /* more than 3 MiB: the next reserve can't be had */
        sq_evlog_put(log, "note", 0, json_pack("{s:s}", "text", block));
    const struct sq_err *why = sq_evlog_error(log);
    if (errors != 1 || !why || why->code != -ENOSPC)
        return __LINE__;
    sq_evlog_put(log, "end", 0, json_pack("{s:s}", "reason", "infrastructure"));
    if (sq_evlog_close(log, &e) != -ENOSPC)
        return __LINE__;
    uv_run(&loop, UV_RUN_DEFAULT);
    cleanup_free char *text = slurp("evidence.jsonl");
    const char *last = strstr(text, "\"type\":\"end\""); /* there was room left for it */
    return last && last[strlen(last) - 1] == '\n' ? 0 : __LINE__;
}

static void full_disk_leaves_room_for_the_end(void **state)
{
    (void)state;
    int st;
    pid_t pid = fork();
    if (pid == 0)
        _exit(fill_the_disk() & 0xff);
    assert_int_equal(waitpid(pid, &st, 0), pid);
    if (WIFEXITED(st) && WEXITSTATUS(st) == 77)
        skip(); /* needs to mount */
    assert_int_equal(st, 0);
}

/* ---- ready ---- */

struct verdict {
    bool done;
    struct sq_err err;
};

static void on_ready(void *arg, const struct sq_err *e)
{
    struct verdict *v = arg;
    v->done = true;
    if (e)
        v->err = *e;
}

static struct verdict ready(struct sq_ready_opts o)
{
    uv_loop_t loop;
    struct verdict v = {0};
    struct sq_ready *r = NULL;
    o.name = "db.0";
    uv_loop_init(&loop);
    if (sq_ready_start(&loop, &o, on_ready, &v, &r, &v.err) == 0)
        uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return v;
}

static int listen_at(uint16_t *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 8), 0);
    getsockname(fd, (struct sockaddr *)&sa, &len);
    *port = ntohs(sa.sin_port);
    return fd;
}

/* Answers each connection with the next of the answers (the last one for ever). */
static pid_t http(int fd, const char *const *answers)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    for (;;) {
        char buf[1024];
        int c = accept(fd, NULL, NULL);
        if (read(c, buf, sizeof(buf)) > 0 && write(c, answers[0], strlen(answers[0])) < 0)
            _exit(1);
        close(c);
        if (answers[1])
            answers++;
    }
}

static void ready_checks(void **state)
{
    (void)state;
    uint16_t port;
    int fd = listen_at(&port);
    struct verdict v = ready((struct sq_ready_opts){.how = SQ_READY_TCP, .port = port, .within_ns = 5 * SQ_S});
    assert_true(v.done && v.err.code == 0);

    static const char *const slowly[] = {"HTTP/1.1 503 Not yet\r\n\r\n", "", "junk", "HTTP/1.1 204 No Content\r\n\r\n",
                                         NULL};
    pid_t pid = http(fd, slowly);
    v = ready((struct sq_ready_opts){.how = SQ_READY_HTTP, .port = port, .path = "/healthz", .within_ns = 10 * SQ_S});
    assert_true(v.done && v.err.code == 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);

    static const char *const never[] = {"HTTP/1.1 500 No\r\n\r\n", NULL};
    pid = http(fd, never);
    v = ready((struct sq_ready_opts){.how = SQ_READY_HTTP, .port = port, .path = "/x", .within_ns = 300 * SQ_MS});
    assert_true(v.done && v.err.code == -ETIMEDOUT);
    assert_non_null(strstr(v.err.msg, "db.0"));
    assert_non_null(strstr(v.err.msg, "500"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(fd);

    v = ready((struct sq_ready_opts){.how = SQ_READY_TCP, .port = port, .within_ns = 200 * SQ_MS});
    assert_true(v.done && v.err.code == -ETIMEDOUT);
}

static void ready_on_a_unix_socket(void **state)
{
    (void)state;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s.sock", dir);
    struct verdict v =
        ready((struct sq_ready_opts){.how = SQ_READY_UNIX, .path = sa.sun_path, .within_ns = 200 * SQ_MS});
    assert_true(v.done && v.err.code == -ETIMEDOUT);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 1), 0);
    v = ready((struct sq_ready_opts){.how = SQ_READY_UNIX, .path = sa.sun_path, .within_ns = 5 * SQ_S});
    assert_true(v.done && v.err.code == 0);
    close(fd);
    char longer[200];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    v = ready((struct sq_ready_opts){.how = SQ_READY_UNIX, .path = longer, .within_ns = SQ_S});
    assert_true(!v.done && v.err.code == -ENAMETOOLONG);
}

/* ---- abort conditions ---- */

static int look(void *arg, unsigned seconds, struct sq_probe_window *w)
{
    *w = *(const struct sq_probe_window *)arg;
    if (w->seconds > seconds)
        w->seconds = seconds;
    return 0;
}

static bool due(const char *conditions, struct sq_probe_window w, char *why)
{
    cleanup_json json_t *c = json_loads(conditions, 0, NULL);
    assert_non_null(c);
    return sq_abort_due(c, look, &w, why, 200);
}

static void abort_conditions(void **state)
{
    (void)state;
    const char *errors = "[{\"metric\":\"error_rate\",\"over\":50.0,\"for\":10000000000,\"min_requests\":100}]";
    const char *p99 = "[{\"metric\":\"p99\",\"over\":5000000000,\"for\":3000000000,\"min_requests\":1}]";
    char why[200] = "";
    struct sq_probe_window bad = {.seconds = 60, .n = 200, .bad = 120, .error_percent = 60, .p99 = 6 * SQ_S};
    assert_true(due(errors, bad, why));
    assert_non_null(strstr(why, "60 %"));
    assert_true(due(p99, bad, why));
    assert_non_null(strstr(why, "p99"));
    struct sq_probe_window w = bad;
    w.error_percent = 50; /* over is over */
    assert_false(due(errors, w, why));
    w = bad;
    w.n = 99;
    assert_false(due(errors, w, why));
    w = bad;
    w.seconds = 9; /* too early to say */
    assert_false(due(errors, w, why));
    assert_false(due("[]", bad, why));
    assert_false(sq_abort_due(NULL, look, &bad, why, sizeof(why)));
    cleanup_json json_t *c = json_loads(errors, 0, NULL);
    assert_int_equal(sq_abort_longest(c), 10);
    assert_int_equal(sq_abort_longest(NULL), 0);
}

static void abort_burn_rate(void **state)
{
    (void)state;
    const char *burn =
        "[{\"metric\":\"burn_rate\",\"target\":99.9,\"over\":14.4,\"for\":10000000000,\"min_requests\":100}]";
    char why[200] = "";
    struct sq_probe_window w = {.seconds = 10, .n = 1000, .bad = 15, .error_percent = 1.5};
    assert_true(due(burn, w, why)); /* 1.5 % over 0.1 % */
    assert_non_null(strstr(why, "burn_rate was 15 "));
    w.error_percent = 1.4;
    assert_false(due(burn, w, why));
}

static void abort_sequential(void **state)
{
    static const char *const conditions[] = {
        "[{\"metric\":\"error_rate\",\"min_requests\":100,"
        "\"sprt\":{\"p0\":0.1,\"p1\":1.44,\"alpha\":1,\"beta\":1}}]",
        "[{\"metric\":\"p99\",\"over\":1,\"for\":10000000000},"
        "{\"metric\":\"burn_rate\",\"target\":99.9,\"over\":14.4,\"min_requests\":100,\"sprt\":{\"alpha\":1,\"beta\":1}"
        "}]",
    };
    (void)state;
    for (size_t i = 0; i < SQ_COUNT(conditions); i++) {
        cleanup_json json_t *c = json_loads(conditions[i], 0, NULL);
        struct sq_probe_window well = {.seconds = 1, .n = 60}, ill = {.seconds = 1, .n = 60, .bad = 60};
        struct sq_abort_watch *w = NULL;
        char why[300] = "";
        assert_non_null(c);
        assert_false(sq_abort_due(i ? NULL : c, look, &ill, why, sizeof(why))); /* none of its business */
        assert_int_equal(sq_abort_watch_new(c, &w, NULL), 0);
        for (int s = 0; s < 600; s++)
            assert_false(sq_abort_watch_due(w, 1, look, &well, why, sizeof(why)));
        assert_false(sq_abort_watch_due(w, 0, look, &ill, why, sizeof(why))); /* no second has passed */
        int n = 1;
        while (!sq_abort_watch_due(w, 1, look, &ill, why, sizeof(why)))
            n++;
        assert_true(n <= 2); /* min_requests */
        assert_non_null(strstr(why, i ? "burn_rate" : "error_rate"));
        assert_non_null(strstr(why, "0.1 % is well and 1.44 % is sick"));
        sq_abort_watch_free(w);
    }
    cleanup_json json_t *c = json_loads("[{\"metric\":\"error_rate\",\"sprt\":{\"p0\":5,\"p1\":1}}]", 0, NULL);
    struct sq_abort_watch *w = NULL;
    assert_int_equal(sq_abort_watch_new(c, &w, NULL), -EINVAL);
    sq_abort_watch_free(NULL);
}

/* ---- live ---- */

static void live_breaker(void **state)
{
    (void)state;
    struct sq_live *l = sq_live_new();
    double rate = 0;
    int64_t t = 0;
    for (; t < 10000; t += 20) /* 50/s */
        sq_live_call(l, "a->b", "a.0", t);
    assert_int_equal(sq_live_look(l, "a->b", t + 400, &rate), SQ_LIVE_UNKNOWN);
    sq_live_steady(l, 0, 10000);
    assert_int_equal(sq_live_look(l, "a->b", t + 400, &rate), SQ_LIVE_CLOSED);
    assert_true(rate > 45 && rate < 55);
    assert_int_equal(sq_live_look(l, "a->b", t + 1000, &rate), SQ_LIVE_OPEN); /* 25 calls are missing */
    sq_live_call(l, "a->b", "a.0", t + 2000);
    assert_int_equal(sq_live_look(l, "a->b", t + 2400, &rate), SQ_LIVE_HALF_OPEN);
    assert_int_equal(sq_live_look(l, "a->b", t + 3500, &rate), SQ_LIVE_OPEN);
    for (int64_t k = t + 4000; k < t + 7000; k += 20)
        sq_live_call(l, "a->b", "a.0", k);
    assert_int_equal(sq_live_look(l, "a->b", t + 7300, &rate), SQ_LIVE_CLOSED);
    assert_int_equal(sq_live_look(l, "no->edge", t, &rate), SQ_LIVE_UNKNOWN);
    for (int i = 0; i < 1000; i++) { /* bounded */
        char name[16];
        snprintf(name, sizeof(name), "x.%d", i);
        sq_live_call(l, "x->y", name, i);
    }
    sq_live_free(l);
}

/* ---- terminal ---- */

static void progress_without_a_terminal(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof(path), "%s/out", dir);
    FILE *f = fopen(path, "w");
    struct sq_progress_opts o = {.to = f};
    struct sq_progress *p = sq_progress_new(&o);
    struct sq_progress_view v = {.name = "n", .stage = "s"};
    sq_progress_event(p, SQ_TONE_GOOD, 1.25, "hello %s", "you\033[2J\001\xff");
    sq_progress_draw(p, &v, sq_mono_ns());
    sq_progress_event(p, SQ_TONE_BAD, -1, "bye");
    sq_progress_free(p);
    o.quiet = true;
    p = sq_progress_new(&o);
    sq_progress_event(p, SQ_TONE_GOOD, 1, "not this");
    sq_progress_event(p, SQ_TONE_BAD, 2, "but this");
    sq_progress_free(p);
    fclose(f);
    cleanup_free char *text = slurp("out");
    assert_string_equal(text, "    1.2 s  hello you?[2J??\nbye\n    2.0 s  but this\n");
}

/* ---- private injectors ---- */

static void lock_says_who_lives(void **state)
{
    (void)state;
    char path[128], here[64];
    snprintf(path, sizeof(path), "%s/lock", dir);
    snprintf(here, sizeof(here), "%s", dir);
    assert_false(sq_private_alive("/tmp/squall-no-such-directory"));
    assert_false(sq_private_alive(here));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_false(sq_private_alive(here));
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_true(sq_private_alive(here));
    close(fd);
    assert_false(sq_private_alive(here));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_is_json_lines),
        cmocka_unit_test(full_disk_leaves_room_for_the_end),
        cmocka_unit_test(ready_checks),
        cmocka_unit_test(ready_on_a_unix_socket),
        cmocka_unit_test(abort_conditions),
        cmocka_unit_test(abort_burn_rate),
        cmocka_unit_test(abort_sequential),
        cmocka_unit_test(live_breaker),
        cmocka_unit_test(progress_without_a_terminal),
        cmocka_unit_test(lock_says_who_lives),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
