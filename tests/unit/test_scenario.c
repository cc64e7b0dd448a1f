/* Scenarios: the normalized JSON, variables, thresholds, instances; and every file of tests/golden/scenario against the
 * messages it must produce (SQUALL_GOLDEN_UPDATE=1 writes them anew). Runs in the project's root. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "scenario/normalize.h"
#include "scenario/scenario.h"
#include "squall/json.h"
#include "unit/golden.h"

#define GOLDEN "tests/golden/scenario"

static const char head[] = "apiVersion: squall/v1\nkind: Scenario\nmetadata: {name: t}\n";
static const char step[] = "  steps: [{id: a, uses: process/kill, target: {pid: 99999}, duration: 1s}]\n";

/* The normalized scenario of HEAD and what follows it. */
static json_t *load(const char *vars, const char *spec, const char *var)
{
    struct sq_vars given = {0};
    struct sq_diags d;
    json_t *doc = NULL;
    char *text = NULL;

    assert_true(asprintf(&text, "%s%sspec:\n%s%s", head, vars, spec, step) > 0);
    if (var)
        assert_int_equal(sq_vars_add(&given, var, NULL), 0);
    sq_diags_init(&d, "/usr/lib/day.yaml");
    if (sq_scenario_check_text(text, strlen(text), &given, &doc, &d) < 0 && d.n > 0)
        print_message("%u:%u: %s\n", d.list[0].pos.line, d.list[0].pos.col, d.list[0].msg);
    sq_diags_free(&d);
    sq_vars_free(&given);
    free(text);
    return doc;
}

static const json_t *get(const json_t *doc, const char *path)
{
    char part[64];

    while (doc && *path) {
        size_t n = strcspn(path, "/");

        (void)snprintf(part, sizeof part, "%.*s", (int)n, path);
        doc = json_is_array(doc) ? json_array_get(doc, (size_t)atoi(part)) : json_object_get(doc, part);
        path += n + (path[n] == '/');
    }
    return doc;
}

#define assert_json(doc, path, text)                                                                                   \
    do {                                                                                                               \
        char *dump_ = json_dumps(get(doc, path), JSON_ENCODE_ANY | JSON_COMPACT);                                      \
        assert_non_null(dump_);                                                                                        \
        assert_string_equal(dump_, text);                                                                              \
        free(dump_);                                                                                                   \
    } while (0)

static void defaults(void **state)
{
    json_t *doc = load("", "  verify: [{check: clean}]\n", NULL);

    (void)state;
    assert_non_null(doc);
    assert_json(doc, "vars", "{}");
    assert_json(doc, "metadata", "{\"name\":\"t\",\"tags\":[]}");
    assert_json(doc, "spec/hypothesis", "\"\"");
    assert_json(doc, "spec/services", "{}");
    assert_json(doc, "spec/edges", "{}");
    assert_json(doc, "spec/load", "{}");
    assert_json(doc, "spec/lateness", "{\"over\":5000000,\"share\":1.0}");
    assert_json(doc, "spec/safety", "{\"max_duration\":1800000000000,\"lease\":10000000000,\"abort_when\":[]}");
    assert_json(doc, "spec/report", "{}");
    assert_null(get(doc, "spec/steady_state"));
    assert_json(doc, "spec/steps/0/name", "\"a\"");
    assert_json(doc, "spec/steps/0/settle", "0");
    assert_json(doc, "spec/steps/0/duration", "1000000000");
    assert_json(doc, "spec/steps/0/target", "{\"pid\":99999,\"count\":\"all\"}");
    assert_json(doc, "spec/steps/0/with", "{\"signal\":9}");
    json_decref(doc);
}

static void services_and_edges(void **state)
{
    json_t *doc = load("",
                       "  services:\n"
                       "    web: {command: [./bin/web, 1, true, \"\"], port: 70, instances: 2, env: {A: 1, B: x}}\n"
                       "    app: {command: app, cwd: sub, ready: {unix: run/app.sock, within: 2s}}\n"
                       "    db: {select: {port: 5432}}\n"
                       "  edges:\n"
                       "    app->web: {from: app, to: [service:web, \"[::1]:9\", \"10.0.0.0/8:5\", \"unix:/x\"]}\n"
                       "    app->db: {from: app, to: service:db, protocol: tcp}\n",
                       NULL);

    (void)state;
    assert_non_null(doc);
    assert_json(doc, "spec/services/web",
                "{\"command\":[\"/usr/lib/bin/web\",\"1\",\"true\",\"\"],\"port\":70,\"instances\":2,"
                "\"env\":{\"A\":\"1\",\"B\":\"x\"},\"restart\":\"never\",\"cwd\":\"/usr/lib\","
                "\"ready\":{\"tcp\":true,\"within\":10000000000}}");
    assert_json(doc, "spec/services/app/command", "[\"app\"]");
    assert_json(doc, "spec/services/app/cwd", "\"/usr/lib/sub\"");
    assert_json(doc, "spec/services/app/ready", "{\"unix\":\"/usr/lib/sub/run/app.sock\",\"within\":2000000000}");
    assert_json(doc, "spec/services/db", "{\"select\":{\"port\":5432}}");
    assert_json(doc, "spec/edges/app->web",
                "{\"from\":\"app\",\"to\":[\"127.0.0.1:70\",\"127.0.0.1:71\",\"[::1]:9\",\"10.0.0.0/8:5\",\"unix:/x\"],"
                "\"protocol\":\"auto\"}");
    assert_json(doc, "spec/edges/app->db/to", "[\"127.0.0.1:5432\"]");
    json_decref(doc);
}

static void targets_and_checks(void **state)
{
    json_t *doc = load(
        "",
        "  services: {a: {command: [a], port: 1, instances: 3}, db: {select: {pattern: \"^db\"}}}\n"
        "  edges: {a->x: {from: a, to: [\"127.0.0.1:9\"]}}\n"
        "  load: {e: {executor: constant-arrival-rate, rate: 600/m, request: {url: \"http://h/\"}}}\n"
        "  steady_state: {thresholds: [\"sent_rate>=9.5/s\"]}\n"
        "  verify:\n"
        "    - {check: slo, step: two, thresholds: [\"p(99.9) <= 1s\", \"error_rate<0.1%\"], confidence: 99%}\n"
        "    - {check: circuit_breaker, step: two, expect: {opens_within: 1s, closes_within: 1s}}\n"
        "    - {check: fallback, step: two, match: {status: [200, 5xx], body: x}, forbid: {body: a, empty: true}}\n"
        "  steps:\n"
        "    - {id: one, uses: process/pause, target: {service: db}, duration: 1s}\n"
        "    - {id: two, uses: call/error, target: {edge: a->x, percent: 30, instance: 2},\n"
        "       with: {errno: ETIMEDOUT}, duration: 2s, settle: 1s}\n"
        "    - {id: three, wait: 1m30s}\n"
        "    - {id: four, uses: process/kill, target: {service: a, instance: 0}, with: {signal: TERM}, duration: 1s}\n"
        "  # ",
        NULL);

    (void)state;
    assert_non_null(doc);
    assert_json(doc, "spec/load/e/rate", "10.0");
    assert_json(doc, "spec/load/e/request",
                "{\"url\":\"http://h/\",\"method\":\"GET\",\"body\":\"\",\"timeout\":5000000000,\"headers\":{}}");
    assert_json(doc, "spec/load/e/expect", "{}");
    assert_json(doc, "spec/steady_state/for", "10000000000");
    assert_json(
        doc, "spec/verify/0/thresholds",
        "[{\"metric\":\"p\",\"p\":99.900000000000006,\"op\":\"<=\",\"value\":1000000000,\"text\":\"p(99.9) <= 1s\"},"
        "{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":0.10000000000000001,\"text\":\"error_rate<0.1%\"}]");
    assert_json(doc, "spec/verify/0/confidence", "99.0");
    assert_json(doc, "spec/verify/1/edge", "\"a->x\""); /* the step's own */
    assert_json(doc, "spec/verify/1/expect/opens_within", "1000000000");
    assert_json(doc, "spec/verify/1/expect/tolerance", "10.0");
    assert_json(doc, "spec/verify/2/match", "{\"status\":[\"200\",\"5xx\"],\"body\":\"x\"}");
    assert_json(doc, "spec/verify/2/forbid", "{\"body\":[\"a\"],\"empty\":true}");
    assert_json(doc, "spec/steps/0/target", "{\"count\":\"1\",\"pattern\":\"^db\"}");
    assert_json(doc, "spec/steps/1/target", "{\"edge\":\"a->x\",\"percent\":30.0,\"instance\":2}");
    assert_json(doc, "spec/steps/1/with", "{\"errno\":110}");
    assert_json(doc, "spec/steps/2", "{\"id\":\"three\",\"wait\":90000000000,\"name\":\"three\"}");
    assert_json(doc, "spec/steps/3/target", "{\"service\":\"a\",\"instance\":0}");
    json_decref(doc);
}

static void instances(void **state)
{
    json_t *doc = load("vars: {v: plain}\n",
                       "  services:\n"
                       "    a:\n"
                       "      command: [\"./${v}\", \"${port}/${instance}\", \"$${v} $x ${other:-${}\"]\n"
                       "      port: 8000\n"
                       "      instances: 2\n"
                       "      cwd: \"run-${instance}\"\n"
                       "      env: {I: \"${instance}\"}\n"
                       "      ready: {unix: \"/s/${instance}\"}\n"
                       "    b: {command: [b, \"${port}\"]}\n"
                       "    c: {select: {pid: 7}}\n",
                       NULL);
    json_t *one = NULL;
    struct sq_err e = {0};

    (void)state;
    assert_non_null(doc);
    assert_json(doc, "spec/services/a/command", "[\"/usr/lib/plain\",\"${port}/${instance}\",\"${v} $x ${\"]");
    assert_int_equal(sq_scenario_instance(doc, "a", 1, &one, &e), 0);
    assert_json(one, "",
                "{\"command\":[\"/usr/lib/plain\",\"8001/1\",\"${v} $x ${\"],\"port\":8001,"
                "\"cwd\":\"/usr/lib/run-1\",\"env\":{\"I\":\"1\"},\"ready\":{\"unix\":\"/s/1\",\"within\":10000000000},"
                "\"restart\":\"never\",\"name\":\"a.1\",\"service\":\"a\"}");
    json_decref(one);
    assert_int_equal(sq_scenario_instance(doc, "b", 0, &one, &e), 0);
    assert_json(one, "command", "[\"b\",\"${port}\"]");
    json_decref(one);
    assert_int_equal(sq_scenario_instance(doc, "a", 2, &one, &e), -ENOENT);
    sq_err_clear(&e);
    assert_int_equal(sq_scenario_instance(doc, "c", 0, &one, &e), -ENOENT);
    sq_err_clear(&e);
    assert_int_equal(sq_scenario_instance(doc, "none", 0, &one, &e), -ENOENT);
    json_decref(doc);
}

static void variables(void **state)
{
    static const char spec[] = "  hypothesis: \"${a} ${b:-two} ${b:-} $${a}\"\n"
                               "  services: {s: {command: [x], port: 80, instances: ${n:-1}}}\n";
    /* In a flow mapping a plain ${...} is no YAML: a block one is. */
    static const char block[] = "  hypothesis: \"${a} ${b:-two} ${b:-} $${a}\"\n"
                                "  services:\n    s:\n      command: [x]\n      port: 80\n      instances: ${n:-1}\n";
    json_t *doc = load("vars: {a: 7}\n", block, NULL);
    struct sq_vars v = {0};
    struct sq_err e = {0};

    (void)state;
    assert_non_null(doc);
    assert_json(doc, "spec/hypothesis", "\"7 two  ${a}\"");
    assert_json(doc, "spec/services/s/instances", "1");
    assert_json(doc, "vars", "{\"a\":\"7\"}");
    json_decref(doc);
    doc = load("vars: {a: 7}\n", block, "a=x: {y} # ${b}");
    assert_json(doc, "spec/hypothesis", "\"x: {y} # ${b} two  ${a}\""); /* a value is text and is not looked at again */
    json_decref(doc);
    doc = load("vars: {a: 7}\n", block, "n=3");
    assert_json(doc, "spec/services/s/instances", "3");
    json_decref(doc);
    assert_null(load("vars: {a: 7}\n", block, "n=three"));
    assert_null(load("vars: {a: 7}\n", block, "m=3"));
    assert_null(load("vars: {a: 7}\n", spec, NULL));

    assert_int_equal(sq_vars_add(&v, "x", &e), -EINVAL);
    sq_err_clear(&e);
    assert_int_equal(sq_vars_add(&v, "=1", &e), -EINVAL);
    sq_err_clear(&e);
    assert_int_equal(sq_vars_add(&v, "9a=1", &e), -EINVAL);
    sq_err_clear(&e);
    assert_int_equal(sq_vars_add(&v, "a-b=1", &e), -EINVAL);
    assert_int_equal(sq_vars_add(&v, "a=", NULL), 0);
    assert_int_equal(sq_vars_add(&v, "a=b=c", NULL), 0);
    assert_int_equal(v.n, 1);
    assert_string_equal(v.v[0].value, "b=c");
    sq_vars_free(&v);
}

static void regular_expressions(void **state)
{
    static const struct {
        const char *text;
        unsigned errors;
    } cases[] = {
        {"^nginx: worker", 0},
        {"a{2,3}", 0},
        {"(a{1000}){1000}", 0},
        {"((a{255}){255}){255}", 1},
        {"a{99999999999999999999}", 1},
        {"(((((", 1},
        {"[", 1},
        {"", 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sq_diags d;
        struct sq_norm c = {&d, "/"};

        sq_diags_init(&d, "t");
        sq_norm_regex(&c, "t", (struct sq_pos){1, 1}, cases[i].text);
        if (d.errors != cases[i].errors)
            fail_msg("%s: %u errors", cases[i].text, d.errors);
        sq_diags_free(&d);
    }
}

/* What `squall check` would print for FILE, without the file's name. */
static char *messages(const char *path)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct sq_diags d;
    json_t *doc = NULL;

    assert_non_null(f);
    sq_diags_init(&d, path);
    (void)sq_scenario_check(NULL, &doc, &d);
    assert_true((doc != NULL) == (d.errors == 0));
    for (size_t i = 0; i < d.n; i++) {
        (void)fprintf(f, "%u:%u: %s%s\n", d.list[i].pos.line, d.list[i].pos.col, d.list[i].warning ? "warning: " : "",
                      d.list[i].msg);
        if (d.list[i].hint[0])
            (void)fprintf(f, "  hint: %s\n", d.list[i].hint);
    }
    (void)fprintf(f, "%u errors, %u warnings\n", d.errors, d.warnings);
    (void)fclose(f);
    json_decref(doc);
    sq_diags_free(&d);
    return text;
}

/* From the scenario's file, wherever squall runs; the unit behind the path stays. */
static void recordings_are_beside_the_file(void **state)
{
    static const struct {
        const char *with, *path, *want;
    } cases[] = {
        {"delay: 1ms, jitter: 1ms, distribution: \"file:t/own.dist\"", "distribution", "\"file:/usr/lib/t/own.dist\""},
        {"delay: 1ms, jitter: 1ms, distribution: \"file:/own.dist\"", "distribution", "\"file:/own.dist\""},
        {"distribution: \"hlog:../own.hlog#us\"", "distribution", "\"hlog:/usr/lib/../own.hlog#us\""},
        {"distribution: \"run:last#home\"", "distribution", "\"run:/usr/lib/last#home\""},
        {"slot: {distribution: \"file:own.dist\", delay: 1ms}", "slot/distribution", "\"file:/usr/lib/own.dist\""},
        {"delay: 1ms, jitter: 1ms, distribution: normal", "distribution", "\"normal\""},
    };

    static const char call[] = "  services: {s: {command: [s], port: 1}}\n"
                               "  edges: {s->d: {from: s, to: [\"127.0.0.1:2\"]}}\n";
    const size_t n = sizeof cases / sizeof cases[0];

    (void)state;
    for (size_t k = 0; k < 2 * n; k++) {
        const size_t i = k % n;
        struct sq_diags d;
        json_t *doc = NULL;
        char *text = NULL, path[64];

        if (k >= n && strncmp(cases[i].with, "slot", 4) == 0)
            continue; /* calls have none */
        assert_true(asprintf(&text, "%sspec:\n%s  steps: [{id: a, uses: %s, with: {%s}, duration: 1s}]\n", head,
                             k < n ? "" : call,
                             k < n ? "network/impair, target: {interface: eth0}" : "call/latency, target: {edge: s->d}",
                             cases[i].with) > 0);
        sq_diags_init(&d, "/usr/lib/day.yaml");
        assert_int_equal(sq_scenario_check_text(text, strlen(text), NULL, &doc, &d), 0);
        (void)snprintf(path, sizeof path, "spec/steps/0/with/%s", cases[i].path);
        assert_json(doc, path, cases[i].want);
        sq_diags_free(&d);
        json_decref(doc);
        free(text);
    }
}

static void golden(void **state)
{
    (void)state;
    golden_all(GOLDEN, messages, 101);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(services_and_edges),
        cmocka_unit_test(targets_and_checks),
        cmocka_unit_test(instances),
        cmocka_unit_test(variables),
        cmocka_unit_test(regular_expressions),
        cmocka_unit_test(recordings_are_beside_the_file),
        cmocka_unit_test(golden),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
