/* netem's encoding against what tc sends (tests/golden/netem.txt), and back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>

#include "net/netem.h"
#include "squall/units.h"

/* TCA_OPTIONS' payload in hex. */
static struct nlattr *encode(struct nl_msg *msg, const struct sq_netem *n, char *hex, size_t len)
{
    struct tcmsg tc = {0};
    struct nlattr *tb[TCA_MAX + 1];

    assert_int_equal(nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO), 0);
    assert_int_equal(sq_netem_put(msg, n, false, NULL), 0);
    assert_int_equal(nlmsg_parse(nlmsg_hdr(msg), sizeof tc, tb, TCA_MAX, NULL), 0);
    assert_string_equal(nla_get_string(tb[TCA_KIND]), "netem");
    for (int i = 0; i < nla_len(tb[TCA_OPTIONS]); i++)
        (void)snprintf(hex + 2 * i, len - 2 * (size_t)i, "%02x", ((unsigned char *)nla_data(tb[TCA_OPTIONS]))[i]);
    return tb[TCA_OPTIONS];
}

static void same_bytes_as_tc(void **state)
{
    FILE *f = fopen("tests/golden/netem.txt", "re");
    char line[1024], want[512], hex[512];
    int lines = 0;

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        struct nl_msg *msg = nlmsg_alloc_simple(RTM_NEWQDISC, 0);
        struct sq_netem n = {0}, back;
        struct nlattr *options;
        long long delay, jitter;
        unsigned limit;

        assert_int_equal(
            sscanf(line, "%lld %lld %lf %lf %u | %511s", &delay, &jitter, &n.correlation, &n.loss, &limit, want), 6);
        n.delay = delay;
        n.jitter = jitter;
        n.limit = limit;
        options = encode(msg, &n, hex, sizeof hex);
        if (strcmp(hex, want) != 0)
            fail_msg("%s: got %s", line, hex);
        assert_int_equal(sq_netem_parse(options, &back, NULL), 0);
        assert_true(sq_netem_same(&n, &back, NULL));
        nlmsg_free(msg);
        lines++;
    }
    (void)fclose(f);
    assert_int_equal(lines, 190);
}

static void differences_are_seen(void **state)
{
    const struct sq_netem asked = {.delay = 100 * SQ_MS, .jitter = 5 * SQ_MS, .correlation = 25, .loss = 1};
    struct sq_netem got = asked;
    struct sq_err e = {0};

    (void)state;
    got.limit = sq_netem_limit(&asked);
    assert_true(sq_netem_same(&asked, &got, &e));
    got.delay -= 64;
    assert_false(sq_netem_same(&asked, &got, &e));
    assert_non_null(strstr(e.msg, "delay"));
    got.delay = 0; /* what a kernel that dropped the attribute would say */
    assert_false(sq_netem_same(&asked, &got, NULL));
    got = asked;
    got.limit = 1000;
    assert_false(sq_netem_same(&asked, &got, NULL));
    got.limit = sq_netem_limit(&asked);
    got.loss = 1.000001;
    assert_false(sq_netem_same(&asked, &got, NULL));
}

static void limits_hold_the_delay(void **state)
{
    const struct sq_netem small = {.delay = SQ_MS}, large = {.delay = SQ_S}, huge = {.delay = 270 * SQ_S};

    (void)state;
    assert_int_equal(sq_netem_limit(&small), 10000);
    assert_int_equal(sq_netem_limit(&large), 1500000);
    assert_int_equal(sq_netem_limit(&huge), 20000000);
}

static void junk_is_refused(void **state)
{
    struct nl_msg *msg = nlmsg_alloc();
    struct sq_netem n = {.delay = SQ_NETEM_MAX_NS + 1};

    (void)state;
    assert_int_equal(sq_netem_put(msg, &n, false, NULL), -ERANGE);
    assert_int_equal(sq_netem_parse(NULL, &n, NULL), -EBADMSG);
    nlmsg_free(msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_as_tc),
        cmocka_unit_test(differences_are_seen),
        cmocka_unit_test(limits_hold_the_delay),
        cmocka_unit_test(junk_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
