/* Messages of DNS: what a query asks, which rules it concerns, and the answers that rules give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/dnsmsg.h"
#include "squall/cleanup.h"
#include "squall/json.h"

/* A query for NAME (labels separated by dots). */
static size_t make(uint8_t *p, const char *name, uint16_t type, uint16_t edns)
{
    size_t at = 12;
    memset(p, 0, 12);
    p[0] = 0xab;
    p[1] = 0xcd;
    p[2] = 1; /* RD */
    p[5] = 1;
    p[11] = edns > 0;
    while (*name) {
        size_t n = strcspn(name, ".");
        p[at++] = (uint8_t)n;
        memcpy(p + at, name, n);
        at += n;
        name += n + (name[n] == '.');
    }
    p[at++] = 0;
    p[at++] = (uint8_t)(type >> 8);
    p[at++] = (uint8_t)type;
    p[at++] = 0;
    p[at++] = 1;
    if (edns) {
        const uint8_t opt[11] = {0, 0, 41, (uint8_t)(edns >> 8), (uint8_t)edns};
        memcpy(p + at, opt, sizeof(opt));
        at += sizeof(opt);
    }
    return at;
}

static struct sq_dns_rule *rule(const char *text)
{
    cleanup_json json_t *o = json_loads(text, 0, NULL);
    struct sq_dns_rule *r = NULL;
    assert_non_null(o);
    assert_int_equal(sq_dns_rule_parse(o, &r, NULL), 0);
    return r;
}

static void questions(void **state)
{
    uint8_t p[512];
    struct sq_dns_question q;
    (void)state;
    size_t n = make(p, "Www.Example.ORG", 28, 0);
    assert_int_equal(sq_dns_question(p, n, &q), 0);
    assert_string_equal(q.name, "www.example.org");
    assert_int_equal(q.type, 28);
    assert_int_equal(q.class, 1);
    assert_int_equal(q.end, n);
    assert_false(q.edns);
    assert_int_equal(q.size, 512);
    n = make(p, "a", 1, 1232);
    assert_int_equal(sq_dns_question(p, n, &q), 0);
    assert_true(q.edns);
    assert_int_equal(q.size, 1232);
    n = make(p, "a", 1, 100); /* less than everybody must take */
    assert_int_equal(sq_dns_question(p, n, &q), 0);
    assert_int_equal(q.size, 512);
    n = make(p, "", 2, 0);
    assert_int_equal(sq_dns_question(p, n, &q), 0);
    assert_string_equal(q.name, "");
}

static void no_questions(void **state)
{
    uint8_t p[512];
    struct sq_dns_question q;
    (void)state;
    size_t n = make(p, "www.example.org", 1, 0);
    for (size_t i = 0; i < n; i++) { /* whatever is cut off */
        uint8_t *copy = malloc(i ? i : 1);
        memcpy(copy, p, i);
        assert_int_equal(sq_dns_question(copy, i, &q), -EBADMSG);
        free(copy);
    }
    p[2] |= 0x80; /* an answer */
    assert_int_equal(sq_dns_question(p, n, &q), -EBADMSG);
    p[2] = 0x29; /* an update */
    assert_int_equal(sq_dns_question(p, n, &q), -EBADMSG);
    p[2] = 1;
    p[5] = 2; /* two questions */
    assert_int_equal(sq_dns_question(p, n, &q), -EBADMSG);
    p[5] = 1;
    p[12] = 0xc0; /* a name that points at itself */
    p[13] = 12;
    assert_int_equal(sq_dns_question(p, n, &q), -EBADMSG);
    p[12] = 200; /* a label that is too long */
    assert_int_equal(sq_dns_question(p, n, &q), -EBADMSG);
}

static bool concerns(const char *text, const char *name, uint16_t type)
{
    cleanup_free struct sq_dns_rule *r = rule(text);
    uint8_t p[512];
    struct sq_dns_question q;
    assert_int_equal(sq_dns_question(p, make(p, name, type, 0), &q), 0);
    return sq_dns_concerns(r, &q);
}

static void names(void **state)
{
    const char *some = "{\"answer\":\"nxdomain\",\"names\":[\"Db.Test.\",\"*.deep\"],\"types\":[\"a\",\"SRV\"]}";
    (void)state;
    assert_true(concerns("{\"answer\":\"nxdomain\"}", "x", 99));
    assert_true(concerns(some, "dB.tEST", 1));
    assert_true(concerns(some, "x.deep", 33));
    assert_true(concerns(some, "a.x.deep", 1));
    assert_false(concerns(some, "deep", 1));
    assert_false(concerns(some, "xdeep", 1));
    assert_false(concerns(some, "db.test", 28));
    assert_false(concerns(some, "x.db.test", 1));
    assert_false(concerns("{\"answer\":\"wrong\",\"address\":[\"192.0.2.1\"]}", "x", 15));
    assert_true(concerns("{\"answer\":\"wrong\",\"address\":[\"192.0.2.1\"]}", "x", 28));
}

static size_t answer(const char *text, const char *name, uint16_t type, uint16_t edns, bool tcp, uint8_t *out)
{
    cleanup_free struct sq_dns_rule *r = rule(text);
    uint8_t p[512];
    struct sq_dns_question q;
    assert_int_equal(sq_dns_question(p, make(p, name, type, edns), &q), 0);
    size_t n = sq_dns_answer(r, &q, p, tcp, out, 4096);
    if (n > 0) {
        assert_memory_equal(out, p, 2);
        assert_memory_equal(out + 12, p + 12, q.end - 12);
        assert_int_equal(out[2] & 0x81, 0x81);
        assert_int_equal(out[11], edns > 0);
    }
    return n;
}

static void answers(void **state)
{
    uint8_t out[4096];
    (void)state;
    assert_int_equal(answer("{\"answer\":\"nxdomain\"}", "Ab", 1, 0, false, out), 12 + 4 + 4);
    assert_int_equal(sq_dns_rcode(out, 20), 3);
    assert_int_equal(answer("{\"answer\":\"servfail\"}", "Ab", 1, 4096, false, out), 12 + 4 + 4 + 11);
    assert_int_equal(sq_dns_rcode(out, 31), 2);
    assert_int_equal(answer("{\"answer\":\"timeout\"}", "a", 1, 0, false, out), 0);
    assert_int_equal(answer("{\"answer\":\"real\"}", "a", 1, 0, false, out), 0);
    assert_int_equal(answer("{\"answer\":\"wrong\",\"address\":[\"192.0.2.1\",\"::1\"]}", "a", 1, 0, false, out),
                     12 + 3 + 4 + 16);
    assert_int_equal(out[7], 1);
    assert_memory_equal(out + 12 + 3 + 4 + 12, ((uint8_t[]){192, 0, 2, 1}), 4);
}

static void long_answers(void **state)
{
    char text[1024] = "{\"answer\":\"wrong\",\"address\":[", name[250] = "";
    uint8_t out[4096];
    (void)state;
    for (int i = 0; i < 16; i++)
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s\"2001:db8::%d\"", i ? "," : "", i + 1);
    strcat(text, "]}");
    for (int i = 0; i < 4; i++)
        strcat(name, "123456789012345678901234567890123456789012345678901234567890.");
    size_t n = answer(text, name, 28, 0, false, out);
    assert_true(n <= 512);
    assert_int_equal(out[2] & 2, 2); /* cut off */
    assert_int_equal(out[7], 0);
    n = answer(text, name, 28, 4096, false, out);
    assert_int_equal(out[2] & 2, 0);
    assert_int_equal(out[7], 16);
    n = answer(text, name, 28, 0, true, out);
    assert_int_equal(out[7], 16);
}

static void wrong_rules(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"answer\":\"maybe\"}",
        "{\"answer\":\"wrong\"}",
        "{\"answer\":\"nxdomain\",\"address\":[\"192.0.2.1\"]}",
        "{\"answer\":\"wrong\",\"address\":[\"192.0.2\"]}",
        "{\"answer\":\"nxdomain\",\"names\":[\"\"]}",
        "{\"answer\":\"nxdomain\",\"names\":\"a\"}",
        "{\"answer\":\"nxdomain\",\"names\":[5]}",
        "{\"answer\":\"nxdomain\",\"types\":[\"B\"]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cleanup_json json_t *o = json_loads(bad[i], 0, NULL);
        struct sq_dns_rule *r = NULL;
        assert_non_null(o);
        assert_true(sq_dns_rule_parse(o, &r, NULL) < 0);
        assert_null(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions), cmocka_unit_test(no_questions), cmocka_unit_test(names),
        cmocka_unit_test(answers),   cmocka_unit_test(long_answers), cmocka_unit_test(wrong_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
