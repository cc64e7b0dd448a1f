/* Sockets for datagrams where a firewall is against the addresses that those to ::1 come from: what cannot arrive is
 * waited for once, and found when it can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <spawn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "squall/clock.h"

#define MS INT64_C(1000000)

extern char **environ;

static bool nft(char *what)
{
    char *argv[] = {"nft", what, NULL};
    pid_t pid;
    int status;
    return posix_spawnp(&pid, "nft", NULL, NULL, argv, environ) == 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static bool enter_empty_namespace(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) < 0)
        return false;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0;
    (void)close(fd);
    return up;
}

/* How long it took; *GOT: there is one on ::1. */
static int64_t bind_once(bool *deaf6, bool *got)
{
    struct sq_err e = {0};
    uint16_t port, port6;
    int fd[2];
    int64_t from = sq_mono_ns();
    assert_int_equal(sq_dgram_bind(fd, &port, &port6, deaf6, &e), 0);
    int64_t took = sq_mono_ns() - from;
    *got = fd[1] >= 0;
    assert_true(*got == (port6 != 0));
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0)
            (void)close(fd[i]);
    return took;
}

static void test_firewall(void **state)
{
    char against[] = "table inet t { chain c { type filter hook input priority 0; ip6 saddr 100::/64 drop; }; }";
    char nothing[] = "flush ruleset";
    bool deaf6 = false, got;
    (void)state;
    if (geteuid() != 0 || !enter_empty_namespace() || !nft(against))
        skip();
    assert_true(bind_once(&deaf6, &got) >= 100 * MS);
    assert_true(deaf6 && !got);
    int64_t least = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        int64_t took = bind_once(&deaf6, &got);
        least = took < least ? took : least;
        assert_true(deaf6 && !got);
    }
    assert_true(least < 100 * MS);
    assert_true(nft(nothing));
    (void)bind_once(&deaf6, &got);
    assert_true(!deaf6 && got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_firewall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
