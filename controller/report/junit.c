/* JUnit XML: a suite for the run, a case for each check. fail is <failure>, infrastructure and abort are <error>,
 * inconclusive is <skipped> with its reason. The names stay the same from run to run: CI uses them as identity. GitLab
 * shows the element's content, GitHub's tools the attribute: both carry the sentence. */
#include <string.h>

#include "report/markup.h"
#include "report/report.h"
#include "report/series.h"
#include "squall/json.h"

static void outcome(FILE *out, const char *element, const char *type, const char *message, const char *text)
{
    (void)fprintf(out, "      <%s", element);
    if (type)
        (void)fprintf(out, " type=\"%s\"", type);
    (void)fputs(" message=\"", out);
    sq_xml(out, message);
    (void)fputs("\">", out);
    sq_xml(out, text);
    (void)fprintf(out, "</%s>\n", element);
}

static void details(const json_t *c, char *buf, size_t len)
{
    (void)snprintf(buf, len, "%s\nobserved: %s\nlimit: %s\nn: %lld\ninterval: %s", sq_json_str_or(c, "why", ""),
                   sq_json_str_or(c, "observed", "-"), sq_json_str_or(c, "limit", "-"),
                   (long long)sq_json_int_or(c, "n", 0), sq_json_str_or(c, "interval", "-"));
}

static bool same(const json_t *a, const json_t *b, const char *key)
{
    return strcmp(sq_json_str_or(a, key, ""), sq_json_str_or(b, key, "")) == 0;
}

/* A check may have several results for one step and subject. GitLab shows the first of those that have one name, so
 * they get their limit, and where that is the same, too, a number. */
static void tell_apart(FILE *out, const json_t *checks, const json_t *c)
{
    const char *limit = sq_json_str_or(c, "limit", "");
    unsigned twins = 0, number = 1;
    bool passed = false;
    const json_t *o;
    size_t i;

    json_array_foreach(checks, i, o)
    {
        passed = passed || o == c;
        if (o == c || !same(o, c, "check") || !same(o, c, "step") || !same(o, c, "subject"))
            continue;
        twins++;
        number += !passed && same(o, c, "limit");
    }
    if (twins && limit[0]) {
        (void)fputs(" / ", out);
        sq_xml(out, limit);
    }
    if (twins && number > 1)
        (void)fprintf(out, " #%u", number);
}

static void test_case(FILE *out, const char *run_name, const json_t *checks, const json_t *c)
{
    const char *verdict = sq_verdict_of(c), *subject = sq_json_str_or(c, "subject", "");
    const json_t *window = json_object_get(c, "window");
    char text[2048];
    double took = json_number_value(json_array_get(window, 1)) - json_number_value(json_array_get(window, 0));

    details(c, text, sizeof text);
    (void)fputs("    <testcase classname=\"", out);
    sq_xml(out, run_name);
    (void)fputs("\" name=\"", out);
    sq_xml(out, sq_json_str_or(c, "check", "check"));
    if (sq_json_str_or(c, "step", "")[0]) {
        (void)fputs(" / ", out);
        sq_xml(out, sq_json_str_or(c, "step", ""));
    }
    if (subject[0]) {
        (void)fputs(" / ", out);
        sq_xml(out, subject);
    }
    tell_apart(out, checks, c);
    (void)fprintf(out, "\" time=\"%.3f\">\n", took > 0 ? took : 0.0);
    if (strcmp(verdict, "fail") == 0)
        outcome(out, "failure", "check", sq_json_str_or(c, "why", "failed"), text);
    else if (strcmp(verdict, "pass") != 0)
        outcome(out, "skipped", NULL, sq_json_str_or(c, "why", "inconclusive"), text);
    (void)fputs("    </testcase>\n", out);
}

/* A run that ended for another reason than its checks is a case of its own, so that no CI takes it for green. */
static const char *not_judged(const struct sq_report_in *in)
{
    int64_t code = sq_json_int_or(in->verdict, "exit", 5);

    return code >= 4 || code == 2 ? sq_json_str_or(in->verdict, "why", "the run did not come to its end") : NULL;
}

static void count(const json_t *checks, unsigned *failures, unsigned *skipped)
{
    const json_t *c;
    size_t i;

    json_array_foreach(checks, i, c)
    {
        *failures += strcmp(sq_verdict_of(c), "fail") == 0;
        *skipped += strcmp(sq_verdict_of(c), "fail") != 0 && strcmp(sq_verdict_of(c), "pass") != 0;
    }
}

static int write_junit(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    const json_t *checks = json_object_get(in->verdict, "checks"), *c;
    const char *broken = not_judged(in);
    unsigned failures = 0, skipped = 0, tests = (unsigned)json_array_size(checks) + (broken != NULL);
    char start[20];
    size_t i;

    (void)e;
    count(checks, &failures, &skipped);
    (void)fprintf(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<testsuites tests=\"%u\" failures=\"%u\" errors=\"%u\" skipped=\"%u\" time=\"%.3f\">\n  <testsuite name=\"",
        tests, failures, broken != NULL, skipped, (double)ev->last_ns / 1e9);
    sq_xml(out, ev->name);
    (void)fprintf(out, "\" tests=\"%u\" failures=\"%u\" errors=\"%u\" skipped=\"%u\" time=\"%.3f\" timestamp=\"", tests,
                  failures, broken != NULL, skipped, (double)ev->last_ns / 1e9);
    (void)snprintf(start, sizeof start, "%.19s", ev->start);
    sq_xml(out, start);
    (void)fputs("\" hostname=\"", out);
    sq_xml(out, ev->host);
    (void)fputs("\" id=\"0\">\n    <properties>\n      <property name=\"squall.run\" value=\"", out);
    sq_xml(out, ev->id);
    (void)fprintf(out, "\"/>\n      <property name=\"squall.seed\" value=\"%llu\"/>\n", (unsigned long long)ev->seed);
    (void)fprintf(out, "      <property name=\"squall.verdict\" value=\"%s\"/>\n    </properties>\n",
                  sq_verdict_of(in->verdict));
    json_array_foreach(checks, i, c) test_case(out, ev->name, checks, c);
    if (broken) {
        (void)fputs("    <testcase classname=\"", out);
        sq_xml(out, ev->name);
        (void)fputs("\" name=\"run\" time=\"0\">\n", out);
        outcome(out, "error", sq_verdict_of(in->verdict), broken, broken);
        (void)fputs("    </testcase>\n", out);
    }
    (void)fputs("  </testsuite>\n</testsuites>\n", out);
    return 0;
}

const struct sq_report sq_report_junit = {"junit", "junit.xml", "JUnit XML for CI systems", write_junit};
