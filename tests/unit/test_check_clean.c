/* clean: nothing left, something left, somebody else's doing. */
#include "unit/verify_rig.h"

#define SPEC "\"steps\":[{\"id\":\"s\",\"uses\":\"network/latency\"}]"
#define QDISC(dev, kind, handle)                                                                                       \
    "{\"dev\":\"" dev "\",\"kind\":\"" kind "\",\"handle\":\"" handle "\",\"parent\":\"root\"}"
#define STATE(qdiscs, cgroups, bpf, stopped, faults, journal)                                                          \
    "{\"qdiscs\":[" qdiscs "],\"cgroups\":[" cgroups "],\"bpf\":[" bpf "],\"stopped\":[" stopped                       \
    "],\"faults\":[" faults "],\"journal\":" journal ",\"unread\":[]}"
#define CALM_WITH(packets) "{\"packets\":[" packets "],\"journal\":0}"
#define CONFIG(list, items) "{\"" list "\":[" items "]}"
#define TABLE(name) "{\"name\":\"" name "\",\"family\":1,\"rules\":3,\"digest\":\"1\"}"
#define NETWORKS(before, now)                                                                                          \
    "{\"qdiscs\":[" QDISC("eth0", "fq",                                                                                \
                          "0:") "],\"cgroups\":[\"/squall-p-1\"],\"bpf\":[],\"stopped\":[],\"faults\":["               \
                                "],\"journal\":0,\"networks\":[{\"namespace\":\"blue\",\"before\":" before             \
                                ",\"now\":" now "}]}"
#define CALM STATE(QDISC("eth0", "fq", "0:"), "\"/squall-p-1\"", "", "", "", "0")

static const char *judge(struct rig *r, bool private_one, const char *before, const char *after, const char *end)
{
    rig_open(r, SPEC);
    rig_line(r, "{\"t\":0.1,\"type\":\"injector\",\"info\":{\"private\":%s}}", private_one ? "true" : "false");
    if (before)
        rig_line(r, "{\"t\":0.1,\"type\":\"snapshot\",\"when\":\"before\",\"state\":%s}", before);
    rig_fault(r, "f1", "s", "network/latency", 1, 2,
              "\"hit\":[{\"interface\":\"eth9\"}],\"readback\":{\"table\":\"squall-p-1-f1-a\"}");
    if (after)
        rig_line(r, "{\"t\":9,\"type\":\"snapshot\",\"when\":\"after\",\"state\":%s}", after);
    if (end)
        rig_line(r, "{\"t\":10,\"type\":\"end\",\"reason\":\"completed\",%s}", end);
    return rig_check(r, "clean", "{}");
}

static void judged(void **state)
{
    static const char calm[] = CALM, ok[] = "\"clean\":true,\"left\":[]";
    static const struct {
        const char *before, *after, *end, *want, *words;
        bool shared;
    } cases[] = {
        {calm, calm, ok, "pass", "as it was before", false},
        {calm, STATE(QDISC("eth0", "fq", "0:") "," QDISC("eth1", "netem", "5c1a:"), "", "", "", "", "0"), ok, "fail",
         "eth1", false},
        {calm, STATE(QDISC("eth0", "netem", "8001:"), "", "", "", "", "0"), ok, "pass", "others changed", false},
        {STATE(QDISC("eth9", "fq", "1:"), "", "", "", "", "0"), STATE("", "", "", "", "", "0"), ok, "inconclusive",
         "eth9", false},
        {calm, STATE("", "\"/squall-p-1\",\"/squall-p-1/run/checkout.0\"", "", "", "", "0"), ok, "fail", "checkout.0",
         false},
        {calm, STATE("", "", "{\"link\":7,\"program\":\"sq_connect4\",\"cgroup\":1}", "", "", "0"), ok, "fail",
         "BPF link 7", false},
        {calm, STATE("", "", "{\"link\":7,\"program\":\"sq_connect4\",\"cgroup\":1}", "", "", "0"), ok, "inconclusive",
         "", true},
        {calm, STATE("", "", "", "{\"pid\":5,\"instance\":\"payments.0\",\"how\":\"stopped\"}", "", "0"), ok, "fail",
         "payments.0", true},
        {calm, STATE("", "", "", "", "{\"run\":\"r1\",\"fault\":\"f1\",\"uses\":\"x\"}", "0"), ok, "fail", "fault f1",
         true},
        {calm, STATE("", "", "", "", "{\"run\":\"r2\",\"fault\":\"f8\",\"uses\":\"x\"}", "0"), ok, "inconclusive",
         "fault f8", true},
        {CALM_WITH(""), CALM_WITH("{\"pid\":9,\"interface\":\"eth9\",\"state\":\"live\"}"), ok, "fail",
         "packet process 9 on eth9", false},
        {CALM_WITH(""), CALM_WITH("{\"pid\":9,\"interface\":\"eth9\",\"state\":\"draining\"}"), ok, "inconclusive",
         "packet process 9 on eth9 (draining)", false},
        {calm, STATE("", "", "", "", "", "2"), ok, "fail", "undo records", false},
        {calm, calm, "\"clean\":false,\"left\":[\"qdisc on eth1\"]", "fail", "qdisc on eth1", false},
        {calm, NULL, ok, "inconclusive", "no snapshot after", false},
        {NULL, calm, ok, "inconclusive", "no snapshot before", false},
        {NULL, NULL, ok, "inconclusive", "no snapshot", false},
        {calm, calm, NULL, "inconclusive", "no end", false},
        {calm, "{\"qdiscs\":[],\"stopped\":[],\"faults\":[],\"journal\":0,\"unread\":[\"bpf\",\"cgroups\"]}", ok,
         "inconclusive", "could not be read", false},
        {"{\"stopped\":[],\"faults\":[],\"journal\":0}", "{\"stopped\":[],\"faults\":[],\"journal\":0}", ok, "pass", "",
         false}, /* no root */
        {"{}", "{}", ok, "inconclusive", "nothing of the host could be read", false},
        {CONFIG("classes", ""), CONFIG("classes", "{\"dev\":\"eth9\",\"kind\":\"htb\",\"handle\":\"1:c100\"}"), ok,
         "inconclusive", "class htb 1:c100 on eth9", false},
        {CONFIG("filters", "{\"dev\":\"eth8\",\"kind\":\"u32\",\"options\":\"1\"}"),
         CONFIG("filters", "{\"dev\":\"eth8\",\"kind\":\"u32\",\"options\":\"2\"}"), ok, "pass", "others changed",
         false},
        {CONFIG("filters", "{\"dev\":\"eth9\",\"kind\":\"u32\",\"options\":\"1\"}"),
         CONFIG("filters", "{\"dev\":\"eth9\",\"kind\":\"u32\",\"options\":\"2\"}"), ok, "inconclusive",
         "filter u32  at  of eth9", false},
        {CONFIG("tables", ""), CONFIG("tables", TABLE("squall-p-1-f1-a")), ok, "fail", "squall-p-1-f1-a", true},
        {CONFIG("tables", ""), CONFIG("tables", TABLE("squall-p-2-f1-b")), ok, "pass", "squall-p-2-f1-b", false},
        {"{\"journal\":0}", NETWORKS("{}", "{}"), ok, "inconclusive", "nothing of the host", false},
        {calm, NETWORKS(CONFIG("tables", ""), CONFIG("tables", TABLE("squall-p-1-f1-a"))), ok, "fail",
         "squall-p-1-f1-a in blue", false},
        {calm, NETWORKS("{\"qdiscs\":[]}", "{\"qdiscs\":[" QDISC("eth9", "htb", "5c1a:") "]}"), ok, "fail",
         "5c1a: on eth9 in blue", false},
        {calm, NETWORKS("{\"qdiscs\":[" QDISC("eth9", "htb", "5c1a:") "]}", "null"), ok, "pass", "as it was", false},
        {calm, NETWORKS("{\"qdiscs\":[]}", "{}"), ok, "inconclusive", "qdiscs could not be read", false},
        {calm, NETWORKS("null", "{}"), ok, "inconclusive", "other namespaces before the run could not be read", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;

        const char *got = judge(&r, !cases[i].shared, cases[i].before, cases[i].after, cases[i].end);
        if (strcmp(got, cases[i].want) != 0 || !strstr(rig_why(&r, 0), cases[i].words))
            fail_msg("case %zu: %s instead of %s: %s", i, got, cases[i].want, rig_why(&r, 0));
        rig_close(&r);
    }
}

/* A filter can't be taken out of a program again: the host is not as it was before. */
static void filters_stay(void **state)
{
    static const char after[] = CALM;
    struct rig r;

    (void)state;
    rig_open(&r, SPEC ",\"edges\":{\"a->b\":{\"from\":\"a\",\"attach\":\"seccomp\"}}");
    rig_line(&r, "{\"t\":0.1,\"type\":\"snapshot\",\"when\":\"before\",\"state\":%s}", after);
    rig_line(&r, "{\"t\":9,\"type\":\"snapshot\",\"when\":\"after\",\"state\":%s}", after);
    rig_end(&r, 10);
    assert_string_equal(rig_check(&r, "clean", "{}"), "pass");
    assert_null(strstr(rig_why(&r, 0), "as it was before"));
    assert_non_null(strstr(rig_why(&r, 0), "attach: seccomp"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(filters_stay)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
