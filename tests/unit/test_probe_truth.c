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

#define TRIES 4
#define ACCOUNT 10100 /* requests */

/* When the server sent each answer; requests come in the order they were planned in. */
struct account {
    int64_t sent[ACCOUNT];
};

static void note(struct srv *s, const struct srv_conn *c)
{
    if (c->number < ACCOUNT)
        ((struct account *)s->arg)->sent[c->number] = sq_mono_ns();
}

struct law {
    void (*answer)(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r);
    int64_t rate, ns;
    int64_t stall; /* it stands still for 1 s, so long after the beginning; 0: it does not */
    struct {
        double p, ms;
    } at[5];
};

struct seen {
    struct sq_hist *probe, *server; /* what each of them says how long the users waited */
    double late;                    /* percent of the requests that the probe itself was late with */
};

static void run_law(const struct law *l, int connections, struct seen *out)
{
    struct account *a = calloc(1, sizeof *a);
    struct srv s = {.real_time = true, .answer = l->answer, .sent = note, .arg = a};
    struct run r;
    char url[64];
    int64_t begin;

    assert_non_null(a);
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    begin_run(&r, load_of((double)l->rate, url, 5 * SQ_S, connections, NULL),
              geteuid() == 0 ? "{\"over\": 5000000, \"share\": 100.0}" : "{\"over\": 25000000, \"share\": 100.0}",
              NULL);
    begin = sq_probe_begin_ns(r.probe);
    if (l->stall > 0) {
        __atomic_store_n(&s.stall_from, begin + l->stall, __ATOMIC_RELEASE);
        __atomic_store_n(&s.stall_to, begin + l->stall + SQ_S, __ATOMIC_RELEASE);
    }
    sleep_until(begin + l->ns);
    end_run(&r, -1);
    srv_stop(&s);
    out->probe = merged(&r, "h");
    out->server = sq_hist_new();
    out->late = sq_json_num_or(json_array_get(r.end, 0), "lag_share", 100);
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    assert_int_equal(s.requests, (uint64_t)end_int(&r, "planned"));
    for (uint64_t i = 0; i < s.requests && i < ACCOUNT; i++)
        sq_hist_record(out->server, a->sent[i] - begin - (int64_t)i * (SQ_S / l->rate));
    free(a);
    free_run(&r);
}

/* The server, too, knows how long its users waited: where it says that the law did not hold (the host kept it from its
 * work, or let it catch up too slowly after a stall: at 10 us a request p95 is 1 % off), or the probe that it was late
 * itself, the run says nothing about the probe, and there is another. */
static void check_law(const struct law *l, int connections)
{
    const bool root = geteuid() == 0; /* real-time priority */
    const double share = root ? 0.009 : 0.045;
    const double late = 0.05; /* half of those that p99.9 leaves out */

    for (int try = 0; try < TRIES; try++) {
        struct seen x;
        bool held;

        run_law(l, connections, &x);
        held = x.late < late;
        for (size_t i = 0; i < SQ_COUNT(l->at) && l->at[i].p > 0; i++) {
            double server = (double)sq_hist_percentile(x.server, l->at[i].p) / 1e6;

            held = held && fabs(server / l->at[i].ms - 1) < share;
        }
        for (size_t i = 0; held && i < SQ_COUNT(l->at) && l->at[i].p > 0; i++)
            assert_law(x.probe, l->at[i].p, l->at[i].ms);
        if (!held)
            print_message("disturbed: the server says p95 %.2f ms, the probe says that it was late with %.2f %%\n",
                          (double)sq_hist_percentile(x.server, 95) / 1e6, x.late);
        /* Disturbed or not, both saw the same. */
        for (size_t i = 0; i < SQ_COUNT(l->at) && l->at[i].p > 0 && x.late < late; i++)
            assert_law(x.probe, l->at[i].p, (double)sq_hist_percentile(x.server, l->at[i].p) / 1e6);
        sq_hist_free(x.probe);
        sq_hist_free(x.server);
        if (held)
            return;
    }
    print_message("the host never left the server alone\n");
    skip();
}

static void test_uniform(void **state)
{
    static const struct law l = {
        uniform, 800, 4 * SQ_S, 0, {{50, 300}, {90, 460}, {95, 480}, {99, 496}, {99.9, 499.6}}};

    (void)state;
    check_law(&l, 600);
}

static void test_bimodal(void **state)
{
    static const struct law l = {bimodal, 500, 4 * SQ_S, 0, {{50, 200}, {85, 200}, {95, 800}, {99.9, 800}}};

    (void)state;
    check_law(&l, 400);
}

static void at_once(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)s;
    (void)c;
    (void)request;
    r->text = SRV_OK;
}

/* 1,000/s for 10 s, the server stands still for 1 s in the middle: a tenth of the users waited, evenly between 0 and
 * 1 s, however few connections there are. */
static const struct law stall = {at_once, 1000, 10 * SQ_S, 5 * SQ_S, {{95, 500}, {99, 900}, {99.9, 990}}};

static void test_stall_few(void **state)
{
    (void)state;
    check_law(&stall, 10);
}

static void test_stall_many(void **state)
{
    (void)state;
    check_law(&stall, 50);
}

/* A closed loop sees next to nothing of it. */
static void test_closed_loop_is_blind(void **state)
{
    struct srv s = {0};
    struct sq_hist *h;
    struct run r;
    char url[64];
    int64_t begin;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    begin_run(&r, load_of(1, url, 5 * SQ_S, 10, "{\"executor\":\"constant-connections\"}"), NULL, NULL);
    begin = sq_probe_begin_ns(r.probe);
    __atomic_store_n(&s.stall_from, begin + 2 * SQ_S, __ATOMIC_RELEASE);
    __atomic_store_n(&s.stall_to, begin + 3 * SQ_S, __ATOMIC_RELEASE);
    sleep_until(begin + 4 * SQ_S);
    end_run(&r, -1);
    srv_stop(&s);
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    h = merged(&r, "h");
    print_message("closed loop: p95 %.2f ms, p99 %.2f ms, max %.0f ms\n", (double)sq_hist_percentile(h, 95) / 1e6,
                  (double)sq_hist_percentile(h, 99) / 1e6, (double)sq_hist_max(h) / 1e6);
    assert_true(sq_hist_count(h) > 2000);                 /* so that ten who wait are less than a hundredth */
    assert_true(sq_hist_percentile(h, 99) < 100 * SQ_MS); /* the truth: a quarter of the time nobody was served */
    assert_true(sq_hist_max(h) >= 900 * SQ_MS);
    sq_hist_free(h);
    free_run(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_bimodal),
        cmocka_unit_test(test_stall_few),
        cmocka_unit_test(test_stall_many),
        cmocka_unit_test(test_closed_loop_is_blind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
