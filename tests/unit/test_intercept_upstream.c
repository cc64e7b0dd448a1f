/* The real Unix socket is connected with the rights of the run's user, never with squalld's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "intercept/priv.h"

#define SOMEBODY 65533

static int serve(char *dir, struct sq_dest *d, mode_t mode)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char text[128];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_non_null(mkdtemp(dir));
    assert_int_equal(chmod(dir, 0755), 0);
    (void)snprintf(text, sizeof(text), "unix:%s/s", dir);
    assert_int_equal(sq_dest_parse(text, d, NULL), 0);
    memcpy(a.sun_path, d->path, sizeof(a.sun_path));
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(chmod(a.sun_path, mode), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void end(int fd, const char *dir, const struct sq_dest *d)
{
    (void)close(fd);
    assert_int_equal(unlink(d->path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static uid_t peer_uid(int server)
{
    struct ucred c = {0};
    socklen_t len = sizeof(c);
    int fd = accept(server, NULL, NULL);

    assert_true(fd >= 0);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len), 0);
    (void)close(fd);
    return c.uid;
}

static void own_rights(void **state)
{
    char dir[] = "/tmp/squall-upstream-XXXXXX";
    struct sq_dest d;
    struct sq_edge edge = {.uid = geteuid(), .dest = &d, .n_dest = 1};
    int server = serve(dir, &d, 0600), fd = sq_upstream_connect(&edge, 0);

    (void)state;
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(peer_uid(server), geteuid());
    (void)close(fd);
    end(server, dir, &d);
    assert_int_equal(sq_upstream_connect(&edge, 0), -ENOENT);
}

static void their_rights(void **state)
{
    char dir[] = "/tmp/squall-upstream-XXXXXX", open_dir[] = "/tmp/squall-upstream-XXXXXX";
    struct sq_dest d;
    struct sq_edge edge = {.uid = SOMEBODY, .dest = &d, .n_dest = 1};
    int server, fd;

    (void)state;
    if (geteuid() != 0)
        skip();
    server = serve(dir, &d, 0600);
    assert_int_equal(sq_upstream_connect(&edge, 0), -EACCES);
    end(server, dir, &d);
    server = serve(open_dir, &d, 0666);
    fd = sq_upstream_connect(&edge, 0);
    assert_true(fd >= 0);
    assert_int_equal(peer_uid(server), SOMEBODY);
    (void)close(fd);
    end(server, open_dir, &d);
    assert_int_equal(geteuid(), 0);
}

static void no_unix(void **state)
{
    struct sq_edge edge = {.uid = geteuid()};

    (void)state;
    assert_int_equal(sq_upstream_connect(&edge, 0), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_rights),
        cmocka_unit_test(their_rights),
        cmocka_unit_test(no_unix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
