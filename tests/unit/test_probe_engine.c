/* The probe against real servers: what it sends and when, and that its figures are the truth about them. The machine
 * may be busy, so that limits on time are wide where the truth does not depend on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>

#include "probe/engine.h"
#include "probe/probe.h"
#include "squall/cleanup.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "unit/probe_run.h"
#include "unit/probe_server.h"

static void url_of(const struct srv *s, char *buf, size_t len)
{
    (void)snprintf(buf, len, "http://127.0.0.1:%u/x", s->port);
}

static void test_counts_and_seconds(void **state)
{
    static struct srv s;
    struct run r;
    char url[64];
    int64_t sec = -1;
    json_t *x;
    size_t i;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    run_for(&r, load_of(500, url, 3 * SQ_S, 20, NULL), 2200 * SQ_MS);
    srv_stop(&s);
    /* Every request planned is sent and accounted for, once. */
    assert_true(end_int(&r, "planned") >= 1100 && end_int(&r, "planned") < 1200);
    assert_int_equal(total(&r, "planned"), end_int(&r, "planned"));
    assert_int_equal(total(&r, "sent"), end_int(&r, "planned"));
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    assert_int_equal(total_in(&r, "status", "200"), end_int(&r, "planned"));
    assert_int_equal(total(&r, "bytes"), 13 * end_int(&r, "planned"));
    assert_int_equal(end_int(&r, "done"), end_int(&r, "planned"));
    assert_int_equal(s.requests, (uint64_t)end_int(&r, "planned"));
    assert_true(s.accepted <= 20);
    json_array_foreach(r.samples, i, x)
    {
        struct sq_hist *h = sq_hist_new();

        assert_int_equal(sq_json_int_or(x, "sec", -1), sec + 1); /* in order, no gap */
        sec++;
        assert_string_equal(sq_json_str_or(x, "type", ""), "sample");
        assert_string_equal(sq_json_str_or(x, "endpoint", ""), "e");
        assert_int_equal(sq_hist_add_json(h, json_object_get(x, "h"), NULL), 0);
        assert_int_equal(sq_hist_count(h), (uint64_t)sq_json_int_or(x, "planned", -1));
        sq_hist_free(h);
    }
    assert_int_equal(json_array_size(r.samples), 3);
    /* The first second began at 30 ms: 970 ms of 500/s; the second one is whole. */
    assert_int_equal(sq_json_int_or(json_array_get(r.samples, 0), "planned", 0), 485);
    assert_int_equal(sq_json_int_or(json_array_get(r.samples, 1), "planned", 0), 500);
    free_run(&r);
}

static void test_ramp(void **state)
{
    static struct srv s;
    struct run r;
    char url[64];

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    run_for(
        &r,
        load_of(1, url, 3 * SQ_S, 50,
                "{\"executor\":\"ramping-arrival-rate\",\"start\":100,\"stages\":[{\"for\":970000000,\"to\":700}]}"),
        2100 * SQ_MS);
    srv_stop(&s);
    /* (100 + 700) / 2 * 0.97 s = 388 in the ramp, then 700/s. */
    assert_int_equal(sq_json_int_or(json_array_get(r.samples, 0), "planned", 0), 388);
    assert_int_equal(sq_json_int_or(json_array_get(r.samples, 1), "planned", 0), 700);
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    free_run(&r);
}

static void slow_law(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)c;
    (void)request;
    r->text = SRV_OK;
    r->delay = s->requests % 10 == 0 ? 200 * SQ_MS : 20 * SQ_MS; /* p90 20 ms, p95 200 ms */
}

static void assert_near(int64_t value, int64_t truth, int64_t below, int64_t above)
{
    if (value < truth - below || value > truth + above)
        print_error("%lld, not %lld (-%lld, +%lld)\n", (long long)value, (long long)truth, (long long)below,
                    (long long)above);
    assert_true(value >= truth - below && value <= truth + above);
}

static void test_latency_law(void **state)
{
    static struct srv s = {.answer = slow_law, .real_time = true};
    struct run r;
    struct sq_hist *h;
    char url[64];

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    run_for(&r, load_of(200, url, 3 * SQ_S, 100, NULL), 2 * SQ_S);
    srv_stop(&s);
    h = merged(&r, "h");
    assert_near(sq_hist_percentile(h, 50), 20 * SQ_MS, 0, 30 * SQ_MS);
    assert_near(sq_hist_percentile(h, 95), 200 * SQ_MS, 0, 40 * SQ_MS);
    assert_true(sq_hist_min(h) >= 20 * SQ_MS);
    assert_int_equal(sq_hist_count(h), (uint64_t)end_int(&r, "planned"));
    sq_hist_free(h);
    free_run(&r);
}

/* A second's stall of the whole server at 1,000/s: 1,000 of 10,000 requests wait evenly between 0 and 1 s. Truth: p95
 * 500 ms, p99 900 ms. A closed loop would have seen as many slow requests as it has connections. */
static void test_stall(void **state)
{
    static struct srv s = {.real_time = true};
    struct run r;
    struct sq_hist *h, *hs;
    struct sq_probe_window w;
    char url[64];
    int64_t begin;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    begin_run(&r, load_of(1000, url, 3 * SQ_S, 50, NULL), NULL, NULL);
    begin = sq_probe_begin_ns(r.probe);
    __atomic_store_n(&s.stall_from, begin + 5 * SQ_S, __ATOMIC_RELEASE);
    __atomic_store_n(&s.stall_to, begin + 6 * SQ_S, __ATOMIC_RELEASE);
    sleep_until(begin + 7100 * SQ_MS);
    assert_int_equal(sq_probe_window(r.probe, NULL, 2, &w), 0);
    assert_int_equal(w.seconds, 2);
    assert_near((int64_t)w.n, 2000, 60,
                60); /* 5 to 7 s: nothing finished in the first half, twice as much in the second */
    assert_near(w.p95, 900 * SQ_MS, 40 * SQ_MS, 60 * SQ_MS);
    assert_int_equal(sq_probe_window(r.probe, "e", 60, &w), 0);
    assert_int_equal(w.seconds, 7);
    assert_near((int64_t)w.n, 7000, 30, 30);
    assert_int_equal(w.bad, 0);
    sleep_until(begin + 10 * SQ_S);
    end_run(&r, -1);
    srv_stop(&s);
    h = merged(&r, "h");
    /* Within 3 % downwards; upwards the drain after the stall counts too, and takes its time on a busy machine. */
    hs = merged(&r, "hs");
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    assert_near(sq_hist_percentile(h, 95), 500 * SQ_MS, 15 * SQ_MS, 50 * SQ_MS);
    assert_near(sq_hist_percentile(h, 99), 900 * SQ_MS, 27 * SQ_MS, 50 * SQ_MS);
    assert_near(sq_hist_max(h), SQ_S, 10 * SQ_MS, 100 * SQ_MS);
    assert_true(sq_hist_percentile(hs, 99) < 100 * SQ_MS); /* what a closed loop would have reported */
    assert_near(total(&r, "late"), 950, 30, 100);          /* all but those that had a connection */
    sq_hist_free(h);
    sq_hist_free(hs);
    free_run(&r);
}

static void never(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)s;
    (void)c;
    (void)request;
    r->text = NULL;
}

static void test_timeout(void **state)
{
    static struct srv s = {.answer = never};
    struct run r;
    struct sq_hist *h;
    char url[64];

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    run_for(&r, load_of(100, url, 300 * SQ_MS, 10, NULL), 1200 * SQ_MS);
    srv_stop(&s);
    /* 10 connections, each taken until its request times out and then used by the next one that waits. */
    assert_int_equal(total(&r, "ok"), 0);
    assert_int_equal(total_in(&r, "bad", "timeout") + total_in(&r, "bad", "unsent"), end_int(&r, "planned"));
    assert_true(total_in(&r, "bad", "timeout") >= 60);
    assert_true(total(&r, "late") >= 60);
    assert_int_equal(total(&r, "sent"), total_in(&r, "bad", "timeout"));
    assert_int_equal(end_int(&r, "sent"), total(&r, "sent"));
    h = merged(&r, "h");
    assert_int_equal(sq_hist_count(h), (uint64_t)end_int(&r, "planned"));
    assert_near(sq_hist_min(h), 300 * SQ_MS, SQ_MS, 50 * SQ_MS);
    assert_near(sq_hist_percentile(h, 50), 300 * SQ_MS, SQ_MS, 50 * SQ_MS);
    sq_hist_free(h);
    free_run(&r);
}

/* A server that accepts nobody, its backlog full: what never got a connection is unsent. */
static void test_unsent(void **state)
{
    static struct srv s;
    struct run r;
    char path[64], url[128];

    (void)state;
    (void)snprintf(path, sizeof path, "/tmp/squall-test-probe-%d.sock", (int)getpid());
    (void)snprintf(url, sizeof url, "unix:%s", path);
    assert_int_equal(srv_listen(&s, path, 0), 0);
    assert_int_equal(listen(s.fd, 2), 0);
    run_for(&r, load_of(100, url, 200 * SQ_MS, 50, NULL), 600 * SQ_MS);
    (void)close(s.fd);
    (void)unlink(path);
    assert_int_equal(total_in(&r, "bad", "timeout") + total_in(&r, "bad", "unsent"), end_int(&r, "planned"));
    assert_true(total_in(&r, "bad", "unsent") >= 40);
    assert_int_equal(total(&r, "sent"), total_in(&r, "bad", "timeout"));
    free_run(&r);
}

static void test_grace(void **state)
{
    static struct srv s = {.answer = never};
    struct run r;
    char url[64];
    int64_t t;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    begin_run(&r, load_of(50, url, 30 * SQ_S, 100, NULL), NULL, NULL);
    sleep_until(sq_probe_begin_ns(r.probe) + 500 * SQ_MS);
    t = sq_mono_ns();
    end_run(&r, 100 * SQ_MS);
    assert_true(sq_mono_ns() - t < 5 * SQ_S);
    srv_stop(&s);
    assert_true(end_int(&r, "planned") >= 25);
    assert_int_equal(end_int(&r, "done"), 0); /* what was cut is known to be missing */
    assert_int_equal(total(&r, "planned"), end_int(&r, "planned"));
    free_run(&r);
}

/* A kept-alive connection that turns out to be closed when the second request comes, before a byte of the answer. */
static void rude(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)s;
    (void)request;
    r->text = c->served == 2 ? "" : SRV_OK;
    r->close = c->served == 2;
}

/* That is no failure of the server's, but only what may be sent twice is sent again. */
static void test_rude_close(void **state)
{
    static struct srv s = {.answer = rude};
    struct run r;
    char url[64];

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    run_for(&r, load_of(200, url, 3 * SQ_S, 10, NULL), 500 * SQ_MS);
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    assert_true(total(&r, "reconnects") >= 40);
    free_run(&r);
    run_for(&r, load_of(200, url, 3 * SQ_S, 10, "{\"request\":{\"method\":\"POST\"}}"), 500 * SQ_MS);
    srv_stop(&s);
    assert_int_equal(total(&r, "reconnects"), 0);
    assert_true(total_in(&r, "bad", "reset") >= 40);
    assert_int_equal(total(&r, "ok") + total_in(&r, "bad", "reset"), end_int(&r, "planned"));
    free_run(&r);
}

static void test_refused_then_up(void **state)
{
    static struct srv s;
    struct run r;
    char url[64];

    (void)state;
    assert_int_equal(srv_listen(&s, NULL, 0), 0); /* find a free port */
    (void)close(s.fd);
    url_of(&s, url, sizeof url);
    begin_run(&r, load_of(200, url, 3 * SQ_S, 10, NULL), NULL, NULL);
    sleep_until(sq_probe_begin_ns(r.probe) + 500 * SQ_MS);
    assert_int_equal(srv_start(&s, NULL), 0);
    sleep_until(sq_probe_begin_ns(r.probe) + 1000 * SQ_MS);
    end_run(&r, -1);
    srv_stop(&s);
    assert_true(total_in(&r, "bad", "refused") >= 90);
    assert_true(total(&r, "ok") >= 70);
    assert_int_equal(total_in(&r, "bad", "refused") + total(&r, "ok"), end_int(&r, "planned"));
    free_run(&r);
}

static void test_unix_and_missing(void **state)
{
    static struct srv s;
    struct run r;
    char path[64], url[128];

    (void)state;
    (void)snprintf(path, sizeof path, "/tmp/squall-test-probe-%d.sock", (int)getpid());
    (void)snprintf(url, sizeof url, "unix:%s:/hello?x=1", path);
    run_for(&r, load_of(100, url, 3 * SQ_S, 10, NULL), 300 * SQ_MS);
    assert_all_bad(&r, "refused"); /* no such file */
    assert_int_equal(srv_start(&s, path), 0);
    run_for(&r, load_of(500, url, 3 * SQ_S, 10, NULL), 500 * SQ_MS);
    srv_stop(&s);
    assert_int_equal(s.requests, (uint64_t)end_int(&r, "planned"));
    assert_all_good(&r);
}

/* A name with two addresses, and nobody listens on the first: the other one is tried, and remembered. */
static void test_second_address(void **state)
{
    static struct srv s, dead;
    struct run r;
    struct sq_place *place;
    struct sq_err e;
    char url[64];

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    assert_int_equal(srv_listen(&dead, NULL, 0), 0);
    (void)close(dead.fd);
    url_of(&s, url, sizeof url);
    r.probe = create(load_of(100, url, 3 * SQ_S, 10, NULL), NULL, NULL, &e);
    r.samples = json_array();
    place = &sq_probe_engine(r.probe, 0)->endpoint[0].place;
    place->addr[1] = place->addr[0];
    ((struct sockaddr_in *)&place->addr[0].sa)->sin_port = htons((uint16_t)dead.port);
    place->n = 2;
    assert_int_equal(sq_probe_start(r.probe, sq_mono_ns(), sq_mono_ns() + 30 * SQ_MS, &e), 0);
    sleep_until(sq_probe_begin_ns(r.probe) + 300 * SQ_MS);
    assert_int_equal(sq_probe_engine(r.probe, 0)->endpoint[0].addr, 1);
    end_run(&r, -1);
    srv_stop(&s);
    assert_all_good(&r);
}

/* The probe's own lateness: in a child that is stopped for 200 ms. The same stall of the server instead is not its
 * fault. */
static int lag_child(unsigned port, int fd)
{
    struct run r;
    char url[64];
    struct sq_err e;
    const json_t *x;

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
    r.probe = create(load_of(500, url, 3 * SQ_S, 5, NULL), "{\"over\": 50000000, \"share\": 5.0}", NULL, &e);
    r.samples = json_array();
    r.zero = sq_mono_ns();
    if (!r.probe || sq_probe_start(r.probe, r.zero, 0, &e) < 0)
        return 9;
    sleep_until(sq_probe_begin_ns(r.probe));
    (void)!write(fd, "x", 1);
    sleep_until(sq_probe_begin_ns(r.probe) + 1500 * SQ_MS);
    end_run(&r, -1);
    x = json_array_get(r.end, 0);
    if (sq_json_int_or(x, "planned", 0) < 750)
        return 8;
    if (sq_json_bool_or(x, "void", false) != (sq_json_num_or(x, "lag_share", 0) > 5))
        return 7;
    if (sq_json_bool_or(x, "void", false) != (strlen(sq_json_str_or(x, "why", "")) > 0))
        return 6;
    return sq_json_bool_or(x, "void", false) ? 1 : 0;
}

static int run_lag_child(struct srv *s, bool stop)
{
    int pipefd[2], status;
    char c;
    pid_t pid;

    assert_int_equal(pipe(pipefd), 0);
    pid = fork();
    if (pid == 0)
        _exit(lag_child(s->port, pipefd[1]));
    (void)close(pipefd[1]);
    assert_int_equal(read(pipefd[0], &c, 1), 1);
    if (stop) {
        (void)usleep(300000);
        (void)kill(pid, SIGSTOP);
        (void)usleep(200000);
        (void)kill(pid, SIGCONT);
    } else {
        __atomic_store_n(&s->stall_from, sq_mono_ns() + 300 * SQ_MS, __ATOMIC_RELEASE);
        __atomic_store_n(&s->stall_to, sq_mono_ns() + 500 * SQ_MS, __ATOMIC_RELEASE);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)close(pipefd[0]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void test_own_lateness(void **state)
{
    static struct srv s;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    assert_int_equal(run_lag_child(&s, true), 1);  /* stopped: about 75 of 750 are more than 50 ms late */
    assert_int_equal(run_lag_child(&s, false), 0); /* the server stood still instead */
    srv_stop(&s);
}

static void test_life(void **state)
{
    static struct srv s = {.answer = never};
    struct sq_probe *p;
    struct sq_err e;
    struct sq_probe_live l;
    char url[64];
    int fd = eventfd(0, EFD_CLOEXEC);
    uint64_t n;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    url_of(&s, url, sizeof url);
    p = create(load_of(100, url, SQ_S, 5, NULL), NULL, NULL, &e);
    sq_probe_free(p); /* never started */
    p = create(load_of(100, url, 60 * SQ_S, 5, NULL), NULL, NULL, &e);
    assert_int_equal(sq_probe_start(p, sq_mono_ns(), 0, &e), 0);
    assert_true(sq_probe_start(p, sq_mono_ns(), 0, &e) < 0);
    sleep_until(sq_probe_begin_ns(p) + 500 * SQ_MS);
    sq_probe_live(p, &l);
    assert_int_equal(l.open, 5);
    assert_true(l.planned >= 40 && l.planned <= 70);
    assert_int_equal(l.waiting, l.planned - 5);
    assert_int_equal(l.outstanding, l.planned);
    assert_int_equal(l.done, 0);
    sq_probe_free(p); /* with all of that on the way */
    {
        json_t *load = load_of(100, url, 200 * SQ_MS, 5, NULL);
        struct sq_probe_opts o = {.load = load, .run_id = "x", .wake = wake_up, .wake_arg = &fd};

        assert_int_equal(sq_probe_create(&o, &p, &e), 0);
        json_decref(load);
    }
    assert_int_equal(sq_probe_start(p, sq_mono_ns(), 0, &e), 0);
    sq_probe_stop(p, -1); /* before the first request */
    assert_int_equal(read(fd, &n, sizeof n), sizeof n);
    while (!sq_probe_done(p))
        (void)usleep(1000);
    sq_probe_free(p);
    (void)close(fd);
    srv_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_and_seconds),
        cmocka_unit_test(test_ramp),
        cmocka_unit_test(test_latency_law),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_unsent),
        cmocka_unit_test(test_grace),
        cmocka_unit_test(test_rude_close),
        cmocka_unit_test(test_refused_then_up),
        cmocka_unit_test(test_unix_and_missing),
        cmocka_unit_test(test_second_address),
        cmocka_unit_test(test_own_lateness),
        cmocka_unit_test(test_life),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
