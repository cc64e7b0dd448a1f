/* Sockets of another network namespace: a real maker, in this one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proxy/px.h"

struct place {
    struct px px;
    struct px_space *space;
    pid_t maker;
};

static int begin(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    int sv[2], fds[4] = {-1, -1, -1, -1};

    assert_non_null(p);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    p->maker = fork();
    if (p->maker == 0) {
        (void)close(sv[0]);
        _exit(px_maker_run(sv[1]));
    }
    (void)close(sv[1]);
    p->px.wire.fd = -1;
    TAILQ_INIT(&p->px.spaces);
    fds[0] = sv[0];
    assert_int_equal(px_space_add(&p->px, 7, fds, sizeof(fds) / sizeof(fds[0])), 0);
    p->space = px_space_find(&p->px, 7);
    assert_non_null(p->space);
    *state = p;
    return 0;
}

static int end(void **state)
{
    struct place *p = *state;

    px_space_leave(p->space);
    assert_int_equal(waitpid(p->maker, NULL, 0), p->maker);
    free(p);
    return 0;
}

static void gives_sockets(void **state)
{
    static const struct {
        int family, type;
    } kinds[] = {{AF_INET, SOCK_STREAM}, {AF_INET6, SOCK_STREAM}, {AF_INET, SOCK_DGRAM}, {AF_INET6, SOCK_DGRAM}};
    struct place *p = *state;

    for (size_t i = 0; i < 4; i++)
        for (int n = 0; n < 3 * PX_MAKE_MOST; n++) {
            int fd = px_space_socket(p->space, kinds[i].family, kinds[i].type), v = 0;
            socklen_t len = sizeof(v);

            assert_true(fd >= 0);
            assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &v, &len), 0);
            assert_int_equal(v, kinds[i].family);
            assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &len), 0);
            assert_int_equal(v, kinds[i].type);
            (void)close(fd);
        }
}

/* Out of descriptors for a moment: a connection gets none, but those that come later do. */
static void outlives_a_full_table(void **state)
{
    struct place *p = *state;
    struct rlimit was, low;
    int next = dup(0), fd;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    low = was;
    low.rlim_cur = (rlim_t)next + 4;
    (void)close(next);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    fd = px_space_socket(p->space, AF_INET, SOCK_STREAM);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_true(fd < 0);
    assert_true(p->space->maker >= 0);
    fd = px_space_socket(p->space, AF_INET, SOCK_STREAM);
    assert_true(fd >= 0);
    (void)close(fd);
}

static void is_lost_with_its_maker(void **state)
{
    struct place *p = *state;

    (void)kill(p->maker, SIGKILL);
    assert_int_equal(px_space_socket(p->space, AF_INET, SOCK_STREAM), -ENETDOWN);
    assert_int_equal(p->space->maker, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_sockets, begin, end),
        cmocka_unit_test_setup_teardown(outlives_a_full_table, begin, end),
        cmocka_unit_test_setup_teardown(is_lost_with_its_maker, begin, end),
    };
    return cmocka_run_group_tests_name("proxy space", tests, NULL, NULL);
}
