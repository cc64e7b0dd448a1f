/* netem's encoding against what tc sends (tests/golden/netem.txt, made by netem-capture.py), and back. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/dist.h"
#include "net/lock.h"
#include "net/netem.h"
#include "net/rtnl.h"
#include "net/shaper.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"
#include "squall/units.h"

static const struct sq_param params[] = {SQ_IMPAIR_DELAY(0), SQ_IMPAIR_LOSS(0), SQ_IMPAIR_REST, SQ_PARAM_END};

/* As people write it -> struct sq_impair. "@" in a path is tests/golden. */
static int impair(const char *json, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *with = NULL, *normal = NULL;
    char here[256], text[4096];
    size_t n = 0;

    assert_non_null(realpath("tests/golden", text));
    (void)snprintf(here, sizeof here, "%.255s", text);
    for (; *json; json++)
        n += (size_t)snprintf(text + n, sizeof text - n, *json == '@' ? "%s" : "%.1s", *json == '@' ? here : json);
    assert_int_equal(sq_json_parse(text, n, &with, e), 0);
    assert_int_equal(sq_spec_normalize("network", params, with, &normal, e), 0);
    return sq_impair_read(normal, im, e);
}

static struct nlattr *encode(struct nl_msg *msg, const struct sq_impair *im, bool change)
{
    struct tcmsg tc = {0};
    struct nlattr *tb[TCA_MAX + 1];
    struct sq_err e = {0};

    assert_int_equal(nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO), 0);
    if (sq_netem_put(msg, im, change, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(nlmsg_parse(nlmsg_hdr(msg), sizeof tc, tb, TCA_MAX, NULL), 0);
    assert_string_equal(nla_get_string(tb[TCA_KIND]), "netem");
    return tb[TCA_OPTIONS];
}

static struct nl_msg *message(void)
{
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);

    assert_non_null(nlmsg_put(msg, 0, 0, RTM_NEWQDISC, 0, 0));
    return msg;
}

static size_t hex(char *out, const unsigned char *p, int n)
{
    for (int i = 0; i < n; i++)
        (void)sprintf(out + 2 * i, "%02x", p[i]);
    return 2 * (size_t)n;
}

static uint64_t fnv(const unsigned char *p, int n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (int i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* The notation of netem.txt. */
static void render(const struct nlattr *options, char *out)
{
    const struct nlattr *a;
    int left = nla_len(options) - (int)sizeof(struct tc_netem_qopt);

    out += hex(out, nla_data(options), sizeof(struct tc_netem_qopt));
    for (a = (void *)((char *)nla_data(options) + sizeof(struct tc_netem_qopt)); nla_ok(a, left);
         a = nla_next(a, &left)) {
        out += sprintf(out, " %u=", (unsigned)a->nla_type);
        if (nla_len(a) <= 128)
            out += hex(out, nla_data(a), nla_len(a));
        else
            out += sprintf(out, "#%d:%016" PRIx64, nla_len(a), fnv(nla_data(a), nla_len(a)));
    }
    assert_int_equal(left, 0);
}

/* What ours adds: the same times in nanoseconds. */
static void wide(const struct sq_impair *im, char *out)
{
    const struct {
        int type;
        int64_t v;
    } all[] = {{TCA_NETEM_LATENCY64, im->delay}, {TCA_NETEM_JITTER64, im->jitter}};

    *out = 0;
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (all[i].v) {
            out += sprintf(out, " %d=", all[i].type);
            out += hex(out, (const unsigned char *)&all[i].v, 8);
        }
}

static void one_line(char *line)
{
    struct nl_msg *msg = message();
    struct sq_impair im, back;
    struct sq_err e = {0};
    char *want = strchr(line, '\t'), got[2048], more[128];
    struct nlattr *options;

    assert_non_null(want);
    *want++ = 0;
    want[strcspn(want, "\n")] = 0;
    if (impair(line, &im, &e) < 0)
        fail_msg("%s: %s", line, e.msg);
    options = encode(msg, &im, false);
    render(options, got);
    wide(&im, more);
    if (strncmp(got, want, strlen(want)) != 0 || strcmp(got + strlen(want), more) != 0)
        fail_msg("%s:\n  we %s\n  tc %s + %s", line, got, want, more);
    assert_int_equal(sq_netem_parse(options, &back, NULL), 0);
    if (!sq_netem_same(&im, &back, &e))
        fail_msg("%s: %s", line, e.msg);
    nlmsg_free(msg);
    sq_impair_clear(&im);
}

static void same_bytes_as_tc(void **state)
{
    cleanup_fclose FILE *f = fopen("tests/golden/netem.txt", "re");
    char line[4096];
    int lines = 0;

    (void)state;
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); lines++)
        one_line(line);
    assert_in_range(lines, 201, 100000);
}

/* What tc can't say, or gets wrong: the bytes are ours alone. */
static void own_bytes(void **state)
{
    static const struct {
        const char *with, *want;
    } all[] = {
        /* tc knows whole microseconds: it would make 1 us of this */
        {"{\"delay\":\"1500ns\",\"limit\":1}", "170000000100000000000000000000000000000000000000 10=dc05000000000000"},
        /* tc refuses it; the 32-bit field is at its end */
        {"{\"delay\":\"3600s\",\"limit\":1}", "ffffffff0100000000000000000000000000000000000000 10=00a0b83046030000"},
        /* tc takes the correlation, and doesn't send it */
        {"{\"duplicate\":\"50%\",\"duplicate_correlation\":\"100%\",\"limit\":1}",
         "000000000100000000000000000000000000008000000000 1=0000000000000000ffffffff"},
        /* tc has no jitter without a delay but by `delay 0` */
        {"{\"jitter\":\"1ms\",\"limit\":1}", "0000000001000000000000000000000000000000093d0000 11=40420f0000000000"},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(all); i++) {
        struct nl_msg *msg = message();
        struct sq_impair im;
        char got[2048];

        assert_int_equal(impair(all[i].with, &im, NULL), 0);
        render(encode(msg, &im, false), got);
        assert_string_equal(got, all[i].want);
        nlmsg_free(msg);
        sq_impair_clear(&im);
    }
}

/* A netem that exists keeps what a message leaves out: a change sends everything. */
static void a_change_sends_zeros(void **state)
{
    static const int always[] = {TCA_NETEM_CORR,     TCA_NETEM_REORDER,   TCA_NETEM_CORRUPT,
                                 TCA_NETEM_RATE,     TCA_NETEM_ECN,       TCA_NETEM_SLOT,
                                 TCA_NETEM_JITTER64, TCA_NETEM_LATENCY64, TCA_NETEM_DELAY_DIST};
    const struct sq_impair im = {.jitter = SQ_MS};
    struct nl_msg *msg = message();
    struct nlattr *options = encode(msg, &im, true);
    struct sq_dist_table *uniform;
    struct sq_impair back;

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(always); i++) {
        const struct nlattr *a = nla_find((void *)((char *)nla_data(options) + 24), nla_len(options) - 24, always[i]);

        if (!a)
            fail_msg("attribute %d is missing", always[i]);
        else if (always[i] == TCA_NETEM_DELAY_DIST) {
            assert_int_equal(sq_dist_uniform(&uniform, NULL), 0);
            assert_int_equal(nla_len(a), 2 * uniform->n);
            assert_memory_equal(nla_data(a), uniform->v, 2 * uniform->n);
            free(uniform);
        }
    }
    assert_int_equal(sq_netem_parse(options, &back, NULL), 0);
    assert_true(sq_netem_same(&im, &back, NULL));
    nlmsg_free(msg);
}

static void differences_are_seen(void **state)
{
    const struct sq_impair asked = {
        .delay = 100 * SQ_MS, .jitter = 5 * SQ_MS, .delay_corr = 25, .loss = 1, .loss_model = SQ_LOSS_RANDOM};
    struct sq_impair got = asked;
    struct sq_err e = {0};

    (void)state;
    got.limit = sq_impair_limit(&asked);
    assert_true(sq_netem_same(&asked, &got, &e));
    got.delay -= 64;
    assert_false(sq_netem_same(&asked, &got, &e));
    assert_non_null(strstr(e.msg, "delay"));
    got.delay = 0; /* what a kernel that dropped the attribute would say */
    assert_false(sq_netem_same(&asked, &got, NULL));
    got = asked;
    got.limit = 1000;
    assert_false(sq_netem_same(&asked, &got, NULL));
    got.limit = sq_impair_limit(&asked);
    got.loss = 1.000001;
    assert_false(sq_netem_same(&asked, &got, NULL));
}

static void junk_is_refused(void **state)
{
    struct sq_dist_table *large = calloc(1, sizeof *large);
    struct nl_msg *msg = nlmsg_alloc(), *roomy = message();
    struct sq_impair im = {.delay = SQ_IMPAIR_MAX_NS + 1};
    struct sq_err e = {0};

    (void)state;
    assert_non_null(large);
    large->n = SQ_DIST_MAX;
    assert_int_equal(sq_netem_put(msg, &im, false, NULL), -ERANGE);
    assert_int_equal(sq_netem_parse(NULL, &im, NULL), -EBADMSG);
    /* The kernel would cut it silently. */
    im = (struct sq_impair){.jitter = SQ_NETEM_JITTER_MAX + 1};
    assert_int_equal(sq_netem_put(msg, &im, false, &e), -ERANGE);
    assert_int_equal(e.cls, SQ_C_UNSUPPORTED);
    /* A read-back has no table. */
    im = (struct sq_impair){.jitter = SQ_MS, .dist = SQ_DIST_TABLE};
    assert_int_equal(sq_netem_put(msg, &im, false, NULL), -EINVAL);
    /* A message of a page holds none; two of the largest are too large for any. */
    im.table = large;
    assert_int_equal(sq_netem_put(msg, &im, false, NULL), -EMSGSIZE);
    im.slot = true;
    im.slot_jitter = SQ_MS;
    im.slot_dist = SQ_DIST_TABLE;
    im.slot_table = large;
    assert_int_equal(sq_netem_put(roomy, &im, false, NULL), -EMSGSIZE);
    nlmsg_free(msg);
    nlmsg_free(roomy);
    free(large);
}

#define LOOPBACK 1

static int set_qdisc(const struct sq_impair *im, bool change)
{
    struct tcmsg tc = {.tcm_ifindex = LOOPBACK, .tcm_handle = 0x5c1a0000, .tcm_parent = TC_H_ROOT};
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);
    struct sq_err e = {0};

    assert_non_null(
        nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, RTM_NEWQDISC, 0, change ? 0 : NLM_F_CREATE | NLM_F_REPLACE));
    assert_int_equal(nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO), 0);
    if (sq_netem_put(msg, im, change, &e) < 0)
        fail_msg("%s", e.msg);
    return sq_rtnl_transact(msg, "change the qdisc", NULL);
}

static int del_qdisc(void)
{
    struct tcmsg tc = {.tcm_ifindex = LOOPBACK, .tcm_handle = 0x5c1a0000, .tcm_parent = TC_H_ROOT};
    struct nl_msg *msg = nlmsg_alloc();

    assert_non_null(nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, RTM_DELQDISC, 0, 0));
    assert_int_equal(nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO), 0);
    return sq_rtnl_transact(msg, "change the qdisc", NULL);
}

static int see_qdisc(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;

    if (tc->tcm_handle == 0x5c1a0000)
        assert_int_equal(sq_netem_parse(tb[TCA_OPTIONS], arg, NULL), 0);
    return 0;
}

static void kernel_has(const char *line, const struct sq_impair *im)
{
    struct tcmsg tc = {.tcm_ifindex = LOOPBACK};
    struct sq_impair back = {0};
    struct sq_err e = {0};

    assert_int_equal(sq_rtnl_dump(RTM_GETQDISC, &tc, see_qdisc, &back, &e), 0);
    if (!sq_netem_same(im, &back, &e))
        fail_msg("%s: %s", line, e.msg);
}

/* Where the kernel has netem (tests/vm): each combination is taken, as a new qdisc and as a change of the one before,
 * and reads back the same. */
static void kernel_agrees(void **state)
{
    cleanup_fclose FILE *f = fopen("tests/golden/netem.txt", "re");
    const struct sq_impair some = {.delay = SQ_MS};
    char line[4096];

    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0 || set_qdisc(&some, false) < 0) {
        if (getenv("VM_UML"))
            fail_msg("the test kernel has netem, and we are root there");
        print_message("this kernel has no netem, or this user no rights: tests/vm/12-kernel-agrees.py\n");
        skip();
    }
    assert_non_null(f);
    for (unsigned n = 0; fgets(line, sizeof line, f); n++) {
        struct sq_impair im;
        int r;

        *strchr(line, '\t') = 0;
        assert_int_equal(impair(line, &im, NULL), 0);
        /* The qdisc of the line before is there. */
        r = set_qdisc(&im, true);
        if (r < 0)
            fail_msg("%s: the kernel refused the change: %d", line, r);
        kernel_has(line, &im);
        if (n % 4 == 0) {
            assert_int_equal(del_qdisc(), 0);
            r = set_qdisc(&im, false);
            if (r < 0)
                fail_msg("%s: the kernel refused it: %d", line, r);
            kernel_has(line, &im);
        }
        sq_impair_clear(&im);
    }
}

/* Another Squall holds the lock: a fault can't begin then, but must end. Whoever is not our uid can't hold it, and
 * other namespaces have their own. */
static void a_held_lock_keeps_no_fault(void **state)
{
    struct sq_err e = {0};
    int status = -1;
    cleanup_json json_t *record =
        json_pack("{s:i,s:b,s:I,s:i,s:i,s:i,s:s}", "ifindex", 1, "ingress", 0, "root", (json_int_t)0x5c1a0000, "slot",
                  1, "bit", 0, "pref", 1, "filter", "squall-1");

    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        print_message("needs root\n");
        skip();
    }
    /* What everybody can open and lock is not the lock. */
    cleanup_close int others = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(others, LOCK_EX | LOCK_NB), 0);
    cleanup_close int first = sq_net_lock(20, &e);
    assert_true(first >= 0);
    pid_t stranger = fork();
    if (stranger == 0)
        _exit(setresuid(65533, 65533, 65533) == 0 && open("/run/squall-netns.lock", O_RDONLY) < 0 && errno == EACCES
                  ? 0
                  : 1);
    assert_int_equal(waitpid(stranger, &status, 0), stranger);
    assert_int_equal(status, 0);
    assert_int_equal(sq_net_lock(20, &e), -EBUSY);
    sq_err_clear(&e);
    if (sq_shaper_netem.revert(NULL, record, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    cleanup_close int elsewhere = sq_net_lock(0, &e);
    assert_true(elsewhere >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_as_tc),
        cmocka_unit_test(own_bytes),
        cmocka_unit_test(a_change_sends_zeros),
        cmocka_unit_test(differences_are_seen),
        cmocka_unit_test(junk_is_refused),
        cmocka_unit_test(kernel_agrees),
        cmocka_unit_test(a_held_lock_keeps_no_fault),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
