/* The probe against servers whose law of latency is known: its percentiles are those of the law, within 1 % (p99.9
 * within 3 %; 5 % without real-time priority). The delays are a sequence without chance, so that the sample's own
 * percentiles are the law's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "unit/probe_run.h"
#include "unit/probe_server.h"

/* The n-th of a sequence that fills [0, 1) evenly, whatever its length (multiples of the golden ratio). */
static double even(uint64_t n)
{
    return fmod((double)n * 0.6180339887498949, 1);
}

static void uniform(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)c;
    (void)request;
    r->text = SRV_OK;
    r->delay = 100 * SQ_MS + (int64_t)(even(s->requests) * 400e6);
}

static void bimodal(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)c;
    (void)request;
    r->text = SRV_OK;
    r->delay = even(s->requests) < 0.9 ? 200 * SQ_MS : 800 * SQ_MS;
}

static void assert_law(const struct sq_hist *h, double p, double truth_ms)
{
    double got = (double)sq_hist_percentile(h, p) / 1e6;
    double limit = geteuid() != 0 ? 0.05 : p > 99.5 ? 0.03 : 0.01;

    print_message("p%g: %.2f ms, truth %.2f ms (%+.2f %%)\n", p, got, truth_ms, 100 * (got / truth_ms - 1));
    assert_true(fabs(got / truth_ms - 1) <= limit);
}

static struct sq_hist *measure(struct srv *s, double rate, int connections, int64_t ns, const char *more)
{
    struct sq_hist *h;
    struct run r;
    char url[64];

    assert_int_equal(srv_start(s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s->port);
    begin_run(&r, load_of(rate, url, 5 * SQ_S, connections, more), NULL, NULL);
    if (s->stall_to > 0) {
        int64_t at = sq_probe_begin_ns(r.probe) + ns / 2;

        __atomic_store_n(&s->stall_from, at, __ATOMIC_RELEASE);
        __atomic_store_n(&s->stall_to, at + SQ_S, __ATOMIC_RELEASE);
    }
    sleep_until(sq_probe_begin_ns(r.probe) + ns);
    end_run(&r, -1);
    srv_stop(s);
    h = merged(&r, "h");
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    free_run(&r);
    return h;
}

static void test_uniform(void **state)
{
    static struct srv s = {.answer = uniform, .real_time = true};
    struct sq_hist *h;

    (void)state;
    h = measure(&s, 800, 600, 4 * SQ_S, NULL);
    assert_law(h, 50, 300);
    assert_law(h, 90, 460);
    assert_law(h, 95, 480);
    assert_law(h, 99, 496);
    assert_law(h, 99.9, 499.6);
    sq_hist_free(h);
}

static void test_bimodal(void **state)
{
    static struct srv s = {.answer = bimodal, .real_time = true};
    struct sq_hist *h;

    (void)state;
    h = measure(&s, 500, 400, 4 * SQ_S, NULL);
    assert_law(h, 50, 200);
    assert_law(h, 85, 200);
    assert_law(h, 95, 800);
    assert_law(h, 99.9, 800);
    sq_hist_free(h);
}

/* 1,000/s for 10 s, the server stands still for 1 s: a tenth of the users waited, evenly between 0 and 1 s, however few
 * connections there are. A closed loop sees next to nothing of it. */
static void test_stall(void **state)
{
    static const int connections[] = {10, 50};
    struct sq_hist *h;

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(connections); i++) {
        struct srv s = {.real_time = true, .stall_to = 1};

        h = measure(&s, 1000, connections[i], 10 * SQ_S, NULL);
        assert_law(h, 95, 500);
        assert_law(h, 99, 900);
        assert_law(h, 99.9, 990);
        sq_hist_free(h);
    }
}

static void test_closed_loop_is_blind(void **state)
{
    struct srv s = {.stall_to = 1};
    struct sq_hist *h;

    (void)state;
    h = measure(&s, 1, 10, 4 * SQ_S, "{\"executor\":\"constant-connections\"}");
    print_message("closed loop: p95 %.2f ms, p99 %.2f ms, max %.0f ms\n", (double)sq_hist_percentile(h, 95) / 1e6,
                  (double)sq_hist_percentile(h, 99) / 1e6, (double)sq_hist_max(h) / 1e6);
    assert_true(sq_hist_count(h) > 4000);
    assert_true(sq_hist_percentile(h, 99) < 100 * SQ_MS); /* the truth: a quarter of the time nobody was served */
    assert_true(sq_hist_max(h) >= 900 * SQ_MS);
    sq_hist_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_bimodal),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_closed_loop_is_blind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
