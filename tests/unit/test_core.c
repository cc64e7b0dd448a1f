/* The core library: units, histograms, random choice, schemas, processes. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "squall/cleanup.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/rng.h"
#include "squall/spec.h"
#include "squall/units.h"

static void durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {{"200ms", 200 * SQ_MS}, {"1.5s", 1500 * SQ_MS},  {"2m", 120 * SQ_S}, {"1h", 3600 * SQ_S},
                {"1m30s", 90 * SQ_S},   {"10us", 10 * SQ_US},    {"7ns", 7},         {"0", 0},
                {"0.1ms", 100 * SQ_US}, {"100d", 8640000 * SQ_S}};
    static const char *const bad[] = {"",       "5",    "-1s",  "1 s", "s",
                                      "1.2.3s", "1e3s", "nan",  "inf", "0x5s",
                                      "1sec",   "1ss",  "101d", "1s ", "99999999999999999999s",
                                      "1min",   "ms1"};
    int64_t ns;

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(good); i++) {
        assert_int_equal(sq_parse_duration(good[i].text, &ns, NULL), 0);
        assert_int_equal(ns, good[i].ns);
    }
    for (size_t i = 0; i < SQ_COUNT(bad); i++) {
        struct sq_err e = {0};

        assert_int_equal(sq_parse_duration(bad[i], &ns, &e), -EINVAL);
        assert_int_equal(e.cls, SQ_C_INPUT);
        assert_true(e.hint[0] != '\0');
    }
}

static void rates_and_percentages(void **state)
{
    double v;
    static const char *const bad_rates[] = {"", "60", "0/s", "-1/s", "60/d", "60 /s", "20000000/s", "/s"};
    static const char *const bad_percents[] = {"", "30", "101%", "-1%", "30 %", "%", "1e1%"};

    (void)state;
    assert_int_equal(sq_parse_rate("60/s", &v, NULL), 0);
    assert_true(fabs(v - 60) < 1e-9);
    assert_int_equal(sq_parse_rate("300/m", &v, NULL), 0);
    assert_true(fabs(v - 5) < 1e-9);
    assert_int_equal(sq_parse_percent("0.1%", &v, NULL), 0);
    assert_true(fabs(v - 0.1) < 1e-12);
    for (size_t i = 0; i < SQ_COUNT(bad_rates); i++)
        assert_int_equal(sq_parse_rate(bad_rates[i], &v, NULL), -EINVAL);
    for (size_t i = 0; i < SQ_COUNT(bad_percents); i++)
        assert_int_equal(sq_parse_percent(bad_percents[i], &v, NULL), -EINVAL);
}

static void names(void **state)
{
    struct sq_err e = {0};
    int v;

    (void)state;
    assert_int_equal(sq_parse_errno("econnrefused", &v, NULL), 0);
    assert_int_equal(v, ECONNREFUSED);
    assert_int_equal(sq_parse_errno("110", &v, NULL), 0);
    assert_int_equal(v, ETIMEDOUT);
    assert_int_equal(sq_parse_errno("EINTR", &v, &e), -EINVAL);
    assert_non_null(strstr(e.hint, "Node.js"));
    assert_int_equal(sq_parse_errno("4", &v, NULL), -EINVAL);
    assert_int_equal(sq_parse_errno("", &v, NULL), -EINVAL);
    assert_int_equal(sq_parse_signal("TERM", &v, NULL), 0);
    assert_int_equal(v, SIGTERM);
    assert_int_equal(sq_parse_signal("sigkill", &v, NULL), 0);
    assert_int_equal(v, SIGKILL);
    assert_int_equal(sq_parse_signal("0", &v, NULL), -EINVAL);
    assert_int_equal(sq_parse_signal("65", &v, NULL), -EINVAL);
}

static void counts(void **state)
{
    struct sq_count c;

    (void)state;
    assert_int_equal(sq_parse_count("30%", &c, NULL), 0);
    assert_int_equal(sq_count_of(&c, 10), 3);
    assert_int_equal(sq_count_of(&c, 1), 1);
    assert_int_equal(sq_count_of(&c, 11), 4);
    assert_int_equal(sq_parse_count("all", &c, NULL), 0);
    assert_int_equal(sq_count_of(&c, 7), 7);
    assert_int_equal(sq_parse_count("2", &c, NULL), 0);
    assert_int_equal(sq_count_of(&c, 7), 2);
    assert_int_equal(sq_count_of(&c, 1), 1);
    assert_int_equal(sq_parse_count("0", &c, NULL), -EINVAL);
    assert_int_equal(sq_parse_count("1.5", &c, NULL), -EINVAL);
    assert_int_equal(sq_parse_count("0%", &c, NULL), -EINVAL);
}

static void histogram_keeps_three_digits(void **state)
{
    struct sq_hist *h = sq_hist_new();

    (void)state;
    for (int64_t i = 1; i <= 100000; i++)
        sq_hist_record(h, i * 1000);
    assert_int_equal(sq_hist_count(h), 100000);
    for (double p = 1; p < 100; p += 7.3) {
        double truth = ceil(p / 100 * 100000) * 1000;

        assert_true(fabs((double)sq_hist_percentile(h, p) - truth) <= truth / 1000);
    }
    assert_int_equal(sq_hist_percentile(h, 100), 100000 * 1000);
    assert_true(fabs(sq_hist_mean(h) - 50000.5e3) < 1);
    assert_true(fabs((double)sq_hist_count_le(h, 50000 * 1000) - 50000) <= 50);
    sq_hist_free(h);
}

static void histogram_survives_json_and_merging(void **state)
{
    struct sq_hist *a = sq_hist_new(), *b = sq_hist_new();
    struct sq_rng rng;
    json_t *j;

    (void)state;
    sq_rng_seed(&rng, 7);
    for (int i = 0; i < 5000; i++)
        sq_hist_record(a, (int64_t)sq_rng_below(&rng, UINT64_C(1) << (i % 44)));
    sq_hist_record(a, -5);
    sq_hist_record(a, INT64_MAX);
    j = sq_hist_to_json(a);
    assert_int_equal(sq_hist_add_json(b, j, NULL), 0);
    assert_int_equal(sq_hist_add_json(b, j, NULL), 0);
    assert_int_equal(sq_hist_count(b), 2 * sq_hist_count(a));
    for (double p = 0.5; p < 100; p += 0.5)
        assert_true(llabs(sq_hist_percentile(a, p) - sq_hist_percentile(b, p)) <= sq_hist_percentile(a, p) / 1000 + 1);
    sq_hist_reset(b);
    sq_hist_add(b, a);
    assert_int_equal(sq_hist_rank(b, 17), sq_hist_rank(a, 17));
    json_decref(j);
    sq_hist_free(a);
    sq_hist_free(b);
}

static void histogram_refuses_junk(void **state)
{
    static const char *const junk[] = {"[1]",    "[-1,1]",          "[99999999,1]", "[1,0]",
                                       "[1,-3]", "[1,99999999999]", "{}",           "[1,4294967295,1,1]"};
    struct sq_hist *h = sq_hist_new();

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(junk); i++) {
        json_t *j = NULL;

        assert_int_equal(sq_json_parse(junk[i], strlen(junk[i]), &j, NULL), 0);
        assert_true(sq_hist_add_json(h, j, NULL) < 0);
        json_decref(j);
    }
    sq_hist_free(h);
}

static void choice_is_seeded_and_fair(void **state)
{
    struct sq_rng a, b;
    unsigned hits[10] = {0};
    size_t x[3], y[3];

    (void)state;
    sq_rng_seed(&a, 42);
    sq_rng_seed(&b, 42);
    for (int i = 0; i < 10000; i++) {
        sq_rng_choose(&a, 10, 3, x);
        sq_rng_choose(&b, 10, 3, y);
        assert_memory_equal(x, y, sizeof x);
        assert_true(x[0] < x[1] && x[1] < x[2] && x[2] < 10);
        for (int k = 0; k < 3; k++)
            hits[x[k]]++;
    }
    for (int i = 0; i < 10; i++) /* 3000 expected, sigma 46 */
        assert_in_range(hits[i], 2770, 3230);
}

static void schemas(void **state)
{
    static const struct sq_param params[] = {
        {"delay", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how long"},
        {"percent", SQ_P_PERCENT, 0, "100%", NULL, "share"},
        {"method", SQ_P_ENUM, 0, "auto", "auto|signal|freezer", "how"},
        SQ_PARAM_END,
    };
    struct sq_err e = {0};
    json_t *in = json_pack("{s:s}", "delay", "200ms"), *out = NULL, *again = NULL;
    const char *key;
    int is_key;

    (void)state;
    assert_int_equal(sq_spec_check("x", params, in, &out, NULL, NULL, &e), 0);
    assert_int_equal(json_integer_value(json_object_get(out, "delay")), 200 * SQ_MS);
    assert_true(json_real_value(json_object_get(out, "percent")) == 100.0);
    assert_int_equal(sq_spec_normalize("x", params, out, &again, &e), 0);
    assert_true(json_equal(out, again));
    assert_int_equal(sq_spec_check("x", params, out, &again, NULL, NULL, &e), -EINVAL); /* 200000000: no unit */
    sq_err_clear(&e);
    json_object_set_new(in, "dealy", json_string("1s"));
    assert_int_equal(sq_spec_check("x", params, in, &again, &key, &is_key, &e), -EINVAL);
    assert_string_equal(key, "dealy");
    assert_int_equal(is_key, 1);
    assert_string_equal(e.hint, "did you mean \"delay\"?");
    json_object_del(in, "dealy");
    json_object_set_new(in, "method", json_string("frezer"));
    sq_err_clear(&e);
    assert_int_equal(sq_spec_check("x", params, in, &again, &key, &is_key, &e), -EINVAL);
    assert_string_equal(key, "method");
    assert_int_equal(is_key, 0);
    sq_err_clear(&e);
    assert_int_equal(sq_spec_check("x", params, NULL, &again, &key, NULL, &e), -EINVAL);
    assert_string_equal(key, "delay");
    json_decref(in);
    json_decref(out);
    json_decref(again);
}

static void lists_of_words_take_numbers(void **state)
{
    static const struct sq_param params[] = {{"status", SQ_P_STRINGS, 0, NULL, NULL, "which"}, SQ_PARAM_END};
    json_t *one = json_pack("{s:i}", "status", 200), *many = json_pack("{s:[i,s]}", "status", 200, "5xx"), *out = NULL;
    json_t *wrong = json_pack("{s:[f]}", "status", 1.5);

    (void)state;
    assert_int_equal(sq_spec_check("x", params, one, &out, NULL, NULL, NULL), 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(out, "status"), 0)), "200");
    json_decref(out);
    assert_int_equal(sq_spec_check("x", params, many, &out, NULL, NULL, NULL), 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(out, "status"), 1)), "5xx");
    json_decref(out);
    assert_int_equal(sq_spec_check("x", params, wrong, &out, NULL, NULL, NULL), -EINVAL);
    json_decref(one);
    json_decref(many);
    json_decref(wrong);
}

static void a_process_is_its_pid_and_start_time(void **state)
{
    struct sq_proc p;
    pid_t child = fork();
    int fd;

    (void)state;
    if (child == 0) {
        pause();
        _exit(0);
    }
    assert_int_equal(sq_proc_read(child, &p, NULL), 0);
    assert_int_equal(p.ppid, getpid());
    assert_int_equal(sq_proc_pidfd(child, p.start + 1, NULL), -ESRCH);
    fd = sq_proc_pidfd(child, p.start, NULL);
    assert_true(fd >= 0);
    assert_int_equal(sq_pidfd_signal(fd, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(sq_pidfd_signal(fd, 0), -ESRCH);
    close(fd);
    assert_int_equal(sq_proc_pidfd(child, p.start, NULL), -ESRCH);
    assert_int_equal(strlen(sq_boot_id()), 36);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(rates_and_percentages),
        cmocka_unit_test(names),
        cmocka_unit_test(counts),
        cmocka_unit_test(histogram_keeps_three_digits),
        cmocka_unit_test(histogram_survives_json_and_merging),
        cmocka_unit_test(histogram_refuses_junk),
        cmocka_unit_test(choice_is_seeded_and_fair),
        cmocka_unit_test(schemas),
        cmocka_unit_test(lists_of_words_take_numbers),
        cmocka_unit_test(a_process_is_its_pid_and_start_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
