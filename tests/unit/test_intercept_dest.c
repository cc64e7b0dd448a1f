/* Destinations of edges: what is accepted means exactly what was written, all else is refused with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/table.h"
#include "squall/cleanup.h"
#include "squall/dest.h"

static bool hits(const char *dest, const char *addr, uint16_t port)
{
    cleanup_free struct sq_tables *t = calloc(1, sizeof(*t));
    cleanup_free struct sq_table *made = malloc(sizeof(*made));
    struct sq_table_rule rule = {.edge = 3};
    struct sq_dest d;
    struct sq_err e = {0};
    uint32_t a[4] = {0, 0, htonl(0xffff), 0};

    assert_int_equal(sq_dest_parse(dest, &d, &e), 0);
    assert_int_equal(d.kind, SQ_DEST_ADDRESS);
    if (strchr(addr, ':'))
        assert_int_equal(inet_pton(AF_INET6, addr, a), 1);
    else
        assert_int_equal(inet_pton(AF_INET, addr, &a[3]), 1);
    rule.addr = d.addr;
    rule.bits = d.bits;
    rule.from = d.from;
    rule.to = d.to;
    assert_int_equal(sq_table_build(&rule, 1, made, &e), 0);
    sq_tables_switch(t, made);
    assert_in_set(sq_tables_find(t, a, htons(port)), ((const LargestIntegralType[]){0, 4}), 2);
    return sq_tables_find(t, a, htons(port)) != 0;
}

static void accepted(void **state)
{
    (void)state;
    assert_true(hits("127.0.0.1:80", "127.0.0.1", 80));
    assert_false(hits("127.0.0.1:80", "127.0.0.1", 81));
    assert_false(hits("127.0.0.1:80", "127.0.0.2", 80));
    assert_true(hits("127.0.0.1:80", "::ffff:127.0.0.1", 80));
    assert_true(hits("10.0.0.0/8:5432", "10.255.0.1", 5432));
    assert_false(hits("10.0.0.0/8:5432", "11.0.0.1", 5432));
    assert_true(hits("10.1.2.128/25:1-65535", "10.1.2.200", 65535));
    assert_false(hits("10.1.2.128/25:1-65535", "10.1.2.1", 65535));
    assert_true(hits("0.0.0.0/0:80", "192.0.2.1", 80));
    assert_false(hits("0.0.0.0/0:80", "2001:db8::1", 80)); /* all of IPv4 is not all of IPv6 */
    assert_true(hits("127.0.0.1:8000-8010", "127.0.0.1", 8010));
    assert_false(hits("127.0.0.1:8000-8010", "127.0.0.1", 8011));
    assert_true(hits("[::1]:80", "::1", 80));
    assert_true(hits("[fd00::/8]:443", "fdff::1", 443));
    assert_false(hits("[fd00::/8]:443", "fe80::1", 443));
    assert_true(hits("[2001:db8:8000::/33]:443", "2001:db8:8fff::1", 443));
    assert_false(hits("[2001:db8:8000::/33]:443", "2001:db8:7fff::1", 443));
    assert_true(hits("[::/0]:443", "127.0.0.1", 443)); /* v4-mapped is IPv6, too */
}

static void unix_names(void **state)
{
    struct sq_dest d;

    (void)state;
    assert_int_equal(sq_dest_parse("unix:/run/db.sock", &d, NULL), 0);
    assert_int_equal(d.kind, SQ_DEST_UNIX);
    assert_int_equal(d.path_len, 12);
    assert_string_equal(d.path, "/run/db.sock");
    assert_int_equal(sq_dest_parse("unix:@name", &d, NULL), 0);
    assert_int_equal(d.path_len, 5);
    assert_memory_equal(d.path, "\0name", 5);
}

static void names(void **state)
{
    struct sq_dest d;

    (void)state;
    assert_int_equal(sq_dest_parse("db.staging:5432-5440", &d, NULL), 0);
    assert_int_equal(d.kind, SQ_DEST_NAME);
    assert_string_equal(d.name, "db.staging");
    assert_int_equal(d.from, 5432);
    assert_int_equal(d.to, 5440);
    assert_int_equal(sq_dest_parse("localhost:80", &d, NULL), 0);
    assert_int_equal(d.kind, SQ_DEST_NAME);
}

static void refused(void **state)
{
    static const char *const bad[] = {
        "",
        "127.0.0.1",
        ":80",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:80x",
        "127.0.0.1: 80",
        "127.0.0.1:80-",
        "127.0.0.1:81-80",
        "127.0.0.1:+80",
        "127.0.0.1/33:80",
        "127.0.0.1/:80",
        "10.0.0.1/8:80",
        "127.1:80",
        "-a:80",
        "a..b:80",
        "db.staging",
        "db.staging/8:80",
        "[db.staging]:80",
        "db.staging:80:80",
        "256.0.0.1:80",
        "::1:80",
        "[::1]80",
        "[::1]",
        "[::1:80",
        "[::g]:80",
        "[::1/129]:80",
        "[fd00::1/8]:80",
        "[127.0.0.1]:80",
        "unix:",
        "unix:relative",
        "unix:/",
        "unix:@",
        "127.0.0.1:99999999999999999999",
        "127.0.0.1/00000000000000000008:80",
    };
    struct sq_dest d;
    char path[200];

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(bad); i++) {
        struct sq_err e = {0};

        if (sq_dest_parse(bad[i], &d, &e) != -EINVAL)
            fail_msg("accepted: '%s'", bad[i]);
        assert_int_equal(e.cls, SQ_C_INPUT);
        assert_true(strlen(e.msg) > 0 && strlen(e.hint) > 0);
    }
    memset(path, 'x', sizeof(path));
    memcpy(path, "unix:/", 6);
    path[5 + 107] = '\0';
    assert_int_equal(sq_dest_parse(path, &d, NULL), 0);
    path[5 + 107] = 'x';
    path[5 + 108] = '\0';
    assert_int_equal(sq_dest_parse(path, &d, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepted),
        cmocka_unit_test(unix_names),
        cmocka_unit_test(names),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
