/* The evidence log in memory: what is read, what is put up with, what is refused. */
#include <sys/stat.h>
#include <unistd.h>

#include "unit/verify_rig.h"

#define SPEC                                                                                                           \
    "\"steps\":[{\"id\":\"slow\",\"name\":\"S\",\"uses\":\"call/latency\",\"target\":{\"edge\":\"a->b\"}},"            \
    "{\"id\":\"rest\",\"wait\":5000000000},{\"id\":\"kill\",\"uses\":\"process/"                                       \
    "kill\"},{\"id\":\"never\",\"uses\":\"x/y\"}]"

static void whole_log(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 1, 5, true);
    rig_call(&r, "a->b", "a.1", (struct rig_call){.t_ms = 700, .dur_ms = 3, .status = 200});
    rig_call(
        &r, "a->b", "a.0",
        (struct rig_call){.t_ms = 6200, .dur_ms = 400, .outcome = 2, .held_ms = 2000, .fault = "f1", .trace = 0xabc});
    rig_call(&r, "a->b", "a.0", (struct rig_call){.t_ms = 6100, .dur_ms = 3, .status = 200});
    rig_fault(&r, "f1", "slow", "call/latency", 6, 8, "\"with\":{\"delay\":2000000000}");
    rig_line(&r, "{\"t\":8,\"type\":\"phase\",\"phase\":\"wait\",\"step\":\"rest\",\"state\":\"begin\"}");
    rig_line(&r, "{\"t\":13,\"type\":\"phase\",\"phase\":\"wait\",\"step\":\"rest\",\"state\":\"end\"}");
    rig_fault(&r, "f2", "kill", "process/kill", 14, 15, "");
    rig_line(&r, "{\"t\":15,\"type\":\"fault\",\"state\":\"failed\",\"step\":\"never\",\"uses\":\"x/y\",\"error\":\"no "
                 "such thing\"}");
    rig_line(&r, "{\"t\":15,\"type\":\"of the future\",\"x\":[1,2]}");
    for (int sec = 16; sec > 0; sec--)
        rig_second(&r, "cart", sec, 10, 5, sec == 7, 300, "");
    rig_second(&r, "cart", 3, 1, 5, 0, 0, "");
    rig_line(&r, "{\"t\":17,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"late\"}");
    rig_end(&r, 18);
    rig_read(&r);
    const struct sq_evidence *ev = r.ev;
    assert_string_equal(ev->id, "r-1");
    assert_int_equal(ev->n_steps, 4);
    const struct sq_ev_step *slow = sq_ev_step(ev, "slow"), *rest = sq_ev_step(ev, "rest"),
                            *kill = sq_ev_step(ev, "kill");
    assert_true(slow->ran && slow->win.from_ns == 6 * SQ_S && slow->win.to_ns == 8 * SQ_S);
    assert_int_equal(slow->until_ns, 14 * SQ_S);
    assert_string_equal(slow->edge, "a->b");
    assert_true(rest->ran && rest->win.from_ns == 8 * SQ_S && rest->win.to_ns == 13 * SQ_S);
    assert_int_equal(kill->until_ns, 17 * SQ_S); /* the load's end */
    assert_false(sq_ev_step(ev, "never")->ran);
    assert_string_equal(sq_ev_step(ev, "never")->fault->error, "no such thing");
    assert_null(sq_ev_step(ev, "none"));
    assert_true(sq_ev_steady(ev)->met && sq_ev_steady(ev)->win.to_ns == 5 * SQ_S);

    const struct sq_ev_series *s;
    assert_int_equal(sq_ev_series(ev, "a->b", &s), 2);
    assert_string_equal(s[0].instance, "a.0");
    assert_int_equal(s[0].n, 2);
    assert_int_equal(s[0].calls[0].t_ns, 6100 * SQ_MS);
    const struct sq_ev_call *c = &s[0].calls[1];
    assert_true(c->dur_us == 400000 && c->held_us == 2000000 && c->outcome == SQ_EV_GAVE_UP && c->traced);
    assert_true(c->trace[15] == 0xbc && c->trace[14] == 0x0a && c->trace[0] == 0);
    assert_string_equal(ev->faults[c->fault - 1].id, "f1");
    assert_ptr_equal(&ev->faults[c->fault - 1], slow->fault);
    size_t from, to;
    assert_int_equal(sq_ev_calls_in(&s[0], (struct sq_window){6100 * SQ_MS, 6200 * SQ_MS}, &from, &to), 1);
    assert_int_equal(sq_ev_calls_in(&s[0], (struct sq_window){0, 99 * SQ_S}, &from, &to), 2);
    assert_int_equal(sq_ev_series(ev, "nope", &s), 0);

    const struct sq_ev_endpoint *ep = sq_ev_endpoint(ev, "cart");
    struct sq_ev_sums sums;
    assert_true(ep->is_void && strcmp(ep->void_why, "late") == 0);
    assert_true(ev->load.from_ns == SQ_S && ev->load.to_ns == 17 * SQ_S);
    sq_ev_sum(ev, NULL, 3, 8, &sums);
    assert_true(sums.ok == 51 && sums.bad == 1 && sums.n == 52 && sums.secs == 5);
    struct sq_hist *h = sq_hist_new();
    assert_int_equal(sq_ev_hist(ev, ep, 7, 8, "h", h, NULL), 0);
    assert_int_equal(sq_hist_count(h), 11);
    assert_in_range(sq_hist_max(h), 299 * SQ_MS, 301 * SQ_MS);
    sq_hist_free(h);
    assert_true(ev->ended && ev->end_clean && !ev->torn);
    rig_close(&r);
}

static void windows(void **state)
{
    int64_t first, end;

    (void)state;
    assert_true(sq_window_secs((struct sq_window){1500 * SQ_MS, 4200 * SQ_MS}, &first, &end));
    assert_true(first == 2 && end == 4);
    assert_true(sq_window_secs((struct sq_window){2 * SQ_S, 4 * SQ_S}, &first, &end));
    assert_true(first == 2 && end == 4);
    assert_false(sq_window_secs((struct sq_window){1500 * SQ_MS, 1900 * SQ_MS}, &first, &end));
    assert_false(sq_window_secs((struct sq_window){-5 * SQ_S, -1 * SQ_S}, &first, &end));
}

/* A run that was cut off anywhere can be read, and what was whole is there. */
static void torn_anywhere(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, SPEC);
    rig_steady(&r, 1, 5, true);
    rig_fault(&r, "f1", "slow", "call/latency", 6, 8, "");
    rig_second(&r, "cart", 1, 10, 5, 0, 0, "");
    rig_call(&r, "a->b", "a.0", (struct rig_call){.t_ms = 700, .dur_ms = 3});
    rig_end(&r, 9);
    (void)fclose(r.f);
    r.f = NULL;
    size_t head = (size_t)(strchr(r.text, '\n') - r.text);
    for (size_t len = head; len <= r.len; len++) {
        struct sq_evidence *ev;
        size_t whole = len == 0 || r.text[len - 1] == '\n' || r.text[len] == '\n';

        assert_int_equal(sq_evidence_parse(r.text, len, &ev, NULL), 0);
        assert_int_equal(ev->damaged, 0);
        assert_int_equal(ev->torn, !whole);
        assert_int_equal(ev->ended, len >= r.len - 1);
        sq_evidence_free(ev);
    }
    rig_close(&r);
}

/* What a second's histograms add up to, by COUNT each; they are set aside unparsed when a line is read. */
static uint64_t cells_of(const struct sq_evidence *ev, const char *which)
{
    const struct sq_ev_endpoint *ep = sq_ev_endpoint(ev, "cart");
    struct sq_hist *h = sq_hist_new();
    uint64_t n = 0;

    assert_non_null(h);
    if (ep) {
        assert_int_equal(sq_ev_hist(ev, ep, 0, 100, which, h, NULL), 0);
        n = sq_hist_count(h);
    }
    sq_hist_free(h);
    return n;
}

/* The same with all three histograms and matchers, byte by byte: as many requests as there are whole lines, the same in
 * each histogram, a verdict that is none of pass and fail, and nothing read behind the cut (the copy ends there). */
static void torn_samples(void **state)
{
    char more[2048] = "\"hs\":[";
    size_t used = strlen(more);
    struct rig r;

    (void)state;
    rig_open(&r, SPEC ",\"verify\":[{\"check\":\"slo\",\"step\":\"slow\",\"thresholds\":[{\"metric\":\"p\",\"p\":95,"
                      "\"op\":\"<\",\"value\":1000000000}]}]");
    rig_steady(&r, 0, 1, true);
    rig_fault(&r, "f1", "slow", "call/latency", 1, 4, "");
    for (unsigned i = 0; i < 60; i++) /* long enough to be set aside */
        used += (size_t)snprintf(more + used, sizeof more - used, "%s%u,%u", i ? "," : "", 1500 + 3 * i, 1 + i % 2);
    (void)snprintf(more + used, sizeof more - used, "],\"hok\":[1500,2,2100,7],\"m\":{\"0\":{\"n\":10,\"match\":4}}");
    (void)fflush(r.f);
    size_t head = r.len;
    for (int sec = 1; sec < 4; sec++)
        rig_second(&r, "cart", sec, 9, 5, 1, 300, more);
    rig_end(&r, 9);
    (void)fclose(r.f);
    r.f = NULL;
    for (size_t len = head; len <= r.len; len++) {
        char *copy = malloc(len); /* so that a sanitizer sees who reads on */
        struct sq_evidence *ev = NULL;
        json_t *verdict = NULL;
        uint64_t lines = 0;

        assert_non_null(copy);
        memcpy(copy, r.text, len);
        for (size_t i = head; i < len; i++)
            lines += copy[i] == '\n' || (i == len - 1 && r.text[len] == '\n');
        lines = lines > 3 ? 3 : lines;
        assert_int_equal(sq_evidence_parse(copy, len, &ev, NULL), 0);
        assert_int_equal(ev->damaged, 0);
        assert_int_equal(ev->torn, !(r.text[len - 1] == '\n' || r.text[len] == '\n'));
        assert_int_equal(cells_of(ev, "h"), 10 * lines);
        assert_int_equal(cells_of(ev, "hs"), 90 * lines);
        assert_int_equal(cells_of(ev, "hok"), 9 * lines);
        assert_int_equal(sq_verify(ev, &verdict, NULL), 0);
        if (!ev->ended) {
            assert_string_equal(sq_json_str_or(verdict, "verdict", ""), "aborted");
            if (ev->torn)
                assert_non_null(strstr(sq_json_str_or(verdict, "why", ""), "cut off within line"));
        }
        json_decref(verdict);
        sq_evidence_free(ev);
        free(copy);
    }
    rig_close(&r);
}

static void damage_is_counted(void **state)
{
    static const char *const bad[] = {
        "not json",
        "{}",
        "[]",
        "{\"t\":1,\"type\":7}",
        "{\"type\":\"note\"}",
        "{\"t\":1e300,\"type\":\"note\"}",
        "{\"t\":1,\"type\":\"sample\",\"sec\":1}",
        "{\"t\":1,\"type\":\"sample\",\"sec\":-1,\"endpoint\":\"x\"}",
        "{\"t\":1,\"type\":\"sample\",\"sec\":1,\"endpoint\":\"x\",\"ok\":-3}",
        "{\"t\":1,\"type\":\"sample\",\"sec\":1,\"endpoint\":\"x\",\"ok\":9223372036854775807}",
        "{\"t\":1,\"type\":\"sample\",\"sec\":1,\"endpoint\":\"x\",\"bad\":{\"status\":\"many\"}}",
        "{\"t\":1,\"type\":\"calls\",\"edge\":\"e\",\"instance\":\"i\"}",
        "{\"t\":1,\"type\":\"calls\",\"edge\":\"e\",\"instance\":\"i\",\"calls\":[[1,2]]}",
        "{\"t\":1,\"type\":\"calls\",\"edge\":\"e\",\"instance\":\"i\",\"calls\":[[1,9,0,0,0,0]]}",
        "{\"t\":1,\"type\":\"calls\",\"edge\":\"e\",\"instance\":\"i\",\"calls\":[[1,0,0,70000,0,0]]}",
        "{\"t\":1,\"type\":\"fault\",\"state\":\"applied\"}",
        "{\"t\":1,\"type\":\"phase\",\"state\":\"begin\"}",
        "{\"t\":1,\"type\":\"probe\"}",
        "{\"t\":1,\"type\":\"note\",\"a\":1,\"a\":2}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rig r;

        rig_open(&r, SPEC);
        rig_line(&r, "%s", bad[i]);
        rig_end(&r, 2);
        (void)fclose(r.f);
        r.f = NULL;
        assert_int_equal(sq_evidence_parse(r.text, r.len, &r.ev, NULL), 0);
        if (r.ev->damaged != 1)
            fail_msg("%s: %zu damaged", bad[i], r.ev->damaged);
        assert_int_equal(r.ev->damaged_line, 2);
        assert_true(r.ev->ended);
        rig_close(&r);
    }
}

static void refused(void **state)
{
    static const char *const no[] = {"",
                                     "\n\n",
                                     "junk\n",
                                     "{}\n",
                                     "{\"t\":0,\"type\":\"note\"}\n",
                                     "\x7f"
                                     "ELF\n",
                                     "{\"t\":0,\"type\":\"ru"};
    struct sq_evidence *ev;
    struct sq_err e;

    (void)state;
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        memset(&e, 0, sizeof e);
        assert_int_equal(sq_evidence_parse(no[i], strlen(no[i]), &ev, &e), -EINVAL);
        assert_int_equal(e.cls, SQ_C_INPUT);
        assert_non_null(strstr(e.msg, "no evidence log"));
    }
    memset(&e, 0, sizeof e);
    assert_int_equal(sq_evidence_read("/nonexistent", &ev, &e), -ENOENT);
    assert_int_equal(sq_exit_of(&e), SQ_USAGE);
}

/* Through a file, with lines longer than the reading buffer. */
static void from_a_file(void **state)
{
    char dir[] = "/tmp/squall-ev-XXXXXX", path[64];
    struct sq_evidence *ev;
    struct sq_err e = {0};
    struct rig r;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/evidence.jsonl", dir);
    rig_open(&r, SPEC);
    (void)fputs("{\"t\":1,\"type\":\"calls\",\"edge\":\"e\",\"instance\":\"i\",\"calls\":[", r.f);
    for (int i = 0; i < 100000; i++)
        (void)fprintf(r.f, "%s[%d,0,0,200,3000,0,\"\",\"%032x\",2000]", i ? "," : "", (i * 7919) % 100000 * 10, i + 1);
    (void)fputs("]}\n", r.f);
    rig_end(&r, 2);
    (void)fclose(r.f);
    r.f = NULL;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(r.text, 1, r.len, f), r.len);
    (void)fclose(f);
    if (sq_evidence_read(dir, &ev, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(ev->series[0].n, 100000);
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(ev->series[0].calls[i].t_ns, (int64_t)i * 10 * SQ_MS);
    assert_true(ev->ended && ev->damaged == 0);
    sq_evidence_free(ev);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_log),    cmocka_unit_test(windows),           cmocka_unit_test(torn_anywhere),
        cmocka_unit_test(torn_samples), cmocka_unit_test(damage_is_counted), cmocka_unit_test(refused),
        cmocka_unit_test(from_a_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
