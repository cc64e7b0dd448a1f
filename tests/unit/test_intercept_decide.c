/* The one decision that the BPF hooks and the seccomp supervisor share, and the ways to tell the proxy's reports from
 * lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/priv.h"

static struct sq_edge_cfg one_rule(uint32_t kind, uint64_t threshold)
{
    struct sq_edge_cfg cfg = {.epoch = 3, .id = 1};
    struct sq_rule *r = &cfg.slot[1].rule[0];

    cfg.slot[1].n = 1;
    r->kind = kind;
    r->threshold = threshold;
    r->err = ECONNREFUSED;
    r->number = 7;
    memset(r->callers, 0xff, sizeof(r->callers));
    return cfg;
}

static void kinds(void **state)
{
    struct sq_decision d;
    struct sq_edge_cfg cfg = {.epoch = 2};

    (void)state;
    sq_decide(&cfg, NULL, 0, false, &d);
    assert_int_equal(d.go, SQ_GO_PASS);
    assert_int_equal(d.drawn[0], 0);
    cfg = one_rule(SQ_RULE_ERROR, SQ_ALWAYS);
    sq_decide(&cfg, NULL, 5, false, &d);
    assert_int_equal(d.go, SQ_GO_FAIL);
    assert_int_equal(d.err, ECONNREFUSED);
    assert_int_equal(d.rule, 7);
    cfg = one_rule(SQ_RULE_ERROR, 0);
    sq_decide(&cfg, NULL, 5, false, &d);
    assert_int_equal(d.go, SQ_GO_PASS);
    assert_true(d.drawn[0] == 7 && d.hits == 0);
    cfg = one_rule(SQ_RULE_BLACKHOLE, SQ_ALWAYS);
    sq_decide(&cfg, NULL, 5, false, &d);
    assert_int_equal(d.go, SQ_GO_GATE);
    assert_true(d.drawn[0] == 7 && d.hits == 1);
    cfg = one_rule(SQ_RULE_LATENCY, SQ_ALWAYS);
    sq_decide(&cfg, NULL, 5, false, &d);
    assert_int_equal(d.go, SQ_GO_PASS); /* the connect can't be held: only its bytes */
    assert_true(d.drawn[0] == 7 && d.hits == 1);
    cfg.slot[1].rule[0].hold = 1;
    sq_decide(&cfg, NULL, 5, false, &d);
    assert_int_equal(d.go, SQ_GO_GATE);
}

static void callers(void **state)
{
    struct sq_edge_cfg cfg = one_rule(SQ_RULE_ERROR, SQ_ALWAYS);
    struct sq_decision d;

    (void)state;
    memset(cfg.slot[1].rule[0].callers, 0, sizeof(cfg.slot[1].rule[0].callers));
    cfg.slot[1].rule[0].callers[2] = UINT64_C(1) << 3; /* caller 131 */
    for (uint32_t c = 0; c < SQ_CALLERS; c++) {
        sq_decide(&cfg, NULL, c, false, &d);
        assert_int_equal(d.go, c == 131 ? SQ_GO_FAIL : SQ_GO_PASS);
        assert_int_equal(d.drawn[0], c == 131 ? 7 : 0);
        assert_int_equal(d.hits, c == 131);
    }
}

static void order(void **state)
{
    struct sq_edge_cfg cfg = one_rule(SQ_RULE_LATENCY, SQ_ALWAYS);
    struct sq_decision d;

    (void)state;
    cfg.slot[1].rule[0].hold = 1;
    cfg.slot[1].rule[1] = cfg.slot[1].rule[0];
    cfg.slot[1].rule[1].kind = SQ_RULE_ERROR;
    cfg.slot[1].n = 2;
    sq_decide(&cfg, NULL, 0, false, &d);
    assert_int_equal(d.go, SQ_GO_FAIL);
    cfg.slot[1].n = 4000000000u; /* never more than there are */
    sq_decide(&cfg, NULL, 0, false, &d);
    assert_int_equal(d.go, SQ_GO_FAIL);
}

/* Two rules that count: a connect that an error fails takes no ticket of the other, one that goes direct neither. */
static void counts(void **state)
{
    struct sq_tally *tallies = calloc(SQ_TALLIES, sizeof(*tallies));
    struct sq_edge_cfg cfg = one_rule(SQ_RULE_LATENCY, SQ_ALWAYS);
    struct sq_rule *slow = &cfg.slot[1].rule[0], *fail = &cfg.slot[1].rule[1];
    struct sq_decision d;
    char got[13] = "";

    (void)state;
    slow->hold = 1;
    slow->tally = 3;
    slow->count.every = 2;
    *fail = (struct sq_rule){.kind = SQ_RULE_ERROR, .threshold = SQ_ALWAYS, .err = 5, .number = 8, .tally = 4};
    fail->count = (struct sq_nth){.first = 2, .after = 1};
    memset(fail->callers, 0xff, sizeof(fail->callers));
    cfg.slot[1].n = 2;
    for (int i = 0; i < 8; i++) {
        sq_decide(&cfg, tallies, 6, i == 5, &d);
        got[i] = "pgf"[d.go];
        assert_int_equal(d.drawn[1], 8);
        assert_int_equal(d.drawn[0], d.go == SQ_GO_FAIL || i == 5 ? 0 : 7);
    }
    assert_string_equal(got, "pffgppgp");
    assert_true(tallies[3].of[6].seen == 5 && tallies[3].of[6].hit == 2);
    assert_true(tallies[4].of[6].seen == 8 && tallies[4].of[6].hit == 2);
    fail->tally = SQ_TALLY_NONE;
    sq_decide(&cfg, tallies, 6, false, &d);
    assert_int_equal(d.go, SQ_GO_GATE); /* what can't be counted is not hit */
    free(tallies);
}

static void share(void **state)
{
    struct sq_edge_cfg cfg = one_rule(SQ_RULE_ERROR, SQ_ALWAYS / 10 * 3);
    struct sq_decision d;
    int n = 0;

    (void)state;
    for (int i = 0; i < 10000; i++) {
        sq_decide(&cfg, NULL, 0, false, &d);
        n += d.go == SQ_GO_FAIL;
        assert_true(d.drawn[0] == 7 && d.hits == (d.go == SQ_GO_FAIL));
    }
    assert_in_range(n, 2760, 3240); /* 5.2 standard deviations */
}

/* ---- what the proxy says ---- */

struct fake {
    struct sq_intercept ic;
    struct sq_edge edge;
    struct sq_caller caller;
    json_t *events; /* with "run" */
};

static void on_event(void *arg, const char *run, json_t *obj)
{
    struct fake *f = arg;

    (void)json_object_set_new(obj, "run", json_string(run));
    (void)json_array_append_new(f->events, obj);
}

static int setup(void **state)
{
    struct fake *f = calloc(1, sizeof(*f));

    f->events = json_array();
    f->ic.o.event = on_event;
    f->ic.o.arg = f;
    f->ic.link.fd = f->ic.link.pidfd = -1;
    f->edge = (struct sq_edge){.ic = &f->ic, .id = 4, .run = "r1", .name = "app->dep", .from = "app"};
    f->caller = (struct sq_caller){.ic = &f->ic, .id = 9, .run = "r1", .service = "app", .instance = "app.0"};
    f->ic.edge[0] = &f->edge;
    f->ic.caller[3] = &f->caller;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fake *f = *state;

    json_decref(f->events);
    json_decref(f->edge.ack_rules);
    sq_made_free(&f->edge);
    free(f);
    return 0;
}

static void say(struct fake *f, const char *text)
{
    sq_incoming(&f->ic, text, strlen(text));
}

static size_t count(const struct fake *f, const char *type)
{
    const json_t *e;
    size_t i, n = 0;

    json_array_foreach(f->events, i, e) n += strcmp(json_string_value(json_object_get(e, "type")), type) == 0;
    return n;
}

static void calls(void **state)
{
    struct fake *f = *state;
    const json_t *e, *c;

    say(f, "{\"op\":\"calls\",\"calls\":[[5,9,4,0,0,200,70,10,\"f1\",\"\",60],[6,9,4,0,2,0,1,0,\"\","
           "\"0123456789abcdef0123456789abcdef\",0]]}");
    assert_int_equal(json_array_size(f->events), 1);
    e = json_array_get(f->events, 0);
    assert_string_equal(json_string_value(json_object_get(e, "run")), "r1");
    assert_string_equal(json_string_value(json_object_get(e, "edge")), "app->dep");
    assert_string_equal(json_string_value(json_object_get(e, "instance")), "app.0");
    assert_int_equal(json_array_size(json_object_get(e, "calls")), 2);
    c = json_array_get(json_object_get(e, "calls"), 0);
    assert_int_equal(json_array_size(c), 9);
    assert_int_equal(json_integer_value(json_array_get(c, 0)), 5);
    assert_int_equal(json_integer_value(json_array_get(c, 1)), 0);
    assert_int_equal(json_integer_value(json_array_get(c, 3)), 200);
    assert_string_equal(json_string_value(json_array_get(c, 6)), "f1");
    assert_int_equal(json_integer_value(json_array_get(c, 8)), 60);
    assert_int_equal(f->ic.bad_calls, 0);
}

static void lies(void **state)
{
    static const char *const bad[] = {
        "[5,9,5,0,0,200,7,0,\"\",\"\",6]",                   /* no such edge */
        "[5,8,4,0,0,200,7,0,\"\",\"\",6]",                   /* no such caller */
        "[-5,9,4,0,0,200,7,0,\"\",\"\",6]",                  /* before the machine was started */
        "[9000000000000000000,9,4,0,0,200,7,0,\"\",\"\",6]", /* in the future */
        "[5,9,4,3,0,200,7,0,\"\",\"\",6]",                   /* no such kind */
        "[5,9,4,0,7,200,7,0,\"\",\"\",6]",                   /* no such outcome */
        "[5,9,4,0,0,1000,7,0,\"\",\"\",6]",                  /* no such status */
        "[5,9,4,0,0,200,-7,0,\"\",\"\",6]",                  /* negative */
        "[5,9,4,0,0,200,7,0,\"f<1>\",\"\",6]",               /* not an id */
        "[5,9,4,0,0,200,7,0,\"\",\"0123\",6]",               /* not a trace */
        "[5,9,4,0,0,200,7,0,\"\",\"g123456789abcdef0123456789abcdef\",6]",
        "[5,9,4,0,0,200,7,0,\"\",\"\"]",     /* too short */
        "[5,9,4,0,0,200,7,0,\"\",\"\",6,7]", /* too long */
        "[5.5,9,4,0,0,200,7,0,\"\",\"\",6]", /* wrong type */
        "[5,9,4,0,0,200,7,0,\"a\\u0000b\",\"\",6]",
        "{}",
        "null",
        "7",
    };
    struct fake *f = *state;
    char text[512];

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        (void)snprintf(text, sizeof(text), "{\"op\":\"calls\",\"calls\":[%s]}", bad[i]);
        say(f, text);
        if (count(f, "calls") != 0)
            fail_msg("believed: %s", bad[i]);
    }
    assert_true(f->ic.bad_calls >= sizeof(bad) / sizeof(*bad) - 1);
    assert_int_equal(count(f, "warning"), 1); /* said once */
    say(f, "{\"op\":");
    say(f, "[]");
    say(f, "{\"op\":7}");
    say(f, "{\"op\":\"calls\",\"calls\":7}");
    say(f, "{\"op\":\"ack\",\"edge\":4,\"epoch\":-1,\"rules\":[]}");
    say(f, "{\"op\":\"ack\",\"edge\":4,\"epoch\":8,\"rules\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}");
    say(f, "{\"op\":\"upstream\",\"req\":1,\"edge\":99}");
    assert_int_equal(count(f, "calls"), 0);
    assert_int_equal(f->edge.acked, 0);
    say(f, "{\"op\":\"ack\",\"edge\":4,\"epoch\":8,\"rules\":[]}");
    assert_int_equal(f->edge.acked, 8);
}

/* A caller of another run cannot speak for this edge. */
static void runs(void **state)
{
    struct fake *f = *state;

    (void)strcpy(f->caller.run, "r2");
    say(f, "{\"op\":\"calls\",\"calls\":[[5,9,4,0,0,200,70,10,\"f1\",\"\",60]]}");
    assert_int_equal(count(f, "calls"), 0);
}

/* In a process whose supervisor is gone, a trapped call is ENOSYS: so one can see which are. */
static int trapped(void *filter, size_t len)
{
    struct sock_fprog prog = {.len = (unsigned short)(len / sizeof(struct sock_filter)), .filter = filter};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), listener, bad = 0;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return 100;
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
    if (listener < 0 || close(listener) < 0)
        return 101;
    bad |= sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) == 1 ? 0 : 1; /* musl's resolver */
    bad |= connect(tcp, (struct sockaddr *)&to, sizeof(to)) < 0 && errno == ENOSYS ? 0 : 2;
    bad |= sendto(tcp, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof(to)) < 0 && errno == ENOSYS
               ? 0
               : 4;
    bad |= sendto(tcp, "x", 1, MSG_NOSIGNAL, NULL, 0) < 0 && errno != ENOSYS ? 0 : 8; /* send(2) */
    return bad;
}

static void filter(void **state)
{
    void *bytes = NULL;
    size_t len = 0;
    int status = 0;
    pid_t pid;

    (void)state;
    assert_int_equal(sq_filter_build(false, &bytes, &len, NULL), 0);
    pid = fork();
    if (pid == 0)
        _exit(trapped(bytes, len));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    free(bytes);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds),
        cmocka_unit_test(callers),
        cmocka_unit_test(order),
        cmocka_unit_test(share),
        cmocka_unit_test(counts),
        cmocka_unit_test_setup_teardown(calls, setup, teardown),
        cmocka_unit_test_setup_teardown(lies, setup, teardown),
        cmocka_unit_test_setup_teardown(runs, setup, teardown),
        cmocka_unit_test(filter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
