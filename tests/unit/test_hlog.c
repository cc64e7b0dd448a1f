/* The histogram log, read back by a decoder of its own, written from the format's description. */
#include "unit/verify_rig.h"

#include <openssl/evp.h>
#include <zlib.h>

#include "report/report.h"

static uint32_t be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The histogram of a line's last field. */
static struct sq_hist *decode(const char *text)
{
    static unsigned char packed[1 << 16], raw[1 << 19];
    json_t *sparse = json_array();
    struct sq_hist *h = sq_hist_new();
    uLongf len = sizeof raw;
    int64_t cell = 0;

    assert_true(strlen(text) / 4 * 3 < sizeof packed && strlen(text) % 4 == 0);
    assert_true(EVP_DecodeBlock(packed, (const unsigned char *)text, (int)strlen(text)) > 8);
    assert_int_equal(be32(packed), 0x1c849314);
    assert_int_equal(uncompress(raw, &len, packed + 8, be32(packed + 4)), Z_OK);
    assert_int_equal(be32(raw), 0x1c849313);
    assert_int_equal(be32(raw + 4), len - 40);
    assert_int_equal(be32(raw + 12), 3);
    for (size_t at = 40; at < len;) {
        uint64_t v = 0;
        int64_t n;

        for (int i = 0; i < 9; i++) {
            unsigned char c = raw[at++];

            v |= (uint64_t)(i < 8 ? c & 127 : c) << (7 * i);
            if (i < 8 && !(c & 128))
                break;
        }
        n = (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
        if (n < 0) {
            cell -= n;
            continue;
        }
        (void)json_array_append_new(sparse, json_integer(cell++));
        (void)json_array_append_new(sparse, json_integer(n));
    }
    assert_int_equal(sq_hist_add_json(h, sparse, NULL), 0);
    json_decref(sparse);
    return h;
}

static void test_read_back(void **state)
{
    char *text = NULL, *line, *rest, *p50;
    size_t len = 0, n = 0;
    struct sq_err e = {0};
    struct rig r;
    FILE *f;

    (void)state;
    rig_open(&r, "\"steps\":[]");
    rig_second(&r, "cart", 1, 1000, 20, 10, 900, "");
    rig_second(&r, "cart", 2, 3, 0.000001, 1, 4000000, ""); /* 1 ns and more than an hour */
    rig_second(&r, "pay", 2, 70000, 0.3, 0, 0, "");
    rig_second(&r, "pay", 3, 0, 0, 0, 0, ""); /* nothing was asked */
    rig_end(&r, 5);
    rig_check(&r, "clean", "{}"); /* reads it */
    f = open_memstream(&text, &len);
    assert_int_equal(sq_report_find("hlog")->write(f, &(struct sq_report_in){.ev = r.ev}, &e), 0);
    (void)fclose(f);
    assert_non_null(strstr(text, "#[Histogram log format version 1.3]\n"));
    assert_non_null(strstr(text, "#[StartTime: 1767225600.000 (seconds since epoch)"));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        struct sq_hist *h;

        if (strncmp(line, "Tag=", 4) != 0)
            continue;
        p50 = strrchr(line, ',') + 1;
        h = decode(p50);
        if (n == 0) {
            assert_int_equal(strncmp(line, "Tag=cart,1.000,1.000,90", 23), 0);
            assert_int_equal(sq_hist_count(h), 1010);
            assert_true(llabs(sq_hist_percentile(h, 50) - 20000000) < 20000);
            assert_true(llabs(sq_hist_percentile(h, 99.9) - 900000000) < 900000);
        } else if (n == 1) {
            assert_int_equal(sq_hist_count(h), 4);
            assert_int_equal(sq_hist_rank(h, 1), 1);
            assert_true(llabs(sq_hist_max(h) / 1000000 - 4000000) < 4000);
        } else {
            assert_int_equal(strncmp(line, "Tag=pay,2.000,", 14), 0);
            assert_int_equal(sq_hist_count(h), 70000);
        }
        sq_hist_free(h);
        n++;
    }
    assert_int_equal(n, 3);
    free(text);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read_back)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
