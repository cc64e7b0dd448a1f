/* The verdict of a run: how it ended, then what the checks say. */
#include <sys/stat.h>
#include <unistd.h>

#include "unit/verify_rig.h"

#define STEPS "\"steps\":[{\"id\":\"s\",\"uses\":\"process/kill\"}]"
#define SLO(ms)                                                                                                        \
    "{\"check\":\"slo\",\"step\":\"s\",\"thresholds\":[{\"metric\":\"p\",\"p\":95,\"op\":\"<\",\"value\":" #ms         \
    "000000}]}"

/* 20 ms answers, 9 whole seconds of the step with PER_S requests. */
static void build(struct rig *r, const char *verify, unsigned per_s, const char *end)
{
    char spec[1024];

    (void)snprintf(spec, sizeof spec, STEPS ",\"verify\":[%s]", verify);
    rig_open(r, spec);
    rig_steady(r, 0, 10, true);
    rig_fault(r, "f1", "s", "process/kill", 10.5, 20, "\"hit\":[{\"pid\":5}],\"readback\":{\"state\":\"gone\"}");
    for (int sec = 0; sec < 25; sec++)
        rig_second(r, "cart", sec, per_s, 20, 0, 0, "");
    if (end)
        rig_line(r, "{\"t\":26,\"type\":\"end\",%s}", end);
}

static void expect(struct rig *r, const char *want, int exit_code, const char *words)
{
    struct sq_err e = {0};
    json_t *v = NULL;

    if (!r->ev)
        rig_read(r);
    if (sq_verify(r->ev, &v, &e) != 0)
        fail_msg("%s", e.msg);
    if (strcmp(sq_json_str_or(v, "verdict", "?"), want) != 0 || sq_json_int_or(v, "exit", -1) != exit_code ||
        !strstr(sq_json_str_or(v, "why", ""), words))
        fail_msg("%s (%lld) instead of %s: %s", sq_json_str_or(v, "verdict", "?"),
                 (long long)sq_json_int_or(v, "exit", -1), want, sq_json_str_or(v, "why", ""));
    json_decref(v);
    rig_close(r);
}

#define DONE "\"reason\":\"completed\",\"why\":\"\",\"clean\":true,\"left\":[]"

static void by_checks(void **state)
{
    struct rig r;

    (void)state;
    build(&r, SLO(500) ",{\"check\":\"fault_felt\",\"step\":\"s\"}", 60, DONE);
    expect(&r, "pass", 0, "2 checks passed");
    build(&r, SLO(500) "," SLO(10), 60, DONE);
    expect(&r, "fail", 1, "slo, step s, cart: users waited");
    build(&r, SLO(500), 3, DONE);
    expect(&r, "inconclusive", 3, "too few");
    build(&r, SLO(500) "," SLO(10), 3, DONE); /* fail outranks inconclusive */
    expect(&r, "fail", 1, "");
    build(&r, "", 60, DONE);
    expect(&r, "inconclusive", 3, "nothing was verified");
}

static void by_end(void **state)
{
    struct rig r;

    (void)state;
    build(&r, SLO(500), 60, NULL);
    expect(&r, "aborted", 4, "the run died");
    build(&r, SLO(500), 60, "\"reason\":\"aborted\",\"why\":\"Ctrl-C\",\"clean\":true");
    expect(&r, "aborted", 4, "Ctrl-C");
    build(&r, SLO(10), 60, "\"reason\":\"infrastructure\",\"why\":\"disk full\",\"clean\":true");
    expect(&r, "infrastructure", 5, "disk full");
    build(&r, SLO(500), 60, "\"reason\":\"not_steady\",\"why\":\"p95 was 2 s\",\"clean\":true");
    expect(&r, "inconclusive", 3, "p95 was 2 s");
    build(&r, SLO(500), 60, "\"reason\":\"completed\",\"clean\":false,\"left\":[\"a qdisc on eth0\"]");
    expect(&r, "unclean", 6, "a qdisc on eth0");
    build(&r, SLO(500), 60, "\"reason\":\"aborted\",\"clean\":false,\"left\":[]"); /* outranks all */
    expect(&r, "unclean", 6, "");
    build(&r, SLO(500), 60, "\"reason\":\"later\",\"clean\":true");
    expect(&r, "inconclusive", 3, "does not know");
}

static void by_evidence(void **state)
{
    struct rig r;

    (void)state;
    build(&r, "{\"check\":\"fault_felt\",\"step\":\"s\"}", 60, NULL); /* passes, but nothing else is sure */
    rig_line(&r, "{\"t\":25,\"type\":\"probe\",\"endpoint\":\"cart\",\"void\":true,\"why\":\"2 %% of sends late\"}");
    rig_line(&r, "{\"t\":26,\"type\":\"end\"," DONE "}");
    expect(&r, "inconclusive", 3, "2 % of sends late");
    build(&r, SLO(500), 60, NULL);
    rig_line(&r, "{\"t\":25,\"type\":\"sample\"}");
    rig_line(&r, "{\"t\":26,\"type\":\"end\"," DONE "}");
    (void)fclose(r.f);
    r.f = NULL;
    assert_int_equal(sq_evidence_parse(r.text, r.len, &r.ev, NULL), 0);
    expect(&r, "inconclusive", 3, "damaged");
    build(&r, "{\"check\":\"clean\"}", 60, NULL);
    rig_line(&r, "{\"t\":1,\"type\":\"snapshot\",\"when\":\"before\",\"state\":{\"stopped\":[]}}");
    rig_line(&r, "{\"t\":25,\"type\":\"snapshot\",\"when\":\"after\",\"state\":{\"stopped\":[{\"pid\":3}]}}");
    rig_line(&r, "{\"t\":26,\"type\":\"end\"," DONE "}");
    expect(&r, "unclean", 6, "process 3");
}

static void unknown_check(void **state)
{
    struct sq_err e = {0};
    json_t *v = NULL;
    struct rig r;

    (void)state;
    build(&r, "{\"check\":\"karma\"}", 60, DONE);
    rig_read(&r);
    assert_int_equal(sq_verify(r.ev, &v, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "karma"));
    rig_close(&r);
}

/* Every check has a schema and a text, and gives a verdict about an empty run. */
static void the_table(void **state)
{
    const struct sq_check *const *all;
    size_t n = sq_checks(&all);

    (void)state;
    assert_true(n >= 16);
    for (size_t i = 0; i < n; i++) {
        struct rig r;
        json_t *p = NULL;

        assert_ptr_equal(sq_check_find(all[i]->name), all[i]);
        assert_true(all[i]->doc && all[i]->params && all[i]->doc[0]);
        rig_open(&r, STEPS ",\"steady_state\":{\"thresholds\":[{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]}");
        EXPECT(&r,
               rig_check(&r, all[i]->name,
                         "{\"step\":\"s\",\"after\":\"s\",\"edge\":\"e\",\"max\":1000000,\"max_attempts\":2,"
                         "\"target\":99.9,\"max_spend\":1,\"max_calls\":9,\"endpoints\":[\"x\"],\"silent\":[\"A\"],"
                         "\"thresholds\":[{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]}"),
               "inconclusive");
        json_decref(p);
        rig_close(&r);
    }
    assert_null(sq_check_find("karma"));
}

static void written(void **state)
{
    char dir[] = "/tmp/squall-verdict-XXXXXX", path[96];
    struct sq_err e = {0};
    json_error_t je;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/verdict.json", dir);
    json_t *v = json_pack("{s:s,s:i}", "verdict", "pass", "exit", 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(sq_verdict_write(dir, v, &e), 0);
    json_t *back = json_load_file(path, 0, &je);
    assert_true(json_equal(v, back));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* and no temporary file */
    assert_true(sq_verdict_write(dir, v, &e) < 0);
    json_decref(v);
    json_decref(back);
}

/* A message cut in the middle of a character is still text. */
static void long_names(void **state)
{
    char spec[4096] = "\"steps\":[{\"id\":\"s\",\"uses\":\"", name[1200] = "";
    struct rig r;

    (void)state;
    for (int i = 0; i < 300; i++)
        (void)strcat(name, "\xe2\x82\xac");
    for (int shift = 0; shift < 4; shift++) {
        (void)snprintf(spec, sizeof spec,
                       "\"steps\":[{\"id\":\"%.*s%s\",\"uses\":\"x/y\"}],\"verify\":[{\"check\":\"recovered\","
                       "\"after\":\"*\",\"thresholds\":[{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]}]",
                       shift, "aaaa", name);
        rig_open(&r, spec);
        rig_line(&r, "{\"t\":26,\"type\":\"end\"," DONE "}");
        expect(&r, "inconclusive", 3, "recovered");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_checks),     cmocka_unit_test(by_end),    cmocka_unit_test(by_evidence),
        cmocka_unit_test(unknown_check), cmocka_unit_test(the_table), cmocka_unit_test(written),
        cmocka_unit_test(long_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
