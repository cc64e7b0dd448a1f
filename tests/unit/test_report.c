/* Reports of a run whose names came from somebody else: none of them may leave its place in the document. */
#include "unit/verify_rig.h"

#include "report/report.h"
#include "report/series.h"
#include "squall/cleanup.h"

/* Markup, quotes, a line break and an escape sequence of a terminal; in JSON, and as it is. */
#define EVIL "x\\\"><u>\\u001b[2J\\n,|`y"

static void evil_run(struct rig *r)
{
    memset(r, 0, sizeof *r);
    r->f = open_memstream(&r->text, &r->len);
    assert_non_null(r->f);
    rig_line(r, "{\"t\":0,\"type\":\"run\",\"v\":1,\"id\":\"" EVIL "\",\"name\":\"" EVIL "\",\"start\":\"" EVIL
                "\",\"start_mono_ns\":1,\"squall\":\"" EVIL "\",\"host\":\"" EVIL
                "\",\"seed\":1,\"scenario\":{\"spec\":{\"hypothesis\":\"" EVIL "\",\"steps\":[{\"id\":\"" EVIL
                "\",\"uses\":\"call/error\",\"target\":{\"edge\":\"" EVIL "\"}}],\"verify\":[{\"check\":\"fault_felt\","
                "\"step\":\"" EVIL "\"}]}}}");
    rig_steady(r, 0, 2, true);
    rig_second(r, EVIL, 0, 5, 3, 0, 0, "");
    rig_second(r, EVIL, 1, 5, 3, 0, 0, "");
    rig_fault(r, EVIL, EVIL, "call/error", 2, 3, "\"hit\":[{\"edge\":\"" EVIL "\"}],\"readback\":{\"a\":\"" EVIL "\"}");
    rig_second(r, EVIL, 2, 5, 3, 1, 4, "");
    rig_line(r, "{\"t\":4,\"type\":\"probe\",\"endpoint\":\"" EVIL "\",\"void\":true,\"why\":\"" EVIL "\"}");
    rig_line(r, "{\"t\":5,\"type\":\"end\",\"reason\":\"aborted\",\"why\":\"" EVIL "\",\"clean\":true,\"left\":[]}");
    struct sq_err e = {0};
    (void)fclose(r->f);
    r->f = NULL;
    if (sq_evidence_parse(r->text, r->len, &r->ev, &e))
        fail_msg("%s", e.msg);
}

static void names_stay_in_their_place(void **state)
{
    const struct sq_report *const *all;
    size_t n = sq_reports(&all);
    struct rig r;
    cleanup_json json_t *verdict = NULL;
    struct sq_err e = {0};

    (void)state;
    evil_run(&r);
    if (sq_verify(r.ev, &verdict, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < n; i++) {
        struct sq_report_in in = {.ev = r.ev, .verdict = verdict};
        cleanup_free char *text = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);
        bool json = strcmp(all[i]->name, "json") == 0, terminal = strcmp(all[i]->name, "terminal") == 0,
             hlog = strcmp(all[i]->name, "hlog") == 0;

        assert_non_null(f);
        if (all[i]->write(f, &in, &e))
            fail_msg("%s: %s", all[i]->name, e.msg);
        (void)fclose(f);
        assert_true(len > 0);
        if (strchr(text, '\033'))
            fail_msg("%s: an escape sequence got through: %s", all[i]->name, text);
        if (!json && !terminal && !hlog && strstr(text, "<u>"))
            fail_msg("%s: markup got through: %s", all[i]->name, text);
        if (strcmp(all[i]->name, "junit") == 0 && strstr(text, "x\">"))
            fail_msg("a quote got through: %s", text);
        if (hlog || strcmp(all[i]->name, "markdown") == 0)
            for (const char *s = text; (s = strstr(s, "\n,")); s++)
                fail_msg("%s: a line break got through: %s", all[i]->name, text);
        if (hlog && strstr(text, ",|"))
            fail_msg("hlog: a comma got through: %s", text);
    }
    rig_close(&r);
}

/* GitLab shows only the first of several cases of one name: a failure must not hide behind it. */
static void cases_have_names_of_their_own(void **state)
{
    static const char *const names[] = {"slo / s / cart / p95 &lt; 500 ms\"", "slo / s / cart / error rate &lt; 1 %\"",
                                        "slo / s / cart / error rate &lt; 1 % #2\"", "clean / host\""};
    cleanup_json json_t *verdict = json_pack(
        "{s:s,s:i,s:s,s:[{s:s,s:s,s:s,s:s,s:s},{s:s,s:s,s:s,s:s,s:s},{s:s,s:s,s:s,s:s,s:s},{s:s,s:s,s:s,s:s,s:s}]}",
        "verdict", "fail", "exit", 1, "why", "", "checks", "check", "slo", "step", "s", "subject", "cart", "limit",
        "p95 < 500 ms", "verdict", "pass", "check", "slo", "step", "s", "subject", "cart", "limit", "error rate < 1 %",
        "verdict", "fail", "check", "slo", "step", "s", "subject", "cart", "limit", "error rate < 1 %", "verdict",
        "fail", "check", "clean", "step", "", "subject", "host", "limit", "as before", "verdict", "pass");
    cleanup_free char *text = NULL;
    struct sq_err e = {0};
    struct rig r;
    size_t len;

    (void)state;
    assert_non_null(verdict);
    rig_open(&r, "\"steps\":[]");
    rig_end(&r, 1);
    rig_read(&r);
    FILE *f = open_memstream(&text, &len);
    assert_non_null(f);
    assert_int_equal(sq_report_find("junit")->write(f, &(struct sq_report_in){.ev = r.ev, .verdict = verdict}, &e), 0);
    (void)fclose(f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strstr(text, names[i]))
            fail_msg("no case is called %s: %s", names[i], text);
    rig_close(&r);
}

/* One endpoint of two fails: in the row of all it is only half as bad. */
static void endpoints_have_rows_of_their_own(void **state)
{
    struct sq_phase_row *rows = NULL;
    struct sq_err e = {0};
    struct rig r;
    size_t n = 0;

    (void)state;
    rig_open(&r, "\"steps\":[]");
    rig_steady(&r, 0, 2, true);
    for (int sec = 0; sec < 2; sec++) {
        rig_second(&r, "cart", sec, 1, 3, 9, 80, "");
        rig_second(&r, "list", sec, 10, 3, 0, 0, "");
    }
    rig_end(&r, 3);
    rig_read(&r);
    assert_int_equal(sq_phase_rows(r.ev, &rows, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_null(rows[0].endpoint);
    assert_true(rows[0].n == 40 && rows[0].bad == 18);
    assert_string_equal(rows[1].endpoint, "cart");
    assert_true(rows[1].n == 20 && rows[1].bad == 18 && rows[1].p50 > 79);
    assert_string_equal(rows[2].endpoint, "list");
    assert_true(rows[2].n == 20 && rows[2].bad == 0 && rows[2].p99 < 4);
    free(rows);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_stay_in_their_place),
                                       cmocka_unit_test(cases_have_names_of_their_own),
                                       cmocka_unit_test(endpoints_have_rows_of_their_own)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
