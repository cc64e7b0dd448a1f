/* Answers that are read late and counted by the kernel's time of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "probe/engine.h"
#include "probe/nap.h"
#include "unit/probe_run.h"
#include "unit/probe_server.h"

/* The wall clock may be stepped while an answer waits: what is certain bounds what it says. */
static void test_bounds(void **state)
{
    struct sq_engine p = {.now = sq_mono_ns()};
    struct sq_request r = {.sent = p.now - 400 * SQ_US};
    int64_t wall = sq_wall_ns(), at;

    (void)state;
    p.nap.since = p.now - 300 * SQ_US;
    /* Both clocks go on between the lines: by less than that. Never before it came. */
    at = sq_arrived(&p, &r, wall - 100 * SQ_US);
    assert_true(at <= sq_mono_ns() - 100 * SQ_US && at >= p.now - 100 * SQ_US);
    assert_int_equal(sq_arrived(&p, &r, wall - SQ_S), p.nap.since); /* stepped forward */
    assert_int_equal(sq_arrived(&p, &r, wall + SQ_S), p.now);       /* stepped back */
    r.sent = p.now - 200 * SQ_US;
    assert_int_equal(sq_arrived(&p, &r, wall - SQ_S), r.sent); /* never before its request */
}

static void late(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)s;
    (void)c;
    (void)request;
    r->text = SRV_OK;
    r->delay = 5 * SQ_MS;
}

/* 4,000/s: a request is due every 250 us, so that the loop sleeps between them while answers come. The kernel begins to
 * stamp when its own worker gets round to that: STAMPS is whether it did within so long. */
static void run_with(struct run *r, const char *url, int64_t ns, bool *stamps)
{
    int64_t begin;

    begin_run(r, load_of(4000, url, 3 * SQ_S, 200, NULL), NULL, NULL);
    begin = sq_probe_begin_ns(r->probe);
    *stamps = false;
    for (int64_t at = 0; at < 500 * SQ_MS || (at < ns && !*stamps); at += 10 * SQ_MS) {
        sleep_until(begin + at);
        *stamps = *stamps || __atomic_load_n(&sq_probe_engine(r->probe, 0)->nap.stamps, __ATOMIC_RELAXED);
    }
    end_run(r, -1);
}

static void test_tcp(void **state)
{
    static struct srv s = {.answer = late, .real_time = true};
    struct sq_hist *h;
    struct run r;
    char url[64];
    bool stamps;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    run_with(&r, url, 8 * SQ_S, &stamps);
    srv_stop(&s);
    assert_true(stamps);
    h = merged(&r, "hs");
    assert_true(sq_hist_min(h) >= 4995 * SQ_US); /* the histogram's resolution is 0.1 % */
    assert_int_equal(sq_hist_count(h), (uint64_t)end_int(&r, "planned"));
    sq_hist_free(h);
    assert_all_good(&r);
}

/* How much later than it should the server sent each answer. */
static void note_late(struct srv *s, const struct srv_conn *c)
{
    sq_hist_record(s->arg, sq_mono_ns() - c->due);
}

static int64_t spread(const struct sq_hist *h)
{
    return sq_hist_percentile(h, 75) - sq_hist_percentile(h, 25);
}

/* Half of the answers came within so long; -1: the host kept one of the two from its work, which says nothing. */
static int64_t run_lie(void)
{
    struct sq_hist *h, *late_by = sq_hist_new();
    struct srv s = {.answer = late, .sent = note_late, .arg = late_by, .real_time = true};
    struct run r;
    char url[64];
    int64_t within;
    double behind;

    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    begin_run(&r, load_of(8000, url, 3 * SQ_S, 200, NULL), "{\"over\": 100000, \"share\": 100.0}", NULL);
    sleep_until(sq_probe_begin_ns(r.probe) + 2 * SQ_S);
    end_run(&r, -1);
    srv_stop(&s);
    behind = sq_json_num_or(json_array_get(r.end, 0), "lag_share", 100);
    h = merged(&r, "hs");
    within = spread(h);
    print_message(
        "half of the answers came within %.3f ms; the server's half was sent within %.3f ms, the probe was late "
        "with %.1f %%\n",
        (double)within / 1e6, (double)spread(late_by) / 1e6, behind);
    assert_true(sq_hist_min(h) >= 4995 * SQ_US);
    if (spread(late_by) > 100 * SQ_US || behind > 20)
        within = -1;
    sq_hist_free(h);
    sq_hist_free(late_by);
    assert_all_good(&r);
    return within;
}

/* 8,000/s: answers lie for up to a millisecond while others are sent. Read so late, they would be spread over it (half
 * of them within 0.5 ms); by the kernel's time they are as far apart as they came. */
static void test_lie(void **state)
{
    int64_t within = -1;

    (void)state;
    for (int try = 0; try < 4 && within < 0; try++)
        within = run_lie();
    if (within < 0)
        skip();
    assert_true(within < 300 * SQ_US);
}

/* Nobody says when the answers came: they are read when they come. */
static void test_unix(void **state)
{
    static struct srv s = {.answer = late};
    struct run r;
    char path[64], url[128];
    bool stamps;

    (void)state;
    (void)snprintf(path, sizeof path, "/tmp/squall-test-nap-%d.sock", (int)getpid());
    (void)snprintf(url, sizeof url, "unix:%s:/", path);
    assert_int_equal(srv_start(&s, path), 0);
    run_with(&r, url, SQ_S / 2, &stamps);
    srv_stop(&s);
    assert_false(stamps);
    assert_all_good(&r);
}

/* An answer in pieces, each of them later than a nap: whole, and not before its last piece came. */
static void pieces(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    late(s, c, request, r);
    r->piece = 20;
}

static void test_pieces(void **state)
{
    static struct srv s = {.answer = pieces};
    struct sq_hist *h;
    struct run r;
    char url[64];
    bool stamps;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    run_with(&r, url, SQ_S / 2, &stamps);
    srv_stop(&s);
    h = merged(&r, "hs");
    assert_true(sq_hist_min(h) >= 5395 * SQ_US); /* 53 bytes: two pauses of 0.2 ms */
    sq_hist_free(h);
    assert_int_equal(total(&r, "bytes"), 13 * end_int(&r, "planned"));
    assert_all_good(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds), cmocka_unit_test(test_tcp),    cmocka_unit_test(test_lie),
        cmocka_unit_test(test_unix),   cmocka_unit_test(test_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
