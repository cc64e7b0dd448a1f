/* Lanes (bytes that wait) and timers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/lane.h"
#include "proxy/timer.h"
#include "squall/clock.h"
#include "squall/rng.h"

static int pair[2];

static int open_pair(void **state)
{
    (void)state;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
}

static int close_pair(void **state)
{
    (void)state;
    (void)close(pair[0]);
    (void)close(pair[1]);
    return 0;
}

static void expect(const char *text)
{
    char buf[64] = "";
    ssize_t n = recv(pair[1], buf, sizeof(buf) - 1, MSG_DONTWAIT);
    assert_int_equal(n < 0 ? 0 : n, strlen(text));
    assert_string_equal(buf, text);
}

static void straight_through(void **state)
{
    (void)state;
    struct sq_lane l = {0};
    assert_int_equal(sq_lane_put(&l, pair[0], "abc", 3, 0, 0, 100), 0);
    expect("abc");
    assert_true(!l.head && l.in == 3 && l.out == 3 && sq_lane_next(&l) == INT64_MAX);
    l.end = SQ_END_FIN;
    assert_true(sq_lane_at_end(&l, 100));
}

static void due_times(void **state)
{
    (void)state;
    struct sq_lane l = {0};
    (void)sq_lane_put(&l, pair[0], "a", 1, 200, 0, 100);
    (void)sq_lane_put(&l, pair[0], "b", 1, 150, 0, 100); /* never overtakes */
    (void)sq_lane_put(&l, pair[0], "c", 1, 300, 0, 100);
    (void)sq_lane_put(&l, pair[0], "d", 1, 0, 0, 100);
    l.end = SQ_END_FIN;
    l.end_due = l.last_due;
    assert_int_equal(sq_lane_next(&l), 200);
    assert_int_equal(sq_lane_flush(&l, pair[0], 199), 0);
    expect("");
    assert_int_equal(sq_lane_flush(&l, pair[0], 200), 0);
    expect("ab");
    assert_false(sq_lane_at_end(&l, 299));
    assert_int_equal(sq_lane_next(&l), 300);
    assert_int_equal(sq_lane_flush(&l, pair[0], 300), 0);
    expect("cd");
    assert_true(sq_lane_at_end(&l, 300) && l.held == 0 && l.out == 4);
}

static void black_holes(void **state)
{
    (void)state;
    struct sq_lane l = {0};
    (void)sq_lane_put(&l, pair[0], "x", 1, 0, 6, 100);
    (void)sq_lane_put(&l, pair[0], "y", 1, 0, 0, 100); /* stands behind it */
    l.end = SQ_END_FIN;
    l.end_bh = 4;
    assert_int_equal(sq_lane_next(&l), INT64_MAX);
    (void)sq_lane_flush(&l, pair[0], 1000);
    expect("");
    assert_false(sq_lane_release(&l, 2, 500)); /* the other one still holds it */
    assert_true(sq_lane_release(&l, 4, 600));
    (void)sq_lane_flush(&l, pair[0], 600);
    expect("xy");
    assert_true(sq_lane_at_end(&l, 600));
}

static void bounds(void **state)
{
    (void)state;
    struct sq_lane l = {0};
    char *big = calloc(1, 65536);
    assert_non_null(big);
    (void)sq_lane_put(&l, -1, big, 65536, 0, 0, 100);
    assert_true(sq_lane_full(&l, 100));
    sq_lane_clear(&l);
    assert_false(sq_lane_full(&l, 100));
    for (int i = 0; i < 15; i++)
        (void)sq_lane_put(&l, -1, big, 65536, 500, 0, 100);
    assert_false(sq_lane_full(&l, 100)); /* a delay holds more */
    (void)sq_lane_put(&l, -1, big, 65536, 500, 0, 100);
    assert_true(sq_lane_full(&l, 100));
    sq_lane_clear(&l);
    free(big);
}

/* What the socket does not take is kept, in order; a broken socket is an error. */
static void backlog(void **state)
{
    (void)state;
    struct sq_lane l = {0};
    size_t len = 8u << 20, got = 0;
    unsigned char *data = malloc(len), *back = malloc(len);
    assert_true(data && back);
    for (size_t i = 0; i < len; i++)
        data[i] = (unsigned char)(i * 2654435761u >> 24);
    for (size_t i = 0; i < len; i += 65536)
        assert_int_equal(sq_lane_put(&l, pair[0], (const char *)data + i, 65536, 0, 0, 1), 0);
    assert_true(l.blocked && l.head && sq_lane_next(&l) == INT64_MAX);
    while (got < len) {
        ssize_t n = recv(pair[1], back + got, len - got, MSG_DONTWAIT);
        if (n > 0)
            got += (size_t)n;
        assert_int_equal(sq_lane_flush(&l, pair[0], 1), 0);
    }
    assert_memory_equal(data, back, len);
    assert_true(!l.head && l.out == len);
    free(data);
    free(back);
    (void)shutdown(pair[1], SHUT_RDWR);
    assert_int_equal(sq_lane_put(&l, pair[0], "x", 1, 0, 0, 1), -EPIPE);
}

struct probe {
    struct sq_timer t;
    int64_t fired;
};
static struct sq_timers timers;
static int left;

static void fire(struct sq_timer *t)
{
    struct probe *p = (struct probe *)t;
    p->fired = sq_mono_ns();
    left--;
}

enum { N = 500 };

/* How many of N timers are late. */
static int lateness(void)
{
    uv_loop_t loop;
    static struct probe p[N];
    struct sq_rng r;
    memset(p, 0, sizeof p);
    sq_rng_seed(&r, 3);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(sq_timers_init(&timers, &loop), 0);
    int64_t t0 = sq_mono_ns();
    for (int i = 0; i < N; i++)
        assert_int_equal(sq_timer_set(&timers, &p[i].t, t0 + (int64_t)sq_rng_below(&r, 200000000), fire), 0);
    left = N;
    for (int i = 0; i < N; i += 5) { /* moved, and stopped */
        (void)sq_timer_set(&timers, &p[i].t, t0 + (int64_t)sq_rng_below(&r, 200000000), fire);
        if (i % 2)
            continue;
        sq_timer_stop(&timers, &p[i].t);
        left--;
    }
    uv_ref((uv_handle_t *)&timers.poll);
    while (left > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    int late = 0;
    for (int i = 0; i < N; i++) {
        assert_true((p[i].fired == 0) == (i % 10 == 0));
        assert_true(p[i].fired == 0 || p[i].fired >= p[i].t.due);
        late += p[i].fired > p[i].t.due + 500000;
    }
    assert_true(timers.n == 0);
    sq_timers_close(&timers);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return late;
}

static void timing(void **state)
{
    int late = N;

    (void)state;
    for (int i = 0; i < 20 && late >= N / 4; i++) /* a loaded machine is late now and then, but not for ever */
        late = lateness();
    assert_true(late < N / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(straight_through, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(due_times, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(black_holes, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(bounds, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(backlog, open_pair, close_pair),
        cmocka_unit_test(timing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
