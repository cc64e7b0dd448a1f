/* Distribution tables: iproute2's to the bit, .dist files, HdrHistogram logs, evidence of a run. */
#include <errno.h>
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/recorded.h"
#include "squall/cleanup.h"
#include "squall/hist.h"
#include "squall/rng.h"
#include "squall/units.h"

static uint64_t fnv(const struct sq_dist_table *t)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < t->n * sizeof t->v[0]; i++)
        h = (h ^ ((const unsigned char *)t->v)[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* The hashes are those of iproute2 6.1's files, also in tests/golden/netem.txt. */
static void named_as_iproute2(void **state)
{
    static const struct {
        enum sq_dist d;
        const char *name;
        uint64_t fnv;
    } all[] = {
        {SQ_DIST_NORMAL, "normal", UINT64_C(0x3f198b6014c3b3b8)},
        {SQ_DIST_PARETO, "pareto", UINT64_C(0x209e1d3c861819fa)},
        {SQ_DIST_PARETONORMAL, "paretonormal", UINT64_C(0x468ce9c962a5ecf9)},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++) {
        cleanup_free struct sq_dist_table *ours = NULL, *theirs = NULL;
        cleanup_free char *text = NULL;
        char pattern[128];
        size_t len;
        glob_t g;

        assert_string_equal(sq_dist_name(all[i].d), all[i].name);
        assert_int_equal(sq_dist_named(all[i].d, &ours, NULL), 0);
        assert_int_equal(ours->n, SQ_DIST_POINTS);
        assert_true(fnv(ours) == all[i].fnv);
        (void)snprintf(pattern, sizeof pattern, "/usr/lib/{*-linux-gnu/,}tc/%s.dist", all[i].name);
        if (glob(pattern, GLOB_BRACE, NULL, &g) != 0)
            continue; /* not installed here: the hash has said it */
        assert_int_equal(sq_dist_slurp(g.gl_pathv[0], 1 << 20, &text, &len, NULL), 0);
        assert_int_equal(sq_dist_parse(all[i].name, text, len, &theirs, NULL), 0);
        assert_int_equal(theirs->n, ours->n);
        assert_memory_equal(theirs->v, ours->v, ours->n * sizeof ours->v[0]);
        globfree(&g);
    }
}

static void files(void **state)
{
    static const struct {
        const char *text;
        int r; /* numbers, or -errno */
    } all[] = {
        {"1 2 3\n", 3},
        {"# a comment\n\n-32768\t32767\r\n+7", 3},
        {"1 # not at the beginning of a line", -EINVAL},
        {"", -EINVAL},
        {"# only a comment", -EINVAL},
        {"32768", -EINVAL},
        {"-32769", -EINVAL},
        {"12345678901234567890123", -EINVAL},
        {"0x10", -EINVAL},
        {"1.5", -EINVAL},
        {"1 2 -", -EINVAL},
        {"nan", -EINVAL},
        {"root:x:0:0:root:/root:/bin/bash\n", -EINVAL},
    };
    cleanup_free struct sq_dist_table *t = NULL;
    cleanup_free char *many = malloc(2 * SQ_DIST_MAX + 2);
    struct sq_err e = {0};

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++) {
        int r = sq_dist_parse("x", all[i].text, strlen(all[i].text), &t, NULL);

        assert_int_equal(r < 0 ? r : (int)t->n, all[i].r);
        free(t);
        t = NULL;
    }
    assert_non_null(many);
    for (size_t i = 0; i <= SQ_DIST_MAX; i++)
        memcpy(many + 2 * i, "1 ", 2);
    assert_int_equal(sq_dist_parse("x", many, 2 * SQ_DIST_MAX, &t, NULL), 0);
    assert_int_equal(t->n, SQ_DIST_MAX);
    free(t);
    assert_int_equal(sq_dist_parse("x", many, 2 * SQ_DIST_MAX + 2, &t, &e), -E2BIG);
    assert_int_equal(sq_dist_parse("x", "5\n6\nabc", 7, &t, &e), -EINVAL);
    t = NULL;
}

/* None of these may block or be read. */
static void hostile_paths(void **state)
{
    char dir[] = "/tmp/sqt-dist-XXXXXX", path[64];
    char *text;
    size_t len;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(sq_dist_slurp("relative", 100, &text, &len, NULL), -EINVAL);
    assert_int_equal(sq_dist_slurp("/dev/zero", 100, &text, &len, NULL), -EINVAL);
    assert_int_equal(sq_dist_slurp(dir, 100, &text, &len, NULL), -EINVAL);
    assert_int_equal(sq_dist_slurp("/nowhere", 100, &text, &len, NULL), -ENOENT);
    (void)snprintf(path, sizeof path, "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(sq_dist_slurp(path, 100, &text, &len, NULL), -EINVAL);
    assert_int_equal(unlink(path), 0);
    (void)snprintf(path, sizeof path, "%s/sparse", dir);
    {
        cleanup_fclose FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_int_equal(ftruncate(fileno(f), (off_t)1 << 40), 0);
    }
    assert_int_equal(sq_dist_slurp(path, 1 << 20, &text, &len, NULL), -EFBIG);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* The share of values <= X that netem would make of a table, and the recording's. */
static double ks(const struct sq_dist_table *t, int64_t mean, int64_t jitter, const struct sq_values *v)
{
    double total = 0, seen = 0, worst = 0;
    size_t at = 0;

    for (size_t i = 0; i < v->n; i++)
        total += (double)v->v[i].count;
    for (size_t i = 0; i < v->n; i++) {
        double here = (double)v->v[i].ns + (double)jitter / SQ_DIST_SCALE / 2;

        seen += (double)v->v[i].count;
        while (at < t->n && (double)mean + (double)jitter * t->v[at] / SQ_DIST_SCALE <= here)
            at++;
        worst = fmax(worst, fabs(seen / total - (double)at / t->n));
    }
    return worst;
}

static void tables_of_values(void **state)
{
    cleanup_free struct sq_dist_table *t = NULL;
    struct sq_values v = {0};
    struct sq_rng rng;
    int64_t mean = 0, jitter = 0;
    double sum = 0;

    (void)state;
    /* A tail that 4 deviations don't hold: one in 500 is 100 times as late. */
    sq_rng_seed(&rng, 1);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(
            sq_values_add(&v, i % 500 ? 2 * SQ_MS + (int64_t)sq_rng_below(&rng, 1000) * SQ_US : 200 * SQ_MS, 1, NULL),
            0);
    assert_int_equal(sq_values_table(&v, &mean, &jitter, &t, NULL), 0);
    assert_true(v.n <= 1001);
    assert_int_equal(t->n, SQ_DIST_POINTS);
    /* Half a step of the table's 16 bits is 3 of 1000 values here, and a table's point 1/4096. */
    assert_true(ks(t, mean, jitter, &v) < 0.007);
    for (size_t i = 0; i < t->n; i++)
        sum += (double)mean + (double)jitter * t->v[i] / SQ_DIST_SCALE;
    assert_true(fabs(sum / t->n - (double)mean) < 0.01 * (double)mean);
    /* The latest is there in full. */
    assert_true(fabs((double)mean + (double)jitter * t->v[t->n - 1] / SQ_DIST_SCALE - 200e6) < 1e5);
    free(t);
    t = NULL;
    /* With a deviation of one's own: shape kept, scaled, cut at 4. */
    jitter = 10 * SQ_MS;
    assert_int_equal(sq_values_table(&v, &mean, &jitter, &t, NULL), 0);
    assert_int_equal(jitter, 10 * SQ_MS);
    assert_int_equal(t->v[t->n - 1], INT16_MAX);
    free(t);
    t = NULL;
    sq_values_clear(&v);
    /* One value has no distribution; none is an error. */
    mean = jitter = 0;
    assert_int_equal(sq_values_add(&v, 5 * SQ_MS, 7, NULL), 0);
    assert_int_equal(sq_values_table(&v, &mean, &jitter, &t, NULL), 0);
    assert_null(t);
    assert_int_equal(mean, 5 * SQ_MS);
    sq_values_clear(&v);
    assert_int_equal(sq_values_table(&v, &mean, &jitter, &t, NULL), -ENODATA);
}

static double at_share(const struct sq_values *v, double share)
{
    double total = 0, seen = 0;

    for (size_t i = 0; i < v->n; i++)
        total += (double)v->v[i].count;
    for (size_t i = 0; i < v->n; i++) {
        seen += (double)v->v[i].count;
        if (seen >= ceil(share * total))
            return (double)v->v[i].ns;
    }
    return 0;
}

/* Written by HdrHistogram's own JavaScript (hdr-histogram-js 3.0.1, HistogramLogWriter): see tests/golden/hlog.js. */
static void hdr_logs(void **state)
{
    cleanup_free struct sq_dist_table *t = NULL;
    cleanup_free char *text = NULL;
    struct sq_values v = {0};
    int64_t mean = 0, jitter = 0;
    char path[4096];
    size_t len;
    uint64_t n = 0;

    (void)state;
    assert_non_null(realpath("tests/golden/latency.hlog", path));
    assert_int_equal(sq_dist_slurp(path, SQ_RECORDED_MAX, &text, &len, NULL), 0);
    assert_int_equal(sq_values_hlog(&v, text, len, 1000, NULL), 0);
    for (size_t i = 0; i < v.n; i++)
        n += v.v[i].count;
    /* What the library itself says (the last line of the log), by its bucket of one part in 1000. */
    assert_int_equal(n, 2 * 5000 + 1);
    assert_int_equal(sq_values_table(&v, &mean, &jitter, &t, NULL), 0);
    assert_true(fabs((double)mean / 3623116.8 - 1) < 0.001);
    assert_true(fabs(at_share(&v, 0.50) / 2909e3 - 1) < 0.001);
    assert_true(fabs(at_share(&v, 0.99) / 14639e3 - 1) < 0.001);
    assert_true(fabs(at_share(&v, 1) / 1500e6 - 1) < 0.001);
    for (size_t cut = 1; cut < len; cut += len / 50) {
        struct sq_values w = {0};

        (void)sq_values_hlog(&w, text, len - cut, 1, NULL);
        sq_values_clear(&w);
    }
    sq_values_clear(&v);
}

static void runs(void **state)
{
    static const char evidence[] = "{\"t\":0,\"type\":\"run\",\"v\":1,\"name\":\"sample\"}\n"
                                   "{\"t\":1,\"type\":\"sample\",\"endpoint\":\"a\",\"h\":[2047,3,2048,1]}\n"
                                   "{\"t\":1,\"type\":\"sample\",\"endpoint\":\"b\",\"h\":[5,100]}\n"
                                   "{\"t\":2,\"type\":\"sample\",\"endpoint\":\"a\",\"h\":[2047,2]}\n"
                                   "{\"t\":2,\"type\":\"sample\",\"endpoi"; /* torn */
    static const char broken[] = "{\"type\":\"sample\",\"h\":[99999999,1]}";
    struct sq_values v = {0};
    struct sq_hist *h = sq_hist_new();

    (void)state;
    assert_int_equal(sq_values_run(&v, evidence, sizeof evidence - 1, "a", NULL), 0);
    sq_hist_record(h, 2047);
    sq_hist_record(h, 2048);
    assert_int_equal(v.n, 3);
    assert_int_equal(v.v[0].ns, sq_hist_rank(h, 1));
    assert_int_equal(v.v[1].ns, 2049); /* the middle of 2048 .. 2049 */
    assert_int_equal(v.v[2].count, 2);
    sq_values_clear(&v);
    assert_int_equal(sq_values_run(&v, evidence, sizeof evidence - 1, NULL, NULL), 0);
    assert_int_equal(v.n, 4);
    sq_values_clear(&v);
    assert_int_equal(sq_values_run(&v, broken, sizeof broken - 1, NULL, NULL), -ERANGE);
    sq_values_clear(&v);
    sq_hist_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_as_iproute2), cmocka_unit_test(files),    cmocka_unit_test(hostile_paths),
        cmocka_unit_test(tables_of_values),  cmocka_unit_test(hdr_logs), cmocka_unit_test(runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
