/* When connections may not be tracked for everybody (intercept/nft_room.c), with files as the kernel writes them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "intercept/nft_int.h"

static char dir[] = "/tmp/squall-test-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void room(void **state)
{
    struct sq_err e = {0};
    (void)state;
    assert_int_equal(sq_nat_room(dir, &e), 0); /* nothing is known */
    put("sys/net/netfilter/nf_conntrack_max", "1000\n");
    put("sys/net/netfilter/nf_conntrack_count", "0\n");
    put("net/sockstat", "sockets: used 900\nTCP: inuse 200 orphan 0 tw 150 alloc 210 mem 3\nUDP: inuse 9 mem 1\n");
    put("net/sockstat6", "TCP6: inuse 150\nUDP6: inuse 1\n");
    assert_int_equal(sq_nat_room(dir, &e), 0);
    put("net/sockstat6", "TCP6: inuse 151\nUDP6: inuse 1\n");
    assert_int_equal(sq_nat_room(dir, &e), -ENOSPC);
    assert_non_null(strstr(e.msg, "501 now"));
    assert_non_null(strstr(e.hint, "more than 1002"));
    put("net/sockstat6", "TCP6: inuse 0\n");
    put("sys/net/netfilter/nf_conntrack_count", "800\n"); /* of others, that are forwarded */
    assert_int_equal(sq_nat_room(dir, &e), -ENOSPC);
}

static int set_up(void **state)
{
    static const char *const below[] = {"net", "sys", "sys/net", "sys/net/netfilter"};
    char path[128];
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, below[i]);
        if (mkdir(path, 0700) < 0)
            return -1;
    }
    return 0;
}

static int clean_up(void **state)
{
    static const char *const all[] = {"sys/net/netfilter/nf_conntrack_max",
                                      "sys/net/netfilter/nf_conntrack_count",
                                      "net/sockstat",
                                      "net/sockstat6",
                                      "sys/net/netfilter",
                                      "sys/net",
                                      "sys",
                                      "net",
                                      ""};
    char path[128];
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, all[i]);
        (void)remove(path);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(room)};
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
