/* SLOs over evidence: what our own probe's seconds and a Prometheus' answers say of them, second by second, and what
 * the checks and the table make of it. */
#include "squall/cleanup.h"
#include "unit/verify_rig.h"
#include "verify/slo_series.h"

#define STEPS "\"steps\":[{\"id\":\"s\",\"uses\":\"call/error\"}]"
#define SLO(inside) STEPS ",\"slos\":{\"x\":{" inside "}}"
#define DAYS30 "\"window\":2592000000000000"
#define PROMETHEUS "\"source\":\"prometheus\",\"prometheus\":\"http://p\",\"every\":5000000000"

/* 60 s at 100/s of 20 ms; from 20 to 50 s the fault is on, and BAD a second fail after 300 ms, or (SLOW) are good but
 * late. */
static void probed(struct rig *r, const char *spec, unsigned bad, bool slow)
{
    rig_open(r, spec);
    rig_steady(r, 0, 20, true);
    rig_fault(r, "f1", "s", "call/error", 20, 50, "");
    for (int sec = 0; sec < 60; sec++) {
        unsigned b = sec >= 20 && sec < 50 ? bad : 0;
        char hok[160];

        struct sq_hist *h = sq_hist_new();
        for (unsigned i = 0; i < 100 - b; i++)
            sq_hist_record(h, 20 * SQ_MS);
        for (unsigned i = 0; slow && i < b; i++)
            sq_hist_record(h, 300 * SQ_MS);
        json_t *j = sq_hist_to_json(h);
        char *text = json_dumps(j, JSON_COMPACT);
        (void)snprintf(hok, sizeof hok, "\"hok\":%s", text);
        if (slow) { /* good ones of two latencies */
            rig_line(r,
                     "{\"t\":%d.5,\"type\":\"sample\",\"sec\":%d,\"endpoint\":\"cart\",\"sent\":100,\"ok\":100,"
                     "\"bad\":{},\"late\":0,\"lag_late\":0,\"h\":%s,%s}",
                     sec + 1, sec, text, hok);
        } else {
            rig_second(r, "cart", sec, 100 - b, 20, b, 300, hok);
        }
        free(text);
        json_decref(j);
        sq_hist_free(h);
    }
    rig_end(r, 61);
}

static void from_probe(void **state)
{
    static const struct {
        const char *spec;
        unsigned bad;
        bool slow;
        double good, total; /* of the fault's 30 s */
        const char *want;   /* the check slo */
    } cases[] = {
        {SLO("\"target\":95," DAYS30 ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\"}"),
         3, false, 2910, 3000, "pass"},
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\",\"below\":100000000}"),
         3, true, 2910, 3000, "pass"},
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\",\"below\":100000000}"),
         8, true, 2760, 3000, "fail"},
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\",\"below\":100000000}"),
         5, true, 2850, 3000, "inconclusive"}, /* just 95 % */
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\",\"below\":1000000000}"),
         8, true, 3000, 3000, "pass"},
        /* latency alone: what failed after 300 ms was slower than 100 ms, and not than 1 s */
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"ignored\",\"below\":100000000}"),
         8, false, 2760, 3000, "fail"},
        {SLO("\"target\":95," DAYS30
             ",\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"ignored\",\"below\":1000000000}"),
         8, false, 3000, 3000, "pass"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sq_slo_series s;
        struct sq_slo slo;
        struct rig r;

        probed(&r, cases[i].spec, cases[i].bad, cases[i].slow);
        rig_read(&r);
        assert_int_equal(sq_slo_find(r.ev, "x", &slo, NULL), 0);
        assert_int_equal(sq_slo_series(r.ev, &slo, &s, NULL), 0);
        struct sq_slo_sum sum = sq_slo_sum(&s, 20, 50);
        if (sum.good != cases[i].good || sum.total != cases[i].total)
            fail_msg("case %zu: %g of %g", i, sum.good, sum.total);
        /* three days before it, taken as clean at the run's own rate */
        assert_true(s.before == SQ_SLO_BEFORE && !s.history && s.total[0] == 100 && s.good[0] == 100);
        sq_slo_series_free(&s);
        EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"s\",\"slo\":\"x\"}"), cases[i].want);
        rig_close(&r);
    }
}

/* Slices of 10 s, each good when 95 % of it are: with 8 bad a second those of 20 to 50 s are bad. */
static void slices(void **state)
{
    struct sq_slo_series s;
    struct sq_slo slo;
    struct rig r;

    (void)state;
    probed(&r,
           SLO("\"target\":90," DAYS30 ",\"slices\":{\"of\":10000000000,\"target\":95},"
               "\"indicator\":{\"source\":\"probe\",\"endpoint\":\"cart\",\"failed\":\"bad\"}"),
           8, false);
    rig_read(&r);
    assert_int_equal(sq_slo_find(r.ev, "x", &slo, NULL), 0);
    assert_int_equal(sq_slo_series(r.ev, &slo, &s, NULL), 0);
    struct sq_slo_sum sum = sq_slo_sum(&s, 0, 60);
    assert_true(sum.total == 6 && sum.good == 3);
    assert_string_equal(s.unit, "time slices");
    sq_slo_series_free(&s);
    rig_close(&r);
}

static void looks(struct rig *r, const char *spec, const char *const *values)
{
    rig_open(r, spec);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "call/error", 10, 40, "");
    for (int i = 0; values[i]; i++)
        rig_line(r, "{\"t\":%d,\"type\":\"metric\",\"slo\":\"x\",%s}", 5 * i, values[i]);
    rig_end(r, 50);
}

/* One value every 5 s from 0 on; of the fault's 30 s. */
static void from_prometheus(void **state)
{
#define V(a, b) "\"values\":[" #a "," #b "]"
    static const struct {
        const char *indicator;
        const char *values[12];
        double good, total;
        uint64_t gaps;
        const char *want, *says;
    } cases[] = {
        /* 100/s, 90 of them good from the value at 15 s on: that of 10 to 15 s is the first one in the fault */
        {PROMETHEUS ",\"good\":\"g\",\"total\":\"t\",\"counter\":false",
         {V(100, 100), V(100, 100), V(100, 100), V(80, 100), V(80, 100), V(80, 100), V(80, 100), V(80, 100), V(80, 100),
          V(100, 100), V(100, 100)},
         2400,
         3000,
         0,
         "fail",
         "600 of 3000"},
        {PROMETHEUS ",\"bad\":\"g\",\"total\":\"t\",\"counter\":false",
         {V(0, 100), V(0, 100), V(0, 100), V(1, 100), V(1, 100), V(1, 100), V(1, 100), V(1, 100), V(1, 100), V(0, 100),
          V(0, 100)},
         2970,
         3000,
         0,
         "pass",
         "30 of 3000"},
        {PROMETHEUS ",\"bad\":\"g\",\"total\":\"t\",\"counter\":true",
         {V(7, 1000), V(7, 1500), V(7, 2000), V(207, 2500), V(207, 3000), V(207, 3500), V(207, 4000), V(207, 4500),
          V(207, 5000), V(207, 5500)},
         2800,
         3000,
         0,
         "inconclusive",
         ""},
        /* something restarted between 20 and 25 s: these seconds, and the one of the look itself, are not known */
        {PROMETHEUS ",\"bad\":\"g\",\"total\":\"t\",\"counter\":true",
         {V(7, 1000), V(7, 1500), V(7, 2000), V(7, 2500), V(7, 3000), V(0, 100), V(0, 600), V(0, 1100), V(0, 1600),
          V(0, 2100)},
         2500,
         2500,
         6,
         "inconclusive",
         "a counter went back"},
        /* refused once, at 20 s: the seconds since the last answer are not known */
        {PROMETHEUS ",\"good\":\"g\",\"total\":\"t\",\"counter\":false",
         {V(100, 100), V(100, 100), V(100, 100), V(100, 100), "\"error\":\"refused: no\"", V(100, 100), V(100, 100),
          V(100, 100), V(100, 100), V(100, 100)},
         3000,
         3000,
         6,
         "inconclusive",
         "refused: no"},
        {PROMETHEUS ",\"good\":\"g\",\"total\":\"t\",\"counter\":false",
         {V(100, 100), V(100, 100), V(100, 100), V(120, 100), V(100, 100), V(100, 100), V(100, 100), V(100, 100),
          V(100, 100), V(100, 100)},
         3000,
         3000,
         6,
         "inconclusive",
         "more good than all"},
        {PROMETHEUS ",\"raw\":\"g\",\"raw_type\":\"failure\"",
         {"\"values\":[0]", "\"values\":[0]", "\"values\":[0]", "\"values\":[0.5]", "\"values\":[0.5]",
          "\"values\":[1.0005]", "\"values\":[0]", "\"values\":[0]", "\"values\":[0]", "\"values\":[0]"},
         4,
         6,
         0,
         "fail",
         "on average"},
        {PROMETHEUS ",\"query\":\"g\",\"op\":\"lt\",\"value\":100.0",
         {"\"values\":[0]", "\"values\":[1]", "\"values\":[99]", "\"values\":[100]", "\"values\":[101]",
          "\"values\":[5]", "\"values\":[5]", "\"values\":[5]", "\"values\":[5]"},
         4,
         6,
         0,
         "inconclusive",
         ""},
        {PROMETHEUS ",\"good\":\"g\",\"total\":\"t\",\"counter\":false",
         {NULL},
         0,
         0,
         0,
         "inconclusive",
         "never asked"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sq_slo_series s;
        struct sq_slo slo;
        char spec[600];
        struct rig r;

        (void)snprintf(spec, sizeof spec, SLO("\"target\":93," DAYS30 ",\"indicator\":{%s}"), cases[i].indicator);
        looks(&r, spec, cases[i].values);
        rig_read(&r);
        assert_int_equal(sq_slo_find(r.ev, "x", &slo, NULL), 0);
        assert_int_equal(sq_slo_series(r.ev, &slo, &s, NULL), 0);
        struct sq_slo_sum sum = sq_slo_sum(&s, 10, 40);
        if (fabs(sum.good - cases[i].good) > 1e-6 || fabs(sum.total - cases[i].total) > 1e-6 ||
            sum.gaps != cases[i].gaps)
            fail_msg("case %zu: %g of %g, %llu gaps", i, sum.good, sum.total, (unsigned long long)sum.gaps);
        sq_slo_series_free(&s);
        EXPECT(&r, rig_check(&r, "slo", "{\"step\":\"s\",\"slo\":\"x\"}"), cases[i].want);
        if (!strstr(rig_why(&r, 0), cases[i].says))
            fail_msg("case %zu says: %s", i, rig_why(&r, 0));
        rig_close(&r);
    }
}

/* The hour before it was bad, as a Prometheus has it: the page is there in the first second, and its short window ends
 * it when the run's own good seconds outweigh what is left of it. */
static void history(void **state)
{
    cleanup_json json_t *rows = NULL;
    struct rig r;

    (void)state;
    rig_open(&r, SLO("\"target\":99," DAYS30 ",\"indicator\":{" PROMETHEUS
                     ",\"good\":\"g\",\"total\":\"t\",\"counter\":false}"));
    (void)fputs("{\"t\":1,\"type\":\"metric\",\"slo\":\"x\",\"about\":\"history\",\"step\":60,\"history\":[", r.f);
    for (int t = -7200; t <= 0; t += 60)
        (void)fprintf(r.f, "%s[%d,%d,100]", t > -7200 ? "," : "", t, t > -3600 ? 50 : 100);
    (void)fputs("]}\n", r.f);
    for (int t = 0; t <= 600; t += 5)
        rig_line(&r, "{\"t\":%d,\"type\":\"metric\",\"slo\":\"x\"," V(100, 100) "}", t);
    rig_end(&r, 600);
    rig_read(&r);
    assert_int_equal(sq_slo_table(r.ev, &rows, NULL), 0);
    const json_t *row = json_array_get(rows, 0), *page = json_array_get(json_object_get(row, "alerts"), 0);
    assert_string_equal(sq_json_str_or(row, "before", ""), "measured");
    assert_string_equal(sq_json_str_or(page, "state", ""), "fired");
    assert_int_equal(sq_json_int_or(page, "at", -1), 1);
    /* 5 minutes burn at 0.5 bad / 300 s / 0.01: over 14.4 with at least 87 of the bad seconds, until second 213 */
    assert_in_range(sq_json_int_or(page, "until", 0), 211, 215);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(from_probe), cmocka_unit_test(slices),
                                       cmocka_unit_test(from_prometheus), cmocka_unit_test(history)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
